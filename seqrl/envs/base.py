"""The interface between environments and everything else."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from seqrl.envs.elements import OutsideError, element, plain
from seqrl.errors import EnvError
from seqrl.spaces import Array, dtype
from seqrl.types import Step


class Codec:
    """What an environment's user sees and does, in terms of the policy; these are the same unless a subclass says more.

    observation_space, action_space   the environment's own
    mask_in_info                      whether `encode` needs the mask of allowed choices
    """

    mask_in_info = False

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def encode(self, observation: Any, mask: Any = None) -> Array:
        """What the policy sees [*O] of what the environment shows. Raises ValueError for what it cannot show."""
        return np.asarray(self._read(observation), dtype(self.observation_space))

    def _read(self, observation: Any) -> Any:
        """An observation, held against its space. Raises OutsideError."""
        shown = plain(observation)
        if np.shape(shown) != self.observation_space.shape:
            raise OutsideError(f"its observation has shape {np.shape(shown)}, not {self.observation_space.shape}")
        # Made anew: a policy may be handed to another process, which a function within a function cannot.
        return element(self.observation_space)(shown)

    def decode(self, action: Array) -> Any:
        """What the environment takes, for an action [*A] of the policy."""
        return action


class BatchedEnv(ABC):
    """B copies of one environment, stepped together, that exchange tensors on the policy's device.

    After an episode ends, it stays ended until `reset` starts the next one. Until then the environment accepts an
    action for it, does nothing costly, and may return anything: nobody reads it.

    Returned tensors belong to the caller: seqrl's own environments never write to them again, and what others return is
    copied.

    batch_size          B
    observation_space   of one environment
    action_space        of one environment
    backend             vector, sync, async or envpool; "" if there is no choice
    backend_reason      why that backend, if auto chose it; otherwise ""
    notes               what you should know about it, one line each; more may come while it is played
    logs_info           whether `ended_info` has something to say
    """

    batch_size: int
    observation_space: Space[Any]
    action_space: Space[Any]
    backend = ""
    backend_reason = ""
    notes: Sequence[str] = ()
    logs_info = False

    @abstractmethod
    def reset(self, where: Tensor | None = None) -> Tensor:
        """Begin a new episode where `where` [B] is true, everywhere if None; return all observations [B, *O].

        `where` may be true only for episodes that ended at the last step, and may be all false; the others are shown as
        the step showed them. An environment that can
        only reset during its next step returns the final observation now, and sets `valid` to false for that step.
        """

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Play one action [B, *A] each."""

    def close(self) -> None:  # noqa: B027  # most have nothing to release
        """Release processes and windows; may be called twice."""

    def state_dict(self) -> dict[str, Any] | None:
        """Everything that determines what comes next, as tensors and plain data; None: episodes cannot be resumed."""
        return None

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        """Restore the state. Returns [B] bool, true where the episode in progress continues as if uninterrupted.

        Elsewhere `reset` must begin a new one.
        """
        return torch.zeros(self.batch_size, dtype=torch.bool)

    def codec(self) -> Codec:
        """What an observation and an action are to whoever plays a single environment."""
        return Codec(self.observation_space, self.action_space)

    def render(self) -> Any:
        """Image of the first environment, best [H, W, 3] in uint8; None if it has none."""
        return None

    def ended_info(self, rows: Tensor) -> dict[str, Tensor]:
        """Numbers to log of the episodes that have just ended in some rows [n]: [n] each, by name, NaN for none."""
        return {}

    def info(self) -> dict[str, Tensor]:
        """Numbers that the policy does not see, as they are beside the present observation; [B, ...] each, by name.

        A hidden velocity, the right answer: what seqrl.inspect may look for in memory. NaN where there is none.
        """
        return {}


def visible(size: int, hidden: Sequence[Any]) -> list[int]:
    """Indices of a vector of `size` numbers that are not hidden.

    Raises EnvError if an index is out of range or listed twice, or if none are left.
    """
    # True would be 1.
    if unknown := [index for index in hidden if type(index) is not int or index not in range(size)]:
        raise EnvError(f"env.hidden: an observation of size {size} has no index {unknown[0]}. Use 0 to {size - 1}.")
    if twice := [index for index in hidden if list(hidden).count(index) > 1]:
        raise EnvError(f"env.hidden: index {twice[0]} is listed twice (got {list(hidden)}). List each index once.")
    shown = [index for index in range(size) if index not in hidden]
    if not shown:
        raise EnvError(f"env.hidden: all {size} indices are hidden (got {list(hidden)}). Leave at least one.")
    return shown
