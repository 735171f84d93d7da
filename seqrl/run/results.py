"""Statistics of the episodes played, and the verdict on memory."""

from itertools import zip_longest
from typing import Any

import numpy as np
from torch import Tensor

from seqrl.run.evaluator import GREEDY, SAMPLED, WITHOUT_MEMORY
from seqrl.statistics import Array, Estimate, mean
from seqrl.text import figure

NAMES = {GREEDY: "likeliest actions", SAMPLED: "sampled actions", WITHOUT_MEMORY: "memory zeroed"}
# Of the columns of a table, in characters, at least.
WIDTHS = (18, 9, 20, 9, 9, 9, 9)
# With fewer episodes, an interval means nothing.
FEWEST = 10


def results(played: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Statistics of episodes, by how they were played, and how much return memory is worth in them."""
    measured: dict[str, Any] = {
        how: figures(returns.numpy(), lengths.numpy()) for how, (returns, lengths) in played.items()
    }
    if WITHOUT_MEMORY in played:
        returns, zeroed = (played[how][0].numpy() for how in (next(iter(played)), WITHOUT_MEMORY))
        measured["memory"] = memory(returns, zeroed)
    return measured


def figures(returns: Array, lengths: Array) -> dict[str, Any]:
    """Statistics of some episodes, and the return and length of each."""
    return {
        "return_mean": float(returns.mean()),
        "return_interval": ends(mean(returns)),
        "return_std": float(returns.std()),
        "return_median": float(np.median(returns)),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "length_mean": float(lengths.mean()),
        "length_interval": ends(mean(lengths)),
        "returns": returns.tolist(),
        "lengths": lengths.tolist(),
    }


def memory(returns: Array, zeroed: Array) -> dict[str, Any]:
    """How much return zeroing the memory costs, over pairs of episodes that begin alike: both arguments [episodes]."""
    lost = mean(returns - zeroed)
    return {"return_lost": float(lost.value), "interval": ends(lost), "episodes": len(returns)}


def verdict(return_lost: float, interval: list[float] | None, episodes: int) -> str:
    """Whether memory is used."""
    if interval is None or episodes < FEWEST:
        return f"{counted(episodes)} cannot show whether memory is used. Play more, such as episodes=200."
    low, high = interval
    if low <= 0 <= high:
        return f"No sign that memory is used: zeroing it costs {figure(return_lost)} ({span(interval)}) of return."
    if low > 0:
        return f"Memory is used: zeroing it costs {figure(return_lost)} ({span(interval)}) of return."
    return f"Memory hurts: zeroing it gains {figure(-return_lost)} ({span([-high, -low])}) of return."


def table(measured: dict[str, dict[str, Any]]) -> str:
    """A line for each way of playing."""
    rows = [["", "return", "95 % interval", "median", "min", "max", "length"]]
    for how, name in NAMES.items():
        if (statistics := measured.get(how)) is None:
            continue
        shown = [figure(statistics[key]) for key in ("return_median", "return_min", "return_max", "length_mean")]
        rows.append([name, figure(statistics["return_mean"]), span(statistics["return_interval"]), *shown])
        rows += [[f"  {told}", figure(number)] for told, number in statistics.get("info", {}).items()]
    # With a blank between two columns at least.
    columns = zip(WIDTHS, zip_longest(*rows, fillvalue=""), strict=True)
    widths = [max(least, *(len(cell) + 1 for cell in cells)) for least, cells in columns]
    lines = [f"{name:{widths[0]}}" + "".join(map(str.rjust, cells, widths[1:])) for name, *cells in rows]
    return "\n".join([*lines, ""])


def ends(estimate: Estimate) -> list[float] | None:
    """Ends of the interval of an estimate; None if it has none."""
    return None if np.isnan(estimate.low) else [float(estimate.low), float(estimate.high)]


def span(interval: list[float] | None) -> str:
    return "" if interval is None else " to ".join(map(figure, interval))


def counted(episodes: int) -> str:
    return f"{episodes} episode{'s' if episodes != 1 else ''}"
