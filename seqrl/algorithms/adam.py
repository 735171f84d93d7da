"""Adam without the imports of torch.optim's classes."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam


def laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient with the memory layout of its parameter.

    The kernel ignores strides, so it would read the wrong numbers of a gradient that is a slice of a larger tensor.
    """
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)


class Adam:
    """Adam, computed by torch's fused kernel.

    torch's own class imports torch's compiler, which takes a second at every start. States use its format.

    rates   how much faster than the rest each parameter learns; None: all alike

    Source: Kingma & Ba (2015), "Adam: a method for stochastic optimization"; ε: Huang et al. (2022), "The 37
    implementation details of proximal policy optimization".
    """

    def __init__(
        self, parameters: Iterable[Tensor], learning_rate: float, epsilon: float, rates: Iterable[float] | None = None
    ) -> None:
        self.parameters = list(parameters)
        self.learning_rate, self.epsilon = learning_rate, epsilon
        self.rates = [1.0] * len(self.parameters) if rates is None else list(rates)
        self.steps = [torch.zeros((), device=parameter.device) for parameter in self.parameters]
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        moved = [i for i, parameter in enumerate(self.parameters) if parameter.grad is not None]
        for rate in sorted({self.rates[i] for i in moved}):
            self._move([i for i in moved if self.rates[i] == rate], rate * self.learning_rate)

    def _move(self, moved: list[int], learning_rate: float) -> None:
        adam(
            [self.parameters[i] for i in moved],
            [laid_out(gradient, p) for i in moved if (gradient := (p := self.parameters[i]).grad) is not None],
            [self.means[i] for i in moved],
            [self.squares[i] for i in moved],
            [],
            [self.steps[i] for i in moved],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=0.0,
            eps=self.epsilon,
            maximize=False,
        )

    def zero_grad(self) -> None:
        """Free the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        states = zip(self.steps, self.means, self.squares, strict=True)
        return {
            "state": {
                i: {"step": step, "exp_avg": mean, "exp_avg_sq": square}
                for i, (step, mean, square) in enumerate(states)
            }
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises RuntimeError if the parameters have other shapes."""
        for i, saved in state["state"].items():
            self.steps[i].copy_(saved["step"])
            self.means[i].copy_(saved["exp_avg"])
            self.squares[i].copy_(saved["exp_avg_sq"])
