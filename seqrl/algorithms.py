"""PPO and REINFORCE, through time and on single steps: from a rollout to a better network."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypedDict, TypeVar, Unpack

import numpy as np
import torch
from torch import Tensor

from seqrl import replay
from seqrl.errors import NotFiniteError
from seqrl.losses import approximate_kl, clipped_surrogate, scaled
from seqrl.networks import Distribution, Network
from seqrl.optimizer import Adam
from seqrl.returns import gae
from seqrl.rewards import RewardScale
from seqrl.sequences import Sequences, split
from seqrl.types import Rollout, SequenceBatch, State

# Share of the old in the running statistics of value targets, per update.
VALUE_DECAY = 0.99
# Fewer real steps than this at once make an update slow and save little memory.
LEAST_AT_ONCE = 1024
# What is kept of a minibatch that no gradient could be followed for.
STEPS = ("observation", "action", "log_prob", "advantage", "target", "length")
# Updates in a row that may be skipped for a gradient that is not finite.
PATIENCE = 3

Terms = dict[str, Tensor]
T = TypeVar("T")


class Coefficients(TypedDict):
    """What every algorithm is told.

    learning_rate        of Adam (eps 1e-5)
    gamma, gae_lambda    discount, and λ of the advantage; λ = 1 is Monte Carlo
    epochs, minibatches  passes over a rollout, and gradient steps in each
    entropy_coefficient, value_coefficient    weights in the loss beside the policy's 1
    normalize_advantage  batch: to unit scale over the real steps of a minibatch. returns: in units of the returns' own
                         deviation, which moves slowly, so that where all returns are alike, entropy can still count.
                         none: as it is
    normalize_value      learn values in units of the returns' own mean and deviation
    normalize_reward     learn from rewards in units of the deviation of discounted returns
    anneal               names of the coefficients that fall linearly to 0 over the run
    grad_clip_norm       largest global gradient norm; None: no clipping
    bptt_length          steps of an episode that a gradient reaches back; 0: to its start
    stale_state          what becomes of stored memory, which ages while the network learns: keep it, refresh it before
                         every further epoch, let it burn_in, or begin every sequence with zero memory
    burn_in              steps that memory takes in anew before a sequence, if it is to burn in
    max_tokens_per_batch   real steps that go through the network at once; a minibatch of more is the sum of several
                         gradients. None: as many as `bptt_length` steps of every environment, so that memory falls with
                         it, but not below 1024; with a `bptt_length` of 0, a minibatch at once
    learners             threads that share the gradient of a minibatch: torch lets them compute side by side. One
                         number of them gives the same bits again, another gives others
    """

    learning_rate: float
    gamma: float
    gae_lambda: float
    epochs: int
    minibatches: int
    entropy_coefficient: float
    value_coefficient: float
    normalize_advantage: str
    normalize_value: bool
    normalize_reward: bool
    anneal: Iterable[str]
    grad_clip_norm: float | None
    bptt_length: int
    stale_state: str
    burn_in: int
    max_tokens_per_batch: int | None
    learners: int


class SequenceAlgorithm(ABC):
    """Policy gradients through time: gradients follow memory within sequences.

    network   learns in place
    shuffle   deals sequences to minibatches
    """

    # An epoch whose minibatches lay farther than this from the collecting policy, on average, is the last.
    target_kl: float | None = None

    def __init__(self, network: Network, shuffle: np.random.Generator, **told: Unpack[Coefficients]) -> None:
        insist(told)
        self.network, self.shuffle = network, shuffle
        self.learning_rate, self.gamma, self.gae_lambda = told["learning_rate"], told["gamma"], told["gae_lambda"]
        self.epochs, self.minibatches = told["epochs"], told["minibatches"]
        self.entropy_coefficient, self.value_coefficient = told["entropy_coefficient"], told["value_coefficient"]
        self.normalize_advantage, self.normalize_value = told["normalize_advantage"], told["normalize_value"]
        self.reward_scale = RewardScale(self.gamma) if told["normalize_reward"] else None
        self.anneal = frozenset(told["anneal"])
        self.grad_clip_norm, self.bptt_length = told["grad_clip_norm"], told["bptt_length"]
        self.stale_state, self.burn_in = told["stale_state"], told["burn_in"]
        self.max_tokens_per_batch = told["max_tokens_per_batch"]
        self.learners = Learners(told["learners"])
        self.parameters = {name: it for name, it in network.named_parameters() if it.requires_grad}
        self.optimizer = Adam(self.parameters.values(), self.learning_rate, epsilon=1e-5)
        self._skipped_in_a_row = 0

    @property
    def state_lead(self) -> int:
        """Steps before a possible sequence at which memory must be stored too."""
        return self.burn_in if self.stale_state == "burn_in" else 0

    def steps_at_once(self, parallel: int) -> int | None:
        """Real steps of `parallel` environments that may go through the network at once; None: a minibatch."""
        if self.max_tokens_per_batch is not None or not self.bptt_length:
            return self.max_tokens_per_batch
        return max(LEAST_AT_ONCE, self.bptt_length * parallel)

    @abstractmethod
    def policy_loss(self, policy: Distribution, batch: SequenceBatch, progress: float) -> tuple[Tensor, Terms]:
        """Loss of the policy on real steps, a scalar, and what else to log."""

    def advantage(self, rollout: Rollout, advantage: Tensor) -> Tensor:
        """Weight of each action's log-probability [T, B], from its return minus its value."""
        return advantage

    def centred(self, advantage: Tensor) -> Tensor:
        """Advantage of a minibatch [M] around zero."""
        return advantage - advantage.mean()

    def unit_scale(self, advantage: Tensor) -> Tensor:
        """Advantage of a minibatch [M] in the units that `normalize_advantage` says."""
        if self.normalize_advantage == "none":
            return advantage
        centred = self.centred(advantage)
        return scaled(centred) if self.normalize_advantage == "batch" else centred / self.network.value.std

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Improve the network by one rollout; `progress` is the share of the run that is over. Returns what to log."""
        if self.reward_scale is not None:
            rollout = self.reward_scale.divided(rollout)
        advantage = gae(rollout, self.gamma, self.gae_lambda)
        target = advantage + rollout.value
        sequences = split(rollout, self.advantage(rollout, advantage), target, self.bptt_length)
        # What is not finite is no statistic; its gradient will not be followed either.
        if self.normalize_value and sequences.target.isfinite().all():
            self.network.value.adapt(sequences.target, VALUE_DECAY)
        learning_rate = self.annealed("learning_rate", progress)
        self.optimizer.learning_rate = learning_rate

        at_once = self.steps_at_once(rollout.valid.shape[1])
        log = Log()
        epochs = 0
        while epochs < self.epochs:
            sequences = dataclasses.replace(sequences, state=self._memory(rollout, aged=epochs > 0))
            epochs += 1
            epoch = Log()
            for minibatch in sequences.minibatches(self.minibatches, self.shuffle):
                epoch.add(self._step(minibatch, at_once, progress))
            log.extend(epoch)
            if self.target_kl is not None and epoch.mean()["train/kl"] > self.target_kl:
                break
        # Only now, as the rollout was played, and learned from, with the statistics of those before it.
        self.network.adapt(sequences.observation)
        settings = {"train/learning_rate": learning_rate, "train/epochs": epochs}
        return log.mean() | self._summary(rollout, sequences, target) | settings

    def loss(self, batch: SequenceBatch, progress: float) -> tuple[Tensor, Terms]:
        """Mean loss over the real steps of a batch, a scalar, and its terms by name."""
        policy, value = self.network.unroll(batch)
        policy_loss, terms = self.policy_loss(policy, batch, progress)
        value_loss = 0.5 * ((value - batch.target) / self.network.value.std).square().mean()
        entropy = policy.entropy().mean()
        weight = self.annealed("entropy_coefficient", progress)
        loss = policy_loss + self.value_coefficient * value_loss - weight * entropy
        return loss, {
            "train/policy_loss": policy_loss.detach(),
            "train/value_loss": value_loss.detach(),
            "train/entropy": entropy.detach(),
            **terms,
        }

    def annealed(self, name: str, progress: float) -> float:
        """The coefficient `name` when this share of the run is over."""
        value: float = getattr(self, name)
        return value * max(0.0, 1 - progress) if name in self.anneal else value

    def state_dict(self) -> dict[str, Any]:
        """What decides the next update beside the rollout; tensors and plain data."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "shuffle": self.shuffle.bit_generator.state,
            "skipped_in_a_row": self._skipped_in_a_row,
            "reward_scale": self.reward_scale and self.reward_scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises RuntimeError if the network has other parameters."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.shuffle.bit_generator.state = state["shuffle"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        # None if what was saved had no such scale: then it begins here.
        if self.reward_scale is not None and (scale := state.get("reward_scale")):
            self.reward_scale.load_state_dict(scale)

    def _step(self, minibatch: Sequences, at_once: int | None, progress: float) -> Terms:
        """Follow the gradient of a minibatch, taken over `at_once` real steps at a time; if it is not finite, stay."""
        minibatch = dataclasses.replace(minibatch, advantage=self.unit_scale(minibatch.advantage))
        parts = minibatch.parts(self.learners.count)
        # All learners together hold what one would.
        fewer = None if at_once is None else math.ceil(at_once / len(parts))
        gradient = partial(self._gradient, at_once=fewer, steps=len(minibatch.advantage), progress=progress)
        gradients: Terms = {}
        terms: Terms = {}
        # Summed in a fixed order, so that bits repeat.
        for of_part, terms_of_part in self.learners.map(gradient, parts):
            gradients, terms = summed(gradients, of_part), summed(terms, terms_of_part)
        for name, parameter in self.parameters.items():
            parameter.grad = gradients.get(name)
        return terms | self._follow(minibatch)

    def _gradient(self, part: Sequences, at_once: int | None, steps: int, progress: float) -> tuple[Terms, Terms]:
        """Share of a part in the gradient of a minibatch of so many real steps, and in its loss by term."""
        gradients: Terms = {}
        terms: Terms = {}
        for batch in part.batches(at_once):
            loss, parts_of_loss = self.loss(batch, progress)
            share = len(batch.advantage) / steps
            found = torch.autograd.grad(share * loss, list(self.parameters.values()), allow_unused=True)
            used = {name: it for name, it in zip(self.parameters, found, strict=True) if it is not None}
            gradients = summed(gradients, used)
            terms = summed(terms, {name: share * term for name, term in parts_of_loss.items()})
        return gradients, terms

    def _follow(self, minibatch: Sequences) -> Terms:
        limit = math.inf if self.grad_clip_norm is None else self.grad_clip_norm
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
        """Stored memory as this epoch is to see it."""
        if self.stale_state == "zero":
            return replay.zero(rollout)
        if aged and self.stale_state == "refresh":
            return replay.refreshed(self.network, rollout)
        if aged and self.stale_state == "burn_in":
            return replay.burned_in(self.network, rollout, self.burn_in)
        return rollout.state

    def _skip(self, minibatch: Sequences) -> None:
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == PATIENCE:
            evidence = {
                "parameters": self.network.state_dict(),
                "gradients": {name: parameter.grad for name, parameter in self.parameters.items()},
                "sequences": {name: torch.as_tensor(getattr(minibatch, name)) for name in STEPS},
            }
            raise NotFiniteError(
                f"loss: the gradient was NaN or infinite {PATIENCE} times in a row, all skipped. Reduce "
                f"sequence_learning.grad_clip_norm (got {self.grad_clip_norm}), to 2.0 for instance, "
                f"or algorithm.learning_rate (got {self.learning_rate}).",
                evidence,
            )

    def _summary(self, rollout: Rollout, sequences: Sequences, target: Tensor) -> dict[str, float]:
        spread = sequences.target.var(correction=0)
        unexplained = (target - rollout.value)[rollout.valid].var(correction=0)
        scale = {} if self.reward_scale is None else {"train/return_deviation": self.reward_scale.deviation}
        return {
            "train/explained_variance": float(1 - unexplained / spread) if spread > 0 else 0.0,
            "memory/sequences": len(sequences.length),
            "memory/sequence_length": float(sequences.length.mean()),
            "memory/carried": float((sequences.state_index >= 0).mean()),
            **scale,
        }


class SequencePPOAlgorithm(SequenceAlgorithm):
    """Proximal policy optimisation through time.

    clip_range   ε of the clipped surrogate
    target_kl    an epoch whose minibatches lay farther than this from the collecting policy, on average, is the last;
                 None: never
    anneal       can name learning_rate, clip_range and entropy_coefficient

    Source: Schulman et al. (2017), "Proximal policy optimization algorithms".
    """

    def __init__(
        self,
        network: Network,
        shuffle: np.random.Generator,
        *,
        clip_range: float,
        target_kl: float | None,
        **told: Unpack[Coefficients],
    ) -> None:
        super().__init__(network, shuffle, **told)
        self.clip_range, self.target_kl = clip_range, target_kl

    def policy_loss(self, policy: Distribution, batch: SequenceBatch, progress: float) -> tuple[Tensor, Terms]:
        log_ratio = policy.log_prob(batch.action) - batch.log_prob
        clip_range = self.annealed("clip_range", progress)
        loss = clipped_surrogate(log_ratio, batch.advantage, clip_range)
        log_ratio = log_ratio.detach()
        clip_fraction = (log_ratio.expm1().abs() > clip_range).float().mean()
        return loss, {"train/kl": approximate_kl(log_ratio), "train/clip_fraction": clip_fraction}


class SequenceReinforceAlgorithm(SequenceAlgorithm):
    """REINFORCE through time: the return of an action, minus a baseline, weighs the gradient of its log-probability.

    baseline   value: the network's value of the observation. batch_mean: the mean return of the rollout's steps. none
    anneal     can name learning_rate and entropy_coefficient

    Source: Williams (1992), "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning".
    """

    def __init__(
        self, network: Network, shuffle: np.random.Generator, *, baseline: str, **told: Unpack[Coefficients]
    ) -> None:
        super().__init__(network, shuffle, **told)
        if baseline not in BASELINES:
            raise ValueError(f"baseline is {baseline!r}; it is one of {', '.join(BASELINES)}")
        self.baseline = baseline

    def advantage(self, rollout: Rollout, advantage: Tensor) -> Tensor:
        if self.baseline == "value":
            return advantage
        returns = advantage + rollout.value
        return returns - returns[rollout.valid].mean() if self.baseline == "batch_mean" else returns

    def centred(self, advantage: Tensor) -> Tensor:
        # To subtract the mean from bare returns would be a baseline nobody asked for.
        return advantage if self.baseline == "none" else super().centred(advantage)

    def policy_loss(self, policy: Distribution, batch: SequenceBatch, progress: float) -> tuple[Tensor, Terms]:
        log_prob = policy.log_prob(batch.action)
        kl = approximate_kl((log_prob - batch.log_prob).detach())
        return -(batch.advantage * log_prob).mean(), {"train/kl": kl}


BASELINES = ("value", "batch_mean", "none")


class SingleSteps:
    """Shows an algorithm sequences of one step: each starts from its stored memory, without a gradient through time."""

    def __init__(self, network: Network, shuffle: np.random.Generator, **told: Any) -> None:
        super().__init__(network, shuffle, **{**told, "bptt_length": 1})  # type: ignore[call-arg]


class PPOAlgorithm(SingleSteps, SequencePPOAlgorithm):
    """Proximal policy optimisation on single steps."""


class ReinforceAlgorithm(SingleSteps, SequenceReinforceAlgorithm):
    """REINFORCE on single steps."""


def insist(told: Mapping[str, object]) -> None:
    """Raise TypeError, as for parameters written out, if coefficients are missing or unknown."""
    known = list(Coefficients.__annotations__)
    if unknown := [name for name in told if name not in known]:
        raise TypeError(f"got an unexpected keyword argument {unknown[0]!r}")
    if missing := [name for name in known if name not in told]:
        raise TypeError(f"missing required keyword-only arguments: {', '.join(missing)}")


def summed(one: Terms, other: Terms) -> Terms:
    """Sum by name; a name may stand in one of them alone."""
    return {**one, **{name: one[name] + term if name in one else term for name, term in other.items()}}


class Learners:
    """Threads that compute side by side, each with the threads of torch that the caller has; the caller is one."""

    def __init__(self, count: int) -> None:
        self.count = count
        # A thread of its own does not know how many torch may take.
        prepare = partial(torch.set_num_threads, torch.get_num_threads())
        self._others = ThreadPoolExecutor(count - 1, "learner", prepare) if count > 1 else None

    def map(self, function: Callable[[Sequences], T], parts: list[Sequences]) -> list[T]:
        """Results in the order of the parts. What a part raises is raised when no other is at work any more."""
        others = [self._others.submit(function, part) for part in parts[1:]] if self._others else []
        try:
            own = function(parts[0])
        finally:
            wait(others)
        return [own, *(other.result() for other in others)]


class Log:
    """Averages of scalars by name."""

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
