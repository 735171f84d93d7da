"""A memory cell of your own: a recurrent network whose units do not see each other."""

import torch
from torch import nn

from seqrl.networks import Block


class IndRNN(Block):
    """Independently recurrent network.

        h' = tanh(W x + u ⊙ h + b)

    Source: Li et al. (2018), "Independently recurrent neural network".
    """

    def __init__(self, input_size, size):
        super().__init__()
        self.output_size = size
        self.layer = nn.Linear(input_size, size)
        self.recurrent = nn.Parameter(torch.empty(size).uniform_(0, 1))

    def initial_state(self, batch_size):
        return {"hidden": self.recurrent.new_zeros(batch_size, self.output_size)}

    def step(self, x, state):
        hidden = torch.tanh(self.layer(x) + self.recurrent * state["hidden"])
        return hidden, {"hidden": hidden}
