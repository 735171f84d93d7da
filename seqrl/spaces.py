"""Composed spaces: several parts in one tensor, so that code that moves or stores tensors need not know the parts.

Packed   an observation of several parts: their bytes, end to end
Joint    several actions at once: their numbers, side by side
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Parts = Mapping[str, Space[Any]]

# The part of an observation that says which choices are allowed.
ACTION_MASK = "action_mask"
# Every part begins at a multiple of this many bytes, which suits every dtype.
ALIGNMENT = 8


class Packed(Box):
    """Observations of several parts, each a vector of bytes.

    parts   space of each, by name: Box of float32 or uint8, Discrete, MultiDiscrete or MultiBinary
    mask    name of the part that says which choices are allowed, if it is there; None: no part does
    """

    def __init__(self, parts: Parts, mask: str | None = ACTION_MASK) -> None:
        self.parts = dict(parts)
        self.mask = mask if mask in self.parts else None
        self._bytes: dict[str, slice] = {}
        end = 0
        for name, space in self.parts.items():
            size = numbers(space) * dtype(space).itemsize
            self._bytes[name] = slice(end, end + size)
            end += -(-size // ALIGNMENT) * ALIGNMENT
        super().__init__(0, 255, (end,), np.uint8)

    def pack(self, values: Iterable[Any]) -> Array:
        """One observation from the values of its parts, in order.

        Raises ValueError if a value does not have the shape of its part.
        """
        packed = np.zeros(self.shape, np.uint8)
        for (name, space), value in zip(self.parts.items(), values, strict=True):
            array = np.ascontiguousarray(value, dtype(space))
            if np.shape(value) != space.shape:
                raise ValueError(f"its observation {name!r} has shape {np.shape(value)}, not {space.shape}")
            packed[self._bytes[name]] = array.reshape(-1).view(np.uint8)
        return packed

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """Observations [B, bytes] from the values [B, ...] of all parts."""
        pieces = []
        for name, space in self.parts.items():
            piece = values[name].to(tensor_dtype(space)).reshape(len(values[name]), -1).contiguous().view(torch.uint8)
            pieces.append(torch.nn.functional.pad(piece, (0, -piece.shape[1] % ALIGNMENT)))
        return torch.cat(pieces, 1)

    def split(self, observation: Tensor) -> dict[str, Tensor]:
        """Values [..., *part] of all parts of observations [..., bytes], without a copy."""
        return {name: self.part(observation, name) for name in self.parts}

    def part(self, observation: Tensor, name: str) -> Tensor:
        """Values [..., *part] of one part, without a copy."""
        space = self.parts[name]
        flat = observation[..., self._bytes[name]].view(tensor_dtype(space))
        return flat.view((*observation.shape[:-1], *(space.shape or ())))

    def sample(self, mask: None = None, probability: None = None) -> Array:
        for space in self.parts.values():
            space.seed(int(self.np_random.integers(2**31)))
        return self.pack(space.sample() for space in self.parts.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Packed) and (self.parts, self.mask) == (other.parts, other.mask)

    def __repr__(self) -> str:
        return _named(self.parts)


class Joint(Box):
    """Several actions at once, as one vector of numbers: choices count from 0, continuous numbers stay unchanged.

    Numbers are whole if there are only choices.

    parts   space of each, by name: Discrete, MultiDiscrete, MultiBinary or Box, of at most one dimension
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = dict(parts)
        number = np.int64 if all(map(alternatives, parts.values())) else np.float32
        super().__init__(-np.inf, np.inf, (sum(map(numbers, parts.values())),), number)

    def split(self, action: Any) -> dict[str, Any]:
        """Values [..., *part] of all parts of actions [..., numbers], tensors or arrays, without a copy."""
        values, end = {}, 0
        for name, space in self.parts.items():
            begin, end = end, end + numbers(space)
            values[name] = action[..., begin:end] if space.shape else action[..., begin]
        return values

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """Actions [..., numbers] from the values [..., *part] of all parts."""
        pieces = [values[name] if space.shape else values[name].unsqueeze(-1) for name, space in self.parts.items()]
        return torch.cat(pieces, -1)

    def sample(self, mask: None = None, probability: None = None) -> Array:
        for space in self.parts.values():
            space.seed(int(self.np_random.integers(2**31)))
        return np.concatenate([np.ravel(space.sample()) for space in self.parts.values()]).astype(self.dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Joint) and self.parts == other.parts

    def __repr__(self) -> str:
        return _named(self.parts)


def leaves(space: Space[Any], name: str = "") -> Iterator[tuple[str, Space[Any]]]:
    """The leaf spaces of a nested Dict or Tuple, by names such as `arm.0`; any other space is its own leaf."""
    children = space.spaces.items() if isinstance(space, Dict) else None
    if isinstance(space, Tuple):
        children = enumerate(space.spaces)  # type: ignore[assignment]
    if children is None:
        yield name, space
        return
    for key, child in children:
        yield from leaves(child, f"{name}.{key}" if name else str(key))


def values(space: Space[Any], element: Any) -> Iterator[Any]:
    """The leaf values of an element of a nested space, in the order of `leaves`."""
    if isinstance(space, Dict):
        for key, child in space.spaces.items():
            yield from values(child, element[key])
    elif isinstance(space, Tuple):
        for child, part in zip(space.spaces, element, strict=True):
            yield from values(child, part)
    else:
        yield element


def nested(space: Space[Any], given: Iterator[Any]) -> Any:
    """The element of a nested space that is made of the `given` values, in the order of `leaves`."""
    if isinstance(space, Dict):
        return {key: nested(child, given) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(nested(child, given) for child in space.spaces)
    return next(given)


def parts(space: Space[Any], observation: Tensor) -> dict[str, Tensor]:
    """Values of all parts of observations; an observation without parts is a single part named ''."""
    return space.split(observation) if isinstance(space, Packed) else {"": observation}


def dtype(space: Space[Any]) -> np.dtype[Any]:
    """dtype of a part as the policy sees it."""
    match space:
        case Discrete() | MultiDiscrete():
            return np.dtype(np.int64)
        case MultiBinary():
            return np.dtype(np.int8)
    return np.dtype(np.uint8 if space.dtype == np.uint8 else np.float32)


def tensor_dtype(space: Space[Any]) -> torch.dtype:
    """The same as a torch dtype."""
    return torch.from_numpy(np.empty(0, dtype(space))).dtype


def numbers(space: Space[Any]) -> int:
    """Number of numbers in an element."""
    return int(np.prod(space.shape or ()))


def alternatives(space: Space[Any]) -> list[int]:
    """Number of alternatives of each choice in a space; empty if it has no choices."""
    match space:
        case Discrete():
            return [int(space.n)]
        case MultiDiscrete():
            return [int(n) for n in space.nvec.flatten()]
        case MultiBinary():
            return [2] * numbers(space)
    return []


def masked_alternatives(space: Space[Any]) -> list[int]:
    """Number of alternatives of each choice that an action mask covers."""
    if isinstance(space, Joint):
        return [n for part in space.parts.values() for n in masked_alternatives(part)]
    return [] if isinstance(space, MultiBinary) else alternatives(space)


def unused_mask(observation_space: Space[Any], action_space: Space[Any]) -> str | None:
    """Name of a part that looks like a mask of what may be chosen, if no part is used as one."""
    choices = sum(masked_alternatives(action_space))
    if not choices or not isinstance(observation_space, Packed) or observation_space.mask:
        return None
    for name, part in observation_space.parts.items():
        if "mask" in name.rpartition(".")[2].lower() and numbers(part) == choices:
            return name
    return None


def _named(parts: Parts) -> str:
    return ", ".join(f"{name}: {space}" for name, space in parts.items())
