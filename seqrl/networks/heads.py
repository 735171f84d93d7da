"""Policies: a distribution over actions for each space, and the layer that parametrises it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from seqrl.errors import ConfigError
from seqrl.networks.layers import hidden_layer, linear
from seqrl.spaces import Joint, alternatives, masked_alternatives

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# Standard deviations beyond which there is nothing, in float64 too.
FAR = 40.0


class Distribution(Protocol):
    """A batch of distributions over actions; every method works on all of them."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw an action each."""
        ...

    def mode(self) -> Tensor:
        """The likeliest action of each."""
        ...

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability, or log-density, of an action each."""
        ...

    def entropy(self) -> Tensor:
        """Entropy in nats of each."""
        ...


class Categorical:
    """Distribution over n choices, from unnormalised log-probabilities [..., n]; actions are int64 [...]."""

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = logits.log_softmax(-1)

    def sample(self, generator: torch.Generator) -> Tensor:
        # The fastest of exponential clocks with these rates: one pass, exact, on the generator's own stream.
        clocks = torch.empty_like(self.log_probs).exponential_(generator=generator)
        return (self.log_probs - clocks.log()).argmax(-1)

    def mode(self) -> Tensor:
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_probs.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)


class Categoricals:
    """Independent distributions over K choices of n_k alternatives each; actions are int64 [..., K].

    logits   [..., n_1 + ... + n_K] unnormalised log-probabilities
    """

    def __init__(self, logits: Tensor, sizes: Sequence[int]) -> None:
        largest = max(sizes)
        if min(sizes) < largest:
            # Alternatives that are not there are never chosen.
            rows = logits.split(list(sizes), -1)
            rows = [nn.functional.pad(row, (0, largest - row.shape[-1]), value=least(row)) for row in rows]
            logits = torch.cat(rows, -1)
        self.each = Categorical(logits.unflatten(-1, (len(sizes), largest)))

    def sample(self, generator: torch.Generator) -> Tensor:
        return self.each.sample(generator)

    def mode(self) -> Tensor:
        return self.each.mode()

    def log_prob(self, action: Tensor) -> Tensor:
        return self.each.log_prob(action).sum(-1)

    def entropy(self) -> Tensor:
        return self.each.entropy().sum(-1)


class Gaussian:
    """Independent normal distributions over D numbers; mean [..., D], log_std [D]; actions are [..., D]."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean, log_std

    def sample(self, generator: torch.Generator) -> Tensor:
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std - HALF_LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        entropy = (0.5 + HALF_LOG_2PI + self.log_std).sum()
        return entropy.expand(self.mean.shape[:-1])


class BoundedGaussian:
    """Independent normal distributions over D numbers, of which some cannot leave [-1, 1] (truncated normal).

    Nothing is clipped, so that densities and entropy are those of what is really done.

    location   [..., D] the likeliest action; within the bounds where there are any
    log_std    [D] of the normal distribution that is cut off
    bounded    [D] bool
    """

    def __init__(self, location: Tensor, log_std: Tensor, bounded: Tensor) -> None:
        self.location, self.log_std = location, log_std
        std = log_std.exp()
        # As good as no bounds, and finite.
        self._low = ((-1 - location) / std).where(bounded, -FAR)
        self._high = ((1 - location) / std).where(bounded, FAR)
        self._below = torch.special.ndtr(self._low)
        self._within = torch.special.ndtr(self._high) - self._below
        self._bounded = bounded

    def sample(self, generator: torch.Generator) -> Tensor:
        share = torch.empty_like(self.location).uniform_(generator=generator)
        z = torch.special.ndtri(self._below + share * self._within)
        # Where rounding has left a probability of 0 or 1, the quantile is infinite.
        z = torch.minimum(torch.maximum(z, self._low), self._high)
        action = self.location + self.log_std.exp() * z
        return action.clamp(-1, 1).where(self._bounded, action)

    def mode(self) -> Tensor:
        return self.location

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.location) * torch.exp(-self.log_std)
        each: Tensor = -0.5 * z.square() - self.log_std - HALF_LOG_2PI - self._within.log()
        return each.sum(-1)

    def entropy(self) -> Tensor:
        edges = self._low * _density(self._low) - self._high * _density(self._high)
        each: Tensor = 0.5 + HALF_LOG_2PI + self.log_std + self._within.log() + edges / (2 * self._within)
        return each.sum(-1)


class JointDistribution:
    """Independent distributions over the parts of a Joint action [..., numbers]."""

    def __init__(self, space: Joint, parts: dict[str, Distribution]) -> None:
        self.space, self.parts = space, parts

    def sample(self, generator: torch.Generator) -> Tensor:
        return self.space.join({name: part.sample(generator) for name, part in self.parts.items()})

    def mode(self) -> Tensor:
        return self.space.join({name: part.mode() for name, part in self.parts.items()})

    def log_prob(self, action: Tensor) -> Tensor:
        actions = self.space.split(action)
        return torch.stack([part.log_prob(actions[name]) for name, part in self.parts.items()]).sum(0)

    def entropy(self) -> Tensor:
        return torch.stack([part.entropy() for part in self.parts.values()]).sum(0)


class Head(nn.Module, ABC):
    """Makes a policy of features."""

    @abstractmethod
    def forward(self, features: Tensor, allowed: Tensor | None = None) -> Distribution:
        """Policy for each of the features [..., H].

        allowed   [..., n] bool  which alternatives of all choices that a mask speaks of may be chosen; None: all
        """


class CategoricalHead(Head):
    """Policy over one choice, or several; starts close to uniform."""

    def __init__(self, input_size: int, hidden_size: int, action_space: spaces.Space[Any]) -> None:
        super().__init__()
        self.sizes = alternatives(action_space)
        self.is_one = isinstance(action_space, spaces.Discrete)
        self.logits = nn.Sequential(
            hidden_layer(input_size, hidden_size), linear(hidden_size, sum(self.sizes), gain=0.01)
        )

    def forward(self, features: Tensor, allowed: Tensor | None = None) -> Categorical | Categoricals:
        logits = as_parameters(self.logits(features), self)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, least(logits))
        return Categorical(logits) if self.is_one else Categoricals(logits, self.sizes)


class GaussianHead(Head):
    """Policy over D numbers, in units where a bounded action runs over [-1, 1]; its spread is the same everywhere."""

    bounded: Tensor

    def __init__(self, input_size: int, hidden_size: int, action_space: spaces.Box) -> None:
        super().__init__()
        (dimensions,) = action_space.shape
        self.mean = nn.Sequential(hidden_layer(input_size, hidden_size), linear(hidden_size, dimensions, gain=0.01))
        self.log_std = nn.Parameter(torch.zeros(dimensions))
        bounded = torch.from_numpy(action_space.bounded_below & action_space.bounded_above)
        self.register_buffer("bounded", bounded, persistent=False)
        self.is_bounded = bool(bounded.any())

    def forward(self, features: Tensor, allowed: Tensor | None = None) -> Gaussian | BoundedGaussian:
        mean = as_parameters(self.mean(features), self)
        if not self.is_bounded:
            return Gaussian(mean, self.log_std)
        return BoundedGaussian(mean.tanh().where(self.bounded, mean), self.log_std, self.bounded)


class JointHead(Head):
    """Policies over the parts of a joint action, independent of each other given the features."""

    def __init__(self, input_size: int, hidden_size: int, action_space: Joint) -> None:
        super().__init__()
        self.space = action_space
        # Modules have no dots in their names.
        self.heads = nn.ModuleList(policy_head(input_size, hidden_size, part) for part in action_space.parts.values())
        self.masked = [sum(masked_alternatives(part)) for part in action_space.parts.values()]

    def forward(self, features: Tensor, allowed: Tensor | None = None) -> JointDistribution:
        masks = [None] * len(self.masked) if allowed is None else allowed.split(self.masked, -1)
        policies = [
            head(features, mask if masked else None)
            for head, mask, masked in zip(self.heads, masks, self.masked, strict=True)
        ]
        return JointDistribution(self.space, dict(zip(self.space.parts, policies, strict=True)))


def as_parameters(x: Tensor, module: nn.Module) -> Tensor:
    """The same numbers in the precision of a module's parameters, which matrix products may have left."""
    return x.to(next(module.parameters()).dtype)


def least(x: Tensor) -> float:
    """A logit so low that its probability is exactly 0, and finite, so that 0 times it is 0."""
    return torch.finfo(x.dtype).min


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square() - HALF_LOG_2PI)


def policy_head(input_size: int, hidden_size: int, action_space: spaces.Space[Any]) -> Head:
    """Head that fits the action space, with one hidden layer for each part.

    Raises ConfigError for a space that is neither Discrete, MultiDiscrete, MultiBinary, Joint nor a Box, of at most one
    dimension.
    """
    match action_space:
        case Joint():
            return JointHead(input_size, hidden_size, action_space)
        case spaces.Discrete() | spaces.MultiDiscrete(shape=(_,)) | spaces.MultiBinary(shape=(_,)):
            return CategoricalHead(input_size, hidden_size, action_space)
        case spaces.Box(shape=(_,)):
            return GaussianHead(input_size, hidden_size, action_space)
    raise ConfigError(
        [
            f"env: no policy for the action space {action_space}. Discrete, MultiDiscrete, MultiBinary and Box of one "
            "dimension have one."
        ]
    )


class ValueHead(nn.Module):
    """Value in the units of the reward, learned in units of its own spread.

    The last layer predicts (value - mean) / std of the returns seen so far. When these statistics move, it is rescaled
    so that no prediction changes (PopArt).

    Source: van Hasselt et al. (2016), "Learning values across many orders of magnitude".
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden = hidden_layer(input_size, hidden_size)
        self.layer = linear(hidden_size, 1, gain=0.01)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("weight", torch.zeros(()))

    @property
    def std(self) -> Tensor:
        return self.variance.clamp_min(1e-8).sqrt()

    def forward(self, features: Tensor) -> Tensor:
        normalized = as_parameters(self.layer(self.hidden(features)), self).squeeze(-1)
        return normalized * self.std + self.mean

    @torch.no_grad()
    def adapt(self, target: Tensor, decay: float) -> None:
        """Move the statistics toward those of `target` [M]; `decay` is the share of the old that stays.

        Early on they are the plain average, so that the first batch counts in full. With it, predictions do change: a
        head that knows nothing yet predicts the mean return, not zero.
        """
        known = self.weight > 0
        old_mean, old_std = self.mean.clone(), self.std
        self.weight.mul_(decay).add_(1 - decay)
        step = (1 - decay) / self.weight
        mean = target.mean()
        self.mean.lerp_(mean, step)
        # Around the mean: a difference of two mean squares would be rounding noise where returns are large and alike.
        around = self.variance + (old_mean - self.mean).square()
        self.variance.copy_(around.lerp(target.var(correction=0) + (mean - self.mean).square(), step))
        if known:
            self.layer.weight.mul_(old_std / self.std)
            self.layer.bias.mul_(old_std).add_(old_mean - self.mean).div_(self.std)
