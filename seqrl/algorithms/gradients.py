"""The gradient of a minibatch: summed over chunks that fit in memory, and over threads."""

from collections.abc import Callable
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


class GradientThreads:
    """Threads that compute in parallel, the caller among them, each with the caller's number of torch threads."""

    def __init__(self, count: int) -> None:
        self.count = count
        # A new thread does not inherit the setting.
        prepare = partial(torch.set_num_threads, torch.get_num_threads())
        self._others = ThreadPoolExecutor(count - 1, "gradient", prepare) if count > 1 else None

    def map(self, function: Callable[[Sequences], T], parts: list[Sequences]) -> list[T]:
        """Results in the order of the parts. If a part raises, wait for the others to finish, then raise."""
        others = [self._others.submit(function, part) for part in parts[1:]] if self._others else []
        try:
            own = function(parts[0])
        finally:
            wait(others)
        return [own, *(other.result() for other in others)]
