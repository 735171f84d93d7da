"""Episodes of a vector environment, whatever its way of beginning the next one.

Gymnasium knows three ways: reset when asked (DISABLED), within the step that ends an episode (SAME_STEP), or with the
step after it (NEXT_STEP). All are played alike: `reset` begins episodes, `step` returns the final observation.
"""

from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from seqrl import seeds
from seqrl.envs.errors import EnvError
from seqrl.envs.spaces import Array

Answer = tuple[Array, Array, Array, Array, Array]
"""Observation, reward, terminated, truncated, valid; each [B, ...]."""


class Episodes(Protocol):
    """What a strategy does; the meaning of both methods is BatchedEnv's, in the environment's own units."""

    envs: VectorEnv[Any, Any, Any]

    def reset(self, where: Array | None = None) -> Array: ...

    def step(self, action: Array) -> Answer: ...


def episode_seed(seed: int, *index: int) -> int:
    """Seed of one episode, 31 bits: environments hand it on to generators that often take no more."""
    return seeds.stream(seed, "environment", *index) >> 32


class SeededEpisodes:
    """Episodes of environments that reset when asked, each from the seed of its environment and number."""

    def __init__(self, envs: VectorEnv[Any, Any, Any], seed: int) -> None:
        self.envs, self.seed = envs, seed
        self._number = np.zeros(envs.num_envs, dtype=np.int64)
        self._observation: Array = np.empty(0)

    def reset(self, where: Array | None = None) -> Array:
        where = np.ones(self.envs.num_envs, dtype=np.bool_) if where is None else where
        if where.any():
            episode_seeds: Any = [None] * len(where)
            for index in where.nonzero()[0].tolist():
                episode_seeds[index] = episode_seed(self.seed, index, int(self._number[index]))
            self._number += where
            self._observation, _ = self.envs.reset(seed=episode_seeds, options={"reset_mask": where})
        return self._observation

    def step(self, action: Array) -> Answer:
        self._observation, reward, terminated, truncated, _ = self.envs.step(action)
        return self._observation, reward, terminated, truncated, np.ones(self.envs.num_envs, dtype=np.bool_)


class OwnEpisodes:
    """Episodes of an environment with a vector form of its own, seeded whenever all of them begin."""

    def __init__(self, envs: VectorEnv[Any, Any, Any], seed: int) -> None:
        self.envs, self.seed = envs, seed
        self._resets = 0
        self._observation: Array = np.empty(0)
        self._ended = np.zeros(envs.num_envs, dtype=np.bool_)

    def reset(self, where: Array | None = None) -> Array:
        if where is not None:
            self._begin(where)
        else:
            self._observation, _ = self.envs.reset(seed=episode_seed(self.seed, self._resets))
            self._ended = np.zeros_like(self._ended)
            self._resets += 1
        return self._observation

    def _begin(self, where: Array) -> None:
        """Begin episodes where asked; nothing to do for environments that begin them unasked."""


class NextStepEpisodes(OwnEpisodes):
    """The step after an end is spent on the reset: it plays nothing, and its observation is the new episode's first."""

    def step(self, action: Array) -> Answer:
        valid = ~self._ended
        self._observation, reward, terminated, truncated, _ = self.envs.step(action)
        self._ended = np.asarray(terminated | truncated)
        return self._observation, reward, terminated, truncated, valid


class SameStepEpisodes(OwnEpisodes):
    """The step that ends an episode begins the next one: `reset` hands out what it began with."""

    def step(self, action: Array) -> Answer:
        self._observation, reward, terminated, truncated, info = self.envs.step(action)
        observation, ended = self._observation, np.asarray(terminated | truncated)
        if ended.any():
            if "final_obs" not in info:
                raise EnvError(
                    "env.backend: the environment's own vector form ends an episode without info['final_obs']. "
                    "Use env.backend=sync."
                )
            observation = np.array(observation)
            # An array of arrays, None where no episode ended, or simply a batch.
            observation[ended] = np.stack(np.asarray(info["final_obs"])[ended])
        return observation, reward, terminated, truncated, np.ones_like(ended)


class DisabledEpisodes(OwnEpisodes):
    """Episodes begin when asked, and at the latest with the next step: what has ended must not be stepped."""

    def _begin(self, where: Array) -> None:
        if where.any():
            self._observation, _ = self.envs.reset(options={"reset_mask": where.copy()})
            self._ended = self._ended & ~where

    def step(self, action: Array) -> Answer:
        self._begin(self._ended)
        self._observation, reward, terminated, truncated, _ = self.envs.step(action)
        self._ended = np.asarray(terminated | truncated)
        return self._observation, reward, terminated, truncated, np.ones_like(self._ended)


OWN_EPISODES: dict[AutoresetMode, type[NextStepEpisodes | SameStepEpisodes | DisabledEpisodes]] = {
    AutoresetMode.NEXT_STEP: NextStepEpisodes,
    AutoresetMode.SAME_STEP: SameStepEpisodes,
    AutoresetMode.DISABLED: DisabledEpisodes,
}
