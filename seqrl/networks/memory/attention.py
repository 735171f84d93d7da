"""Attention over the last steps."""

import math

import torch
from torch import Tensor, nn

from seqrl.networks.memory.base import Block
from seqrl.types import State


class Attention(Block):
    """Causal attention over the last `window` inputs and the present one, added to the input.

    Score of the input `d` steps back, for each head: q · k / √(head width) + bias[d]. The learned bias by distance lets
    it learn a fixed delay in a few updates. Memory is the last `window` inputs themselves, newest last, and which of
    them are real.

    Raises ValueError if `heads` does not divide the width.
    Source: Vaswani et al. (2017); relative distance: Shaw et al. (2018), Press et al. (2022).
    """

    distance: Tensor

    def __init__(self, input_size: int, window: int, heads: int) -> None:
        super().__init__()
        if input_size % heads:
            raise ValueError(f"{heads} heads do not divide the width {input_size}")
        self.output_size, self.window, self.heads = input_size, window, heads
        self.query = nn.Linear(input_size, input_size, bias=False)
        # A bias on the keys would cancel in the softmax.
        self.key = nn.Linear(input_size, input_size, bias=False)
        self.value = nn.Linear(input_size, input_size, bias=False)
        self.output = nn.Linear(input_size, input_size)
        self.distance_bias = nn.Parameter(torch.zeros(heads, window + 1))
        for projection in (self.query, self.key, self.value, self.output):
            nn.init.orthogonal_(projection.weight)
        nn.init.zeros_(self.output.bias)

    def initial_state(self, batch_size: int) -> State:
        inputs = self.distance_bias.new_zeros(batch_size, self.window, self.output_size)
        return {"inputs": inputs, "real": inputs.new_zeros(batch_size, self.window, dtype=torch.bool)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        seen = torch.cat([state["inputs"], x.unsqueeze(1)], 1)  # [B, W+1, H]
        real = nn.functional.pad(state["real"], (0, 1), value=True)
        # Keys and values are linear in the inputs: project one query and one mean instead of W+1 keys and values.
        per_head = (self.heads, -1, self.output_size)
        query = self.query(x).unflatten(-1, (self.heads, -1))  # [B, heads, D]
        query = torch.einsum("bhd,hdi->bhi", query, self.key.weight.view(per_head))
        score = query @ seen.transpose(1, 2) * self._scale + self.distance_bias.flip(1)  # [B, heads, W+1]
        weight = score.masked_fill(~real.unsqueeze(1), -torch.inf).softmax(-1)
        value = torch.einsum("bhi,hdi->bhd", weight @ seen, self.value.weight.view(per_head))
        return x + self.output(value.flatten(1)), {"inputs": seen[:, 1:], "real": real[:, 1:]}

    def unroll(self, x: Tensor, state: State, mask: Tensor) -> Tensor:
        """Attend in blocks of C steps, each to its own steps and those of the k blocks before it, k C ≥ W: work grows
        with L, not L²."""
        length, rows, width = x.shape
        blocks = -(-length // max(1, (self.window + 1) // 2))
        block = -(-length // blocks)  # C
        reach = -(-self.window // block)  # k
        padding = blocks * block - length
        carried = state["real"].any(1).nonzero().squeeze(1)

        def keys(projection: nn.Linear) -> Tensor:
            """What each block attends to, the state's inputs first [blocks, N, heads, (k+1) C, D]; zeros are none."""
            past = x.new_zeros(reach * block, rows, width)
            past[reach * block - self.window :, carried] = projection(state["inputs"][carried]).transpose(0, 1)
            seen = torch.cat([past, projection(x), x.new_zeros(padding, rows, width)])
            tiles = self._blocks(seen, block)
            return torch.cat([tiles[i : i + blocks] for i in range(reach + 1)], 3)

        # Piece numbers tell one episode from the next; 0 is the state's.
        piece = (~mask).cumsum(0)  # [L, N]
        past = torch.where(state["real"].T, 0, -1)
        key_piece = torch.cat([past, piece.masked_fill(~mask, -1)])
        key_piece = nn.functional.pad(key_piece, (0, 0, reach * block - self.window, padding), value=-1)
        key_tiles = key_piece.view(-1, block, rows)
        key_piece = torch.cat([key_tiles[i : i + blocks] for i in range(reach + 1)], 1)  # [blocks, (k+1) C, N]
        query_piece = nn.functional.pad(piece, (0, 0, 0, padding), value=-2).view(blocks, block, rows)
        same = query_piece.permute(2, 0, 1).unsqueeze(-1) == key_piece.permute(2, 0, 1).unsqueeze(2)
        position = torch.arange((reach + 1) * block, device=x.device)
        distance = position[reach * block :].unsqueeze(1) - position  # [C, (k+1) C]
        visible = (same & (distance >= 0) & (distance <= self.window)).transpose(0, 1)  # [blocks, N, C, (k+1) C]

        query = nn.functional.pad(self.query(x) * self._scale, (0, 0, 0, 0, 0, padding))
        score = self._blocks(query, block) @ keys(self.key).transpose(-1, -2)
        score += self.distance_bias[:, distance.clamp(0, self.window)]
        with torch.no_grad():
            # Weights that are exactly 0 stop gradients by themselves. Finite, so that an unreal step, which sees
            # nothing, stays finite too.
            score.masked_fill_(~visible.unsqueeze(2), torch.finfo(score.dtype).min)
        mixed = score.softmax(-1) @ keys(self.value)  # [blocks, N, heads, C, D]
        attended: Tensor = self.output(mixed.permute(0, 3, 1, 2, 4).reshape(-1, rows, width)[:length])
        return x + attended

    def _blocks(self, x: Tensor, block: int) -> Tensor:
        """Blocks of so many steps, for each row and head: from [T, N, H] to [T / C, N, heads, C, D]."""
        return x.view(-1, block, x.shape[1], self.heads, self.output_size // self.heads).permute(0, 2, 3, 1, 4)

    @property
    def _scale(self) -> float:
        return 1 / math.sqrt(self.output_size // self.heads)
