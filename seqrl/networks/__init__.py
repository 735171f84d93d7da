"""Networks that remember: encoder -> memory blocks -> heads."""

from seqrl.networks.cuda_graph import Graphed
from seqrl.networks.encoder import Encoder
from seqrl.networks.heads import Distribution
from seqrl.networks.memory.attention import Attention
from seqrl.networks.memory.base import Block
from seqrl.networks.memory.gru import GRU
from seqrl.networks.memory.gtrxl import GTrXL
from seqrl.networks.memory.lstm import LSTM
from seqrl.networks.memory.matrix import Matrix
from seqrl.networks.memory.mingru import MinGRU
from seqrl.networks.memory.stack import Stack
from seqrl.networks.network import Network, Trunk, insist_on_rows, recurrent_network

__all__ = [
    "GRU", "LSTM", "Attention", "Block", "Distribution", "Encoder", "GTrXL", "Graphed", "Matrix", "MinGRU", "Network",
    "Stack", "Trunk", "insist_on_rows", "recurrent_network",
]  # fmt: skip
