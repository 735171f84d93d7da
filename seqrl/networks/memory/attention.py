"""Attention over the last steps."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from seqrl.networks.layers import Linear
from seqrl.networks.memory.base import Block
from seqrl.types import State


class Attention(Block):
    """Causal attention over the current input and the `window` inputs before it, added to the input.

    Each head scores the input `d` steps back as q · k / √(head width) + bias[d]. The learned bias by distance lets it
    learn a fixed delay in a few updates. Memory holds the last `window` inputs themselves, newest last, and which of
    them are real.

    Raises ValueError if `heads` does not divide the width.
    Source: Vaswani et al. (2017); relative distance: Shaw et al. (2018), Press et al. (2022).
    """

    # Large steps upset attention sooner than an LSTM. Adam moves each number by at most the learning rate in a step,
    # and of a score's parts only the bias is one number.
    rates: Mapping[str, float] = {
        **{f"{name}.weight": 1 / 3 for name in ("query", "key", "value", "output")},
        "output.bias": 1 / 3,
        "distance_bias": 16 / 3,
    }

    def __init__(self, input_size: int, window: int, heads: int) -> None:
        super().__init__()
        if input_size % heads:
            raise ValueError(f"{heads} heads do not divide the width {input_size}")
        self.output_size, self.window, self.heads = input_size, window, heads
        self.query = Linear(input_size, input_size, bias=False)
        # A bias on the keys would cancel in the softmax.
        self.key = Linear(input_size, input_size, bias=False)
        self.value = Linear(input_size, input_size, bias=False)
        self.output = Linear(input_size, input_size)
        self.distance_bias = nn.Parameter(torch.zeros(heads, window + 1))
        for projection in (self.query, self.key, self.value, self.output):
            nn.init.orthogonal_(projection.weight)
        nn.init.zeros_(self.output.bias)

    def initial_state(self, batch_size: int) -> State:
        inputs = self.distance_bias.new_zeros(batch_size, self.window, self.output_size)
        return {"inputs": inputs, "real": inputs.new_zeros(batch_size, self.window, dtype=torch.bool)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        attended, after = self.attend(x, state)
        return x + attended, after

    def unroll(self, x: Tensor, state: State, mask: Tensor) -> Tensor:
        return x + self.attend_all(x, state, mask)

    def attend(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """What `step` adds to its input, and the memory after it."""
        seen = torch.cat([state["inputs"], x.unsqueeze(1)], 1)  # [B, W+1, H]
        real = nn.functional.pad(state["real"], (0, 1), value=True)
        # Keys and values are linear in the inputs: project one query and one mean instead of W+1 keys and values.
        per_head = (self.heads, -1, self.output_size)
        query = self.query(x).unflatten(-1, (self.heads, -1))  # [B, heads, D]
        query = torch.einsum("bhd,hdi->bhi", query, self.key.weight.view(per_head))
        score = query @ seen.transpose(1, 2) * self._scale + self.distance_bias.flip(1)  # [B, heads, W+1]
        weight = score.masked_fill(~real.unsqueeze(1), -torch.inf).softmax(-1)
        value = torch.einsum("bhi,hdi->bhd", weight @ seen, self.value.weight.view(per_head))
        return self.output(value.flatten(1)), {"inputs": seen[:, 1:], "real": real[:, 1:]}

    def attend_all(self, x: Tensor, state: State, mask: Tensor) -> Tensor:
        """What `unroll` adds to its input.

        A block of C steps attends to its own steps and to those of the k blocks before it, k C ≥ window.

        Work grows with L, not L².
        """
        length, rows, width = x.shape
        blocks = -(-length // max(1, (self.window + 1) // 2))
        block = -(-length // blocks)  # C
        reach = -(-self.window // block)  # k
        padding = blocks * block - length
        carried = state["real"].any(1).nonzero().squeeze(1)

        def keys(projection: nn.Linear) -> Tensor:
            """What each block attends to [blocks, N, heads, (k+1) C, D], the state's inputs first; zeros fill gaps."""
            now = projection(x)
            # Products may have another precision than their factors.
            past = now.new_zeros(reach * block, rows, width)
            past[reach * block - self.window :, carried] = projection(state["inputs"][carried]).transpose(0, 1)
            seen = torch.cat([past, now, now.new_zeros(padding, rows, width)])
            tiles = self._blocks(seen, block)
            return torch.cat([tiles[i : i + blocks] for i in range(reach + 1)], 3)

        distance = distances(self.window, block, x.device)
        visible = visibility(mask, state["real"], self.window, distance)
        query = nn.functional.pad(self.query(x) * self._scale, (0, 0, 0, 0, 0, padding))
        score = self._blocks(query, block) @ keys(self.key).transpose(-1, -2)  # [blocks, N, heads, C, (k+1) C]
        score += self.distance_bias[:, distance.clamp(0, self.window)]
        with torch.no_grad():
            # A weight of exactly 0 stops the gradient by itself. The score is finite so that an unreal step, which sees
            # nothing, stays finite too.
            score.masked_fill_(~visible.unsqueeze(2), torch.finfo(score.dtype).min)
        mixed = score.softmax(-1) @ keys(self.value)  # [blocks, N, heads, C, D]
        attended: Tensor = self.output(mixed.permute(0, 3, 1, 2, 4).reshape(-1, rows, width)[:length])
        return attended

    def _blocks(self, x: Tensor, block: int) -> Tensor:
        """Cut into blocks of C steps, for each row and head: from [T, N, H] to [T / C, N, heads, C, D]."""
        return x.view(-1, block, x.shape[1], self.heads, self.output_size // self.heads).permute(0, 2, 3, 1, 4)

    @property
    def _scale(self) -> float:
        return 1 / math.sqrt(self.output_size // self.heads)


def distances(window: int, block: int, device: torch.device) -> Tensor:
    """How many steps each key lies behind each query of its block [C, (k+1) C]; negative if it lies ahead.

    The keys of a block are the steps of the k blocks before it, k C ≥ `window`, and its own.

    block   C
    """
    before = -(-window // block) * block  # k C
    position = torch.arange(before + block, device=device)
    return position[before:].unsqueeze(1) - position


def visibility(mask: Tensor, real: Tensor, window: int, distance: Tensor) -> Tensor:
    """Which keys each step attends to [blocks, N, C, (k+1) C] bool: at most `window` back, in its own piece of the row.

    A piece ends at each unreal step; the first one continues the carried state. Unreal steps and padding see nothing
    and are seen by nothing.

    mask       [L, N] bool, true on real steps
    real       [N, window] bool, true on the carried inputs that exist, newest last
    distance   [C, (k+1) C] from `distances`
    """
    length, rows = mask.shape
    block, keys = distance.shape
    blocks = -(-length // block)
    padding = blocks * block - length
    # Number the pieces of each row; 0 continues the state. Negative numbers match nothing.
    piece = (~mask).cumsum(0)  # [L, N]
    carried = torch.where(real.T, 0, -1)
    key_piece = torch.cat([carried, piece.masked_fill(~mask, -1)])
    key_piece = nn.functional.pad(key_piece, (0, 0, keys - block - window, padding), value=-1)
    tiles = key_piece.view(-1, block, rows)
    key_piece = torch.cat([tiles[i : i + blocks] for i in range(keys // block)], 1)  # [blocks, (k+1) C, N]
    query_piece = nn.functional.pad(piece, (0, 0, 0, padding), value=-2).view(blocks, block, rows)
    same = query_piece.permute(2, 0, 1).unsqueeze(-1) == key_piece.permute(2, 0, 1).unsqueeze(2)
    return (same & (distance >= 0) & (distance <= window)).transpose(0, 1)
