"""What goes into an exported step and what comes out: names, types, shapes and meanings."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from torch import Tensor

from seqrl.envs.translate import scale
from seqrl.export.own import Own
from seqrl.spaces import ACTION_MASK, Array, Joint, alternatives, dtype
from seqrl.types import State

# What a policy may see besides: the reward of its last action, and where an episode begins.
REWARD, FIRST = "previous_reward", "first"
# An output of this name and more goes into the input of the rest of its name at the next step.
NEXT = "next_"
STATE = "state."


@dataclass(frozen=True)
class Port:
    """An input or output of the exported step.

    dtype   as NumPy calls it
    shape   without the batch
    about   what it holds
    more    further facts, as plain data
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    about: str
    more: Mapping[str, Any] | None = None

    def described(self) -> dict[str, Any]:
        shape = ["batch", *self.shape]
        return {"name": self.name, "dtype": self.dtype, "shape": shape, "about": self.about, **(self.more or {})}

    def zeros(self, batch_size: int) -> Array:
        return np.zeros((batch_size, *self.shape), self.dtype)


def named(what: str, part: str) -> str:
    return f"{what}.{part}" if part else what


def mask_ports(own: Own) -> list[str]:
    """Names of the inputs that say which choices are allowed."""
    return [ACTION_MASK if own.in_info else named("observation", name) for name in own.masks]


def inputs(own: Own, more: Mapping[str, Space[Any]], state: State) -> Iterator[Port]:
    """All inputs, in their order.

    more    spaces of what the policy sees besides the observation, by name
    state   its memory
    """
    hidden = f"; the policy does not read the numbers {list(own.hidden)}" if own.hidden else ""
    for name, space in own.observed.items():
        about = f"what the environment shows: {space}{hidden}"
        yield _port(named("observation", name), own.dtype(space), space, about)
    for port, space in zip(mask_ports(own), own.masks.values(), strict=True):
        yield _port(port, own.dtype(space), space, "not 0 where a choice is allowed")
    for name, space in more.items():
        if name == REWARD:
            yield Port(name, "float32", (), "reward of the step before; 0 at the first step of an episode")
        elif name == FIRST:
            yield Port(name, "int8", (), "1 at the first step of an episode, 0 later", {"initial": 1})
        else:
            about = f"output {NEXT}{name} of the step before; 0 at the first step of an episode"
            yield _port(name, dtype(space), space, about)
    for name, leaf in state.items():
        about = f"memory: output {NEXT}{STATE}{name} of the step before; 0 at the first step of an episode"
        yield Port(f"{STATE}{name}", type_of(leaf), tuple(leaf.shape[1:]), about)


def output(name: str, like: Tensor, own: Own, space: Space[Any]) -> Port:
    """An output.

    like    what it is at some step
    space   of actions, as the policy has them
    """
    what, _, part = name.partition(".")
    spaces = space.parts if isinstance(space, Joint) else {"": space}
    more: dict[str, Any] = {}
    if name.startswith(NEXT):
        about, more = f"input {name.removeprefix(NEXT)} of the next step", {"feeds": name.removeprefix(NEXT)}
    elif what == "action":
        about = f"the likeliest action, as the environment is given it: {own.acted[part]}"
    elif what == "logits":
        about, more = (
            "log-probabilities of each choice's alternatives, end to end",
            {"sizes": alternatives(spaces[part])},
        )
    elif what == "mean":
        about, more = "the likeliest numbers, in the policy's units", _units(spaces[part], own.acted[part], own)
    elif what == "log_std":
        about = "log of the standard deviation around the mean, in the policy's units"
    else:
        about = "return expected from here on, discounted"
    return Port(name, type_of(like), tuple(like.shape[1:]), about, more)


def type_of(tensor: Tensor) -> str:
    """Type of a tensor, as NumPy calls it."""
    return str(torch.empty(0, dtype=tensor.dtype).numpy().dtype)


def _port(name: str, dtype: np.dtype[Any], space: Space[Any], about: str) -> Port:
    return Port(name, str(dtype), tuple(space.shape or ()), about)


def _units(space: Space[Any], acted: Space[Any], own: Own) -> dict[str, Any]:
    """What it takes to draw numbers around the mean, and to make an action of the environment of them."""
    assert isinstance(space, Box)
    more: dict[str, Any] = {"cut_at_-1_and_1": (space.bounded_below & space.bounded_above).tolist()}
    if own.is_translated and isinstance(acted, Box):
        centre, half = scale(acted)
        more |= {"times": half.flatten().tolist(), "plus": centre.flatten().tolist()}
    return more
