"""How far what a network would do with stored memory is from what it does with memory it computes itself."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seqrl.algorithms.sequences import Ints, Sequences, split
from seqrl.insight.probe import NotApplicableError, Probe
from seqrl.networks import Distribution
from seqrl.networks.heads import Categorical, Categoricals
from seqrl.types import State

# Actions that stand for a policy whose divergence has no formula here.
DRAWS = 32


@dataclass(frozen=True)
class Staleness:
    """Means over the sequences that begin with stored memory, at their first steps and at their last.

    kl      KL(π given stored memory ‖ π given recomputed memory)
    value   |V given stored memory − V given recomputed memory|, in standard deviations of the returns

    Source: Kapturowski et al. (2019), "Recurrent experience replay in distributed reinforcement learning", section 3,
    which does so with Q.
    """

    kl_first: float
    kl_last: float
    value_first: float
    value_last: float

    @property
    def kl(self) -> float:
        """Mean of both places."""
        return (self.kl_first + self.kl_last) / 2

    @property
    def value(self) -> float:
        """Mean of both places."""
        return (self.value_first + self.value_last) / 2


@torch.no_grad()
def staleness(probe: Probe, stored: State) -> Staleness:
    """Compare the memories that an epoch began its sequences with to those that the network would compute now.

    stored   leaves [K, ...] that took the place of the rollout's `state`; rows are those of its `state_index`

    Raises NotApplicableError if no sequence begins with such a memory. What an episode carried into the rollout cannot
    be recomputed, and does not count.
    """
    probe.insist_on_memory()
    length = probe.algorithm.settings.bptt_length
    old = replace(split(probe.rollout, probe.advantage, probe.target, length), state=stored)
    new = split(probe.fresh, probe.advantage, probe.target, length)
    first = new.state_index // probe.rollout.valid.shape[1] > 0
    chosen = first.nonzero()[0]
    if not len(chosen):
        raise NotApplicableError("no sequence begins with a memory that was stored within the rollout")
    kl, value = _differences(probe, old.select(chosen), new.select(chosen))
    begin = torch.from_numpy(_begin(new.length[chosen])).to(kl.device)
    end = torch.from_numpy(new.length[chosen].cumsum() - 1).to(kl.device)
    spread = probe.spread or 1.0
    return Staleness(
        float(kl[begin].mean()),
        float(kl[end].mean()),
        float(value[begin].mean()) / spread,
        float(value[end].mean()) / spread,
    )


def divergence(one: Distribution, other: Distribution) -> Tensor:
    """KL(one ‖ other) of each pair [M]; estimated from actions where there is no formula for it."""
    match one, other:
        case Categorical(), Categorical():
            return (one.log_probs.exp() * (one.log_probs - other.log_probs)).sum(-1)
        case Categoricals(), Categoricals():
            return divergence(one.each, other.each).sum(-1)
    estimates = []
    # Its own generator: it must not take random numbers from the run.
    generator = torch.Generator(one.mode().device).manual_seed(0)
    for _ in range(DRAWS):
        action = one.sample(generator)
        log_ratio = other.log_prob(action) - one.log_prob(action)
        estimates.append(log_ratio.expm1() - log_ratio)
    return torch.stack(estimates).mean(0)


def _begin(length: Ints) -> Ints:
    return length.cumsum() - length


def _differences(probe: Probe, old: Sequences, new: Sequences) -> tuple[Tensor, Tensor]:
    """KL divergence and |ΔV| [M] at every step, sequences end to end."""
    kl, value = [], []
    steps = probe.chunk_steps
    for before, now in zip(old.batches(steps), new.batches(steps), strict=True):
        stored, stored_value = probe.network.unroll(before)
        current, current_value = probe.network.unroll(now)
        kl.append(divergence(stored, current))
        value.append((stored_value - current_value).abs())
    return torch.cat(kl), torch.cat(value)
