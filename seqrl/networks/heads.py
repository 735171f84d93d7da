"""Policies: a distribution over actions for each kind of space, and the layers that parametrise it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from seqrl.errors import ConfigError
from seqrl.networks.layers import deviation, hidden_layer, insist_on_memory, output_layer
from seqrl.seeds import drawn
from seqrl.spaces import Joint, alternatives, masked_alternatives

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# Standard deviations beyond which the probability is 0, even in float64.
FAR = 40.0


class Distribution(Protocol):
    """A batch of distributions over actions."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw one action from each; one's own draws its numbers with `seqrl.seeds.drawn`."""
        ...

    def mode(self) -> Tensor:
        """The most likely action of each."""
        ...

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability, or log-density, of one action under each."""
        ...

    def entropy(self) -> Tensor:
        """Entropy in nats of each."""
        ...

    def barrier(self) -> Tensor:
        """How far each is from never taking some action, at most 0: a log barrier for choices, entropy for numbers."""
        ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}(mode={self.mode()})"


class Categorical(Distribution):
    """Distribution over n choices, from unnormalised log-probabilities [..., n]; actions are int64 [...]."""

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = logits.log_softmax(-1)

    def sample(self, generator: torch.Generator) -> Tensor:
        # The first of exponential clocks with these rates to ring: exact, in one pass, on the generator's own stream.
        clocks = drawn(generator, self.log_probs, partial(Tensor.exponential_, generator=generator))
        return (self.log_probs - clocks.log()).argmax(-1)

    def mode(self) -> Tensor:
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_probs.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def barrier(self) -> Tensor:
        """Minus the KL divergence from the uniform policy over the allowed alternatives to this one.

        Its gradient by a logit, 1/n - p, is largest where an alternative has become rare; that of the entropy vanishes.

        Source: Agarwal et al. (2021), "On the theory of policy gradient methods", log barrier regularisation.
        """
        allowed = self.log_probs > least(self.log_probs) / 2
        count = allowed.sum(-1).to(self.log_probs.dtype)
        return self.log_probs.where(allowed, 0).sum(-1) / count + count.log()


class Categoricals(Distribution):
    """Independent distributions over K choices of n_k alternatives each; actions are int64 [..., K].

    logits   [..., n_1 + ... + n_K] unnormalised log-probabilities
    """

    def __init__(self, logits: Tensor, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)
        largest = max(sizes)
        if min(sizes) < largest:
            # Pad to the same size; padded alternatives have probability 0.
            rows = logits.split(self.sizes, -1)
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

    def barrier(self) -> Tensor:
        return self.each.barrier().sum(-1)


class Gaussian(Distribution):
    """Independent normal distributions over D numbers; mean [..., D], log_std [D]; actions are [..., D]."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean, log_std

    def sample(self, generator: torch.Generator) -> Tensor:
        noise = drawn(generator, self.mean, partial(Tensor.normal_, generator=generator))
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std - HALF_LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        entropy = (0.5 + HALF_LOG_2PI + self.log_std).sum()
        return entropy.expand(self.mean.shape[:-1])

    def barrier(self) -> Tensor:
        return self.entropy()


class BoundedGaussian(Distribution):
    """Independent normal distributions over D numbers; the bounded ones are truncated to [-1, 1].

    Nothing is clipped, so densities and entropy are those of the actions actually taken.

    location   [..., D] the most likely action, within the bounds
    log_std    [D] of the normal distribution before truncation
    bounded    [D] bool
    """

    def __init__(self, location: Tensor, log_std: Tensor, bounded: Tensor) -> None:
        self.location, self.log_std = location, log_std
        std = log_std.exp()
        # FAR stands for no bound, and is finite.
        self._low = ((-1 - location) / std).where(bounded, -FAR)
        self._high = ((1 - location) / std).where(bounded, FAR)
        self._below = torch.special.ndtr(self._low)
        self._within = torch.special.ndtr(self._high) - self._below
        self._bounded = bounded

    def sample(self, generator: torch.Generator) -> Tensor:
        share = drawn(generator, self.location, partial(Tensor.uniform_, generator=generator))
        z = torch.special.ndtri(self._below + share * self._within)
        # If rounding left a probability of 0 or 1, the quantile is infinite.
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

    def barrier(self) -> Tensor:
        return self.entropy()


class JointDistribution(Distribution):
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

    def barrier(self) -> Tensor:
        return torch.stack([part.barrier() for part in self.parts.values()]).sum(0)


class Head(nn.Module, ABC):
    """Computes a policy from features."""

    @abstractmethod
    def forward(self, features: Tensor, allowed: Tensor | None = None) -> Distribution:
        """Policy for features [..., H].

        allowed   [..., n] bool  allowed alternatives of every choice that a mask covers; None: all
        """


class CategoricalHead(Head):
    """Policy over one or several choices; starts close to uniform."""

    def __init__(self, input_size: int, hidden_size: int, action_space: spaces.Space[Any]) -> None:
        super().__init__()
        self.sizes = alternatives(action_space)
        self.is_one = isinstance(action_space, spaces.Discrete)
        what = f"the action, or a part of it, is chosen among {sum(self.sizes):,} alternatives"
        remedy = "Wrap the environment to take fewer, for example a choice by its digits in a MultiDiscrete."
        insist_on_memory(hidden_size, sum(self.sizes), what, remedy)
        self.logits = nn.Sequential(hidden_layer(input_size, hidden_size), output_layer(hidden_size, sum(self.sizes)))

    def forward(self, features: Tensor, allowed: Tensor | None = None) -> Categorical | Categoricals:
        logits = self.logits(features)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, least(logits))
        return Categorical(logits) if self.is_one else Categoricals(logits, self.sizes)


class GaussianHead(Head):
    """Policy over D numbers, scaled so that bounded ones run over [-1, 1]; log_std does not depend on the features."""

    bounded: Tensor

    def __init__(self, input_size: int, hidden_size: int, action_space: spaces.Box) -> None:
        super().__init__()
        (dimensions,) = action_space.shape
        self.mean = nn.Sequential(hidden_layer(input_size, hidden_size), output_layer(hidden_size, dimensions))
        self.log_std = nn.Parameter(torch.zeros(dimensions))
        bounded = torch.from_numpy(action_space.bounded_below & action_space.bounded_above)
        self.register_buffer("bounded", bounded, persistent=False)
        self.is_bounded = bool(bounded.any())

    def forward(self, features: Tensor, allowed: Tensor | None = None) -> Gaussian | BoundedGaussian:
        mean = self.mean(features)
        if not self.is_bounded:
            return Gaussian(mean, self.log_std)
        return BoundedGaussian(mean.tanh().where(self.bounded, mean), self.log_std, self.bounded)


class JointHead(Head):
    """Policies over the parts of a joint action, independent of each other given the features."""

    def __init__(self, input_size: int, hidden_size: int, action_space: Joint) -> None:
        super().__init__()
        self.space = action_space
        # A list, because names of modules cannot contain dots.
        self.heads = nn.ModuleList(policy_head(input_size, hidden_size, part) for part in action_space.parts.values())
        self.masked = [sum(masked_alternatives(part)) for part in action_space.parts.values()]

    def forward(self, features: Tensor, allowed: Tensor | None = None) -> JointDistribution:
        masks = [None] * len(self.masked) if allowed is None else allowed.split(self.masked, -1)
        policies = [
            head(features, mask if masked else None)
            for head, mask, masked in zip(self.heads, masks, self.masked, strict=True)
        ]
        return JointDistribution(self.space, dict(zip(self.space.parts, policies, strict=True)))


def least(x: Tensor) -> float:
    """A logit low enough for a probability of exactly 0, yet finite, so that 0 times it is 0."""
    return torch.finfo(x.dtype).min


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square() - HALF_LOG_2PI)


def policy_head(input_size: int, hidden_size: int, action_space: spaces.Space[Any]) -> Head:
    """Head for an action space, with one hidden layer per part.

    Raises ConfigError unless the space is Discrete, Joint, or a MultiDiscrete, MultiBinary or Box with one dimension.
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
            f"env: no policy for the action space {action_space}. "
            "Use Discrete, or a MultiDiscrete, MultiBinary or Box with one dimension."
        ]
    )


class ValueHead(nn.Module):
    """Value in units of the reward, learned in standardised units.

    The last layer predicts (value - mean) / std, with the statistics of the returns seen so far. When they move, the
    layer is rescaled so that no prediction changes (PopArt).

    Source: van Hasselt et al. (2016), "Learning values across many orders of magnitude".
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden = hidden_layer(input_size, hidden_size)
        self.layer = output_layer(hidden_size, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("weight", torch.zeros(()))

    @property
    def std(self) -> Tensor:
        return deviation(self.mean, self.variance)

    def forward(self, features: Tensor) -> Tensor:
        normalized: Tensor = self.layer(self.hidden(features)).squeeze(-1)
        return normalized * self.std + self.mean

    @torch.no_grad()
    def adapt(self, target: Tensor, decay: float) -> None:
        """Move the statistics towards those of `target` [M]; `decay` is the weight of the old ones.

        Early on they are a plain average, so the first batch counts in full. It does change predictions: an untrained
        head then predicts the mean return instead of zero.
        """
        known = self.weight > 0
        old_mean, old_std = self.mean.clone(), self.std
        self.weight.mul_(decay).add_(1 - decay)
        step = (1 - decay) / self.weight
        mean = target.mean()
        self.mean.lerp_(mean, step)
        # Around the mean: if returns are large and nearly equal, a difference of two mean squares is rounding noise.
        around = self.variance + (old_mean - self.mean).square()
        self.variance.copy_(around.lerp(target.var(correction=0) + (mean - self.mean).square(), step))
        if known:
            self.layer.weight.mul_(old_std / self.std)
            self.layer.bias.mul_(old_std).add_(old_mean - self.mean).div_(self.std)
