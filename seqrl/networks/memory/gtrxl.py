"""Gated transformer."""

import torch
from torch import Tensor, nn

from seqrl.networks.layers import linear
from seqrl.networks.memory.attention import Attention
from seqrl.networks.memory.base import Block
from seqrl.types import State


class GTrXL(Block):
    """A layer of a gated transformer: attention over a window of its inputs, then two layers for each step.

        u = gate(x, attention(norm(x)))
        y = gate(u, W_2 relu(W_1 norm(u) + b_1) + b_2)
        gate(x, y) = σ(W x + b) ⊙ x + (1 - σ(W x + b)) ⊙ relu(y)

    With b = 2, the layer begins almost as the identity, so that a policy may first learn what needs no memory. This is
    the paper's highway gate, which takes a sixth of the products of its GRU gate. Memory holds the normed inputs of the
    last `window` steps; attention knows how far each of them lies back. Inputs of another width first pass a linear
    layer.

    Raises ValueError if `heads` does not divide the width.
    Source: Parisotto et al. (2020), "Stabilizing transformers for reinforcement learning".
    """

    def __init__(self, input_size: int, size: int, window: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.output_size = size
        self.enter = nn.Identity() if input_size == size else linear(input_size, size, gain=1.0)
        self.attention = Attention(size, window, heads)
        # Behind its gate, attention bears the same steps as the rest.
        self.attention.rates = {"distance_bias": 16.0}
        self.inner, self.outer = linear(size, size, gain=2**0.5), linear(size, size, gain=1.0)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.gates = nn.ModuleList(linear(size, size, gain=1.0) for _ in range(2))
        for gate in self.gates:
            nn.init.constant_(gate.bias, 2.0)  # type: ignore[arg-type]

    def initial_state(self, batch_size: int) -> State:
        return self.attention.initial_state(batch_size)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x = self.enter(x)
        attended, after = self.attention.attend(self.norms[0](x), state)
        return self._layers(x, attended), after

    def unroll(self, x: Tensor, state: State, mask: Tensor) -> Tensor:
        x = self.enter(x)
        return self._layers(x, self.attention.attend_all(self.norms[0](x), state, mask))

    def _layers(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self._gated(0, x, attended)
        return self._gated(1, x, self.outer(torch.relu(self.inner(self.norms[1](x)))))

    def _gated(self, layer: int, x: Tensor, y: Tensor) -> Tensor:
        kept = torch.sigmoid(self.gates[layer](x))
        return torch.lerp(torch.relu(y).to(x.dtype), x, kept.to(x.dtype))
