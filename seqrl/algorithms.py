"""PPO and its sequence form: from a rollout to a better network."""

import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from seqrl.errors import NotFiniteError
from seqrl.losses import approximate_kl, clipped_surrogate, normalized
from seqrl.networks import Network
from seqrl.returns import gae
from seqrl.sequences import Sequences, split
from seqrl.types import Rollout, SequenceBatch

# Share of the old in the running statistics of value targets, per update.
VALUE_DECAY = 0.99
# Updates in a row that may be skipped for a gradient that is not finite.
PATIENCE = 3


class SequencePPOAlgorithm:
    """Proximal policy optimisation through time: gradients follow memory within sequences.

    network              learns in place
    shuffle              deals sequences to minibatches
    learning_rate        of Adam (eps 1e-5)
    gamma, gae_lambda    discount and λ of the advantage
    epochs, minibatches  passes over a rollout, and gradient steps in each
    clip_range           ε of the clipped surrogate
    entropy_coefficient, value_coefficient    weights in the loss beside the policy's 1
    target_kl            an epoch that ends farther than this from the collecting policy is the last; None: never
    normalize_advantage  mean 0 and deviation 1 over the real steps of a minibatch
    normalize_value      learn values in units of the returns' own mean and deviation
    anneal               names of the coefficients that fall linearly to 0 over the run:
                         learning_rate, clip_range, entropy_coefficient
    grad_clip_norm       largest global gradient norm; None: no clipping
    bptt_length          steps of an episode that a gradient reaches back; 0: to its start

    Source: Schulman et al. (2017), "Proximal policy optimization algorithms"; sequences: Hausknecht & Stone (2015).
    """

    def __init__(
        self,
        network: Network,
        shuffle: np.random.Generator,
        *,
        learning_rate: float,
        gamma: float,
        gae_lambda: float,
        epochs: int,
        minibatches: int,
        clip_range: float,
        entropy_coefficient: float,
        value_coefficient: float,
        target_kl: float | None,
        normalize_advantage: bool,
        normalize_value: bool,
        anneal: Iterable[str],
        grad_clip_norm: float | None,
        bptt_length: int,
    ) -> None:
        self.network, self.shuffle = network, shuffle
        self.learning_rate, self.gamma, self.gae_lambda = learning_rate, gamma, gae_lambda
        self.epochs, self.minibatches = epochs, minibatches
        self.clip_range, self.entropy_coefficient = clip_range, entropy_coefficient
        self.value_coefficient, self.target_kl = value_coefficient, target_kl
        self.normalize_advantage, self.normalize_value = normalize_advantage, normalize_value
        self.anneal = frozenset(anneal)
        self.grad_clip_norm, self.bptt_length = grad_clip_norm, bptt_length
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, eps=1e-5, fused=True)
        self._skipped_in_a_row = 0

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Improve the network by one rollout; `progress` is the share of the run that is over. Returns what to log."""
        advantage = gae(rollout, self.gamma, self.gae_lambda)
        sequences = split(rollout, advantage, self.bptt_length)
        if self.normalize_value:
            self.network.value.adapt(sequences.target, VALUE_DECAY)
        learning_rate = self._annealed("learning_rate", progress)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

        log = Log()
        epochs = 0
        while epochs < self.epochs:
            epochs += 1
            epoch = Log()
            for batch in sequences.minibatches(self.minibatches, self.shuffle):
                loss, terms = self.loss(batch, progress)
                epoch.add(terms | self._step(loss))
            log.extend(epoch)
            if self.target_kl is not None and epoch.mean()["train/kl"] > self.target_kl:
                break
        return (
            log.mean()
            | self._summary(rollout, sequences)
            | {
                "train/learning_rate": learning_rate,
                "train/epochs": epochs,
            }
        )

    def loss(self, batch: SequenceBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a minibatch, a scalar, and its terms by name."""
        policy, value = self.network.unroll(batch)
        log_ratio = policy.log_prob(batch.action) - batch.log_prob
        advantage = normalized(batch.advantage) if self.normalize_advantage else batch.advantage
        clip_range = self._annealed("clip_range", progress)
        policy_loss = clipped_surrogate(log_ratio, advantage, clip_range)
        value_loss = 0.5 * ((value - batch.target) / self.network.value.std).square().mean()
        entropy = policy.entropy().mean()
        loss = (
            policy_loss
            + self.value_coefficient * value_loss
            - self._annealed("entropy_coefficient", progress) * entropy
        )
        log_ratio = log_ratio.detach()
        return loss, {
            "train/policy_loss": policy_loss.detach(),
            "train/value_loss": value_loss.detach(),
            "train/entropy": entropy.detach(),
            "train/kl": approximate_kl(log_ratio),
            "train/clip_fraction": (log_ratio.expm1().abs() > clip_range).float().mean(),
        }

    def _step(self, loss: Tensor) -> dict[str, Tensor]:
        """Follow the gradient; where it is not finite, change nothing."""
        self.optimizer.zero_grad()
        loss.backward()
        limit = math.inf if self.grad_clip_norm is None else self.grad_clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit, foreach=True)
        if not norm.isfinite():
            self._skip()
            return {"train/skipped": torch.ones(())}
        self.optimizer.step()
        self._skipped_in_a_row = 0
        return {
            "train/gradient_norm": norm,
            "train/gradient_clipped": (norm > limit).float(),
            "train/skipped": torch.zeros(()),
        }

    def _skip(self) -> None:
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == PATIENCE:
            raise NotFiniteError(
                f"loss: the gradient was NaN or infinite {PATIENCE} times in a row, all skipped. Reduce "
                f"sequence_learning.grad_clip_norm (got {self.grad_clip_norm}), to 2.0 for instance, "
                f"or algorithm.learning_rate (got {self.learning_rate})."
            )

    def _annealed(self, name: str, progress: float) -> float:
        value: float = getattr(self, name)
        return value * max(0.0, 1 - progress) if name in self.anneal else value

    def _summary(self, rollout: Rollout, sequences: Sequences) -> dict[str, float]:
        spread = sequences.target.var(correction=0)
        unexplained = sequences.advantage.var(correction=0)
        return {
            "train/explained_variance": float(1 - unexplained / spread) if spread > 0 else 0.0,
            "memory/sequences": len(sequences.length),
            "memory/sequence_length": float(sequences.length.mean()),
            "memory/carried": float((sequences.state_index >= 0).mean()),
        }


class PPOAlgorithm(SequencePPOAlgorithm):
    """PPO on single steps: each starts from its stored memory, no gradient passes back in time."""

    def __init__(self, network: Network, shuffle: np.random.Generator, **coefficients: object) -> None:
        super().__init__(network, shuffle, **{**coefficients, "bptt_length": 1})  # type: ignore[arg-type]


class Log:
    """Averages of scalars by name."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._values[name].append(value)

    def extend(self, other: "Log") -> None:
        for name, values in other._values.items():
            self._values[name].extend(values)

    def mean(self) -> dict[str, float]:
        return {name: float(torch.stack(values).mean()) for name, values in self._values.items()}
