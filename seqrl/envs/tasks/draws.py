"""Random numbers of many environments, each with a stream of its own, as a tensor program."""

import torch
from torch import Tensor

from seqrl import seeds

# Odd numbers without a pattern, as signed ones: one for the index of a number, and one for each part of a moment.
STEPS = (0x9E3779B97F4A7C15 - 2**64, 0xD6E8FEB86659FD93 - 2**64, 0x5851F42D4C957F2D, 0x2545F4914F6CDD1D)
# Of SplitMix64.
FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
SHIFTS = (30, 27, 31)


class Draws:
    """Numbers that depend on nothing but the seed, the environment and the moment for which they are drawn.

    However many environments are played, by whichever process, each draws the same.

    seed         of all environments
    first        index of the first one here
    batch_size   B

    keys   [B] what the numbers of each environment begin with

    Source: Steele et al. (2014), "Fast splittable pseudorandom number generators": its finaliser, of counters (Salmon
    et al., 2011, "Parallel random numbers: as easy as 1, 2, 3").
    """

    def __init__(self, seed: int, first: int, batch_size: int, device: torch.device | str) -> None:
        keys = [seeds.stream(seed, "environment", index) for index in range(first, first + batch_size)]
        self.keys = torch.tensor(keys, dtype=torch.int64, device=device)
        self._steps = torch.tensor(STEPS, device=device).unbind()
        # Apple's GPU has no float64.
        self._float = torch.float32 if self.keys.device.type == "mps" else torch.float64

    def uniform(self, shape: tuple[int, ...], *moment: Tensor | int) -> Tensor:
        """Numbers [B, *shape] within (0, 1).

        moment   up to three whole numbers [B] that tell this draw from others, such as episode and step
        """
        step, *steps = self._steps
        keys = self.keys
        for part, of_part in zip(moment, steps, strict=False):
            keys = keys + of_part * part
        index = torch.arange(torch.Size(shape).numel(), device=keys.device)
        bits = mixed(keys.unsqueeze(1) + step * index)
        size = 52 if self._float == torch.float64 else 23
        shares = (_shifted(bits, 64 - size).to(self._float) + 0.5) * 2.0**-size
        return shares.view(-1, *shape)

    def normal(self, shape: tuple[int, ...], *moment: Tensor | int) -> Tensor:
        """Numbers [B, *shape] from the standard normal distribution."""
        normal: Tensor = torch.special.ndtri(self.uniform(shape, *moment))
        return normal


def mixed(x: Tensor) -> Tensor:
    """Whole numbers in which every bit depends on every bit of x."""
    for shift, factor in zip(SHIFTS, FACTORS, strict=False):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, SHIFTS[-1])


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x shifted to the right, without its sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
