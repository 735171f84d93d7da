"""Packages that not everyone needs, and the extra of seqrl that brings each."""

from importlib.util import find_spec


def is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def remedy(extra: str) -> str:
    return f"Install it: pip install 'seqrl[{extra}]'."
