"""Draw the learning curves of a sweep and print its results: one curve a network, median and range over seeds.

python -m seqrl.train -m experiment=masked_cartpole network=lstm,mlp 'seed=range(5)' hydra.sweep.dir=outputs/memory
python scripts/learning_curve.py outputs/memory docs/learning_curve.png
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from omegaconf import OmegaConf

mpl.use("Agg")
import matplotlib.pyplot as plt

LABELS = {"lstm": "LSTM", "attention": "LSTM + attention", "mlp": "memoryless"}
COLOURS = {"lstm": "#0b6e99", "attention": "#8a3ffc", "mlp": "#a0522d"}


@dataclass(frozen=True)
class Run:
    """A finished run: its network, mean training return after so many steps, and what evaluation found."""

    network: str
    env_steps: list[int]
    returns: list[float]
    result: float
    seconds: float


def read(folder: Path) -> Run:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row.get("rollout/return_mean") is not None]
    manifest = json.loads((folder / "manifest.json").read_text())
    return Run(
        network=OmegaConf.load(folder / "config.yaml").network.type,
        env_steps=[row["env_steps"] for row in rows],
        returns=[row["rollout/return_mean"] for row in rows],
        result=manifest["result"],
        seconds=manifest["seconds"],
    )


def table(runs: dict[str, list[Run]]) -> str:
    """Results as a Markdown table."""
    lines = [
        "| network | runs | mean return of the final policy: median (worst to best) | environment steps | seconds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for network, group in runs.items():
        results = sorted(run.result for run in group)
        steps = statistics.median(run.env_steps[-1] for run in group)
        seconds = statistics.median(run.seconds for run in group)
        lines.append(
            f"| {LABELS.get(network, network)} | {len(group)} | {statistics.median(results):.1f} "
            f"({results[0]:.1f} to {results[-1]:.1f}) | {steps:,.0f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def draw(runs: dict[str, list[Run]], picture: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=150)
    for network, group in runs.items():
        steps = np.linspace(0, min(run.env_steps[-1] for run in group), 200)
        curves = np.stack([np.interp(steps, run.env_steps, run.returns) for run in group])
        colour, label = COLOURS.get(network), LABELS.get(network, network)
        axes.fill_between(steps / 1000, curves.min(0), curves.max(0), color=colour, alpha=0.18, linewidth=0)
        axes.plot(steps / 1000, np.median(curves, 0), color=colour, linewidth=2)
        axes.annotate(
            label, (steps[-1] / 1000, np.median(curves, 0)[-1]), xytext=(6, 0), textcoords="offset points",
            color=colour, va="center", fontweight="bold",
        )  # fmt: skip
    axes.axhline(475, color="#888888", linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate("solved: 475", (0, 475), xytext=(4, 4), textcoords="offset points", color="#666666", fontsize=8)
    axes.set_xlabel("thousand environment steps")
    axes.set_ylabel("return of the last 100 episodes")
    count = min(len(group) for group in runs.values())
    axes.set_title(f"CartPole-v1 with hidden velocities, {count} seeds: median and range", loc="left", fontsize=10)
    axes.set_xlim(0, max(run.env_steps[-1] for group in runs.values() for run in group) / 1000)
    axes.set_ylim(0, 520)
    axes.spines[["top", "right"]].set_visible(False)
    # Names stand to the right of the axes.
    figure.savefig(picture, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of runs, such as outputs/memory")
    parser.add_argument("picture", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    runs: dict[str, list[Run]] = defaultdict(list)
    for manifest in sorted(arguments.sweep.glob("*/manifest.json")):
        status = json.loads(manifest.read_text())["status"]
        if status != "finished":
            print(f"left out: {manifest.parent} is {status}", file=sys.stderr)
            continue
        run = read(manifest.parent)
        runs[run.network].append(run)
    if not runs:
        parser.error(f"{arguments.sweep}: holds no finished runs")
    draw(runs, arguments.picture)
    print(table(runs))


if __name__ == "__main__":
    main()
