"""What followed an action, estimated."""

from collections.abc import Iterable

import torch
from torch import Tensor

from seqrl.types import Rollout


def gae(rollout: Rollout, gamma: float, lambda_: float) -> Tensor:
    """Generalised advantage of every step [T, B]; 0 where nothing was played.

        δ_t = r_t + γ V(what followed t) - V_t
        A_t = δ_t + γ λ A_{t+1}    within an episode; the chain is cut at its end

    `next_value` carries the bootstrap: 0 after termination, the value of the final observation at a time limit, that of
    the next observation where the episode goes on. λ = 1 gives the Monte Carlo return minus the value.

    Source: Schulman et al. (2016), "High-dimensional continuous control using generalized advantage estimation".
    """
    delta = rollout.reward + gamma * rollout.next_value - rollout.value
    delta = delta.where(rollout.valid, 0)
    # False where the chain is cut: after an episode's end, and around steps that were not played.
    goes_on = rollout.valid & ~rollout.ended
    discount = gamma * lambda_ * goes_on.to(delta.dtype)
    return accumulated(delta, discount, torch.zeros_like(delta[0]), reversed(range(len(delta))))


def accumulated(x: Tensor, factor: Tensor, before: Tensor, steps: Iterable[int]) -> Tensor:
    """A sum that runs from step to step [T, B]: y = x + factor · (y of the step before).

    before   [B] y of what comes before the first
    steps    all of them, in the order in which they follow
    """
    y = torch.empty_like(x)
    for t in steps:
        before = torch.addcmul(x[t], factor[t], before)
        y[t] = before
    return y
