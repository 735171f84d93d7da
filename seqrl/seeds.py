"""Named streams of random numbers, so that an extra evaluation does not change training.

Streams with different seeds or names are independent; seeds like `seed + i` would overlap between neighbouring runs.
"""

import zlib

import numpy as np
import torch


def stream(seed: int, name: str, *index: int) -> int:
    """Seed of the stream `name` of a run, or of its part `index`, such as (environment, episode); 63 bits."""
    # As entropy, [..., 0] would equal [...]; as a spawn key it does not.
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()), *index))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Torch generator on `device`, at the start of the stream `name`."""
    return torch.Generator(device).manual_seed(stream(seed, name))
