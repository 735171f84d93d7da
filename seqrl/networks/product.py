"""Products with weights while learning: oneDNN's, on processors on which torch's own are slow."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from seqrl.machine import processor

# Multiplications from which on oneDNN is faster: for one product alone, and for a layer, whose three products are an
# autograd function of Python's, and leave some rows to torch.
ENOUGH, ENOUGH_FOR_A_LAYER = 2**20, 2**22
# AMD's number for Zen 5, the first of its processors that multiply with all of AVX-512 at once.
ZEN_5 = 26


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer, x Wᵀ + b, as torch's: where a gradient is wanted, by the faster of two libraries.

    The choice depends on shapes and the machine alone, so that a run repeats bit for bit.

    x         [..., I]
    weight    [O, I]
    bias      [O], or None
    returns   [..., O]
    """
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if wanted and pays(x, weight, ENOUGH_FOR_A_LAYER):
        y: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return y
    return nn.functional.linear(x, weight, bias)


def summed(gradient: Tensor, x: Tensor) -> Tensor:
    """Gradient [O, I] of a weight: the sum over M steps of outer products of gradient [M, O] and x [M, I]."""
    # A gradient of a gradient needs operations that torch can differentiate.
    if torch.is_grad_enabled() or not pays(x, gradient.t(), ENOUGH_FOR_A_LAYER):
        return gradient.t() @ x
    most = recurring_rows(len(x))
    return onednn(gradient[:most].t(), x[:most].t()).addmm_(gradient[most:].t(), x[most:])


def pays(x: Tensor, weight: Tensor, enough: int = ENOUGH) -> bool:
    """Whether oneDNN multiplies x [..., I] with a weight [O, I] faster than torch does."""
    return (
        x.numel() * len(weight) >= enough
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and onednn_is_faster()
    )


@cache
def onednn_is_faster() -> bool:
    """Whether this processor is one on which oneDNN's products are twice as fast as torch's own, which are MKL's.

    MKL leaves half of each register unused on AMD's. On others, and on older ones, nothing was measured.
    """
    is_there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    told = processor()
    is_new = told.get("vendor_id") == "AuthenticAMD" and int(told.get("cpu family", 0)) >= ZEN_5
    return is_there and is_new and torch.backends.cpu.get_cpu_capability() == "AVX512"


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b [M, O], without a gradient; x [M, I], weight [O, I]."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def recurring_rows(rows: int) -> int:
    """Round `rows` down to one of sixteen numbers in each octave.

    oneDNN makes a kernel for each new shape, which takes as long as a product, and the steps of a minibatch are hardly
    ever as many as before.
    """
    step = 1 << max(0, rows.bit_length() - 5)
    return rows - rows % step


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = _row_by_row(_flat(x), weight.contiguous(), bias)
        # As no view, because what follows may write over it.
        unflattened: Tensor = torch.ops.aten._unsafe_view(y, [*x.shape[:-1], len(weight)])
        return unflattened

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        gradient = _flat(gradient)
        return (
            _row_by_row(gradient, weight.t()).view(x.shape) if of_x else None,
            summed(gradient, _flat(x)) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


def _row_by_row(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if torch.is_grad_enabled():
        return nn.functional.linear(x, weight, bias)
    most = recurring_rows(len(x))
    y = onednn(x[:most], weight, bias)
    return y if most == len(x) else torch.cat([y, nn.functional.linear(x[most:], weight, bias)])


def _flat(x: Tensor) -> Tensor:
    """[M, I], contiguous."""
    return x.reshape(-1, x.shape[-1]).contiguous()
