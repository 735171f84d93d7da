"""Losses over real steps, flat [M]: padding never reaches them."""

import torch
from torch import Tensor


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """PPO's pessimistic policy loss, a scalar.

        - mean( min( ρ A, clip(ρ, 1 - ε, 1 + ε) A ) )     ρ = exp(log_ratio)

    log_ratio    [M] log-probability now minus that when the action was taken
    Source: Schulman et al. (2017), "Proximal policy optimization algorithms", equation 7.
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.min(ratio * advantage, clipped * advantage).mean()


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """KL divergence from the collecting policy to the current one, a scalar ≥ 0: mean(ρ - 1 - log ρ).

    Source: Schulman (2020), "Approximating KL divergence", the estimator k3.
    """
    return (log_ratio.expm1() - log_ratio).mean()


def scaled(advantage: Tensor, rounding: float = 0.0) -> Tensor:
    """Advantage [M] with root mean square 1.

    rounding   size of rounding errors in it, which stay small if there is nothing else
    """
    largest = advantage.abs().max().clamp_min(torch.finfo(advantage.dtype).tiny)
    # In its own units, because a square may be too small for its dtype.
    units = advantage / largest
    return units / (units.square().mean().sqrt() + rounding / largest).clamp_min(torch.finfo(units.dtype).tiny)
