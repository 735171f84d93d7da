"""Finds environments in Gymnasium's registry, and explains why one is missing or cannot be built."""

import difflib
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from seqrl.errors import EnvError, line_of, message_of
from seqrl.packages import fault_of_module


def find(id: str) -> EnvSpec:
    """Spec registered as `id`, such as Acrobot-v1, or module:Env-v0 to import the module first."""
    module, _, name = id.rpartition(":")
    if module and (fault := fault_of_module(module)):
        raise EnvError(f"env.id: {fault}")
    if spec := gymnasium.registry.get(name):
        return spec
    close = difflib.get_close_matches(name, gymnasium.registry, n=3, cutoff=0.8)
    hint = f" Did you mean {' or '.join(close)}?" if close else f" {_registered_by(module)}" if module else ""
    remedy = "" if module else f" If a package registers it, name its module: env.id=module:{name}."
    raise EnvError(f"env.id: no environment is registered as {name!r}.{hint}{remedy}")


def draws_itself(id: str) -> bool:
    """Whether an environment supports render_mode rgb_array. Raises EnvError if no environment is called `id`."""
    spec = find(id)
    try:
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    except MISSING_PACKAGE:
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
    # With arguments, their values may be wrong; without, one can only be missing.
    argument_errors = (TypeError, ValueError, KeyError) if kwargs else (TypeError,)
    try:
        yield
    except MISSING_PACKAGE as error:
        hint = "" if "install " in message_of(error) else " Install it."
        raise EnvError(f"env.id: {id} needs a package that is missing: {_line(error)}.{hint}") from error
    except gymnasium.error.Error as error:
        raise EnvError(f"env.id: {id} cannot be built: {_line(error)}.") from error
    except argument_errors as error:
        if not kwargs and not _is_of_call(error):
            raise EnvError(
                f"env.id: {id} cannot be built: {type(error).__name__}: {_line(error)}{line_of(error)}. "
                "Fix the environment."
            ) from error
        where = line_of(error) if isinstance(error, TypeError) else ""
        raise EnvError(
            f"env.kwargs: {id} does not accept {dict(kwargs)}: {type(error).__name__}, {_line(error)}"
            f"{where}. Pass what its constructor takes: +env.kwargs.name=value."
        ) from error


def _is_of_call(error: Exception) -> bool:
    """Whether Gymnasium's call of a constructor raised it, and not the constructor."""
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
    return "environment creator" in str(error) and Path(frames[-1].filename).is_relative_to(GYMNASIUM)


def _line(error: Exception) -> str:
    """First line of an error message, without the context that Gymnasium adds."""
    return message_of(error).strip().split("\n")[0].split(" was raised from the environment creator")[0].rstrip(".")
