"""Going on with a run: from its folder to the command that made it, and on to what has changed since.

A folder may come from somebody else: it chooses values, never what is imported or where configuration is read.
"""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from seqrl.errors import CheckpointError, ConfigError
from seqrl.trust import public

KEY = "resume="
# Keys that decide nothing of what is learned.
NO_MATTER = re.compile(r"(resume|trust|logger)(\.|$)")


def arguments(given: list[str]) -> list[str]:
    """The same command line; with `resume=<run folder>`, behind the choices that began that run, and in its folder.

    Raises CheckpointError if the folder holds no run, ConfigError if it needs configuration that is not named again.
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
    if config_dir is not None and not any(word.startswith(("--config-dir", "-cd")) for word in given):
        raise ConfigError([f"resume: this run used files of your own. Name them again, --config-dir {config_dir}"])
    began = [override for override in began if _key(override) not in again and _is_choice(override)]
    return [*began, *others, f"hydra.run.dir='{quoted}'", f"{KEY}'{quoted}'"]


def how_to_go_on(folder: Path, trusted: Collection[str], config_dir: str | None) -> str:
    """The arguments that go on with a run."""
    words = [f"resume={folder}"]
    words += [f"trust=[{','.join(trusted)}]"] if trusted else []
    words += [f"--config-dir {config_dir}"] if config_dir else []
    return " ".join(words)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _is_choice(override: str) -> bool:
    """Whether it chooses a value or a group of a run: no option, nothing of Hydra's own, nothing to trust."""
    return not (override.startswith("-") or re.match(r"(hydra|trust|resume)\b", _key(override)))


def changes(before: DictConfig, now: DictConfig) -> list[str]:
    """What differs between two configurations that were saved, `key: before -> now`, and makes it another run."""
    old, new = dict(_leaves(OmegaConf.to_container(before))), dict(_leaves(OmegaConf.to_container(now)))
    keys = [key for key in {**old, **new} if not NO_MATTER.match(key) and old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'not there')} -> {new.get(key, 'not there')}" for key in keys]


def keep_backend(before: DictConfig, now: DictConfig) -> None:
    """Where `now` leaves env.backend open, take what plays already, if the environments are the same."""
    other = [change for change in changes(before, public(now)) if re.match(r"env\.(?!backend:)", change)]
    if now.env.get("backend") == "auto" and not other:
        now.env.backend = before.env.get("backend", "auto")


def circumstances(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two manifests and may change the last bits: threads, device, machine, versions."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    keys = [key for key in new if key.startswith(("threads", "device", "platform", "versions.", "git."))]
    return [f"{key}: {old[key]} -> {new[key]}" for key in keys if key in old and old[key] != new[key]]


def _beginning(folder: Path) -> tuple[list[str], str | None]:
    """Overrides of the command that a run goes by, and the folder of the user's own configuration."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        began = [*manifest["overrides"], *manifest.get("implied", [])]
        return list(map(str, began)), manifest["config_dir"]
    except (OSError, TypeError, ValueError, KeyError):
        raise CheckpointError(f"resume: {folder} holds no run. Name the folder that has manifest.json in it.") from None


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
