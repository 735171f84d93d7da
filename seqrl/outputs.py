"""Where a run's results go: what fails there is said once and tried again, and the training goes on."""

import io
import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from seqrl.checkpoint import Checkpoints
from seqrl.errors import described
from seqrl.files import write
from seqrl.loggers import About, Logger, Row
from seqrl.records import Manifest, ending
from seqrl.run import Run

log = logging.getLogger(__name__)


def opened(loggers: Mapping[str, Callable[[], Logger]], about: About, say: Callable[[str], None]) -> dict[str, Logger]:
    """The loggers that can be opened, by name; one that cannot is said and left out.

    loggers   what builds each
    """
    there: dict[str, Logger] = {}
    for name, build in loggers.items():
        try:
            logger = build()
            if line := getattr(logger, "begin", lambda about: None)(about):
                say(line)
            there[name] = logger
        except Exception as failure:
            say(f"warning: logger {name}: {described(failure)}. It is left out; the run goes on.")
            log.warning("logger %s", name, exc_info=failure)
    return there


class Outputs:
    """Manifest, loggers and checkpoints of one run. As a context it tells the loggers how the run ended.

    loggers   by name
    say       tells the user
    """

    def __init__(
        self,
        manifest: Manifest,
        loggers: Mapping[str, Logger],
        checkpoints: Checkpoints,
        say: Callable[[str], None],
    ) -> None:
        self.manifest, self.loggers, self.checkpoints, self.say = manifest, loggers, checkpoints, say
        self.folder = manifest.path.parent
        self._failing: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name, logger in self.loggers.items():
            self._attempt(f"logger {name}", partial(getattr(logger, "end", lambda status: None), ending(error)))
        self.close()

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self._attempt("manifest", lambda: self.manifest.update(**facts), OSError)

    def write(self, row: Row, env_steps: int) -> None:
        """Hand a row of scalars to every logger."""
        for name, logger in self.loggers.items():
            self._attempt(f"logger {name}", lambda logger=logger: logger.write(row, env_steps))  # type: ignore[misc]

    def save(self, run: Run, result: Row | None = None) -> bool:
        """Write a checkpoint, with the result of its evaluation if it has one; return whether that went well."""
        row = {**run.episodes.row(), **(result or {})}
        returns = [row.get(name, math.nan) for name in ("rollout/return_mean", "evaluation/return_mean")]
        state = run.state_dict()
        return self._attempt("checkpoint", lambda: self.checkpoints.save(state, run.iterations, *returns), OSError)

    def dump(self, name: str, evidence: dict[str, Any]) -> Path | None:
        """Write what explains a failure into the run folder; return where, None if that failed too."""
        data = io.BytesIO()
        torch.save(evidence, data)
        path = self.folder / name
        return path if self._attempt(name, lambda: write(path, data.getvalue()), OSError) else None

    def close(self) -> None:
        for name, logger in self.loggers.items():
            self._attempt(f"logger {name}", logger.close)

    def _attempt(self, name: str, action: Callable[[], object], error: type[Exception] = Exception) -> bool:
        try:
            action()
        except error as failure:
            if name not in self._failing:
                self.say(f"warning: {name}: {described(failure)}. The run goes on; what fails is tried again.")
                log.warning("%s", name, exc_info=failure)
            self._failing.add(name)
            return False
        if name in self._failing:
            self.say(f"{name}: works again")
            self._failing.remove(name)
        return True
