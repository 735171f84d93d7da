"""The loop: iterate until the budget is spent, or somebody asks to stop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from omegaconf import DictConfig

from seqrl.algorithms.base import SingleSteps
from seqrl.errors import NotFiniteError
from seqrl.insight.advice import Settings, advice
from seqrl.loggers import Row
from seqrl.machine import is_from_signal, peak_memory_mb
from seqrl.metrics.display import Display
from seqrl.metrics.hints import Hints
from seqrl.run.evaluator import Evaluator
from seqrl.run.outputs import NoOutputs, Outputs
from seqrl.run.run import Run
from seqrl.run.stop import Stop
from seqrl.run.summary import notes


def learn(
    cfg: DictConfig,
    run: Run,
    evaluator: Evaluator,
    outputs: Outputs | NoOutputs,
    display: Display,
    stop: Stop,
    watch: Callable[[Run, Row], bool] | None = None,
) -> Row:
    """Iterate until the budget is spent, save what came of it, and return the evaluation of the policy it ends with.

    watch   is told of each iteration, with its scalars; false ends the training as a spent budget does

    Returns {} if that policy was not evaluated. Raises StoppedError, once all is saved, if a signal asks to stop.
    """
    result: Row = {}
    latest: Row = {}
    settings = run.algorithm.settings
    hints = Hints(settings.minibatches, settings.bptt_length, cfg.rollout_length, settings.grad_clip_norm, cfg.parallel)
    said = _say_notes(run, display, 0)
    run.clock.start()
    asked = _agreed(run, stop)
    while not (run.budget.spent or asked):
        row = _iterate(run, outputs)
        if watch is not None and not watch(run, dict(row)):
            run.budget.called_off = True
        asked = _agreed(run, stop)
        outputs.write(row, run.budget.steps)
        result = _evaluate(run, evaluator, outputs) if _is_due(cfg.evaluation.interval, run) else {}
        latest = result or latest
        display.show(run.budget.progress, {**row, **latest})
        for hint in hints.new(row, run.iterations, run.budget.steps, run.budget.progress):
            display.say(f"hint: {hint}")
        if result or (cfg.checkpoint_interval and run.iterations % cfg.checkpoint_interval == 0):
            outputs.save(run, result)
        said = _say_notes(run, display, said)
        run.clock.lap("other")
    for hint in advice(run.meters, _settings(run)):
        display.say(f"hint: {hint}")
    saved = outputs.save(run)
    _say_notes(run, display, said)
    if stop.wanted:
        raise stop.error(outputs.advice(saved))
    return result


def _agreed(run: Run, stop: Stop) -> bool:
    """Whether somebody asks to stop, or has seen enough: no rank ends alone."""
    number, called_off = run.ranks.largest(stop.wanted or 0, run.budget.called_off)
    run.budget.called_off = bool(called_off)
    return stop.ask(number)


def cost(run: Run) -> dict[str, float]:
    """What the training took, as a manifest has it."""
    return {
        "env_steps": run.budget.steps,
        "steps_per_second": run.clock.per_second(run.budget.steps),
        "seconds": run.clock.elapsed,
        "peak_memory_mb": peak_memory_mb(),
    }


def evaluate_final(run: Run, evaluator: Evaluator, outputs: Outputs | NoOutputs, display: Display, stop: Stop) -> Row:
    """Evaluate the policy that the run ended with; {} if no episodes are wanted.

    Raises StoppedError at once if a signal asks to stop: all else is saved, and the evaluation begins anew.
    """

    def told(share: float) -> None:
        if stop.wanted:
            raise stop.error(outputs.advice(outputs.saved))
        display.evaluating(share)

    with _exits_are_faults():
        result = evaluator.row(run.algorithm.network, told)
    if result:
        outputs.write(result, run.budget.steps)
    return result


@contextmanager
def _exits_are_faults() -> Iterator[None]:
    """A network or an algorithm of the user's own that ends the program, with whatever exit code, fails the run."""
    try:
        yield
    except SystemExit as error:
        if is_from_signal(error):
            raise
        raise RuntimeError(f"a part of the run raised SystemExit({error.code!r})") from error


def _say_notes(run: Run, display: Display, said: int) -> int:
    """Print the notes about the environments after the first `said`, which were printed before; return how many are."""
    known = notes(run.runner.env)
    for note in known[said:]:
        display.say(note)
    return len(known)


def _settings(run: Run) -> Settings:
    """What the advice about memory needs to know."""
    algorithm = run.algorithm
    chosen = algorithm.settings
    single = isinstance(algorithm, SingleSteps)
    has_memory = bool(algorithm.network.initial_state(1))
    return Settings(
        chosen.bptt_length, single, run.runner.rollout_length, chosen.stale_state, has_memory, run.iterations
    )


def _iterate(run: Run, outputs: Outputs | NoOutputs) -> Row:
    try:
        with _exits_are_faults():
            return run.iterate()
    except NotFiniteError as error:
        if not run.ranks.is_first:
            # That one knows how to go on.
            raise
        dump = outputs.dump("not_finite.pt", error.evidence)
        where = f" What led to it is in {dump}." if dump else ""
        raise NotFiniteError(f"{error} {outputs.advice()}.{where}") from error


def _is_due(interval: int, run: Run) -> bool:
    """Whether to evaluate after this iteration: the policy that a run ends with is one of those."""
    return bool(interval) and (run.iterations % interval == 0 or run.budget.spent)


def _evaluate(run: Run, evaluator: Evaluator, outputs: Outputs | NoOutputs) -> Row:
    """Evaluate the policy as it is now, on a clock of its own; its scalars."""
    run.clock.lap("other")
    with _exits_are_faults():
        result = evaluator.row(run.algorithm.network)
    outputs.write(result, run.budget.steps)
    run.clock.lap("evaluation")
    return result
