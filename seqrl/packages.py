"""Optional packages: whether they are installed, and how to install them."""

import difflib
import importlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from seqrl.errors import ConfigError, described
from seqrl.machine import is_from_signal

# Environment modules, and the extras of seqrl that install them.
EXTRAS = {"popgym": "popgym", "minigrid": "minigrid", "ale_py": "atari"}


def is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def how_to_install(extra: str, several: bool = False) -> str:
    return f"Install {'them' if several else 'it'}: pip install 'seqrl[{extra}]'."


def insist_on_temporary_files() -> None:
    """Raise ConfigError if no folder for them can be written, as in a read-only container: packages need one."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        why = "no folder for temporary files can be written. Name one that can be: TMPDIR=<folder>."
        raise ConfigError([f"TMPDIR: {why}"]) from error


@contextmanager
def without_arguments() -> Iterator[None]:
    """Hide the run's arguments from modules that read a command line of their own when they are imported."""
    ours = sys.argv
    sys.argv = ours[:1]
    try:
        yield
    finally:
        sys.argv = ours


def _global_hydra() -> Any:
    """Hydra's only state for the whole process, if Hydra was imported."""
    module = sys.modules.get("hydra.core.global_hydra")
    return None if module is None else module.GlobalHydra.instance()


# What Hydra was at before the first environment was built, in a list once that is known.
_hydra_at_first: list[Any] = []


def release_hydra() -> None:
    """Leave Hydra to the user's modules and environments, which may compose configurations of their own.

    For once the run's own is composed: Hydra serves one application at a time.
    """
    if state := _global_hydra():
        # The next run in this process finds what its module had made of it.
        state.hydra = _hydra_at_first[0] if _hydra_at_first else None
        _hydra_at_first.clear()


def same_hydra_for_each() -> None:
    """Have each environment find Hydra as the first did: it may initialize it, as if it were alone, and leave it so."""
    if state := _global_hydra():
        if not _hydra_at_first:
            _hydra_at_first.append(state.hydra)
        state.hydra = _hydra_at_first[0]


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
