"""An algorithm of your own: PPO with a second clip."""

import torch

from seqrl.algorithms.losses import approximate_kl
from seqrl.algorithms.ppo import SequencePPOAlgorithm


class DualClipPPO(SequencePPOAlgorithm):
    """PPO whose loss stays bounded when a bad action has become likely.

        - mean( max( L, c A ) where A < 0, else L )     L = min( ρ A, clip(ρ, 1 - ε, 1 + ε) A )

    dual_clip   c, above 1

    Source: Ye et al. (2020), "Mastering complex control in MOBA games with deep reinforcement learning".
    """

    def __init__(self, network, shuffle, *, dual_clip, **settings):
        super().__init__(network, shuffle, **settings)
        self.dual_clip = dual_clip

    def policy_loss(self, policy, batch, progress):
        log_ratio = policy.log_prob(batch.action) - batch.log_prob
        ratio, clip_range = log_ratio.exp(), self.annealed("clip_range", progress)
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        surrogate = torch.min(ratio * batch.advantage, clipped * batch.advantage)
        bound = torch.where(batch.advantage < 0, self.dual_clip * batch.advantage, -torch.inf)
        loss = -torch.max(surrogate, bound).mean()
        return loss, {
            "train/kl": approximate_kl(log_ratio.detach()),
            "train/bounded": (bound > surrogate).float().mean(),
        }
