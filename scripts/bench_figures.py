"""Plot the results of scripts/bench.py: steps per second by size, and the memory of an update.

python scripts/bench_figures.py outputs/bench docs

Reads bench.json from the first folder; writes speed_by_size.png and update_memory.png to the second.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ["#0b6e99", "#8a3ffc", "#a0522d"]
Points = list[tuple[float, float]]


def axes_of(count: int, ylabel: str) -> tuple[Any, list[Any]]:
    figure, grid = plt.subplots(1, count, figsize=(4.2 * count + 1, 3.2), dpi=150, squeeze=False)
    for axes in grid[0]:
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel(ylabel)
    return figure, list(grid[0])


def lines(axes: Any, named: dict[str, Points]) -> None:
    """Draw each line, with its name after its last point."""
    for colour, (name, points) in zip(COLOURS, named.items(), strict=False):
        axes.plot(*zip(*points, strict=True), "o-", color=colour, clip_on=False)
        axes.annotate(name, points[-1], xytext=(8, 0), textcoords="offset points", color=colour, va="center")
    axes.set_ylim(0)


def speed_by_size(results: dict[str, Any]) -> Any:
    named: dict[str, Points] = defaultdict(list)
    for name, turns in results.items():
        width, parallel = name.split(":")
        named[f"H = {width}"].append((int(parallel), turns["seqrl"][0]["steps_per_second"] / 1000))
    figure, (axes,) = axes_of(1, "thousand steps/s")
    lines(axes, named)
    sizes = [int(parallel) for parallel, _ in next(iter(named.values()))]
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("environments")
    return figure


def update_memory(results: dict[str, Any]) -> Any:
    by_steps: dict[str, Points] = defaultdict(list)
    by_episodes: Points = []
    for name, turns in results.items():
        panel, _, episode, bptt_length = name.split(":")
        measured = turns["seqrl"][0]
        if panel == "steps":
            label = f"bptt_length {bptt_length}" if int(bptt_length) else "whole episodes"
            by_steps[label].append((measured["steps"] / 1000, measured["megabytes"]))
        else:
            by_episodes.append((measured["steps"] / int(episode), measured["megabytes"]))
    figure, (left, right) = axes_of(2, "MB of an update")
    lines(left, by_steps)
    left.set_xlabel("thousand steps in a minibatch")
    lines(right, {"": by_episodes})
    right.set_xscale("log", base=2)
    right.set_xlabel("episodes in 8,192 steps")
    figure.tight_layout()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, help="folder of the benchmark, such as outputs/bench")
    parser.add_argument("pictures", type=Path, help="folder to write to, such as docs")
    given = parser.parse_args()
    path = given.measured / "bench.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    missing = [part for part in ("scale", "growth") if part not in results]
    if missing:
        parser.error(f"{path}: has no results for {' and '.join(missing)}. Run scripts/bench.py {given.measured} first")
    for name, figure in {
        "speed_by_size": speed_by_size(results["scale"]),
        "update_memory": update_memory(results["growth"]),
    }.items():
        figure.savefig(given.pictures / f"{name}.png", bbox_inches="tight")


if __name__ == "__main__":
    main()
