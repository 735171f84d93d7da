"""How much RAM (or GPU memory) an update needs, and what would make it fit."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from seqrl.algorithms.base import MIN_CHUNK_STEPS, SequenceAlgorithm
from seqrl.algorithms.sequences import Sequences, split
from seqrl.machine import free_memory
from seqrl.types import Rollout

# Steps that are enough to tell what one step needs.
SAMPLE = 500
# Share of the free memory that an update may plan with: allocators round up, and backward needs room of its own.
USABLE = 0.6
# What torch says then; the last is how oneDNN, which computes its LSTM, puts it.
WANT = r"can't allocate memory|not enough memory|out of memory|bad_alloc|could not (create|execute) a primitive"


@dataclass(frozen=True)
class Footprint:
    """What goes through the network at once when a rollout is learned from.

    steps           real steps at once
    bytes_per_step  kept by the forward pass for the backward pass, for each of them
    longest         steps of the longest sequence, which is never cut
    minibatch       real steps of a minibatch
    """

    steps: int
    bytes_per_step: float
    longest: int
    minibatch: int

    @property
    def megabytes(self) -> float:
        """Need of an update beside the rollout, in MB of 10^6 bytes."""
        return self.steps * self.bytes_per_step / 1e6


def footprint(algorithm: SequenceAlgorithm, rollout: Rollout, parallel: int, rounds: int = 1) -> Footprint:
    """Measure on some sequences of a rollout what those of `parallel` such environments need.

    rounds   such rollouts that are learned from together
    """
    sequences = split(rollout, rollout.value, rollout.value, algorithm.settings.bptt_length)
    share = parallel / rollout.valid.shape[1] * rounds
    real_steps = math.ceil(share * len(sequences.action))
    groups = max(1, min(algorithm.minibatches(real_steps), int(share * len(sequences.length))))
    minibatch = math.ceil(real_steps / groups)
    limit = algorithm.chunk_steps(parallel)
    longest = int(sequences.length.max())
    steps = minibatch if limit is None else min(minibatch, max(limit, longest))
    return Footprint(steps, _bytes_per_step(algorithm, sequences), longest, minibatch)


def _bytes_per_step(algorithm: SequenceAlgorithm, sequences: Sequences) -> float:
    shortest_first = np.argsort(sequences.length, kind="stable")
    few = shortest_first[sequences.length[shortest_first].cumsum() <= SAMPLE]
    (batch,) = sequences.select(few if len(few) else shortest_first[:1]).batches(max_steps=None)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        # The loss must live until all is counted, or storages are freed and counted again under one address.
        loss, _ = algorithm.loss(batch, 0.0)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in algorithm.network.parameters()}
    del loss
    return sum(size for address, size in kept.items() if address not in parameters) / len(batch.action)


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory()


def is_out_of_memory(error: BaseException) -> bool:
    """True if a device, or the processor's allocator, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(re.search(WANT, str(error), re.IGNORECASE))


def advice(need: Footprint, free: int | None, parallel: int, bptt_length: int) -> str:
    """What is needed, what there is, and which settings would fit."""
    text = f"an update of {need.steps:,} steps at once needs about {need.megabytes:,.0f} MB"
    if free is None:
        return f"{text}. Use sequence_learning.max_tokens_per_batch={round_down(need.steps / 2)}, for instance."
    fits = int(USABLE * free / need.bytes_per_step)
    text += f", and {free / 1e6:,.0f} MB are free"
    return f"{text}. Use {' or '.join(_that_fit(need, fits, parallel, bptt_length)) or 'a smaller network'}."


def _that_fit(need: Footprint, fits: int, parallel: int, bptt_length: int) -> Iterator[str]:
    """Settings with which at most `fits` steps go through the network at once."""
    tokens = f"sequence_learning.max_tokens_per_batch={round_down(min(fits, need.steps / 2))}"
    if fits >= need.longest:
        yield tokens
        fewer = fits // bptt_length if bptt_length else parallel * fits // need.steps
        # With fewer environments, truncated sequences still go through MIN_CHUNK_STEPS at a time.
        if 0 < fewer < parallel and (not bptt_length or fits >= MIN_CHUNK_STEPS):
            yield f"parallel={round_down(fewer)}"
    elif fits >= 1:
        yield f"sequence_learning.bptt_length={round_down(fits)} with {tokens}"


def round_down(number: float) -> int:
    """The number with its first two digits, at least 1."""
    whole = max(1, int(number))
    digit: int = 10 ** max(0, len(str(whole)) - 2)
    return whole // digit * digit
