"""Converts observations and actions between the environment's units and types and the policy's."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from seqrl.envs.base import Codec, visible
from seqrl.envs.elements import as_float32, named, of_dtype
from seqrl.errors import EnvError
from seqrl.spaces import Array, Joint, Packed, numbers

# Bounds of this size are there because a Box wants some; numbers scaled to them could not be computed with.
NO_BOUND = 1e10

Translation = tuple[Space[Any], Callable[[Array], Array]]
"""The space as the policy sees it, and a function of a batch [B, ...] that returns a converted copy."""


def observations(space: Space[Any], hidden: Sequence[Any], name: str = "") -> Translation:
    """Convert an environment's observations for the policy, or the part of them called `name`.

    A Box becomes float32 without its hidden indices; a Box of bytes is unchanged; choices count from 0.
    Raises EnvError for other spaces, and for indices that cannot be hidden. The function raises OutsideError for
    numbers that the conversion would change; what choices there are is not its business.
    """
    what = named(name)
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
            whole = of_dtype(np.uint8, what)
            return Box(space.low, space.high, dtype=np.uint8), lambda o: np.array(whole(o))
        case Box():
            return _float_box(space.low, space.high), lambda o: as_float32(o, what)
        case Discrete():
            whole = of_dtype(np.int64, what)
            return Discrete(int(space.n)), lambda o: whole(o).astype(np.int64) - int(space.start)
        case MultiDiscrete():
            whole = of_dtype(np.int64, what)
            return MultiDiscrete(space.nvec), lambda o: whole(o).astype(np.int64) - space.start
        case MultiBinary():
            whole = of_dtype(np.int8, what)
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
    the bounds and clipped; the others keep their units. A bound that is as good as none does not count. Choices count
    from 0.
    Raises EnvError for other spaces.
    """
    match space:
        case Joint():
            return space, np.array
        case Discrete():
            return Discrete(int(space.n)), lambda a: (a + space.start).astype(space.dtype)
        case MultiDiscrete():
            shape, start = space.shape, space.start
            return MultiDiscrete(space.nvec.flatten()), lambda a: (a.reshape(len(a), *shape) + start).astype(
                space.dtype
            )
        case MultiBinary():
            return MultiBinary(numbers(space)), lambda a: a.reshape(len(a), *space.shape).astype(space.dtype)
        case Box() if np.issubdtype(space.low.dtype, np.floating):
            low, high = _true_bounds(space)
            bounded = np.isfinite(low) & np.isfinite(high)
            centre, half = scale(space)
            policy = _float_box(np.where(bounded, -1.0, low).flatten(), np.where(bounded, 1.0, high).flatten())

            def rescaled(action: Array) -> Array:
                scaled = centre + half * action.reshape(len(action), *space.shape)
                given: Array = np.clip(scaled, space.low, space.high).astype(space.dtype)
                return given

            return policy, rescaled
    what = f"part {name!r} of the action" if name else "the action"
    raise EnvError(
        f"env.id: {what} is {_name(space)}, which is not supported. Wrap the environment to take Discrete, "
        "MultiDiscrete, MultiBinary, a Box of floats, or a Dict or Tuple of these."
    )


def scale(space: Box) -> tuple[Array, Array]:
    """Centre, and half of the range, of the numbers of a Box of floats; 0 and 1 where they do not have two bounds."""
    low, high = _true_bounds(space)
    bounded = np.isfinite(low) & np.isfinite(high)
    # Stand-in bounds of -1 and 1 scale by 1, so the units stay.
    least, most = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    # In float64, where no sum is too large; what float32 can compute it computes.
    exact = np.promote_types(space.dtype or np.float32, np.float32)
    return ((most + least) / 2).astype(exact), ((most - least) / 2).astype(exact)


def as_sampled(space: Space[Any], action: Any) -> Any:
    """An action that was taken out of a batch, as `space.sample` gives it: of a Box without axes an array, too."""
    return np.asarray(action) if isinstance(space, Box) else action


class PlainCodec(Codec):
    """For observations and actions of one part each."""

    def __init__(self, observation_space: Space[Any], action_space: Space[Any], hidden: Any = ()) -> None:
        super().__init__(observation_space, action_space)
        self._hidden = hidden
        _, self._observe = observations(observation_space, hidden)
        _, self._act = actions(action_space)

    def encode(self, observation: Any, mask: Any = None) -> Array:
        # As an environment's observations arrive in a batch.
        seen: Array = self._observe(np.asarray(self._read(observation), self.observation_space.dtype)[None])[0]
        return seen

    def decode(self, action: Array) -> Any:
        return as_sampled(self.action_space, self._act(action[None])[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return PlainCodec, (self.observation_space, self.action_space, self._hidden)


def _true_bounds(space: Box) -> tuple[Array, Array]:
    """The bounds of a Box of floats in float64; infinite where they are as good as none."""
    dtype: Any = space.low.dtype
    none = min(NO_BOUND, float(np.finfo(dtype).max))
    low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
    without_low, without_high = (low <= -none) & (high > -none), (high >= none) & (low < none)
    return np.where(without_low, -np.inf, low), np.where(without_high, np.inf, high)


def _float_box(low: Array, high: Array) -> Box:
    with np.errstate(over="ignore"):  # A bound beyond float32 becomes infinite.
        return Box(np.asarray(low, np.float32), np.asarray(high, np.float32), dtype=np.float32)


def _name(space: Space[Any]) -> str:
    shape = "" if space.shape is None else f" of shape {space.shape}"
    return f"{type(space).__name__}{shape}"
