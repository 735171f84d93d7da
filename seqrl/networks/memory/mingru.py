"""Minimal gated recurrent unit: a linear recurrence, whose gates do not see what is remembered."""

from typing import Any

import torch
from torch import Tensor, nn

from seqrl.networks.layers import linear
from seqrl.networks.memory.base import Block, Unreal, chrono, spread
from seqrl.networks.product import product
from seqrl.types import State

# Numbers in a piece of a tensor: a dozen pieces fit in a cache of a megabyte or two.
CACHED = 2**15


class MinGRU(Block):
    """Minimal gated recurrent unit, with a highway gate.

        z = σ(W_z x + b_z)
        h' = (1 - z) ⊙ h + z ⊙ (W_h x + b_h)
        g = σ(W_g x + b_g)
        y = g ⊙ h' + (1 - g) ⊙ x

    Only the sum over time goes step by step, in place; all products are one product over all steps. Inputs of another
    width pass the highway through a linear layer.

    Source: Feng et al. (2024), "Were RNNs all we needed?"; highway: Srivastava et al. (2015), as in PufferLib.
    """

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__()
        self.output_size = size
        # Rows of the write gate, the highway gate, and what is written.
        self.weight = nn.Parameter(torch.empty(3 * size, input_size))
        self.bias = nn.Parameter(torch.zeros(3 * size))
        nn.init.orthogonal_(self.weight)
        self._remember(spread(size // 2))
        self.highway = nn.Identity() if input_size == size else linear(input_size, size, gain=1.0)

    def expect(self, horizon: int) -> None:
        self._remember(chrono(self.output_size, horizon))

    @torch.no_grad()
    def _remember(self, keep: Tensor) -> None:
        """Begin with these biases of what is kept, in as many units: their negatives for the gate that writes."""
        # To negate what has a size alone, torch would import its compiler, for seconds.
        if not keep.is_meta:
            self.bias[: len(keep)] = -keep

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": self.bias.new_zeros(batch_size, self.output_size)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        sums, passed = self._products(x)
        gates, written = sums.split([2 * self.output_size, self.output_size], -1)
        z, g = gates.sigmoid().chunk(2, -1)
        hidden = torch.lerp(state["hidden"], written, z)
        return torch.lerp(passed, hidden, g), {"hidden": hidden}

    def unroll(self, x: Tensor, state: State, mask: Tensor) -> Tensor:
        output: Tensor = Highway.apply(*self._products(x), state["hidden"], Unreal(mask))  # type: ignore[no-untyped-call]
        return output

    def _products(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the gates and what is written, and what the highway passes: sums over time keep their precision."""
        sums = product(x, self.weight, self.bias)
        return sums.to(self.bias.dtype), self.highway(x).to(self.bias.dtype)


class Highway(torch.autograd.Function):
    """All that follows the products.

    Only what needs the step before goes step by step, two operations at most. The rest goes through a few steps at
    once: so many that each operation has enough to do, and so few that all of it stays in the processor's cache.

    gates    [L, N, 3H]  sums of write gate, highway gate, what is written; nothing else may need them, for the gates
                         are written over them
    passed   [L, N, H]   what the highway passes
    hidden   [N, H]      memory before the first step
    returns  [L, N, H]
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, passed: Tensor, hidden: Tensor, unreal: Unreal) -> Tensor:
        size = hidden.shape[-1]
        output, remembered = torch.empty_like(passed), torch.empty_like(passed)
        h, t = hidden, 0
        for both, written, x, after, y in pieces(*gates.split([2 * size, size], -1), passed, remembered, output):
            z, g = both.sigmoid_().chunk(2, -1)
            for written_t, z_t, after_t in zip(written, z, after, strict=True):
                h = torch.lerp(h, written_t, z_t, out=after_t)
                unreal.clear_(t, h)
                t += 1
            torch.lerp(x, after, g, out=y)
        ctx.unreal = unreal
        ctx.save_for_backward(gates, passed, hidden, remembered)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gates, passed, hidden, remembered = ctx.saved_tensors
        unreal: Unreal = ctx.unreal
        sums, of_passed = torch.empty_like(gates), torch.empty_like(passed)
        in_turn = pieces(gradient, passed, remembered, of_passed, *gates.chunk(3, -1), *sums.chunk(3, -1))
        of_hidden, t = torch.zeros_like(hidden), len(gates)
        flow_, keep_ = torch.empty_like(in_turn[0][0]), torch.empty_like(in_turn[0][0])
        for of_y, x, after, of_x, z, g, written, of_z, of_g, of_written in reversed(in_turn):
            flow, keep = flow_[: len(x)], keep_[: len(x)]
            torch.addcmul(of_y, of_y, g, value=-1, out=of_x)
            torch.mul(torch.sub(after, x, out=flow).mul_(g), of_x, out=of_g)
            torch.sub(of_y, of_x, out=flow)
            torch.neg(z, out=keep).add_(1)
            for flow_t, keep_t in zip(reversed(flow.unbind()), reversed(keep.unbind()), strict=True):
                t -= 1
                flow_t += of_hidden
                unreal.clear_(t, flow_t)
                torch.mul(flow_t, keep_t, out=of_hidden)
            torch.mul(flow, z, out=of_written)
            keep *= of_written
            torch.sub(written[1:], after[:-1], out=flow[1:])
            torch.sub(written[0], remembered[t - 1] if t else hidden, out=flow[0])
            torch.mul(keep, flow, out=of_z)
        return sums, of_passed, of_hidden, None


def pieces(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Tensors [L, N, ...], cut alike into pieces of so few steps that all of them fit in a cache together."""
    steps = max(1, CACHED // min(tensor[0].numel() for tensor in tensors))
    return list(zip(*(tensor.split(steps) for tensor in tensors), strict=True))
