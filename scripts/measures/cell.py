"""Speed of a memory cell alone, on one thread; prints thousands of steps per second as JSON.

python scripts/measures/cell.py '{"parallel": 64, "width": 128, "seconds": 3, "with": ["network=gru"]}'

acting: steps of `parallel` environments. learning: forward and backward through 128 steps of half of them, whose
episodes have 20 to 150 steps, laid end to end as in an update.
"""

import json
import sys
import time
from collections.abc import Callable

import torch
from kernel import STEPS, separated
from work import common_work

from seqrl.networks import Block


def rate(task: Callable[[], object], steps: int, seconds: float) -> float:
    """Thousands of steps per second of a task, after one that does not count."""
    task()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        task()
        done += steps
    return done / (time.perf_counter() - began) / 1000


def main() -> None:
    settings = json.loads(sys.argv[1])
    run = common_work({**settings, "late": False})
    torch.set_num_threads(1)
    (cell,) = run.algorithm.network.actor.memory.values()
    assert isinstance(cell, Block)
    parallel, width = settings["parallel"], settings["width"]
    rows, random = parallel // 2, torch.Generator().manual_seed(0)
    mask = separated(rows, random)
    x, gradient = (torch.randn(STEPS, rows, width, generator=random) for _ in range(2))
    observed = torch.randn(parallel, width, generator=random)
    state, weights = cell.initial_state(parallel), list(cell.parameters())
    x.requires_grad_()

    def act() -> None:
        nonlocal state
        with torch.inference_mode():
            state = cell.step(observed, state)[1]

    def learn() -> None:
        torch.autograd.grad(cell.unroll(x, cell.initial_state(rows), mask), [x, *weights], gradient)

    seconds = settings["seconds"] / 2
    print(json.dumps({"acting": rate(act, parallel, seconds), "learning": rate(learn, STEPS * rows, seconds)}))


if __name__ == "__main__":
    main()
