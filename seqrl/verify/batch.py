"""A check of environments that are one tensor program: each row is an environment of its own."""

import torch
from torch import Tensor

from seqrl.machine import perf_counter
from seqrl.types import Step
from seqrl.verify.findings import Measured, Status, UncheckedError, check, holds
from seqrl.verify.layers import episodes
from seqrl.verify.play import BATCH, Play
from seqrl.verify.replay import opened
from seqrl.verify.stage import Stage

# Actions to try, each after up to so many steps, and steps after which it shows at the latest.
TRIALS, BEFORE, AFTER = 40, 5, 5

Place = tuple[str, int]
"""A part of a step's answer, and a row."""


@check(
    "rows are environments of their own",
    "Compute each row from its own state and action alone. reset(where) may begin only the rows where `where` is true, "
    "and must return the others as step did.",
)
def rows(stage: Stage) -> Measured | None:
    """In a BatchedEnv of one's own, an action shows in its row alone, and a reset concerns only those it is for."""
    with stage.new() as env, stage.new() as twin:
        if episodes(env) is not None:
            return None
        stage.require_repetition()
        if stage.play.moved:
            figure = f"{stage.play.moved:,} of {stage.play.stayed:,} rows that went on showed another observation"
            return holds(False, f"{figure} after a reset of others")
        one, other, began = opened(env), opened(twin), perf_counter()
        # What each trial changed; a trial whose actions are the same by chance changes nothing.
        trials: list[set[Place]] = []
        # Until one stream of random numbers has moved on in one of them alone.
        are_alike = True
        while are_alike and len(trials) < TRIALS and perf_counter() - began < max(stage.budget.seconds, 1):
            for _ in range(len(trials) % BEFORE):
                action = one.action()
                one.step(action)
                other.step(action.clone())
            action, different = one.action(), one.action()
            different[1:] = action[1:]
            if (changed := _changed(one, other, action, different)) is None:
                break
            trials.append(changed)
            one.begin()
            other.begin()
            are_alike = torch.equal(one.observation, other.observation)
    if not trials:
        raise UncheckedError("no two steps could be compared")
    rows = [{row for _, row in changed} for changed in trials]
    in_its_own, in_others = sum(0 in it for it in rows), sum(bool(it - {0}) for it in rows)
    figure = f"another action in row 0 changed that row in {in_its_own} of {len(trials)} trials, others in {in_others}"
    if not stage.play.stayed:
        figure += "; all ended together, so that no reset was for some alone"
    if in_others and not _mixed_up(trials):
        # Rows may draw from one stream, as many numbers as they need.
        return Measured(Status.WARN, f"{figure}, which random numbers may explain")
    return holds(not in_others, figure)


def _changed(one: Play, other: Play, action: Tensor, different: Tensor) -> set[Place] | None:
    """What differs first in two plays once their actions have differed; None if they cannot go on."""
    for _ in range(AFTER):
        if not (one.step(action) and other.step(different)) or one.last is None or other.last is None:
            return None
        pairs = {name: (getattr(one.last, name), getattr(other.last, name)) for name in Step.__slots__}
        found = {
            (name, row) for name, (a, b) in pairs.items() for row in range(BATCH) if not torch.equal(a[row], b[row])
        }
        if found or one.last.ended.any():
            return found
        action = one.action()
        different = action.clone()
    return set()


def _mixed_up(trials: list[set[Place]]) -> bool:
    """Whether something of an answer always changes in another row alone, as if it were that of row 0."""
    telling = [changed for changed in trials if changed]
    in_its_own = {name for changed in telling for name, row in changed if row == 0}
    always = set.intersection(*({name for name, row in changed if row} for changed in telling))
    return bool(always - in_its_own)
