"""What lies beneath the batched interface: Gymnasium's environments, and what they do unseen."""

import pickle
from typing import Any

from gymnasium.wrappers import TimeLimit

from seqrl.envs import BatchedEnv, GymnasiumEnv
from seqrl.envs.gym.autoreset import NextStepEpisodes, VectorEpisodes
from seqrl.envs.gym.flatten import FlattenedEnv
from seqrl.envs.gym.guard import GuardedEnv
from seqrl.envs.gym.lasting import layers
from seqrl.envs.gym.resets import FINAL, in_info
from seqrl.envs.inputs import WithInputs
from seqrl.spaces import ACTION_MASK


def episodes(env: BatchedEnv) -> VectorEpisodes | None:
    """What plays Gymnasium's environments; None if it is none of Gymnasium's."""
    while isinstance(env, WithInputs):
        env = env.env
    return env._episodes if isinstance(env, GymnasiumEnv) else None


def beneath(env: BatchedEnv) -> Any | None:
    """Gymnasium's vector environment that is played; None if it is none of Gymnasium's."""
    played = episodes(env)
    return None if played is None else played.envs


def time_limit(env: BatchedEnv) -> int | None:
    """Steps after which Gymnasium ends an episode, or an own vector form is told to; None if there is no such limit."""
    envs = beneath(env)
    if envs is not None and not hasattr(envs, "envs"):
        # Whether it does has a check of its own.
        spec = getattr(envs, "spec", None)
        return spec and spec.kwargs.get("max_episode_steps")
    first = next(iter(getattr(envs, "envs", [])), None)
    limits = (layer for layer in layers(first) if isinstance(layer, TimeLimit))
    return next((int(limit._max_episode_steps) for limit in limits), None)


def spends_steps(env: BatchedEnv) -> bool:
    """Whether it is an own vector form that spends the step after an end on the reset."""
    return isinstance(episodes(env), NextStepEpisodes)


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
        self.final_in_info |= any(in_info(info, name) is not None for name in FINAL)


def witnesses(env: BatchedEnv) -> list[Witness]:
    """Watch Gymnasium's environments beneath; none if there are none."""
    if (envs := beneath(env)) is None:
        return []
    singles = [it.env for it in getattr(envs, "envs", []) if isinstance(it, GuardedEnv)]
    if not singles:
        return [Witness(envs, is_single=False)]
    return [Witness(it.env if isinstance(it, FlattenedEnv) else it, is_single=True) for it in singles]
