"""Runs read from disk, and what was varied between them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from seqrl.errors import ConfigError
from seqrl.runs.manifest import facts_of, is_held
from seqrl.text import dotted

Array = NDArray[np.float64]
# Keys in which runs may differ and still belong to the same configuration of a sweep.
INCIDENTAL = ("seed", "resume", "validate", "trust", "logger", "checkpoint_", "evaluation", "hydra", "sweep")
# Keys of an environment that do not change its task.
HOW_IT_IS_PLAYED = ("env._target_", "env.backend", "env.timeout_seconds")
# Keys whose values follow from another key, from the number of parallel jobs, or from a measurement.
DERIVED = (
    "env.backend",
    "algorithm.gradient_threads",
    "algorithm.learners",
    "algorithm.bptt_length",
    "algorithm.grad_clip_norm",
)


@dataclass(frozen=True)
class RunRecord:
    """One run, finished or not.

    status       running, finished, interrupted, failed, killed, or pruned by a search
    settings     its configuration, by dotted key
    overrides    of its command line, by key
    facts        from manifest.json
    returns      [rows] mean training return of the latest episodes, after env_steps [rows] and seconds [rows]
    norms        [rows] of the gradients
    clipped      share of its gradients that were clipped
    """

    folder: Path
    status: str
    settings: dict[str, Any]
    overrides: dict[str, str]
    facts: dict[str, Any]
    env_steps: Array
    returns: Array
    seconds: Array
    norms: Array
    clipped: float
    steps_per_second: float
    peak_memory_mb: float

    @property
    def seed(self) -> int:
        return int(self.settings.get("seed") or self.overrides.get("seed") or 0)

    @property
    def score(self) -> float:
        """Mean return of the final policy in its evaluation; until then, of the latest training episodes."""
        if self.facts.get("result") is not None and self.status == "finished":
            return float(self.facts["result"])
        return float(self.returns[-1]) if len(self.returns) else np.nan

    @property
    def diverged(self) -> bool:
        """Whether its loss or gradient became, and stayed, non-finite."""
        return "NotFiniteError" in str(self.facts.get("error", ""))

    def first(self, threshold: float, of: Array) -> float:
        """Entry of `of` [rows] where the training return first reaches a threshold; infinite if it never does."""
        reached = np.flatnonzero(self.returns >= threshold)
        return float(of[reached[0]]) if len(reached) else np.inf

    @cached_property
    def fingerprint(self) -> bytes:
        """Equal for runs that are identical to the last digit; unique for a run without curves."""
        if not len(self.norms):
            return str(self.folder).encode()
        return b"".join(curve.tobytes() for curve in (self.env_steps, self.returns, self.norms))

    def value(self, key: str) -> Any:
        """Its value of a key, or its choice for a group."""
        value = self.settings.get(key, self.overrides.get(key, "default"))
        return value if isinstance(value, int | float | str | None) else str(value)


def find(folders: Iterable[Path]) -> list[RunRecord]:
    """All runs in some folders, at any depth.

    Raises ConfigError if there are none.
    """
    run_folders: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(
                [f"report: {folder} is not a folder. Name one that holds runs, such as outputs/sweeps/<name>."]
            )
        for path in sorted(folder.rglob("manifest.json"), key=_in_order):
            # A folder may be named twice.
            run_folders.setdefault(path.parent.resolve(), path.parent)
    runs = [run for folder in run_folders.values() if (run := read(folder))]
    if not runs:
        named = ", ".join(map(str, folders))
        raise ConfigError([f"report: there are no runs in {named}. Name a folder written by `python -m seqrl.train`."])
    return runs


def read(folder: Path) -> RunRecord | None:
    """The run in a folder; None if it has not started."""
    facts = facts_of(folder)
    if "status" not in facts:
        return None
    # A run that failed while being built has no configuration, only overrides.
    settings: dict[str, Any] = {}
    with suppress(OSError, ValueError, AttributeError, yaml.YAMLError):
        settings = dict(dotted(yaml.safe_load((folder / "config.yaml").read_text())))
    overrides = dict(_split(override) for override in facts.get("overrides", []))
    rows = [row for row in lines_of(folder / "metrics.jsonl") if row.get("rollout/return_mean") is not None]
    last = rows[-1] if rows else {}
    status = facts["status"]
    if status == "running" and not is_held(folder):
        status = "killed"
    return RunRecord(
        folder=folder,
        status=status,
        settings=settings,
        overrides=overrides,
        facts=facts,
        env_steps=_column(rows, "env_steps"),
        returns=_column(rows, "rollout/return_mean"),
        seconds=_column(rows, "time/elapsed_seconds"),
        norms=_column(rows, "train/gradient_norm"),
        clipped=_mean(_column(rows, "train/gradient_clipped")),
        steps_per_second=facts.get("steps_per_second") or last.get("time/steps_per_second", np.nan),
        peak_memory_mb=facts.get("peak_memory_mb") or last.get("memory/peak_mb", np.nan),
    )


def by_task(runs: list[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs grouped by the name of their task, as returns of different tasks are not comparable."""
    tasks: dict[tuple[tuple[str, Any], ...], list[RunRecord]] = defaultdict(list)
    for run in runs:
        of_task = {key: str(value) for key, value in run.settings.items() if key.startswith("env.")}
        tasks[tuple((key, value) for key, value in of_task.items() if key not in HOW_IT_IS_PLAYED)].append(run)
    keys = dict.fromkeys(key for run in runs for key in (*run.overrides, *run.settings) if _names_task(key))
    named = [key for key in keys if len({str(task[0].value(key)) for task in tasks.values()}) > 1]
    if any(key in run.overrides for key in named for run in runs):
        named = [key for key in named if any(key in run.overrides for run in runs)]
    by_name: dict[str, list[RunRecord]] = {}
    for task in tasks.values():
        name = " ".join(f"{short(key)} {task[0].value(key)}" for key in named)
        by_name[f"{name} ({len(by_name) + 1})" if name in by_name else name] = task
    return by_name


def _names_task(key: str) -> bool:
    return (key in ("env", "experiment") or key.startswith("env.")) and key not in HOW_IT_IS_PLAYED


class Study:
    """Runs, grouped by what was varied between them.

    keys     swept keys, without the seed
    groups   runs of each configuration, by the values of the keys
    """

    def __init__(self, runs: list[RunRecord]) -> None:
        self.runs = runs
        self.keys = swept(runs)
        groups: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
        for run in runs:
            groups[self.point(run)].append(run)
        self.groups = dict(sorted(groups.items(), key=lambda item: self._rank(item[0])))

    def point(self, run: RunRecord) -> tuple[Any, ...]:
        return tuple(run.value(key) for key in self.keys)

    def levels(self, key: str) -> list[Any]:
        """Values of a key, in order."""
        return sorted({run.value(key) for run in self.runs}, key=lambda value: rank(key, value))

    def _rank(self, point: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return [rank(key, value) for key, value in zip(self.keys, point, strict=True)]


def swept(runs: list[RunRecord]) -> list[str]:
    """Keys that distinguish configurations: overrides first, then whatever else differs where those agree."""
    overridden = list(dict.fromkeys(key for run in runs for key in run.overrides if not key.startswith(INCIDENTAL)))
    keys = [key for key in overridden if len({run.value(key) for run in runs}) > 1]
    while True:
        alike: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
        for run in runs:
            alike[tuple(run.value(key) for key in keys)].append(run)
        apart = next((key for group in alike.values() for key in _differing(group)), None)
        if apart is None:
            return keys
        keys.append(apart)


def rank(key: str, value: Any) -> tuple[Any, ...]:
    """Sort key of a value among those of its key: numbers first, by size; a bptt_length of 0 is the longest."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, np.inf if key.endswith("bptt_length") and value == 0 else value, "")
    return (1, 0.0, str(value))


def short(key: str) -> str:
    """The last word of a dotted key."""
    return key.rpartition(".")[2]


def _differing(group: list[RunRecord]) -> Iterator[str]:
    for key in group[0].settings:
        if not key.startswith((*INCIDENTAL, *DERIVED)) and len({run.value(key) for run in group}) > 1:
            yield key


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSONL file, if it exists."""
    with suppress(OSError):
        for line in path.read_text().splitlines():
            # The last line may be incomplete.
            with suppress(ValueError):
                yield json.loads(line)


def _mean(values: Array) -> float:
    """Mean of the known values."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _column(rows: list[dict[str, Any]], name: str) -> Array:
    values = [row.get(name) for row in rows]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value


def _in_order(manifest: Path) -> tuple[str, int, str]:
    name = manifest.parent.name
    number = name.partition("_")[0]
    return str(manifest.parent.parent), int(number) if number.isdigit() else 0, name
