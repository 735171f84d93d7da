"""Memory blocks, which a network applies in turn between its encoder and its heads; one file each."""

from seqrl.networks.memory.attention import Attention
from seqrl.networks.memory.base import Block
from seqrl.networks.memory.gru import GRU
from seqrl.networks.memory.gtrxl import GTrXL
from seqrl.networks.memory.lstm import LSTM
from seqrl.networks.memory.matrix import Matrix
from seqrl.networks.memory.mingru import MinGRU
from seqrl.networks.memory.stack import Stack

__all__ = ["GRU", "LSTM", "Attention", "Block", "GTrXL", "Matrix", "MinGRU", "Stack"]
