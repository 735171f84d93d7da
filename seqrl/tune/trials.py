"""Trials of a search: runs in processes of their own, one per seed, whose failures do no harm."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import yaml

from seqrl.config.begun import can_go_on
from seqrl.config.command_line import leads_away
from seqrl.config.overrides import quoted
from seqrl.config.paths import PACKAGE
from seqrl.errors import ConfigError, LostRankError
from seqrl.files import (
    LINE_BYTES,
    appending,
    fault,
    json_of,
    make_folder,
    read_text,
    read_yaml,
    regular,
    write,
)
from seqrl.machine import end_with_parent
from seqrl.run.hold import is_held, open_lock
from seqrl.run.manifest import facts_of, is_number

# Arguments that must be given again when a run is resumed.
GIVEN_AGAIN = ("trust=", "--config-dir=")
# The working folder comes into the path only where its modules are trusted, or where seqrl itself is run from it.
SAFELY = [] if PACKAGE.parent == Path.cwd() else ["-P"]
# Processes of a run, until one that is killed again and again is given up.
ATTEMPTS = 3
# Points in a run at which it is compared with others.
TICKS = 20


@dataclass
class Trial:
    """Runs with the same values and different seeds, one after another.

    arguments   of seqrl.train, except seed and folder
    folders     of the runs, by seed
    output      file for their output
    """

    number: int
    arguments: list[str]
    folders: dict[int, Path]
    output: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _begun: int | None = None
    # Of the manifest, before the latest process.
    _before: dict[str, Any] = field(default_factory=dict)
    _killed: int = 0
    _read: int = 0
    _tick: int = 0

    def poll(self) -> bool:
        """Start the next run if none is running; return whether there is nothing left to do."""
        if self._process is not None and self._process.poll() is None:
            return False
        left = next((seed for seed in self.folders if not self._finished(seed)), None)
        # Its manifest tells whether a run succeeded; whatever ends the process may give any exit code, 0 too.
        if left is None or (left == self._begun and not self._goes_on(left)):
            return True
        # If the search was killed, its run may still be saving itself.
        if not (self.folders[left].exists() and is_held(self.folders[left])):
            self._begin(left)
        return False

    def _goes_on(self, seed: int) -> bool:
        """Whether a run goes on that is there, and of which a process was killed, perhaps because memory ran out."""
        if self._process is None or not can_go_on(self.folders[seed]):
            return False
        facts = facts_of(self.folders[seed])
        # What another of its processes said before it ended has that one's exit code.
        lost = str(facts.get("error")).startswith(LostRankError.__name__) and facts.get("exit_code") == 1
        killed = self._process.returncode < 0 or lost
        self._killed += killed
        return killed and self._killed < ATTEMPTS

    def stop(self) -> None:
        """Ask the current run to save itself and end, and wait until it has."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            self._process.wait()

    @property
    def results(self) -> list[float]:
        """Return of each finished run."""
        finished = [run for folder in self.folders.values() if (run := facts_of(folder)).get("status") == "finished"]
        return [float(run["result"]) for run in finished if run.get("result") is not None]

    @property
    def error(self) -> tuple[str, int]:
        """Why a run has no result, and its exit code."""
        for folder in self.folders.values():
            facts = facts_of(folder)
            if facts.get("status") not in (None, "finished"):
                # What it said before its latest process is none of its reasons.
                facts = {} if facts == self._before else facts
                return facts.get("error", self._ending), facts.get("exit_code", 1)
        if all(map(self._finished, self.folders)):
            return "none of its episodes ended, so it has no return. Raise total_steps or evaluation.episodes", 0
        # The run ended before it had a folder.
        lines: list[str] = []
        if self._process is not None and self._process.returncode > 0:
            with suppress(OSError):
                lines = read_text(self.output).strip().splitlines()
        return (lines[-1] if lines else self._ending).removeprefix("seqrl: error: "), 2

    @property
    def _ending(self) -> str:
        """How the process ended that did not say it."""
        code = self._process.returncode if self._process is not None else -signal.SIGKILL
        if code < 0:
            return "was killed"
        how = f"its process ended with exit code {code} before the run was finished"
        return f"{how}. If an environment ends it, env.backend=async names that one"

    def ticks(self) -> list[tuple[int, float]]:
        """Mean training return of the first run at every twentieth of its budget: those new since the last call."""
        folder = next(iter(self.folders.values()))
        means: dict[int, float] = {}
        with suppress(OSError, ValueError, yaml.YAMLError):
            budget = yaml.safe_load(read_yaml(folder / "config.yaml"))
            with regular(folder / "metrics.jsonl") as file:
                file.seek(self._read)
                while (line := file.readline(LINE_BYTES)).endswith(b"\n"):
                    self._read += len(line)
                    # What is not a row of scalars tells nothing.
                    with suppress(TypeError, ValueError, KeyError, AttributeError, ArithmeticError):
                        row = json_of(line.decode())
                        tick, mean = int(TICKS * _progress(row, budget)), row["rollout/return_mean"]
                        if is_number(mean):
                            means.setdefault(tick, float(mean))
        new = {tick: mean for tick, mean in means.items() if self._tick < tick < TICKS}
        self._tick = max([self._tick, *new])
        return sorted(new.items())

    def mark_pruned(self) -> None:
        """Mark the folders of runs that were stopped early as pruned."""
        for folder in self.folders.values():
            facts = facts_of(folder)
            if facts.get("status") == "interrupted":
                kept = {name: fact for name, fact in facts.items() if name not in ("error", "exit_code")}
                write(folder / "manifest.json", (json.dumps(kept | {"status": "pruned"}, indent=2) + "\n").encode())

    def _finished(self, seed: int) -> bool:
        return facts_of(self.folders[seed]).get("status") == "finished"

    def _begin(self, seed: int) -> None:
        self._killed = self._killed if seed == self._begun else 0
        folder, self._begun = self.folders[seed], seed
        self._before = facts_of(folder)
        if can_go_on(folder):
            arguments = [
                f"resume={folder}",
                *(a for a in self.arguments if a.startswith(GIVEN_AGAIN) or leads_away(a)),
            ]
        else:
            # Its name tells the values, and a list of them has commas.
            arguments = [*self.arguments, f"seed={seed}", f"hydra.run.dir={quoted(str(folder))}"]
        with _opened(self.output, appending) as output:
            self._process = subprocess.Popen(
                [sys.executable, *SAFELY, "-m", "seqrl.train", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C goes to the search, which lets its trials save themselves; if the search dies, so do they.
                start_new_session=True,
                preexec_fn=partial(end_with_parent, signal.SIGTERM),
            )


class Claim:
    """A trial that this process runs, and no other process of the same search.

    wait   until the other process is done

    Raises BlockingIOError if another process runs it and `wait` is false, ConfigError if its file is no regular one.
    """

    def __init__(self, path: Path, wait: bool = False) -> None:
        # The system releases the lock when the process ends, however it ends.
        self._file = _opened(path, open_lock)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BaseException as error:
            self._file.close()
            if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
                why = f"cannot be locked: {fault(error)}. Choose a folder on another disk with study=…"
                raise ConfigError([f"study: {path} {why}"]) from error
            raise
        os.set_inheritable(self._file.fileno(), False)

    def release(self) -> None:
        self._file.close()


def _opened(path: Path, how: Callable[[Path], IO[bytes]]) -> IO[bytes]:
    """A file of a study, which may be anybody's, opened for adding to its end."""
    try:
        make_folder(path.parent)
        return how(path)
    except OSError as error:
        place = error.filename or path
        raise ConfigError([f"study: {place} {fault(error)}. Remove it, or choose another study=…"]) from error


def words(arguments: Sequence[str]) -> str:
    """The arguments in which two commands of the same search must agree, in one string."""
    return " ".join(sorted(a for a in arguments if not a.startswith(("trust=", "logger"))))


def _progress(row: dict[str, Any], budget: dict[str, Any]) -> float:
    """Share of a run that is done."""
    episodes, steps = budget["episodes"], budget["total_steps"]
    share = float(row.get("rollout/episodes", 0) / (episodes * budget["parallel"])) if episodes else 0.0
    return max(share, float(row["env_steps"] / steps)) if steps else share
