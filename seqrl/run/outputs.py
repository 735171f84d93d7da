"""The run folder: manifest, configuration, checkpoints, loggers. What fails there is retried and ends nothing."""

import copy
import io
import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from omegaconf import OmegaConf

from seqrl.config.begun import digest, saved_text
from seqrl.config.settle import Settled
from seqrl.devices.device import Device
from seqrl.errors import ConfigError, EnvError, OutOfMemoryError, UnsavedError, described
from seqrl.files import cure, fault, write
from seqrl.loggers import About, Logger, Row, adopted
from seqrl.machine import last_words
from seqrl.ranks import ALONE, Ranks
from seqrl.run.build import constructor
from seqrl.run.checkpoint import Checkpoints
from seqrl.run.manifest import Manifest, ending, facts_of
from seqrl.run.resume import changes_task, circumstances, how_to_go_on, yardstick
from seqrl.run.run import Run
from seqrl.text import few

log = logging.getLogger(__name__)


def open_loggers(
    loggers: Mapping[str, Callable[[], Any]], about: About, say: Callable[[str], None]
) -> dict[str, Logger]:
    """The loggers that can be opened, by name; one that cannot is reported and left out.

    loggers   what builds each
    """
    there: dict[str, Logger] = {}
    for name, build in loggers.items():
        try:
            logger = adopted(build())
            # One may change what it is told.
            if line := logger.begin(copy.deepcopy(about)):
                say(line)
            there[name] = logger
        except Exception as failure:
            say(f"warning: logger {name}: {described(failure)}. Training continues without it.")
            log.warning("logger %s", name, exc_info=failure)
    return there


class Outputs:
    """The folder of a run: manifest, configuration, checkpoints, loggers.

    As a context it claims the folder, and says in the end how the run ended.

    folder            of the run; it exists
    say               tells the user
    checkpoint_keep   newest checkpoints to keep
    sweep             that the run is a point of
    goes_on           with the run that the folder holds, instead of beginning one

    Raises ConfigError if the folder holds another run, or if that run still goes on.
    """

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None],
        checkpoint_keep: int = 2,
        *,
        sweep: str | None = None,
        goes_on: bool = False,
    ) -> None:
        self.folder, self.say, self.sweep = folder, say, sweep
        # As whoever reads what is printed names it. Now, as an environment may change the working folder, or remove it.
        here = Path.cwd()
        self.place = folder.relative_to(here) if folder != here and folder.is_relative_to(here) else folder
        self.manifest = Manifest(folder, goes_on=goes_on)
        self.checkpoints = Checkpoints(folder, checkpoint_keep)
        self.loggers: Mapping[str, Logger] = {}
        # Arguments that go on with the run.
        self.how_to_go_on = how_to_go_on(folder, [], None)
        # Whether what the run has learned is saved.
        self.saved = False
        # Those that the run is spread over.
        self.ranks = ALONE
        # Why it was not saved the last time.
        self._unsaved = OSError()
        # Why older ones could not be removed.
        self._uncleaned: OSError | None = None
        self._failing: set[str] = set()
        self._last_words = last_words(lambda error: self.__exit__(type(error), error, None))

    def __enter__(self) -> Self:
        self.manifest.__enter__()
        self._last_words.__enter__()
        # Of a run that goes on, only its own checkpoints will do.
        self.checkpoints.run = facts_of(self.folder).get("id")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._last_words.__exit__(None, None, None)
        for name, logger in self.loggers.items():
            self._attempt(f"logger {name}", partial(logger.end, ending(error)), recovers=False)
            self._attempt(f"logger {name}", logger.close, recovers=False)
        self.manifest.__exit__(kind, error, traceback)
        if self._is_refusal(error):
            self.manifest.withdraw()

    def _is_refusal(self, error: BaseException | None) -> bool:
        """Whether the run was refused before it began; one that goes on, or a point of a sweep, keeps what it has."""
        mine = bool(self.manifest.facts) and not self.manifest.goes_on and self.sweep is None
        is_refusal = isinstance(error, ConfigError | EnvError | OutOfMemoryError | OSError)
        return is_refusal and mine and not self.checkpoints.iterations

    def begin(self, settled: Settled, run: Run, device: Device) -> None:
        """Write down what the run is, open its loggers, and save what it begins with."""
        cfg = settled.cfg
        self.how_to_go_on = how_to_go_on(self.folder, cfg.trust, settled.config_dir)
        # Where it goes on now says nothing of the run, and may be called what no YAML can say.
        config = {key: None if key == "resume" else value for key, value in run.config.items()}
        text = saved_text(OmegaConf.create(config))
        before = facts_of(self.folder) if self.manifest.goes_on else {}
        facts: dict[str, Any] = {
            "seed": cfg.seed,
            "threads": device.threads,
            "processor": device.processor,
            "device": str(device.torch_device),
            "sweep": self.sweep or before.get("sweep"),
            **({} if settled.overrides is None else {"overrides": settled.overrides}),
            "implied": settled.implied or before.get("implied", []),
            "config_dir": settled.config_dir,
            "config_digest": digest(text),
        }
        # At once, and before its configuration: whoever goes on composes what the command says, and asks the
        # configuration, if it is that of this command, for what was left to defaults that have changed since.
        if self.manifest.goes_on:
            facts["env_steps"] = run.budget.steps
            is_over = run.budget.spent and not any(map(changes_task, settled.changes))
            self.manifest.begin(self.checkpoints.owner, is_over=is_over, **facts)
        else:
            self.manifest.update(**facts)
        write(self.folder / "config.yaml", text)
        for change in few(circumstances(before, self.manifest.facts)):
            self.say(f"changed: {change}; results may differ in the last digits")
        facts = self.manifest.facts
        # First: a run that it refuses leaves nothing of its loggers.
        self.checkpoints.run, self.checkpoints.seed = facts.get("id"), cfg.seed
        self.checkpoints.yardstick = yardstick(run.config)
        self.checkpoints.begin(run.state_dict(), run.iterations)
        if foreign := self.checkpoints.foreign:
            self.say(f"left alone in checkpoints/, as it may not be of this run: {', '.join(foreign)}")
        about = About(self.folder.name, facts["sweep"], run.config, facts.get("overrides", []))
        builders = {
            str(name): partial(constructor(it).make, self.folder, run.budget.steps) for name, it in cfg.logger.items()
        }
        self.loggers = open_loggers(builders, about, self.say)

    def remember(self, **facts: Any) -> None:
        """Have facts written with the manifest's next ones: those of how the run ends."""
        self.manifest.facts |= facts

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self._attempt("manifest", lambda: self.manifest.update(**facts), OSError)

    def write(self, row: Row, env_steps: int) -> None:
        """Hand a row of scalars to every logger: to each its own, as the run goes on with this one."""
        for name, logger in self.loggers.items():
            lost = "" if logger.keeps_rows else "; it may lack rows"
            self._attempt(f"logger {name}", partial(logger.write, dict(row), env_steps), lost=lost)

    def save(self, run: Run, result: Row | None = None) -> bool:
        """Write a checkpoint, with the result of its evaluation if it has one; return whether that went well."""
        row = {**run.episodes.row(), **(result or {})}
        returns = [row.get(name, math.nan) for name in ("rollout/return_mean", "evaluation/return_mean")]
        state = run.state_dict()
        for name, logger in self.loggers.items():
            # The curves that a checkpoint presumes are on the disk before it.
            self._attempt(f"logger {name}", logger.sync, recovers=False)

        def save() -> None:
            self.manifest.insist_on_own_folder()
            try:
                self._uncleaned = self.checkpoints.save(state, run.iterations, *returns)
            except OSError as error:
                self._unsaved = error
                raise

        def clean() -> None:
            if self._uncleaned is not None:
                raise self._uncleaned

        saved = self._attempt("checkpoint", save, OSError)
        if saved:
            self._attempt("removing old checkpoints", clean, OSError)
        self.saved = self.ranks.of_first(saved)
        return self.saved

    def newest(self) -> tuple[dict[str, Any], list[str]]:
        """The newest sound state of the run, and what is wrong with newer ones."""
        return self.checkpoints.newest()

    def finish(self, run: Run, result: Row, score: float) -> None:
        """Say that the run is finished, with what its policy reaches.

        Raises UnsavedError if that, or the policy itself, could not be saved.
        """
        if not (self.saved or self.save(run)):
            raise self._lost(
                "the final policy",
                f"checkpoint: the final policy could not be saved in {self.folder}. "
                f"{cure(self._unsaved)} and train the last part again with {self.how_to_go_on}",
            )
        scalars = {name.replace("/", "_"): value for name, value in result.items()}
        try:
            self.manifest.finish(score, **scalars)
        except OSError as error:
            raise self._lost(
                "the result",
                f"manifest: the result could not be saved in {self.folder}: {fault(error)}. {cure(error)} and evaluate "
                f"the final policy, which is saved, again with {self.how_to_go_on}",
            ) from error

    def _lost(self, what: str, why: str) -> UnsavedError:
        """What is not saved, and why, unless the folder was moved away."""
        moved = f"run folder: {self.folder} was moved away, and {what} is not saved."
        return UnsavedError(why if self.manifest.is_in_own_folder() else moved)

    def advice(self, saved: bool = True) -> str:
        """How to go on with the run that ends now; `saved` with all it has learned, or not."""
        if not self.manifest.is_in_own_folder():
            return (
                f"Its folder {self.folder} was moved away or removed, and what came after is not saved. "
                "If it was moved, continue from there, resume=<its new path>"
            )
        how = "" if saved else "from an older checkpoint (the newest could not be saved) "
        return f"Continue {how}with {self.how_to_go_on}"

    def dump(self, name: str, evidence: dict[str, Any]) -> Path | None:
        """Write what explains a failure into the run folder; return where, None if that failed too."""
        data = io.BytesIO()
        torch.save(evidence, data)
        path = self.folder / name

        def put() -> None:
            self.manifest.insist_on_own_folder()
            write(path, data.getvalue())

        return path if self._attempt(name, put, OSError) else None

    def _attempt(
        self,
        name: str,
        action: Callable[[], object],
        error: type[Exception] = Exception,
        *,
        recovers: bool = True,
        lost: str = "",
    ) -> bool:
        """Do it; return whether it went well. The first failure of a name is said, and that it works again.

        recovers   whether success means that the name works again: many loggers have nothing to wait for
        lost       what to say then of what could not be done
        """
        try:
            action()
        except error as failure:
            if name not in self._failing:
                self.say(f"warning: {name}: {described(failure)}. Training continues and will retry.")
                log.warning("%s", name, exc_info=failure)
            self._failing.add(name)
            return False
        if name in self._failing and recovers:
            self.say(f"{name}: works again{lost}")
            self._failing.remove(name)
        return True


class NoOutputs:
    """What the other ranks have in place of a folder: they take part in what the first one saves, and write nothing."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.saved, self.place = ranks, False, None

    def newest(self) -> tuple[dict[str, Any], list[str]]:
        """The first rank reads it."""
        return {}, []

    def begin(self, settled: Settled, run: Run, device: Device) -> None:
        """Tell what the run begins with."""
        run.state_dict()

    def save(self, run: Run, result: Row | None = None) -> bool:
        """Tell what is to be saved; return whether that went well."""
        run.state_dict()
        self.saved = self.ranks.of_first(False)
        return self.saved

    def finish(self, run: Run, result: Row, score: float) -> None:
        """Tell it once more, if it could not be saved."""
        if not self.saved:
            self.save(run)

    def remember(self, **facts: Any) -> None:
        """Nothing."""

    def note(self, **facts: Any) -> None:
        """Nothing."""

    def write(self, row: Row, env_steps: int) -> None:
        """Nothing."""

    def advice(self, saved: bool = True) -> str:
        """Nothing."""
        return ""

    def dump(self, name: str, evidence: dict[str, Any]) -> Path | None:
        """Nothing."""
        return None
