"""Proximal policy optimisation, through time and on single steps."""

from typing import Any

import numpy as np
from torch import Tensor

from seqrl.algorithms.base import SequenceAlgorithm, SingleSteps
from seqrl.algorithms.gradients import Terms
from seqrl.algorithms.losses import approximate_kl, clipped_surrogate
from seqrl.networks import Distribution, Network
from seqrl.types import SequenceBatch


class SequencePPOAlgorithm(SequenceAlgorithm):
    """Proximal policy optimisation through time.

    clip_range   ε of the clipped surrogate
    target_kl    stop after an epoch whose mean KL divergence from the collecting policy exceeds this; None: never
    anneal       any of learning_rate, clip_range and entropy_coefficient

    Source: Schulman et al. (2017), "Proximal policy optimization algorithms".
    """

    def __init__(
        self,
        network: Network,
        shuffle: np.random.Generator,
        *,
        clip_range: float,
        target_kl: float | None,
        **settings: Any,
    ) -> None:
        super().__init__(network, shuffle, **settings)
        self.clip_range, self.target_kl = clip_range, target_kl

    def policy_loss(self, policy: Distribution, batch: SequenceBatch, progress: float) -> tuple[Tensor, Terms]:
        log_ratio = policy.log_prob(batch.action) - batch.log_prob
        clip_range = self.annealed("clip_range", progress)
        loss = clipped_surrogate(log_ratio, batch.advantage, clip_range)
        log_ratio = log_ratio.detach()
        clip_fraction = (log_ratio.expm1().abs() > clip_range).float().mean()
        return loss, {"train/kl": approximate_kl(log_ratio), "train/clip_fraction": clip_fraction}


class PPOAlgorithm(SingleSteps, SequencePPOAlgorithm):
    """Proximal policy optimisation on single steps."""
