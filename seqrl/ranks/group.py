"""Ranks that are processes of their own, and exchange tensors with torch.distributed."""

import pickle
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from seqrl.ranks.base import Ranks
from seqrl.ranks.watch import Watch

T = TypeVar("T")


class Group(Ranks):
    """One of several processes: gloo carries what lies on CPUs, NCCL what lies on NVIDIA GPUs.

    watch   sees whether the others are alive
    here    how many of them are on this machine

    Every method raises LostRankError if another rank has ended, with what that said if it said anything.
    """

    def __init__(self, watch: Watch, here: int) -> None:
        self.rank, self.size, self.here = dist.get_rank(), dist.get_world_size(), here
        self.watch = watch

    def gathered(self, mine: Sequence[Tensor]) -> list[list[Tensor]]:
        """The tensors of every rank, which differ in their first dimension alone: two messages, whatever they are."""
        sizes = [it.element_size() * it[:1].numel() for it in mine]
        told = self._everywhere(torch.tensor([[len(it) for it in mine], sizes]))
        # A rank that has none of them cannot tell the size of one.
        counts, widths = told[:, 0], told[:, 1].amax(0)
        sizes_there = (counts * widths).tolist()
        packed = torch.cat([it.detach().contiguous().view(-1).view(torch.uint8) for it in mine])
        longest = max(map(sum, sizes_there))
        everywhere = self._everywhere(torch.cat([packed, packed.new_zeros(longest - len(packed))]))
        return [
            [
                piece.clone().view(like.dtype).view(count, *like.shape[1:])
                for piece, like, count in zip(row[: sum(sizes)].split(sizes), mine, those, strict=True)
            ]
            for row, sizes, those in zip(everywhere, sizes_there, counts.tolist(), strict=True)
        ]

    def rows(self, mine: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The rows [n, ...] of every rank, of which all know how many each has: with one message."""
        missing = mine.new_zeros(max(counts) - len(mine), *mine.shape[1:])
        everywhere = self._everywhere(torch.cat([mine, missing]) if len(missing) else mine)
        return [theirs[:count] for theirs, count in zip(everywhere, counts, strict=True)]

    def swapped(self, mine: Tensor, partner: int) -> Tensor:
        """The tensor of another rank, which gets this one: all swap with somebody at the same time."""
        found = torch.empty_like(mine)
        self._exchange(mine, {partner: found})
        return found

    def objects(self, mine: T) -> list[T]:
        """The object of every rank; each trusts the others, as it runs what they run."""
        data = torch.frombuffer(bytearray(pickle.dumps(mine)), dtype=torch.uint8)
        return [pickle.loads(theirs.numpy().tobytes()) for (theirs,) in self.gathered([data])]

    def of_first(self, mine: T) -> T:
        """The object of the first rank."""
        return self.objects(mine if self.is_first else None)[0]  # type: ignore[return-value]  # it is what that gave

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each number on any rank."""
        return [int(it) for it in self._everywhere(torch.tensor(numbers, dtype=torch.int64)).amax(0)]

    def close(self, error: BaseException | None = None) -> None:
        """Leave the others; or tell them of an error that ends the run, and wait for nobody."""
        try:
            if error is None:
                # Who leaves first must not look lost. torch's barrier takes a GPU for that, wherever there is one.
                self.largest(0)
        finally:
            self.watch.close(error)
            dist.destroy_process_group()

    def _everywhere(self, mine: Tensor) -> Tensor:
        """The tensor of every rank, which all have the same shape [W, ...]."""
        found, mine = mine.new_empty(self.size, *mine.shape), mine.contiguous()
        found[self.rank] = mine
        self._exchange(mine, {rank: found[rank] for rank in range(self.size) if rank != self.rank})
        return found

    def _exchange(self, mine: Tensor, theirs: dict[int, Tensor]) -> None:
        """Send a tensor to some ranks, and fill in what those send, which takes less than half as long as gathering."""
        with self.watch.explained():
            sent = [dist.P2POp(dist.isend, mine, rank) for rank in theirs]
            wanted = [dist.P2POp(dist.irecv, it, rank) for rank, it in theirs.items()]
            for exchange in dist.batch_isend_irecv([*sent, *wanted]):
                exchange.wait()
