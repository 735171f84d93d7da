"""A network of your own: encoder, gated recurrent unit, heads."""

import torch
from torch import nn

from seqrl.networks import Block, Encoder, Network, Trunk


class GRU(Block):
    """Gated recurrent unit; resets happen inside the fused kernel.

    At an unreal step, the input is 0 and an extra input closes both gates: sigmoid(-10^4) is exactly 0, so the new
    memory is tanh(0) = 0, and no gradient passes.

    Source: Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder".
    """

    def __init__(self, input_size, size):
        super().__init__()
        self.output_size = size
        # Rows of two gates and the candidate, in torch's order: reset, update, new.
        self.weight_input = nn.Parameter(torch.empty(3 * size, input_size))
        self.weight_hidden = nn.Parameter(torch.empty(3 * size, size))
        self.bias = nn.Parameter(torch.zeros(3 * size))
        nn.init.orthogonal_(self.weight_input)
        nn.init.orthogonal_(self.weight_hidden)
        # No second bias for the input: memory would become this bias at an unreal step.
        self.register_buffer("no_bias", torch.zeros(3 * size), persistent=False)
        column = torch.tensor([-1e4, -1e4, 0.0]).repeat_interleave(size).unsqueeze(1)
        self.register_buffer("close_gates", column, persistent=False)

    def initial_state(self, batch_size):
        return {"hidden": self.bias.new_zeros(batch_size, self.output_size)}

    def step(self, x, state):
        hidden = torch.gru_cell(x, state["hidden"], self.weight_input, self.weight_hidden, self.no_bias, self.bias)
        return hidden, {"hidden": hidden}

    def unroll(self, x, state, mask):
        unreal = ~mask.unsqueeze(-1)
        x = torch.cat([x.masked_fill(unreal, 0), unreal.to(x.dtype)], -1)
        weights = [torch.cat([self.weight_input, self.close_gates], 1), self.weight_hidden, self.no_bias, self.bias]
        return torch.gru(x, state["hidden"].unsqueeze(0), weights, True, 1, 0.0, self.training, False, False)[0]


def gru_network(observation_space, action_space, width):
    trunk = Trunk(Encoder(observation_space, width), {"gru": GRU(width, width)})
    return Network(trunk, None, width, action_space)
