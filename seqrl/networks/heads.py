"""Policies: a distribution over actions for each space, and the layer that parametrises it."""

import math
from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from seqrl.errors import ConfigError
from seqrl.networks.layers import hidden_layer, linear


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
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)


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
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        entropy = (0.5 + 0.5 * math.log(2 * math.pi) + self.log_std).sum()
        return entropy.expand(self.mean.shape[:-1])


class CategoricalHead(nn.Module):
    """Policy over `n` choices; starts close to uniform."""

    def __init__(self, input_size: int, hidden_size: int, n: int) -> None:
        super().__init__()
        self.logits = nn.Sequential(hidden_layer(input_size, hidden_size), linear(hidden_size, n, gain=0.01))

    def forward(self, features: Tensor) -> Categorical:
        return Categorical(as_parameters(self.logits(features), self))


class GaussianHead(nn.Module):
    """Policy over D numbers, in units where a bounded action runs over [-1, 1]; its spread is the same everywhere."""

    def __init__(self, input_size: int, hidden_size: int, dimensions: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(hidden_layer(input_size, hidden_size), linear(hidden_size, dimensions, gain=0.01))
        self.log_std = nn.Parameter(torch.zeros(dimensions))

    def forward(self, features: Tensor) -> Gaussian:
        return Gaussian(as_parameters(self.mean(features), self), self.log_std)


def as_parameters(x: Tensor, module: nn.Module) -> Tensor:
    """The same numbers in the precision of a module's parameters, which matrix products may have left."""
    return x.to(next(module.parameters()).dtype)


def policy_head(input_size: int, hidden_size: int, action_space: spaces.Space[Any]) -> CategoricalHead | GaussianHead:
    """Head that fits the action space, with one hidden layer.

    Raises ConfigError for a space that is neither Discrete nor a one-dimensional Box.
    """
    match action_space:
        case spaces.Discrete():
            return CategoricalHead(input_size, hidden_size, int(action_space.n))
        case spaces.Box(shape=(dimensions,)):
            return GaussianHead(input_size, hidden_size, dimensions)
    raise ConfigError(
        [f"env: no policy for the action space {action_space}. Discrete and one-dimensional Box have one."]
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
