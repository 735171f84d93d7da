"""manifest.json of a run folder: where the run came from, and how it ended."""

import json
import math
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Any, NoReturn, Self

import seqrl
from seqrl.config.begun import can_go_on
from seqrl.config.paths import PACKAGE
from seqrl.errors import ConfigError, StoppedError, TakenError
from seqrl.files import (
    DEEPEST,
    fault,
    insist_on_folder,
    is_still,
    json_of,
    links,
    may_be_intact,
    read,
    read_text,
    remove_strays,
    write,
)
from seqrl.machine import wall_time
from seqrl.run.hold import Hold, is_held
from seqrl.run.refusal import forget_log, remove_if_empty
from seqrl.text import free, masked

PACKAGES = ["torch", "numpy", "gymnasium", "hydra-core", "omegaconf", "tensorboard"]


# Name of the log of a run, as conf/config.yaml has it.
LOG = "train"
# What a run writes, beside its manifest: where one of these stands without a manifest, it is somebody else's.
OWN = [
    "config.yaml", "metrics.jsonl", "metrics.csv", "checkpoints", "evaluation.json", "policy.gif", "not_finite.pt",
    "mlflow_run_id", "wandb_run_id",
]  # fmt: skip
# What a run may have written when it is refused. A log that was there is added to: it may be the run's own output, sent
# there by a shell.
BEGUN = ["config.yaml", f"{LOG}.log"]
# Beginnings of the facts that say what the policy of a finished run reaches.
RESULTS = ("result", "evaluation_", "info_evaluation_")


class Manifest:
    """manifest.json of a run folder, whole at any time: how the run stands, and what is needed to do it again.

    As a context it claims the folder, so that no two runs write there at once. Status: running, then finished,
    interrupted or failed.

    goes_on   take over a folder whose run has stopped, instead of one that holds none; says nothing before `begin`
    facts     what it says

    Raises ConfigError if the folder holds a run already, or if that run still goes on.
    """

    def __init__(self, folder: Path, *, goes_on: bool = False) -> None:
        self.path = folder / "manifest.json"
        self.goes_on = goes_on
        self.facts: dict[str, Any] = {}
        self._begun = False
        # Files that were there before, and a copy of the manifest of an earlier run.
        self._before: list[str] = []
        self._kept: Path | None = None

    def __enter__(self) -> Self:
        self._hold = Hold(self.path.parent)
        try:
            self._claim()
            if not self.goes_on:
                self.begin()
        except BaseException:
            if self._kept:
                with suppress(OSError):
                    self._kept.replace(self.path)
            self._hold.let_go()
            raise
        return self

    def begin(self, owner: str | None = None, *, is_over: bool = False, **facts: Any) -> None:
        """Mark the run as running, with some facts.

        owner     id of the run, if the manifest from before cannot be read
        is_over   nothing is left of it but its evaluation: its results stay until they are replaced
        """
        before = facts_of(self.path.parent) if self.goes_on else {}
        if not is_over:
            # They are those of another policy, and perhaps of another task.
            before = _without_results(before)
        # Its checkpoints carry the same id, so that another run's are not taken for its own.
        new = {} if before else {"id": owner or secrets.token_hex(16), "started": wall_time()}
        self.facts = new | {name: fact for name, fact in before.items() if name not in ("error", "exit_code")}
        self._begun = True
        self.update(status="running", **provenance(), **facts)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None and self._begun:
                # Where it cannot be written, the error itself is what matters.
                with suppress(OSError):
                    status = ending(error)
                    exit_code = getattr(error, "exit_code", 130 if status == "interrupted" else 1)
                    self.update(status=status, error=words_of(error), exit_code=exit_code)
        finally:
            self._hold.let_go()

    def withdraw(self) -> None:
        """Leave the folder of a refused run as it was."""
        folder = self.path.parent
        forget_log(folder)
        for name in set(BEGUN) - set(self._before):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            # Made for a checkpoint that could not be written.
            remove_strays(folder / "checkpoints")
            (folder / "checkpoints").rmdir()
        if self._kept:
            self._kept.replace(self.path)
        else:
            self.path.unlink(missing_ok=True)
        remove_if_empty(folder)

    def update(self, **facts: Any) -> None:
        """Add or replace facts; a number that is not finite is null. Raises OSError if they cannot be written."""
        self.insist_on_own_folder()
        self.facts = finite(self.facts | facts)
        write(self.path, (json.dumps(self.facts, indent=2, allow_nan=False) + "\n").encode())

    def finish(self, result: float, **scalars: Any) -> None:
        """Say that the run is finished, and what its policy reaches, in place of what one before it reached."""
        self.facts = _without_results(self.facts)
        self.update(status="finished", result=result, **scalars)

    def is_in_own_folder(self) -> bool:
        """Whether the folder is still where the run began, and none has been begun in its place."""
        try:
            return is_still(self._hold.folder, self.path.parent)
        except OSError:
            # What cannot be reached for now has not moved.
            return True

    def insist_on_own_folder(self) -> None:
        """Raise OSError if what is written there would be another run's."""
        insist_on_folder(self._hold.folder, self.path.parent)

    def _claim(self) -> None:
        folder = self.path.parent
        # Raises OSError if it may be intact.
        facts_of(folder)
        if found := [*links(folder), *links(folder / "checkpoints")]:
            self._refuse(f"holds a link, {found[0].name}, which could lead anywhere. Remove it.")
        remove_strays(folder)
        if not self.goes_on and not self.path.exists() and (foreign := [it for it in OWN if (folder / it).exists()]):
            self._refuse(f"holds {foreign[0]}, which seqrl did not write. Choose another folder with hydra.run.dir=…")
        if os.path.lexists(self.path) and not self.goes_on:
            self._keep_former(folder)
        self._before = [name for name in BEGUN if (folder / name).exists()]

    def _keep_former(self, folder: Path) -> None:
        """Keep the manifest of a run of which nothing was saved under another name, too, until it is replaced."""
        other = "choose another folder with hydra.run.dir=…"
        if can_go_on(folder):
            self._refuse(f"already holds a run. Continue it with resume={quote(str(folder))}, or {other}", TakenError)
        try:
            status = read_facts(folder).get("status")
        except OSError as error:
            self._refuse(f"holds a manifest.json that {fault(error)}. Remove it, or {other}")
        except ValueError:
            # Damaged, and without a checkpoint.
            status = "unknown"
        if status is None:
            self._refuse(f"holds a manifest.json that seqrl did not write. {other.capitalize()}")
        if status == "finished":
            self._refuse(f"already holds a run that is finished. {other.capitalize()}", TakenError)
        name = free("manifest_before_1.json", os.listdir(folder), "manifest_before_{1}.json")
        write(folder / name, read(self.path))
        self._kept = folder / name

    def _refuse(self, why: str, kind: type[ConfigError] = ConfigError) -> NoReturn:
        raise kind([f"run folder: {self.path.parent} {why}"])


def _without_results(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: fact for name, fact in facts.items() if not name.startswith(RESULTS)}


def words_of(error: BaseException) -> str:
    """What ended a run, as its manifest has it."""
    return masked(f"{type(error).__name__}: {error}".rstrip(": "))


def ending(error: BaseException | None) -> str:
    """How a run ended that raised this: finished, interrupted or failed."""
    if error is None:
        return "finished"
    return "interrupted" if isinstance(error, KeyboardInterrupt | StoppedError) else "failed"


def facts_of(folder: Path) -> dict[str, Any]:
    """What a run's manifest says; {} if there is none, or a damaged one.

    Raises OSError if it cannot be read and may be intact: what it says must not be lost.
    """
    try:
        return read_facts(folder)
    except (OSError, ValueError) as error:
        if may_be_intact(error):
            raise
        return {}


def read_facts(folder: Path) -> dict[str, Any]:
    """The same, whoever wrote it: what seqrl knows of it has the type that seqrl gives it.

    Raises OSError or ValueError with the reason if it cannot be read, or says something else.
    """
    facts = json_of(read_text(folder / "manifest.json"))
    if not isinstance(facts, dict):
        raise ValueError("is not a JSON object")
    if _is_deep(facts, DEEPEST):
        raise ValueError("is nested too deeply")
    for name, is_right in KINDS.items():
        if name in facts and not is_right(facts[name]):
            raise ValueError(f"gives {name} a value that no run has (got {repr(facts[name])[:60]})")
    return facts


def standing(folder: Path) -> dict[str, Any]:
    """The same, where a run that says it is running, and is not, was killed."""
    facts = read_facts(folder)
    if facts.get("status") == "running" and not is_held(folder):
        # It may have ended since it was read.
        facts = read_facts(folder)
        if facts.get("status") == "running":
            return facts | {"status": "killed"}
    return facts


def _is_deep(value: object, left: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(not left or _is_deep(it, left - 1) for it in inner)


def finite(value: Any) -> Any:
    """Plain data with null in the place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(it) for name, it in value.items()}
    if isinstance(value, list | tuple):
        return [finite(it) for it in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_number(value: object) -> bool:
    """Whether it is a number, as big as results and durations may be; NaN is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(it, str) for it in value)


def _is_number_or_null(value: object) -> bool:
    return value is None or is_number(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and is_number(value)


# Beyond are no returns of a policy, but their squares would be infinite.
LARGEST = 1e100
STATUSES = ("running", "finished", "interrupted", "failed", "pruned")
KINDS: dict[str, Callable[[Any], bool]] = {
    "status": STATUSES.__contains__,
    "error": _is_text,
    "exit_code": lambda it: _is_count(it) and 0 <= it < 256,
    "overrides": _is_texts,
    "implied": _is_texts,
    "config_dir": lambda it: it is None or _is_text(it),
    "config_digest": _is_text,
    "sweep": lambda it: it is None or _is_text(it),
    "id": _is_text,
    "started": is_number,
    "seed": lambda it: isinstance(it, int) and not isinstance(it, bool) and it >= 0,
    "device": _is_text,
    "threads": _is_count,
    "processor": _is_text,
    "result": _is_number_or_null,
    "env_steps": _is_number_or_null,
    "seconds": _is_number_or_null,
    "evaluation_return_mean": _is_number_or_null,
    "evaluation_episodes": _is_number_or_null,
    "steps_per_second": _is_number_or_null,
    "peak_memory_mb": _is_number_or_null,
    "versions": lambda it: isinstance(it, dict) and all(map(_is_text, it.values())),
    "git": lambda it: it is None or (isinstance(it, dict) and _is_text(it.get("commit")) and "dirty" in it),
}


def provenance() -> dict[str, Any]:
    """What is needed to do it again: command, git revision of the source, versions, machine."""
    return {
        "command": [masked(word) for word in sys.orig_argv],
        "git": git_revision(),
        "versions": {"seqrl": seqrl.__version__, "python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
    }


def git_revision() -> dict[str, Any] | None:
    """Commit of the checkout that the package runs from, and whether it had uncommitted changes; None outside one."""
    if not (PACKAGE.parent / ".git").exists():
        return None
    try:
        return {
            "commit": _git("rev-parse", "HEAD"),
            "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    # A lock would stay in the repository if this process were killed meanwhile, and stop every other git.
    command = ["git", "--no-optional-locks", "-C", str(PACKAGE.parent), *arguments]
    # As in a hook of git, they may name another repository.
    own = {name: it for name, it in os.environ.items() if not name.startswith("GIT_") or name.startswith("GIT_CONFIG")}
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10, env=own).stdout.strip()
