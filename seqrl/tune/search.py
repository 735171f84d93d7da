"""A search for good hyperparameters: proposes trials, runs them, and learns from the results."""

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from seqrl.config.resolvers import folder_name
from seqrl.config.schema import AT_LEAST_1, Rule, key
from seqrl.config.settle import GRADIENT_THREADS
from seqrl.errors import ConfigError, NotFiniteError, UnsavedError
from seqrl.files import cure, fault, foreign, refuse_link, write
from seqrl.machine import cores, sleep
from seqrl.run.manifest import facts_of
from seqrl.sweeps import Command
from seqrl.text import say
from seqrl.tune.space import Dimension, Value, override
from seqrl.tune.trials import TICKS, Claim, Trial, words

if TYPE_CHECKING:
    import optuna

WHOLE = Rule(lambda x: x >= 0, "a whole number of at least 0")
PRUNERS = ["median", "halving", "none"]
# Failed trials in a row after which the search ends: they all fail for the same reason.
PATIENCE = 3
POLL_SECONDS = 0.5
# What a trial needs at least to say how it ended.
ROOM_BYTES = 2**16
# The best trial, and by what seqrl knows its own file.
BEST, MARK = "best.yaml", "python -m seqrl.train "


@dataclass(frozen=True)
class Words:
    """Keys of the command line that belong to the search, not to its runs."""

    search: str = key("ppo", "search space: a file in conf/search, or in search/ of your own --config-dir")
    trials: int = key(40, "trials in total, over all processes", AT_LEAST_1)
    workers: int = key(1, "trials in parallel; they share the cores", AT_LEAST_1)
    seeds: int = key(1, "runs per trial, scored by their mean return", AT_LEAST_1)
    pruner: str = key("median", "when to stop a trial early: median, halving or none", choices=PRUNERS)
    seed: int = key(0, "seed of the proposals, and the first seed of each trial", WHOLE)
    study: Path = key(
        None, "folder to write to, or of a search to continue; default: outputs/studies/<date_time>", example="<folder>"
    )


@dataclass(frozen=True)
class Plan(Words):
    """What the command line asks for.

    arguments   of the runs
    """

    study: Path = field(default_factory=lambda: Path(f"outputs/studies/{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"))
    arguments: tuple[str, ...] = ()


class Search:
    """Trials, several in parallel, recorded in a journal that other processes may share.

    Raises ConfigError if the folder holds another search.
    """

    def __init__(self, plan: Plan, space: list[Dimension]) -> None:
        import optuna
        from optuna.storages import JournalStorage

        from seqrl.tune.journal import opened

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.plan, self.space = plan, space
        plan.study.mkdir(parents=True, exist_ok=True)
        if why := foreign(plan.study / BEST, MARK):
            raise ConfigError([f"study: {plan.study / BEST} {why}. Choose another study=…"])
        self._journal = opened(plan.study.absolute() / "journal.log")
        with self._journal.damage_named():
            storage = JournalStorage(self._journal)
        pruner: optuna.pruners.BasePruner = {
            "median": optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=TICKS // 5),
            "halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=TICKS // 5, reduction_factor=2),
            "none": optuna.pruners.NopPruner(),
        }[plan.pruner]
        self.study = optuna.create_study(
            storage=storage, study_name="seqrl", direction="maximize", pruner=pruner, load_if_exists=True
        )
        with self._alone():
            self._agree("search", plan.search, "; ".join(map(repr, space)))
            self._agree("arguments", words(plan.arguments))
            self._agree("seeds", str(plan.seeds))
            self._agree_on_seed()
        self._failed = 0
        self.running: dict[int, tuple[Trial, Claim, optuna.Trial | None]] = {}

    def run(self) -> None:
        """Run trials until there are as many as asked for."""
        command = Command(self.plan.study)
        command.note()
        if before := self._count("COMPLETE", "PRUNED"):
            say(f"resuming after {before} trials in {self.plan.study}")
        while True:
            while len(self.running) < self.plan.workers and self._begin_next():
                pass
            if not self.running:
                command.note(ended=True)
                return
            for number in list(self.running):
                self._check(number)
            sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Let the running trials save themselves; they resume when the search does."""
        for trial, _, _ in self.running.values():
            trial.stop()

    def _begin_next(self) -> bool:
        """Resume an abandoned trial, or else start a new one; return whether there may be more to start."""
        # Until all of its values are proposed, nobody else may take it.
        with self._alone():
            for known in self._trials():
                if known.state.name == "RUNNING" and known.number not in self.running and self._take(known):
                    return True
            if self._count("COMPLETE", "PRUNED", "RUNNING") >= self.plan.trials:
                return False
            proposed = self._ask()
            for dimension in self.space:
                dimension.suggest(proposed)
            self._take(self.study.get_trials(deepcopy=False)[proposed.number], proposed)
            return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process of the search is in here."""
        claim = Claim(self.plan.study / "claims" / "next", wait=True)
        try:
            yield
        finally:
            claim.release()

    def _ask(self) -> "optuna.Trial":
        """A new trial; its proposal depends only on the seed and the earlier trials, not on interruptions."""
        import optuna

        seed = 1_000_003 * self.plan.seed + len(self._trials())
        self.study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32, multivariate=True)
        return self.study.ask()

    def _trials(self) -> "list[optuna.trial.FrozenTrial]":
        """All trials but those of which a process that was killed proposed only some of the values.

        Raises ConfigError if one has a value that the space does not propose: the journal may be anybody's.
        """
        with self._journal.damage_named():
            known = self.study.get_trials(deepcopy=False)
        keys = {dimension.key for dimension in self.space}
        for trial in known:
            for dimension in self.space:
                if dimension.key in trial.params and not dimension.proposed(trial):
                    value = override(dimension.key, trial.params[dimension.key])
                    what = f"trial {trial.number} has {value}, which search={self.plan.search} does not propose"
                    raise ConfigError([f"study: {self.plan.study}: {what}. Choose another study=…"])
        return [trial for trial in known if keys == set(trial.params)]

    def _take(self, known: "optuna.trial.FrozenTrial", proposed: "optuna.Trial | None" = None) -> bool:
        """Start or resume a trial; return False if another process runs it, or has just ended it."""
        number, values = known.number, known.params
        overrides = [override(key, value) for key, value in values.items()]
        folders = self._folders(number, values)
        try:
            claim = Claim(self.plan.study / "claims" / str(number))
        except BlockingIOError:
            return False
        if self.study.get_trials(deepcopy=False)[number].state.is_finished():
            claim.release()
            return False
        output = self.plan.study / "output" / f"{number}.txt"
        self.running[number] = Trial(number, [*self._arguments(), *overrides], folders, output), claim, proposed
        return True

    def _folders(self, number: int, values: dict[str, Any]) -> dict[int, Path]:
        """Folders of a trial's runs, by seed. Raises ConfigError if a link stands there: the study may be anybody's."""
        named = "_".join(f"{key.rpartition('.')[2]}-{_short(value)}" for key, value in values.items())
        suffixes = {seed: f"_s{seed}" if self.plan.seeds > 1 else "" for seed in self._seeds}
        folders = {s: self.plan.study / folder_name(f"{number}_{named}{suffix}") for s, suffix in suffixes.items()}
        try:
            for folder in folders.values():
                refuse_link(folder)
        except OSError as error:
            raise ConfigError([f"study: {folder} {fault(error)}. Remove it, or choose another study=…"]) from error
        return folders

    @property
    def _seeds(self) -> range:
        """Of each trial's runs."""
        return range(self.plan.seed, self.plan.seed + self.plan.seeds)

    def _arguments(self) -> list[str]:
        """Arguments of the command, and a fair share of the cores."""
        arguments = list(self.plan.arguments)
        if self.plan.workers > 1 and not any(a.startswith(f"{GRADIENT_THREADS}=") for a in arguments):
            arguments.append(f"{GRADIENT_THREADS}={max(1, min(2, cores() // self.plan.workers))}")
        return arguments

    def _check(self, number: int) -> None:
        """Record a trial that has ended; stop one that lags behind."""
        trial, _, proposed = self.running[number]
        if not trial.poll():
            if proposed is not None and self._lags(trial, proposed):
                trial.stop()
                trial.mark_pruned()
                self._end(number, "PRUNED")
            return
        if len(trial.results) == len(trial.folders):
            self._failed = 0
            self._end(number, "COMPLETE", sum(trial.results) / len(trial.results))
            return
        error, exit_code = trial.error
        if exit_code == NotFiniteError.exit_code:
            # Values to avoid, not an error.
            self._end(number, "PRUNED", outcome="diverged")
            return
        self._insist_on_room()
        self._failed += 1
        self._end(number, "FAIL", outcome=f"failed: {error}")
        if self._failed == PATIENCE:
            self.stop()
            raise ConfigError([f"search: {PATIENCE} trials in a row failed, the last with: {error}"])

    def _insist_on_room(self) -> None:
        """Raise OSError, once all trials have ended, if nothing can be written to the study.

        On a full disk no trial can save itself, or say what became of it. All go on when the search does.
        """
        try:
            with tempfile.TemporaryFile(dir=self.plan.study) as file:
                file.write(bytes(ROOM_BYTES))
        except OSError as error:
            self.stop()
            raise OSError(error.errno, fault(error), str(self.plan.study)) from error

    def _lags(self, trial: Trial, proposed: "optuna.Trial") -> bool:
        """Report a trial's progress to Optuna; return whether the pruner gives up on it."""
        for tick, mean in trial.ticks():
            proposed.report(mean, tick)
            if proposed.should_prune():
                return True
        return False

    def _end(self, number: int, state: str, value: float | None = None, outcome: str = "") -> None:
        from optuna.trial import TrialState

        _, claim, _ = self.running.pop(number)
        ended = self.study.tell(number, value, TrialState[state])
        claim.release()
        outcome = outcome or (f"return {value:.4g}" if value is not None else "stopped early, lagging behind")
        best = f" (best {found.value:.4g}, trial {found.number})" if (found := self._best_trial) else ""
        values = " ".join(_shown(key, value) for key, value in ended.params.items())
        say(f"trial {number}: {outcome}{best}; {values}")

    def _count(self, *states: str) -> int:
        return sum(trial.state.name in states for trial in self._trials())

    def _agree(self, name: str, value: str, content: str = "") -> None:
        """Record a property of the search; raise ConfigError if the folder holds a search that differs in it."""
        before = self.study.user_attrs.get(name, [value, content])
        if before != [value, content]:
            known = before[0] if isinstance(before, list) and before else value
            other = f"{name}={known}" if known != value else f"a different {name}={value}"
            raise ConfigError([f"study: {self.plan.study} was started with {other}. Choose another study=…"])
        self.study.set_user_attr(name, before)

    def _agree_on_seed(self) -> None:
        """The same of the seed. A search that an earlier version began has it in the folders of its runs alone."""
        if "seed" not in self.study.user_attrs:
            runs = [
                path for trial in self._trials() for path in self.plan.study.glob(f"{trial.number}_*/manifest.json")
            ]
            seeds = [facts_of(path.parent).get("seed") for path in runs]
            if known := [seed for seed in seeds if isinstance(seed, int)]:
                self.study.set_user_attr("seed", [str(min(known)), ""])
        self._agree("seed", str(self.plan.seed))

    @property
    def _finished(self) -> "list[optuna.trial.FrozenTrial]":
        return [trial for trial in self._trials() if trial.state.name == "COMPLETE"]

    @property
    def _best_trial(self) -> "optuna.trial.FrozenTrial | None":
        return max(self._finished, key=lambda trial: trial.value or 0.0, default=None)

    def best(self) -> str:
        """The best trial, and the command to repeat it."""
        if (best := self._best_trial) is None:
            going = self._count("RUNNING")
            return f"No trial has finished{f'; {going} running in another process' if going else ''}."
        ends = {"finished": "COMPLETE", "stopped early": "PRUNED", "failed": "FAIL"}
        counts = {how: count for how, state in ends.items() if (count := self._count(state))}
        summary = ", ".join(f"{count} {how}" for how, count in counts.items())
        alike = len(self._finished) > 1 and len({trial.value for trial in self._finished}) == 1
        undecided = ", as every other: nothing was told apart" if alike else ""
        return (
            f"{summary}. Best, trial {best.number}: {best.value:.4g}{undecided}\n\n  {self._command(best)[1]}\n\n"
            f"To see all of them: python -m seqrl.report {shlex.quote(str(self.plan.study))}"
        )

    def keep_best(self) -> None:
        """Write the same to best.yaml. Raises UnsavedError if it cannot be written."""
        if (best := self._best_trial) is None:
            return
        values, command = self._command(best)
        content = {"return": best.value, "trial": best.number, "overrides": values, "command": command}
        path = self.plan.study / BEST
        try:
            write(path, yaml.safe_dump(content, sort_keys=False, width=1000).encode())
        except OSError as error:
            raise UnsavedError(f"{path}: could not be written: {fault(error)}. {cure(error)}.") from error

    def _command(self, best: "optuna.trial.FrozenTrial") -> tuple[list[str], str]:
        """The values of a trial as overrides, and the command to repeat it: a sweep, if it has several runs."""
        values = [override(key, value) for key, value in best.params.items()]
        several = ["-m"] if len(self._seeds) > 1 else []
        seeds = f"seed={','.join(map(str, self._seeds))}"
        return values, shlex.join(["python", "-m", "seqrl.train", *several, *self.plan.arguments, *values, seeds])


def _shown(key: str, value: Value) -> str:
    return override(key.rpartition(".")[2], value)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
