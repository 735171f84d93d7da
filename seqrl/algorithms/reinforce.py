"""REINFORCE, through time and on single steps."""

from typing import Any

import numpy as np
from torch import Tensor

from seqrl.algorithms.base import SequenceAlgorithm, SingleSteps
from seqrl.algorithms.gradients import Terms
from seqrl.algorithms.losses import approximate_kl
from seqrl.networks import Distribution, Network
from seqrl.types import Rollout, SequenceBatch


class SequenceReinforceAlgorithm(SequenceAlgorithm):
    """REINFORCE through time: an action's return minus a baseline weights the gradient of its log-probability.

    baseline   value: the network's value of the observation. batch_mean: the mean return of the rollout's steps. none
    anneal     any of learning_rate and entropy_coefficient

    Source: Williams (1992), "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning".
    """

    def __init__(self, network: Network, shuffle: np.random.Generator, *, baseline: str, **settings: Any) -> None:
        super().__init__(network, shuffle, **settings)
        if baseline not in BASELINES:
            raise ValueError(f"baseline is {baseline!r}; use one of {', '.join(BASELINES)}")
        self.baseline = baseline

    def advantage(self, rollout: Rollout, advantage: Tensor) -> Tensor:
        if self.baseline == "value":
            return advantage
        returns = advantage + rollout.value
        return returns - returns[rollout.valid].mean() if self.baseline == "batch_mean" else returns

    def centred(self, advantage: Tensor) -> Tensor:
        # Subtracting the mean from plain returns would add a baseline.
        return advantage if self.baseline == "none" else super().centred(advantage)

    def policy_loss(self, policy: Distribution, batch: SequenceBatch, progress: float) -> tuple[Tensor, Terms]:
        log_prob = policy.log_prob(batch.action)
        kl = approximate_kl((log_prob - batch.log_prob).detach())
        return -(batch.advantage * log_prob).mean(), {"train/kl": kl}


BASELINES = ("value", "batch_mean", "none")


class ReinforceAlgorithm(SingleSteps, SequenceReinforceAlgorithm):
    """REINFORCE on single steps."""
