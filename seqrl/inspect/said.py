"""What was measured, in plain words."""

from collections.abc import Iterator, Mapping
from typing import Any

from seqrl.insight.gradient_cut import NEGLIGIBLE
from seqrl.insight.need import MATTERS
from seqrl.text import figure

Report = Mapping[str, Any]
# Width of the interval of what memory is worth, in shares of it, beyond which 5 % of that says nothing.
ROUGH = 1.0


def paragraph(report: Report) -> str:
    """The first paragraph of the page: what this policy's memory does."""
    return " ".join(_sentences(report))


def _sentences(report: Report) -> Iterator[str]:
    used = report["memory_is_used"]
    if used is None:
        yield "This policy has no memory: it acts on the present observation alone."
    else:
        yield _of_memory(used, bool(report["need"] and report["need"]["is_there"]))
        if used["used"]:
            yield _of_window(report)
        yield from _of_influence(report)
    yield from _of_the_task(report)
    yield from _of_training(report)
    yield from _of_elsewhere(report)


def _of_memory(used: Mapping[str, Any], is_needed: bool) -> str:
    match used["used"], used["return_lost"]:
        case None, _:
            return "Too few episodes were played to tell whether this policy uses its memory."
        case True, lost:
            return f"This policy uses its memory: without it, {figure(lost)} of return is lost."
        case _, lost if used["interval"][1] < 0:
            return f"This policy's memory hurts it: without it, {figure(-lost)} of return is gained."
    if is_needed:
        return "This policy does not use its memory: without it, it does as well."
    return "No memory is needed: without it, this policy does as well."


def _of_window(report: Report) -> str:
    window, used = report["window"], report["memory_is_used"]
    low, high = used["interval"]
    if high - low > ROUGH * used["return_lost"]:
        return "What it is worth is known too roughly to say how many observations it needs."
    if window is None:
        return "How many observations it needs was not measured."
    whole = " That is all that its longest episode shows." if window >= report["length_max"] > 1 else ""
    if window == 1:
        return "The present observation alone is enough."
    return f"It needs the last {window} observations, the present one among them.{whole}"


def _of_influence(report: Report) -> Iterator[str]:
    """A derivative sees only small changes, and a window whether something is needed at all."""
    if not report["influence"]:
        return
    reach = report["influence"]["policy"]["reach"]
    steps = f"{reach} step{'s' * (reach != 1)} back"
    if report["memory_is_used"]["used"] and report["window"] and report["window"] > reach + 1:
        yield f"Small changes of what it saw more than {steps} no longer move an action: that memory is saturated."
    elif reach == 0:
        yield "No earlier observation influences an action."
    elif reach >= report["length_max"] - 1:
        yield f"What it saw influences its actions for as long as its longest episode shows, {steps}."
    else:
        yield f"Nothing beyond {steps} influences an action."


def _of_training(report: Report) -> Iterator[str]:
    length = report["bptt_length"]
    if length is None or report["memory_is_used"] is None:
        return
    if length == 0:
        rollout = report["rollout_length"]
        yield f"It was trained with gradients over whole {f'rollouts of {rollout} steps' if rollout else 'episodes'}."
    elif length == 1:
        yield "It was trained without gradients through time."
    else:
        yield f"It was trained with gradients over {length} steps."
    horizon, cut = report["gradient_horizon"] or 0, report["gradient_cut"] or 0.0
    if 0 < length < horizon and cut > NEGLIGIBLE:
        enough = f"sequence_learning.bptt_length={horizon} would reach far enough"
        yield f"That cuts off {cut:.0%} of its gradient: {enough}."
    elif horizon > 1:
        yield f"The gradient of its last checkpoint reaches back {horizon} steps, the present one among them."


def _of_the_task(report: Report) -> Iterator[str]:
    if need := report["need"]:
        if need["is_there"]:
            yield "The task needs memory: the past foretells what the present observation does not."
        elif need["share"] > MATTERS or (report["memory_is_used"] and report["memory_is_used"]["used"]):
            # Enough to matter, or needed by this policy, and still no more than chance might make.
            yield "Whether the task itself needs memory, one rollout could not tell."
        else:
            yield "The task shows no need of memory."


def _of_elsewhere(report: Report) -> Iterator[str]:
    for key, found in (report["elsewhere"] or {}).items():
        name, holds = key.removeprefix("env."), ", ".join(found["holds"])
        where = f"holds at {holds}" if holds else "holds at none of the values played"
        yield f"Trained at {name} {found['trained']}, it {where} (of {', '.join(found['returns'])})."
