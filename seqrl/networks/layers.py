"""Layers of the encoder and the heads."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from seqrl.errors import ConfigError
from seqrl.machine import all_memory
from seqrl.networks.product import product

# A deviation smaller than this share of the mean is a rounding error.
ROUNDING = 1e-6


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        y = _tanh_(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        before: Tensor = torch.ops.aten.tanh_backward(gradient, y)
        return before


def _tanh_(x: Tensor) -> Tensor:
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def tanh_(x: Tensor) -> Tensor:
    """Hyperbolic tangent, in place: tanh(x) = 2σ(2x) - 1.

    On some processors a sigmoid is six times as fast as torch's tanh, and writing in place stays in the cache. Near 0
    the absolute error is a rounding error of 1.
    """
    y: Tensor = _Tanh.apply(x) if x.requires_grad else _tanh_(x)  # type: ignore[no-untyped-call]
    return y


class Tanh(nn.Module):
    """Hyperbolic tangent, written over the output of the layer before."""

    def forward(self, x: Tensor) -> Tensor:
        return tanh_(x)


class Linear(nn.Linear):
    """Linear layer that learns by way of `product`."""

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


class Output(Linear):
    """Linear layer whose outputs are as precise as its weights, whatever autocast does to its product."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(self.weight.dtype)


def linear(inputs: int, outputs: int, gain: float, kind: type[Linear] = Linear) -> Linear:
    """Linear layer with orthogonal weights of the given gain and zero bias."""
    with warnings.catch_warnings():
        # A part of an observation or an action may have no numbers.
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        layer = kind(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def output_layer(inputs: int, outputs: int) -> Linear:
    """The last layer of a head, whose outputs are small at first."""
    return linear(inputs, outputs, gain=0.01, kind=Output)


def insist_on_memory(inputs: int, outputs: int, what: str, remedy: str) -> None:
    """Raise ConfigError, with a remedy, if a linear layer could by far not be trained on this machine.

    what   needs that layer, at the beginning of a sentence
    """
    # In float32; a weight has a gradient and two moments.
    need, there = 4 * 4 * inputs * outputs, all_memory()
    if need > there:
        memory = f"at least {need / 1e9:,.0f} GB of memory, and this machine has {there / 1e9:,.0f}"
        raise ConfigError([f"env: {what}, for which the network needs {memory}. {remedy}"])


def hidden_layer(inputs: int, outputs: int) -> nn.Sequential:
    """Linear layer and hyperbolic tangent."""
    return nn.Sequential(linear(inputs, outputs, gain=2**0.5), Tanh())


def deviation(mean: Tensor, variance: Tensor) -> Tensor:
    """Standard deviation, but no less than rounding errors, relative to the mean: no unit of numbers is too small."""
    # The last term only keeps 0 / 0 away.
    floor = mean.abs() * ROUNDING + torch.finfo(variance.dtype).tiny ** 0.5
    return torch.maximum(variance.sqrt(), floor)
