"""Run the exam: train on every memory task with several seeds, and print a table of which were passed.

python scripts/exam.py outputs/exam --jobs 2

One sweep: each run is `experiment=<task>`, evaluated on 200 fresh episodes and again with memory zeroed at every step.
Finished runs are not repeated; interrupted ones are resumed.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """The mean return that passes a task, and the best without memory."""

    passed_with: float
    memoryless: float


TASKS = {
    "masked_cartpole": Task(475, 50),
    "repeat_previous": Task(0.98, -0.49),
    "repeat_first": Task(0.97, -0.50),
    "tmaze": Task(0.95, 0.5),
    "noisy_cartpole": Task(0.95, 0.26),
}
NETWORKS = ["lstm", "attention"]


def sit(given: argparse.Namespace) -> int:
    """Train whatever is not trained yet; return the exit code of the sweep."""
    words = [f"experiment={','.join(given.tasks)}", f"network={','.join(given.networks)}", f"seed=range({given.seeds})"]
    words += ["evaluation.memoryless_control=true", f"sweep={given.folder}", *given.overrides]
    if given.jobs > 1:
        words += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={given.jobs}"]
    return subprocess.run([sys.executable, "-m", "seqrl.train", "-m", *words]).returncode


def finished(exam: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Manifests of the finished runs, by task and network."""
    manifests = defaultdict(list)
    for path in sorted(exam.glob("*/manifest.json")):
        manifest = json.loads(path.read_text())
        chosen = dict(override.split("=", 1) for override in manifest["overrides"])
        if manifest["status"] == "finished":
            manifests[chosen["experiment"], chosen["network"]].append(manifest)
    return manifests


def table(exam: Path, tasks: Sequence[str], networks: Sequence[str]) -> str:
    """Results as a Markdown table."""
    lines = [
        "| task | network | runs | median (worst to best) | memory zeroed | passed with | steps | seconds | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    manifests = finished(exam)
    for task, network in [(task, network) for task in tasks for network in networks if manifests[task, network]]:
        runs = manifests[task, network]
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
    parser.add_argument("folder", type=Path, help="folder of the runs, such as outputs/exam")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="lstm, attention")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each task and network (default: 5)")
    parser.add_argument("--jobs", type=int, default=1, help="runs in parallel (default: 1); needs seqrl[joblib]")
    parser.add_argument(
        "--with", dest="overrides", nargs="+", default=[], metavar="KEY=VALUE", help="overrides for every run"
    )
    given = parser.parse_args()
    code = sit(given)
    print(table(given.folder, given.tasks, given.networks))
    sys.exit(code)


if __name__ == "__main__":
    main()
