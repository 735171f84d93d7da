"""Speed of learning with the LSTM alone, against its matrix products; prints thousands of steps per second as JSON.

python scripts/measures/kernel.py '{"rows": 16, "width": 128, "seconds": 3}'

lstm: forward and backward through 128 steps of `rows` environments whose episodes have 20 to 150 steps, laid end to end
as in an update, split between two threads. floor: only the matrix products of all these steps, as six large ones, also
split between two threads.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from seqrl.networks.memory.lstm import LSTM

STEPS = 128
THREADS = 2


def separated(rows: int, random: torch.Generator) -> torch.Tensor:
    """Which steps [128, rows] are real: episodes end to end, with one unreal step between them."""
    mask = torch.ones(STEPS, rows, dtype=torch.bool)
    for row in range(rows):
        end = 0
        while (end := end + int(torch.randint(20, 151, (), generator=random))) < STEPS:
            mask[end, row] = False
            end += 1
    return mask


def rate(task: Callable[[int], None], steps: int, seconds: float) -> float:
    """Thousands of steps per second with every thread repeating its task, after half a second of warm-up."""

    def repeat(thread: int) -> float:
        begin = time.perf_counter() + 0.5
        done = 0
        while (now := time.perf_counter()) < begin + seconds:
            task(thread)
            done += now >= begin
        return done * steps / (time.perf_counter() - begin)

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(repeat, range(THREADS))) / 1000


def main() -> None:
    settings = json.loads(sys.argv[1])
    rows, width = settings["rows"] // THREADS, settings["width"]
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    lstm = LSTM(width, width)
    grids = [separated(rows, random) for _ in range(THREADS)]
    inputs = [torch.randn(STEPS, rows, width, generator=random).requires_grad_() for _ in range(THREADS)]
    gradient = torch.randn(STEPS, rows, width, generator=random)
    weights = list(lstm.parameters())

    def learn(thread: int) -> None:
        torch.set_num_threads(1)
        output = lstm.unroll(inputs[thread], lstm.initial_state(rows), grids[thread])
        torch.autograd.grad(output, [inputs[thread], *weights], gradient)

    x, gates = torch.randn(STEPS * rows, width), torch.randn(STEPS * rows, 4 * width)
    weight = torch.randn(width, 4 * width)

    def multiply(thread: int) -> None:
        torch.set_num_threads(1)
        for _ in ("input", "hidden"):
            x @ weight  # forward
            gates @ weight.T  # gradient of what comes in
            x.T @ gates  # gradient of the weights

    steps = STEPS * rows
    measured = {"lstm": rate(learn, steps, settings["seconds"]), "floor": rate(multiply, steps, settings["seconds"])}
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
