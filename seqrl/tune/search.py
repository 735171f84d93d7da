"""A search for good values: proposes trials, sees to them, and learns from how they end."""

import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from seqrl.config.resolvers import folder_name
from seqrl.config.schema import AT_LEAST_1, Rule, key
from seqrl.config.settle import GRADIENT_THREADS
from seqrl.errors import ConfigError, NotFiniteError
from seqrl.files import write
from seqrl.machine import cores
from seqrl.sweeps import note_command
from seqrl.tune.space import Dimension, Value, override
from seqrl.tune.trials import TICKS, Claim, Trial, words

if TYPE_CHECKING:
    import optuna

WHOLE = Rule(lambda x: x >= 0, "a whole number of at least 0")
PRUNERS = ["median", "halving", "none"]
# One after another, and the search ends: they all fail alike.
PATIENCE = 3
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Words:
    """The keys of the command line that are no run's."""

    search: str = key("ppo", "what may be tried: a file in conf/search, or in search/ of your own --config-dir")
    trials: int = key(40, "trials in all, whoever does them", AT_LEAST_1)
    workers: int = key(1, "trials at once; they share the cores", AT_LEAST_1)
    seeds: int = key(1, "runs of each trial, whose mean return counts", AT_LEAST_1)
    pruner: str = key("median", "median, halving or none: when a trial is stopped early", choices=PRUNERS)
    seed: int = key(0, "decides what is proposed, and is the first seed of each trial", WHOLE)
    study: Path = key(
        None, "where it all goes, or what to go on with; otherwise outputs/studies/<date_time>", example="<folder>"
    )


@dataclass(frozen=True)
class Plan(Words):
    """What the command line asks for.

    arguments   those of the runs
    """

    study: Path = field(default_factory=lambda: Path("outputs/studies") / time.strftime("%Y-%m-%d_%H-%M-%S"))
    arguments: tuple[str, ...] = ()


class Search:
    """Trials, one batch of workers after another, on a journal that others may share.

    Raises ConfigError if the folder holds another search.
    """

    def __init__(self, plan: Plan, space: list[Dimension]) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.plan, self.space = plan, space
        plan.study.mkdir(parents=True, exist_ok=True)
        # Its lock is a link to this path, which must lead there from anywhere.
        storage = JournalStorage(JournalFileBackend(str(plan.study.absolute() / "journal.log")))
        pruner: optuna.pruners.BasePruner = {
            "median": optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=TICKS // 5),
            "halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=TICKS // 5, reduction_factor=2),
            "none": optuna.pruners.NopPruner(),
        }[plan.pruner]
        self.study = optuna.create_study(
            storage=storage, study_name="seqrl", direction="maximize", pruner=pruner, load_if_exists=True
        )
        self._agree("search", plan.search, "; ".join(map(repr, space)))
        self._agree("arguments", words(plan.arguments))
        self._agree("seeds", str(plan.seeds))
        self._failed = 0
        self.going: dict[int, tuple[Trial, Claim, optuna.Trial | None]] = {}

    def run(self) -> None:
        """Go on until there are as many trials as were asked for."""
        begun = time.time()
        note_command(self.plan.study, begun)
        if before := self._count("COMPLETE", "PRUNED"):
            print(f"goes on after {before} trials in {self.plan.study}")
        while True:
            while len(self.going) < self.plan.workers and self._begin_next():
                pass
            if not self.going:
                note_command(self.plan.study, begun, ended=True)
                return
            for number in list(self.going):
                self._look_after(number)
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Let the trials at work save themselves; they go on with the search."""
        for trial, _, _ in self.going.values():
            trial.stop()

    def _begin_next(self) -> bool:
        """Take up a trial that nobody sees to any more, or else a new one; return whether there was one to do."""
        for known in self.study.get_trials(deepcopy=False):
            if (
                known.state.name == "RUNNING"
                and known.number not in self.going
                and self._take(known.number, known.params)
            ):
                return True
        if self._count("COMPLETE", "PRUNED", "RUNNING") >= self.plan.trials:
            return False
        proposed = self._ask()
        values = {dimension.key: dimension.suggest(proposed) for dimension in self.space}
        return self._take(proposed.number, values, proposed)

    def _ask(self) -> "optuna.Trial":
        """A new trial; what it proposes follows from the seed and the trials before, stopped in between or not."""
        import optuna

        seed = 1_000_003 * self.plan.seed + len(self.study.get_trials(deepcopy=False))
        self.study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32, multivariate=True)
        return self.study.ask()

    def _take(self, number: int, values: dict[str, Any], proposed: "optuna.Trial | None" = None) -> bool:
        """Begin or go on with a trial; return False if somebody else has."""
        try:
            claim = Claim(self.plan.study / "claims" / str(number))
        except BlockingIOError:
            return False
        said = [override(key, value) for key, value in values.items()]
        named = "_".join(f"{key.rpartition('.')[2]}-{_short(value)}" for key, value in values.items())
        seeds = range(self.plan.seed, self.plan.seed + self.plan.seeds)
        suffixes = {seed: f"_s{seed}" if self.plan.seeds > 1 else "" for seed in seeds}
        folders = {s: self.plan.study / folder_name(f"{number}_{named}{suffix}") for s, suffix in suffixes.items()}
        output = self.plan.study / "output" / f"{number}.txt"
        self.going[number] = Trial(number, [*self._arguments(), *said], folders, output), claim, proposed
        return True

    def _arguments(self) -> list[str]:
        """Those of the command, and a fair share of the cores."""
        arguments = list(self.plan.arguments)
        if self.plan.workers > 1 and not any(a.startswith(f"{GRADIENT_THREADS}=") for a in arguments):
            arguments.append(f"{GRADIENT_THREADS}={max(1, min(2, cores() // self.plan.workers))}")
        return arguments

    def _look_after(self, number: int) -> None:
        trial, _, proposed = self.going[number]
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
            # Values to keep away from, and no fault.
            self._end(number, "PRUNED", said="diverged")
            return
        self._failed += 1
        self._end(number, "FAIL", said=f"failed: {error}")
        if self._failed == PATIENCE:
            self.stop()
            raise ConfigError([f"search: {PATIENCE} trials failed one after another, the last with: {error}"])

    def _lags(self, trial: Trial, proposed: "optuna.Trial") -> bool:
        """Tell Optuna how a trial does; return whether it is hopeless."""
        for tick, mean in trial.ticks():
            proposed.report(mean, tick)
            if proposed.should_prune():
                return True
        return False

    def _end(self, number: int, state: str, value: float | None = None, said: str = "") -> None:
        from optuna.trial import TrialState

        _, claim, _ = self.going.pop(number)
        ended = self.study.tell(number, value, TrialState[state])
        claim.release()
        said = said or (f"return {value:.4g}" if value is not None else "stopped, as it lagged behind")
        best = f" (best {self.study.best_value:.4g}, trial {self.study.best_trial.number})" if self.done else ""
        print(
            f"trial {number}: {said}{best}; {' '.join(map(_shown, *zip(*ended.params.items(), strict=True)))}",
            flush=True,
        )

    def _count(self, *states: str) -> int:
        return sum(trial.state.name in states for trial in self.study.get_trials(deepcopy=False))

    def _agree(self, name: str, value: str, content: str = "") -> None:
        """Note what the search is about, or refuse another."""
        before = self.study.user_attrs.get(name, [value, content])
        if before != [value, content]:
            other = f"{name}={before[0]}" if before[0] != value else f"another {name}={value} than now"
            raise ConfigError([f"study: {self.plan.study} was begun with {other}. Choose another study=…"])
        self.study.set_user_attr(name, before)

    @property
    def done(self) -> int:
        """Trials that have come to their end."""
        return self._count("COMPLETE")

    def best(self) -> str:
        """What was found, and the command that does it again; best.yaml says it too."""
        if not self.done:
            return "No trial has come to its end."
        best = self.study.best_trial
        values = [override(key, value) for key, value in best.params.items()]
        command = shlex.join(["python", "-m", "seqrl.train", *self.plan.arguments, *values])
        content = {"return": best.value, "trial": best.number, "overrides": values, "command": command}
        write(self.plan.study / "best.yaml", yaml.safe_dump(content, sort_keys=False, width=1000).encode())
        ends = {"finished": "COMPLETE", "stopped early": "PRUNED", "failed": "FAIL"}
        counts = {how: count for how, state in ends.items() if (count := self._count(state))}
        said = ", ".join(f"{count} {how}" for how, count in counts.items())
        return (
            f"{said}. Best, trial {best.number}: {best.value:.4g}\n\n  {command}\n\n"
            f"All of them: python -m seqrl.report {self.plan.study}"
        )


def _shown(key: str, value: Value) -> str:
    return override(key.rpartition(".")[2], value)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
