"""Advice during a run: what its numbers suggest about its settings, each hint given once."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from seqrl.loggers import Row

# Updates that a hint about clipping waits for and looks back on.
WINDOW = 20
LONG_EPISODE = 100
# Fewer updates hardly teach anything; after this share of a run their number can be foretold.
FEW_UPDATES = 30
EARLY = 0.1
# Steps of the rollouts that are proposed instead of whole episodes.
PROPOSED = 128
TIGHT = 0.9


@dataclass
class Hints:
    """Hints for a run with these settings.

    minibatches      gradient steps asked for per epoch; None: as many as fit the rollout
    bptt_length      0: gradients flow back through whole episodes
    rollout_length   0: whole episodes
    grad_clip_norm   None: no clipping
    parallel         environments
    """

    minibatches: int | None
    bptt_length: int
    rollout_length: int
    grad_clip_norm: float | None
    parallel: int
    _given: set[str] = field(default_factory=set)
    _rows: deque[Row] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def new(self, row: Row, updates: int = 0, steps: int = 0, progress: float = 0.0) -> list[str]:
        """Hints that apply for the first time, after one more update with these scalars.

        updates    of the run so far
        steps      of all environments so far
        progress   share of the run that is done
        """
        if "memory/sequences" not in row:
            # Nothing was played that could be learned from.
            return []
        self._rows.append(row)
        found = [*self._all(row), *self._few(row, updates, steps, progress)]
        hints = {topic: text for topic, text in found if topic not in self._given}
        self._given |= set(hints)
        return list(hints.values())

    def _all(self, row: Row) -> Iterator[tuple[str, str]]:
        yield from self._length(row)
        if len(self._rows) == WINDOW:
            yield from self._clipping()

    def _length(self, row: Row) -> Iterator[tuple[str, str]]:
        length, sequences = row.get("rollout/length_mean", 0), row["memory/sequences"]
        if self.bptt_length == 0 and self.rollout_length == 0 and length > LONG_EPISODE:
            yield (
                "length",
                f"episodes last {length:.0f} steps, and gradients flow back through all of them. sequence=truncated, "
                "with 20 to 50 steps, takes less memory.",
            )
        if self.bptt_length > self.rollout_length > 0:
            yield (
                "beyond",
                f"gradients cannot flow back {self.bptt_length} steps in rollouts of {self.rollout_length}: "
                "sequence_learning.bptt_length is longer than rollout_length.",
            )
        if self.minibatches and sequences < self.minibatches:
            yield (
                "minibatches",
                f"an epoch has fewer gradient steps than algorithm.minibatches={self.minibatches}, because a rollout "
                f"has only {sequences:.0f} sequences. A larger parallel or a smaller bptt_length gives more.",
            )

    def _few(self, row: Row, updates: int, steps: int, progress: float) -> Iterator[tuple[str, str]]:
        if self.rollout_length or progress < EARLY:
            return
        length = row.get("rollout/length_mean", 0)
        expected, proposed = (count / min(progress, 1) for count in (updates, steps / (PROPOSED * self.parallel)))
        # It is no remedy for rollouts that are hardly longer.
        if expected < FEW_UPDATES and proposed >= 2 * expected:
            has = "has had" if progress >= 1 else "will have about"
            yield (
                "few",
                f"this run {has} {expected:.0f} update{'s' if round(expected) != 1 else ''}, as each waits for whole "
                f"episodes of {length:.0f} steps. rollout_length={PROPOSED} makes about {proposed:.0f}.",
            )

    def _clipping(self) -> Iterator[tuple[str, str]]:
        norms = [row["train/gradient_norm"] for row in self._rows if "train/gradient_norm" in row]
        if not norms:
            return
        typical, largest = sorted(norms)[len(norms) // 2], max(norms)
        clipped = sum(row.get("train/gradient_clipped", 0) for row in self._rows) / len(self._rows)
        updates = f"over {WINDOW} updates"
        if self.grad_clip_norm is None:
            yield (
                "clipping",
                f"gradients are not clipped; {updates} their mean norm was typically {typical:.2g} and at most "
                f"{largest:.2g}. sequence_learning.grad_clip_norm=5.0 guards against exploding gradients.",
            )
        elif clipped > TIGHT:
            yield (
                "clipping",
                f"{clipped:.0%} of the gradients were clipped {updates}: their norm is typically {typical:.2g}, and "
                f"sequence_learning.grad_clip_norm is {self.grad_clip_norm:g}. If learning is slow, raise it.",
            )
        elif clipped == 0:
            yield (
                "clipping",
                f"no gradient was clipped {updates}: their mean norm was at most {largest:.2g} in any update, and "
                f"sequence_learning.grad_clip_norm is {self.grad_clip_norm:g}. If learning is unstable, lower it.",
            )


def faster(
    shares: dict[str, float], gradient_parts: int, cores: int, processes: int = 1, env: Mapping[str, Any] | None = None
) -> str:
    """What would speed up the slowest part of a run, given the share of time of each.

    env   its section of the configuration
    """
    more = [f"processes={cores}, if that many cores are free"] if processes < cores else []
    more += ["a larger parallel"]
    more += ["env.backend=envpool, if EnvPool supports the environment"] if _may_be_pooled(env or {}) else []
    update = ["fewer algorithm.epochs, which learn less from each step"]
    update += [f"algorithm.gradient_parts={cores}, if that many cores are free"] if 1 < gradient_parts < cores else []
    advice = {
        "environment": more,
        "inference": ["a larger parallel"],
        "update": update,
        "evaluation": ["a larger evaluation.interval", "fewer evaluation.episodes"],
        "insight": ["a larger insight.interval"],
        "other": ["fewer loggers", "a larger checkpoint_interval"],
    }
    return "; or ".join(advice[max(shares, key=lambda part: shares[part])])


def _may_be_pooled(env: Mapping[str, Any]) -> bool:
    """Whether EnvPool may have the environment: it knows none of a module of its own, and wraps none."""
    is_own = ":" in str(env.get("id", ":")) or env.get("wrappers")
    return not is_own and env.get("backend") != "envpool"
