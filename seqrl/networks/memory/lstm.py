"""Long short-term memory."""

import torch
from torch import Tensor, nn

from seqrl.networks.memory.base import Block, chrono, spread
from seqrl.types import State

# Added to a gate before the sigmoid: negative enough for a result of exactly 0, even in bfloat16.
CLOSED = -1e4


class LSTM(Block):
    """Long short-term memory, with resets inside the fused kernel.

    An extra input, 1 at unreal steps and 0 elsewhere, closes the input, forget and output gates: sigmoid(-10^4) is
    exactly 0, so cell and output become exactly 0 there and no gradient passes. Its weights are constant; they are
    neither trained nor saved.

        i, f, o = σ(W x + U h + b), one each
        g = tanh(W_g x + U_g h + b_g)
        c' = f ⊙ c + i ⊙ g
        h' = o ⊙ tanh(c')

    Half of the units begin with a forget bias of 1, and forget within a few steps. The others keep memories for 1 to
    128 steps: no gradient reaches back further than some unit remembers.

    Source: Hochreiter & Schmidhuber (1997); forget gate: Gers et al. (2000); its bias of 1: Jozefowicz et al. (2015);
    longer memories: Tallec & Ollivier (2018).
    """

    no_bias: Tensor
    close_gates: Tensor

    def __init__(self, input_size: int, size: int, forget_bias: float = 1.0) -> None:
        super().__init__()
        self.size = self.output_size = size
        # Rows of the four gates, in torch's order: input, forget, cell, output.
        self.weight_input = nn.Parameter(torch.empty(4 * size, input_size))
        self.weight_hidden = nn.Parameter(torch.empty(4 * size, size))
        self.bias = nn.Parameter(torch.zeros(4 * size))
        nn.init.orthogonal_(self.weight_input)
        nn.init.orthogonal_(self.weight_hidden)
        nn.init.constant_(self.bias[size : 2 * size].detach(), forget_bias)
        self._remember(spread(size // 2))
        # torch requires two biases; one is enough.
        self.register_buffer("no_bias", torch.zeros(4 * size), persistent=False)
        column = torch.tensor([CLOSED, CLOSED, 0.0, CLOSED]).repeat_interleave(size).unsqueeze(1)
        self.register_buffer("close_gates", column, persistent=False)

    def expect(self, horizon: int) -> None:
        self._remember(chrono(self.size, horizon))

    @torch.no_grad()
    def _remember(self, forget: Tensor) -> None:
        """Begin with these biases of the forget gate in as many units, and their negatives of the input gate."""
        # To negate what has a size alone, torch would import its compiler, for seconds.
        if not forget.is_meta:
            write, keep, _, _ = self.bias.chunk(4)
            write[: len(forget)], keep[: len(forget)] = -forget, forget

    def initial_state(self, batch_size: int) -> State:
        zeros = self.bias.new_zeros(batch_size, self.size)
        return {"hidden": zeros, "cell": zeros}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        before = (state["hidden"], state["cell"])
        hidden, cell = torch.lstm_cell(x, before, self.weight_input, self.weight_hidden, self.bias, self.no_bias)
        return hidden, {"hidden": hidden, "cell": cell}

    def unroll(self, x: Tensor, state: State, mask: Tensor) -> Tensor:
        unreal = (~mask).to(x.dtype).unsqueeze(-1)
        weights = [torch.cat([self.weight_input, self.close_gates], 1), self.weight_hidden, self.bias, self.no_bias]
        before = (state["hidden"].unsqueeze(0), state["cell"].unsqueeze(0))
        output: Tensor = torch.lstm(
            torch.cat([x, unreal], -1),
            before,
            weights,
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=self.training,
            bidirectional=False,
            batch_first=False,
        )[0]
        return output
