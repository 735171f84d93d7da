"""Train an agent: `python -m seqrl.train [group=choice ...] [key=value ...]`.

Settles the configuration, builds the parts, runs the loop. No other module imports it.
"""

import sys
from contextlib import ExitStack
from functools import partial
from math import nan
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from seqrl.config.command_line import is_true
from seqrl.config.paths import CONF
from seqrl.config.program import FAILURES, fail, started, to_the_end
from seqrl.config.settle import Settled, settle
from seqrl.errors import StoppedError
from seqrl.machine import forget_peak_memory
from seqrl.metrics.display import Display
from seqrl.run.build import advice_for_evaluation, make_device, make_evaluator, open_run, prepare_device
from seqrl.run.loop import evaluate_final, learn
from seqrl.run.outputs import Outputs
from seqrl.run.refusal import remove_if_empty
from seqrl.run.rehearsal import rehearse
from seqrl.run.stop import Stop
from seqrl.run.summary import introduction, summary
from seqrl.sweeps import Point, run_point
from seqrl.text import show_path


def train(settled: Settled, folder: Path, point: Point | None = None) -> float:
    """Do one run into `folder`, or go on with it; return the mean return of its evaluation.

    Without an evaluation, that of its last episodes.

    point   of a sweep, that it is
    """
    cfg = settled.cfg
    device = make_device(cfg)
    # An environment may change the working folder, or remove it.
    here = Path.cwd()
    workers = point.workers if point else None
    display = Display(folder.name if workers else "")
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
            result = learn(cfg, run, evaluator, outputs, display, stop)
            if outputs.saved:
                # They may hold what only one can have: a device, a port. What is not saved is tried again at the end.
                training.close()
            # The last one of training is the same, of the same episodes.
            result = result or evaluate_final(run, evaluator, outputs, stop)
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


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float:
    """One run, alone or as a point of a sweep."""
    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    show_path(folder)
    if context.mode is RunMode.MULTIRUN:
        return run_point(cfg, folder, train)
    try:
        settled = settle(cfg)
        if cfg.validate:
            rehearse(settled.cfg)
            return nan
        return train(settled, folder)
    except Exception as error:
        remove_if_empty(folder)
        fail(error)


def main() -> None:
    """What `python -m seqrl.train` does; `program` ends the process, too."""
    started(job, leave_nothing=is_true("validate", sys.argv))
    sys.exit(FAILURES.worst)


program = partial(to_the_end, main)

if __name__ == "__main__":
    program()
