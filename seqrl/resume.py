"""Going on with a run: from its folder to the command that made it, and on to what has changed since."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from seqrl.errors import CheckpointError

KEY = "resume="


def arguments(given: list[str]) -> list[str]:
    """The same command line; with `resume=<run folder>`, behind the choices that began that run, and in its folder.

    Raises CheckpointError if the folder holds no run.
    """
    named = [argument.removeprefix(KEY) for argument in given if argument.startswith(KEY)]
    if not named or named[-1] in ("", "null"):
        return given
    folder = Path(named[-1].strip("'\"")).resolve()
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    others = [argument for argument in given if not argument.startswith((KEY, "hydra.run.dir="))]
    return [*_choices(folder), *others, f"hydra.run.dir='{quoted}'", f"{KEY}'{quoted}'"]


def changes(before: DictConfig, now: DictConfig) -> list[str]:
    """What differs between two configurations, `key: before -> now`, but for `resume` itself."""
    old, new = dict(_leaves(OmegaConf.to_container(before))), dict(_leaves(OmegaConf.to_container(now, resolve=True)))
    keys = [key for key in {**old, **new} if key != "resume" and old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'not there')} -> {new.get(key, 'not there')}" for key in keys]


def _choices(folder: Path) -> list[str]:
    """Overrides of the command that began the run."""
    try:
        overrides = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
        began = [str(override) for override in overrides or []]
    except (OSError, ValueError, YAMLError):
        raise CheckpointError(f"resume: {folder} holds no run. Name the folder that has manifest.json in it.") from None
    return [override for override in began if not override.startswith(KEY)]


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
