"""Memory blocks, which a network applies in turn between its encoder and its heads; one file each."""

from seqrl.networks.memory.attention import Attention
from seqrl.networks.memory.base import Block
from seqrl.networks.memory.lstm import LSTM

__all__ = ["LSTM", "Attention", "Block"]
