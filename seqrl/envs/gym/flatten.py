"""Environments whose observations or actions have several parts, flattened to one vector each."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Space
from gymnasium.spaces import Dict, MultiBinary, Tuple

from seqrl.envs.elements import OutsideError, element, named, plain
from seqrl.envs.translate import actions, as_sampled, observations
from seqrl.errors import EnvError
from seqrl.spaces import ACTION_MASK, Array, Joint, Packed, leaves, masked_alternatives, nested, numbers, values

MaskReader = Callable[[Any], Iterator[Array]]
"""Takes a mask as it is in info, and gives those of all choices."""
# Value of `action_mask` for a mask that comes in info, not in the observation.
INFO = "info"


def is_composed(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an observation or an action has several parts."""
    return any(map(_is_composed, (env.observation_space, env.action_space)))


class Flattening:
    """Packs all parts of an observation into one vector of bytes, and takes all parts of an action as one of numbers.

    observation_space, action_space   of the environment
    hidden        names of the parts to hide from the policy; indices if the observation is a vector
    action_mask   where to find the mask of allowed choices: the name of a part of the observation, or info for
                  info["action_mask"]; None: the part called action_mask, if there is one

    packed        space of what the policy sees
    joint         space of what it does
    names         of all parts of the observation
    reads, acts   by the name of a part, its space as the policy has it, and what converts it
    mask_parts    names of the parts that are the mask
    choices       number of alternatives of each choice that it covers

    Raises EnvError if a part has an unsupported space, or if `hidden` or `action_mask` names a part that does not
    exist. `pack` raises OutsideError for a part that is missing or does not lie in its space, and if the mask is
    missing or allows nothing before the episode's end.
    """

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        hidden: Sequence[Any] = (),
        action_mask: str | None = None,
    ) -> None:
        self._given = observation_space, action_space, hidden, action_mask
        self._of_env, self._taken = observation_space, action_space
        self._act_spaces = _named_parts(action_space, "action")
        self.acts = {name: actions(space, name) for name, space in self._act_spaces.items()}
        parts = {name: space for name, (space, _) in self.acts.items()}
        self.joint: Space[Any] = Joint(parts) if _is_composed(action_space) else parts[""]

        shown = _named_parts(observation_space, "observation")
        self.names = list(shown)
        self.choices = masked_alternatives(self.joint)
        self.mask_in_info = action_mask == INFO
        self._read_mask = _mask_reader(action_space)
        if action_mask is not None and not self.choices:
            raise EnvError(f"env.action_mask: the action has no choice to mask (got {action_mask}). Drop it.")
        self.mask_parts = [] if self.mask_in_info else self._parts_of_mask(action_mask, shown)
        by_index, by_name = ([], self._hidden_parts(hidden)) if _is_composed(observation_space) else (hidden, [])
        self.reads = {
            name: observations(space, by_index, name)
            for name, space in shown.items()
            if name not in (*by_name, *self.mask_parts)
        }
        self._elements = {name: element(shown[name], named(name)) for name in (*self.reads, *self.mask_parts)}
        self._shapes = {name: shown[name].shape for name in self._elements}
        visible = {name or "observation": space for name, (space, _) in self.reads.items()}
        self._masks = self.mask_in_info or bool(self.mask_parts)
        mask = ACTION_MASK if ACTION_MASK not in visible else f"env.{ACTION_MASK}"
        if self._masks:
            visible[mask] = MultiBinary(sum(self.choices))
        # Where there is nothing to choose, a part of that name is one like others.
        self.packed = Packed(visible, mask if self._masks else None)

    def action(self, action: Array) -> Any:
        """What the environment takes, for what the policy does."""
        parts = self.joint.split(action) if isinstance(self.joint, Joint) else {"": action}
        taken = {name: self.acts[name][1](np.asarray(part)[None])[0] for name, part in parts.items()}
        return nested(self._taken, (as_sampled(self._act_spaces[name], it) for name, it in taken.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Flattening, self._given

    def pack(self, observation: Any, info: dict[str, Any], at_end: bool = False) -> Array:
        """What the policy sees of what the environment shows."""
        try:
            shown = dict(zip(self.names, values(self._of_env, observation), strict=True))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise OutsideError(f"its observation does not have all parts: {', '.join(self.names)}") from error
        parts = {name: self._element(name, shown[name]) for name in self._elements}
        visible = [observe(np.asarray(parts[name])[None])[0] for name, (_, observe) in self.reads.items()]
        if self._masks:
            masks = self._masks_of(info, at_end) if self.mask_in_info else map(parts.get, self.mask_parts)
            visible.append(self._allowed(masks, at_end))
        return self.packed.pack(visible)

    def _masks_of(self, info: dict[str, Any], at_end: bool) -> Iterable[Any]:
        if ACTION_MASK in info:
            return self._read_mask(info[ACTION_MASK])
        if at_end:
            # There is nothing left to choose.
            return [np.ones(sum(self.choices), np.bool_)]
        raise OutsideError("its info has no action_mask")

    def _element(self, name: str, shown: Any) -> Any:
        shown = plain(shown)
        if np.shape(shown) != self._shapes[name]:
            raise OutsideError(f"{named(name)} has shape {np.shape(shown)}, not {self._shapes[name]}")
        return self._elements[name](shown)

    def _allowed(self, masks: Iterable[Any], at_end: bool) -> Array:
        mask = np.concatenate([np.asarray(part).reshape(-1) for part in masks])
        _insist_on_truths(mask)
        # At the end there is nothing left to choose.
        if not at_end and not all((part != 0).any() for part in np.split(mask, np.cumsum(self.choices)[:-1])):
            raise OutsideError("its action_mask allows nothing")
        allowed: Array = mask != 0
        return allowed

    def _hidden_parts(self, hidden: Sequence[Any]) -> list[str]:
        for name in hidden:
            if not _among(self.names, str(name)):
                raise EnvError(
                    f"env.hidden: the observation has no part {name!r}. Use one or more of {', '.join(self.names)}."
                )
        parts = [part for name in hidden for part in _among(self.names, str(name))]
        if not self.names:
            raise EnvError("env.id: the observation has no parts. Wrap the environment to show something.")
        if not set(self.names) - {*parts, *(self.mask_parts if hidden else [])}:
            raise EnvError(f"env.hidden: every part of the observation is hidden (got {list(hidden)}). Leave one.")
        return parts

    def _parts_of_mask(self, action_mask: str | None, shown: Mapping[str, Space[Any]]) -> list[str]:
        parts = _among(self.names, action_mask or ACTION_MASK)
        if action_mask is None and not self.choices:
            return []
        if action_mask is not None and not parts:
            raise EnvError(
                f"env.action_mask: the observation has no part {action_mask!r}. "
                f"Use info, or one of {', '.join(self.names)}."
            )
        size = sum(numbers(shown[part]) for part in parts)
        if parts and size != sum(self.choices):
            raise EnvError(
                f"env.action_mask: the mask {', '.join(parts)} has {size} numbers for {sum(self.choices)} choices. "
                "Fix the environment, or name another part."
            )
        return parts


class FlattenedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose observations and actions have one part each; see `Flattening`."""

    def __init__(
        self, env: gymnasium.Env[Any, Any], hidden: Sequence[Any] = (), action_mask: str | None = None
    ) -> None:
        super().__init__(env)
        self.flattening = Flattening(env.observation_space, env.action_space, hidden, action_mask)
        self.observation_space, self.action_space = self.flattening.packed, self.flattening.joint

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self.flattening.pack(observation, info), info

    def step(self, action: Array) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(self.flattening.action(action))
        packed = self.flattening.pack(observation, info, terminated or truncated)
        return packed, reward, terminated, truncated, info


def _is_composed(space: Space[Any]) -> bool:
    return isinstance(space, Dict | Tuple)


def _named_parts(space: Space[Any], what: str) -> dict[str, Space[Any]]:
    """The leaf spaces by name, as `leaves` has them. Raises EnvError if two of them would have one name."""
    places: dict[str, str] = {}
    for (name, _), place in zip(leaves(space), _places(space), strict=True):
        # A part without a name is called after the whole.
        if (other := places.setdefault(name or what, place)) != place:
            raise EnvError(
                f"env.id: two parts of the {what} have one name, {name or what!r} "
                f"(got {what}{other} and {what}{place}). Rename one of them in the environment."
            )
    return dict(leaves(space))


def _places(space: Space[Any]) -> Iterator[str]:
    """Where the leaf spaces are, as Python writes it: `['arm'][0]`."""
    if not isinstance(space, Dict | Tuple):
        yield ""
        return
    for key, child in space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces):
        yield from (f"[{key!r}]{place}" for place in _places(child))


def _among(names: list[str], name: str) -> list[str]:
    """The part called `name`, or all parts nested under it."""
    return [part for part in names if f"{part}.".startswith(f"{name}.")]


def _mask_reader(space: Space[Any]) -> MaskReader:
    """What reads the masks of all choices of an action, in the order of `leaves`, from a mask that is built like it.

    A part with nothing to choose needs none. Raises OutsideError for one that does not fit its choices: taken for
    others, it would forbid what is allowed.
    """
    if isinstance(space, Dict | Tuple):
        children = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
        readers = {key: _mask_reader(child) for key, child in children if _has_choices(child)}
        if isinstance(space, Dict):
            return partial(_masks_of_dict, readers)
        return partial(_masks_of_tuple, readers, len(space.spaces))
    return partial(_mask_of_leaf, masked_alternatives(actions(space)[0]))


def _has_choices(space: Space[Any]) -> bool:
    return any(masked_alternatives(actions(leaf)[0]) for _, leaf in leaves(space))


def _masks_of_dict(readers: dict[Any, MaskReader], mask: Any) -> Iterator[Array]:
    for key, read in readers.items():
        if not isinstance(mask, Mapping) or key not in mask:
            raise OutsideError(f"its action_mask has no part {key!r}, as the action has")
        yield from read(mask[key])


def _masks_of_tuple(readers: dict[Any, MaskReader], length: int, mask: Any) -> Iterator[Array]:
    if not isinstance(mask, list | tuple) or len(mask) != length:
        raise OutsideError(f"its action_mask is no tuple of {length} parts, as the action is")
    for index, read in readers.items():
        yield from read(mask[index])


def _insist_on_truths(mask: Array) -> None:
    if mask.dtype.kind not in "biuf" or np.isnan(mask).any():
        raise OutsideError(f"its action_mask is {mask.tolist()!r:.60}: neither allowed nor not")


def _mask_of_leaf(choices: list[int], mask: Any) -> Iterator[Array]:
    pieces = [np.asarray(piece).reshape(-1) for piece in (mask if isinstance(mask, list | tuple) else [mask])]
    for piece in pieces:
        _insist_on_truths(piece)
    sizes = [piece.size for piece in pieces]
    # One array for each choice, or one for all, which may be a list of numbers.
    if sizes != choices and (sum(sizes) != sum(choices) or (len(sizes) > 1 and max(sizes) > 1)):
        is_split = len(sizes) > 1 and max(sizes) > 1
        given, wanted = (" + ".join(map(str, it)) if is_split else sum(it) for it in (sizes, choices))
        raise OutsideError(f"its action_mask has {given} numbers for {wanted} choices")
    yield from pieces
