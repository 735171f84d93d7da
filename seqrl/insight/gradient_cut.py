"""How much of the gradient a cut in time takes away, and how far back it must reach."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from seqrl.algorithms.gradients import accumulate
from seqrl.algorithms.sequences import Sequences, split
from seqrl.insight.probe import NotApplicableError, Probe

# A smaller cut is taken for none.
NEGLIGIBLE = 0.1


@dataclass(frozen=True)
class GradientCut:
    """Share of a probe's gradient that is lost where gradients reach back only so many steps, by that number K.

        cut      ‖g_K − g_full‖ / ‖g_full‖
        chance   ‖(g_K − g_full of one half of the episodes) − (that of the other)‖ / 2 ‖g_full‖

    Where the cut is below chance, what is lost points elsewhere in every rollout, and averages out. Without a second
    episode there is no chance.

    longest   steps that the longest gradient of the probe reaches back, the present one among them
    """

    cuts: dict[int, float]
    chance: dict[int, float]
    longest: int

    @property
    def horizon(self) -> int:
        """Smallest measured K from which on all cuts are negligible, or no more than chance makes."""
        horizon = self.longest
        for length in sorted(self.cuts, reverse=True):
            if not self.is_enough(length):
                break
            horizon = length
        return horizon

    def of(self, bptt_length: int) -> float:
        """The share that is lost with this `bptt_length`, which was measured: none if it spans the longest gradient."""
        return self.cuts[bptt_length] if 0 < bptt_length < self.longest else 0.0

    def is_enough(self, length: int) -> bool:
        return self.cuts[length] < max(NEGLIGIBLE, self.chance.get(length, 0.0))


def gradient_cut(probe: Probe, lengths: Iterable[int] | None = None, also: Iterable[int] = ()) -> GradientCut:
    """Cut the gradient of a probe after K steps, from recomputed memory, so that only the cut differs.

    lengths   the values of K; None: …, 4, 2, 1, from the largest below the longest episode, until one is
              too short; those for which the memories before all sequences would be many bytes are left out
    also      further values, 0 for whole episodes

    Raises NotApplicableError if there is no memory, or no gradient.
    """
    probe.insist_on_memory()
    episodes = _sequences(probe, 0)
    whole = _by_halves(probe, 0, episodes)
    size = float(whole.sum(0).norm())
    if not size or not np.isfinite(size):
        raise NotApplicableError("the gradient of the probe is zero" if not size else "its gradient is not finite")
    longest = int(episodes.length.max())
    found = GradientCut({}, {}, longest)

    def measure(length: int) -> None:
        reach = min(length or longest, longest)
        if reach == longest:
            found.cuts[reach] = 0.0
        elif reach not in found.cuts:
            lost = whole - _by_halves(probe, length, episodes)
            found.cuts[reach] = float(lost.sum(0).norm()) / size
            if len(lost) > 1:
                of_half = lost / lost.new_tensor(_shares(episodes)).unsqueeze(1)
                found.chance[reach] = float((of_half[0] - of_half[1]).norm()) / 2 / size

    for length in (*also, *(lengths or ())):
        measure(length)
    for length in _halved(longest, probe.shortest) if lengths is None else ():
        measure(length)
        if not found.is_enough(length):
            break
    return found


def gradient(probe: Probe, bptt_length: int) -> Tensor:
    """Gradient of the update's own loss over the probe, all parameters end to end, if it reaches back so many steps.

    bptt_length   0: to the start of the episode, or of the rollout
    """
    return _gradient(probe, _sequences(probe, bptt_length))


def _sequences(probe: Probe, bptt_length: int) -> Sequences:
    sequences = split(probe.fresh, probe.advantage, probe.target, bptt_length)
    return replace(sequences, advantage=probe.algorithm.unit_scale(sequences.advantage))


def _gradient(probe: Probe, sequences: Sequences) -> Tensor:
    """What these sequences contribute to the gradient of the probe."""
    algorithm = probe.algorithm
    loss = partial(algorithm.loss, progress=probe.progress)
    chunk, steps = probe.chunk_steps, int(probe.rollout.valid.sum())
    parts, _ = accumulate(sequences, loss, algorithm.parameters, chunk, steps)
    return torch.cat(
        [parts.get(name, torch.zeros_like(it)).detach().flatten() for name, it in algorithm.parameters.items()]
    )


def _by_halves(probe: Probe, bptt_length: int, episodes: Sequences) -> Tensor:
    """What every other episode contributes to the gradient, and what the rest does [2, P]; [1, P] if there is but one.

    episodes   the probe in sequences that are not cut
    """
    sequences = _sequences(probe, bptt_length)
    # Both are in the same order, step by step.
    episode = np.searchsorted(episodes.begin, sequences.begin, side="right") - 1
    chosen = [np.flatnonzero(episode % 2 == half) for half in range(2)]
    return torch.stack([_gradient(probe, sequences.select(it)) for it in chosen if len(it)])


def _shares(episodes: Sequences) -> list[float]:
    """Share of the steps that each half has."""
    return [float(episodes.length[half::2].sum() / episodes.length.sum()) for half in range(2)]


def _halved(longest: int, shortest: int) -> Iterator[int]:
    """The powers of two below `longest`, the largest first; those below `shortest` are left out, but not all."""
    length = 1 << max(0, (longest - 1).bit_length() - 1)
    yield length
    while length >= 2 * shortest:
        length //= 2
        yield length
