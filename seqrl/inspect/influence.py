"""How strongly earlier observations influence policy and value: the temporal range.

Source: Lafuente-Mercado, Rus & Rusch (2025), "Quantifying memory use in reinforcement learning with temporal range",
arXiv 2512.06204.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from seqrl.errors import described
from seqrl.insight import NotApplicableError
from seqrl.inspect.episodes import Episodes
from seqrl.networks import Distribution, Network
from seqrl.networks.heads import BoundedGaussian, Categorical, Categoricals, Gaussian, JointDistribution, least
from seqrl.runner import Player
from seqrl.statistics import Array

# Steps of each episode whose outputs are followed back, and numbers of an output; of more, random directions.
STEPS, OUTPUTS = 16, 8
# Share of the largest influence below which one is called none.
NOTHING = 0.01


@dataclass(frozen=True)
class Influence:
    """Mean Frobenius norm of ∂ output_t / ∂ o_{t-k} by lag k, over the steps t of episodes that have one k steps back.

    weights   [lags]
    """

    weights: Array

    @property
    def range(self) -> float:
        """Σ k w_k / Σ w_k; 0 if nothing influences anything."""
        total = self.weights.sum()
        return float((np.arange(len(self.weights)) * self.weights).sum() / total) if total else 0.0

    @property
    def reach(self) -> int:
        """The largest lag with a hundredth of the largest influence."""
        above = np.flatnonzero(self.weights >= NOTHING * self.weights.max())
        return int(above[-1]) if self.weights.any() else 0


def influence(network: Player, episodes: Episodes) -> dict[str, Influence]:
    """Influence on the `policy` and on the `value`.

    Of a network of seqrl, observations are what the encoder's layer reads: numbers as they are, or standardised with
    normalize_observations, choices one-hot, images after their convolutions.

    Raises NotApplicableError if there is nothing to differentiate.
    """
    try:
        return _influence(network, episodes)
    except RuntimeError as error:
        # Of a network of one's own, which need not be made of what torch differentiates.
        raise NotApplicableError(f"the network cannot be differentiated ({described(error)})") from error


def _influence(network: Player, episodes: Episodes) -> dict[str, Influence]:
    random = torch.Generator().manual_seed(0)
    with _watched(network, episodes) as (observation, read), torch.enable_grad():
        policies, values = [], []
        for policy, value, _ in episodes.replay(network, observation):
            policies.append(outputs(policy))
            values.append(value.unsqueeze(-1))
        found = {}
        for name, steps in {"policy": policies, "value": values}.items():
            reads = read["critic" if name == "value" and "critic" in read else "actor"]
            found[name] = Influence(_weights(torch.stack(steps), reads, episodes, random))
    return found


def outputs(policy: Distribution) -> Tensor:
    """What a distribution is made of [N, A]: log-probabilities of choices, which are logits, or means of numbers."""
    match policy:
        case Categorical():
            # An alternative that is not allowed has none.
            return policy.log_probs.where(policy.log_probs > least(policy.log_probs) / 2, 0)
        case Categoricals():
            return outputs(policy.each).flatten(1)
        case Gaussian():
            return policy.mean
        case BoundedGaussian():
            return policy.location
        case JointDistribution():
            return torch.cat([outputs(part) for part in policy.parts.values()], -1)
    raise NotApplicableError(f"the policy is of the class {type(policy).__name__}, whose logits are not known")


@contextmanager
def _watched(network: Player, episodes: Episodes) -> Iterator[tuple[Sequence[Tensor], dict[str, list[Tensor]]]]:
    """Observations to show, and meanwhile what each trunk reads of them at each step, as leaves to differentiate by."""
    observation = episodes.observation
    trunks = {"actor": network.actor, "critic": network.critic} if isinstance(network, Network) else {}
    layers = {name: getattr(trunk.encoder, "layer", None) for name, trunk in trunks.items() if trunk is not None}
    if not all(isinstance(layer, nn.Module) for layer in layers.values()) or not layers:
        if not observation.is_floating_point():
            raise NotApplicableError("the network is your own, and what it observes is not real numbers")
        leaves = [step.detach().clone().requires_grad_() for step in observation]
        yield leaves, {"actor": leaves}
        return
    read: dict[str, list[Tensor]] = {name: [] for name in layers}
    handles = [layer.register_forward_pre_hook(_leaf_into(read[name])) for name, layer in layers.items() if layer]
    try:
        yield list(observation), read
    finally:
        for handle in handles:
            handle.remove()


def _leaf_into(read: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    """A hook that has a layer read a leaf of the same numbers, and keeps it."""

    def hook(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        read.append(given[0].detach().requires_grad_())
        return (read[-1],)

    return hook


def _weights(output: Tensor, read: Sequence[Tensor], episodes: Episodes, random: torch.Generator) -> Array:
    """Mean norm by lag, of outputs [T, N, A] by what was read at each step [N, ...]."""
    if not output.requires_grad:
        return np.zeros(1)
    total = torch.zeros(len(read), dtype=torch.float64)
    count = torch.zeros_like(total)
    rows = torch.arange(len(episodes.length), device=output.device)
    for t, counts in _steps_followed(episodes.length):
        squares = torch.zeros(len(read), len(rows), dtype=torch.float64, device=output.device)
        for direction in _directions(output.shape[-1], random):
            along = (output[t, rows] * direction.to(output)).sum()
            gradients = torch.autograd.grad(along, list(read), retain_graph=True, allow_unused=True)
            for s, gradient in enumerate(gradients):
                if gradient is not None:
                    squares[s] += gradient.double().flatten(1).square().sum(1)
        lag = (t - torch.arange(len(read), device=t.device).unsqueeze(1))[:, counts].cpu()
        there = lag >= 0
        total.index_add_(0, lag[there], squares[:, counts].sqrt().cpu()[there])
        count.index_add_(0, lag[there], torch.ones_like(total[lag[there]]))
    return (total / count)[count > 0].numpy()


def _steps_followed(length: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Steps [N], one of each episode, evenly spread from the last one back to the first; and in which they are new."""
    steps = min(STEPS, int(length.max()))
    before = torch.full_like(length, -1)
    for index in range(steps):
        t = ((length - 1) * (steps - 1 - index)).div(max(1, steps - 1), rounding_mode="floor")
        yield t, t != before
        before = t


def _directions(outputs: int, random: torch.Generator) -> Iterator[Tensor]:
    """Directions [A] whose squared derivatives add up to the squared norm: all axes, or some random ones on average."""
    if outputs <= OUTPUTS:
        yield from torch.eye(outputs)
    else:
        yield from torch.randn(OUTPUTS, outputs, generator=random) / OUTPUTS**0.5
