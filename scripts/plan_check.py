"""Compare the plan of `validate=true` with what runs really take: `python scripts/plan_check.py [folder]`.

Each of ten configurations is planned, run for some rollouts, and planned again, and the mean of both plans counts: what
else the machine does changes from minute to minute. It prints a table, and fails if peak memory is more than 20 % off
anywhere, or speed more than 25 %. Leave the machine alone meanwhile.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIGURATIONS = [
    "env=masked_cartpole rollout_length=128",
    "env=masked_cartpole rollout_length=128 sequence=truncated sequence_learning.bptt_length=16 parallel=64",
    "env=masked_cartpole rollout_length=256 network=gru network.lstm_hidden_size=256",
    "env=tmaze total_steps=24000",
    "env=tmaze rollout_length=64 network=attention sequence=truncated sequence_learning.bptt_length=20",
    "env=repeat_previous total_steps=24000 network=mingru",
    "env=repeat_previous rollout_length=104 network=matrix algorithm.epochs=10",
    "env=count_recall rollout_length=104 network=gtrxl parallel=32",
    "env=gymnasium env.id=Acrobot-v1 env.backend=sync rollout_length=128 sequence=truncated",
    "env=repeat_first rollout_length=512 parallel=128 algorithm.minibatch_steps=16384",
]
# Rollouts that are played, and what all runs have in common.
ROLLOUTS = 10
COMMON = "evaluation.episodes=0 logger=jsonl insight.interval=0"
ROW = re.compile(r"^ +\d+(?:: whole)? +([\d,]+) MB +([\d,]+) .*as you have it", re.MULTILINE)
SIZE = re.compile(r"iteration +([\d,]+) steps")
MEMORY, SPEED = 0.20, 0.25


def train(*words: str) -> str:
    command = [sys.executable, "-m", "seqrl.train", *words, *COMMON.split()]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def number(text: str) -> float:
    return float(text.replace(",", ""))


def plan(words: list[str]) -> tuple[float, float, int]:
    """Peak memory, in MB, steps per second and steps of a rollout, as they are planned."""
    said = train(*words, "validate=true")
    if (row := ROW.search(said)) is None or (size := SIZE.search(said)) is None:
        sys.exit(f"seqrl: error: {' '.join(words)}: no plan was printed:\n{said}")
    return number(row[1]), number(row[2]), int(number(size[1]))


def run(words: list[str], steps: int, folder: Path) -> tuple[float, float]:
    """Peak memory, in MB, and steps per second of a short run."""
    train(
        *(word for word in words if not word.startswith("total_steps")),
        f"total_steps={steps}",
        f"hydra.run.dir={folder}",
    )
    facts = json.loads((folder / "manifest.json").read_text())
    return facts["peak_memory_mb"], facts["steps_per_second"]


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    missed = 0
    print(
        "| configuration | peak memory, planned and real, MB | | steps/s, planned and real | |\n|---|---|---|---|---|"
    )
    for index, configuration in enumerate(CONFIGURATIONS):
        words = configuration.split()
        before = plan(words)
        memory, speed = run(words, ROLLOUTS * before[2], folder / str(index))
        after = plan(words)
        planned = (before[0] + after[0]) / 2, (before[1] + after[1]) / 2
        off = planned[0] / memory - 1, planned[1] / speed - 1
        missed += abs(off[0]) > MEMORY or abs(off[1]) > SPEED
        figures = f"{planned[0]:,.0f}, {memory:,.0f} | {off[0]:+.0%} | {planned[1]:,.0f}, {speed:,.0f} | {off[1]:+.0%}"
        print(f"| `{configuration}` | {figures} |", flush=True)
    sys.exit(f"{missed} of {len(CONFIGURATIONS)} plans are off." if missed else 0)


if __name__ == "__main__":
    main()
