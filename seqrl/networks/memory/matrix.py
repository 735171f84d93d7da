"""Matrix memory: keys and values, summed up in a matrix that forgets."""

import math

import torch
from torch import Tensor, nn

from seqrl.networks.layers import linear
from seqrl.networks.memory.base import Block
from seqrl.networks.product import product
from seqrl.types import State

# Steps of a chunk.
CHUNK = 32


class Matrix(Block):
    """Gated linear attention: each head adds values under their keys to a matrix that forgets, and asks it.

        f = σ(w_f x + b_f), i = σ(w_i x + b_i)          one number each
        q, k, v = W_q x, W_k x, W_v x                    D numbers each
        C' = f C + i v (k / √D)ᵀ
        y = x + W_o (σ(W_g x + b_g) ⊙ norm(C' q))        over all heads; norm: to a root mean square of 1 in each head

    Work is done in chunks of steps: within a chunk as attention with weights that decay, between chunks by the matrix.
    Resets are a mask of who sees whom. Inputs of another width are added through a linear layer. Heads begin by
    forgetting at different speeds, b_f from 3 to 6, and by writing all alike, w_i = 0.

    heads   matrices; they must divide the width

    Raises ValueError if `heads` does not divide the width.
    Source: mLSTM, Beck et al. (2024), "xLSTM"; with a sigmoid for what is written: Beck et al. (2025), "Tiled flash
    linear attention"; in chunks: Yang et al. (2024), "Gated linear attention transformers".
    """

    def __init__(self, input_size: int, size: int, heads: int = 4) -> None:
        super().__init__()
        if size % heads:
            raise ValueError(f"{heads} heads do not divide the width {size}")
        self.output_size, self.heads = size, heads
        # Rows of queries, keys, values and the output's gate.
        self.weight = nn.Parameter(torch.empty(4 * size, input_size))
        self.gate_bias = nn.Parameter(torch.zeros(size))
        nn.init.orthogonal_(self.weight)
        self.forget = nn.Linear(input_size, heads)
        self.write = nn.Linear(input_size, heads)
        for gate in (self.forget, self.write):
            nn.init.zeros_(gate.weight)
            nn.init.zeros_(gate.bias)
        with torch.no_grad():
            self.forget.bias.copy_(torch.linspace(3, 6, heads))
        self.output = linear(size, size, gain=1.0)
        self.around = nn.Identity() if input_size == size else linear(input_size, size, gain=1.0)

    def expect(self, horizon: int) -> None:
        # Few heads are spread evenly, where many units would be drawn.
        steps = torch.linspace(0, 1, self.heads + 1)[1:]
        with torch.no_grad():
            self.forget.bias.copy_((1 + (horizon - 2) * steps).log())

    def initial_state(self, batch_size: int) -> State:
        width = self.output_size // self.heads
        return {"matrix": self.gate_bias.new_zeros(batch_size, self.heads, width, width)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        query, key, value, gate = self._products(x)  # [B, heads, D], the gate [B, H]
        forget, write = (it.sigmoid()[..., None, None] for it in (self._sum(self.forget, x), self._sum(self.write, x)))
        matrix = forget * state["matrix"] + write * value.unsqueeze(-1) * key.unsqueeze(-2)
        return self._read((matrix @ query.unsqueeze(-1)).squeeze(-1), gate, x), {"matrix": matrix}

    def unroll(self, x: Tensor, state: State, mask: Tensor) -> Tensor:
        length = len(x)
        chunk = min(CHUNK, length)
        padding = -length % chunk
        query, key, value, gate = self._products(x)
        decay, write = nn.functional.logsigmoid(self._sum(self.forget, x)), self._sum(self.write, x).sigmoid()

        def chunks(it: Tensor) -> Tensor:
            """[L, N, heads, ...] as [chunks, N, heads, C, ...]."""
            padded = torch.cat([it, it.new_zeros(padding, *it.shape[1:])]) if padding else it
            return padded.view(-1, chunk, *it.shape[1:]).movedim(1, 3)

        query, key, value = chunks(query), chunks(key), chunks(value)
        sees, begins, ends = reach(nn.functional.pad(mask, (0, 0, 0, padding)), chunk)
        # Log of what is left of the beginning of a step's piece. As the sum over the whole chunk, it would let rounding
        # errors of gradients pass a reset.
        decayed = (sees.to(decay.dtype) @ chunks(decay).unsqueeze(-1)).squeeze(-1)
        write = chunks(write)
        # A weight for each pair of steps of a chunk, and for what each has of the chunk's beginning and of its end.
        weight = torch.exp((decayed.unsqueeze(-1) - decayed.unsqueeze(-2)).masked_fill(~sees, -torch.inf))
        within = (query @ key.transpose(-1, -2) * weight * write.unsqueeze(-2)) @ value
        from_begin = torch.exp(decayed) * begins
        to_end = torch.exp(decayed[..., -1:] - decayed) * ends * write
        added = (value * to_end.unsqueeze(-1)).transpose(-1, -2) @ key  # [chunks, N, heads, D, D]
        matrix, earlier = state["matrix"].to(added.dtype), []
        for left, what in zip(from_begin[..., -1, None, None], added, strict=True):
            earlier.append(matrix)
            matrix = left * matrix + what
        answer = within + from_begin.unsqueeze(-1) * (query @ torch.stack(earlier).transpose(-1, -2))
        return self._read(answer.movedim(3, 1).flatten(0, 1)[:length], gate, x)

    def _products(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values [..., heads, D], and what opens the output [..., H]."""
        sums = product(x, self.weight).to(self.weight.dtype)
        *projected, gate = sums.chunk(4, -1)
        query, key, value = (it.unflatten(-1, (self.heads, -1)) for it in projected)
        return query, key / math.sqrt(key.shape[-1]), value, torch.sigmoid(gate + self.gate_bias)

    def _sum(self, gate: nn.Linear, x: Tensor) -> Tensor:
        # Sums over many steps keep their precision.
        sums: Tensor = gate(x)
        return sums.to(self.weight.dtype)

    def _read(self, answer: Tensor, gate: Tensor, x: Tensor) -> Tensor:
        """Output [..., H] for what the matrices answer [..., heads, D]."""
        normed = answer * torch.rsqrt(answer.square().mean(-1, keepdim=True) + 1e-5)
        read: Tensor = self.around(x) + self.output(gate * normed.flatten(-2))
        return read


def reach(mask: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which steps of a chunk see which, which its beginning, and which are seen at its end; heads are one dimension.

    A step sees those of its own piece of the row, itself among them; a piece ends at each unreal step.

    mask      [L, N] bool, true on real steps; L a multiple of `chunk`
    returns   [chunks, N, 1, C, C], [chunks, N, 1, C], [chunks, N, 1, C], all bool
    """
    real = mask.unflatten(0, (-1, chunk)).movedim(1, 2).unsqueeze(2)  # [chunks, N, 1, C]
    # Number the pieces of each chunk; 0 goes on from the chunk before.
    piece = (~real).cumsum(-1)
    same = (piece.unsqueeze(-1) == piece.unsqueeze(-2)) & real.unsqueeze(-2)
    return same.tril(), piece == 0, (piece == piece[..., -1:]) & real
