"""Minimal gated recurrent unit: a linear recurrence, whose gates do not see what is remembered."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from seqrl.networks.layers import linear
from seqrl.networks.memory.base import Block, chrono, spread
from seqrl.networks.product import product
from seqrl.types import State

# Numbers in a piece of a tensor: of a dozen tensors, they fit in a cache of 16 MB.
CACHED = 2**18


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
        output: Tensor = Highway.apply(*self._products(x), state["hidden"], mask)  # type: ignore[no-untyped-call]
        return output

    def _products(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the gates and what is written, and what the highway passes: sums over time keep their precision."""
        sums = product(x, self.weight, self.bias)
        return sums.to(self.bias.dtype), self.highway(x).to(self.bias.dtype)


class Highway(torch.autograd.Function):
    """All that follows the products, a few steps at once: so few that all of it stays in the processor's cache.

    gates    [L, N, 3H]  sums of write gate, highway gate, what is written; nothing else may need them, for the gates
                         are written over them
    passed   [L, N, H]   what the highway passes
    hidden   [N, H]      memory before the first step
    mask     [L, N]      bool, true on real steps; after any other step, memory is zero
    returns  [L, N, H]
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, passed: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        size = hidden.shape[-1]
        real = mask.unsqueeze(-1).to(passed.dtype)
        output, remembered = torch.empty_like(passed), torch.empty_like(passed)
        in_turn = pieces(hidden.numel(), *gates.split([2 * size, size], -1), passed, remembered, output, real)
        keep_, h = torch.empty_like(in_turn[0][2]), hidden
        for both, written, x, after, y, is_real in in_turn:
            z, g = both.sigmoid_().chunk(2, -1)
            keep = torch.sub(is_real, z, out=keep_[: len(x)]).mul_(is_real)
            torch.mul(z, written, out=after).mul_(is_real)
            h = scan_(keep, after, h)
            torch.lerp(x, after, g, out=y)
        ctx.save_for_backward(gates, passed, hidden, remembered, real)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gates, passed, hidden, remembered, real = ctx.saved_tensors
        sums, of_passed = torch.empty_like(gates), torch.empty_like(passed)
        together = (gradient, passed, remembered, of_passed, real, *gates.chunk(3, -1), *sums.chunk(3, -1))
        in_turn = pieces(hidden.numel(), *together)
        flow_, earlier_, keep_ = (torch.empty_like(in_turn[0][0]) for _ in range(3))
        of_hidden, t = torch.zeros_like(hidden), len(gates)
        for of_y, x, after, of_x, is_real, z, g, written, of_z, of_g, of_written in reversed(in_turn):
            t -= len(x)
            flow, of_earlier, keep = flow_[: len(x)], earlier_[: len(x)], keep_[: len(x)]
            torch.addcmul(of_y, of_y, g, value=-1, out=of_x)
            torch.mul(torch.sub(after, x, out=flow).mul_(g), of_x, out=of_g)
            # What reaches the memory after each step from its own output, and then from all later ones as well.
            torch.sub(of_y, of_x, out=flow)
            torch.sub(is_real, z, out=keep).mul_(is_real)
            torch.mul(keep, flow, out=of_earlier)
            flow[-1] += of_hidden
            of_hidden = scan_(keep, of_earlier, of_hidden, back=True)
            flow[:-1] += of_earlier[1:]
            torch.mul(flow, z, out=of_written).mul_(is_real)
            torch.sub(written[1:], after[:-1], out=flow[1:])
            torch.sub(written[0], remembered[t - 1] if t else hidden, out=flow[0])
            torch.mul(of_earlier.mul_(z), flow, out=of_z)
        return sums, of_passed, of_hidden, None


def pieces(numbers: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Tensors [L, N, ...], cut alike into pieces of so few steps, of so many numbers, that all fit in a cache."""
    steps = max(1, CACHED // numbers)
    return list(zip(*(tensor.split(steps) for tensor in tensors), strict=True))


def scan_(keep: Tensor, added: Tensor, first: Tensor, *, back: bool = False) -> Tensor:
    """Write h_t = keep_t ⊙ h_{t-1} + added_t over `added`; return a copy of the last.

    Chunks of steps go on side by side, as if each began with zero; then one after another is told what it began with.
    So some √(8 L) operations do what would take L, each of which had too little to do.

    keep    [L, N, H]  overwritten
    added   [L, N, H]
    first   [N, H]     h before the first step
    back    from the last step to the first
    """
    length = len(added)
    steps = max(1, math.isqrt(length // 2))
    lead = length % steps
    alone, chunks = (slice(length - lead, length), slice(length - lead)) if back else (slice(lead), slice(lead, length))

    def in_turn(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tensors[::-1] if back else tensors

    h = first
    for keep_t, added_t in zip(in_turn(keep[alone].unbind()), in_turn(added[alone].unbind()), strict=True):
        h = added_t.addcmul_(keep_t, h)
    keep, added = (it[chunks].unflatten(0, (-1, steps)) for it in (keep, added))
    # Step by step, each [chunks, N, H].
    kept, sums = in_turn(keep.unbind(1)), in_turn(added.unbind(1))
    for t in range(1, steps):
        sums[t].addcmul_(kept[t], sums[t - 1])
        kept[t].mul_(kept[t - 1])
    began = []
    for kept_all, sum_all in zip(in_turn(kept[-1].unbind()), in_turn(sums[-1].unbind()), strict=True):
        began.append(h)
        h = torch.addcmul(sum_all, kept_all, h)
    added.addcmul_(keep, torch.stack(in_turn(tuple(began))).unsqueeze(1))
    return h
