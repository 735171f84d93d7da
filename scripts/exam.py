"""Sit the exam: train on every memory task, with several seeds, and say in a table which were passed.

python scripts/exam.py outputs/exam --jobs 2

Each run is that of `experiment=<task>`, evaluated on 200 fresh episodes and once more with memory zeroed at every step.
Runs that are finished are not done again; one that was interrupted goes on.
"""

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """What a task is passed with, what is reached without memory, and what it needs beside seqrl."""

    passed_with: float
    memoryless: float
    extra: str | None = None


TASKS = {
    "masked_cartpole": Task(475, 50),
    "repeat_previous": Task(0.98, -0.49, "popgym"),
    "repeat_first": Task(0.97, -0.50, "popgym"),
    "tmaze": Task(0.95, 0.5),
    "noisy_cartpole": Task(0.95, 0.26, "popgym"),
}
NETWORKS = ["lstm", "attention"]


@dataclass(frozen=True)
class Sitting:
    """One run of the exam."""

    task: str
    network: str
    seed: int

    def folder(self, exam: Path) -> Path:
        return exam / self.task / f"{self.network}_s{self.seed}"

    def manifest(self, exam: Path) -> dict[str, Any] | None:
        """What the run left behind, if it is finished."""
        path = self.folder(exam) / "manifest.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found if found.get("status") == "finished" else None

    def train(self, exam: Path) -> None:
        folder = self.folder(exam)
        words = [f"experiment={self.task}", f"network={self.network}", f"seed={self.seed}"]
        words += ["evaluation.memoryless_control=true", f"hydra.run.dir='{folder}'"]
        if list(folder.glob("checkpoints/*.json")):
            words = [f"resume={folder}"]
        done = subprocess.run([sys.executable, "-m", "seqrl.train", *words], capture_output=True, text=True)
        said = done.stderr.strip().splitlines()[-1:] or ["finished"]
        print(f"{self.task} {self.network} seed {self.seed}: {said[0]}", flush=True)


def table(exam: Path, tasks: list[str], seeds: int) -> str:
    """Results as a Markdown table."""
    lines = [
        "| task | network | runs | median (worst to best) | memory zeroed | passed with | steps | seconds | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task in tasks:
        for network in NETWORKS:
            found = [Sitting(task, network, seed).manifest(exam) for seed in range(seeds)]
            runs = [manifest for manifest in found if manifest]
            if not runs:
                continue
            results = sorted(run["result"] for run in runs)
            median = statistics.median(results)
            zeroed = statistics.median(run["evaluation_return_without_memory"] for run in runs)
            verdict = "passed" if median >= TASKS[task].passed_with else "**not passed**"
            spread = f"{figure(median)} ({figure(results[0])} to {figure(results[-1])})"
            lines.append(
                f"| {task} | {network} | {len(runs)} | {spread} "
                f"| {figure(zeroed)} | {TASKS[task].passed_with:g} | {runs[0]['env_steps']:,} "
                f"| {statistics.median(run['seconds'] for run in runs):.0f} | {verdict} |"
            )
    return "\n".join(lines)


def figure(number: float) -> str:
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs go, such as outputs/exam")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--seeds", type=int, default=5, help="runs of each task and network (5)")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (1)")
    given = parser.parse_args()
    sittings = [Sitting(t, n, s) for t in given.tasks for s in range(given.seeds) for n in NETWORKS]
    missing = [sitting for sitting in sittings if sitting.manifest(given.folder) is None]
    with ThreadPoolExecutor(given.jobs) as side_by_side:
        list(side_by_side.map(lambda sitting: sitting.train(given.folder), missing))
    print(table(given.folder, given.tasks, given.seeds))


if __name__ == "__main__":
    main()
