"""Where the scalars of a run go. Each library is imported only when a run starts logging to it."""

from seqrl.loggers.base import SCALARS, About, Logger, Row, adopted
from seqrl.loggers.csv import Csv
from seqrl.loggers.jsonl import Jsonl
from seqrl.loggers.mlflow import Mlflow
from seqrl.loggers.tensorboard import TensorBoard
from seqrl.loggers.wandb import Wandb

__all__ = ["SCALARS", "About", "Csv", "Jsonl", "Logger", "Mlflow", "Row", "TensorBoard", "Wandb", "adopted"]
