"""Networks that remember: encoder -> memory blocks -> heads."""

from seqrl.networks.cuda_graph import Graphed
from seqrl.networks.encoder import Encoder
from seqrl.networks.heads import Distribution
from seqrl.networks.memory.attention import Attention
from seqrl.networks.memory.base import Block
from seqrl.networks.memory.lstm import LSTM
from seqrl.networks.network import Network, Trunk, recurrent_network

__all__ = ["LSTM", "Attention", "Block", "Distribution", "Encoder", "Graphed", "Network", "Trunk", "recurrent_network"]
