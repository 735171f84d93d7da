"""Checks that an environment must pass before you train with it.

Everything is played with random actions. A play is repeated under other circumstances, in a new environment, later in
the same one, beside a copy, in another process, and its answers must not differ by a bit.
"""

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from gymnasium.spaces import Box
from gymnasium.wrappers import TimeLimit

from seqrl.envs import BatchedEnv, GymnasiumEnv
from seqrl.envs.gym.autoreset import NextStepEpisodes
from seqrl.envs.gym.flatten import FlattenedEnv
from seqrl.envs.gym.guard import GuardedEnv
from seqrl.envs.gym.lasting import REMEDY as LASTING_REMEDY
from seqrl.envs.gym.resets import FINAL, REMEDY, AutoresetError
from seqrl.envs.inputs import WithInputs
from seqrl.spaces import ACTION_MASK, Packed, masked_alternatives, unused_mask
from seqrl.verify.findings import Check, Finding, Measured, Status, UncheckedError, check, found, holds
from seqrl.verify.play import (
    BATCH,
    Budget,
    MakeEnv,
    Play,
    difference,
    elsewhere,
    global_streams_seeded,
    opened,
    reference,
    retold,
    rewound,
    stopped_early,
)

# Bytes that use no more than this share of their range are hardly seen.
SMALL = 0.1
# First observations to see, and how many different ones are few enough to have seen all.
FIRSTS, FEW = 50, 4


@dataclass(frozen=True)
class Stage:
    """An environment to check.

    make_env         builds environments from their number and the name of their random stream
    budget           how long to play
    whole_episodes   whether a run waits for episodes to end
    """

    make_env: MakeEnv
    budget: Budget = field(default_factory=Budget)
    whole_episodes: bool = True

    @cached_property
    def play(self) -> Play:
        return reference(self.make_env, self.budget)

    def new(self, stream: str = "verify") -> "closing[BatchedEnv]":
        return closing(self.make_env(BATCH, stream))

    @cached_property
    def again(self) -> Play:
        with self.new() as env:
            return retold(env, len(self.play.answers))

    @cached_property
    def longest(self) -> Play:
        """The play, or one that goes on until an episode ends, if none did: alone, and as far as the budget goes."""
        if self.play.ends or self.play.fault:
            return self.play
        with closing(self.make_env(1, "verify")) as env:
            alone, began = opened(env), time.perf_counter()
            while not (alone.ends or alone.fault) and alone.steps < self.budget.endless:
                if time.perf_counter() - began > self.budget.wait:
                    break
                alone.steps_until(50, lambda it: bool(it.ends))
            # Where the next step is spent on the reset, it shows the next first observation.
            alone.step()
        return alone

    def require_repetition(self) -> None:
        """Raise UncheckedError unless a new environment repeats what was played."""
        if difference(self.play, self.again) is not None or stopped_early(self.play, self.again, ""):
            raise UncheckedError("the environment does not repeat even in this process", "Fix that first.")


def env_checks(make_env: MakeEnv, budget: Budget | None = None, whole_episodes: bool = True) -> Iterator[Finding]:
    """Whether the environment is repeatable and fit to learn from."""
    stage = Stage(make_env, budget or Budget(), whole_episodes)
    try:
        can_be_stepped = stage.play.last is not None
    except AutoresetError as error:
        return iter([Finding(ghosts.name, Status.FAIL, str(error).removesuffix(f" {REMEDY}"), ghosts.remedy)])
    # Nothing else can be said about what can't be stepped.
    return found(CHECKS if can_be_stepped else [plays, observations], stage)


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
    return holds(not fault, fault or f"{play.steps:,} random steps, {play.ends:,} episodes ended")


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
        with stage.new() as env:
            more, began = opened(env), time.perf_counter()
            # Random streams of their own, so that these are other episodes than those that were played.
            while not (more.outside or more.fault) and more.begun < stage.budget.resets:
                if more.begun > stage.budget.resets / 4 and time.perf_counter() - began > stage.budget.seconds:
                    break
                more.begin()
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
    "environment repeats with seed and actions",
    "Draw all randomness from self.np_random, which reset(seed=…) seeds, and keep all state in self, not in the class.",
)
def repeats(stage: Stage) -> Measured:
    """Two new environments with the same seed answer the same actions alike."""
    play, again = stage.play, stage.again
    if (index := difference(play, again)) is not None:
        figure = f"{_when(play, index)} differs in a second environment{_from_global_streams(stage, index)}"
        return holds(False, figure)
    if early := stopped_early(play, again, again.fault):
        return holds(False, f"in a second environment, {early}")
    with stage.new("verify another seed") as env:
        other = retold(env, min(len(play.answers), 600))
    idle = "; the seed changes nothing" if difference(play, other) is None else ""
    return holds(True, f"none of {len(again.answers):,} answers differs{idle}")


def _when(play: Play, index: int) -> str:
    return f"the answer to step {play.clock[index]:,}" if play.clock[index] else "the first observation"


def _from_global_streams(stage: Stage, index: int) -> str:
    replayed = []
    for _ in range(2):
        with global_streams_seeded(), stage.new() as env:
            replayed.append(retold(env, index + 1))
    if difference(*replayed) is not None:
        return ""
    return ", but not if the global streams of random, NumPy and torch are seeded: it draws from one of these"


@check(
    "the same seed repeats later, too",
    "reset(seed=…) must begin anew: forget the episode before, however it ended, count no episodes, and heed every "
    "seed, not only the first.",
)
def repeats_later(stage: Stage) -> Measured | None:
    """Taken back to its first seed after a truncation, a termination and midway, it begins the same episodes again."""
    stage.require_repetition()
    play, after = stage.play, []
    steps = len(play.answers) // 2
    with stage.new() as env:
        live = Play(env)
        state = env.state_dict()
        if state is None or ("env" in state and state["env"] is None):
            return None
        for moment, wanted in MOMENTS.items():
            live.steps_until(steps // 6, lambda _: False)
            if not live.steps_until(steps if getattr(play, moment, True) else 0, wanted):
                continue
            live = rewound(env, state, 2 * len(play.answers) // 3)
            after.append(SAID[moment])
            if (index := difference(play, live)) is not None or live.fault:
                differs = live.fault if index is None else f"{_when(stage.play, index)} differs"
                return holds(False, f"{differs} when the same seed comes again {after[-1]}")
    if not after:
        raise UncheckedError("no moment came to give it the same seed again")
    return holds(True, f"none of {len(live.answers):,} answers differs {', '.join(after)}")


def _ended(play: Play, how: str) -> bool:
    return play.last is not None and bool(getattr(play.last, how).any())


# By what `Play` calls their number, if it counts them.
SAID = {"truncated": "after a truncation", "terminated": "after a termination", "midway": "midway"}
MOMENTS: dict[str, Callable[[Play], bool]] = {
    "truncated": lambda play: _ended(play, "truncated"),
    "terminated": lambda play: _ended(play, "terminated"),
    "midway": lambda play: not (_ended(play, "terminated") or _ended(play, "truncated")),
}


@check("no wrapper keeps statistics", f"Leave it out, and {LASTING_REMEDY}")
def statistics(stage: Stage) -> Measured | None:
    """No wrapper keeps statistics from episode to episode, which evaluations and resumed runs begin without."""
    with stage.new() as env:
        names = ", ".join(env.lasting)
    return Measured(Status.WARN, f"{names}: evaluations and resumed runs begin without them") if names else None


@check(
    "copies do not disturb each other",
    "Keep state in self, not in the class or the module, and draw randomness from self.np_random.",
)
def copies(stage: Stage) -> Measured:
    """It answers the same while a copy with another seed is played between its steps."""
    stage.require_repetition()
    with stage.new() as env, stage.new("verify another seed") as copy:
        other = Play(copy, seed=1)
        replayed = retold(env, len(stage.play.answers) // 2, beside=other.step)
    if (index := difference(stage.play, replayed)) is not None or replayed.fault:
        differs = replayed.fault if index is None else f"{_when(stage.play, index)} differs"
        return holds(False, f"{differs} beside a copy with another seed")
    if other.fault:
        return holds(False, f"a copy with another seed could not go on: {other.fault}")
    return holds(True, f"none of {len(replayed.answers):,} answers differs beside a copy with another seed")


@check(
    "another process plays the same",
    "Let nothing depend on the process: its global random streams, its id, the order of a set, the clock.",
)
def processes(stage: Stage) -> Measured:
    """It answers the same in a new process."""
    stage.require_repetition()
    replayed, fault = elsewhere(stage.make_env, len(stage.play.answers))
    if (index := difference(stage.play, replayed)) is not None:
        return holds(False, f"{_when(stage.play, index)} differs in another process")
    if early := stopped_early(stage.play, replayed, fault):
        return holds(False, f"in another process, {early}")
    return holds(True, f"none of {len(replayed):,} answers differs")


@check("actions are left as they are", "Do not write to the action: use action = action * 0.5, not action *= 0.5.")
def actions(stage: Stage) -> Measured:
    """Neither the batched interface nor a single environment writes to its actions."""
    with stage.new() as env:
        seen = witnesses(env)
        play, changed = opened(env), 0
        for _ in range(min(stage.budget.least, len(stage.play.answers) // 2)):
            action = play.action()
            before = action.clone()
            if not play.step(action):
                break
            changed += not torch.equal(before, action) or any(witness.changed for witness in seen)
    if not play.steps:
        raise UncheckedError(f"no step could be played: {play.fault}")
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


class Witness:
    """Watches what an environment does with its actions, and what its info has.

    env         single or vector environment, whose methods it takes the place of
    is_single   whether it is a single one
    """

    def __init__(self, env: Any, is_single: bool) -> None:
        self.is_single, self.changed, self.mask_in_info, self.final_in_info = is_single, False, False, False
        self._step, self._reset = env.step, env.reset
        env.step, env.reset = self.step, self.reset

    def step(self, action: Any) -> Any:
        before = pickle.dumps(action)
        answer = self._step(action)
        self.changed = before != pickle.dumps(action)
        self._look(answer)
        return answer

    def reset(self, **given: Any) -> Any:
        answer = self._reset(**given)
        self._look(answer)
        return answer

    def _look(self, answer: Any) -> None:
        # Whether it is a tuple with an info at all is for others to check.
        info = answer[-1] if isinstance(answer, tuple) else None
        if isinstance(info, dict):
            self.mask_in_info |= ACTION_MASK in info
            self.final_in_info |= any(name in info for name in FINAL)


def beneath(env: BatchedEnv) -> Any | None:
    """Gymnasium's vector environment that is played; None if it is none of Gymnasium's."""
    while isinstance(env, WithInputs):
        env = env.env
    return env._episodes.envs if isinstance(env, GymnasiumEnv) else None


def spends_steps(env: BatchedEnv) -> bool:
    """Whether it is an own vector form that spends the step after an end on the reset."""
    while isinstance(env, WithInputs):
        env = env.env
    return isinstance(env, GymnasiumEnv) and isinstance(env._episodes, NextStepEpisodes)


def witnesses(env: BatchedEnv) -> list[Witness]:
    """Watch Gymnasium's environments beneath; none if there are none."""
    if (envs := beneath(env)) is None:
        return []
    singles = [it.env for it in getattr(envs, "envs", []) if isinstance(it, GuardedEnv)]
    if not singles:
        return [Witness(envs, is_single=False)]
    return [Witness(it.env if isinstance(it, FlattenedEnv) else it, is_single=True) for it in singles]


@check(
    "a step spent on a reset plays nothing",
    "If the vector form begins the next episode within the step that ends one, say so: metadata = {'autoreset_mode': "
    "AutoresetMode.SAME_STEP}, and give info['final_obs']; or use env.backend=sync.",
)
def ghosts(stage: Stage) -> Measured | None:
    """The step after an end, which a vector form spends on its reset, gives no reward and does not heed its action."""
    play = stage.play
    if not play.ghosts:
        with stage.new() as env:
            if spends_steps(env):
                raise UncheckedError(f"no episode ended within {play.steps:,} random steps", ends.remedy)
        return None
    if play.ghost_rewards:
        return holds(False, f"{len(play.ghost_rewards):,} of {play.ghosts:,} gave a reward, {play.ghost_rewards[0]:g}")
    with stage.new() as env:
        seen, fresh = witnesses(env), opened(env)
        fresh.steps_until(stage.budget.least, lambda it: bool(it.ends))
        for _ in range(FIRSTS):
            fresh.begin()
    if any(witness.final_in_info for witness in seen):
        return holds(False, "an end comes with info['final_obs'], as if the next episode had begun")
    if len(fresh.firsts) <= FEW and not fresh.firsts & play.ghost_firsts:
        return holds(False, f"none of {play.ghosts:,} shows what episodes begin with")
    stage.require_repetition()
    with stage.new() as env, stage.new() as twin:
        one, other = opened(env), opened(twin)
        ended = torch.zeros(BATCH, dtype=torch.bool)
        for _ in range(max(stage.budget.least, len(play.answers) // 2)):
            if one.ghosts and one.steps >= BATCH * stage.budget.least:
                break
            action = one.action()
            # Other actions on the steps that are spent on a reset alone.
            different = one.action().where(ended.view(-1, *[1] * (action.dim() - 1)), action)
            if not (one.step(action) and other.step(different)) or one.last is None:
                break
            ended = one.last.terminated | one.last.truncated
    if not one.ghosts:
        raise UncheckedError(f"no episode ended within {one.steps:,} random steps", ends.remedy)
    return holds(difference(one, other) is None, f"{one.ghosts:,} such steps: what is done there must change nothing")


@check(
    "episodes end",
    "Give the environment a time limit, such as +env.kwargs.max_episode_steps=1000, or use rollout_length=128.",
)
def ends(stage: Stage) -> Measured | None:
    """An episode ends, unless a run does not wait for it."""
    if not stage.whole_episodes:
        return None
    longest = stage.longest
    if not longest.ends and longest.steps < stage.budget.endless:
        if limit := _time_limit(stage):
            return holds(True, f"its time limit ends them after {limit:,} steps")
        raise UncheckedError(
            f"none ended within {longest.steps:,} random steps, {longest.fault or 'and time was over'}"
        )
    return holds(longest.ends > 0, f"{longest.ends:,} ended within {longest.steps:,} random steps")


def _time_limit(stage: Stage) -> int | None:
    """Steps after which one of Gymnasium's wrappers ends an episode; None if there is none."""
    with stage.new() as env:
        layers = getattr(beneath(env), "envs", [])[:1]
        while layers:
            if isinstance(layers[-1], TimeLimit):
                return int(layers[-1]._max_episode_steps)
            layers = [vars(layers[-1])["env"]] if "env" in vars(layers[-1]) else []
    return None


@check(
    "the final observation is its own",
    "Return the last observation of the episode that ended, not the first of the next; a time limit is bootstrapped "
    "from it. If the two look alike by design, ignore this.",
)
def final(stage: Stage) -> Measured | None:
    """An episode ends with an observation that the next one does not begin with."""
    play = stage.longest
    if not play.own + play.alike:
        raise UncheckedError(f"no episode ended within {play.steps:,} random steps", ends.remedy)
    figure = f"{play.alike:,} of {play.own + play.alike:,} equal the next episode's first one"
    if not play.own and play.common:
        return Measured(Status.WARN, f"{figure}, and so do others: nothing can be concluded")
    return holds(play.own > 0, figure)


CHECKS: list[Check] = [
    plays,
    observations,
    bytes_used,
    repeats,
    repeats_later,
    statistics,
    copies,
    processes,
    actions,
    masks,
    ghosts,
    ends,
    final,
]
