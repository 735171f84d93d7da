"""What it takes for episodes to go on in another process: what was played, or what an environment says of itself."""

from typing import Any

import numpy as np
import torch

from seqrl.spaces import Array

# Actions of longer episodes are forgotten, so that a run without ends does not grow.
REMEMBERED_BYTES = 32e6


class History:
    """What each of B environments was told since its episode began, as far back as REMEMBERED_BYTES reach.

    playing   [B] bool  where an episode is in progress, and all that it was told is known
    """

    def __init__(self, batch_size: int) -> None:
        self._told: list[Array] = []
        # First action of the episode in progress; -1 where there is none, or where it is forgotten.
        self._first = np.full(batch_size, -1)

    @property
    def playing(self) -> Array:
        return self._first >= 0

    def begin(self, where: Array) -> None:
        self._first[where] = len(self._told)

    def end(self, where: Array) -> None:
        self._first[where] = -1

    def add(self, action: Array) -> None:
        """Remember what all environments were told [B, *A]; the array must not be written to again."""
        if (len(self._told) + 1) * action.nbytes > REMEMBERED_BYTES:
            self._forget(self._needed() or (len(self._told) + 1) // 2)
        self._told.append(action)

    def episodes(self) -> list[Array | None]:
        """Actions of the episode in progress [n, *A] of each environment; None where they are not known."""
        return [
            None if first < 0 else np.array([told[index] for told in self._told[first:]])
            for index, first in enumerate(self._first.tolist())
        ]

    def state_dict(self) -> dict[str, Any]:
        self._forget(self._needed())
        return {"first": self._first, "told": np.array(self._told)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._first, self._told = state["first"], list(state["told"])

    def _needed(self) -> int:
        """The first action that an episode in progress began with."""
        return int(min(self._first[self.playing], default=len(self._told)))

    def _forget(self, count: int) -> None:
        del self._told[:count]
        self._first = np.maximum(self._first - count, -1)


def as_tensors(state: Any) -> Any:
    """Plain data that a checkpoint may hold: arrays become tensors.

    Raises TypeError for anything but None, numbers, text, bytes, lists, tuples, dicts, arrays and tensors.
    """
    match state:
        case dict():
            return {key: as_tensors(value) for key, value in state.items()}
        case list() | tuple():
            return [as_tensors(value) for value in state]
        case np.ndarray():
            return torch.from_numpy(np.array(state))
        case np.generic():
            return state.item()
        case None | bool() | int() | float() | str() | bytes() | torch.Tensor():
            return state
    raise TypeError(f"{type(state).__name__} is no plain data")


def as_arrays(state: Any) -> Any:
    """The other way: tensors become arrays, and tuples are lists now."""
    match state:
        case dict():
            return {key: as_arrays(value) for key, value in state.items()}
        case list():
            return [as_arrays(value) for value in state]
        case torch.Tensor():
            return state.numpy()
    return state
