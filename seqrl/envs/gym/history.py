"""Actions of the episodes in progress, to replay them in another process, and states as plain data."""

from typing import Any

import numpy as np
import torch

from seqrl.spaces import Array
from seqrl.text import masked

# Bounds the memory for actions when episodes are very long or never end.
REMEMBERED_BYTES = 32e6
# Tells what was a tensor from what was an array. The names are part of the checkpoint format.
OWN_TENSOR = "is a tensor"
# An array of a dtype that torch has not, or not in this byte order: its dtype, its shape and its bytes.
OWN_DTYPE, SHAPE, BYTES = "dtype", "shape", "bytes"
# Arrays that torch holds as they are. It saves uint16, uint32 and uint64 in a way of its own.
TORCH_DTYPES = {np.dtype(kind) for kind in "?bBhilqefdFD"}
PLAIN = (type(None), bool, int, float, str, bytes)
# Bits of a whole number: torch loads none of more than 255 bytes.
LONGEST_NUMBER = 2_000
# Of data in data.
DEEPEST = 50


class History:
    """The actions of the episode in progress of each of B environments, up to REMEMBERED_BYTES in all.

    playing   [B] bool  where an episode is in progress and all of its actions are remembered
    """

    def __init__(self, batch_size: int) -> None:
        self._actions: list[Array] = []
        # Index of the first action of the episode in progress; -1 if there is no episode, or the action is forgotten.
        self._first = np.full(batch_size, -1)

    @property
    def playing(self) -> Array:
        return self._first >= 0

    def begin(self, where: Array) -> None:
        self._first[where] = len(self._actions)

    def end(self, where: Array) -> None:
        self._first[where] = -1

    def add(self, action: Array) -> None:
        """Remember the actions of all environments [B, *A]."""
        if (len(self._actions) + 1) * action.nbytes > REMEMBERED_BYTES:
            self._forget(self._needed() or (len(self._actions) + 1) // 2)
        # An environment may write into its action.
        self._actions.append(action.copy())

    def episodes(self) -> list[Array | None]:
        """Actions of the episode in progress [n, *A] of each environment; None where they are not remembered."""
        return [
            None if first < 0 else np.array([actions[index] for actions in self._actions[first:]])
            for index, first in enumerate(self._first.tolist())
        ]

    def state_dict(self) -> dict[str, Any]:
        self._forget(self._needed())
        # The keys' names are part of the checkpoint format.
        return {"first": self._first, "told": np.array(self._actions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._first, self._actions = state["first"], list(state["told"])

    def _needed(self) -> int:
        """Index of the oldest action that an episode in progress needs."""
        return int(min(self._first[self.playing], default=len(self._actions)))

    def _forget(self, count: int) -> None:
        del self._actions[:count]
        self._first = np.maximum(self._first - count, -1)


def as_tensors(state: Any, depth: int = 0) -> Any:
    """Convert to plain data that a checkpoint may hold: arrays become tensors, and tensors are marked.

    Raises TypeError for anything but None, numbers, text, bytes, lists, tuples, dicts, arrays and dense tensors: what
    is saved can be loaded again.
    """
    _insist_on_depth(depth)
    match state:
        case dict():
            return {_key(key, depth + 1): as_tensors(value, depth + 1) for key, value in state.items()}
        case list():
            return [as_tensors(value, depth + 1) for value in state]
        case tuple():
            return tuple(as_tensors(value, depth + 1) for value in state)
        case np.ndarray() if state.dtype in TORCH_DTYPES and state.dtype.isnative:
            return torch.from_numpy(np.array(state))
        case np.ndarray() if state.dtype.kind in "iufc":
            pieces = torch.from_numpy(np.frombuffer(state.tobytes(), np.uint8).copy())
            return {OWN_DTYPE: state.dtype.str, SHAPE: list(state.shape), BYTES: pieces}
        case torch.Tensor():
            return {OWN_TENSOR: _dense(state)}
        case np.generic():
            return _plain(state.item())
    return _plain(state)


def _plain(state: Any) -> Any:
    # A subclass, such as IntEnum, would be loaded as something else, if at all.
    if type(state) not in PLAIN:
        raise TypeError(f"{type(state).__name__} is not plain data")
    if isinstance(state, int) and state.bit_length() > LONGEST_NUMBER:
        raise TypeError(f"a whole number of more than {LONGEST_NUMBER:,} bits is not plain data")
    if isinstance(state, str | bytes) and masked(text := str(state)) != text:
        raise TypeError(f"what the configuration took from the system's environment, {masked(text)[:60]}, is not saved")
    return state


def _insist_on_depth(depth: int) -> None:
    if depth > DEEPEST:
        raise TypeError(f"data in data, more than {DEEPEST} deep, is not plain data")


def _key(key: Any, depth: int) -> Any:
    _insist_on_depth(depth)
    if type(key) is tuple:
        return tuple(_key(it, depth + 1) for it in key)
    return _plain(key.item() if isinstance(key, np.generic) else key)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise TypeError("a tensor that is not dense is not plain data")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise TypeError("a tensor that is expanded is not plain data")
    return tensor.detach().cpu().clone()


def as_arrays(state: Any) -> Any:
    """Convert back: tensors become arrays, which are copies. Version 0.1.0 saved tuples as lists."""
    match state:
        case dict() if list(state) == [OWN_TENSOR]:
            return state[OWN_TENSOR].clone()
        case dict() if list(state) == [OWN_DTYPE, SHAPE, BYTES]:
            return np.frombuffer(state[BYTES].numpy().tobytes(), state[OWN_DTYPE]).reshape(state[SHAPE]).copy()
        case dict():
            return {key: as_arrays(value) for key, value in state.items()}
        case list():
            return [as_arrays(value) for value in state]
        case tuple():
            return tuple(as_arrays(value) for value in state)
        case torch.Tensor():
            return state.numpy().copy()
    return state
