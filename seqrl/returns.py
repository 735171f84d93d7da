"""What followed an action, estimated."""

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
    advantage = torch.empty_like(delta)
    following = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        following = torch.addcmul(delta[t], discount[t], following)
        advantage[t] = following
    return advantage
