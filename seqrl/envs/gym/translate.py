"""Converts observations and actions between the environment's units and types and the policy's."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from seqrl.envs.base import visible
from seqrl.envs.gym.elements import as_float32, numbers
from seqrl.errors import EnvError
from seqrl.spaces import Array, Joint, Packed
from seqrl.spaces import numbers as size

Translation = tuple[Space[Any], Callable[[Array], Array]]
"""The space as the policy sees it, and a function of a batch [B, ...] that returns a converted copy."""


def observations(space: Space[Any], hidden: Sequence[Any], name: str = "") -> Translation:
    """Convert an environment's observations for the policy, or the part of them called `name`.

    A Box becomes float32 without its hidden indices; a Box of bytes is unchanged; choices count from 0.
    Raises EnvError for other spaces, and for indices that cannot be hidden. The function raises OutsideError for
    numbers that the conversion would change; what choices there are is not its business.
    """
    what = f"its observation {name!r}" if name else "its observation"
    match space:
        case Packed():
            return space, np.array
        case Box(shape=(_,)) if hidden:
            shown = visible(space.shape[0], hidden)
            return _float_box(space.low[shown], space.high[shown]), lambda o: as_float32(o[:, shown], what)
        case _ if hidden:
            raise EnvError(
                f"env.hidden: indices need a vector observation, and this one is {_name(space)} "
                f"(got {list(hidden)}). Use env.hidden=[]."
            )
        case Box() if space.dtype == np.uint8:
            whole = numbers(np.uint8, what)
            return Box(space.low, space.high, dtype=np.uint8), lambda o: np.array(whole(o))
        case Box():
            return _float_box(space.low, space.high), lambda o: as_float32(o, what)
        case Discrete():
            whole = numbers(np.int64, what)
            return Discrete(int(space.n)), lambda o: whole(o).astype(np.int64) - int(space.start)
        case MultiDiscrete():
            whole = numbers(np.int64, what)
            return MultiDiscrete(space.nvec), lambda o: whole(o).astype(np.int64) - space.start
        case MultiBinary():
            whole = numbers(np.int8, what)
            return space, lambda o: np.array(whole(o))
    what = f"part {name!r} of the observation" if name else "the observation"
    remedy = f"Hide it with env.hidden=[{name}], or wrap" if name else "Wrap"
    raise EnvError(
        f"env.id: {what} is {_name(space)}, which is not supported. {remedy} the environment to return Box, Discrete, "
        "MultiDiscrete, MultiBinary, or a Dict or Tuple of these."
    )


def actions(space: Space[Any], name: str = "") -> Translation:
    """Convert the policy's actions for an environment, or the part of them called `name`.

    The policy's actions have at most one dimension. Dimensions of a Box with two bounds run over [-1, 1], are scaled to
    the bounds and clipped; the others keep their units. Choices count from 0.
    Raises EnvError for other spaces.
    """
    match space:
        case Joint():
            return space, np.array
        case Discrete():
            return Discrete(int(space.n)), lambda a: (a + space.start).astype(space.dtype)
        case MultiDiscrete():
            shape, start = space.shape, space.start
            return MultiDiscrete(space.nvec.flatten()), lambda a: (a.reshape(-1, *shape) + start).astype(space.dtype)
        case MultiBinary():
            return MultiBinary(size(space)), lambda a: a.reshape(-1, *space.shape).astype(space.dtype)
        case Box() if np.issubdtype(space.low.dtype, np.floating):
            bounded = space.bounded_below & space.bounded_above
            # Stand-in bounds of -1 and 1 scale by 1, so the units stay.
            low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
            centre, half = (high + low) / 2, (high - low) / 2
            policy = _float_box(
                np.where(bounded, -1.0, space.low).flatten(), np.where(bounded, 1.0, space.high).flatten()
            )

            def rescaled(action: Array) -> Array:
                scaled = centre + half * action.reshape(-1, *space.shape)
                return np.clip(scaled, space.low, space.high).astype(space.dtype)

            return policy, rescaled
    what = f"part {name!r} of the action" if name else "the action"
    raise EnvError(
        f"env.id: {what} is {_name(space)}, which is not supported. Wrap the environment to take Discrete, "
        "MultiDiscrete, MultiBinary, a Box of floats, or a Dict or Tuple of these."
    )


def _float_box(low: Array, high: Array) -> Box:
    with np.errstate(over="ignore"):  # A bound beyond float32 becomes infinite.
        return Box(np.asarray(low, np.float32), np.asarray(high, np.float32), dtype=np.float32)


def _name(space: Space[Any]) -> str:
    shape = "" if space.shape is None else f" of shape {space.shape}"
    return f"{type(space).__name__}{shape}"
