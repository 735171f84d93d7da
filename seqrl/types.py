"""The data that flows between the rooms: T steps, B environments, M real steps, L × N places in memory's grid."""

from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]
"""What a network remembers: leaves [B, ...], batch first; {} if it is memoryless. Zeros at an episode's start."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a batch of environments answers to one action each.

    observation   [B, *O]  after the action; at an episode's end its final observation, never the reset one
    reward        [B]
    terminated    [B] bool the task itself ended the episode
    truncated     [B] bool a limit outside the task ended it, a clock for instance
    valid         [B] bool false where nothing was played: the environment spent the step on its own reset
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor


@dataclass(frozen=True, slots=True)
class Rollout:
    """T steps of B environments, time first. Nothing may be read where `valid` is false.

    observation   [T, B, *O]  what the policy saw
    action        [T, B, *A]
    log_prob      [T, B]      of the action, when it was taken
    value         [T, B]      when the action was taken
    next_value    [T, B]      value of what followed step t: the final observation at an episode's end, never the
                              reset one; 0 after termination
    reward        [T, B]
    terminated    [T, B] bool of step t itself, never "done before t"
    truncated     [T, B] bool
    valid         [T, B] bool false where nothing was really played
    age           [T, B] int  steps played in the episode before t
    state         leaves [K, ...]  memory before observation[t] was seen, stored where a sequence may begin
    state_index   [T, B] int  row of `state` that holds the memory before step t; -1 where none is stored
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
    """Sequences for one gradient: M real steps, stored flat, and where each of them lies in memory's grid.

    Only memory needs time, so only memory sees the grid [L, N]: several sequences lie end to end in one row, at least
    one unreal step apart, and memory is zero after an unreal step. Everything else works on real steps and meets no
    padding.

    observation   [M, *O]
    action        [M, *A]
    log_prob, advantage, target  [M]
    grid_index    [M] int     time * N + row: where a step lies in the grid, flattened
    mask          [L, N] bool true where a step lies
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
