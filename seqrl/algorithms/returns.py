"""Returns, as advantages: generalised advantage estimation."""

from collections.abc import Iterable

import torch
from torch import Tensor

from seqrl.types import Rollout


def gae(rollout: Rollout, gamma: float, lambda_: float) -> Tensor:
    """Generalised advantage of every step [T, B]; 0 where nothing was played.

        δ_t = r_t + γ next_value_t - V_t
        A_t = δ_t + γ λ A_{t+1}    within an episode; the chain is cut at its end

    `next_value` carries the bootstrap: 0 after termination, otherwise the value of the final observation at a time
    limit or of the next observation. λ = 1 gives the Monte Carlo return minus the value.

    Source: Schulman et al. (2016), "High-dimensional continuous control using generalized advantage estimation".
    """
    delta = rollout.reward + gamma * rollout.next_value - rollout.value
    delta = delta.where(rollout.valid, 0)
    # The chain is cut after an episode's end and around steps that were not played.
    continues = rollout.valid & ~rollout.ended
    discount = gamma * lambda_ * continues.to(delta.dtype)
    return accumulated(delta, discount, torch.zeros_like(delta[0]), reversed(range(len(delta))))


def accumulated(x: Tensor, factor: Tensor, before: Tensor, steps: Iterable[int]) -> Tensor:
    """Running sum [T, B]: y = x + factor · (y of the previous step).

    before   [B] y before the first step
    steps    all time indices, in the order of the sum
    """
    y = torch.empty_like(x)
    for t in steps:
        before = torch.addcmul(x[t], factor[t], before)
        y[t] = before
    return y
