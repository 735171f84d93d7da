"""One run from its beginning to its end, whoever asks for it: the command, a sweep or Python."""

import signal
from collections.abc import Callable
from contextlib import ExitStack
from math import nan
from pathlib import Path
from typing import Protocol

from seqrl.config.settle import Settled
from seqrl.errors import StoppedError
from seqrl.loggers import Row
from seqrl.machine import forget_peak_memory
from seqrl.metrics.display import Display
from seqrl.run.build import advice_for_evaluation, make_device, make_evaluator, open_run, prepare_device
from seqrl.run.loop import evaluate_final, learn
from seqrl.run.outputs import Outputs
from seqrl.run.run import Run
from seqrl.run.stop import Stop
from seqrl.run.summary import introduction, summary


class Workers(Protocol):
    """Runs that go on beside this one, in other processes."""

    def stop_signal(self) -> signal.Signals | None:
        """The signal that asks all of them to stop, or None."""
        ...


class Point(Protocol):
    """A point of a sweep; `workers` are None where it runs alone."""

    @property
    def workers(self) -> Workers | None: ...


Watch = Callable[[Run, Row], bool]
"""Is told of each iteration, with its scalars; false ends the training early."""


def train(
    settled: Settled,
    folder: Path,
    point: Point | None = None,
    *,
    quiet: bool = False,
    watch: Watch | None = None,
) -> float:
    """Do one run into `folder`, or go on with it; return the mean return of its evaluation.

    Without an evaluation, that of its last episodes.

    point   of a sweep, that it is
    quiet   print nothing
    """
    cfg = settled.cfg
    device = make_device(cfg)
    # An environment may change the working folder, or remove it.
    here = Path.cwd()
    workers = point.workers if point else None
    display = Display(folder.name if workers else "", quiet=quiet)
    with ExitStack() as stack:
        sweep = folder.parent.name if point else None
        outputs = Outputs(folder, display.say, cfg.checkpoint_keep, sweep=sweep, goes_on=cfg.resume is not None)
        stack.enter_context(outputs)
        stack.enter_context(display)
        device = prepare_device(device, cfg, display.say)
        forget_peak_memory()
        run = open_run(settled, device, outputs.checkpoints, display.say)
        training = stack.enter_context(ExitStack())
        training.callback(run.runner.env.close)
        evaluator = make_evaluator(cfg, device, run.runner.env.backend, advice=advice_for_evaluation(cfg))
        stack.callback(evaluator.close)
        outputs.begin(settled, run, device)
        display.say(introduction(cfg, run, device))
        with Stop(workers.stop_signal) if workers else Stop() as stop:
            result = learn(cfg, run, evaluator, outputs, display, stop, watch)
            if outputs.saved:
                # They may hold what only one can have: a device, a port. What is not saved is tried again at the end.
                training.close()
            # The last one of training is the same, of the same episodes.
            result = result or evaluate_final(run, evaluator, outputs, display, stop)
            score = result.get("evaluation/return_mean", run.episodes.row().get("rollout/return_mean", nan))
            best = outputs.checkpoints.best if cfg.evaluation.interval else None
            try:
                outputs.finish(run, result, score)
            finally:
                display.end(summary(run, result, score, best, folder, here), score, run.clock.elapsed)
    if point and not workers and (number := stop.wanted):
        # It came too late for this one, and not for those that follow.
        raise StoppedError(f"stopped by {number.name}.", 128 + number)
    return score
