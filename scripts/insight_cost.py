"""Measure what the meters of memory cost: `python scripts/insight_cost.py [key=value ...]`.

The same run with `insight.interval=0` and with the default, by turns, three times each. Prints the median of the
processor seconds of each, which other programs on the machine disturb less than wall time, and the share of the time
that the run itself says it spent.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TURNS = 3
DEFAULT = ["experiment=masked_cartpole"]
COMMON = ["evaluation.episodes=0", "logger=jsonl"]


def seconds(words: list[str], folder: Path) -> float:
    """Processor seconds of a run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "seqrl.train", *words, *COMMON, f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    words = sys.argv[1:] or DEFAULT
    found: dict[str, list[float]] = {"insight.interval=0": [], "": []}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(TURNS):
            for choice, taken in found.items():
                folder = Path(name) / f"{turn}_{'with' if not choice else 'without'}"
                taken.append(seconds([*words, *([choice] if choice else [])], folder))
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    without, with_meters = (statistics.median(taken) for taken in found.values())
    print(f"{' '.join(words)}: {without:.1f} s without, {with_meters:.1f} s with: {with_meters / without - 1:+.1%}")
    print(f"runs: {found}; time/insight_share {last['time/insight_share']:.1%}")


if __name__ == "__main__":
    main()
