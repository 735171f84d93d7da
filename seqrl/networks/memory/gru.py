"""Gated recurrent unit."""

from typing import Any

import torch
from torch import Tensor, nn

from seqrl.networks.memory.base import Block, Resets, chrono
from seqrl.networks.memory.lstm import CLOSED
from seqrl.types import State


class GRU(Block):
    """Gated recurrent unit: a gate that resets what the candidate sees, and one that keeps what was there.

        r = σ(W_r x + U_r h + b_r)
        z = σ(W_z x + U_z h + b_z)
        n = tanh(W_n x + r ⊙ (U_n h + b_n))
        h' = (1 - z) ⊙ n + z ⊙ h

    This is torch's cell without its second bias of the candidate. On a CPU, the products with x are one product over
    all steps, and the rest is a loop in an autograd function of its own. Elsewhere, torch's fused kernel does it, in
    which an extra input, 1 at unreal steps, closes both gates: h' = tanh(0) is exactly 0 there, and no gradient passes.

    Source: Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder".
    """

    no_bias: Tensor
    close_gates: Tensor

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__()
        self.output_size = size
        # Rows of two gates and the candidate, in torch's order: reset, update, new.
        self.weight_input = nn.Parameter(torch.empty(3 * size, input_size))
        self.weight_hidden = nn.Parameter(torch.empty(3 * size, size))
        self.bias = nn.Parameter(torch.zeros(3 * size))
        nn.init.orthogonal_(self.weight_input)
        nn.init.orthogonal_(self.weight_hidden)
        self.register_buffer("no_bias", torch.zeros(3 * size), persistent=False)
        column = torch.tensor([CLOSED, CLOSED, 0.0]).repeat_interleave(size).unsqueeze(1)
        self.register_buffer("close_gates", column, persistent=False)

    def expect(self, horizon: int) -> None:
        with torch.no_grad():
            self.bias[self.output_size : 2 * self.output_size] = chrono(self.output_size, horizon)

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": self.bias.new_zeros(batch_size, self.output_size)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        weights = (self.weight_input, self.weight_hidden, self.no_bias, self.bias)
        hidden = torch.gru_cell(x, state["hidden"].to(x.dtype), *weights)
        return hidden, {"hidden": hidden}

    def unroll(self, x: Tensor, state: State, mask: Tensor) -> Tensor:
        return (self._loop if x.device.type == "cpu" else self._kernel)(x, state["hidden"], mask)

    def _loop(self, x: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        gates, candidate = self.bias.split([2 * self.output_size, self.output_size])
        # In the candidate, the reset gate multiplies the bias.
        product = nn.functional.linear(x, self.weight_input, torch.cat([gates, torch.zeros_like(candidate)]))
        weights = (self.weight_hidden.to(product.dtype), candidate.to(product.dtype))
        output: Tensor = Recurrence.apply(product, hidden.to(product.dtype), *weights, Resets(mask))  # type: ignore[no-untyped-call]
        return output

    def _kernel(self, x: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        unreal = ~mask.unsqueeze(-1)
        x = torch.cat([x.masked_fill(unreal, 0), unreal.to(x.dtype)], -1)
        weights = [torch.cat([self.weight_input, self.close_gates], 1), self.weight_hidden, self.no_bias, self.bias]
        output: Tensor = torch.gru(x, hidden.unsqueeze(0), weights, True, 1, 0.0, self.training, False, False)[0]
        return output


class Recurrence(torch.autograd.Function):
    """All that follows the products with the inputs.

    gates    [L, N, 3H]  W x + (b_r, b_z, 0), which nothing else may need: r, z, n are written over it
    hidden   [N, H]      memory before the first step
    weight   [3H, H]     U
    bias     [H]         b_n
    returns  [L, N, H]
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, resets: Resets) -> Tensor:
        rows, size = hidden.shape
        output, inner = (gates.new_empty(len(gates), rows, size) for _ in range(2))
        # Views take as long as the arithmetic, so all are made at once; and a transposed product twice as long.
        both, candidates = (part.unbind() for part in gates.split([2 * size, size], -1))
        transposed, product = weight.t().contiguous(), gates.new_empty(rows, 3 * size)
        of_gates, of_candidate = product.split([2 * size, size], -1)
        h = hidden
        for t, (rz, n, u, after) in enumerate(zip(both, candidates, inner.unbind(), output.unbind(), strict=True)):
            h = resets.before(t, h)
            torch.mm(h, transposed, out=product)
            rz.add_(of_gates).sigmoid_()
            r, z = rz.chunk(2, -1)
            n.addcmul_(r, torch.add(of_candidate, bias, out=u)).tanh_()
            h = torch.lerp(n, h, z, out=after)
        ctx.resets = resets
        ctx.save_for_backward(gates, output, inner, hidden, weight)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gates, output, inner, hidden, weight = ctx.saved_tensors
        resets: Resets = ctx.resets
        size = output.shape[-1]
        r, z, n = gates.split(size, -1)
        before = resets.all_before(hidden, output)
        # What the gradient of h' is multiplied by to be that of each sum: of n's, and of z's; and from n's to r's.
        to_n = (1 - z).mul_(1 - n * n)
        to_z = (before - n).mul_(z).mul_(1 - z)
        to_r = (inner * r).mul_(1 - r)
        sums = torch.empty_like(gates)  # gradient of U h + b
        of_n = torch.empty_like(output)
        in_turn = [part.unbind() for part in (gradient, to_n, to_z, to_r, r, z, of_n, sums, *sums.split(size, -1))]
        h = torch.zeros_like(hidden)
        for t in reversed(range(len(gates))):
            of_after, n_t, z_t, r_t, reset, keep, of_candidate, of_sum, of_r, of_z, of_inner = (it[t] for it in in_turn)
            h += of_after
            torch.mul(h, n_t, out=of_candidate)
            torch.mul(h, z_t, out=of_z)
            torch.mul(of_candidate, r_t, out=of_r)
            torch.mul(of_candidate, reset, out=of_inner)
            h = resets.before(t, h.mul_(keep).addmm_(of_sum, weight))
        flat = sums.flatten(0, 1)
        of_weight = flat.t() @ before.flatten(0, 1)
        of_bias = flat[:, 2 * size :].sum(0)
        sums[..., 2 * size :] = of_n
        return sums, h, of_weight, of_bias, None
