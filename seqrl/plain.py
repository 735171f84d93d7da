"""States of anybody's own as data that a checkpoint may hold, and back as they were."""

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from seqrl.text import masked

# Tells what was a tensor from what was an array. The names are part of the checkpoint format, as all of these are.
OWN_TENSOR = "is a tensor"
# An array of a dtype that torch has not, or not in this byte order: its dtype, its shape and its bytes.
OWN_DTYPE, SHAPE, BYTES = "dtype", "shape", "bytes"
NUMERIC = re.compile(r"[<>=|][iufc]\d{1,2}")
# What was an array, where tensors are tensors: this, and what became of it.
OWN_ARRAY = "is an array"
MARKED_DICTS = ([OWN_TENSOR], [OWN_DTYPE, SHAPE, BYTES], [OWN_ARRAY])
# What was a number of NumPy's: this, its dtype, and the number as Python has it.
OWN_NUMBER = "is a number of NumPy's"
NUMBERS = {np.dtype(kind).str: np.dtype(kind).type for kind in "?bBhHiIqQlLefdFD"}
# Arrays that torch holds as they are. It saves uint16, uint32 and uint64 in a way of its own.
TORCH_DTYPES = {np.dtype(kind) for kind in "?bBhilqefdFD"}
# Dtypes of tensors that are loaded again: none that is quantized, and none of fewer bits.
DENSE = re.compile(r"torch\.(b?float(16|32|64)|u?int(8|16|32|64)|complex(64|128)|bool)")
PLAIN = (type(None), bool, int, float, str, bytes)
# Bits of a whole number: torch loads none of more than 255 bytes.
LONGEST_NUMBER = 2_000
# Of data in data.
DEEPEST = 50


def as_tensors(state: Any) -> Any:
    """Convert to plain data that a checkpoint may hold: arrays become tensors; tensors and NumPy's numbers are marked.

    What stands in several places is one thing in all of them, here and when it is loaded.

    Raises TypeError for anything but None, numbers, text, bytes, lists, tuples, dicts, arrays and dense tensors: what
    is saved can be loaded again, as what it was. So it does for instances of subclasses, but OrderedDict.
    """
    return _as_tensors(state, 0, {})


def _as_tensors(state: Any, depth: int, known: dict[int, Any]) -> Any:
    """The same; `known` has what became of data, by its identity."""
    _insist_on_depth(depth)
    made: Any
    if id(state) not in known:
        kind = type(state)
        if kind in (dict, OrderedDict) and list(state) not in MARKED_DICTS:
            items = [(_key(key, depth + 1), _as_tensors(it, depth + 1, known)) for key, it in state.items()]
            made = kind(items)
        elif kind in (list, tuple) and not _is_marked(state):
            made = kind([_as_tensors(it, depth + 1, known) for it in state])
        elif kind is np.ndarray and state.dtype in TORCH_DTYPES and state.dtype.isnative:
            made = torch.from_numpy(np.array(state))
        elif kind is np.ndarray and state.dtype.kind in "iufc":
            pieces = torch.from_numpy(np.frombuffer(state.tobytes(), np.uint8).copy())
            made = {OWN_DTYPE: state.dtype.str, SHAPE: list(state.shape), BYTES: pieces}
        elif kind is torch.Tensor:
            made = {OWN_TENSOR: _dense(state)}
        else:
            return _plain(state)
        known[id(state)] = made
    return known[id(state)]


def as_arrays(state: Any) -> Any:
    """Convert back: tensors become arrays, which are copies. Version 0.1.0 saved tuples as lists."""
    return _as_arrays(state, {})


def _as_arrays(state: Any, known: dict[int, Any]) -> Any:
    made: Any
    if id(state) not in known:
        match state:
            case dict() if list(state) == [OWN_TENSOR]:
                made = state[OWN_TENSOR].clone()
            case dict() if list(state) == [OWN_DTYPE, SHAPE, BYTES]:
                numbers = np.frombuffer(state[BYTES].numpy().tobytes(), _dtype(state[OWN_DTYPE]))
                made = numbers.reshape(state[SHAPE]).copy()
            case dict():
                made = type(state)([(without_marks(key), _as_arrays(it, known)) for key, it in state.items()])
            case list():
                made = [_as_arrays(it, known) for it in state]
            case tuple() if not _is_marked(state):
                made = tuple([_as_arrays(it, known) for it in state])
            case tuple():
                made = without_marks(state)
            case torch.Tensor():
                made = state.numpy().copy(order="K")
            case _:
                return state
        known[id(state)] = made
    return known[id(state)]


def _dtype(text: str) -> np.dtype[Any]:
    # NumPy reads whole lists of them.
    if not NUMERIC.fullmatch(text):
        raise ValueError(f"holds an odd dtype, {text[:20]}")
    return np.dtype(text)


def pickled(state: Any) -> bytes:
    """What as_tensors makes, for another process of this run: torch would pass each tensor as a file left open."""
    data = io.BytesIO()
    _ByValue(data, protocol=5).dump(state)
    return data.getvalue()


class _ByValue(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if type(value) is not torch.Tensor:
            return NotImplemented
        # As it lies in memory, if it lies there densely.
        order = sorted(range(value.dim()), key=value.stride, reverse=True)
        dense = value.detach().permute(order).contiguous()
        return _tensor, (dense.reshape(-1).view(torch.uint8).numpy(), value.dtype, dense.shape, order)


def _tensor(numbers: np.ndarray, dtype: torch.dtype, shape: torch.Size, order: list[int]) -> torch.Tensor:
    dense = torch.from_numpy(numbers).view(dtype).reshape(shape)
    return dense.permute([order.index(axis) for axis in range(len(order))])


def with_marks(state: Any) -> Any:
    """Data with each of NumPy's numbers and arrays marked, keys too; what holds itself is left as it is."""
    with suppress(RecursionError):
        return with_each(state, _marked, keys=True)
    return state


def without_marks(state: Any) -> Any:
    """Data with NumPy's numbers and arrays where they were marked. Raises ValueError if one is none of its dtype."""
    return with_each(state, _unmarked, keys=True)


def with_each(state: Any, change: Callable[[Any], Any], *, keys: bool = False) -> Any:
    """Plain data with each value in it as `change` has it; what holds none that it changes is left as it is.

    So are instances of subclasses, but OrderedDict. What stands in several places is changed once.

    keys   change those of dicts, too
    """
    known: dict[int, Any] = {}

    def within(value: Any) -> Any:
        if not isinstance(value, dict | list | tuple | np.ndarray):
            return change(value)
        if id(value) not in known:
            known[id(value)] = changed(value)
        return known[id(value)]

    def changed(value: Any) -> Any:
        if (new := change(value)) is not value:
            return new
        kind = type(value)
        if kind in (dict, OrderedDict):
            items = [(within(key) if keys else key, within(it)) for key, it in value.items()]
            same = all(a is key and b is it for (a, b), (key, it) in zip(items, value.items(), strict=True))
            return value if same else kind(items)
        if kind in (list, tuple):
            each = [within(it) for it in value]
            return kind(each) if any(a is not b for a, b in zip(each, value, strict=True)) else value
        return value

    return within(state)


def _is_marked(state: Any) -> bool:
    if type(state) is not tuple or [type(it) for it in state[:2]] != [str, str]:
        return False
    return len(state) == 3 and state[0] == OWN_NUMBER and state[1] in NUMBERS


def _marked(value: Any) -> Any:
    """A number or an array of NumPy's as plain data, if that could be loaded again; anything else as it is."""
    if isinstance(value, np.generic):
        if value.dtype.str in NUMBERS:
            return OWN_NUMBER, value.dtype.str, value.item()
        return value.item() if isinstance(value, str | bytes) else value
    if type(value) is np.ndarray:
        with suppress(TypeError):
            return {OWN_ARRAY: as_tensors(value)}
    return value


def _unmarked(value: Any) -> Any:
    if type(value) is dict and list(value) == [OWN_ARRAY]:
        inner = value[OWN_ARRAY]
        # Anything else is no array that was marked.
        if isinstance(inner, torch.Tensor) or (isinstance(inner, dict) and list(inner) == [OWN_DTYPE, SHAPE, BYTES]):
            return _array(inner)
    return _number(value) if _is_marked(value) else value


def _array(tensors: Any) -> np.ndarray:
    # Whoever wrote it: anything may be wrong.
    with suppress(Exception):
        if type(made := as_arrays(tensors)) is np.ndarray:
            return made
    raise ValueError("holds an odd array")


def _number(marked: tuple[str, str, Any]) -> Any:
    _, dtype, number = marked
    if type(number) in (bool, int, float, complex):
        with suppress(OverflowError, TypeError), np.errstate(over="ignore"):
            made = NUMBERS[dtype](number)
            # Earlier versions of NumPy go round at the end of their range.
            if made == number or number != number:
                return made
    raise ValueError(f"holds an odd number of {dtype}")


def _plain(state: Any) -> Any:
    if isinstance(state, np.generic):
        state = _marked(state)
        if _is_marked(state):
            return state
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
    if type(key) is tuple and not _is_marked(key):
        return tuple(_key(it, depth + 1) for it in key)
    if isinstance(key, np.complexfloating):
        raise TypeError("a complex number as a key is not plain data")
    return _plain(key)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise TypeError("a tensor that is not dense is not plain data")
    if not DENSE.fullmatch(str(tensor.dtype)):
        raise TypeError(f"a tensor of {tensor.dtype} is not plain data")
    if tensor.requires_grad:
        raise TypeError("a tensor that wants a gradient is not plain data")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise TypeError("a tensor that is expanded is not plain data")
    return tensor.detach().cpu().clone()
