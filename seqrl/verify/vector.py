"""Checks of environments that are played together: how copies begin, and that an end concerns one alone."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from seqrl.envs.gym.resets import FEW, read_ends
from seqrl.errors import described
from seqrl.machine import perf_counter
from seqrl.verify.findings import Measured, UncheckedError, check, holds
from seqrl.verify.layers import beneath, episodes, spends_steps, witnesses
from seqrl.verify.play import BATCH, Play
from seqrl.verify.replay import difference, opened
from seqrl.verify.stage import Stage

# First observations to see.
FIRSTS = 50
# Steps of a time limit that is tried.
BRIEF = 3
# Resets, or ends, from which something can be concluded.
ENOUGH = 12


@check(
    "copies begin differently",
    "Draw numbers for each copy, such as self.np_random.random(self.num_envs): equal episodes teach no more than one.",
)
def varied(stage: Stage) -> Measured | None:
    """Where episodes begin differently from reset to reset, so do the copies of a batch."""
    many = stage.resets
    resets = many.begun // BATCH
    if many.fault or resets < ENOUGH or len(many.firsts) == 1:
        return None
    return holds(many.unlike > 0, f"at {many.unlike:,} of {resets:,} resets, copies began differently")


@check(
    "an episode's end leaves the others alone",
    "Begin a new episode in the copies that have ended, and in no others.",
)
def apart(stage: Stage) -> Measured | None:
    """In a vector form, the action of a copy counts as usual while another copy begins a new episode."""
    with stage.new() as env, stage.new() as twin:
        envs = beneath(env)
        if envs is None or hasattr(envs, "envs"):
            return None
        stage.require_repetition()
        one, other, began = opened(env), opened(twin), perf_counter()
        # Whether another action of the first copy showed, at usual steps and while the second one begins an episode.
        showed: dict[bool, list[bool]] = {False: [], True: []}
        for trial in range(4 * ENOUGH):
            beside = bool(trial % 2)
            late = perf_counter() - began > 2 * max(stage.budget.seconds, 1)
            if late or not _alike_until_second_begins(one, other, stage.least, beside):
                break
            action = one.action()
            another = action.clone()
            another[0] = next((it for _ in range(50) if not torch.equal(it := one.action()[0], action[0])), action[0])
            if one.step(action) and other.step(another):
                showed[beside].append(not torch.equal(one.observation[0], other.observation[0]))
            # A reset of the batch begins both anew, alike.
            one.begin()
            other.begin()
    usual, beside_begin = sum(showed[False]), sum(showed[True])
    if len(showed[True]) < ENOUGH or usual < 0.9 * len(showed[False]):
        # It ends too seldom, or an action does not show at once.
        return None
    return holds(beside_begin > 0, f"an action showed at {beside_begin} of {len(showed[True])} such steps")


@check(
    "a vector form keeps its time limit",
    "Truncate an episode of each copy after max_episode_steps steps, which Gymnasium hands to the constructor of the "
    "vector form where it wraps single environments in TimeLimit; or use env.backend=sync.",
)
def limited(stage: Stage) -> Measured | None:
    """A vector form truncates episodes where single environments are truncated; tried with a limit of a few steps."""
    with stage.new() as env:
        played = episodes(env)
        spec = None if played is None or hasattr(played.envs, "envs") else getattr(played.envs, "spec", None)
        if played is None or spec is None or spec.max_episode_steps is None:
            return None
        kwargs = {**spec.kwargs, "max_episode_steps": BRIEF}
        with played.guard, closing(_built(replace(spec, kwargs=kwargs))) as brief:
            brief.action_space.seed(0)
            brief.reset(seed=0)
            goes_on = np.ones(brief.num_envs, np.bool_)
            for step in range(1, BRIEF + 1):
                answer = brief.step(brief.action_space.sample())
                terminated, truncated = read_ends(answer[2], answer[3], brief.num_envs)
                reached, goes_on = goes_on, goes_on & ~(terminated | truncated)
                if step < BRIEF and (truncated & reached).any():
                    return holds(False, f"with max_episode_steps={BRIEF}, an episode is truncated after {step}")
    if not reached.any():
        raise UncheckedError(f"no episode lasts {BRIEF} random steps")
    late = int((reached & ~truncated).sum())
    return holds(not late, f"with max_episode_steps={BRIEF}, {late} of {int(reached.sum())} were not truncated then")


def _built(spec: EnvSpec) -> Any:
    try:
        return gymnasium.make_vec(spec)
    except Exception as error:
        limit = spec.kwargs["max_episode_steps"]
        raise UncheckedError(f"it can't be built with max_episode_steps={limit}: {described(error)}") from error


def _alike_until_second_begins(one: Play, other: Play, steps: int, begins: bool) -> bool:
    """Play two alike until the second environment alone is about to begin an episode, or else just some steps."""
    for step in range(steps):
        if not begins and step >= 2:
            return True
        action = one.action()
        if not (one.step(action) and other.step(action.clone())) or one.last is None:
            return False
        ended = one.last.ended
        if begins and bool(ended[1]) and not bool(ended[0]):
            return True
    return False


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
                raise stage.without_end(play)
        return None
    if play.ghost_rewards:
        return holds(False, f"{len(play.ghost_rewards):,} of {play.ghosts:,} gave a reward, {play.ghost_rewards[0]:g}")
    with stage.new() as env:
        seen, fresh = witnesses(env), opened(env)
        fresh.steps_until(stage.least, lambda it: bool(it.ends))
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
        for _ in range(max(stage.least, len(play.answers) // 2)):
            if one.ghosts and one.steps >= BATCH * stage.least:
                break
            action = one.action()
            # Other actions on the steps that are spent on a reset alone.
            different = one.action().where(ended.view(-1, *[1] * (action.dim() - 1)), action)
            if not (one.step(action) and other.step(different)) or one.last is None:
                break
            ended = one.last.ended
    if not one.ghosts:
        raise stage.without_end(one)
    return holds(difference(one, other) is None, f"{one.ghosts:,} such steps: what is done there must change nothing")
