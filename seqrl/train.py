"""Train an agent: `python -m seqrl.train [group=choice ...] [key=value ...]`.

Settles the configuration, builds the parts, runs the loop. No other module imports it.
"""

import os
import sys
from contextlib import ExitStack, nullcontext, suppress
from math import nan
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from seqrl.config.command_line import is_true
from seqrl.config.paths import CONF
from seqrl.config.program import FAILURES, fail, report, started
from seqrl.config.settle import Settled, settle
from seqrl.errors import StoppedError, TakenError
from seqrl.machine import forget_peak_memory
from seqrl.metrics.display import Display
from seqrl.runs.build import make_device, make_evaluator, open_run, prepare_device
from seqrl.runs.loop import evaluate_final, learn
from seqrl.runs.outputs import Outputs
from seqrl.runs.rehearsal import rehearse
from seqrl.runs.stop import Stop
from seqrl.runs.summary import introduction, summary
from seqrl.sweeps import Point, SweepWorkers
from seqrl.text import figure


def train(settled: Settled, folder: Path, point: Point | None = None) -> float:
    """Do one run into `folder`, or go on with it; return the mean return of its evaluation.

    Without an evaluation, that of its last episodes.

    point   of a sweep, that it is
    """
    cfg = settled.cfg
    device = make_device(cfg)
    workers = point.workers if point else None
    display = Display(folder.name if workers else "")
    with ExitStack() as stack:
        outputs = stack.enter_context(Outputs(folder, display.say, cfg.checkpoint_keep, goes_on=cfg.resume is not None))
        stack.enter_context(display)
        device = prepare_device(device, cfg, display.say)
        forget_peak_memory()
        run = open_run(settled, device, outputs.checkpoints, display.say)
        stack.callback(run.runner.env.close)
        evaluator = make_evaluator(cfg, device, run.runner.env.backend)
        stack.callback(evaluator.close)
        outputs.begin(settled, run, device, sweep=folder.parent.name if point else None)
        display.say(introduction(cfg, run, device))
        with Stop(workers.stop_signal) if workers else Stop() as stop:
            result = learn(cfg, run, evaluator, outputs, display, stop)
            # The last one of training is the same, of the same episodes.
            result = result or evaluate_final(run, evaluator, outputs, stop)
            score = result.get("evaluation/return_mean", run.episodes.row().get("rollout/return_mean", nan))
            best = outputs.checkpoints.best if cfg.evaluation.interval else None
            display.end(summary(run, result, score, best, folder), score, run.clock.elapsed)
            outputs.finish(run, result, score)
    if point and not workers and (number := stop.wanted):
        # It came too late for this one, and not for those that follow.
        raise StoppedError(f"stopped by {number.name}.", 128 + number)
    return score


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float:
    """One run, alone or as a point of a sweep."""
    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    if context.mode is RunMode.MULTIRUN:
        return point_of_sweep(cfg, folder)
    try:
        settled = settle(cfg)
        if cfg.validate:
            rehearse(settled.cfg)
            return nan
        return train(settled, folder)
    except Exception as error:
        fail(error)


def point_of_sweep(cfg: DictConfig, folder: Path) -> float:
    """One point of a sweep, or what is left of it; its result, NaN if it has none."""
    workers = SweepWorkers.of_this_sweep()
    try:
        with workers.working() if workers else nullcontext():
            return nan if workers and workers.stop_signal() else play_point(cfg, folder, workers)
    except Exception as error:
        context = HydraConfig.get()
        exit_code = report(error, where=f"point {context.job.num} of the sweep: ")
        if isinstance(error, StoppedError) and workers is None:
            print(f"seqrl: run the same command with sweep={context.sweep.dir} to continue the sweep", file=sys.stderr)
            sys.exit(exit_code)
        if workers and workers.abandoned:
            # Nobody waits for the result, and nobody would end this process.
            workers.remove()
            os._exit(exit_code)
        # The other points go on; the exit code of the sweep tells.
        FAILURES.add(exit_code)
        return nan


def play_point(cfg: DictConfig, folder: Path, workers: SweepWorkers | None) -> float:
    """Do what is left of a point; its result, NaN if another process is at it."""
    for _ in range(3):
        point = Point(folder, workers)
        settled = settle(cfg, begun_in=folder, resume=point.can_go_on, cores=point.share_of_cores)
        point.refuse_another(settled)
        if point.elsewhere:
            break
        if point.finished:
            print(f"{folder.name}: already finished, {figure(point.result)}")
            return point.result
        with suppress(TakenError):
            return train(settled, folder, point)
        # Another process came first: look again.
    print(f"{folder.name}: is running in another process, skipped")
    return nan


def main() -> None:
    """Entry point of `python -m seqrl.train` and `seqrl-train`."""
    started(job, leave_nothing=is_true("validate", sys.argv))
    sys.exit(FAILURES.worst)


if __name__ == "__main__":
    main()
