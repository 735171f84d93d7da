"""One run: each iteration collects a rollout, learns from it, and counts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

import torch

from seqrl.algorithms.base import SequenceAlgorithm
from seqrl.config.settle import that_matters
from seqrl.errors import CheckpointError, ConfigError, OutOfMemoryError, SeqrlError, last_line
from seqrl.insight import Meters
from seqrl.loggers import Row
from seqrl.machine import free_memory, free_swap, peak_memory_mb
from seqrl.metrics.clock import Clock
from seqrl.metrics.episodes import EpisodeStatistics
from seqrl.ranks import Ranks
from seqrl.run.memory_need import Footprint, advice, footprint, free_bytes, is_out_of_memory
from seqrl.runner import Runner
from seqrl.text import few
from seqrl.types import Rollout

# A rollout of fewer steps is not weighed before it is learned from.
FEW_STEPS = 50_000
# Times as much memory as there is, that nothing can need and live: estimates are rough.
HOPELESS = 1.5


@dataclass
class Budget:
    """How much of a run is over: ended episodes or environment steps, whichever comes first; None is no limit.

    called_off   whoever watches the run has seen enough
    """

    episodes_to_end: int | None
    steps_to_take: int | None
    steps: int = 0
    episodes: int = 0
    called_off: bool = False

    def count(self, steps: int, episodes: int) -> None:
        self.steps += steps
        self.episodes += episodes

    @property
    def progress(self) -> float:
        """Share of the budget that is spent; may pass 1 with the last rollout."""
        return max(self.shares.values())

    @property
    def shares(self) -> dict[str, float]:
        """Share of each limit that is used up, by the key that sets it."""
        limits = {"episodes": (self.episodes, self.episodes_to_end), "total_steps": (self.steps, self.steps_to_take)}
        return {key: count / limit for key, (count, limit) in limits.items() if limit is not None}

    @property
    def ended_by(self) -> str:
        """The key whose limit is reached, or is the nearest; or who called it off."""
        if self.called_off:
            return "on_iteration"
        return max(self.shares, key=self.shares.__getitem__)

    @property
    def spent(self) -> bool:
        return self.called_off or self.progress >= 1


@dataclass
class Run:
    """The parts of a run, and how far it is.

    iterations   done so far
    config       that its episodes are played by, as it is saved; {}: not known
    anew_after   iterations after which all episodes began anew the last time; 0: never
    """

    runner: Runner
    algorithm: SequenceAlgorithm
    budget: Budget
    episodes: EpisodeStatistics
    clock: Clock = field(default_factory=Clock)
    meters: Meters = field(default_factory=Meters)
    iterations: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    anew_after: int = 0
    # Real steps of the largest rollout that was seen to fit.
    _weighed: int = FEW_STEPS // 2

    @property
    def ranks(self) -> Ranks:
        """The processes that it is spread over."""
        return self.runner.ranks

    def iterate(self) -> Row:
        """Collect a rollout and learn from it; return the scalars that hold after it."""
        before = self.runner.environment_seconds
        rollout = self._collect()
        self.clock.lap("inference", environment=self.runner.environment_seconds - before)
        # First: an algorithm of the user's own may change the rollout in place.
        steps, ended = int(rollout.valid.sum()), len(self.episodes.update(rollout))
        self.algorithm.observer = self.meters.ready_for(self.iterations + 1, self._reaches_half(steps, ended))
        learned = self._learn(rollout)
        if self.ranks.size > 1:
            self._check_that_ranks_agree()
        seen = self.meters.taken()
        self.clock.lap("update", **({"insight": self.meters.seconds} if seen is not None else {}))
        self.budget.count(steps, ended)
        self.episodes.note(told for _, told in self.runner.take_ended_info())
        self.iterations += 1
        time, played = self.clock.row(self.budget.steps), self.episodes.row()
        # The terms of an algorithm must not replace what was played.
        return {**played, **learned, **(seen or {}), **time, "memory/peak_mb": peak_memory_mb(), **played}

    def _reaches_half(self, steps: int, ended: int) -> bool:
        """Whether half of the budget is spent once these steps and episodes are counted, and was not before."""
        after = replace(self.budget, steps=self.budget.steps + steps, episodes=self.budget.episodes + ended)
        return self.budget.progress < 0.5 <= after.progress

    def _collect(self) -> Rollout:
        try:
            return self.runner.collect()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"memory: a rollout of {self.runner.env.batch_size} environments does not fit. Use a smaller parallel."
            ) from error

    def _learn(self, rollout: Rollout) -> Row:
        self._weigh(rollout)
        try:
            return self.algorithm.update(rollout, self.budget.progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # Without its frames, and so without what filled the memory.
            failure = error.with_traceback(None)
        self.algorithm.optimizer.zero_grad()
        parallel = rollout.valid.shape[1]
        need = footprint(self.algorithm, rollout, parallel)
        raise self._too_large(need, parallel, free_bytes(rollout.valid.device)) from failure

    def _weigh(self, rollout: Rollout) -> None:
        """Raise OutOfMemoryError if an update needs so much more memory than there is that the system would kill it.

        A processor's memory is promised before it is there, so that no error says that it is not.
        """
        steps, parallel = int(rollout.valid.sum()), rollout.valid.shape[1]
        if rollout.valid.device.type != "cpu" or steps < 2 * self._weighed:
            return
        self._weighed = steps
        # A network may draw random numbers.
        with torch.random.fork_rng(devices=[]):
            need = footprint(self.algorithm, rollout, parallel)
        free = free_memory()
        if free is not None and need.megabytes * 1e6 > HOPELESS * (free + free_swap()):
            raise self._too_large(need, parallel, free)

    def _too_large(self, need: Footprint, parallel: int, free: int | None) -> OutOfMemoryError:
        return OutOfMemoryError(f"memory: {advice(need, free, parallel, self.algorithm.settings.bptt_length)}")

    def _check_that_ranks_agree(self) -> None:
        """Raise ConfigError if a parameter or a buffer is no longer the same on all ranks, bit by bit."""
        network = self.algorithm.network
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        sums = [crc32(it.detach().cpu().reshape(-1).view(torch.uint8).numpy().data) for it in tensors.values()]
        found = self.ranks.largest(*sums, *(-it for it in sums))
        # The largest, and the smallest.
        if differ := [name for name, a, b in zip(tensors, found, found[len(sums) :], strict=False) if a != -b]:
            raise ConfigError(
                [
                    f"processes: {differ[0]} of the network is no longer the same in all of them. If the network's "
                    "forward changes it, change it in adapt instead; if the processors are of different kinds, use "
                    "equal ones; or use processes=1."
                ]
            )

    def state_dict(self) -> dict[str, Any]:
        """All that decides how the run goes on; tensors and plain data."""
        return {
            "iterations": self.iterations,
            "config": that_matters(self.config),
            "anew_after": self.anew_after,
            "steps": self.budget.steps,
            "ended_episodes": self.budget.episodes,
            "algorithm": self.algorithm.state_dict(),
            "runner": self.runner.state_dict(),
            "episodes": self.episodes.state_dict(),
            "clock": self.clock.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], changed: Sequence[str] = ()) -> int:
        """Go on from there; return how many episodes were in progress and could not go on.

        changed   in the configuration since then

        Raises CheckpointError if the state is that of another network or algorithm.
        """
        with of_checkpoint(changed):
            self.algorithm.load_state_dict(state["algorithm"])
            lost = self.runner.load_state_dict(state["runner"])
            self.episodes.load_state_dict(state["episodes"], lost)
            self.clock.load_state_dict(state["clock"])
            self.iterations = state["iterations"]
            self.budget.count(state["steps"], state["ended_episodes"])
        return int(lost.sum())


@contextmanager
def of_checkpoint(changed: Sequence[str] = ()) -> Iterator[None]:
    """Raise CheckpointError where a checkpoint does not hold what is wanted of it: all of that comes from a file.

    changed   in the configuration since it was written, `key: before -> now`
    """
    try:
        yield
    except (SeqrlError, MemoryError):
        raise
    except Exception as error:
        decisive = [it for it in changed if it.startswith(("network.", "algorithm._target_", "env."))]
        leave = f"{'; '.join(few(decisive))}. Leave that as it was" if decisive else ""
        reason = leave or last_line(error)
        raise CheckpointError(f"resume: the checkpoint is of another network or algorithm: {reason}.") from error
