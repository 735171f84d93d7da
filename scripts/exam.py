"""Run the exam: train on every memory task with nothing given but its name, a network and a budget of steps.

python scripts/exam.py outputs/exam --jobs 2

A sweep for each task and network, in a folder of its own:
`python -m seqrl.train -m env=<task> network=<network> total_steps=<budget>` with several seeds. Each policy plays
200 fresh episodes, and again with memory zeroed at every step. Finished runs are not repeated; interrupted ones are
resumed. Then a table says which tasks were passed.

--record FILE keeps what finished runs came to, a line each, so that another machine can go on where this one stopped.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import seqrl
from seqrl.files import write
from seqrl.report.runs import RunRecord, read
from seqrl.run.manifest import standing

# Points of a learning curve that a record keeps.
POINTS = 20


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


@dataclass(frozen=True)
class Result:
    """What a finished run came to.

    network          `mingru:2` has two layers
    result           mean return of its final policy
    without_memory   the same with memory zeroed at every step
    curve            mean training return after equal shares of its steps, and the seconds until then
    """

    task: str
    network: str
    seed: int
    env_steps: int
    seconds: float
    result: float
    without_memory: float | None
    curve: list[list[float]]
    version: str = seqrl.__version__


# By task and network.
Results = Mapping[tuple[str, str], Sequence[Result]]


class Sitting:
    """Sweeps in a folder, and a record of what has finished, here or elsewhere.

    words   further words of every command
    """

    def __init__(self, folder: Path, record: Path | None, jobs: int, words: Sequence[str]) -> None:
        self.folder, self.record, self.jobs, self.words = folder, record, jobs, words

    def train(self, name: str, task: Task, network: str, seeds: Iterable[int]) -> int:
        """Train what has not finished yet; return the exit code of its sweep."""
        known = {result.seed for result in self.recorded().get((name, network), [])}
        missing = [str(seed) for seed in seeds if seed not in known]
        if not missing:
            return 0
        cell, _, layers = network.partition(":")
        words = [*task.environment.split(), f"network={cell}", *([f"network.layers={layers}"] if layers else [])]
        words += [f"seed={','.join(missing)}", f"total_steps={task.steps}", "evaluation.memoryless_control=true"]
        words += [f"sweep={self._sweep(name, network)}", *self.words]
        if self.jobs > 1:
            words += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={self.jobs}"]
        code = subprocess.run([sys.executable, "-m", "seqrl.train", "-m", *words]).returncode
        self.note()
        return code

    def results(self) -> Results:
        """All that is known, by task and network, in the order of seeds."""
        known = {(it.task, it.network, it.seed): it for results in self.recorded().values() for it in results}
        for path in sorted(self.folder.glob("*/*/*/manifest.json")):
            run, (name, network) = read(path.parent), path.parts[-4:-2]
            if run.status == "finished":
                it = result(name, network.replace("_", ":"), run)
                known[it.task, it.network, it.seed] = it
        return _grouped(known[key] for key in sorted(known))

    def recorded(self) -> Results:
        if self.record is None or not self.record.exists():
            return {}
        return _grouped(Result(**json.loads(line)) for line in self.record.read_text().splitlines())

    def note(self) -> None:
        """Bring the record up to date."""
        if self.record is not None:
            lines = [json.dumps(asdict(it)) for results in self.results().values() for it in results]
            write(self.record, "".join(f"{line}\n" for line in lines).encode())

    def _sweep(self, name: str, network: str) -> Path:
        return self.folder / name / network.replace(":", "_")


def result(name: str, network: str, run: RunRecord) -> Result:
    """What a finished run came to."""
    facts = standing(run.folder)
    at = np.linspace(0, run.env_steps[-1], POINTS + 1)[1:]
    rows = np.searchsorted(run.env_steps, at)
    curve = [[round(float(run.seconds[row]), 1), float(f"{run.returns[row]:.4g}")] for row in rows]
    without = None if network == "mlp" else facts["evaluation_return_without_memory"]
    steps, seconds = int(run.env_steps[-1]), round(facts["seconds"], 1)
    return Result(name, network, run.seed, steps, seconds, facts["result"], without, curve)


def _grouped(results: Iterable[Result]) -> Results:
    grouped: dict[tuple[str, str], list[Result]] = {}
    for it in results:
        grouped.setdefault((it.task, it.network), []).append(it)
    return grouped


def table(results: Results) -> str:
    """Results as a Markdown table."""
    lines = [
        "| task | network | runs | median (worst to best) | memory zeroed | passes with | steps | seconds | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    pairs = [(name, network) for name in TASKS for network in NETWORKS if (name, network) in results]
    return "\n".join([*lines, *(row(results[pair]) for pair in pairs)])


def row(runs: Sequence[Result]) -> str:
    name, network, passed_with = runs[0].task, runs[0].network, TASKS[runs[0].task].passed_with
    zeroed = [run.without_memory for run in runs if run.without_memory is not None]
    verdict = "passed" if statistics.median(run.result for run in runs) >= passed_with else "**not passed**"
    seconds = statistics.median(run.seconds for run in runs)
    return (
        f"| {name} | {network} | {len(runs)} | {spread([run.result for run in runs])} "
        f"| {figure(statistics.median(zeroed)) if zeroed else ''} | {passed_with:g} | {runs[0].env_steps:,} "
        f"| {seconds:.0f} | {'' if network == 'mlp' else verdict} |"
    )


def spread(returns: Sequence[float]) -> str:
    """Their median, worst and best; of one alone, itself."""
    if len(returns) == 1:
        return figure(returns[0])
    return f"{figure(statistics.median(returns))} ({figure(min(returns))} to {figure(max(returns))})"


def figure(number: float) -> str:
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.3f}"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Those that every sitting takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the sweeps")
    parser.add_argument("--record", type=Path, metavar="FILE", help="what has finished, here and elsewhere: kept there")
    parser.add_argument(
        "--seeds", type=int, default=5, help="at most so many runs of each network on each task (default: %(default)s)"
    )
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first run (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="runs in parallel (default: 1); needs seqrl[joblib]")
    parser.add_argument(
        "--with", dest="words", nargs="+", default=[], metavar="KEY=VALUE", help="overrides for every run"
    )
    return parser


def sitting(given: argparse.Namespace) -> Sitting:
    return Sitting(given.folder, given.record, given.jobs, given.words)


def seeds(given: argparse.Namespace, most: int) -> range:
    return range(given.first_seed, given.first_seed + min(given.seeds, most))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help=", ".join(NETWORKS))
    given = parser.parse_args()
    exam = sitting(given)
    pairs = [(name, network) for name in given.tasks for network in given.networks if network in TASKS[name].networks]
    codes = [exam.train(name, TASKS[name], network, seeds(given, TASKS[name].seeds)) for name, network in pairs]
    print(table(exam.results()))
    sys.exit(max(codes, default=0))


if __name__ == "__main__":
    main()
