"""The one interface between environments and everything else."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray
from torch import Tensor

from seqrl.types import Step


class BatchedEnv(Protocol):
    """B copies of one environment, stepped side by side, that speak tensors on the policy's device.

    An episode that has ended stays ended until `reset` begins the next one. Until then the environment accepts an
    action for it, does nothing costly with it, and answers anything: nobody reads it.

    What is returned belongs to the caller: its tensors are never written to again.

    batch_size          B
    observation_space   of one environment
    action_space        of one environment
    """

    batch_size: int
    observation_space: Space[Any]
    action_space: Space[Any]

    def reset(self, where: Tensor | None = None) -> Tensor:
        """Begin a new episode where `where` [B] is true, everywhere if None; return all observations [B, *O].

        Where given, `where` may be true nowhere, and only for episodes that ended at the last step. An environment that
        can only reset itself with the next step returns the final observation there and answers that step with `valid`
        false.
        """
        ...

    def step(self, action: Tensor) -> Step:
        """Play one action [B, *A] each."""
        ...

    def close(self) -> None:
        """Release processes and windows; may be called twice."""
        ...


@runtime_checkable
class Restorable(Protocol):
    """An environment whose episodes can go on in another process. A BatchedEnv need not be one."""

    def state_dict(self) -> dict[str, Any]:
        """All that decides what follows; tensors and plain data."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        """Go on from there. Returns [B] bool, true where the episode in progress goes on as if nothing had happened.

        Where it does not, `reset` begins another one.
        """
        ...


@runtime_checkable
class Visible(Protocol):
    """Environments that can be looked at. A BatchedEnv need not be one."""

    def render(self) -> NDArray[np.uint8] | None:
        """Picture of the first of them [H, W, 3]; None if there is none."""
        ...
