"""The interface of memory blocks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from seqrl.types import State


class Block(nn.Module, ABC):
    """One part of a network's memory.

    output_size   width of what `step` and `unroll` return
    rates         how much faster than the rest some parameters learn, by their names in the block
    """

    output_size: int
    rates: Mapping[str, float] = {}

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """Memory of `batch_size` new episodes: zeros [B, ...]."""

    @abstractmethod
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Process one step x [B, I]; return output [B, output_size] and the memory after it."""

    def expect(self, horizon: int) -> None:
        """Begin with gates that keep memories for 1 to `horizon` steps; a block without such gates does nothing."""

    def unroll(self, x: Tensor, state: State, mask: Tensor) -> Tensor:
        """Process sequences x [L, N, I]; return output [L, N, output_size], finite everywhere.

        This default runs step by step. Override it with a faster equivalent.

        state   leaves [N, ...], memory before the first step of each row
        mask    [L, N] bool, true on real steps; after any other step, memory is that of a new episode, whatever finite
                values x holds there
        """
        outputs = []
        for x_t, unreal in zip(x, ~mask, strict=True):
            output, state = self.step(x_t, state)
            state = {
                name: leaf.masked_fill(unreal.view(-1, *[1] * (leaf.dim() - 1)), 0) for name, leaf in state.items()
            }
            outputs.append(output)
        return torch.stack(outputs)


def spread(size: int, longest: int = 128) -> Tensor:
    """Biases [size] of gates σ(b) that keep memory for some 1 to `longest` steps: b = log u, u log-uniform.

    Short and long memories are equally many at every scale, where nobody knows for how long they should last.
    """
    return torch.empty(size).uniform_(0, math.log(longest))


def chrono(size: int, horizon: int) -> Tensor:
    """Biases [size] of gates σ(b) that keep memory for some 1 to `horizon` steps: b = log u, u ~ U(1, horizon - 1).

    Source: Tallec & Ollivier (2018), "Can recurrent neural networks warp time?".
    """
    return torch.empty(size).uniform_(1, max(1, horizon - 1)).log_()
