"""An environment with every kind of space, which needs memory and echoes the actions it receives."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces


class Everything(gymnasium.Env[Any, Any]):
    """Shows nested images, numbers and choices; takes a choice, switches and numbers at once. Reward depends on both.

    Episodes have 5 to 9 steps. The mask forbids repeating the last move.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    observation_space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (3, 4, 3), np.uint8),
            "body": spaces.Tuple([spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(3, start=5)]),
            "cards": spaces.MultiDiscrete([2, 4]),
            "lamps": spaces.MultiBinary(3),
            "action_mask": spaces.Dict({"keys": spaces.MultiBinary(5), "move": spaces.MultiBinary(4)}),
            "mission": spaces.Text(8),
        }
    )
    action_space = spaces.Dict(
        {
            "arm": spaces.Box(np.array([0.0, -np.inf]), np.array([10.0, np.inf]), dtype=np.float64),
            "keys": spaces.MultiDiscrete([3, 2]),
            "lamps": spaces.MultiBinary(3),
            "move": spaces.Discrete(4, start=1),
        }
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock, self.length = 0, int(self.np_random.integers(5, 10))
        self.last: dict[str, Any] = {"arm": np.zeros(2), "keys": [0, 0], "lamps": np.zeros(3, np.int8), "move": 1}
        return self.observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        assert self.mask()["move"][action["move"] - 1], "a move that is not allowed"
        self.clock += 1
        self.last = action
        reward = float(action["move"] + action["arm"][0] / 10)
        return self.observation(), reward, self.clock == self.length, False, {}

    def mask(self):
        move = np.ones(4, np.int8)
        move[self.last["move"] - 1] = 0
        return {"keys": np.ones(5, np.int8), "move": move if self.clock < self.length else 0 * move}

    def observation(self):
        return {
            "image": self.np_random.integers(0, 256, (3, 4, 3), dtype=np.uint8),
            "body": (np.array([self.clock, self.last["arm"][0]], np.float32), np.int64(5 + self.clock % 3)),
            "cards": np.array([self.clock % 2, self.last["move"] - 1]),
            "lamps": np.array(self.last["lamps"], np.int8),
            "action_mask": self.mask(),
            "mission": "remember",
        }


class MaskInInfo(gymnasium.Env[Any, Any]):
    """Two choices with a mask in info, which allows only the next one in turn."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    observation_space, action_space = spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([3, 2])

    def __init__(self, faulty: str = "") -> None:
        self.faulty = faulty

    def info(self):
        if self.faulty:
            return {"none": {}, "size": {"action_mask": np.ones(4)}, "nothing": {"action_mask": np.zeros(5)}}[
                self.faulty
            ]
        return {"action_mask": (np.arange(3) == self.clock % 3, np.arange(2) == self.clock % 2)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return np.zeros(3, np.float32), self.info()

    def step(self, action):
        assert action.tolist() == [self.clock % 3, self.clock % 2]
        self.clock += 1
        return np.full(3, self.clock / 10, np.float32), 1.0, False, self.clock == 7, self.info()


ID = "test/Everything-v0"

gymnasium.register(ID, Everything, disable_env_checker=True)
gymnasium.register("test/MaskInInfo-v0", MaskInInfo, disable_env_checker=True)
