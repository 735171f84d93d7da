"""Measure the memory of an update for several values of bptt_length: 100 environments, whole episodes of 500 steps.

python scripts/memory_table.py

Prints a Markdown table. Each row is measured in a process of its own: how much its resident memory grows while it
learns from one rollout, with one minibatch per epoch, and the memory of the rollout itself.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from seqrl.algorithms.ppo import SequencePPOAlgorithm
from seqrl.envs import BatchedEnv
from seqrl.machine import forget_peak_memory, peak_memory_mb
from seqrl.networks import recurrent_network
from seqrl.run.memory_need import footprint
from seqrl.runner import Runner
from seqrl.types import Step

PARALLEL, LENGTH = 100, 500
ROWS = [(0, None), (50, None), (20, None), (10, None), (0, 2000)]


class Noise(BatchedEnv):
    """Environments whose observations are noise, for LENGTH steps."""

    batch_size = PARALLEL
    observation_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (8,))
    action_space: spaces.Space[Any] = spaces.Discrete(4)

    def reset(self, where: Tensor | None = None) -> Tensor:
        self.clock = 0
        return torch.rand(PARALLEL, 8)

    def step(self, action: Tensor) -> Step:
        self.clock += 1
        never = torch.zeros(PARALLEL, dtype=torch.bool)
        ended = torch.full_like(never, self.clock >= LENGTH)
        return Step(torch.rand(PARALLEL, 8), torch.rand(PARALLEL), ended, never, ~never)

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True)
class Measured:
    """Cost of one update with some setting."""

    steps_at_once: int
    expected_mb: float
    update_mb: float
    rollout_mb: float
    seconds: float


def make_algorithm(env: BatchedEnv, bptt_length: int, max_tokens: int | None, hidden_size: int) -> SequencePPOAlgorithm:
    network = recurrent_network(
        env.observation_space,
        env.action_space,
        use_lstm=True,
        use_attention=False,
        hidden_size=hidden_size,
        lstm_hidden_size=hidden_size,
        window=0,
        heads=1,
        separate_critic=False,
    )
    return SequencePPOAlgorithm(
        network,
        np.random.default_rng(0),
        clip_range=0.2,
        target_kl=None,
        learning_rate=1e-3,
        gamma=0.99,
        gae_lambda=0.95,
        epochs=1,
        minibatches=1,
        entropy_coefficient=0.01,
        value_coefficient=0.5,
        normalize_advantage="batch",
        normalize_value=True,
        normalize_reward=False,
        anneal=[],
        grad_clip_norm=5.0,
        bptt_length=bptt_length,
        stale_state="keep",
        burn_in=1,
        gradient_parts=1,
        max_tokens_per_batch=max_tokens,
    )


def measure(bptt_length: int, max_tokens: int | None, hidden_size: int) -> Measured:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    env = Noise()
    algorithm = make_algorithm(env, bptt_length, max_tokens, hidden_size)
    empty = peak_memory_mb()
    rollout = Runner(env, algorithm.network, 0, bptt_length, torch.Generator().manual_seed(0)).collect()
    need = footprint(algorithm, rollout, PARALLEL)
    forget_peak_memory()
    before = peak_memory_mb()
    began = time.perf_counter()
    algorithm.update(rollout, 0.0)
    seconds = time.perf_counter() - began
    return Measured(need.steps, need.megabytes, peak_memory_mb() - before, before - empty, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=128, help="width of the encoder and the LSTM (default: 128)")
    width = parser.parse_args().hidden_size
    print("| bptt_length | max_tokens_per_batch | steps at once | update, MB | expected, MB | rollout, MB | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for bptt_length, max_tokens in ROWS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            cost = alone.submit(measure, bptt_length, max_tokens, width).result()
        print(
            f"| {bptt_length} | {max_tokens or 'null'} | {cost.steps_at_once:,} | {cost.update_mb:,.0f} | "
            f"{cost.expected_mb:,.0f} | {cost.rollout_mb:,.0f} | {cost.seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
