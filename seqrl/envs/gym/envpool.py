"""EnvPool's environments, which run side by side in C++ threads."""

import difflib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from gymnasium import Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from seqrl.envs.gym.autoreset import episode_seed
from seqrl.errors import EnvError
from seqrl.packages import how_to_install, is_installed


def library() -> Any:
    """The envpool module; raises EnvError if it is not installed."""
    if not is_installed("envpool"):
        raise EnvError(f"env.backend: envpool is not installed. {how_to_install('envpool')}")
    import envpool

    return envpool


def spaces(id: str, **settings: Any) -> tuple[Space[Any], Space[Any]]:
    """Observation and action space of one environment; raises EnvError if it has several players."""
    with quiet():
        spec = library().make_spec(id, **settings)
        if spec.config.max_num_players > 1:
            raise EnvError(f"env.id: {id!r} has several players. Use an environment with one player.")
        return spec.gymnasium_observation_space, spec.gymnasium_action_space


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Gymnasium's warnings about EnvPool's spaces, whose bounds are more precise than their dtype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Pool(VectorEnv[Any, Any, Any]):
    """EnvPool's environments called `id`, as a Gymnasium vector environment.

    The step after an end only resets. EnvPool takes seeds only when it creates environments, so a reset with a seed
    creates them again. It gives one reason for an end: an episode that fails at its time limit counts as truncated.

    kwargs   of EnvPool's configuration: num_threads, max_episode_steps, img_height, ...

    Raises EnvError if EnvPool is not installed, has no such environment, or if the environment has several players.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  # as Gymnasium has it

    def __init__(self, id: str, num_envs: int, kwargs: Mapping[str, Any]) -> None:
        if id not in (known := library().list_all_envs()):
            close = difflib.get_close_matches(id, known, n=3, cutoff=0.8)
            meant = f" Did you mean {' or '.join(close)}?" if close else ""
            raise EnvError(
                f"env.id: EnvPool has no environment {id!r}.{meant} python -m seqrl.envs envpool lists them."
            )
        self.single_observation_space, self.single_action_space = spaces(id, num_envs=num_envs, **kwargs)
        self.num_envs = num_envs
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._make = partial(library().make, id, env_type="gymnasium", num_envs=num_envs, **kwargs)
        self._pool: Any = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with quiet():
            if seed is not None:
                self._pool = self._make(seed=[episode_seed(seed, index) for index in range(self.num_envs)])
            observation, info = self._pool.reset()
        return observation, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._pool.step(actions)
        return observation, reward, terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        self._pool = None
