"""Rewards in units of the returns' own deviation."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seqrl.algorithms.returns import accumulated
from seqrl.types import Rollout


class RewardScale:
    """Divides rewards by the standard deviation of the discounted return, over every real step so far.

        R_t = r_t + γ R_{t-1}    within an episode; it begins anew with each, whatever ended the one before

    One deviation for all environments. A rollout counts before its own rewards are divided. No mean is subtracted: a
    reward keeps its sign.

    Source: Engstrom et al. (2020), "Implementation matters in deep policy gradients: a case study on PPO and TRPO".
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self.steps, self.mean, self.variance = 0, 0.0, 0.0
        # R of the step before the next rollout [B].
        self._last = torch.zeros((), dtype=torch.float64)

    @property
    def deviation(self) -> float:
        """What rewards are divided by; 1 where all returns are alike but for rounding."""
        deviation = math.sqrt(self.variance)
        return deviation if deviation > 1e-8 * abs(self.mean) else 1.0

    def divided(self, rollout: Rollout) -> Rollout:
        """Take in a rollout; return it with its rewards divided."""
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
        goes_on = (rollout.valid & (rollout.age > 0)).cpu()
        # Where nothing goes on, a resumed run may even have another number of environments.
        before = self._last if goes_on[0].any() else torch.zeros_like(reward[0])
        returns = accumulated(reward, self.gamma * goes_on.double(), before, range(len(reward)))
        self._last = returns[-1].clone()
        return returns

    def _count(self, steps: int, mean: float, variance: float) -> None:
        """Merge the statistics of so many steps into those of all before (Chan et al., 1979)."""
        share = steps / (self.steps + steps)
        apart = mean - self.mean
        self.steps += steps
        self.mean += share * apart
        self.variance += share * (variance - self.variance + (1 - share) * apart**2)
