"""Seconds that ranks of this machine take to exchange the gradient of a minibatch; prints them as JSON.

python scripts/measures/exchange.py '{"processes": 2, "width": 128, "seconds": 2}'
"""

import json
import sys
import time
from functools import partial

import torch
from work import common_work

from seqrl.ranks import Ranks
from seqrl.ranks.start import Place, assembled, be_quiet, joined


def exchange(ranks: Ranks, numbers: int, times: int) -> float:
    """Seconds of one swap of so many float32 numbers with another rank, and of their sum."""
    mine = torch.randn(numbers)
    began = time.perf_counter()
    for _ in range(times):
        mine + ranks.swapped(mine, ranks.rank ^ 1)
    return (time.perf_counter() - began) / times


def follow(numbers: int, times: int, place: Place) -> None:
    be_quiet(place)
    with joined(place) as ranks:
        exchange(ranks, numbers, times)
        exchange(ranks, numbers, times)


def main() -> None:
    settings = json.loads(sys.argv[1])
    run = common_work({"parallel": 4, "late": False, **settings})
    numbers, times = sum(it.numel() for it in run.algorithm.parameters.values()), 200
    with assembled(settings["processes"], False, partial(follow, numbers, times)) as ranks:
        exchange(ranks, numbers, times)
        seconds = exchange(ranks, numbers, times)
    print(json.dumps({"milliseconds": 1e3 * seconds, "megabytes": 4 * numbers / 1e6}))


if __name__ == "__main__":
    main()
