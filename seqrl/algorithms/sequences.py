"""Splits rollouts into sequences for backpropagation, and packs them into the memory grid."""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqrl.types import Rollout, SequenceBatch, State

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


def starts(age: Tensor, bptt_length: int) -> Tensor:
    """Steps [T, B] at which a sequence starts.

    A sequence starts at the rollout's first step, at every episode's first step and, if `bptt_length` > 0, after every
    `bptt_length` steps of an episode.

    age      [T, B] steps played in the episode before each
    Raises ValueError if `bptt_length` is negative.
    Source: Williams & Peng (1990), truncated BPTT(h).
    """
    if bptt_length < 0:
        raise ValueError(f"bptt_length is {bptt_length}; use 0 for whole episodes, or a number of steps")
    start = age % bptt_length == 0 if bptt_length else age == 0
    start[0] = True
    return start


@dataclass(frozen=True, slots=True)
class Sequences:
    """N sequences with M real steps in all, end to end, each in time order.

    observation, action, log_prob, advantage, target   [M, ...]
    begin, length    [N] host arrays: index of a sequence's first step, and its number of steps
    state            leaves [K, ...] stored memories
    state_index      [N] host array: row of `state` before the sequence's first step; -1 where memory is zero
    """

    observation: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor
    begin: Ints
    length: Ints
    state: State
    state_index: Ints

    def minibatches(self, count: int, random: np.random.Generator) -> Iterator["Sequences"]:
        """All sequences once, in at most `count` random groups.

        The numbers of real steps of two groups differ by at most the longest sequence.
        """
        for chosen in balanced(self.length, count, random):
            yield self.select(chosen)

    def part(self, index: int, count: int) -> "Sequences":
        """One of `count` parts, which together have all sequences once, and differ by at most the longest."""
        if count == 1:
            return self
        return self.select(np.argsort(-self.length, kind="stable")[index::count])

    def select(self, chosen: Ints) -> "Sequences":
        """The sequences `chosen` [n], in that order."""
        length = self.length[chosen]
        steps = torch.from_numpy(np.repeat(self.begin[chosen], length) + step_in_sequence(length)).to(
            self.observation.device
        )
        return Sequences(
            observation=self.observation[steps],
            action=self.action[steps],
            log_prob=self.log_prob[steps],
            advantage=self.advantage[steps],
            target=self.target[steps],
            begin=length.cumsum() - length,
            length=length,
            state=self.state,
            state_index=self.state_index[chosen],
        )

    def batches(self, max_steps: int | None) -> Iterator[SequenceBatch]:
        """All sequences, packed into batches of at most `max_steps` real steps each; None: one batch.

        A sequence is never cut, so one that is longer forms its own batch.
        """
        if max_steps is None:
            yield self._batch(0, len(self.length))
            return
        first = 0
        while first < len(self.length):
            fitting = int((self.length[first:].cumsum() <= max_steps).sum())
            last = first + max(1, fitting)
            yield self._batch(first, last)
            first = last

    def _batch(self, first: int, last: int) -> SequenceBatch:
        """Sequences first, first + 1, ..., last - 1, packed into a grid."""
        length, state_index = self.length[first:last], self.state_index[first:last]
        carried = state_index >= 0
        row, offset, shape = pack(length, carried)
        steps = slice(int(self.begin[first]), int(self.begin[last - 1] + length[-1]))
        device = self.observation.device
        grid_index = torch.from_numpy(
            (np.repeat(offset, length) + step_in_sequence(length)) * shape[1] + np.repeat(row, length)
        )
        grid_index = grid_index.to(device)
        mask = torch.zeros(shape[0] * shape[1], dtype=torch.bool, device=device)
        mask[grid_index] = True
        carried_row = torch.from_numpy(row[carried]).to(device)
        carried_index = torch.from_numpy(state_index[carried]).to(device)
        return SequenceBatch(
            observation=self.observation[steps],
            action=self.action[steps],
            log_prob=self.log_prob[steps],
            advantage=self.advantage[steps],
            target=self.target[steps],
            grid_index=grid_index,
            mask=mask.view(shape),
            state={
                name: leaf.new_zeros(shape[1], *leaf.shape[1:]).index_copy_(0, carried_row, leaf[carried_index])
                for name, leaf in self.state.items()
            },
        )


def step_in_sequence(length: Ints) -> Ints:
    """Index of each step in its sequence: 0, 1, ..., length[0] - 1, 0, 1, ..., length[1] - 1, ..."""
    return np.arange(length.sum()) - np.repeat(length.cumsum() - length, length)


def split(rollout: Rollout, advantage: Tensor, target: Tensor, bptt_length: int) -> Sequences:
    """Cut a rollout into sequences for backpropagation.

    Cuts are at `starts`. Steps that were not played are left out; they never lie within a sequence.

    rollout      [T, B]
    advantage    [T, B], same steps
    target       [T, B] of the value, same steps
    Raises ValueError if `bptt_length` is negative.
    """
    # Environment by environment, so that each sequence is contiguous.
    valid = rollout.valid.T.flatten()  # [B*T]
    steps = valid.nonzero().squeeze(1)  # [M]
    start = starts(rollout.age, bptt_length).T.flatten()[steps]
    begin = start.nonzero().squeeze(1)  # [N]
    first = rollout.state_index.T.flatten()[steps[begin]]
    host_begin: Ints = begin.cpu().numpy()

    def real(x: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(0, 1)[steps]

    return Sequences(
        observation=real(rollout.observation),
        action=real(rollout.action),
        log_prob=real(rollout.log_prob),
        advantage=real(advantage),
        target=real(target),
        begin=host_begin,
        length=np.diff(host_begin, append=len(steps)),
        state=rollout.state,
        state_index=first.cpu().numpy(),
    )


def balanced(length: Ints, count: int, random: np.random.Generator) -> Iterator[Ints]:
    """Deal sequences of these lengths into at most `count` groups, at random but balanced by real steps.

    Sequences are sorted by length, and each run of `count` neighbours is dealt one to each group, so that two groups
    differ by at most the longest sequence. Which neighbour goes where is random, as is the order of equal lengths.
    """
    count = min(count, len(length))
    order = random.permutation(len(length))
    order = order[np.argsort(-length[order], kind="stable")]
    rounds = -(-len(order) // count)
    dealt = np.full(rounds * count, -1)
    dealt[: len(order)] = order
    # The last round may be short: its gaps are dealt like empty sequences.
    for group in random.permuted(dealt.reshape(rounds, count), axis=1).T:
        yield group[group >= 0]


def pack(length: Ints, carried: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[Ints, Ints, tuple[int, int]]:
    """Pack sequences end to end into rows as long as the longest of them, with one unreal step between two.

    If few sequences are that long, the row length is rounded up by at most an eighth, so that lengths recur: a kernel
    is created for every new length, which takes as long as some hundred steps.

    A sequence that begins with a stored memory (`carried`) must begin a row. The others go, longest first, to the row
    where they leave the least room (best fit decreasing), or to a new row if none has room.

    returns   row [n], offset in the row [n], shape of the grid (row length L, number of rows N)
    """
    longest = int(length.max())
    if 2 * np.count_nonzero(length == longest) <= len(length):
        longest = recurring(longest)
    row, offset = np.zeros_like(length), np.zeros_like(length)
    room: list[tuple[int, int]] = []  # sorted pairs: steps that still fit after a separator, row
    rows = 0
    order = np.lexsort((-length, ~carried))
    for i, steps, opens in zip(order.tolist(), length[order].tolist(), carried[order].tolist(), strict=True):
        fitting = len(room) if opens else bisect.bisect_left(room, (steps, 0))
        if fitting < len(room):
            free, chosen = room.pop(fitting)
        else:
            free, chosen = longest, rows
            rows += 1
        row[i], offset[i] = chosen, longest - free
        if free - steps > 1:
            bisect.insort(room, (free - steps - 1, chosen))
    return row, offset, (longest, rows)


def recurring(length: int) -> int:
    """Round `length` up to 8, 9, ..., 15, 16, 18, ..., 30, 32, 36, ...: few values, by at most an eighth."""
    step = 1 << max(0, (length - 1).bit_length() - 4)
    return -(-length // step) * step
