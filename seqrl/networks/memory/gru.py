"""Gated recurrent unit."""

from typing import Any

import torch
from torch import Tensor, nn

from seqrl.networks.memory.base import Block, chrono, spread
from seqrl.networks.memory.lstm import CLOSED
from seqrl.networks.product import onednn, pays, product, summed
from seqrl.types import State


class Unreal:
    """The steps of a grid that nobody played, at which a loop sets memory to zero: that of a new episode.

    mask   [L, N] bool, true on real steps
    """

    def __init__(self, mask: Tensor) -> None:
        self._unreal = (~mask).unsqueeze(-1).unbind()
        # Most steps are real in all rows, and a question to a tensor takes longer than one to a list.
        self._any = (~mask).any(1).tolist()

    def clear_(self, t: int, x: Tensor) -> None:
        """Set the memory [N, H] after step t to zero, or its gradient, where that step is unreal; in place."""
        if self._any[t]:
            x.masked_fill_(self._unreal[t], 0)


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
        self._remember(spread(size // 2))
        self.register_buffer("no_bias", torch.zeros(3 * size), persistent=False)
        column = torch.tensor([CLOSED, CLOSED, 0.0]).repeat_interleave(size).unsqueeze(1)
        self.register_buffer("close_gates", column, persistent=False)

    def expect(self, horizon: int) -> None:
        self._remember(chrono(self.output_size, horizon))

    @torch.no_grad()
    def _remember(self, keep: Tensor) -> None:
        """Begin with these biases of the gate that keeps, in as many units."""
        self.bias[self.output_size :][: len(keep)] = keep

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
        sums = product(x, self.weight_input, torch.cat([gates, torch.zeros_like(candidate)]))
        weights = (self.weight_hidden.to(sums.dtype), candidate.to(sums.dtype))
        output: Tensor = Recurrence.apply(sums, hidden.to(sums.dtype), *weights, Unreal(mask))  # type: ignore[no-untyped-call]
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
    def forward(ctx: Any, gates: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, unreal: Unreal) -> Tensor:
        rows, size = hidden.shape
        output, inner = (gates.new_empty(len(gates), rows, size) for _ in range(2))
        # Views take as long as the arithmetic, so all are made at once; and a transposed product twice as long.
        both, candidates = (part.unbind() for part in gates.split([2 * size, size], -1))
        transposed, of_hidden = weight.t().contiguous(), gates.new_empty(rows, 3 * size)
        of_gates, of_candidate = of_hidden.split([2 * size, size], -1)
        fast, h = pays(hidden, weight), hidden
        for t, (rz, n, u, after) in enumerate(zip(both, candidates, inner.unbind(), output.unbind(), strict=True)):
            if fast:
                of_hidden.copy_(onednn(h, weight))
            else:
                torch.mm(h, transposed, out=of_hidden)
            r, z = rz.add_(of_gates).sigmoid_().chunk(2, -1)
            n.addcmul_(r, torch.add(of_candidate, bias, out=u)).tanh_()
            h = torch.lerp(n, h, z, out=after)
            unreal.clear_(t, h)
        ctx.unreal = unreal
        ctx.save_for_backward(gates, output, inner, hidden, weight)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gates, output, inner, hidden, weight = ctx.saved_tensors
        unreal: Unreal = ctx.unreal
        sums, of_n = torch.empty_like(gates), torch.empty_like(output)  # of U h + b, and of what tanh is taken of
        in_turn = (gradient, inner, of_n, sums, *gates.chunk(3, -1), *sums.chunk(3, -1))
        steps = list(zip(*(it.unbind() for it in in_turn), strict=True))
        earlier = [hidden, *output.unbind()]
        of_h, v = torch.zeros_like(hidden), torch.empty_like(hidden)
        fast = pays(hidden, weight)
        for t in reversed(range(len(steps))):
            of_y, u, of_candidate, of_sum, r, z, n, of_r, of_z, of_u = steps[t]
            of_h += of_y
            unreal.clear_(t, of_h)
            kept = of_h * z
            of_h -= kept
            torch.addcmul(of_h, of_h, torch.mul(n, n, out=v), value=-1, out=of_candidate)
            torch.sub(earlier[t], n, out=v).mul_(kept)
            torch.addcmul(v, v, z, value=-1, out=of_z)
            torch.mul(of_candidate, r, out=of_u)
            torch.mul(of_u, u, out=v)
            torch.addcmul(v, v, r, value=-1, out=of_r)
            of_h = kept.add_(onednn(of_sum, weight.t())) if fast else kept.addmm_(of_sum, weight)
        of_weight = summed(sums[1:].flatten(0, 1), output[:-1].flatten(0, 1))
        of_weight.addmm_(sums[0].t(), hidden)
        of_bias = sums[..., 2 * hidden.shape[-1] :].sum((0, 1))
        sums[..., 2 * hidden.shape[-1] :] = of_n
        return sums, of_h, of_weight, of_bias, None
