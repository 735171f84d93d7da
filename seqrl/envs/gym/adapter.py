"""Any Gymnasium environment, speaking tensors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.vector import AsyncVectorEnv
from torch import Tensor

from seqrl.envs.base import BatchedEnv
from seqrl.envs.gym.auto import episodes
from seqrl.envs.gym.backends import EnvRequest, Wrap
from seqrl.envs.gym.registry import MISSING_PACKAGE
from seqrl.envs.gym.timeouts import OverdueError, time_limit
from seqrl.envs.gym.translate import actions, observations
from seqrl.errors import EnvError, FaultyEnvError, SeqrlError, described
from seqrl.spaces import Array
from seqrl.types import Step


class GymnasiumEnv(BatchedEnv):
    """B copies of the environment that Gymnasium, or EnvPool, knows as `id`.

    id         such as Acrobot-v1, or module:Env-v0, which imports the module that registers Env-v0
    kwargs     arguments of the environment's constructor
    hidden     what the policy does not see: indices of a vector observation, or names of parts of a composed one
    wrappers   put around each environment, the first one innermost
    action_mask   where it is said which choices are allowed: info, for info["action_mask"], or a part of the
               observation, by name; None: in the part called action_mask, if there is one
    backend    vector: the environment's own vector form; sync: one process; async: a process each;
               auto: vector where there is one, else sync or async, whichever is measured to be faster;
               envpool: threads of EnvPool, which has environments and ids of its own
    timeout_seconds   that a reset or a step of all of them may take; None: for ever. Only a process of its own can
               be ended where it hangs outside Python

    The policy sees a Box as float32, bytes as they are, and choices counted from 0; several parts, in Dict or Tuple, as
    one Packed vector. It acts in units of its own: choices count from 0, dimensions of a Box that have bounds run over
    [-1, 1], are scaled to the bounds and clipped; several actions at once are a Joint vector.
    Under sync and async every episode has a seed of its own, from `seed`, the environment's index and the episode's
    number; an own vector form and EnvPool are seeded at every full reset.

    Raises EnvError if there is no such environment, or if it cannot be played; `reset` and `step` raise
    FaultyEnvError if it does something wrong.
    """

    observation_space: Space[Any]
    action_space: Space[Any]

    def __init__(
        self,
        id: str,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        kwargs: Mapping[str, Any] | None = None,
        hidden: Sequence[int | str] = (),
        backend: str = "auto",
        timeout_seconds: float | None = None,
        wrappers: Sequence[Wrap] = (),
        action_mask: str | None = None,
    ) -> None:
        self.batch_size, self.device = batch_size, torch.device(device)
        self._id, self._render_mode = id, (kwargs or {}).get("render_mode")
        request = EnvRequest(id, kwargs or {}, batch_size, seed, timeout_seconds, wrappers, hidden, action_mask)
        self._episodes, choice = episodes(request, backend)
        self.backend, self.backend_reason = choice.backend, choice.why
        envs = self._episodes.envs
        # Where environments have processes of their own, it is their answers that are waited for.
        self._alarm_seconds = None if isinstance(envs, AsyncVectorEnv) else timeout_seconds
        try:
            self.observation_space, self._seen = observations(envs.single_observation_space, hidden)
            self.action_space, self._meant = actions(envs.single_action_space)
        except Exception:
            self.close()
            raise

    def reset(self, where: Tensor | None = None) -> Tensor:
        """Begin a new episode where `where` [B] is true, everywhere if None; return all observations [B, *O]."""
        with self._faults_named(), time_limit(self._alarm_seconds):
            observation = self._episodes.reset(None if where is None else where.cpu().numpy())
        return self._observation(observation)

    def step(self, action: Tensor) -> Step:
        """Play one action [B, *A] each."""
        meant = self._meant(action.cpu().numpy())
        with self._faults_named(), time_limit(self._alarm_seconds):
            observation, reward, terminated, truncated, valid = self._episodes.step(meant)
        return Step(
            observation=self._observation(observation),
            reward=self._tensor(np.array(reward, np.float32)),
            terminated=self._tensor(np.array(terminated, np.bool_)),
            truncated=self._tensor(np.array(truncated, np.bool_)),
            valid=self._tensor(valid),
        )

    def state_dict(self) -> dict[str, Any]:
        with self._faults_named():
            return self._episodes.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        with self._faults_named():
            return self._tensor(self._episodes.load_state_dict(state))

    def render(self) -> Array | None:
        """Picture of the first environment [H, W, 3]; None unless its kwargs say render_mode: rgb_array.

        Raises EnvError if a package that draws it is missing.
        """
        if self._render_mode != "rgb_array":
            return None
        with self._faults_named(), time_limit(self._alarm_seconds):
            try:
                pictures = self._episodes.envs.render()
            except MISSING_PACKAGE as error:
                raise EnvError(f"env.id: a package that draws {self._id} is missing: {error}.") from error
        return None if pictures is None else np.asarray(pictures[0], np.uint8)

    def close(self) -> None:
        """End the environment's processes; may be called twice."""
        self._episodes.envs.close()

    def _observation(self, observation: Array) -> Tensor:
        expected = self._episodes.envs.observation_space.shape
        if np.shape(observation) != expected:
            raise FaultyEnvError(f"environments: observations have the shape {np.shape(observation)}, not {expected}.")
        return self._tensor(self._seen(observation))

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        """Turn what an own vector form raises into one line; single environments speak for themselves."""
        try:
            yield
        except SeqrlError:
            raise
        except OverdueError as error:
            raise FaultyEnvError(f"environments: {error}. Mend the environment, or allow more.") from error
        except Exception as error:
            raise FaultyEnvError(f"environments: raised {described(error)}. Mend the environment.") from error

    def _tensor(self, copied: Array) -> Tensor:
        tensor = torch.from_numpy(copied)
        if self.device.type != "cuda":
            return tensor.to(self.device)
        # From memory that stays where it is, the GPU fetches it while this goes on.
        return tensor.pin_memory().to(self.device, non_blocking=True)
