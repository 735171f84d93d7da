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
NOWHERE = -1


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
        tried = alike = in_its_own = in_others = 0
        # Until one stream of random numbers has moved on in one of them alone.
        are_alike = True
        while are_alike and tried < TRIALS and perf_counter() - began < max(stage.budget.seconds, 1):
            for _ in range(tried % BEFORE):
                action = one.action()
                one.step(action)
                other.step(action.clone())
            action, different = one.action(), one.action()
            different[1:] = action[1:]
            if torch.equal(action, different):
                alike += 1
                if alike > TRIALS:
                    break
                continue
            if not (shows := _shows(one, other, action, different)):
                break
            tried += 1
            in_its_own += 0 in shows
            in_others += bool(shows - {0, NOWHERE})
            one.begin()
            other.begin()
            are_alike = torch.equal(one.observation, other.observation)
    if not tried:
        raise UncheckedError("no two steps could be compared")
    figure = f"another action in row 0 changed that row in {in_its_own} of {tried} trials, others in {in_others}"
    if not stage.play.stayed:
        figure += "; all ended together, so that no reset was for some alone"
    if in_others and in_its_own:
        # Rows may draw from one stream, as many numbers as they need.
        return Measured(Status.WARN, f"{figure}, which random numbers may explain")
    return holds(not in_others, figure)


def _shows(one: Play, other: Play, action: Tensor, different: Tensor) -> set[int]:
    """The rows in which two plays differ once their actions have differed, or NOWHERE; none if they cannot go on."""
    for _ in range(AFTER):
        if not (one.step(action) and other.step(different)) or one.last is None or other.last is None:
            return set()
        pairs = [(getattr(one.last, name), getattr(other.last, name)) for name in Step.__slots__]
        if found := {row for row in range(BATCH) if not all(torch.equal(a[row], b[row]) for a, b in pairs)}:
            return found
        if one.last.ended.any():
            break
        action = one.action()
        different = action.clone()
    return {NOWHERE}
