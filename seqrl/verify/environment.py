"""Checks that an environment must pass before you train with it.

Everything is played with random actions. A play is repeated under other circumstances, in a new environment, later in
the same one, beside a copy, in another process, and its answers must not differ by a bit.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from gymnasium.spaces import Box

from seqrl.envs import BatchedEnv
from seqrl.envs.gym.lasting import REMEDY as LASTING_REMEDY
from seqrl.envs.gym.resets import REMEDY, AutoresetError
from seqrl.spaces import Packed, masked_alternatives, unused_mask
from seqrl.verify.batch import rows
from seqrl.verify.findings import Begin, Check, Finding, Measured, Status, UncheckedError, check, found, holds
from seqrl.verify.layers import beneath, episodes, time_limit, witnesses
from seqrl.verify.play import BATCH, Budget, MakeEnv
from seqrl.verify.repetition import copies, drawing, processes, repeats, repeats_later, restores
from seqrl.verify.replay import opened
from seqrl.verify.stage import FIRST, LIMIT_IT, Stage
from seqrl.verify.vector import apart, ghosts, limited, varied

# Bytes that use no more than this share of their range are hardly seen, and what so few do is no habit.
SMALL = 0.1
# Ends by a time limit from which on they show a habit, and seeds to compare.
FEW_CUTS, FEW_SEEDS = 5, 8


def env_checks(
    make_env: MakeEnv,
    budget: Budget | None = None,
    whole_episodes: bool = True,
    begin: Begin = lambda name: None,
    make_drawn: MakeEnv | None = None,
) -> Iterator[Finding]:
    """Whether the environment is repeatable and fit to learn from."""
    stage = Stage(make_env, budget or Budget(), whole_episodes, make_drawn)
    begin(plays.name)
    try:
        can_be_stepped = stage.play.last is not None
    except AutoresetError as error:
        return iter([Finding(ghosts.name, Status.FAIL, str(error).removesuffix(f" {REMEDY}"), ghosts.remedy)])
    # Nothing else can be said about what can't be stepped.
    return found(CHECKS if can_be_stepped else [plays, observations], stage, begin)


def is_playable(findings: list[Finding]) -> bool:
    """Whether a network may be fed with what the environment shows."""
    needed = [finding for finding in findings if finding.name in (plays.name, observations.name)]
    return bool(needed) and all(finding.is_good for finding in needed)


@check("it plays", "Fix the environment.")
def plays(stage: Stage) -> Measured:
    """It answers random actions without an error."""
    play = stage.play
    # An observation outside its space has a check of its own.
    fault = "" if play.outside else play.fault
    fewer = f"; {BATCH * stage.budget.least:,} are usual, but it is slow" if stage.least < stage.budget.least else ""
    return holds(not fault, fault or f"{play.steps:,} random steps, {play.ends:,} episodes ended{fewer}")


@check(
    "observations lie in their space",
    "Fix the observations, or widen observation_space: they must be finite, and within its shape and bounds.",
)
def observations(stage: Stage) -> Measured | None:
    """Shape, bounds and finite numbers, over a long play and many resets."""
    play = stage.play
    if play.fault and not play.outside and not play.last:
        return None
    begun, outside = play.begun, play.outside
    if not (outside or play.fault):
        more = stage.resets
        begun, outside = begun + more.begun, more.outside or more.fault
    return holds(not outside, outside or f"{play.steps:,} steps and {begun:,} resets: all do")


@check(
    "bytes use the range of their space",
    "They are scaled by the bounds of their space: declare those that they have, such as Box(0, 1, …, uint8) for bits, "
    "or kinds as MultiDiscrete; or show them as they are, as floats, with env.wrappers: "
    "[{_target_: gymnasium.wrappers.DtypeObservation, dtype: float32}].",
)
def bytes_used(stage: Stage) -> Measured | None:
    """Bytes, as those of an image, are not small for the bounds that they are scaled by."""
    space, largest = stage.play.env.observation_space, stage.play.largest
    if not largest:
        return None
    small = []
    for name, most in largest.items():
        part = space.parts[name] if isinstance(space, Packed) else space
        assert isinstance(part, Box)
        low, high = int(part.low.min()), int(part.high.max())
        if (most - low) <= SMALL * (high - low):
            small.append(f"{f'part {name!r}: ' if name else ''}none of {low} to {high} is more than {most}")
    return Measured(Status.WARN if small else Status.PASS, "; ".join(small) or "they do")


@check(
    "the spaces stay as they are",
    "Set observation_space and action_space in the constructor, and leave them: networks are built for them.",
)
def fixed(stage: Stage) -> Measured | None:
    """Neither a reset nor a step changes the spaces."""
    with stage.new() as env:
        before = _spaces(env)
        if before is None:
            return None
        # Some spaces are not equal to their own copies.
        known = {name: copied for name, space in before.items() if (copied := copy.deepcopy(space)) == space}
        opened(env).steps_until(50, lambda play: bool(play.ends))
        after = _spaces(env) or {}
    changed = [f"{name} was {space}, and is {after[name]}" for name, space in known.items() if after[name] != space]
    return holds(not changed, changed[0] if changed else "neither a reset nor steps change them")


def _spaces(env: BatchedEnv) -> dict[str, Any] | None:
    """Spaces of Gymnasium's environment beneath, the first one's; None if there is none."""
    if (envs := beneath(env)) is None:
        return None
    first = getattr(envs, "envs", [envs])[0].unwrapped
    kind = "single_" if hasattr(first, "single_action_space") else ""
    return {name: getattr(first, f"{kind}{name}") for name in ("observation_space", "action_space")}


@check("no wrapper keeps statistics", f"Leave it out, and {LASTING_REMEDY}")
def statistics(stage: Stage) -> Measured | None:
    """No wrapper keeps statistics from episode to episode, which evaluations and resumed runs begin without."""
    with stage.new() as env:
        played = episodes(env)
        names = ", ".join(played.lasting()) if played else ""
    return Measured(Status.WARN, f"{names}: evaluations and resumed runs begin without them") if names else None


@check(
    "the process stays as it is",
    "Leave alone what holds for the whole process, or set it only while you need it. A run has its own again after "
    "every call, but for threads that torch begins meanwhile.",
)
def process_settings(stage: Stage) -> Measured | None:
    """Nothing that holds for the whole process is changed, such as rounding, limits, the working folder or torch."""
    with stage.new() as env:
        played = episodes(env)
        if played is None:
            return None
        opened(env).steps_until(stage.least // 4, lambda _: False)
        env.close()
    changed = sorted(played.guard.put_back)
    if changed:
        return Measured(Status.WARN, f"it changes {', '.join(changed)}")
    return Measured(Status.PASS, "nothing was changed for the whole process")


@check("actions are left as they are", "Do not write to the action: use action = action * 0.5, not action *= 0.5.")
def actions(stage: Stage) -> Measured:
    """Neither the batched interface nor a single environment writes to its actions."""
    with stage.new() as env:
        seen = witnesses(env)
        play, changed = opened(env), 0
        for _ in range(min(stage.least, len(stage.play.answers) // 2)):
            action = play.action()
            before = action.clone()
            if not play.step(action):
                break
            changed += not torch.equal(before, action) or any(witness.changed for witness in seen)
    if not play.steps:
        raise UncheckedError(f"no step could be played: {play.fault}", FIRST)
    return holds(not changed, f"{changed:,} of {play.steps // BATCH:,} were changed, 0 allowed")


@check("the action mask is used", "")
def masks(stage: Stage) -> Measured | None:
    """A mask of allowed actions, in info or in a part of the observation, is one that the policy uses."""
    with stage.new() as env:
        seen = witnesses(env)
        opened(env).step()
        space = env.observation_space
        choices = sum(masked_alternatives(env.action_space))
    if not choices:
        return None
    if isinstance(space, Packed) and space.mask:
        return Measured(Status.PASS, "the policy chooses only what it allows")
    if any(witness.mask_in_info for witness in seen):
        own = "" if seen[0].is_single else " and env.backend=sync"
        return Measured(Status.WARN, "info['action_mask'] is not used", f"Use env.action_mask=info{own}.")
    if name := unused_mask(space, env.action_space):
        return Measured(Status.WARN, f"part {name!r} of the observation is not used", f"Use env.action_mask={name}.")
    return None


@check(
    "episodes end",
    f"{LIMIT_IT} A run with rollout_length=128 does not wait for ends.",
)
def ends(stage: Stage) -> Measured | None:
    """An episode ends, unless a run does not wait for it."""
    if not stage.whole_episodes:
        return None
    longest = stage.longest
    if not longest.ends and longest.steps < stage.budget.endless:
        with stage.new() as env:
            limit = time_limit(env)
        if limit:
            return holds(True, f"its time limit ends them after {limit:,} steps")
        why = f"none ended within {longest.steps:,} random steps, {longest.fault or 'and time was over'}"
        raise UncheckedError(why, FIRST if longest.fault else "")
    figure = f"{longest.ends:,} ended within {longest.steps:,} random steps"
    if longest.terminated == longest.ends >= FEW_CUTS and len(longest.terminated_after) == 1:
        (steps,) = longest.terminated_after
        figure += f", each terminated after {steps:,} (a time limit must truncate instead)"
    return holds(longest.ends > 0, figure)


@check(
    "the final observation is its own",
    "Return the last observation of the episode that ended, not the first of the next; a time limit is bootstrapped "
    "from it. If the two look alike by design, ignore this.",
)
def final(stage: Stage) -> Measured | None:
    """An episode ends with an observation of its own: not the next one's first, nor the one before, nor a blank."""
    play = stage.longest
    if not play.own + play.alike:
        raise stage.without_end(play)
    figure = f"{play.alike:,} of {play.own + play.alike:,} equal the next episode's first one"
    if not play.own and play.common:
        return Measured(Status.WARN, f"{figure}, and so do others: nothing can be concluded")
    cuts, others = play.truncated, play.steps - play.ends
    if cuts >= FEW_CUTS and play.stale == cuts and play.still <= SMALL * others:
        of_others = f"and {play.still:,} of {others:,} other steps do"
        return holds(False, f"all {cuts:,} that a time limit ends show what the step before showed, {of_others}")
    if cuts >= FEW_CUTS and len(play.cut_finals) == 1 and len(play.shown) > cuts:
        figure = f"all {cuts:,} that a time limit ends show one and the same, other steps {len(play.shown):,} others"
        return Measured(Status.WARN, figure)
    return holds(play.own > 0, figure)


@check(
    "every seed has its own random stream",
    "Give reset's seed to super().reset(seed=seed) as it is, or runs and evaluations play the same few episodes.",
)
def seeds(stage: Stage) -> Measured | None:
    """Environments with different seeds draw from different states of self.np_random."""
    states = []
    for number in range(FEW_SEEDS // BATCH):
        with stage.new(f"verify seed {number}") as env:
            opened(env)
            streams = [vars(it.unwrapped).get("_np_random") for it in getattr(beneath(env), "envs", [])]
            states += [str(stream.bit_generator.state) for stream in streams if stream is not None]
    if not states:
        return None
    alike = len(states) - len(set(states))
    return Measured(Status.WARN if alike else Status.PASS, f"{alike} of {len(states)} seeds draw what another one does")


CHECKS: list[Check] = [
    plays,
    observations,
    bytes_used,
    repeats,
    repeats_later,
    restores,
    statistics,
    fixed,
    copies,
    drawing,
    varied,
    apart,
    rows,
    limited,
    processes,
    process_settings,
    actions,
    masks,
    ghosts,
    ends,
    final,
    seeds,
]
