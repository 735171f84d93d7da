"""Between a single Gymnasium environment, as its user plays it, and the policy."""

from typing import Any

import gymnasium
from gymnasium import Space

from seqrl.envs.base import Codec
from seqrl.envs.gym.flatten import FlattenedEnv, Flattening
from seqrl.envs.translate import PlainCodec
from seqrl.spaces import Array


class PartsCodec(Codec):
    """For those of several parts, and where a mask says what is allowed."""

    def __init__(self, observation_space: Space[Any], action_space: Space[Any], flattening: Flattening) -> None:
        super().__init__(observation_space, action_space)
        self._flattening = flattening
        self.mask_in_info = flattening.mask_in_info

    def encode(self, observation: Any, mask: Any = None) -> Array:
        return self._flattening.pack(observation, {} if mask is None else {"action_mask": mask})

    def decode(self, action: Array) -> Any:
        return self._flattening.action(action)


def codec_of(env: gymnasium.Env[Any, Any], hidden: Any) -> Codec:
    """The codec of an environment with its wrappers."""
    if isinstance(env, FlattenedEnv):
        return PartsCodec(env.env.observation_space, env.env.action_space, env.flattening)
    return PlainCodec(env.observation_space, env.action_space, hidden)
