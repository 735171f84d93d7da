"""Compare the plan of `validate=true` with what runs really take: `python scripts/plan_check.py`.

Ten configurations are planned, and then some of their rollouts are played and learned from, each in a process of its
own. Speeds are in steps per second of the processor, which other programs on the machine disturb less than the wall
clock that the plan goes by. It prints a table, and fails if peak memory is more than 20 % off anywhere, or speed more
than 25 %.
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


def main() -> None:
    missed = 0
    print(
        "| configuration | peak memory, planned and real, MB | | steps/s, planned and real | |\n|---|---|---|---|---|"
    )
    for configuration in CONFIGURATIONS:
        if (row := ROW.search(text := said("--plan", configuration))) is None:
            sys.exit(f"seqrl: error: {configuration}: no plan was printed:\n{text}")
        planned = [float(it.replace(",", "")) for it in row.groups()]
        real = [float(it) for it in said("--run", configuration).split()[-2:]]
        off = [one / other - 1 for one, other in zip(planned, real, strict=True)]
        missed += abs(off[0]) > MEMORY or abs(off[1]) > SPEED
        figures = [f"{one:,.0f}, {other:,.0f} | {by:+.0%}" for one, other, by in zip(planned, real, off, strict=True)]
        print(f"| `{configuration}` | {' | '.join(figures)} |", flush=True)
    sys.exit(f"{missed} of {len(CONFIGURATIONS)} plans are off." if missed else 0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--plan", *words]:
            plan(words)
        case ["--run", *words]:
            run(words)
        case _:
            main()
