"""Ask for more than was learned: policies that the league trained at a length T play at T, 2T and 4T.

python scripts/longer.py outputs/league --record docs/studies/longer.jsonl

Each finished run of a task that has a length plays 200 fresh episodes of each; then a Markdown table. --record FILE
keeps what they returned, a line each, beside those of other machines.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from exam import spread
from league import CELLS

from seqrl.files import write

# What makes an episode of a task longer, and by how much the league's are long.
LENGTHS = {
    "memory_chain_100": ("env.length", 100),
    "tmaze_100": ("env.corridor_length", 100),
    "repeat_first_medium": ("env.decks", 8),
}
TIMES = (1, 2, 4)


@dataclass(frozen=True)
class Asked:
    """What the final policy of a run returns.

    times    as long as those that it learned from
    result   mean return of 200 episodes
    """

    task: str
    network: str
    seed: int
    times: int
    result: float


Answers = Mapping[tuple[str, str, int, int], Asked]


def asked(run: Path, task: str, network: str, times: int) -> Asked:
    """Play; what `python -m seqrl.evaluate` prints goes to the terminal."""
    key, learned = LENGTHS[task]
    words = [f"run={run}", f"{key}={times * learned}", "episodes=200", "greedy=true", "memoryless_control=false"]
    subprocess.run([sys.executable, "-m", "seqrl.evaluate", *words], check=True)
    told = json.loads((run / "evaluation.json").read_text())
    return Asked(task, network, told["seed"], times, round(told["greedy"]["return_mean"], 4))


def recorded(record: Path | None) -> dict[tuple[str, str, int, int], Asked]:
    """By task, network, seed and times."""
    lines = record.read_text().splitlines() if record and record.exists() else []
    return {(it.task, it.network, it.seed, it.times): it for it in (Asked(**json.loads(line)) for line in lines)}


def table(answers: Answers) -> str:
    """As Markdown: median, worst and best of each cell, on each task."""
    played = [cell for cell in CELLS if any(cell == network for _, network, *_ in answers)]
    lines = [f"| task, length | {' | '.join(played)} |", f"| --- |{' --- |' * len(played)}"]
    for task in LENGTHS:
        for times in TIMES:
            found = [
                [it.result for it in answers.values() if (it.task, it.network, it.times) == (task, cell, times)]
                for cell in played
            ]
            if any(found):
                told = " | ".join(spread(returns) if returns else "" for returns in found)
                lines.append(f"| {task}, {'' if times == 1 else times}T | {told} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the league's sweeps")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="what was asked before, here and elsewhere: kept there"
    )
    given = parser.parse_args()
    answers = recorded(given.record)
    for task in LENGTHS:
        for manifest in sorted(given.folder.glob(f"{task}/*/*/manifest.json")):
            run, facts = manifest.parent, json.loads(manifest.read_text())
            network = run.parent.name.replace("_", ":")
            for times in TIMES:
                key = task, network, facts["seed"], times
                if facts["status"] == "finished" and key not in answers:
                    answers[key] = asked(run, task, network, times)
                    if given.record:
                        lines = [json.dumps(asdict(answers[it])) for it in sorted(answers)]
                        write(given.record, "".join(f"{line}\n" for line in lines).encode())
    print(table(answers))


if __name__ == "__main__":
    main()
