"""The common work of scripts/bench.py with seqrl, in this process; prints the measurements as JSON.

python scripts/measures/work.py '{"parallel": 64, "width": 128, "late": false, "seconds": 10}'

"with" may list more overrides, which are applied last. "floor" is the share of the time that the matrix products of all
steps alone would take, acting once and learning in each epoch, at the speed of a large product on all cores.
"""

import json
import sys
import time
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from seqrl.config.paths import CONF
from seqrl.envs import CartPole
from seqrl.machine import cores, peak_memory_mb
from seqrl.run.build import build, constructor
from seqrl.run.run import Run
from seqrl.types import Step


class Steady(CartPole):
    """A cart-pole that ignores falls: all episodes have the same length, as with a trained policy."""

    def step(self, action: torch.Tensor) -> Step:
        step = super().step(action)
        self._state = self._state.clamp(-4.8, 4.8)
        return Step(step.observation, step.reward, torch.zeros_like(step.terminated), step.truncated, step.valid)


def common_work(work: dict[str, Any]) -> Run:
    """A run that does the common work."""
    overrides = ["env=masked_cartpole", "network=lstm", "sequence=full", "episodes=1000000000", "rollout_length=128"]
    overrides += [f"parallel={work['parallel']}"]
    overrides += [f"network.hidden_size={work['width']}", f"network.lstm_hidden_size={work['width']}"]
    overrides += ["algorithm.epochs=4", "algorithm.minibatches=4", "sequence_learning.grad_clip_norm=0.5"]
    # Almost zero, so that early stays early: the policy stays as random as it starts.
    overrides += ["algorithm.learning_rate=1e-9"]
    if work["late"]:
        overrides += ["env._target_=work.Steady"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", [*overrides, *work.get("with", [])])
    device = constructor(cfg.device)()
    device.prepare()
    return build(cfg, device)


def products(run: Run) -> float:
    """Floating-point operations of a step in products with weights: acting, and in each epoch forward and backward."""
    weights = sum(it.numel() for it in run.algorithm.parameters.values() if it.ndim == 2)
    # A product, and two for the gradients of its factors; each is a multiplication and an addition.
    return 2.0 * weights * (1 + 3 * run.algorithm.settings.epochs)


def reached(seconds: float = 1.0) -> float:
    """Floating-point operations per second of products of large matrices, on all cores."""
    threads, size = torch.get_num_threads(), 1024
    one, other = torch.randn(size, size), torch.randn(size, size)
    torch.set_num_threads(cores())
    for _ in range(5):
        one @ other
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        one @ other
        done += 1
    speed = done * 2 * size**3 / (time.perf_counter() - began)
    torch.set_num_threads(threads)
    return speed


def main() -> None:
    work = json.loads(sys.argv[1])
    run = common_work(work)
    run.iterate()
    run.clock = type(run.clock)()
    steps, began = run.budget.steps, time.perf_counter()
    while time.perf_counter() - began < work["seconds"]:
        run.iterate()
    speed = (run.budget.steps - steps) / run.clock.elapsed
    measured = {
        "steps_per_second": speed,
        "floor": speed * products(run) / reached(),
        "collecting": 1 - run.clock.shares["update"],
        "idle": run.clock.idle,
        "peak_mb": peak_memory_mb(),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
