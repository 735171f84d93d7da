"""The gradient of a minibatch: summed over chunks that fit in memory, and over parts that threads share."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from seqrl.algorithms.sequences import Sequences
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


def tree_sum(parts: Sequence[Terms]) -> Terms:
    """Sum of all parts, neighbours first: whoever adds up which of them, the bits are the same."""
    while len(parts) > 1:
        pairs = [add_terms(one, other) for one, other in zip(parts[::2], parts[1::2], strict=False)]
        parts = [*pairs, *parts[2 * len(pairs) :]]
    return parts[0]


class GradientThreads:
    """Threads that compute in parallel, the caller among them, each with the caller's number of torch threads."""

    def __init__(self, count: int) -> None:
        self.count = count
        # A new thread does not inherit the setting.
        prepare = partial(torch.set_num_threads, torch.get_num_threads())
        self._others = ThreadPoolExecutor(count - 1, "gradient", prepare) if count > 1 else None

    def map(self, function: Callable[[Sequences], T], parts: list[Sequences]) -> list[T]:
        """Results in the order of the parts. If a part raises, wait for the others to finish, then raise."""
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
