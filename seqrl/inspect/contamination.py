"""How long a wrong observation disturbs the policy."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqrl.insight.staleness import divergence
from seqrl.inspect.episodes import Episodes
from seqrl.networks import Distribution
from seqrl.networks.heads import Gaussian, JointDistribution
from seqrl.runner import Player
from seqrl.statistics import Array

# Steps of each episode at which a wrong observation is shown.
PLACES = 8
# KL divergence, in nats, below which nothing was disturbed.
NOTHING = 1e-9
# More is written as this.
LARGEST = 1e6


@dataclass(frozen=True)
class Contamination:
    """Mean KL(policy ‖ policy that saw one wrong observation) by the steps since; at 0 it is still being shown.

    kl   [lags]
    """

    kl: Array

    @property
    def half_life(self) -> float | None:
        """Steps until the divergence is below half of its largest for good, counted only while memory carries it.

        Between two steps it is interpolated as one that decays exponentially. 0: memory carries nothing over. None: it
        is not below by the last step that was seen.
        """
        carried = self.kl[1:]
        if not len(carried) or carried.max() <= NOTHING:
            return 0.0
        half = carried.max() / 2
        last = int(np.flatnonzero(carried >= half)[-1])
        if last + 1 == len(carried):
            return None
        above, below = np.log(carried[last]), np.log(max(carried[last + 1], NOTHING * half))
        return float(1 + last + (above - np.log(half)) / (above - below))


@torch.no_grad()
def contamination(network: Player, episodes: Episodes) -> Contamination:
    """Show another episode's observation once, and the episode's own ones before and after."""
    length = episodes.length
    clean = [policy for policy, _, _ in episodes.replay(network)]
    total = torch.zeros(len(clean), dtype=torch.float64)
    count = torch.zeros_like(total)
    for place, wrong in _wrong(episodes):
        shown = episodes.observation.clone()
        rows = torch.arange(len(length), device=length.device)
        shown[place, rows] = wrong
        # One that happens to be the right one disturbs nothing.
        differs = (shown[place, rows] != episodes.observation[place, rows]).reshape(len(rows), -1).any(1)
        for t, (policy, _, _) in enumerate(episodes.replay(network, shown)):
            here = (t >= place) & (t < length) & differs
            lag, kl = (t - place)[here].cpu(), _divergence(clean[t], policy)[here].cpu()
            total.index_add_(0, lag, kl)
            count.index_add_(0, lag, torch.ones_like(kl))
    # Of the longest lags there are too few to tell.
    enough = count >= max(1.0, float(count.max()) / (2 * PLACES))
    lags = int(enough.long().cumprod(0).sum())
    return Contamination((total / count.clamp(min=1))[:lags].numpy())


def _divergence(one: Distribution, other: Distribution) -> Tensor:
    """KL(one ‖ other) [N], finite."""
    match one, other:
        case Gaussian(), Gaussian():
            ratio = one.log_std - other.log_std
            squares = (2 * ratio).exp() + ((one.mean - other.mean) / other.log_std.exp()).square()
            kl = (squares / 2 - ratio - 0.5).sum(-1)
        case JointDistribution(), JointDistribution():
            return torch.stack([_divergence(part, other.parts[name]) for name, part in one.parts.items()]).sum(0)
        case _:
            kl = divergence(one, other)
    return kl.double().nan_to_num(nan=0.0).clamp(0, LARGEST)


def _wrong(episodes: Episodes) -> Iterator[tuple[Tensor, Tensor]]:
    """A step [N] of each episode, its first among them, and the observation [N, *O] of another episode, or step."""
    random = torch.Generator().manual_seed(0)
    length, count = episodes.length.cpu(), len(episodes.length)
    for index in range(PLACES):
        place = (length * index).div(PLACES, rounding_mode="floor")
        others = (torch.arange(count) + 1 + index) % count
        steps = (torch.rand(count, generator=random) * length[others]).long()
        wrong = episodes.observation[steps, others]
        yield place.to(episodes.length.device), wrong
