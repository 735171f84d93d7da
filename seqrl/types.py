"""The data passed between modules: T steps, B environments, M real steps, a memory grid of L × N."""

from dataclasses import dataclass

from torch import Tensor

PARTS = 2
"""Parts of the gradient of a minibatch, where nothing else is said: more of them take more time on one core."""

State = dict[str, Tensor]
"""A network's memory: leaves [B, ...], batch first; {} if it is memoryless. Zeros at an episode's start."""


def change_of_form(before: State, after: State) -> str:
    """Which leaf of a memory has another form after a step, in a sentence; "" if none has."""
    # Asked at every step.
    if before.keys() == after.keys() and all(
        it.shape[1:] == after[name].shape[1:] and it.dtype == after[name].dtype for name, it in before.items()
    ):
        return ""
    for name in dict.fromkeys((*before, *after)):
        was, now = (
            f"{it[name].dtype} of {list(it[name].shape[1:])}" if name in it else "missing" for it in (before, after)
        )
        if was != now:
            return f"{name} is {was} before a step, and {now} after it"
    return ""


@dataclass(frozen=True, slots=True)
class Step:
    """Result of one action in each environment.

    observation   [B, *O]  after the action; at an episode's end its final observation, never the next one's first
    reward        [B]
    terminated    [B] bool the task itself ended the episode
    truncated     [B] bool a limit outside the task ended it, such as a time limit
    valid         [B] bool false where nothing was played because the environment spent the step on its reset
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor

    @property
    def ended(self) -> Tensor:
        """Whether an episode ended [B]."""
        return self.terminated | self.truncated


@dataclass(frozen=True, slots=True)
class Rollout:
    """T steps of B environments, time first. Entries where `valid` is false must not be used.

    observation   [T, B, *O]  what the policy saw
    action        [T, B, *A]
    log_prob      [T, B]      of the action, when it was taken
    value         [T, B]      when the action was taken
    next_value    [T, B]      value of the observation after step t: the final one at an episode's end, never the next
                              episode's first; 0 after termination
    reward        [T, B]
    terminated    [T, B] bool at step t itself, never "done before t"
    truncated     [T, B] bool
    valid         [T, B] bool false where nothing was played
    age           [T, B] int  steps played in the episode before t
    state         leaves [K, ...]  memory before the policy sees observation[t], stored where a sequence may begin
    state_index   [T, B] int  row of `state` with the memory before step t; -1 where none is stored
    """

    observation: Tensor
    action: Tensor
    log_prob: Tensor
    value: Tensor
    next_value: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    age: Tensor
    state: State
    state_index: Tensor

    @property
    def ended(self) -> Tensor:
        """True at the last step of an episode [T, B]."""
        return self.terminated | self.truncated


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """Sequences for one gradient: M real steps, stored flat, and the position of each in the memory grid.

    Only memory needs time, so only memory sees the grid [L, N]: a row holds several sequences end to end, at least one
    unreal step apart, and memory is zero after an unreal step. Everything else works on real steps and sees no padding.

    observation   [M, *O]
    action        [M, *A]
    log_prob, advantage, target  [M]
    grid_index    [M] int     time * N + row: position of each step in the flattened grid
    mask          [L, N] bool true on real steps
    state         leaves [N, ...]  memory before the first step of each row
    """

    observation: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor
    grid_index: Tensor
    mask: Tensor
    state: State
