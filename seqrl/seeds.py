"""Named streams of random numbers, so that an extra evaluation does not change training.

Streams with different seeds or names are independent; seeds like `seed + i` would overlap between neighbouring runs.
"""

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def stream(seed: int, name: str, *index: int) -> int:
    """Seed of the stream `name` of a run, or of its part `index`, such as (environment, episode); 63 bits."""
    # As entropy, [..., 0] would equal [...]; as a spawn key it does not.
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()), *index))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


class Generator(torch.Generator):
    """Torch's generator, which may be asked for some rows of a batch alone.

    rows    indices [n] of the rows that numbers are wanted for; None: all
    total   rows of the batch
    used    whether `drawn` was asked since this was last set to false
    """

    rows: Tensor | None = None
    total = 0
    used = False


def generator(seed: int, name: str, device: torch.device | str = "cpu") -> Generator:
    """Torch generator on `device`, at the start of the stream `name`."""
    made = Generator(device)
    made.manual_seed(stream(seed, name))
    return made


def drawn(generator: torch.Generator, like: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
    """Random numbers with the shape and type of `like` [n, ...], from a function that fills a tensor with them.

    Where the generator is asked for some rows of a batch, it draws for all rows: what a row gets then depends on no
    other row, such as one whose episode has ended, or that another process plays.
    """
    if not isinstance(generator, Generator):
        return fill(torch.empty_like(like))
    generator.used = True
    if generator.rows is None:
        return fill(torch.empty_like(like))
    return fill(like.new_empty(generator.total, *like.shape[1:]))[generator.rows]
