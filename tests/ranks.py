"""Ranks that are threads of this process, so that a test of what they exchange is quick."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from seqrl.ranks import Ranks


class Together:
    """What some ranks exchange with each other."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size)
        self.given = [None] * size


class Threads(Ranks):
    """One of several ranks."""

    def __init__(self, rank, size, together):
        self.rank, self.size, self.here, self.together = rank, size, size, together
        self.exchanges = 0

    def objects(self, mine):
        self.exchanges += 1
        self.together.given[self.rank] = mine
        self.together.barrier.wait(60)
        theirs = list(self.together.given)
        self.together.barrier.wait(60)
        return theirs

    def gathered(self, mine):
        return [[it.clone() for it in theirs] for theirs in self.objects([it.detach() for it in mine])]

    def of_first(self, mine):
        return self.objects(mine)[0]

    def largest(self, *numbers):
        return [max(those) for those in zip(*self.objects(numbers), strict=True)]


def together(size, do):
    """What `do` returns for each of so many ranks, all at once; raises what any of them raises."""
    shared = Together(size)

    def one(rank):
        torch.set_num_threads(1)
        try:
            return do(Threads(rank, size, shared))
        except BaseException:
            shared.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        running = [pool.submit(one, rank) for rank in range(size)]
    failed = [it.exception() for it in running if it.exception()]
    if failed:
        raise next((it for it in failed if not isinstance(it, threading.BrokenBarrierError)), failed[0])
    return [it.result() for it in running]
