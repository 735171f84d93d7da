"""What all algorithms share: the update of a network from a rollout, with loss, clipping and step."""

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from seqrl.algorithms import stale_state
from seqrl.algorithms.adam import Adam
from seqrl.algorithms.gradients import GradientThreads, PartSum, Terms, accumulate
from seqrl.algorithms.losses import scaled
from seqrl.algorithms.returns import gae
from seqrl.algorithms.reward_scale import RewardScale
from seqrl.algorithms.sequences import Sequences, split
from seqrl.errors import NotFiniteError
from seqrl.machine import cores
from seqrl.networks import Block, Distribution, Network, insist_on_rows
from seqrl.ranks import ALONE, Ranks
from seqrl.types import PARTS, Rollout, SequenceBatch, State

# Weight of the old value-target statistics at each update.
VALUE_DECAY = 0.99
# Chunks of fewer real steps slow an update down and save little memory.
MIN_CHUNK_STEPS = 1024
# Size of rounding errors in advantages, as a share of the largest value target.
ROUNDING = 1e-8
# Size of rounding errors in value targets, in the last digit of the largest value.
SUM_ROUNDING = 16
# Fields of a minibatch that are kept as evidence if its gradient is not finite.
STEPS = ("observation", "action", "log_prob", "advantage", "target", "length")
# Rewards whose sums have squares that float32 cannot hold.
IMMENSE = 1e16
# Consecutive minibatches with a gradient that is not finite that end the run.
PATIENCE = 3


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that all algorithms share: keys of config group `algorithm`, documented in `AlgorithmConfig`.

    As a dataclass it rejects unknown and missing names.
    """

    learning_rate: float
    gamma: float
    gae_lambda: float
    epochs: int
    minibatches: int | None
    # Configurations of algorithms of one's own that were written for 0.1.0 don't have these.
    minibatch_steps: int = 512
    exploration: str = "entropy"
    entropy_coefficient: float
    value_coefficient: float
    normalize_advantage: str
    normalize_value: bool
    normalize_reward: bool
    anneal: Sequence[str]
    grad_clip_norm: float | None
    bptt_length: int
    stale_state: str
    burn_in: int
    max_tokens_per_batch: int | None
    gradient_threads: int | None = None
    gradient_parts: int | None = None
    memory_learning_rate: float | None = None


class Observer(Protocol):
    """Looks on while a network learns from a rollout, and changes nothing that is learned."""

    def before(
        self, algorithm: "SequenceAlgorithm", rollout: Rollout, advantage: Tensor, target: Tensor, progress: float
    ) -> None:
        """Called before the first epoch, with what will be learned from: rewards as they are scaled."""
        ...

    def after(self, stored: State) -> None:
        """Called after the last epoch, with the memories [K, ...] that its sequences began with."""
        ...


class SequenceAlgorithm(ABC):
    """Policy gradients through time: within a sequence, gradients flow back through memory.

    network    updated in place
    shuffle    random generator that assigns sequences to minibatches
    ranks      the processes that share the parts of each gradient; all else each of them does alike
    settings   the fields of `Settings`
    """

    # Stop after an epoch whose mean KL divergence from the collecting policy exceeds this.
    target_kl: float | None = None
    # Of the next updates.
    observer: Observer | None = None

    def __init__(
        self, network: Network, shuffle: np.random.Generator, *, ranks: Ranks = ALONE, **settings: Any
    ) -> None:
        self.network, self.shuffle, self.ranks = network, shuffle, ranks
        self.settings = Settings(**settings)
        learning_rate = self.settings.learning_rate
        self.reward_scale = RewardScale(self.settings.gamma) if self.settings.normalize_reward else None
        self.parts = self.settings.gradient_parts or max(PARTS, ranks.size)
        most = len(ranks.share(self.parts, rank=0))
        self.threads = GradientThreads(min(most, self.settings.gradient_threads or max(1, cores() // ranks.here)))
        self.parameters: Terms = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._sum = PartSum(self.parameters, ranks)
        rates = relative_rates(network, (self.settings.memory_learning_rate or learning_rate) / learning_rate)
        self.optimizer = Adam(
            self.parameters.values(),
            learning_rate,
            epsilon=1e-5,
            rates=[rates.get(name, 1.0) for name in self.parameters],
        )
        self._skipped_in_a_row = 0
        # Of the rollout that is learned from, in either direction.
        self._largest_reward = torch.zeros(())
        self._rounding = 0.0

    @property
    def state_lead(self) -> int:
        """How many steps before each possible sequence start memory must be stored as well."""
        return self.settings.burn_in if self.settings.stale_state == "burn_in" else 0

    def chunk_steps(self, parallel: int) -> int | None:
        """Real steps of `parallel` environments to send through the network at once; None: a whole minibatch."""
        settings = self.settings
        if settings.max_tokens_per_batch is not None or not settings.bptt_length:
            return settings.max_tokens_per_batch
        return max(MIN_CHUNK_STEPS, settings.bptt_length * parallel)

    def minibatches(self, steps: int) -> int:
        """Gradient steps in an epoch over so many real steps."""
        return self.settings.minibatches or max(1, round(steps / self.settings.minibatch_steps))

    @abstractmethod
    def policy_loss(self, policy: Distribution, batch: SequenceBatch, progress: float) -> tuple[Tensor, Terms]:
        """Policy loss over real steps, a scalar, and further terms to log."""

    def advantage(self, rollout: Rollout, advantage: Tensor) -> Tensor:
        """Weight of each action's log-probability [T, B]; `advantage` is its return minus its value."""
        return advantage

    def centred(self, advantage: Tensor) -> Tensor:
        """Advantage of a minibatch [M] with mean zero."""
        return advantage - advantage.mean()

    def unit_scale(self, advantage: Tensor) -> Tensor:
        """Advantage of a minibatch [M] in the units set by `normalize_advantage`."""
        if self.settings.normalize_advantage == "none":
            return advantage
        centred = self.centred(advantage)
        if self.settings.normalize_advantage == "batch":
            return scaled(centred, self._rounding)
        return centred / self.network.value.std

    def note_rounding(self, target: Tensor) -> None:
        """Have `unit_scale` take differences for rounding errors that are small beside these value targets [M]."""
        self._rounding = ROUNDING * float(target.abs().max())

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Update the network from one rollout; `progress` is the completed share of the run. Returns scalars to log.

        A rollout without a real step, as where all environments spend its only one on their resets, teaches nothing:
        returns {}.
        """
        if not rollout.valid.any():
            return {}
        if self.reward_scale is not None:
            rollout = self.reward_scale.divided(rollout)
        self._largest_reward = rollout.reward.abs().max()
        advantage = gae(rollout, self.settings.gamma, self.settings.gae_lambda)
        target = advantage + rollout.value
        weight = self.advantage(rollout, advantage)
        sequences = split(rollout, weight, target, self.settings.bptt_length)
        # Targets that are not finite must not enter the statistics; their gradient will be skipped, too.
        if self.settings.normalize_value and sequences.target.isfinite().all():
            self.network.value.adapt(sequences.target, VALUE_DECAY)
        self.note_rounding(sequences.target)
        learning_rate = self.annealed("learning_rate", progress)
        self.optimizer.learning_rate = learning_rate

        if self.observer is not None:
            self.observer.before(self, rollout, weight, target, progress)
        chunk_steps = self.chunk_steps(rollout.valid.shape[1])
        log = Log()
        epochs = 0
        while epochs < self.settings.epochs:
            sequences = replace(sequences, state=self._memory(rollout, aged=epochs > 0))
            epochs += 1
            epoch = Log()
            for minibatch in sequences.minibatches(self.minibatches(len(sequences.advantage)), self.shuffle):
                epoch.add(self.learn_from(minibatch, chunk_steps, progress))
            log.extend(epoch)
            if self.target_kl is not None and epoch.mean()["train/kl"] > self.target_kl:
                break
        if self.observer is not None:
            self.observer.after(sequences.state)
        # Last, because the rollout was played, and learned from, with the statistics of earlier rollouts.
        self.network.adapt(sequences.observation)
        used = {"train/learning_rate": learning_rate, "train/epochs": epochs}
        return log.mean() | self._summary(rollout, sequences, target) | used

    def loss(self, batch: SequenceBatch, progress: float) -> tuple[Tensor, Terms]:
        """Mean loss over the real steps of a batch, a scalar, and its terms by name."""
        policy, value = self.network.unroll(batch)
        insist_on_rows("the value that unroll returns", value, len(batch.target))
        policy_loss, terms = self.policy_loss(policy, batch, progress)
        value_loss = 0.5 * ((value - batch.target) / self.network.value.std).square().mean()
        entropy = policy.entropy().mean()
        bonus = policy.barrier().mean() if self.settings.exploration == "barrier" else entropy
        weight = self.annealed("entropy_coefficient", progress)
        loss = policy_loss + self.settings.value_coefficient * value_loss - weight * bonus
        return loss, {
            "train/policy_loss": policy_loss.detach(),
            "train/value_loss": value_loss.detach(),
            "train/entropy": entropy.detach(),
            **terms,
        }

    def annealed(self, name: str, progress: float) -> float:
        """The coefficient `name` at this share of the run."""
        value: float = {**vars(self.settings), **vars(self)}[name]
        return value * max(0.0, 1 - progress) if name in self.settings.anneal else value

    def state_dict(self) -> dict[str, Any]:
        """Everything but the rollout that determines the next update; tensors and plain data."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "shuffle": self.shuffle.bit_generator.state,
            "skipped_in_a_row": self._skipped_in_a_row,
            "reward_scale": self.reward_scale and self.reward_scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises RuntimeError if the network has other parameters."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.shuffle.bit_generator.state = state["shuffle"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        # A state saved without a reward scale: the scale starts fresh.
        if self.reward_scale is not None and (scale := state.get("reward_scale")):
            self.reward_scale.load_state_dict(scale)

    def learn_from(self, minibatch: Sequences, chunk_steps: int | None, progress: float) -> Terms:
        """Take a gradient step on a minibatch, `chunk_steps` real steps at a time; skip it if it is not finite."""
        minibatch = replace(minibatch, advantage=self.unit_scale(minibatch.advantage))
        count = min(self.parts, len(minibatch.length))
        parts = [minibatch.part(index, count) for index in self.ranks.share(count)]
        accumulated = partial(
            accumulate,
            loss=partial(self.loss, progress=progress),
            parameters=self.parameters,
            # All threads together hold no more steps than one thread would.
            chunk_steps=None if chunk_steps is None else math.ceil(chunk_steps / count),
            total_steps=len(minibatch.advantage),
        )
        gradients, terms = self._sum(self.threads.map(accumulated, parts), count)
        for name, parameter in self.parameters.items():
            parameter.grad = gradients.get(name)
        return terms | self._clip_and_step(minibatch)

    def _clip_and_step(self, minibatch: Sequences) -> Terms:
        limit = math.inf if self.settings.grad_clip_norm is None else self.settings.grad_clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit, foreach=True)
        if not norm.isfinite():
            self._skip(minibatch)
            return {"train/skipped": torch.ones(())}
        self.optimizer.step()
        self._skipped_in_a_row = 0
        return {
            "train/gradient_norm": norm,
            "train/gradient_clipped": (norm > limit).float(),
            "train/skipped": torch.zeros(()),
        }

    def _memory(self, rollout: Rollout, aged: bool) -> State:
        """The stored memory for this epoch, renewed as `stale_state` asks."""
        if self.settings.stale_state == "zero":
            return stale_state.zero(rollout)
        if aged and self.settings.stale_state == "refresh":
            return stale_state.refreshed(self.network, rollout)
        if aged and self.settings.stale_state == "burn_in":
            return stale_state.burned_in(self.network, rollout, self.settings.burn_in)
        return rollout.state

    def _skip(self, minibatch: Sequences) -> None:
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == PATIENCE:
            evidence = {
                "parameters": self.network.state_dict(),
                "gradients": {name: parameter.grad for name, parameter in self.parameters.items()},
                "sequences": {name: torch.as_tensor(getattr(minibatch, name)) for name in STEPS},
            }
            remedy = f"Reduce {' or '.join(self._too_large())}"
            if (largest := float(self._largest_reward)) > IMMENSE:
                remedy = f"Rewards reach {largest:.0e}: use algorithm.normalize_reward=true, or another unit"
            raise NotFiniteError(
                f"loss: the gradient was NaN or infinite {PATIENCE} times in a row, all skipped. {remedy}.", evidence
            )

    def _too_large(self) -> list[str]:
        """Keys whose values may have made a gradient that is not finite, the most unusual first."""
        most = {
            "algorithm.learning_rate": 0.01,
            "algorithm.entropy_coefficient": 1.0,
            "algorithm.value_coefficient": 10.0,
            "sequence_learning.grad_clip_norm": 2.0,
        }
        values = {key: getattr(self.settings, key.rpartition(".")[2]) for key in most}
        # Without a limit.
        shares = {key: 1.5 if it is None else it / most[key] for key, it in values.items()}
        named = [key for key in sorted(shares, key=lambda it: -shares[it]) if shares[key] > 1 or "rate" in key]
        return [f"{key} (got {'null' if values[key] is None else values[key]})" for key in named]

    def _summary(self, rollout: Rollout, sequences: Sequences, target: Tensor) -> dict[str, float]:
        target, value = (it[rollout.valid].cpu().double() for it in (target, rollout.value))
        spread, unexplained = target.var(correction=0), (target - value).var(correction=0)
        # Targets are sums of differences of values, so that those that are equal differ by rounding errors of values.
        largest = torch.maximum(target.abs().max(), value.abs().max())
        rounding = SUM_ROUNDING * torch.finfo(rollout.value.dtype).eps * largest
        scale = {} if self.reward_scale is None else {"train/return_deviation": self.reward_scale.deviation}
        return {
            "train/explained_variance": float(1 - unexplained / spread) if spread.sqrt() > rounding else 0.0,
            "memory/sequences": len(sequences.length),
            "memory/sequence_length": float(sequences.length.mean()),
            "memory/carried": float((sequences.state_index >= 0).mean()),
            **scale,
        }


def relative_rates(network: Network, memory: float) -> dict[str, float]:
    """How much faster than the rest the parameters of memory blocks learn, by name.

    memory   all of them; `Block.rates` multiplies that for some
    """
    blocks = [(path, block) for path, block in network.named_modules() if isinstance(block, Block)]
    rates = {f"{path}.{name}": memory for path, block in blocks for name, _ in block.named_parameters()}
    return rates | {f"{path}.{name}": memory * rate for path, block in blocks for name, rate in block.rates.items()}


class SingleSteps:
    """Cuts sequences of one step: each starts from its stored memory, with no gradient through time."""

    def __init__(self, network: Network, shuffle: np.random.Generator, **settings: Any) -> None:
        super().__init__(network, shuffle, **{**settings, "bptt_length": 1})  # type: ignore[call-arg]


class Log:
    """Averages scalars by name."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, values: Terms) -> None:
        for name, value in values.items():
            self._values[name].append(value)

    def extend(self, other: "Log") -> None:
        for name, values in other._values.items():
            self._values[name].extend(values)

    def mean(self) -> dict[str, float]:
        return {name: float(torch.stack(values).mean()) for name, values in self._values.items()}
