"""Going on with a run: from its folder to the command that made it, and on to what has changed since."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

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
    quoted = str(folder).replace("'", "\\'")
    others = [argument for argument in given if not argument.startswith((KEY, "hydra.run.dir="))]
    # A key that is added once more cannot be there already.
    again = {_key(argument) for argument in others if argument.startswith("+")}
    began, config_dir = _beginning(folder)
    began = [override for override in began if _key(override) not in again]
    options = [] if config_dir is None or "--config-dir" in given else ["--config-dir", config_dir]
    return [*options, *began, *others, f"hydra.run.dir='{quoted}'", f"{KEY}'{quoted}'"]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def changes(before: DictConfig, now: DictConfig) -> list[str]:
    """What differs between two configurations, `key: before -> now`, but for `resume` itself."""
    old, new = dict(_leaves(OmegaConf.to_container(before))), dict(_leaves(OmegaConf.to_container(now, resolve=True)))
    keys = [key for key in {**old, **new} if key != "resume" and old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'not there')} -> {new.get(key, 'not there')}" for key in keys]


def circumstances(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two manifests and may change the last bits: threads, device, machine, versions."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    keys = [key for key in new if key.startswith(("threads", "device", "platform", "versions.", "git."))]
    return [f"{key}: {old[key]} -> {new[key]}" for key in keys if key in old and old[key] != new[key]]


def _beginning(folder: Path) -> tuple[list[str], str | None]:
    """Overrides of the command that a run goes by, and the folder of the user's own configuration."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return [str(override) for override in manifest["overrides"]], manifest["config_dir"]
    except (OSError, TypeError, ValueError, KeyError):
        raise CheckpointError(f"resume: {folder} holds no run. Name the folder that has manifest.json in it.") from None


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
