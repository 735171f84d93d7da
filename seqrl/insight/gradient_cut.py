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
    """Share of a probe's gradient that is lost where gradients reach back only so many steps.

        ‖g_K − g_full‖ / ‖g_full‖

    cuts      by K
    noise     the same figure between the two halves of the probe: what chance alone makes; None for a single episode
    longest   steps that the longest gradient of the probe can reach
    """

    cuts: dict[int, float]
    noise: float | None
    longest: int

    @property
    def horizon(self) -> int:
        """Smallest measured K with a negligible cut, or one that chance hides."""
        return next((k for k in sorted(self.cuts) if is_enough(self.cuts[k], self.noise)), self.longest)


def is_enough(cut: float, noise: float | None) -> bool:
    """Whether a cut is negligible, or less than chance makes."""
    return cut < NEGLIGIBLE or (noise is not None and cut < noise)


def gradient_cut(probe: Probe, lengths: Iterable[int] | None = None, also: Iterable[int] = ()) -> GradientCut:
    """Cut the gradient of a probe after K steps, from recomputed memory, so that only the cut differs.

    lengths   the values of K; None: 1, 2, 4, … until one is enough
    also      further values, 0 for whole episodes

    Raises NotApplicableError if there is no memory, or no gradient.
    """
    probe.insist_on_memory()
    sequences = _sequences(probe, 0)
    longest = int(sequences.length.max())
    halves, noise = _halves(probe, sequences), None
    whole = torch.stack(halves).sum(0)
    size = float(whole.norm())
    if not size or not np.isfinite(size):
        raise NotApplicableError("the gradient of the probe is zero" if not size else "its gradient is not finite")
    if len(halves) > 1:
        share = [_steps(sequences, half) / len(sequences.advantage) for half in range(2)]
        noise = float((halves[0] / share[0] - halves[1] / share[1]).norm()) / 2 / size

    def cut(length: int) -> float:
        return float((gradient(probe, length) - whole).norm()) / size if 0 < length < longest else 0.0

    cuts = {length: cut(length) for length in (*also, *(lengths or ()))}
    for length in _doubled(longest) if lengths is None else ():
        if length not in cuts:
            cuts[length] = cut(length)
        if is_enough(cuts[length], noise):
            break
    return GradientCut({length or longest: value for length, value in cuts.items()}, noise, longest)


def gradient(probe: Probe, bptt_length: int) -> Tensor:
    """Gradient of the update's own loss over the probe, all parameters end to end, if it reaches back so many steps.

    bptt_length   0: to the start of the episode, or of the rollout
    """
    sequences = _sequences(probe, bptt_length)
    return _gradient(probe, sequences, len(sequences.advantage))


def _sequences(probe: Probe, bptt_length: int) -> Sequences:
    sequences = split(probe.fresh, probe.advantage, probe.target, bptt_length)
    return replace(sequences, advantage=probe.algorithm.unit_scale(sequences.advantage))


def _gradient(probe: Probe, sequences: Sequences, total_steps: int) -> Tensor:
    algorithm = probe.algorithm
    loss = partial(algorithm.loss, progress=probe.progress)
    parts, _ = accumulate(sequences, loss, algorithm.parameters, probe.chunk_steps, total_steps)
    flat = [parts.get(name, torch.zeros_like(it)).flatten() for name, it in algorithm.parameters.items()]
    return torch.cat([it.detach() for it in flat])


def _halves(probe: Probe, sequences: Sequences) -> list[Tensor]:
    """What either half of the sequences contributes to the gradient; one part only, if there is but one sequence."""
    chosen = [np.arange(len(sequences.length))[half::2] for half in range(2)]
    return [_gradient(probe, sequences.select(it), len(sequences.advantage)) for it in chosen if len(it)]


def _steps(sequences: Sequences, half: int) -> int:
    return int(sequences.length[half::2].sum())


def _doubled(longest: int) -> Iterator[int]:
    """1, 2, 4, …, below `longest`, which ends them."""
    length = 1
    while length < longest:
        yield length
        length *= 2
    yield longest
