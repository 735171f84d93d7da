"""Several cells above one another."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seqrl.networks.layers import linear
from seqrl.networks.memory.base import Block
from seqrl.types import State


class Stack(Block):
    """Cells above one another, each of which adds to what it reads: x + gate ⊙ cell(norm(x)).

    The gates are learned, one for each feature, and begin at 1. Inputs of another width are brought to the width of the
    cells by a linear layer. Leaves of the State are named `layer.leaf`.

    make    makes a cell, of the width of its inputs and its own
    """

    def __init__(self, make: Callable[[int, int], Block], input_size: int, size: int, layers: int) -> None:
        super().__init__()
        self.output_size = size
        self.enter = nn.Identity() if input_size == size else linear(input_size, size, gain=1.0)
        self.cells = nn.ModuleList(make(size, size) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(layers))
        self.gates = nn.ParameterList(torch.ones(size) for _ in range(layers))

    def expect(self, horizon: int) -> None:
        for cell in self._cells():
            cell.expect(horizon)

    def initial_state(self, batch_size: int) -> State:
        return {
            f"{layer}.{name}": leaf
            for layer, cell in enumerate(self._cells())
            for name, leaf in cell.initial_state(batch_size).items()
        }

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        x, after = self.enter(x), {}
        for layer, (cell, norm, gate) in enumerate(zip(self._cells(), self.norms, self.gates, strict=True)):
            y, left = cell.step(norm(x), self._of(layer, state))
            x = x + gate * y
            after.update({f"{layer}.{name}": leaf for name, leaf in left.items()})
        return x, after

    def unroll(self, x: Tensor, state: State, mask: Tensor) -> Tensor:
        x = self.enter(x)
        for layer, (cell, norm, gate) in enumerate(zip(self._cells(), self.norms, self.gates, strict=True)):
            x = x + gate * cell.unroll(norm(x), self._of(layer, state), mask)
        return x

    def _cells(self) -> list[Block]:
        return list(self.cells)  # type: ignore[arg-type]  # ModuleList forgets what it holds

    def _of(self, layer: int, state: State) -> State:
        prefix = f"{layer}."
        return {name.removeprefix(prefix): leaf for name, leaf in state.items() if name.startswith(prefix)}
