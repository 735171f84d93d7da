"""One step of a policy, from what an environment shows to the action it is given, as a module that can be exported."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor, nn

from seqrl.envs.base import BatchedEnv, visible
from seqrl.envs.inputs import WithInputs, previous
from seqrl.envs.translate import scale
from seqrl.export.own import Own
from seqrl.export.ports import FIRST, NEXT, REWARD, STATE, inputs, mask_ports, named, output
from seqrl.networks import Distribution, Network
from seqrl.networks.heads import BoundedGaussian, Categorical, Categoricals, Gaussian, JointDistribution
from seqrl.spaces import Joint, Packed, tensor_dtype
from seqrl.types import State


class Apart(Packed):
    """Observations of several parts that are given part by part: an exported step cannot take bytes apart."""

    def split(self, observation: Any) -> dict[str, Tensor]:
        return dict(observation.parts)

    def part(self, observation: Any, name: str) -> Tensor:
        value: Tensor = observation.parts[name]
        return value


class Parts:
    """The parts of B observations, where a network expects one tensor."""

    def __init__(self, parts: dict[str, Tensor]) -> None:
        self.parts = parts
        self.device = next(iter(parts.values())).device

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))


def apart(space: Space[Any]) -> Space[Any]:
    """The same observations, given part by part if they have parts."""
    return Apart(space.parts, space.mask) if isinstance(space, Packed) else space


class OneStep(nn.Module):
    """One step of a policy on B observations: a tensor for each of `inputs` in, one for each of `outputs` out.

    network   made for the observations that `apart` returns
    env       that the policy plays
    own       its own observations and actions
    """

    def __init__(self, network: Network, env: BatchedEnv, own: Own) -> None:
        super().__init__()
        self.network, self.own, self.action_space = network, own, env.action_space
        self.is_packed = isinstance(env.observation_space, Packed)
        self.more = env.inputs.more.parts if isinstance(env, WithInputs) else {}
        self.reads = nn.ModuleList(Read(space, own) for space in own.observed.values())
        self.acts = nn.ModuleList(Act(space, own) for space in own.acted.values())
        state = network.initial_state(1)
        self.leaves = list(state)
        self.inputs = list(inputs(own, self.more, state))
        shown = self.answers(dict(zip([port.name for port in self.inputs], self.examples(2), strict=True)))
        self.outputs = [output(name, like, own, env.action_space) for name, like in shown.items()]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        names = [port.name for port in self.inputs]
        return tuple(self.answers(dict(zip(names, given, strict=True))).values())

    def answers(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All outputs, by name."""
        state = {name: given[f"{STATE}{name}"] for name in self.leaves}
        policy, value, after = self.network.step(self._observation(given), state)
        chosen = modes(policy, self.action_space)
        actions = {
            named("action", name): act(mode) for act, (name, mode) in zip(self.acts, chosen.items(), strict=True)
        }
        return {**actions, **computed(policy, value, after), **remembered(chosen, self.action_space, self.more)}

    def examples(self, batch_size: int) -> tuple[Tensor, ...]:
        """Inputs to trace the step with: the first choices there are, and zeros."""
        given = {port.name: torch.from_numpy(port.zeros(batch_size)) for port in self.inputs}
        for name, space in self.own.observed.items():
            if isinstance(space, Discrete | MultiDiscrete) and self.own.is_translated:
                given[named("observation", name)] += torch.from_numpy(np.asarray(space.start))
        return tuple(given.values())

    def _observation(self, given: Mapping[str, Tensor]) -> Any:
        shown = {
            name or "observation": read(given[named("observation", name)])
            for read, name in zip(self.reads, self.own.observed, strict=True)
        }
        if not self.is_packed:
            return next(iter(shown.values()))
        if self.own.mask is not None:
            shown[self.own.mask] = torch.cat([given[port].flatten(1) != 0 for port in mask_ports(self.own)], 1)
        for name in self.more:
            shown[name] = given[name].unsqueeze(1) if name in (REWARD, FIRST) else given[name]
        return Parts(shown)


class Read(nn.Module):
    """One part of an observation, from what the environment shows to what the policy sees."""

    shown: Tensor | None
    start: Tensor | None

    def __init__(self, space: Space[Any], own: Own) -> None:
        super().__init__()
        self.into = tensor_dtype(space)
        shown = visible(space.shape[0], own.hidden) if own.hidden and space.shape else None
        self.register_buffer("shown", None if shown is None else torch.tensor(shown))
        start = np.asarray(getattr(space, "start", 0) if own.is_translated else 0, np.int64)
        self.register_buffer("start", torch.from_numpy(start) if start.any() else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.shown is not None:
            x = x.index_select(1, self.shown)
        x = x.to(self.into)
        return x if self.start is None else x - self.start


class Act(nn.Module):
    """One part of an action, from the policy's units to those of the environment."""

    start: Tensor
    centre: Tensor
    spread: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, space: Space[Any], own: Own) -> None:
        super().__init__()
        self.shape = tuple(space.shape or ())
        self.into = torch.from_numpy(np.empty(0, own.dtype(space))).dtype
        self.is_scaled = isinstance(space, Box) and own.is_translated
        start = np.asarray(getattr(space, "start", 0) if own.is_translated else 0, np.int64)
        self.register_buffer("start", torch.from_numpy(start))
        if isinstance(space, Box) and own.is_translated:
            centre, half = scale(space)
            for name, array in {"centre": centre, "spread": half, "low": space.low, "high": space.high}.items():
                self.register_buffer(name, torch.from_numpy(np.asarray(array, centre.dtype)))

    def forward(self, action: Tensor) -> Tensor:
        # Not -1: an action of no numbers may be of any number of rows.
        action = action.reshape(action.shape[0], *self.shape)
        if self.is_scaled:
            scaled = self.centre + self.spread * action
            action = torch.minimum(torch.maximum(scaled, self.low), self.high)
        elif not self.into.is_floating_point:
            action = action.to(torch.int64) + self.start
        return action.to(self.into)


def modes(policy: Distribution, space: Space[Any]) -> dict[str, Tensor]:
    """The likeliest action of each part [B, ...], by name."""
    if isinstance(policy, JointDistribution):
        return {name: part.mode() for name, part in policy.parts.items()}
    mode = policy.mode()
    return space.split(mode) if isinstance(space, Joint) else {"": mode}


def computed(policy: Distribution, value: Tensor, after: State) -> dict[str, Tensor]:
    """What a network's step returns, by name."""
    parts: Mapping[str, Distribution] = policy.parts if isinstance(policy, JointDistribution) else {"": policy}
    numbers = {named(what, name): it for name, part in parts.items() for what, it in parameters(part).items()}
    return {**numbers, "value": value, **{f"{NEXT}{STATE}{name}": leaf for name, leaf in after.items()}}


def remembered(chosen: Mapping[str, Tensor], space: Space[Any], more: Mapping[str, Any]) -> dict[str, Tensor]:
    """What the policy may see of its action at the next step, by name."""
    seen = previous(space, chosen)
    return {f"{NEXT}{name}": it.to(tensor_dtype(more[name])) for name, it in seen.items() if name in more}


def parameters(policy: Distribution) -> dict[str, Tensor]:
    """What it takes to draw from a distribution [B, ...]; {} of a kind that seqrl does not know."""
    match policy:
        case Categorical():
            return {"logits": policy.log_probs}
        case Categoricals():
            rows = zip(policy.each.log_probs.unbind(-2), policy.sizes, strict=True)
            return {"logits": torch.cat([row[..., :size] for row, size in rows], -1)}
        case Gaussian():
            return {"mean": policy.mean, "log_std": policy.log_std.expand_as(policy.mean)}
        case BoundedGaussian():
            return {"mean": policy.location, "log_std": policy.log_std.expand_as(policy.location)}
    return {}
