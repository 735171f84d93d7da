"""The gradient of a minibatch: summed over chunks that fit in memory, and over parts that threads share."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from seqrl.algorithms.sequences import Sequences
from seqrl.ranks import Ranks
from seqrl.types import SequenceBatch

Terms = dict[str, Tensor]
T = TypeVar("T")


def accumulate(
    part: Sequences,
    loss: Callable[[SequenceBatch], tuple[Tensor, Terms]],
    parameters: Terms,
    chunk_steps: int | None,
    total_steps: int,
) -> tuple[Terms, Terms]:
    """What one part contributes to a minibatch's gradient, by parameter, and to its loss, by term.

    loss          returns the mean over the real steps of a batch, a scalar, and its terms
    chunk_steps   real steps to send through the network at once; None: all
    total_steps   real steps of the minibatch
    """
    gradients: Terms = {}
    terms: Terms = {}
    for batch in part.batches(chunk_steps):
        mean, parts_of_loss = loss(batch)
        share = len(batch.advantage) / total_steps
        of_chunk = torch.autograd.grad(share * mean, list(parameters.values()), allow_unused=True)
        used = {name: gradient for name, gradient in zip(parameters, of_chunk, strict=True) if gradient is not None}
        gradients = add_terms(gradients, used)
        terms = add_terms(terms, {name: share * term for name, term in parts_of_loss.items()})
    return gradients, terms


def add_terms(one: Terms, other: Terms) -> Terms:
    """Sum by name; a name may occur in only one of them."""
    return {**one, **{name: one[name] + term if name in one else term for name, term in other.items()}}


def tree_sum(parts: Mapping[tuple[int, int], T], first: int, last: int, add: Callable[[T, T], T]) -> T:
    """Sum of a branch of the binary tree of all parts: whoever has added up what before, the bits are the same.

    parts         single ones, or sums of neighbours that are a branch, by the first and the one after the last
    first, last   the branch; 0 and the number of parts: the whole tree
    """
    if (first, last) in parts:
        return parts[first, last]
    middle = fork(first, last)
    return add(tree_sum(parts, first, middle, add), tree_sum(parts, middle, last, add))


def fork(first: int, last: int) -> int:
    """Where a branch of several parts divides into two."""
    return first + (1 << (last - first - 1).bit_length() - 1)


def branches(count: int, mine: range) -> list[tuple[int, int]]:
    """The largest branches of the tree of so many parts that lie within some neighbouring ones."""

    def within(first: int, last: int) -> list[tuple[int, int]]:
        if mine.stop <= first or last <= mine.start:
            return []
        if mine.start <= first and last <= mine.stop:
            return [(first, last)]
        middle = fork(first, last)
        return within(first, middle) + within(middle, last)

    return within(0, count)


class PartSum:
    """Adds up what the parts of a minibatch contribute to its gradient and its loss, over all ranks.

    parameters   of the network, by name
    """

    def __init__(self, parameters: Terms, ranks: Ranks) -> None:
        self.parameters, self.ranks = parameters, ranks
        self._like = next(iter(parameters.values()))
        # Of a loss; a rank may have no part of a minibatch, and so none of its terms.
        self._names: list[str] | None = None

    def __call__(self, of_parts: Sequence[tuple[Terms, Terms]], count: int) -> tuple[Terms, Terms]:
        """Gradients by parameter and terms by name, from those of the parts that this rank has computed.

        count   parts of all ranks
        """
        mine = self.ranks.share(count)
        single = {(index, index + 1): it for index, it in zip(mine, of_parts, strict=True)}
        if self.ranks.size == 1:
            return tree_sum(single, 0, count, _both)
        if self._names is None:
            names = self.ranks.objects(list(of_parts[0][1]) if of_parts else [])
            self._names = max(names, key=len)
        everywhere = [branches(count, self.ranks.share(count, rank)) for rank in range(self.ranks.size)]
        flat = [self._flat(*tree_sum(single, *place, _both)) for place in everywhere[self.ranks.rank]]
        if self._is_balanced(everywhere):
            return self._apart(self._swapped(*flat))
        width = sum(it.numel() for it in self.parameters.values()) + len(self.parameters) + len(self._names)
        whole = torch.stack(flat) if flat else self._like.new_empty(0, width)
        theirs = self.ranks.rows(whole, list(map(len, everywhere)))
        pairs = zip(everywhere, theirs, strict=True)
        sums = {place: row for places, rows in pairs for place, row in zip(places, rows, strict=True)}
        return self._apart(tree_sum(sums, 0, count, torch.add))

    def _is_balanced(self, everywhere: Sequence[Sequence[tuple[int, int]]]) -> bool:
        """Whether each of 2, 4, 8, … ranks has one branch, all equally high."""
        size = self.ranks.size
        heights = {last - first for places in everywhere for first, last in places}
        return size & (size - 1) == 0 and all(len(places) == 1 for places in everywhere) and len(heights) == 1

    def _swapped(self, flat: Tensor) -> Tensor:
        """The sum of all branches, level by level: each rank swaps sums with the one that has the neighbouring branch.

        Source: Thakur et al. (2005), "Optimization of collective communication operations in MPICH".
        """
        distance = 1
        while distance < self.ranks.size:
            flat = flat + self.ranks.swapped(flat, self.ranks.rank ^ distance)
            distance *= 2
        return flat

    def _flat(self, gradients: Terms, terms: Terms) -> Tensor:
        """All numbers in a row: gradients, whether each parameter has one, terms."""
        pieces = [
            gradients[name].flatten() if name in gradients else self._like.new_zeros(it.numel())
            for name, it in self.parameters.items()
        ]
        used = self._like.new_tensor([name in gradients for name in self.parameters])
        assert self._names is not None
        return torch.cat([*pieces, used, torch.stack([terms[name].to(self._like) for name in self._names])])

    def _apart(self, flat: Tensor) -> tuple[Terms, Terms]:
        sizes = [it.numel() for it in self.parameters.values()]
        assert self._names is not None
        *pieces, used, terms = flat.split([*sizes, len(sizes), len(self._names)])
        gradients = {
            name: piece.view_as(parameter)
            for (name, parameter), piece, is_used in zip(self.parameters.items(), pieces, used.tolist(), strict=True)
            if is_used
        }
        return gradients, dict(zip(self._names, terms.unbind(), strict=True))


def _both(one: tuple[Terms, Terms], other: tuple[Terms, Terms]) -> tuple[Terms, Terms]:
    return add_terms(one[0], other[0]), add_terms(one[1], other[1])


class GradientThreads:
    """Threads that compute in parallel, the caller among them, each with the caller's number of torch threads."""

    def __init__(self, count: int) -> None:
        self.count = count
        # A new thread does not inherit the setting.
        prepare = partial(torch.set_num_threads, torch.get_num_threads())
        self._others = ThreadPoolExecutor(count - 1, "gradient", prepare) if count > 1 else None

    def map(self, function: Callable[[Sequences], T], parts: list[Sequences]) -> list[T]:
        """Results in the order of the parts. If a part raises, wait for the others to finish, then raise."""
        if not parts:
            return []
        own, *others = [parts[first :: self.count] for first in range(min(self.count, len(parts)))]

        def results(those: list[Sequences]) -> list[T]:
            return [function(part) for part in those]

        running = [self._others.submit(results, those) for those in others] if self._others else []
        try:
            done = [results(own)]
        finally:
            wait(running)
        done += [it.result() for it in running]
        return [done[i % self.count][i // self.count] for i in range(len(parts))]
