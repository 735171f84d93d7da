"""States of anybody's own as data that a checkpoint may hold, and back as they were."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch

from seqrl.text import masked

# Tells what was a tensor from what was an array. The names are part of the checkpoint format, as all of these are.
OWN_TENSOR = "is a tensor"
# An array of a dtype that torch has not, or not in this byte order: its dtype, its shape and its bytes.
OWN_DTYPE, SHAPE, BYTES = "dtype", "shape", "bytes"
MARKED_DICTS = ([OWN_TENSOR], [OWN_DTYPE, SHAPE, BYTES])
# What was a number of NumPy's: this, its dtype, and the number as Python has it.
OWN_NUMBER = "is a number of NumPy's"
NUMBERS = {np.dtype(kind).str: np.dtype(kind).type for kind in "?bBhHiIqQlLefd"}
# Arrays that torch holds as they are. It saves uint16, uint32 and uint64 in a way of its own.
TORCH_DTYPES = {np.dtype(kind) for kind in "?bBhilqefdFD"}
PLAIN = (type(None), bool, int, float, str, bytes)
# Bits of a whole number: torch loads none of more than 255 bytes.
LONGEST_NUMBER = 2_000
# Of data in data.
DEEPEST = 50


def as_tensors(state: Any) -> Any:
    """Convert to plain data that a checkpoint may hold: arrays become tensors; tensors and NumPy's numbers are marked.

    Raises TypeError for anything but None, numbers, text, bytes, lists, tuples, dicts, arrays and dense tensors: what
    is saved can be loaded again, as what it was. So it does for instances of subclasses, but OrderedDict, and for what
    can be changed in one place and seen in another, which would be loaded as two.
    """
    return _as_tensors(state, 0, set())


def _as_tensors(state: Any, depth: int, seen: set[int]) -> Any:
    """The same; `seen` has the identities of all that can be changed."""
    _insist_on_depth(depth)
    kind = type(state)
    if kind in (dict, OrderedDict, list, np.ndarray):
        _insist_on_one_place(_owner(state), seen)
    if kind in (dict, OrderedDict) and list(state) not in MARKED_DICTS:
        return kind((_key(key, depth + 1), _as_tensors(value, depth + 1, seen)) for key, value in state.items())
    if kind in (list, tuple) and not _is_marked(state):
        return kind(_as_tensors(value, depth + 1, seen) for value in state)
    if kind is np.ndarray and state.dtype in TORCH_DTYPES and state.dtype.isnative:
        return torch.from_numpy(np.array(state))
    if kind is np.ndarray and state.dtype.kind in "iufc":
        pieces = torch.from_numpy(np.frombuffer(state.tobytes(), np.uint8).copy())
        return {OWN_DTYPE: state.dtype.str, SHAPE: list(state.shape), BYTES: pieces}
    if kind is torch.Tensor:
        numbers = _dense(state)
        if numbers.numel():
            _insist_on_one_place(state.untyped_storage(), seen)
        return {OWN_TENSOR: numbers}
    return _plain(state)


def as_arrays(state: Any) -> Any:
    """Convert back: tensors become arrays, which are copies. Version 0.1.0 saved tuples as lists."""
    match state:
        case dict() if list(state) == [OWN_TENSOR]:
            return state[OWN_TENSOR].clone()
        case dict() if list(state) == [OWN_DTYPE, SHAPE, BYTES]:
            return np.frombuffer(state[BYTES].numpy().tobytes(), state[OWN_DTYPE]).reshape(state[SHAPE]).copy()
        case dict():
            return type(state)((with_numbers(key), as_arrays(value)) for key, value in state.items())
        case list():
            return [as_arrays(value) for value in state]
        case tuple() if _is_marked(state):
            return with_numbers(state)
        case tuple():
            return tuple(as_arrays(value) for value in state)
        case torch.Tensor():
            return state.numpy().copy(order="K")
    return state


def with_marks(state: Any) -> Any:
    """Data with each of NumPy's numbers marked, keys too; what holds itself has no end, and is left as it is."""
    with suppress(RecursionError):
        return with_each(state, lambda it: _marked(it) if isinstance(it, np.generic) else it, keys=True)
    return state


def with_numbers(state: Any) -> Any:
    """Data with NumPy's numbers where they were marked. Raises ValueError if one is none of its dtype."""
    return with_each(state, lambda it: _number(it) if _is_marked(it) else it, keys=True)


def with_each(value: Any, change: Callable[[Any], Any], *, keys: bool = False) -> Any:
    """Plain data with each value in it as `change` has it; what holds none that it changes is left as it is.

    keys   change those of dicts, too
    """
    changed = change(value)
    if changed is not value:
        return changed
    within = partial(with_each, change=change, keys=keys)
    if isinstance(value, Mapping):
        items = [(within(key) if keys else key, within(it)) for key, it in value.items()]
        same = all(a is key and b is it for (a, b), (key, it) in zip(items, value.items(), strict=True))
        return value if same else OrderedDict(items) if isinstance(value, OrderedDict) else dict(items)
    if isinstance(value, list | tuple):
        each = [within(it) for it in value]
        made = each if isinstance(value, list) else tuple(each)
        return made if any(a is not b for a, b in zip(each, value, strict=True)) else value
    return value


def _is_marked(state: Any) -> bool:
    if type(state) is not tuple or [type(it) for it in state[:2]] != [str, str]:
        return False
    return len(state) == 3 and state[0] == OWN_NUMBER and state[1] in NUMBERS


def _number(marked: tuple[str, str, Any]) -> Any:
    _, dtype, number = marked
    if type(number) in (bool, int, float):
        with suppress(OverflowError):
            return NUMBERS[dtype](number)
    raise ValueError(f"holds an odd number of {dtype}")


def _marked(number: np.generic) -> Any:
    """A number of NumPy's as plain data; text and bytes of NumPy's as Python's."""
    item = number.item()
    return item if isinstance(number, str | bytes) else (OWN_NUMBER, number.dtype.str, item)


def _plain(state: Any) -> Any:
    if isinstance(state, np.generic):
        marked = _marked(state)
        if _is_marked(marked):
            return marked
        state = state.item()
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


def _insist_on_one_place(state: Any, seen: set[int]) -> None:
    """Raise TypeError if what can be changed was seen before."""
    place = state.data_ptr() if isinstance(state, torch.UntypedStorage) else id(state)
    if place in seen:
        raise TypeError("what stands in two places, of which each shows what changes in the other, is not plain data")
    seen.add(place)


def _owner(state: Any) -> Any:
    """What holds the numbers of an array; anything else itself."""
    while isinstance(state, np.ndarray) and state.base is not None:
        state = state.base
    return state


def _key(key: Any, depth: int) -> Any:
    _insist_on_depth(depth)
    if type(key) is tuple and not _is_marked(key):
        return tuple(_key(it, depth + 1) for it in key)
    return _plain(key)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise TypeError("a tensor that is not dense is not plain data")
    if tensor.requires_grad:
        raise TypeError("a tensor that wants a gradient is not plain data")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise TypeError("a tensor that is expanded is not plain data")
    return tensor.detach().cpu().clone()
