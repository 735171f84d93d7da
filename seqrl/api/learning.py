"""`seqrl.learn`: one run, as the command does it."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import nan
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from seqrl.api.composing import words
from seqrl.api.playing import Policy, load
from seqrl.api.settings import put_back, settings_of_a_command
from seqrl.config.composition import composed, errors_of_seqrl
from seqrl.config.settle import Settled, settle
from seqrl.files import LogFile, json_of, lines
from seqrl.loggers import Row
from seqrl.ranks.start import refuse_to_begin_anew
from seqrl.run.manifest import LOG, facts_of
from seqrl.run.refusal import note_folder, remove_if_empty
from seqrl.run.rehearsal import rehearse
from seqrl.run.run import Run
from seqrl.run.training import train
from seqrl.text import MaskedFormatter, show_path

OnIteration = Callable[[Row, Policy], object]
MOST_BYTES = 2**30


@dataclass(frozen=True)
class Result:
    """What a run came to.

    folder   with its curves, checkpoints and configuration
    score    mean return of its evaluation; without one, of its last episodes
    """

    folder: Path
    score: float
    _trusted: tuple[str, ...] = field(default=(), repr=False)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of its metrics.jsonl, in their order."""
        return [json_of(line) for line in lines(self.folder / "metrics.jsonl", MOST_BYTES)]

    @property
    def facts(self) -> dict[str, Any]:
        """What its manifest.json says: status, results, versions."""
        return facts_of(self.folder)

    def policy(self, checkpoint: str | int = "last", *, device: str = "cpu") -> Policy:
        """Its policy, as `seqrl.load` has it; what the run trusted is trusted."""
        return load(self.folder, checkpoint=checkpoint, device=device, trust=self._trusted)


def learn(
    *what: str | DictConfig,
    on_iteration: OnIteration | None = None,
    config_dir: str | PathLike[str] | None = None,
    quiet: bool = False,
) -> Result:
    """Train, as `python -m seqrl.train` does: the same folder, files and bits, the same checkpoints and resume.

        seqrl.learn("experiment=tmaze", "total_steps=50000")
        seqrl.learn(cfg)                       # from seqrl.compose

    what           overrides of the command line, or one configuration
    on_iteration   is called after each iteration with its scalars and the policy, which the next iteration
                   changes; if it returns False, the training ends there, as with a spent budget
    config_dir     folder with configuration files of your own
    quiet          print nothing

    In the main thread, SIGINT and SIGTERM end the run with a checkpoint. Raises a SeqrlError with the line that the
    command prints: ConfigError for a wrong configuration, StoppedError after a signal.
    """
    refuse_to_begin_anew()
    cfg = what[0] if len(what) == 1 and isinstance(what[0], DictConfig) else None
    if cfg is None and not all(isinstance(it, str) for it in what):
        raise TypeError("learn takes overrides, such as 'env=tmaze', or one configuration from seqrl.compose")
    given = [] if cfg is not None else words([str(it) for it in what], config_dir)
    with composed(given, cfg) as (made, folder):
        settled = settle(made, by_command=cfg is None)
        if settled.cfg.resume:
            # A configuration may say so, too.
            folder = Path(settled.cfg.resume).absolute()
    with errors_of_seqrl(given):
        if settled.cfg.validate:
            rehearse(settled.cfg, settled.asked)
            return Result(folder, nan)
        return _learn(settled, folder, on_iteration, quiet)


def _learn(settled: Settled, folder: Path, on_iteration: OnIteration | None, quiet: bool) -> Result:
    show_path(folder)
    note_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    policy: list[Policy] = []

    def watch(run: Run, row: Row) -> bool:
        if on_iteration is None:
            return True
        if not policy:
            policy.append(Policy.of(settled.cfg, run.algorithm.network, folder, run.runner.env))
        with put_back(), torch.enable_grad():
            return not _is_false(on_iteration(row, policy[0]))

    try:
        with settings_of_a_command(), _logged(folder / f"{LOG}.log"):
            score = train(settled, folder, quiet=quiet, watch=watch)
            return Result(folder, score, tuple(settled.cfg.trust))
    except Exception:
        remove_if_empty(folder)
        raise


def _is_false(answer: object) -> bool:
    """Whether it is False, or what NumPy and torch have for it: a comparison with their numbers gives no other."""
    if isinstance(answer, np.ndarray | np.generic | Tensor):
        return answer.ndim == 0 and answer.dtype in (np.bool_, torch.bool) and not answer
    return answer is False


# Runs at work, by their threads and logs; what the logger of seqrl was before the first of them.
_at_work: list[tuple[int, LogFile]] = []
_before: tuple[int, bool] = (logging.NOTSET, True)
_lock = threading.Lock()


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Have the log of the run in its folder; what seqrl logs does not reach the program's own handlers."""
    global _before
    own, root, here = logging.getLogger("seqrl"), logging.getLogger(), threading.get_ident()
    handler = LogFile(str(path), delay=True)
    handler.setFormatter(MaskedFormatter("[%(asctime)s][%(levelname)s] %(message)s"))

    def is_own(record: logging.LogRecord) -> bool:
        # What another run says goes to its own log; one within this one, in the same thread, began later.
        there = [log for thread, log in _at_work if thread == record.thread]
        return not there or there[-1] is handler

    handler.addFilter(is_own)
    with _lock:
        if not _at_work:
            _before = own.level, own.propagate
        _at_work.append((here, handler))
        own.setLevel(logging.INFO)
        own.propagate = False
        LogFile.of_runs.append(handler)
        for logger in (own, root):
            logger.addHandler(handler)
    try:
        yield
    finally:
        with _lock:
            _at_work.remove((here, handler))
            LogFile.of_runs.remove(handler)
            if not _at_work:
                own.setLevel(_before[0])
                own.propagate = _before[1]
            for logger in (own, root):
                logger.removeHandler(handler)
        handler.close()
