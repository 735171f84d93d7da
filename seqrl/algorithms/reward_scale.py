"""Reward scaling by the standard deviation of returns."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seqrl.algorithms.returns import accumulated
from seqrl.types import Rollout


class RewardScale:
    """Divides rewards by the standard deviation of the discounted return over all real steps so far.

        R_t = r_t + γ R_{t-1}    within an episode; it restarts with each episode, however the last one ended

    All environments share one deviation. A rollout enters the statistics before its own rewards are divided. No mean is
    subtracted, so rewards keep their sign.

    Source: Engstrom et al. (2020), "Implementation matters in deep policy gradients: a case study on PPO and TRPO".
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self.steps, self.mean, self.variance = 0, 0.0, 0.0
        # R of the step before the next rollout [B].
        self._last = torch.zeros((), dtype=torch.float64)

    @property
    def deviation(self) -> float:
        """The divisor of rewards; 1 if all returns are equal up to rounding."""
        deviation = math.sqrt(self.variance)
        return deviation if deviation > 1e-8 * abs(self.mean) else 1.0

    def divided(self, rollout: Rollout) -> Rollout:
        """Update the statistics with a rollout; return it with its rewards divided."""
        returns = self._returns(rollout)[rollout.valid.cpu()]
        self._count(len(returns), float(returns.mean()), float(returns.var(correction=0)))
        return replace(rollout, reward=rollout.reward / self.deviation)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "mean": self.mean, "variance": self.variance, "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.mean, self.variance = state["steps"], state["mean"], state["variance"]
        self._last = state["last"]

    def _returns(self, rollout: Rollout) -> Tensor:
        """R of every step [T, B]."""
        reward = rollout.reward.where(rollout.valid, 0).cpu().double()
        continues = (rollout.valid & (rollout.age > 0)).cpu()
        # If no episode continues, a resumed run may have a different number of environments.
        before = self._last if continues[0].any() else torch.zeros_like(reward[0])
        returns = accumulated(reward, self.gamma * continues.double(), before, range(len(reward)))
        self._last = returns[-1].clone()
        return returns

    def _count(self, steps: int, mean: float, variance: float) -> None:
        """Merge the statistics of `steps` new steps into the running ones (Chan et al., 1979)."""
        share = steps / (self.steps + steps)
        shift = mean - self.mean
        self.steps += steps
        self.mean += share * shift
        self.variance += share * (variance - self.variance + (1 - share) * shift**2)
