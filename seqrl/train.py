"""Train an agent: `python -m seqrl.train [group=choice ...] [key=value ...]`.

Composes the configuration, builds the parts, runs the loop. No other module imports it.
"""

import math
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from seqrl.build import build, built, make_evaluator, prepared, settled
from seqrl.checkpoint import Checkpoints
from seqrl.configuration import CONF
from seqrl.devices import Device
from seqrl.errors import NotFiniteError, StoppedError, UnsavedError
from seqrl.evaluation import Evaluator
from seqrl.files import write
from seqrl.footprint import footprint
from seqrl.hints import Hints
from seqrl.loggers import About, Row
from seqrl.metrics import Display, figure
from seqrl.outputs import Outputs, opened
from seqrl.program import check, fail, is_true, overrides, report, started
from seqrl.records import Manifest, forget_peak_memory, peak_memory_mb
from seqrl.resume import changes, circumstances, how_to_go_on, keep_backend
from seqrl.run import Run
from seqrl.signals import Stop
from seqrl.summary import introduction, sizes, summary
from seqrl.sweeps import Point, Sweep, company
from seqrl.trust import public


def train(cfg: DictConfig, folder: Path, point: Point | None = None) -> float:
    """Do one run into `folder`, or go on with it; return the mean return of its evaluation.

    Without an evaluation, that of its last episodes.

    point   of a sweep, that it is
    """
    device: Device = built(cfg.device)()
    with ExitStack() as stack:
        manifest = stack.enter_context(Manifest(folder, goes_on=cfg.resume is not None))
        display = stack.enter_context(Display(folder.name if point and point.crew else ""))
        device = prepared(device, cfg, display.say)
        forget_peak_memory()
        checkpoints = Checkpoints(folder, cfg.checkpoint_keep)
        run = resumed(cfg, device, checkpoints, display.say) if cfg.resume else build(cfg, device)
        stack.callback(run.runner.env.close)
        choice = settled(cfg, run.runner.env)
        evaluator = make_evaluator(cfg, device)
        stack.callback(evaluator.close)
        write(folder / "config.yaml", OmegaConf.to_yaml(public(cfg)).encode())
        before = manifest.begin() if cfg.resume else {}
        implied = point.implied if point else before.get("implied", [])
        sweep = folder.parent.name if point else before.get("sweep")
        facts = {"seed": cfg.seed, "threads": device.threads, "device": str(device.torch_device), "sweep": sweep}
        manifest.update(**facts, **command(implied))
        for change in circumstances(before, manifest.facts):
            display.say(f"changed: {change}; the last digits may be others")
        loggers = {str(name): partial(built(it).make, folder, run.budget.steps) for name, it in cfg.logger.items()}
        open_loggers = opened(loggers, about(cfg, manifest), display.say)
        outputs = stack.enter_context(Outputs(manifest, open_loggers, checkpoints, display.say))
        go_on = how_to_go_on(folder, cfg.trust, manifest.facts["config_dir"])
        checkpoints.begin(run.state_dict(), run.iterations)

        display.say(introduction(cfg, run, device, choice))
        with Stop(point.crew if point else None) as stop:
            result = learn(cfg, run, evaluator, outputs, display, stop, go_on)
            saved = outputs.save(run)
            if stop.wanted:
                raise stop.error(go_on, saved)
        outputs.note(
            env_steps=run.budget.steps,
            steps_per_second=run.budget.steps / run.clock.elapsed,
            seconds=run.clock.elapsed,
            peak_memory_mb=peak_memory_mb(),
        )
        if not result and (result := evaluator.row(run.algorithm.network)):
            outputs.write(result, run.budget.steps)
        score = result.get("evaluation/return_mean", run.episodes.row().get("rollout/return_mean", math.nan))
        named = {name.replace("/", "_"): value for name, value in result.items()}
        best = checkpoints.best if cfg.evaluation.interval else None
        display.end(summary(run, result, score, best, folder), score, run.clock.elapsed)
        if not (saved or outputs.save(run)):
            raise UnsavedError(
                f"checkpoint: the final policy could not be saved in {folder}. "
                f"Make room, and train its last part again with {go_on}"
            )
        outputs.note(status="finished", result=score, **named)
    return score


def about(cfg: DictConfig, manifest: Manifest) -> About:
    """What loggers may know of a run."""
    config = OmegaConf.to_container(public(cfg))
    assert isinstance(config, dict)
    name = manifest.path.parent.name
    return About(name, manifest.facts["sweep"], {str(k): v for k, v in config.items()}, manifest.facts["overrides"])


def command(implied: list[str]) -> dict[str, Any]:
    """What it takes to go on with this run, now that nothing is wrong with it."""
    sources = HydraConfig.get().runtime.config_sources
    own = [source.path for source in sources if source.provider == "command-line"]
    said = [override for override in overrides() if not override.startswith("resume=") and override not in implied]
    return {"overrides": said, "implied": implied, "config_dir": own[0] if own else None}


def learn(
    cfg: DictConfig, run: Run, evaluator: Evaluator, outputs: Outputs, display: Display, stop: Stop, go_on: str
) -> Row:
    """Iterate until the budget is spent, or a signal asks to stop.

    Returns the evaluation of the policy it ends with; {} if that had none.

    go_on   arguments that go on with the run, if it fails
    """
    result: Row = {}
    latest: Row = {}
    algorithm = run.algorithm
    hints = Hints(algorithm.minibatches, algorithm.bptt_length, cfg.rollout_length, algorithm.grad_clip_norm)
    run.clock.start()
    while not (run.budget.spent or stop.wanted):
        try:
            row = run.iterate()
        except NotFiniteError as error:
            dump = outputs.dump("not_finite.pt", error.evidence)
            raise NotFiniteError(f"{error} Go on with {go_on}. What led to it is in {dump}.") from error
        outputs.write(row, run.budget.steps)
        result = evaluated(run, evaluator, outputs) if is_due(cfg.evaluation.interval, run) else {}
        latest = result or latest
        display.show(run.budget.progress, {**row, **latest})
        for hint in hints.new(row):
            display.say(f"hint: {hint}")
        if result or (cfg.checkpoint_interval and run.iterations % cfg.checkpoint_interval == 0):
            outputs.save(run, result)
        run.clock.lap("other")
    return result


def is_due(interval: int, run: Run) -> bool:
    """Whether to evaluate after this iteration: the policy that a run ends with is one of those."""
    return bool(interval) and (run.iterations % interval == 0 or run.budget.spent)


def evaluated(run: Run, evaluator: Evaluator, outputs: Outputs) -> Row:
    """Evaluate the policy as it is now, on a clock of its own; its scalars."""
    run.clock.lap("other")
    result = evaluator.row(run.algorithm.network)
    outputs.write(result, run.budget.steps)
    run.clock.lap("evaluation")
    return result


def validate(cfg: DictConfig) -> None:
    """Build all parts, play and learn one tiny iteration, and say how large the real one is; leaves no run behind."""
    display = Display()
    device = prepared(built(cfg.device)(), cfg, display.say)
    tiny = OmegaConf.merge(cfg, {"parallel": min(cfg.parallel, 4)})
    assert isinstance(tiny, DictConfig)
    run = build(tiny, device)
    try:
        rollout = run.runner.collect()
        need = footprint(run.algorithm, rollout, cfg.parallel)
        run.algorithm.update(rollout, 0.0)
    finally:
        run.runner.env.close()
    display.say(introduction(cfg, run, device, settled(cfg, run.runner.env)))
    display.console.print(sizes(cfg, run, rollout, need), soft_wrap=True)


def resumed(cfg: DictConfig, device: Device, checkpoints: Checkpoints, say: Callable[[str], None]) -> Run:
    """The run that the newest sound checkpoint holds; says what was passed over and what has changed since."""
    state, passed_over = checkpoints.newest()
    for fault in passed_over:
        say(f"warning: the checkpoint {fault}; an older one takes its place.")
    before = OmegaConf.load(Path(cfg.resume) / "config.yaml")
    assert isinstance(before, DictConfig)
    keep_backend(before, cfg)
    changed = changes(before, public(cfg))
    if any(change.startswith(("env.", "parallel:", "seed:")) for change in changed):
        state["runner"]["environment"] = None
    # An environment that cannot go on must not play its first episodes again.
    run = build(cfg, device, *([] if state["runner"]["environment"] else [state["iterations"]]))
    lost = run.load_state_dict(state)
    anew = f"; {lost} episodes in progress cannot go on, others begin in their place" if lost else ""
    say(f"goes on after {run.iterations} iterations, {run.budget.steps:,} steps{anew}")
    for change in changed:
        say(f"changed: {change}")
    return run


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float:
    """One run, alone or as a point of a sweep."""
    try:
        check(cfg)
        if cfg.validate:
            validate(cfg)
            return math.nan
        folder = Path(HydraConfig.get().runtime.output_dir)
        return point(cfg, folder) if HydraConfig.get().mode is RunMode.MULTIRUN else train(cfg, folder)
    except Exception as error:
        hydra = HydraConfig.get()
        if hydra.mode is not RunMode.MULTIRUN:
            fail(error)
        exit_code = report(error, where=f"point {hydra.job.num} of the sweep: ")
        crew = company()
        if isinstance(error, StoppedError) and crew is None:
            print(f"seqrl: the same command with sweep={hydra.sweep.dir} goes on with the sweep", file=sys.stderr)
            sys.exit(exit_code)
        if crew and crew.abandoned:
            # Nobody waits for the result, and nobody would end this process.
            crew.disperse()
            os._exit(exit_code)
        # The other points go on; the exit code of the sweep tells.
        exit_codes_of_failed_points.append(exit_code)
        return math.nan


def point(cfg: DictConfig, folder: Path) -> float:
    """One point of a sweep, or what is left of it; return its result."""
    point = Point(cfg, folder)
    with point.crew.at_work() if point.crew else nullcontext():
        if point.crew and point.crew.told:
            return math.nan
        if point.elsewhere:
            print(f"{folder.name}: goes on elsewhere, and is left to it")
            return math.nan
        if point.finished:
            print(f"{folder.name}: is finished, {figure(point.result)}")
            return point.result
        if point.goes_on:
            cfg.resume = str(folder)
        return train(cfg, folder, point)


exit_codes_of_failed_points: list[int] = []


def main() -> None:
    """Entry point of `python -m seqrl.train` and `seqrl-train`."""
    started(job, leave_nothing=is_true("validate", sys.argv))
    if worst := max([Sweep.worst, *exit_codes_of_failed_points]):
        sys.exit(worst)


if __name__ == "__main__":
    main()
