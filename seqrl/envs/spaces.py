"""Observations and actions, translated between the environment's units and types and the policy's."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiBinary
from numpy.typing import NDArray

from seqrl.envs.errors import EnvError

Array = NDArray[Any]
Translation = tuple[Space[Any], Callable[[Array], Array]]
"""The space as the policy knows it, and a function of a batch [B, ...] that returns a copy."""


def observations(space: Space[Any], hidden: Sequence[int]) -> Translation:
    """How the policy sees what an environment shows: Box as float32 without what is hidden, Discrete from 0.

    Raises EnvError for other spaces, MultiBinary excepted, and for what cannot be hidden.
    """
    match space:
        case Box(shape=(_,)) if hidden:
            shown = visible(space.shape[0], hidden)
            return _float_box(space.low[shown], space.high[shown]), lambda o: np.array(o[:, shown], np.float32)
        case _ if hidden:
            raise EnvError(
                f"env.hidden: indices hide parts of a vector, and an observation here is {_name(space)} "
                f"(got {list(hidden)}). Use env.hidden=[]."
            )
        case Box():
            return _float_box(space.low, space.high), lambda o: np.array(o, np.float32)
        case Discrete():
            return Discrete(int(space.n)), lambda o: np.array(o, np.int64) - int(space.start)
        case MultiBinary():
            return space, np.array
    raise EnvError(
        f"env.id: an observation here is {_name(space)}. Wrap the environment so that it shows Box, Discrete or "
        "MultiBinary; gymnasium.wrappers.FlattenObservation does so for most."
    )


def actions(space: Space[Any]) -> Translation:
    """How an environment hears what the policy does: bounded dimensions run over [-1, 1] and are scaled to the bounds.

    Box actions are clipped to the bounds; dimensions without both bounds keep their units; Discrete counts from 0.
    Raises EnvError for other spaces.
    """
    match space:
        case Discrete():
            return Discrete(int(space.n)), lambda a: (a + space.start).astype(space.dtype)
        case Box() if np.issubdtype(space.low.dtype, np.floating):
            bounded = space.bounded_below & space.bounded_above
            # Bounds of -1 and 1 would scale by 1: the units stay.
            low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
            centre, half = (high + low) / 2, (high - low) / 2
            policy = _float_box(np.where(bounded, -1.0, space.low), np.where(bounded, 1.0, space.high))
            return policy, lambda a: np.clip(centre + half * a, space.low, space.high).astype(space.dtype)
    raise EnvError(
        f"env.id: an action here is {_name(space)}. Wrap the environment so that it takes Discrete or a Box of floats."
    )


def visible(size: int, hidden: Sequence[int]) -> list[int]:
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


def _float_box(low: Array, high: Array) -> Box:
    with np.errstate(over="ignore"):  # A bound beyond float32 is none.
        return Box(np.asarray(low, np.float32), np.asarray(high, np.float32), dtype=np.float32)


def _name(space: Space[Any]) -> str:
    shape = "" if space.shape is None else f" of shape {space.shape}"
    return f"{type(space).__name__}{shape}"
