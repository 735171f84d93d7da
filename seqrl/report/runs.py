"""Runs read from disk, and what was varied between them."""

import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from seqrl.config.begun import BEFORE_THE_KEY, leaving_out, run_folders
from seqrl.config.naming import HOW_IT_IS_PLAYED, task_name
from seqrl.errors import ConfigError
from seqrl.files import fault, json_of, lines, read_yaml
from seqrl.run.manifest import KINDS, is_number, standing
from seqrl.text import cut, dotted, free, one_line, printable

Array = NDArray[np.float64]
# Keys in which runs may differ and still belong to the same configuration of a sweep.
INCIDENTAL = (
    *("seed", "name", "resume", "validate", "trust", "logger", "checkpoint_", "hydra", "sweep"),
    *(f"evaluation.{key}" for key in ("episodes", "interval", "memoryless_control")),
)
# The same; and its class, as runs of one task may have been played by several.
OF_NO_TASK = ("env._target_", *(f"env.{key}" for key in HOW_IT_IS_PLAYED))
# Keys whose values follow from another key, from the number of parallel jobs, or from a measurement.
DERIVED = (
    "env.backend",
    "processes",
    "algorithm.gradient_threads",
    "algorithm.learners",
    "algorithm.bptt_length",
    "algorithm.grad_clip_norm",
)

# Of a metrics.jsonl: more than runs write, and the columns that a report reads beside the steps.
MOST_BYTES, MOST_ROWS, MOST_STEPS = 2**29, 2_000_000, 2**53
COLUMNS = (
    "rollout/return_mean",
    "rollout/return_min",
    "rollout/return_max",
    "rollout/episodes",
    "time/elapsed_seconds",
    "time/steps_per_second",
    "train/gradient_norm",
    "train/gradient_clipped",
    "memory/peak_mb",
    "memory/gradient_cut",
)
# Keys in which runs are compared, or that tell tasks apart: far more than anybody sweeps.
MOST_KEYS = 100
# How facts begin that environments told at the end of the episodes of an evaluation.
TOLD = "info_evaluation_"
# Characters of a value that are kept, and that fit into a figure or a line.
LONGEST, WIDEST = 1000, 60


@dataclass(frozen=True)
class RunRecord:
    """One run, finished or not.

    status       running, finished, interrupted, failed, killed, or pruned by a search
    settings     its configuration, by dotted key
    overrides    of its command line, by key
    facts        from manifest.json
    returns      [rows] mean training return of the latest episodes, after env_steps [rows] and seconds [rows]
    lowest, highest   [rows] of these episodes
    episodes     [rows] that had ended
    norms        [rows] of the gradients
    clipped      share of its gradients that were clipped
    gradient_cut share of the gradient that its bptt_length cuts off, on average; NaN if that was not measured
    """

    folder: Path
    status: str
    settings: dict[str, Any]
    overrides: dict[str, str]
    facts: dict[str, Any]
    env_steps: Array
    returns: Array
    lowest: Array
    highest: Array
    episodes: Array
    seconds: Array
    norms: Array
    clipped: float
    steps_per_second: float
    peak_memory_mb: float
    gradient_cut: float = np.nan

    @property
    def seed(self) -> int:
        for seed in (self.facts.get("seed"), self.settings.get("seed"), self.overrides.get("seed")):
            with suppress(TypeError, ValueError):
                return int(seed)  # type: ignore[arg-type]
        return 0

    @property
    def score(self) -> float:
        """Mean return of the final policy in its evaluation; until then, of the latest training episodes."""
        if self.facts.get("result") is not None and self.status == "finished":
            return float(self.facts["result"])
        return float(self.returns[-1]) if len(self.returns) else np.nan

    @property
    def told(self) -> dict[str, float]:
        """Means of what environments told at the end of its evaluation's episodes, by `info_` and a name."""
        return {
            f"info_{clean(name.removeprefix(TOLD))}": float(fact)
            for name, fact in self.facts.items()
            if name.startswith(TOLD) and is_number(fact)
        }

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
        value = self.settings.get(key, self.overrides.get(key, BEFORE_THE_KEY.get(key, "default")))
        if key == "evaluation.greedy":
            # What its final return is of: `both` counts likeliest actions, and without an evaluation it is training's.
            return "not evaluated" if self.settings.get("evaluation.episodes") == 0 else value is not False
        return value if isinstance(value, int | float | str | None) else str(value)


def find(folders: Iterable[Path], say: Callable[[str], object] = lambda line: None) -> list[RunRecord]:
    """All runs in some folders, at any depth.

    say   is told, a line each, what cannot be read and is left out

    Raises ConfigError if there are none.
    """
    places: dict[Path, Path] = {}
    left_out: list[str] = []

    def leave_out(line: str) -> None:
        left_out.append(line)
        say(line)

    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(
                [f"report: {folder} is not a folder. Name one that holds runs, such as outputs/sweeps/<name>."]
            )
        for path in sorted(run_folders(folder, leaving_out(leave_out)), key=_in_order):
            # A folder may be named twice.
            places.setdefault(path.resolve(), path)
    runs: dict[object, RunRecord] = {}
    for folder in places.values():
        try:
            run = read(folder, say)
        except (OSError, ValueError) as error:
            leave_out(f"{error}. This run is left out.")
            continue
        same = (run.facts["id"], run.fingerprint) if "id" in run.facts else folder
        copies = sorted([*filter(None, [runs.get(same)]), run], key=lambda it: it.status != "finished")
        for copy in copies[1:]:
            leave_out(f"{copy.folder}: a copy of {copies[0].folder}. It is left out.")
        runs[same] = copies[0]
    if not runs:
        named = ", ".join(map(str, folders))
        raise ConfigError(
            [*left_out, f"report: there are no runs in {named}. Name a folder written by `python -m seqrl.train`."]
        )
    return list(runs.values())


def read(folder: Path, say: Callable[[str], object] = lambda line: None) -> RunRecord:
    """The run in a folder, which anybody may have written: what is text in it is fit to be shown.

    Raises OSError or ValueError if it cannot be told what run it is.
    """
    with _named(folder / "manifest.json"):
        facts = standing(folder)
        if "status" not in facts:
            raise ValueError("gives no status")
    # A run that failed while being built has no configuration, only overrides.
    settings: dict[str, Any] = {}
    if os.path.lexists(folder / "config.yaml"):
        with _named(folder / "config.yaml") as path:
            settings = _settings(path)
    facts = {name: clean(fact) for name, fact in facts.items() if name in KINDS or name.startswith(TOLD)}
    overrides = dict(_split(override) for override in facts.get("overrides", []))
    curves = _curves(folder / "metrics.jsonl", say)
    return RunRecord(
        folder=folder,
        status=facts["status"],
        settings=settings,
        overrides=overrides,
        facts=facts,
        env_steps=curves["env_steps"],
        returns=curves["rollout/return_mean"],
        lowest=curves["rollout/return_min"],
        highest=curves["rollout/return_max"],
        episodes=curves["rollout/episodes"],
        seconds=curves["time/elapsed_seconds"],
        norms=curves["train/gradient_norm"],
        clipped=_mean(curves["train/gradient_clipped"]),
        steps_per_second=facts.get("steps_per_second") or _last(curves["time/steps_per_second"]),
        peak_memory_mb=facts.get("peak_memory_mb") or _last(curves["memory/peak_mb"]),
        gradient_cut=_mean(curves["memory/gradient_cut"]),
    )


def by_seed(runs: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Runs of one configuration, those with the same seed together.

    They begin with the same weights and play the same episodes, and are often the same run: they count once.
    """
    seeds: dict[int, list[RunRecord]] = defaultdict(list)
    for run in runs:
        seeds[run.seed].append(run)
    return list(seeds.values())


def by_task(runs: list[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs grouped by the name of their task, as returns of different tasks are not comparable."""
    tasks: dict[tuple[tuple[str, Any], ...], list[RunRecord]] = defaultdict(list)
    for run in runs:
        of_task = {key: str(value) for key, value in run.settings.items() if key.startswith("env.")}
        tasks[tuple((key, value) for key, value in of_task.items() if key not in OF_NO_TASK)].append(run)
    alike: dict[str, list[list[RunRecord]]] = defaultdict(list)
    for task in tasks.values():
        alike[_task(task[0])].append(task)
    by_name: dict[str, list[RunRecord]] = {}
    for short_name, of_name in alike.items():
        named = _telling(of_name)
        for task in of_name:
            name = " ".join(
                [short_name, *(f"{short(key)} {cut(str(task[0].value(key)), WIDEST)}" for key in named)]
            ).strip()
            by_name[free(name, by_name, "{} ({})")] = task
    return by_name


def _task(run: RunRecord) -> str:
    """The short name of what a run plays; "" if it does not say."""
    env = {key.removeprefix("env."): value for key, value in run.settings.items() if key.startswith("env.")}
    return one_line(task_name(env))[:LONGEST]


def _telling(tasks: list[list[RunRecord]]) -> list[str]:
    """Keys that tell tasks of one name apart: those of the command line, if any do."""
    runs = [run for task in tasks for run in task]
    keys = dict.fromkeys(key for run in runs for key in (*run.overrides, *run.settings) if _names_task(key))
    telling = [key for key in keys if len({str(task[0].value(key)) for task in tasks}) > 1]
    chosen = [key for key in telling if any(key in run.overrides for run in runs)]
    return (chosen or telling)[:MOST_KEYS]


def _names_task(key: str) -> bool:
    return (key in ("env", "experiment") or key.startswith("env.")) and key not in OF_NO_TASK


class Study:
    """Runs, grouped by what was varied between them.

    keys      swept keys, without the seed
    ignored   how many other keys differ, which are too many to compare
    groups    runs of each configuration, by the values of the keys
    """

    def __init__(self, runs: list[RunRecord]) -> None:
        self.runs = runs
        differing = swept(runs)
        self.keys, self.ignored = differing[:MOST_KEYS], len(differing[MOST_KEYS:])
        groups: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
        for run in runs:
            groups[self.point(run)].append(run)
        self.groups = dict(sorted(groups.items(), key=lambda item: self._rank(item[0])))

    @property
    def warning(self) -> str:
        """What to know of keys that are ignored, in one line."""
        compared = f"only the first {len(self.keys)} are compared"
        return f"{len(self.runs)} runs differ in {len(self.keys) + self.ignored:,} keys: {compared}."

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
    while len(keys) < MOST_KEYS:
        alike: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
        for run in runs:
            alike[tuple(run.value(key) for key in keys)].append(run)
        apart = next((key for group in alike.values() for key in _differing(group)), None)
        if apart is None:
            break
        keys.append(apart)
    return keys


def rank(key: str, value: Any) -> tuple[Any, ...]:
    """Sort key of a value among those of its key: numbers first, by size; a bptt_length of 0 is the longest."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, np.inf if key.endswith("bptt_length") and value == 0 else value, "")
    return (1, 0.0, str(value))


def short(key: str) -> str:
    """The last word of a dotted key, such as fits beside others."""
    return cut(key.rpartition(".")[2], WIDEST)


def _differing(group: list[RunRecord]) -> Iterator[str]:
    # One that failed while being built has none, and one of an older version fewer.
    group = [run for run in group if run.settings]
    for key in dict.fromkeys(key for run in group for key in run.settings):
        is_known = key in BEFORE_THE_KEY or all(key in run.settings for run in group)
        if is_known and not key.startswith((*INCIDENTAL, *DERIVED)) and len({run.value(key) for run in group}) > 1:
            yield key


def lines_of(path: Path, most: int) -> Iterator[Any]:
    """What each line of a JSONL file says, if it exists: None for what is no JSON, but for half a line at its end.

    most   bytes of the file; a larger one raises OSError
    """
    with suppress(FileNotFoundError):
        for line in lines(path, most):
            try:
                yield json_of(line)
            except ValueError:
                if line.endswith("\n") or not line.startswith("{"):
                    yield None


def _curves(path: Path, say: Callable[[str], object]) -> dict[str, Array]:
    """Columns [rows] of a metrics.jsonl, where it has a return; NaN for what a row lacks."""
    columns = {name: array("d") for name in ("env_steps", *COLUMNS)}
    rows, odd = 0, []
    try:
        for rows, row in enumerate(lines_of(path, MOST_BYTES), 1):
            if rows > MOST_ROWS:
                raise OSError(f"has more than {MOST_ROWS:,} rows")
            if not _is_row(row):
                odd.append(rows)
            elif row.get("rollout/return_mean") is not None:
                for name, column in columns.items():
                    value = row.get(name)
                    column.append(np.nan if value is None else value)
    except OSError as error:
        say(f"{path}: {fault(error)}. The run counts without its curves.")
        return dict.fromkeys(columns, np.empty(0))
    if odd:
        say(f"{path}: line {odd[0]} is not a row of scalars. {len(odd)} of {rows} lines are left out.")
    return {name: np.array(column, dtype=np.float64) for name, column in columns.items()}


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and is_number(row.get("env_steps"))
        and 0 <= row["env_steps"] <= MOST_STEPS
        and all(row.get(name) is None or is_number(row[name]) for name in COLUMNS)
    )


@contextmanager
def _named(path: Path) -> Iterator[Path]:
    """What is wrong with the file is said with its name."""
    try:
        yield path
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {fault(error)}") from error


def _settings(path: Path) -> dict[str, Any]:
    try:
        sections = yaml.safe_load(read_yaml(path))
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML ({fault(error)})") from error
    if not isinstance(sections, dict):
        raise ValueError("is not a mapping")
    return {printable(key): clean(value) for key, value in dotted(sections)}


def clean(value: Any) -> Any:
    """The same, fit to be shown: no control characters, no text or number beyond reason."""
    if isinstance(value, dict):
        return {clean(str(key)): clean(it) for key, it in value.items()}
    if isinstance(value, list):
        return [clean(it) for it in value]
    if value is None or isinstance(value, bool) or is_number(value):
        return value
    return one_line(str(value))[:LONGEST]


def _mean(values: Array) -> float:
    """Mean of the known values."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _last(values: Array) -> float:
    return float(values[-1]) if len(values) else np.nan


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value


def _in_order(folder: Path) -> tuple[str, int, str]:
    name = folder.name
    number = name.partition("_")[0]
    return str(folder.parent), int(number) if number.isdecimal() else 0, name
