"""MiniGrid's view read as objects, not as brightness."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, MultiDiscrete

from seqrl.spaces import Array


class Symbols(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Shows each cell of the view as three choices: object, colour and state.

    Read as image bytes, they would be levels of brightness: a ball slightly brighter than a key.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        # An optional dependency.
        from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

        super().__init__(env)
        assert isinstance(env.observation_space, Dict)
        view = env.observation_space["image"]
        sizes = np.array([len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)])
        symbols = MultiDiscrete(np.broadcast_to(sizes, view.shape or ()).copy())
        self.observation_space = Dict({**env.observation_space.spaces, "image": symbols})

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        image: Array = observation["image"]
        return {**observation, "image": image.astype(np.int64)}
