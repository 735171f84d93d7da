"""What a run needs of the processes that it is spread over; here one."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
# Seconds for all ranks to begin.
PATIENCE = 600.0
# Seconds that a rank whose connection is gone gets to say why, and the first one to say what all have met.
LAST_WORDS = 3.0


class Ranks:
    """The processes of a run. All of them ask for the same things in the same order.

    rank   of this process; the first one alone writes
    size   how many there are
    here   how many of them are on this machine
    """

    rank = 0
    size = 1
    here = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, count: int, rank: int | None = None) -> range:
        """Which of so many things, neighbours, a rank takes: as many as any other, or one more."""
        rank = self.rank if rank is None else rank
        each, more = divmod(count, self.size)
        begin = rank * each + min(rank, more)
        return range(begin, begin + each + (rank < more))

    def gathered(self, mine: Sequence[Tensor]) -> list[list[Tensor]]:
        """The tensors of every rank, which differ in their first dimension alone."""
        return [list(mine)]

    def rows(self, mine: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The rows [n, ...] of every rank, of which all know how many each has: with one message."""
        return [theirs for (theirs,) in self.gathered([mine])]

    def swapped(self, mine: Tensor, partner: int) -> Tensor:
        """The tensor of another rank, which gets this one: all swap with somebody at the same time."""
        return self.gathered([mine])[partner][0]

    def joined(self, mine: Sequence[Tensor]) -> list[Tensor]:
        """The same, those of all ranks one after another."""
        if self.size == 1:
            return list(mine)
        return [torch.cat(theirs) for theirs in zip(*self.gathered(mine), strict=True)]

    def objects(self, mine: T) -> list[T]:
        """The object of every rank."""
        return [mine]

    def of_first(self, mine: T) -> T:
        """The object of the first rank."""
        return mine

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each number on any rank."""
        return list(numbers)

    def close(self, error: BaseException | None = None) -> None:
        """Leave the others, and tell them of an error that ends the run."""


ALONE = Ranks()
