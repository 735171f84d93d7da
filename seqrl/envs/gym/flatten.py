"""Environments whose observations or actions have several parts, played as if they had one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Space
from gymnasium.spaces import Dict, MultiBinary, Tuple

from seqrl.envs.gym.translate import actions, observations
from seqrl.errors import EnvError
from seqrl.spaces import ACTION_MASK, Array, Joint, Packed, leaves, masked_alternatives, nested, numbers, values

# As `action_mask`: the mask is no part of the observation.
INFO = "info"


def is_composed(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an observation or an action has several parts."""
    return any(isinstance(space, Dict | Tuple) for space in (env.observation_space, env.action_space))


class FlattenedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Shows all parts of an observation as one vector of bytes, and hears all parts of an action as one of numbers.

    hidden        parts that the policy does not see, by name; of an observation that is a vector, indices
    action_mask   where it is said which choices are allowed: a part of the observation, by name, or info for
                  info["action_mask"]; None: in the part called action_mask, if there is one

    Raises EnvError if a part cannot be seen or done, or if what hides or masks is not there; `reset` and `step` raise
    ValueError for a part of another shape, or if the mask allows nothing before the end.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], hidden: Sequence[Any] = (), action_mask: str | None = None
    ) -> None:
        super().__init__(env)
        self._do = {name: actions(space, name) for name, space in leaves(env.action_space)}
        parts = {name: space for name, (space, _) in self._do.items()}
        self.action_space = parts[""] if "" in parts else Joint(parts)

        shown = dict(leaves(env.observation_space))
        self._names = list(shown)
        self._choices = masked_alternatives(self.action_space)
        self._mask_in_info = action_mask == INFO
        self._mask_parts = [] if self._mask_in_info else self._parts_of_mask(action_mask, shown)
        by_index, by_name = (hidden, []) if "" in shown else ([], self._hidden_parts(hidden))
        self._see = {
            name: observations(space, by_index, name)
            for name, space in shown.items()
            if name not in (*by_name, *self._mask_parts)
        }
        seen = {name or "observation": space for name, (space, _) in self._see.items()}
        self._masks = self._mask_in_info or bool(self._mask_parts)
        if self._masks:
            seen[ACTION_MASK] = MultiBinary(sum(self._choices))
        self.observation_space = self._packed_space = Packed(seen)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._packed(observation, info, at_end=False), info

    def step(self, action: Array) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        told = self.action_space.split(action) if isinstance(self.action_space, Joint) else {"": action}
        meant = (self._do[name][1](np.asarray(it)[None])[0] for name, it in told.items())
        observation, reward, terminated, truncated, info = self.env.step(nested(self.env.action_space, meant))
        return self._packed(observation, info, terminated or truncated), reward, terminated, truncated, info

    def _packed(self, observation: Any, info: dict[str, Any], at_end: bool) -> Array:
        shown: dict[str, Any] = dict(zip(self._names, values(self.env.observation_space, observation), strict=True))
        seen = [see(np.asarray(shown[name])[None])[0] for name, (_, see) in self._see.items()]
        if self._masks:
            said = (
                _masks(self.env.action_space, info[ACTION_MASK])
                if self._mask_in_info
                else map(shown.get, self._mask_parts)
            )
            mask = np.concatenate([np.asarray(part).reshape(-1) for part in said]) != 0
            # At the end there is nothing to choose any more.
            if not at_end and not all(part.any() for part in np.split(mask, np.cumsum(self._choices)[:-1])):
                raise ValueError("its action_mask allows nothing")
            seen.append(mask)
        return self._packed_space.pack(seen)

    def _hidden_parts(self, hidden: Sequence[Any]) -> list[str]:
        for name in hidden:
            if not _among(self._names, str(name)):
                raise EnvError(
                    f"env.hidden: there is no part {name!r} in an observation of {', '.join(self._names)}. "
                    "Name parts of it."
                )
        parts = [part for name in hidden for part in _among(self._names, str(name))]
        if not set(self._names) - {*parts, *self._mask_parts}:
            raise EnvError(f"env.hidden: {list(hidden)} hides the whole observation. Leave a part of it.")
        return parts

    def _parts_of_mask(self, action_mask: str | None, shown: Mapping[str, Space[Any]]) -> list[str]:
        parts = _among(self._names, action_mask or ACTION_MASK)
        if action_mask is None and not self._choices:
            return []
        if action_mask is not None and not parts:
            raise EnvError(
                f"env.action_mask: there is no part {action_mask!r} in an observation of {', '.join(self._names)}. "
                "Name one of them, or info."
            )
        says = sum(numbers(shown[part]) for part in parts)
        if parts and says != sum(self._choices):
            raise EnvError(
                f"env.action_mask: the mask {', '.join(parts)} has {says} numbers, and there are {sum(self._choices)} "
                "choices. Mend the environment, or name another part."
            )
        return parts


def _among(names: list[str], name: str) -> list[str]:
    """The part of this name, or all parts of what has this name."""
    return [it for it in names if f"{it}.".startswith(f"{name}.")]


def _masks(space: Space[Any], mask: Any) -> Iterator[Any]:
    """The masks of all choices of an action, in the order of `leaves`."""
    if isinstance(space, Dict):
        for key, child in space.spaces.items():
            if key in mask:
                yield from _masks(child, mask[key])
    elif isinstance(space, Tuple):
        for child, part in zip(space.spaces, mask, strict=True):
            yield from _masks(child, part)
    elif isinstance(mask, list | tuple):
        yield from mask
    else:
        yield mask
