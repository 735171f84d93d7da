"""The one interface between environments and everything else."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from numpy.typing import NDArray
from torch import Tensor

from seqrl.errors import EnvError
from seqrl.types import Step


class BatchedEnv(ABC):
    """B copies of one environment, stepped side by side, that speak tensors on the policy's device.

    An episode that has ended stays ended until `reset` begins the next one. Until then the environment accepts an
    action for it, does nothing costly with it, and answers anything: nobody reads it.

    What is returned belongs to the caller: its tensors are never written to again.

    batch_size          B
    observation_space   of one environment
    action_space        of one environment
    backend             who plays: vector, sync, async or envpool; "" where there is no choice
    backend_reason      why, if that was chosen by measurement; otherwise ""
    """

    batch_size: int
    observation_space: Space[Any]
    action_space: Space[Any]
    backend = ""
    backend_reason = ""

    @abstractmethod
    def reset(self, where: Tensor | None = None) -> Tensor:
        """Begin a new episode where `where` [B] is true, everywhere if None; return all observations [B, *O].

        Where given, `where` may be true nowhere, and only for episodes that ended at the last step. An environment that
        can only reset itself with the next step returns the final observation there and answers that step with `valid`
        false.
        """

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Play one action [B, *A] each."""

    def close(self) -> None:  # noqa: B027  # most have nothing to release
        """Release processes and windows; may be called twice."""

    def state_dict(self) -> dict[str, Any] | None:
        """All that decides what follows, as tensors and plain data; None: episodes cannot go on in another process."""
        return None

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        """Go on from there. Returns [B] bool, true where the episode in progress goes on as if nothing had happened.

        Where it does not, `reset` begins another one.
        """
        return torch.zeros(self.batch_size, dtype=torch.bool)

    def render(self) -> NDArray[np.uint8] | None:
        """Picture of the first environment [H, W, 3]; None if there is none."""
        return None


class Adopted(BatchedEnv):
    """An environment that has the methods of a BatchedEnv without being one."""

    def __init__(self, env: Any) -> None:
        self.batch_size, self.observation_space, self.action_space = (
            env.batch_size,
            env.observation_space,
            env.action_space,
        )
        self.env = env
        for together in (["close"], ["state_dict", "load_state_dict"], ["render"]):
            if all(hasattr(env, name) for name in together):
                vars(self).update({name: getattr(env, name) for name in together})

    def reset(self, where: Tensor | None = None) -> Tensor:
        observation: Tensor = self.env.reset(where)
        return observation

    def step(self, action: Tensor) -> Step:
        step: Step = self.env.step(action)
        return step


def adopted(env: Any) -> BatchedEnv:
    """The environment as a BatchedEnv, whose optional methods it need not have."""
    return env if isinstance(env, BatchedEnv) else Adopted(env)


def visible(size: int, hidden: Sequence[Any]) -> list[int]:
    """Indices of a vector of `size` numbers that are not hidden.

    Raises EnvError if an index is not there or stands twice, or if none are left.
    """
    if unknown := [index for index in hidden if index not in range(size)]:
        raise EnvError(f"env.hidden: there is no index {unknown[0]} in an observation of {size}. Use 0 to {size - 1}.")
    if twice := [index for index in hidden if list(hidden).count(index) > 1]:
        raise EnvError(f"env.hidden: {twice[0]} stands twice (got {list(hidden)}). Name every index once.")
    shown = [index for index in range(size) if index not in hidden]
    if not shown:
        raise EnvError(f"env.hidden: {list(hidden)} hides the whole observation of {size}. Leave at least one index.")
    return shown
