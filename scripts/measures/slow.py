"""An environment that takes a millisecond of a core for every step."""

import time
from typing import Any

import gymnasium
import numpy as np

SECONDS = 1e-3


class Slow(gymnasium.Env[Any, Any]):
    """Two numbers to see, two choices, episodes of 100 steps."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self._clock = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Compute for a millisecond."""
        until = time.thread_time() + SECONDS
        while time.thread_time() < until:
            pass
        self._clock += 1
        return self.np_random.random(2).astype(np.float32), 1.0, self._clock == 100, False, {}


gymnasium.register("Slow-v0", entry_point=f"{__name__}:Slow")
