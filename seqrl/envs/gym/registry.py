"""Finds environments in Gymnasium's registry, and explains why one is missing or cannot be built."""

import difflib
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from seqrl.envs.gym.calls import Guard, OverdueError, is_own_fault
from seqrl.errors import (
    EnvError,
    FaultyEnvError,
    MissingPackageError,
    RaisedError,
    first_line,
    line_of,
    names_environment,
    raised,
)
from seqrl.machine import is_from_signal
from seqrl.packages import fault_of_module, without_arguments


def find(id: str, guard: Guard | None = None) -> EnvSpec:
    """Spec registered as `id`, such as Acrobot-v1, or module:Env-v0 to import the module first, within a guard."""
    module, _, name = id.rpartition(":")
    guard = guard or Guard()
    with guard.importing():
        fault = fault_of_module(module) if module else None
        if guard.overdue:
            assert guard.seconds is not None
            overdue = OverdueError(guard.seconds)
            raise FaultyEnvError(f"env.id: the module {module!r}: {overdue}. Fix it, or raise the limit.")
        if fault:
            raise EnvError(f"env.id: {fault}")
    if spec := gymnasium.registry.get(name):
        return spec
    close = difflib.get_close_matches(name, gymnasium.registry, n=3, cutoff=0.8)
    # All but Gymnasium's own are known once their module is imported.
    is_own = [module and not _home(gymnasium.registry[it]).startswith("gymnasium.") for it in close]
    meant = [f"{module}:{it}" if own else it for it, own in zip(close, is_own, strict=True)]
    hint = f" {_registered_by(module)}" if module else ""
    if meant:
        hint = f" Did you mean {' or '.join(meant)}?"
    remedy = "" if module else f" If a package registers it, name its module: env.id=module:{name}."
    raise EnvError(f"env.id: no environment is registered as {name!r}.{hint}{remedy}")


def draws_itself(id: str) -> bool:
    """Whether an environment supports render_mode rgb_array. Raises EnvError if no environment is called `id`."""
    spec = find(id)
    try:
        with Guard().importing(), without_arguments():
            creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    except (*MISSING_PACKAGE, SystemExit) as error:
        if is_from_signal(error):
            raise
        # Building the environment reports this.
        return False
    metadata = getattr(creator, "metadata", None)
    modes = metadata.get("render_modes") if isinstance(metadata, dict) else None
    return isinstance(modes, list | tuple | set) and "rgb_array" in modes


def _registered_by(module: str) -> str:
    """A sentence about what a module registers."""
    ids = [id for id, spec in gymnasium.registry.items() if f"{_home(spec)}.".startswith(f"{module}.")]
    if not ids:
        return f"{module} registers no environments: call gymnasium.register(id, entry_point=…) in it."
    return f"{module} registers {', '.join(ids[:5])}{' and more' if len(ids) > 5 else ''}."


def _home(spec: EnvSpec) -> str:
    if isinstance(spec.entry_point, str):
        return spec.entry_point.partition(":")[0]
    return str(getattr(spec.entry_point, "__module__", ""))


GYMNASIUM = Path(gymnasium.__file__).parent
MISSING_PACKAGE = (ImportError, gymnasium.error.DependencyNotInstalled)


@contextmanager
def explained(id: str, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Turn errors raised while an environment is built into an EnvError."""
    try:
        # Its module may be imported only now.
        with without_arguments():
            yield
    except (OverdueError, MemoryError):
        raise
    except Exception as error:
        # Any other of seqrl's own is the environment's too, which may load a policy; but not what a signal raises.
        if names_environment(error) or not is_own_fault(error):
            raise
        told = raised(error)
        raise _fault_of(id, kwargs, error, told) from told


def _fault_of(id: str, kwargs: Mapping[str, Any], error: Exception, told: RaisedError) -> EnvError:
    line = _line(told)
    if isinstance(error, MISSING_PACKAGE):
        hint = "" if "install " in told.said else " Install it."
        return MissingPackageError(f"env.id: {id} needs a package that is missing: {line}.{hint}")
    if isinstance(error, gymnasium.error.Error):
        return EnvError(f"env.id: {id} cannot be built: {line}.")
    # With arguments, their values may be wrong; without, one can only be missing.
    is_of_arguments = isinstance(error, TypeError | ValueError | KeyError) if kwargs else _is_of_call(error, told)
    if not is_of_arguments:
        said = f"{type(error).__name__}: {line}" if line else type(error).__name__
        return EnvError(f"env.id: {id} cannot be built: {said}{line_of(error)}. Fix the environment.")
    where = line_of(error) if isinstance(error, TypeError) else ""
    return EnvError(
        f"env.kwargs: {id} does not accept {dict(kwargs)}: {type(error).__name__}, {line}"
        f"{where}. Pass what its constructor takes: +env.kwargs.name=value."
    )


def _is_of_call(error: Exception, told: RaisedError) -> bool:
    """Whether Gymnasium's call of a constructor raised it, and not the constructor."""
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
    is_call = isinstance(error, TypeError) and "environment creator" in told.said
    return is_call and Path(frames[-1].filename).is_relative_to(GYMNASIUM)


def _line(told: RaisedError) -> str:
    """First line of an error message, without the context that Gymnasium adds."""
    return first_line(told.said.split(" was raised from the environment creator")[0])
