"""What there is to say of the episodes that were played."""

from typing import Any

import numpy as np
from torch import Tensor

from seqrl.runs.evaluator import GREEDY, SAMPLED, WITHOUT_MEMORY
from seqrl.statistics import Array, Estimate, mean
from seqrl.text import figure

NAMES = {GREEDY: "likeliest actions", SAMPLED: "sampled actions", WITHOUT_MEMORY: "memory zeroed"}
# With fewer episodes an interval says nothing.
FEWEST = 10


def results(played: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """What there is to say of episodes, by how they were played, and of what memory is worth in them."""
    found: dict[str, Any] = {how: figures(*(it.numpy() for it in episodes)) for how, episodes in played.items()}
    if WITHOUT_MEMORY in played:
        returns, zeroed = (played[how][0].numpy() for how in (next(iter(played)), WITHOUT_MEMORY))
        found["memory"] = memory(returns, zeroed)
    return found


def figures(returns: Array, lengths: Array) -> dict[str, Any]:
    """Of some episodes, and each of them."""
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
    """How much return is lost [episodes] where memory is zeroed, in episodes that begin alike."""
    lost = mean(returns - zeroed)
    return {"return_lost": float(lost.value), "interval": ends(lost), "episodes": len(returns)}


def verdict(return_lost: float, interval: list[float] | None, episodes: int) -> str:
    """Whether memory is used."""
    if interval is None or episodes < FEWEST:
        return f"Whether memory is used cannot be told from {counted(episodes)}. Play more of them, episodes=200."
    low, high = interval
    if low <= 0 <= high:
        return (
            f"That memory is used cannot be seen: zeroing it costs {figure(return_lost)} ({span(interval)}) of return."
        )
    if low > 0:
        return f"Memory is used: zeroing it costs {figure(return_lost)} ({span(interval)}) of return."
    return f"Memory does harm: zeroing it gains {figure(-return_lost)} ({span([-high, -low])}) of return."


def table(found: dict[str, dict[str, Any]]) -> str:
    """A line for each way of playing."""
    lines = [f"{'':18}{'return':>9}{'95 % interval':>20}{'median':>9}{'min':>9}{'max':>9}{'length':>9}"]
    for how, name in NAMES.items():
        if (it := found.get(how)) is None:
            continue
        shown = [figure(it[key]) for key in ("return_median", "return_min", "return_max", "length_mean")]
        columns = "".join(f"{number:>9}" for number in shown)
        lines.append(f"{name:18}{figure(it['return_mean']):>9}{span(it['return_interval']):>20}{columns}")
    return "\n".join([*lines, ""])


def ends(estimate: Estimate) -> list[float] | None:
    """Of its interval; None where it has none."""
    return None if np.isnan(estimate.low) else [float(estimate.low), float(estimate.high)]


def span(interval: list[float] | None) -> str:
    return "" if interval is None else " to ".join(map(figure, interval))


def counted(episodes: int) -> str:
    return f"{episodes} episode{'s' if episodes != 1 else ''}"
