"""Advice while a run goes on: what its figures say about its settings, each said once."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from seqrl.loggers import Row

# Updates that a hint about clipping waits for, and looks back on.
WINDOW = 20
LONG_EPISODE = 100
TIGHT = 0.9


@dataclass
class Hints:
    """What to say of a run with these settings.

    minibatches      gradient steps wanted in each epoch
    bptt_length      0: gradients reach back over whole episodes
    rollout_length   0: whole episodes
    grad_clip_norm   None: no clipping
    """

    minibatches: int
    bptt_length: int
    rollout_length: int
    grad_clip_norm: float | None
    _said: set[str] = field(default_factory=set)
    _rows: deque[Row] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def new(self, row: Row) -> list[str]:
        """Hints that the scalars of one more update give for the first time."""
        self._rows.append(row)
        found = {topic: text for topic, text in self._found(row) if topic not in self._said}
        self._said |= set(found)
        return list(found.values())

    def _found(self, row: Row) -> Iterator[tuple[str, str]]:
        yield from self._length(row)
        if len(self._rows) == WINDOW:
            yield from self._clipping()

    def _length(self, row: Row) -> Iterator[tuple[str, str]]:
        length, sequences = row.get("rollout/length_mean", 0), row["memory/sequences"]
        if self.bptt_length == 0 and self.rollout_length == 0 and length > LONG_EPISODE:
            yield (
                "length",
                f"episodes last {length:.0f} steps, and gradients reach back over all of them. sequence=truncated, "
                "20 to 50 steps, takes less memory.",
            )
        if self.bptt_length > self.rollout_length > 0:
            yield (
                "beyond",
                f"gradients cannot reach back {self.bptt_length} steps in rollouts of {self.rollout_length}: "
                "sequence_learning.bptt_length is longer than rollout_length.",
            )
        if sequences < self.minibatches:
            yield (
                "minibatches",
                f"there are fewer gradient steps than algorithm.minibatches={self.minibatches}, as a rollout has fewer "
                f"sequences: {sequences:.0f}. A larger parallel or a smaller bptt_length makes more.",
            )

    def _clipping(self) -> Iterator[tuple[str, str]]:
        norms = [row["train/gradient_norm"] for row in self._rows if "train/gradient_norm" in row]
        if not norms:
            return
        usual, largest = sorted(norms)[len(norms) // 2], max(norms)
        clipped = sum(row.get("train/gradient_clipped", 0) for row in self._rows) / len(self._rows)
        updates = f"over {WINDOW} updates"
        if self.grad_clip_norm is None:
            yield (
                "clipping",
                f"gradients are not clipped; their norm was {usual:.2g} in general, {largest:.2g} in the largest "
                f"update {updates}. sequence_learning.grad_clip_norm=5.0 guards against an explosion.",
            )
        elif clipped > TIGHT:
            yield (
                "clipping",
                f"{clipped:.0%} of the gradients were clipped {updates}: their norm is {usual:.2g} in general, and "
                f"sequence_learning.grad_clip_norm is {self.grad_clip_norm:g}. If learning is slow, raise it.",
            )
        elif clipped == 0:
            yield (
                "clipping",
                f"no gradient was clipped {updates}: their norm was {largest:.2g} in the largest update, and "
                f"sequence_learning.grad_clip_norm is {self.grad_clip_norm:g}. If learning is unstable, lower it.",
            )


def faster(shares: dict[str, float], bptt_length: int, gradient_threads: int, cores: int) -> str:
    """What would shorten the longest part of a run, given the share of time of each."""
    update = ["fewer algorithm.epochs"]
    update += [] if 0 < bptt_length <= 20 else ["sequence_learning.bptt_length=20"]
    update += [f"algorithm.gradient_threads={cores}, if as many cores are free"] if 1 < gradient_threads < cores else []
    advice = {
        "environment": ["a larger parallel", "env.backend=envpool, if EnvPool has the environment"],
        "inference": ["a larger parallel"],
        "update": update,
        "evaluation": ["a larger evaluation.interval", "fewer evaluation.episodes"],
        "other": ["fewer loggers", "a larger checkpoint_interval"],
    }
    return "; ".join(advice[max(shares, key=lambda part: shares[part])])
