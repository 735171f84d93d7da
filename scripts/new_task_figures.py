"""Draw the curves of docs/new_task.md: each symptom, and the same curve after the change.

python scripts/new_task_figures.py outputs/new_task docs/new_task

Trains the runs into the first folder, those that are not there yet, some ten minutes of one core; writes a picture of
each symptom to the second. One seed each: they show what a symptom looks like, and prove nothing.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import seqrl

BEFORE, AFTER = "#a0522d", "#0b6e99"
RETURN = "rollout/return_mean"
COMMON = ["network=lstm", "seed=10", "evaluation.episodes=0", "device.threads=1", "algorithm.gradient_threads=1"]


class Symptom(NamedTuple):
    """A curve that says that something is wrong, and what mends it.

    scalar   the curve, and its name on the axis
    task     words that both runs share
    before   words of the run that shows the symptom
    after    words of the run without it
    """

    scalar: str
    task: list[str]
    before: list[str]
    after: list[str]


SYMPTOMS = {
    "budget": Symptom("rollout/return_mean", ["env=masked_cartpole"], ["total_steps=40000"], ["total_steps=150000"]),
    "entropy_gone": Symptom(
        "train/entropy",
        ["env=tmaze", "env.corridor_length=20", "total_steps=100000", "algorithm.learning_rate=0.01"],
        ["algorithm.entropy_coefficient=0"],
        ["algorithm.entropy_coefficient=0.05"],
    ),
    "entropy_stays": Symptom(
        "train/entropy",
        ["env=masked_cartpole", "total_steps=100000", "algorithm.anneal=[]"],
        ["algorithm.entropy_coefficient=1"],
        ["algorithm.entropy_coefficient=0.05"],
    ),
    "value": Symptom(
        "train/explained_variance",
        ["env=masked_pendulum", "total_steps=150000"],
        ["algorithm.gamma=0.5"],
        ["algorithm.gamma=0.99"],
    ),
    "steps_too_large": Symptom(
        "train/kl",
        ["env=masked_cartpole", "total_steps=100000"],
        ["algorithm.learning_rate=0.1"],
        ["algorithm.learning_rate=0.003"],
    ),
    "steps_too_small": Symptom(
        "train/clip_fraction",
        ["env=masked_cartpole", "total_steps=100000"],
        ["algorithm.learning_rate=0.0001"],
        ["algorithm.learning_rate=0.003"],
    ),
    "clipping": Symptom(
        "train/gradient_clipped",
        ["env=masked_cartpole", "total_steps=100000"],
        ["sequence_learning.grad_clip_norm=0.1"],
        ["sequence_learning.grad_clip_norm=5"],
    ),
    "cut": Symptom(
        "memory/gradient_cut",
        ["env=tmaze", "env.corridor_length=10", "total_steps=100000", "insight.interval=1"],
        ["sequence_learning.bptt_length=5"],
        ["sequence_learning.bptt_length=20"],
    ),
}


def rows_of(folder: Path, words: list[str]) -> list[dict[str, Any]]:
    """The scalars of a run, which is first trained or resumed, unless it is finished."""
    statuses = [run.status for run in seqrl.runs(folder)] if folder.exists() else []
    if not statuses:
        seqrl.learn(*COMMON, *words, f"hydra.run.dir={folder.resolve()}")
    elif statuses != ["finished"]:
        seqrl.learn(f"resume={folder}")
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def picture(symptom: Symptom, runs: Path) -> Figure:
    """The symptom's curve, and beside it the returns of the same two runs."""
    scalars = list(dict.fromkeys([symptom.scalar, RETURN]))
    figure, grid = plt.subplots(1, len(scalars), figsize=(4 * len(scalars), 2.4), dpi=110, squeeze=False)
    figure.set_layout_engine("constrained")
    for colour, name, words in ((BEFORE, "before", symptom.before), (AFTER, "after", symptom.after)):
        rows = rows_of(runs / name, [*symptom.task, *words])
        for axes, scalar in zip(grid[0], scalars, strict=True):
            points = [(row["env_steps"] / 1000, row[scalar]) for row in rows if scalar in row]
            axes.plot(*zip(*points, strict=True), color=colour, lw=1.5, label=" ".join(words))
    for axes, scalar in zip(grid[0], scalars, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(scalar, fontsize=9, loc="left")
        axes.set_xlabel("thousand steps", fontsize=8)
        axes.tick_params(labelsize=8)
    figure.legend(
        *grid[0][-1].get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8, frameon=False
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder for the runs")
    parser.add_argument("pictures", type=Path, help="folder for the pictures")
    given = parser.parse_args()
    given.pictures.mkdir(parents=True, exist_ok=True)
    for name, symptom in SYMPTOMS.items():
        picture(symptom, given.runs / name).savefig(given.pictures / f"{name}.png")


if __name__ == "__main__":
    main()
