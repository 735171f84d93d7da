"""Compare the plan of `validate=true` with what runs really take: `python scripts/plan_check.py`.

Ten configurations are planned, and then some of their rollouts are played and learned from, each in a process of its
own. Speeds are in steps per second of the processor, which other programs on the machine disturb less than the wall
clock that the plan goes by. It prints a table, and fails if peak memory is more than 20 % off anywhere, or speed more
than 25 %.

Where the plan says that the run slows down as its episodes grow, two runs are compared: one that learns, whose speed
must lie between the two that are planned or miss them by no more, and one that learns nothing, with the first of them.
"""

import re
import subprocess
import sys
from contextlib import closing
from time import process_time

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
ROW = re.compile(r"^ +\d+(?:: whole)? +([\d,]+) MB +([\d,]+) .*as you have it", re.MULTILINE)
SLOWER = re.compile(r"0: whole does ([\d,]+) steps/s")
# Episodes stay a beginner's.
FROZEN = "algorithm.learning_rate=1e-12"
# Iterations that are played and not counted, and those that are.
BEFORE, COUNTED = 2, 4
MEMORY, SPEED = 0.20, 0.25


def plan(words: list[str]) -> None:
    """Print the plan, with the processor's clock."""
    from seqrl.run import plan, rehearsal

    plan.perf_counter = rehearsal.perf_counter = process_time  # type: ignore[attr-defined, assignment]
    rehearsal.rehearse(composed(words))


def run(words: list[str]) -> None:
    """Print the peak memory, in MB, and the steps per second of the processor."""
    from seqrl.machine import forget_peak_memory, peak_memory_mb
    from seqrl.run.build import build, make_device, prepare_device

    cfg = composed(words)
    device = prepare_device(make_device(cfg), cfg, print)
    forget_peak_memory()
    run = build(cfg, device)
    with closing(run.runner.env):
        for _ in range(BEFORE):
            run.iterate()
        began, steps = process_time(), run.budget.steps
        for _ in range(COUNTED):
            run.iterate()
        print(peak_memory_mb(), (run.budget.steps - steps) / (process_time() - began))


def composed(words: list[str]):  # type: ignore[no-untyped-def]
    from hydra import compose, initialize_config_dir

    from seqrl.config.paths import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*words, "insight.interval=0"])


def said(what: str, configuration: str) -> str:
    command = [sys.executable, __file__, what, *configuration.split()]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def number(text: str) -> float:
    return float(text.replace(",", ""))


def is_met(name: str, configuration: str, megabytes: float, speeds: tuple[float, float]) -> bool:
    """Print a row of the table; whether the run is as planned.

    speeds   the lowest and the highest planned
    """
    real_megabytes, real_speed = map(float, said("--run", configuration).split()[-2:])
    nearest = min(max(real_speed, speeds[0]), speeds[1])
    off = megabytes / real_megabytes - 1, nearest / real_speed - 1
    planned = " to ".join(f"{it:,.0f}" for it in sorted(set(speeds)))
    figures = f"{megabytes:,.0f}, {real_megabytes:,.0f} | {off[0]:+.0%} | {planned}, {real_speed:,.0f} | {off[1]:+.0%}"
    print(f"| {name} | {figures} |", flush=True)
    return abs(off[0]) <= MEMORY and abs(off[1]) <= SPEED


def main() -> None:
    missed = 0
    print(
        "| configuration | peak memory, planned and real, MB | | steps/s, planned and real | |\n|---|---|---|---|---|"
    )
    for configuration in CONFIGURATIONS:
        if (row := ROW.search(text := said("--plan", configuration))) is None:
            sys.exit(f"seqrl: error: {configuration}: no plan was printed:\n{text}")
        megabytes, speed = map(number, row.groups())
        slower = SLOWER.search(text) if ": whole" in row[0] else None
        missed += not is_met(
            f"`{configuration}`", configuration, megabytes, (number(slower[1]) if slower else speed, speed)
        )
        if slower:
            missed += not is_met("the same, nothing learned", f"{configuration} {FROZEN}", megabytes, (speed, speed))
    sys.exit(f"{missed} rows are off." if missed else 0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--plan", *words]:
            plan(words)
        case ["--run", *words]:
            run(words)
        case _:
            main()
