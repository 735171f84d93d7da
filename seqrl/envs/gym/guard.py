"""One environment among several, with its faults caught and named."""

import logging
import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from seqrl.envs.gym.history import as_arrays, as_tensors
from seqrl.envs.gym.timeouts import OverdueError
from seqrl.errors import FaultyEnvError, described
from seqrl.spaces import Array

log = logging.getLogger(__name__)

API = (
    "reset(seed=..., options=...) must return observation and info, and step must return five values: observation, "
    "reward, terminated, truncated, info"
)


class GuardedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Rests after an episode's end, and reports what the environment does wrong.

    While it rests, `step` costs nothing and changes nothing until `reset`.

    index    index of the environment in the batch

    `reset` and `step` raise FaultyEnvError, with episode, seed and step, if the environment raises, does not follow
    Gymnasium's API, or returns an observation of the wrong shape or a reward that is not finite.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], index: int) -> None:
        super().__init__(env)
        self.index = index
        self._shape = env.observation_space.shape
        self._final: Any = None
        self._episode, self._clock = 0, 0
        self._seed: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._final = None
        self._episode, self._clock, self._seed = self._episode + 1, 0, seed
        try:
            observation, info = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._raised(error) from error
        if not isinstance(info, dict):
            raise self._fault(f"reset returned {type(info).__name__} for info. {API}")
        self._check(observation)
        return observation, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._final is not None:
            return self._final, 0.0, False, False, {}
        self._clock += 1
        try:
            observation, reward, terminated, truncated, _ = self.env.step(action)
            reward = float(reward)
        except Exception as error:
            raise self._raised(error) from error
        if not math.isfinite(reward):
            raise self._fault(f"its reward is {reward}")
        self._check(observation)
        if terminated or truncated:
            self._final = observation
        # Nobody reads the info, and merging it across environments takes time.
        return observation, reward, bool(terminated), bool(truncated), {}

    @property
    def restores_itself(self) -> bool:
        """Whether the environment can save and restore its own state."""
        return self.has_wrapper_attr("state_dict") and self.has_wrapper_attr("load_state_dict")

    def own_state(self) -> dict[str, Any]:
        """The environment's `state_dict` and the steps played in its episode; tensors and plain data."""
        try:
            return {"env": as_tensors(self.get_wrapper_attr("state_dict")()), "clock": self._clock}
        except Exception as error:
            raise self._fault(f"its state_dict raised {described(error)}") from error

    def restore(self, number: Array, state: list[dict[str, Any]]) -> None:
        """After a reset, restore the `own_state` saved in episode `number`.

        number, state   of every environment, by index
        """
        self._episode, self._clock = int(number[self.index]), state[self.index]["clock"]
        try:
            self.get_wrapper_attr("load_state_dict")(as_arrays(state[self.index]["env"]))
        except Exception as error:
            raise self._fault(f"its load_state_dict raised {described(error)}") from error
        env = self.env
        while isinstance(env, gymnasium.Wrapper):
            if isinstance(env, TimeLimit):
                env._elapsed_steps = self._clock  # type: ignore[assignment]
            env = env.env

    def replay(self, number: Array, actions: list[Array | None]) -> Any:
        """After a reset, replay the actions of episode `number`; return the last observation, None if there is none.

        number, actions   of every environment, by index; None: no actions
        """
        self._episode = int(number[self.index])
        own_actions = actions[self.index]
        observation = None
        for action in [] if own_actions is None else own_actions:
            observation = self.step(action)[0]
        return observation

    def close(self) -> None:
        """Close the environment; only log a failure, as everything played so far is still valid."""
        try:
            super().close()
        except Exception as error:
            log.warning("environment %d failed to close: %s", self.index, described(error), exc_info=error)

    def _check(self, observation: Any) -> None:
        if self._shape is not None and np.shape(observation) != self._shape:
            raise self._fault(f"its observation has shape {np.shape(observation)}, not {self._shape}")

    def _raised(self, error: Exception) -> FaultyEnvError:
        if isinstance(error, OverdueError):
            return self._fault(str(error), remedy="Fix the environment, or raise the limit.")
        # Gymnasium's own wrappers raise these when they unpack what the environment returns.
        api = f". {API}" if isinstance(error, ValueError | TypeError | AssertionError) else ""
        return self._fault(f"it raised {described(error)}{api}")

    def _fault(self, what: str, remedy: str = "Fix the environment.") -> FaultyEnvError:
        when = f"episode {self._episode} (seed {self._seed}), step {self._clock}"
        return FaultyEnvError(f"environment {self.index}, {when}: {what}. {remedy}")
