"""The part of a rollout that is measured, and how to measure without leaving a trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from seqrl.algorithms.base import SequenceAlgorithm
from seqrl.algorithms.returns import gae
from seqrl.insight.memories import recomputed
from seqrl.networks import Network
from seqrl.types import Rollout, State

# A probe has at most so many environments, time steps of each, and steps in all.
COLUMNS = 32
LENGTH = 512
STEPS = 1024
# Bytes that the memories before all of its steps may take.
MEMORIES = 256 * 2**20
# Bytes of the memories before all sequences, beyond which a gradient takes seconds.
QUICK = 16 * 2**20


class NotApplicableError(Exception):
    """A measure that says nothing about this network or rollout; the message is why."""


@dataclass(frozen=True)
class Probe:
    """Some environments of a rollout, from its first step on, and what the algorithm learns from there.

    rollout     [T, B], with rewards as the algorithm sees them
    advantage   [T, B] weight of each action's log-probability, before it is normalised
    target      [T, B] of the value
    spread      standard deviation of the targets of the whole rollout
    progress    share of the run that is done, which coefficients are annealed by
    """

    algorithm: SequenceAlgorithm
    rollout: Rollout
    advantage: Tensor
    target: Tensor
    spread: float
    progress: float = 0.0

    @classmethod
    def of(cls, algorithm: SequenceAlgorithm, rollout: Rollout, progress: float = 0.0, steps: int = STEPS) -> "Probe":
        """The probe of a rollout that the algorithm has not learned from; changes nothing that a run is made of."""
        if (scale := algorithm.reward_scale) is not None:
            rollout = replace(rollout, reward=rollout.reward / scale.deviation)
        advantage = gae(rollout, algorithm.settings.gamma, algorithm.settings.gae_lambda)
        target = advantage + rollout.value
        algorithm.note_rounding(target[rollout.valid])
        return cls.cut_from(algorithm, rollout, algorithm.advantage(rollout, advantage), target, progress, steps)

    @classmethod
    def cut_from(
        cls,
        algorithm: SequenceAlgorithm,
        rollout: Rollout,
        advantage: Tensor,
        target: Tensor,
        progress: float,
        steps: int = STEPS,
    ) -> "Probe":
        """The probe of a rollout: as large as it may be, and never more than the update sends through at once."""
        length, rows = rollout.valid.shape
        at_once = algorithm.chunk_steps(rows) or steps
        steps = max(1, min(steps, MEMORIES // max(1, bytes_a_step(algorithm.network))))
        length = min(length, LENGTH, at_once, steps)
        # Whoever takes the first environments favours none of them.
        played = rollout.valid[:length].sum(0).cumsum(0)
        rows = min(COLUMNS, max(1, int((played <= steps).sum())))
        here = (slice(length), slice(rows))
        spread = float(target[rollout.valid].std(correction=0))
        part = _part(rollout, length, rows)
        return cls(algorithm, part, advantage[here], target[here], spread, progress)

    @cached_property
    def fresh(self) -> Rollout:
        """The rollout with the memory before every step, as the network computes it now."""
        return recomputed(self.network, self.rollout)

    def anew(self) -> "Probe":
        """The same, for a network that has learned since."""
        return replace(self)

    @property
    def network(self) -> Network:
        return self.algorithm.network

    @property
    def chunk_steps(self) -> int | None:
        """Steps that may go through the network at once."""
        return self.algorithm.chunk_steps(self.rollout.valid.shape[1])

    @property
    def shortest(self) -> int:
        """Steps of the shortest sequences whose memories, one before each, are not too many bytes to be quick."""
        return max(1, bytes_a_step(self.network) * int(self.rollout.valid.sum()) // QUICK)

    def insist_on_memory(self) -> None:
        """Raise NotApplicableError if the network remembers nothing."""
        if not self.network.initial_state(1):
            raise NotApplicableError("the network has no memory")


def bytes_a_step(network: Network) -> int:
    """Bytes of the memory of one episode."""
    return sum(leaf.nbytes for leaf in network.initial_state(1).values())


def _part(rollout: Rollout, length: int, rows: int) -> Rollout:
    """The first `length` steps of the first `rows` environments."""
    cut = {it.name: getattr(rollout, it.name) for it in fields(rollout)}
    cut = {name: value if name == "state" else value[:length, :rows] for name, value in cut.items()}
    return Rollout(**cut)


@contextmanager
def untouched(network: Network) -> Iterator[None]:
    """Give random numbers and buffers back as they were: a network of one's own may use or change them."""
    buffers: State = {name: buffer.clone() for name, buffer in network.named_buffers()}
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in network.named_buffers():
                    if not torch.equal(buffer, buffers[name]):
                        buffer.copy_(buffers[name])
