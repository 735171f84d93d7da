"""Run the exam: train on every memory task with nothing given but its name, a network and a budget of steps.

python scripts/exam.py outputs/exam --jobs 2

A sweep for each task and network, in a folder of its own:
`python -m seqrl.train -m env=<task> network=<network> total_steps=<budget>` with several seeds. Each policy plays
200 fresh episodes, and again with memory zeroed at every step. Finished runs are not repeated; interrupted ones are
resumed. Then a table says which tasks were passed.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """One task of the exam.

    environment   words that name it
    steps         budget
    passed_with   median return that passes
    seeds         runs of each network
    networks      those that sit the exam; `mlp` has no memory
    """

    environment: str
    steps: int
    passed_with: float
    seeds: int = 5
    networks: tuple[str, ...] = ("lstm", "attention", "mlp")


TASKS = {
    "masked_cartpole": Task("env=masked_cartpole", 150_000, 475),
    "cartpole": Task("env.id=CartPole-v1", 150_000, 475),
    "masked_acrobot": Task("env=masked_acrobot", 500_000, -100),
    "masked_pendulum": Task("env=masked_pendulum", 300_000, -200),
    "pendulum": Task("env.id=Pendulum-v1", 200_000, -200),
    "pendulum_2000": Task("env=masked_pendulum +env.kwargs.max_episode_steps=2000", 500_000, -2000),
    "repeat_first": Task("env=repeat_first", 600_000, 0.97),
    "repeat_first_medium": Task("env=repeat_first env.decks=8", 3_000_000, 0.8, seeds=3),
    "repeat_previous": Task("env=repeat_previous", 500_000, 0.98),
    "repeat_previous_medium": Task("env=repeat_previous env.decks=2 env.k=32", 600_000, 0.95),
    "repeat_previous_hard": Task("env=repeat_previous env.decks=3 env.k=64", 900_000, 0.9),
    "tmaze_20": Task("env=tmaze env.corridor_length=20", 250_000, 0.95),
    "tmaze_100": Task("env=tmaze env.corridor_length=100", 1_000_000, 0.9),
    "memory_chain_1": Task("env=memory_chain env.length=1", 100_000, 0.95),
    "memory_chain_30": Task("env=memory_chain env.length=30", 200_000, 0.95),
    "memory_chain_100": Task("env=memory_chain env.length=100", 1_000_000, 0.9),
    "noisy_cartpole": Task("env=noisy_cartpole", 1_000_000, 0.90),
    "count_recall": Task("env=count_recall", 3_000_000, 0.3, seeds=3),
    "minigrid_memory": Task("env=minigrid", 3_000_000, 0.9, seeds=1, networks=("lstm", "attention")),
}
NETWORKS = ["lstm", "attention", "mlp"]


def sit(given: argparse.Namespace) -> int:
    """Train whatever is not trained yet, sweep by sweep; return the worst exit code of the sweeps."""
    pairs = [(name, network) for name in given.tasks for network in given.networks if network in TASKS[name].networks]
    return max((run_sweep(name, network, given) for name, network in pairs), default=0)


def run_sweep(name: str, network: str, given: argparse.Namespace) -> int:
    task = TASKS[name]
    last = given.first_seed + min(given.seeds, task.seeds)
    words = [*task.environment.split(), f"network={network}", f"seed=range({given.first_seed},{last})"]
    words += [
        f"total_steps={task.steps}",
        "evaluation.memoryless_control=true",
        f"sweep={given.folder / name / network}",
    ]
    words += given.overrides
    if given.jobs > 1:
        words += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={given.jobs}"]
    return subprocess.run([sys.executable, "-m", "seqrl.train", "-m", *words]).returncode


def finished(sweep: Path) -> list[dict[str, Any]]:
    """Manifests of the finished runs of a sweep."""
    manifests = [json.loads(path.read_text()) for path in sorted(sweep.glob("*/manifest.json"))]
    return [manifest for manifest in manifests if manifest["status"] == "finished"]


def table(exam: Path, tasks: Sequence[str], networks: Sequence[str]) -> str:
    """Results as a Markdown table."""
    lines = [
        "| task | network | runs | median (worst to best) | memory zeroed | passes with | steps | seconds | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in tasks:
        runs = {network: finished(exam / name / network) for network in networks}
        lines += [row(name, network, runs[network]) for network in networks if runs[network]]
    return "\n".join(lines)


def row(name: str, network: str, runs: Sequence[dict[str, Any]]) -> str:
    results = sorted(run["result"] for run in runs)
    median = statistics.median(results)
    zeroed = statistics.median(run["evaluation_return_without_memory"] for run in runs) if network != "mlp" else None
    passed_with = TASKS[name].passed_with
    verdict = "passed" if median >= passed_with else "**not passed**"
    seconds = statistics.median(run["seconds"] for run in runs)
    return (
        f"| {name} | {network} | {len(runs)} | {figure(median)} ({figure(results[0])} to {figure(results[-1])}) "
        f"| {'' if zeroed is None else figure(zeroed)} | {passed_with:g} | {runs[0]['env_steps']:,} | {seconds:.0f} "
        f"| {'' if network == 'mlp' else verdict} |"
    )


def figure(number: float) -> str:
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the sweeps, such as outputs/exam")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help=", ".join(NETWORKS))
    parser.add_argument("--seeds", type=int, default=5, help="most runs of each task and network (default: 5)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first run (default: 0)")
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
