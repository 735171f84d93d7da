"""Environments with known answers, registered with Gymnasium by importing this module.

Every observation of a clock is (episode, steps played in it). The action decides what happens: 0 continues, 1
terminates, 2 truncates. The reward is the number of the step.
"""

import time
from collections import Counter
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

OBSERVATION = spaces.Box(0, np.inf, (2,), np.float64)
ACTION = spaces.Discrete(3)


class Clock(gymnasium.Env[Any, Any]):
    """One clock; counts its steps in `steps`, by instance."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    observation_space, action_space = OBSERVATION, ACTION
    steps: ClassVar[Counter[int]] = Counter()

    def __init__(self) -> None:
        self.state = np.array([-1.0, 0.0])
        self.over = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state[:] = self.state[0] + 1, 0
        self.over = False
        return self.state.copy(), {}

    def step(self, action):
        assert not self.over, "stepped after the end"
        self.steps[id(self)] += 1
        self.state[1] += 1
        self.over = action > 0
        return self.state.copy(), self.state[1], bool(action == 1), bool(action == 2), {"noise": time.time()}


class ClockVector(VectorEnv[Any, Any, Any]):
    """Clocks side by side that return their own buffers; keeps the seeds of its resets."""

    def __init__(self, num_envs: int, mode: AutoresetMode | None, batched_final: bool = False) -> None:
        self.num_envs, self.mode, self.batched_final = num_envs, mode or AutoresetMode.NEXT_STEP, batched_final
        self.metadata = {"render_modes": []} if mode is None else {"render_modes": [], "autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = OBSERVATION, ACTION
        self.observation_space, self.action_space = batch_space(OBSERVATION, num_envs), batch_space(ACTION, num_envs)
        self.state = np.zeros((num_envs, 2))
        self.state[:, 0] = -1
        self.reward, self.terminated, self.truncated = np.zeros(num_envs), *np.zeros((2, num_envs), dtype=bool)
        self.seeds: list[int | None] = []

    @property
    def over(self) -> np.ndarray:
        return self.terminated | self.truncated

    def begin(self, where: np.ndarray) -> None:
        self.state[where, 0] += 1
        self.state[where, 1] = 0

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        where = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        self.begin(where)
        self.terminated[where] = self.truncated[where] = False
        return self.state, {}

    def step(self, actions):
        ghost = self.over.copy()
        if self.mode is AutoresetMode.DISABLED:
            assert not ghost.any(), "stepped after the end"
        if self.mode is not AutoresetMode.NEXT_STEP:
            ghost[:] = False
        self.begin(ghost)
        self.state[~ghost, 1] += 1
        self.reward[:] = np.where(ghost, 0, self.state[:, 1])
        self.terminated[:], self.truncated[:] = (actions == 1) & ~ghost, (actions == 2) & ~ghost
        return self.state, self.reward, self.terminated, self.truncated, self.final()

    def final(self) -> dict[str, Any]:
        if self.mode is not AutoresetMode.SAME_STEP or not self.over.any():
            return {}
        if self.batched_final:
            final = np.where(self.over[:, None], self.state, np.nan)
        else:
            final = np.array([None] * self.num_envs, dtype=object)
            for index in self.over.nonzero()[0]:
                final[index] = self.state[index].copy()
        self.begin(self.over)
        return {"final_obs": final, "_final_obs": self.over.copy()}


class Seeded(gymnasium.Env[Any, Any]):
    """Shows the seed of its last reset."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}
    observation_space, action_space = spaces.Discrete(2**31), spaces.Discrete(2, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed = seed
        return seed, {}

    def step(self, action):
        assert action in self.action_space
        return self.seed, 0.0, True, False, {}


class Echo(gymnasium.Env[Any, Any]):
    """Shows the action it receives; its spaces are arguments."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, observation_space: Any, action_space: Any, size: int = 1) -> None:
        if size < 1:
            raise ValueError(f"size is {size}")
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(0)
        return self.observation_space.sample(), {}

    def step(self, action):
        return action, 0.0, False, False, {}


def lacks_a_package(**kwargs: Any) -> Any:
    raise gymnasium.error.DependencyNotInstalled('Wheels are missing, run `pip install "gymnasium[wheels]"`\nreally')


def lacks_a_module(**kwargs: Any) -> Any:
    raise ModuleNotFoundError("No module named 'wheels'")


gymnasium.register("test/Clock-v0", Clock)
for name, mode in {
    "NextStep": AutoresetMode.NEXT_STEP,
    "SameStep": AutoresetMode.SAME_STEP,
    "Disabled": AutoresetMode.DISABLED,
    "Unsaid": None,
}.items():
    gymnasium.register(f"test/{name}-v0", vector_entry_point=ClockVector, kwargs={"mode": mode})
gymnasium.register(
    "test/BatchedFinal-v0",
    vector_entry_point=ClockVector,
    kwargs={"mode": AutoresetMode.SAME_STEP, "batched_final": True},
)
gymnasium.register("test/Seeded-v0", Seeded)
gymnasium.register("test/Echo-v0", Echo, disable_env_checker=True)
gymnasium.register("test/Fallback-v0", Clock, vector_entry_point=lacks_a_package)
gymnasium.register("test/NoPackage-v0", lacks_a_package)
gymnasium.register("test/NoModule-v0", lacks_a_module)
