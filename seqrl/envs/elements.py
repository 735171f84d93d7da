"""What an environment shows, held against its space, before a conversion could make another number of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from seqrl.spaces import Array

# The largest number that the policy can see, or a reward be.
MOST = float(np.finfo(np.float32).max)
SCALE_IT = "Scale it, for example with env.wrappers."
# Beyond it, float32 holds only some of the whole numbers.
EXACT = 2**24

Reading = Callable[[Any], Any]
"""Returns what was shown, with the dtype of its space if it had to be converted; raises OutsideError."""


class OutsideError(ValueError):
    """What an environment shows does not lie in its space, or cannot be read: a few words that begin with `its`.

    row   of a batch
    """

    def __init__(self, what: str, remedy: str = "Fix the environment.", row: int = 0) -> None:
        super().__init__(what)
        self.remedy, self.row = remedy, row


def element(space: Space[Any], what: str = "its observation") -> Reading:
    """Read one element of a space without parts.

    A choice must be one that the space has, and a whole number must fit into the space's dtype. Numbers may leave the
    bounds of a Box: the policy sees them as they are. An element with several parts passes unseen.
    """
    match space:
        case Discrete():
            return _choice(int(space.start), int(space.start + space.n), space.dtype, what)
        case MultiDiscrete():
            return _choices(space.start, space.start + space.nvec - 1, space.dtype, what)
        case MultiBinary():
            return _choices(np.asarray(0), np.asarray(1), space.dtype, what)
        case Box():
            return of_dtype(space.dtype, what)
    return lambda shown: shown


def of_dtype(dtype: Any, what: str = "its observation") -> Reading:
    """Read numbers, one element or a batch: of any dtype if that of the space is a float, else whole ones that fit."""
    if np.issubdtype(dtype, np.floating):
        return _real(np.dtype(dtype), what)
    low, high = (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)

    def whole(shown: Any) -> Any:
        if getattr(shown, "dtype", None) == dtype:
            return shown
        return _within(_number(shown, what), low, high, what).astype(dtype)

    return whole


def as_float32(shown: Array, what: str = "its observation") -> Array:
    """A batch of numbers as float32, copied; raises OutsideError if one is too large for that.

    Real numbers are rounded; a whole one must stay what it is, as it may be the name of something.
    """
    try:
        with np.errstate(over="raise"):
            return np.array(_exact(shown, what), np.float32)
    except FloatingPointError:
        _insist_on_room(shown, np.dtype(np.float32), what)
        raise


def plain(shown: Any) -> Any:
    """What was shown, as an array of NumPy's own if it says that it can be one: others have rules of their own."""
    if type(shown) is np.ndarray or isinstance(shown, np.generic) or not hasattr(shown, "__array__"):
        return shown
    return np.asarray(shown)


def named(part: str) -> str:
    """An observation, or its part of that name, at the beginning of a sentence about what is wrong with it."""
    return f"its observation {part!r}" if part else "its observation"


def _choice(start: int, stop: int, dtype: Any, what: str) -> Reading:
    def read(shown: Any) -> Any:
        if isinstance(shown, int | np.integer) and start <= shown < stop:
            return shown
        return _within(_number(shown, what), start, stop - 1, what).astype(dtype)

    return read


def _choices(low: Array, high: Array, dtype: Any, what: str) -> Reading:
    def read(shown: Any) -> Any:
        given = _number(shown, what)
        if given.dtype == dtype and ((given >= low) & (given <= high)).all():
            return given
        return _within(given, low, high, what).astype(dtype)

    return read


def _real(dtype: np.dtype[Any], what: str) -> Reading:
    def read(shown: Any) -> Any:
        given = shown if _kind(shown) == "f" else _exact(_number(shown, what), what)
        if given.dtype != dtype and not np.can_cast(given.dtype, dtype):
            # What the space's dtype cannot hold would arrive as infinite.
            _insist_on_room(given, dtype, what)
        return given

    return read


def _insist_on_room(given: Any, dtype: np.dtype[Any], what: str) -> None:
    """Raise OutsideError for a number, of one element or of a batch, that is too large for a dtype of floats."""
    size, most = np.abs(given), np.finfo(dtype).max
    if not np.size(size) or size.max() <= most:
        return
    beyond = np.asarray(np.isfinite(given) & (size > most))
    if beyond.any():
        row = int(beyond.nonzero()[0][0]) if beyond.ndim else 0
        raise OutsideError(f"{what} {too_large(np.asarray(given)[beyond].flat[0], 'has', dtype.name)}", SCALE_IT, row)


def too_large(number: Any, verb: str, dtype: str = "float32") -> str:
    """What is wrong with a number that would become infinite, in words that follow what has it."""
    return f"{verb} {number:g}, which is beyond {dtype}"


def _kind(shown: Any) -> str:
    return str(getattr(getattr(shown, "dtype", None), "kind", ""))


def _number(shown: Any, what: str) -> Array:
    given = np.asarray(shown)
    if given.dtype.kind not in "biuf":
        raise OutsideError(f"{what} is made of {given.dtype}, not of numbers")
    return given


def _exact(given: Array, what: str) -> Array:
    """Numbers of which float32 changes no whole one; raises OutsideError for the first that it does."""
    if given.dtype.kind not in "iu" or given.dtype.itemsize < np.dtype(np.float32).itemsize or not given.size:
        return given
    if given.max() <= EXACT and given.min() >= -EXACT:
        return given
    # One that has more bits from its first to its last than float32 keeps.
    size = given.astype(np.uint64)
    size = np.where(given < 0, ~size + np.uint64(1), size)
    lowest = np.maximum(size & (~size + np.uint64(1)), np.uint64(1))
    changed = np.asarray(size // lowest >= EXACT)
    if changed.any():
        remedy = "Scale it, or show it in several numbers or as MultiDiscrete, for example with env.wrappers."
        row = int(changed.nonzero()[0][0]) if given.ndim else 0
        raise OutsideError(f"{what} has {given[changed].flat[0]}, which float32 would change", remedy, row)
    return given


def _within(given: Array, low: Any, high: Any, what: str) -> Array:
    inside = (given >= low) & (given <= high)
    whole = given == np.floor(given) if given.dtype.kind == "f" else inside
    if not (inside & whole).all():
        wrong = ~(inside if not inside.all() else whole)
        number, least, most = (np.broadcast_to(it, given.shape)[wrong].flat[0] for it in (given, low, high))
        shown = f"{number:g}" if given.dtype.kind == "f" else number
        fault = f"{shown} is not within {least} to {most}" if not inside.all() else f"{shown} is no whole number"
        raise OutsideError(f"{what} is outside its space: {fault}")
    return given
