"""Optional packages: whether they are installed, and how to install them."""

import difflib
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from seqrl.errors import described
from seqrl.machine import is_from_signal

# Environment modules, and the extras of seqrl that install them.
EXTRAS = {"popgym": "popgym", "minigrid": "minigrid", "ale_py": "atari"}


def is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def how_to_install(extra: str) -> str:
    return f"Install it: pip install 'seqrl[{extra}]'."


@contextmanager
def without_arguments() -> Iterator[None]:
    """Hide the run's arguments from modules that read a command line of their own when they are imported."""
    ours = sys.argv
    sys.argv = ours[:1]
    try:
        yield
    finally:
        sys.argv = ours


def fault_of_module(module: str) -> str | None:
    """Why a module cannot be imported, and what to do; None if it can."""
    try:
        with without_arguments():
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            return f"the module {module!r} cannot be imported: {error}. Install what it needs."
        if module.endswith(".py"):
            return f"there is no module {module!r}. Name it without .py."
        how = (
            how_to_install(EXTRAS[module]) if module in EXTRAS else "Install it, or check the spelling and PYTHONPATH."
        )
        return f"there is no module {module!r}. {how}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or is_from_signal(error):
            raise
        if isinstance(error, SystemExit):
            said = f"the module {module!r} exits when it is imported ({described(error)})"
            return f"{said}. Let it do so only where __name__ == '__main__'."
        return f"the module {module!r} cannot be imported: {described(error)}. Fix it."
    return None


def fault_of_target(target: str) -> str | None:
    """Why module.name does not exist, and what to do; None if it does."""
    module, _, name = target.rpartition(".")
    if fault := fault_of_module(module):
        return fault
    names = vars(importlib.import_module(module))
    if name in names:
        return None
    close = difflib.get_close_matches(name, names, n=1)
    return f"{module} has no {name}." + (f" Did you mean {close[0]}?" if close else " Check its spelling.")
