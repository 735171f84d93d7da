"""One run from its beginning to its end, whoever asks for it: the command, a sweep or Python."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Protocol

import torch

from seqrl.config.program import forgiving_output, unexpected
from seqrl.config.settle import Settled
from seqrl.devices.device import Device
from seqrl.errors import ConfigError, LostRankError, NotFiniteError, SeqrlError, StoppedError
from seqrl.loggers import Row
from seqrl.machine import forget_peak_memory, ranks_started
from seqrl.metrics.display import Display
from seqrl.ranks import Ranks
from seqrl.ranks.start import Place, assembled, be_quiet, joined
from seqrl.run.build import advice_for_evaluation, make_device, make_evaluator, open_run, plays_alike, prepare_device
from seqrl.run.loop import cost, evaluate_final, learn
from seqrl.run.outputs import NoOutputs, Outputs
from seqrl.run.run import Run
from seqrl.run.stop import Stop
from seqrl.run.summary import introduction, summary
from seqrl.text import Hidden, hidden, hide


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
    workers = point.workers if point else None
    display = Display(folder.name if workers else "", quiet=quiet)
    with ExitStack() as stack:
        sweep = folder.parent.name if point else None
        outputs = Outputs(folder, display.say, cfg.checkpoint_keep, sweep=sweep, goes_on=cfg.resume is not None)
        stack.enter_context(outputs)
        stack.enter_context(display)
        outputs.ranks = ranks = stack.enter_context(assembled(cfg.processes, device.is_cuda, follow))
        hand(settled, ranks)
        stop = Stop(workers.stop_signal if workers else None)

        def finish(run: Run, result: Row, score: float) -> None:
            best = outputs.checkpoints.best if cfg.evaluation.interval else None
            try:
                outputs.finish(run, result, score)
            finally:
                display.end(summary(run, result, score, best, outputs.place), score, run.clock.elapsed)

        try:
            score = _carried_out(settled, device, outputs, display, stop, ranks, finish, watch)
        except LostRankError as error:
            raise _advised(error, outputs) from error
    if point and not workers and (number := stop.wanted):
        # It came too late for this one, and not for those that follow.
        raise StoppedError(f"stopped by {number.name}.", 128 + number)
    return score


def _advised(error: LostRankError, outputs: Outputs) -> SeqrlError:
    """What another rank has said before it ended, with what only the first one knows: how to go on."""
    said, code = str(error), error.exit_code
    if code > 128:
        return StoppedError(f"{said} {outputs.advice(outputs.saved)}", code)
    knows_no_more = said.startswith("processes:") or code == NotFiniteError.exit_code
    how = f" {outputs.advice()}" if knows_no_more and outputs.checkpoints.iterations else ""
    return LostRankError(f"{said}{how}", code)


def hand(settled: Settled, ranks: Ranks) -> None:
    """Tell the other ranks what the first one has settled, and what is to be masked of it."""
    if ranks.size > 1:
        ranks.of_first((settled, hidden()))


def handed(ranks: Ranks) -> Settled:
    """What the first rank has settled, in another one."""
    given: tuple[Settled, Hidden] = ranks.of_first(None)  # type: ignore[assignment]  # the first one gives it
    settled, masks = given
    hide(masks)
    return settled


Finish = Callable[[Run, Row, float], None]
"""Is told of a run that is done, of its evaluation and its score."""


def _carried_out(
    settled: Settled,
    device: Device,
    outputs: Outputs | NoOutputs,
    display: Display,
    stop: Stop,
    ranks: Ranks,
    finish: Finish,
    watch: Watch | None = None,
) -> float:
    """What every rank does of a run: train, evaluate, save. Returns the score."""
    cfg = settled.cfg
    with ExitStack() as stack:
        device = prepare_device(own_device(device, ranks), cfg, display.say)
        forget_peak_memory()
        run = open_run(settled, device, outputs.newest, display.say, ranks)
        run.config = settled.saved(run.runner.env.backend)
        training = stack.enter_context(ExitStack())
        training.callback(run.runner.env.close)
        evaluator = make_evaluator(cfg, device, run.runner.env.backend, advice_for_evaluation(cfg), ranks)
        stack.callback(evaluator.close)
        outputs.begin(settled, run, device)
        display.say(introduction(cfg, run, device, settled.asked, outputs.place))
        if ranks.size > 1 and not plays_alike(cfg, run.runner.env.backend):
            display.say(
                "note: processes play other episodes here than one process does, as what plays does not seed each "
                "environment for itself."
            )
        with stop:
            try:
                result = learn(cfg, run, evaluator, outputs, display, stop, watch)
            except BaseException:
                outputs.remember(**cost(run))
                raise
            outputs.note(**cost(run))
            if outputs.saved:
                # They may hold what only one can have: a device, a port. What is not saved is tried again at the end.
                training.close()
            # The last one of training is the same, of the same episodes.
            result = result or evaluate_final(run, evaluator, outputs, display, stop)
            score = result.get("evaluation/return_mean", run.episodes.row().get("rollout/return_mean", nan))
            finish(run, result, score)
    return score


def own_device(device: Device, ranks: Ranks) -> Device:
    """The GPU of this rank, where nothing but a kind is asked for.

    Raises ConfigError if there are not as many: NCCL gives each rank one of its own.
    """
    if ranks.size == 1 or not device.is_cuda or ":" in device.name:
        return device
    gpus = torch.cuda.device_count()
    if ranks.here > gpus:
        raise ConfigError(
            [f"processes: this machine has {gpus} GPUs (got {ranks.here} processes here). Use one for each."]
        )
    index = int(os.environ.get("LOCAL_RANK", ranks.rank)) if ranks_started() else ranks.rank
    torch.cuda.set_device(index)
    return replace(device, name=f"cuda:{index}")


def follow(place: Place) -> None:
    """What all ranks do but the first one, in a process of their own: the same, without a word or a file."""
    be_quiet(place)
    forgiving_output()
    try:
        with joined(place) as ranks, _foreseen():
            settled = handed(ranks)
            device, outputs = make_device(settled.cfg), NoOutputs(ranks)
            _carried_out(settled, device, outputs, Display(quiet=True), Stop(lambda: None), ranks, outputs.finish)
    except SeqrlError as error:
        sys.exit(error.exit_code)


@contextmanager
def _foreseen() -> Iterator[None]:
    """Turn an error that nobody foresaw into a line for the first rank to say."""
    try:
        yield
    except SeqrlError:
        raise
    except Exception as error:
        raise SeqrlError(unexpected(error)) from error
