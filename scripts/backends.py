"""Measure how fast each backend plays an environment: python scripts/backends.py CartPole-v1 --parallel 16 64

Plays random actions, as the runner would; prints the median of three one-second measurements. Steps spent on a reset do
not count. This script defines two environments of its own, Computes-v0 and Waits-v0, which take 5 ms per step.
"""

import argparse
import statistics
import time
import warnings
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from seqrl.envs import EnvError, GymnasiumEnv

SECONDS = 0.005


class Waits(gymnasium.Env[Any, Any]):
    """Sleeps during every step, as if waiting for an external simulator."""

    observation_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (4,))
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.clock = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.spend()
        self.clock += 1
        return np.zeros(4, np.float32), 1.0, self.clock == 100, False, {}

    def spend(self) -> None:
        time.sleep(SECONDS)


class Computes(Waits):
    """Keeps a core busy during every step."""

    def spend(self) -> None:
        until = time.process_time() + SECONDS
        while time.process_time() < until:
            pass


gymnasium.register("Waits-v0", f"{__name__}:Waits")
gymnasium.register("Computes-v0", f"{__name__}:Computes")


def steps_per_second(id: str, backend: str, parallel: int) -> float:
    with closing(GymnasiumEnv(id, parallel, seed=0, backend=backend)) as env:
        actions = batch_space(env.action_space, parallel)
        actions.seed(0)
        samples = [torch.from_numpy(actions.sample()) for _ in range(64)]
        env.reset()
        rates = []
        for _ in range(3):
            began, steps, calls = time.perf_counter(), 0, 0
            while time.perf_counter() - began < 1:
                step = env.step(samples[calls % len(samples)])
                steps, calls = steps + int(step.valid.sum()), calls + 1
                ended = step.terminated | step.truncated
                if ended.any():
                    env.reset(ended)
            rates.append(steps / (time.perf_counter() - began))
    return statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="+", help="such as CartPole-v1, Computes-v0, Waits-v0, Pong-v5")
    parser.add_argument("--parallel", type=int, nargs="+", default=[64], help="environments stepped side by side")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"{'steps/s':14} {'parallel':>8} {'vector':>10} {'sync':>10} {'async':>10} {'envpool':>10}")
    for id in arguments.ids:
        for parallel in arguments.parallel:
            line = f"{id:14} {parallel:8}"
            for backend in ("vector", "sync", "async", "envpool"):
                try:
                    line += f" {steps_per_second(id, backend, parallel):10,.0f}"
                except EnvError:
                    line += f" {'-':>10}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
