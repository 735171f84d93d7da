"""What the files in conf/ can compute, `${name:arguments}`, and how Hydra learns of the schemas."""

import hashlib
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError
from omegaconf.resolvers import oc

from seqrl.config.naming import run_name
from seqrl.config.paths import CONF, choices
from seqrl.config.schema import OPEN, SCHEMAS
from seqrl.files import json_of, read_text
from seqrl.machine import processes_started
from seqrl.text import one_line, read_decoded, read_environment

NO_DEFAULT: Any = object()
# What a folder's name does not hold: a shell or a file system may mind it, Hydra replace it, or a terminal obey it.
UNFIT = re.compile(r"[^\w.=,+-]+", re.ASCII)


def learns_sequences(enabled: object, use_lstm: object) -> bool:
    """The rule that selects the algorithm: learn sequences if that is enabled and the network has an LSTM.

    `use_lstm` says so of every memory that gradients can follow, an LSTM or another cell.

    Raises ValueError for anything but booleans: Hydra reads `off` and `yep` as text, and text is truthy.
    """
    for key, value in (("sequence_learning.enabled", enabled), ("network.use_lstm", use_lstm)):
        if not isinstance(value, bool):
            raise ValueError(f"{key}: is neither true nor false (got {value!r})")
    return bool(enabled and use_lstm)


def by_sequences(yes: Any, no: Any, *, _root_: DictConfig) -> Any:
    """`yes` if the run learns sequences, else `no`."""
    # A network that does not say whether it has an LSTM remembers in another way.
    has_memory = OmegaConf.select(_root_, "network.use_lstm", default=True)
    return yes if learns_sequences(_root_.sequence_learning.enabled, has_memory) else no


def default_episodes(total_steps: int | None) -> int | None:
    """Training episodes where none are given: no limit beside that of the steps, if there is one."""
    return 50 if total_steps is None else None


def default_rollout_steps(total_steps: int | None) -> int:
    """Steps of a rollout of whole episodes; with a budget of episodes alone, each of them is a rollout of its own."""
    return 1 if total_steps is None else 2048


def default_rollout_rewards(rollout_steps: int) -> int:
    """Rewards of a rollout of whole episodes; none where each episode is to be a rollout of its own."""
    return 0 if rollout_steps == 1 else 64


def folder_name(overrides: str, most: int = 240) -> str:
    """Overrides as a part of a folder's name, at most so long: nothing that a shell or a file system minds."""
    name = UNFIT.sub("-", overrides).rstrip("-")
    # What is cut off makes the difference between two points.
    return name if len(name) <= most else f"{name[: most - 9]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def point_folder(sweep: str, number: int, name: str, overrides: Sequence[str]) -> str:
    """Name of a point's folder: its number and what is swept, or the name that it has if the sweep was begun before.

    A sweep may have grown since, and its points may have other numbers.
    """
    mine = sorted(OmegaConf.to_container(overrides, resolve=False) if OmegaConf.is_list(overrides) else overrides)  # type: ignore[arg-type]
    for path in sorted(Path(sweep).glob("*/manifest.json")):
        # It may be anybody's.
        if UNFIT.search(path.parent.name):
            continue
        with suppress(OSError, ValueError, KeyError, TypeError):
            if sorted(json_of(read_text(path))["overrides"]) == mine:
                return path.parent.name
    return f"{number}_{folder_name(name)}".rstrip("_")


def own_choices(sources: Sequence[Mapping[str, str]]) -> str:
    """What a folder of the user's own adds to the groups, or how to have one."""
    folders = [Path(source["path"]) for source in sources if source["provider"] == "command-line"]
    files = sorted(file.relative_to(folder) for folder in folders for file in folder.glob("*/**/*.yaml"))
    # The terminal obeys what a name may hold.
    added = [one_line(f"{file.parent.as_posix()}={file.stem}") for file in files]
    return ", ".join(added) or "a file each, in a folder that --config-dir names"


def env(name: str, default: str | None = NO_DEFAULT) -> str | None:
    """OmegaConf's own oc.env, which remembers what it has read."""
    if default is NO_DEFAULT and name not in os.environ:
        raise InterpolationResolutionError(f"the variable {name} is not set; set it for this command")
    value = oc.env(name, default)
    if name in os.environ:
        read_environment(name, os.environ[name])
    return value


def decode(text: str | None, *, _parent_: Any, _node_: Any) -> Any:
    """OmegaConf's own oc.decode, which remembers what it has read from the system's environment."""
    value = oc.decode(text, _parent_, _node_)
    if text is not None:
        read_decoded(text, value)
    return value


def create(config: Any, *, _parent_: Any) -> Any:
    """OmegaConf's own oc.create, which remembers what it has read from the system's environment."""
    value = oc.create(config, _parent_)
    if isinstance(config, str):
        read_decoded(config, OmegaConf.to_container(value, resolve=False))
    return value


def choices_of(group: str) -> str:
    """The files of a group, the default first, for a help text."""
    return ", ".join(_default_first(group, choices(group)))


def built_in_tasks() -> list[str]:
    """The files of group env that set a task of seqrl's own."""
    files = {name: _read(CONF / "env" / f"{name}.yaml") for name in choices("env")}
    return [name for name, keys in files.items() if not any("gymnasium" in str(it) for it in keys["defaults"])]


def tasks(built_in: bool) -> str:
    """The files of group env that are built in, or that are not, for a help text."""
    names = [name for name in choices("env") if (name in built_in_tasks()) is built_in]
    return textwrap.fill(", ".join(_default_first("env", names)), 90, break_on_hyphens=False).replace(
        "\n", "\n" + 16 * " "
    )


def _default_first(group: str, names: list[str]) -> list[str]:
    defaults = [it[group] for it in _read(CONF / "config.yaml")["defaults"] if isinstance(it, dict) and group in it]
    first = defaults[0] if isinstance(defaults[0], list) else defaults
    return sorted(names, key=lambda name: name not in first)


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def register() -> None:
    """Make the schemas and the resolvers known to Hydra and OmegaConf; again does no harm."""
    resolvers: dict[str, Callable[..., Any]] = {
        "oc.env": env,
        "oc.decode": decode,
        "oc.create": create,
        "by_sequences": by_sequences,
        "default_episodes": default_episodes,
        "processes": processes_started,
        "default_rollout_steps": default_rollout_steps,
        "default_rollout_rewards": default_rollout_rewards,
        "folder_name": folder_name,
        # The time comes before it.
        "run_name": lambda *, _root_: folder_name(run_name(_root_), 200),
        "point_folder": point_folder,
        # It takes no folder: a configuration could name any.
        "own_choices": lambda *, _root_: own_choices(_root_.hydra.runtime.config_sources),
        "choices_of": choices_of,
        "tasks": tasks,
        # Files that were copied from seqrl 0.1.0 name these.
        "learns_sequences": learns_sequences,
        "choose": lambda condition, yes, no: yes if condition else no,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        # Where keys may be added, `faults` finds those that nobody knows.
        node = OmegaConf.structured(schema, flags={"struct": False} if name in OPEN else None)
        store.store(group="schema", name=name, node=node)
