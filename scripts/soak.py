"""Kill a run again and again, resume it each time, and compare it with the same run left alone.

python scripts/soak.py outputs/soak --kills 50

Trains once without interruption and once killed (SIGKILL) at random times and resumed. Prints whether parameters,
optimizer, random streams and curves are equal to the last bit. Exit code 0 if they are, else 1. Of a run over several
processes, `processes=2`, one of them is killed at random, and the others must end by themselves.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqrl.run.checkpoint import Checkpoints

# Episodes in progress are carried from rollout to rollout, and must be replayed when the run resumes.
RUN = [
    "env.id=CartPole-v1",
    "env=gymnasium",
    "env.hidden=[1,3]",
    "env.backend=sync",
    "parallel=16",
    "rollout_length=64",
]
RUN += ["episodes=1000000", "total_steps=250000", "algorithm.epochs=4", "evaluation.episodes=0"]
# For all processes of a run, once one was killed.
SECONDS_TO_END = 20


@dataclass
class Soaked:
    """What happened to the run that was killed.

    kills       times the process was killed while it ran
    unsaved     of these, before there was anything to resume
    seconds     from its first start to its end
    """

    kills: int = 0
    unsaved: int = 0
    seconds: float = 0.0


def train(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "seqrl.train", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"soak: a run failed with exit code {process.returncode}\n{errors}")


def soak(folder: Path, overrides: list[str], kills: int, longest: float, chance: random.Random) -> Soaked:
    """Do the run in `folder`, killing it `kills` times, each after up to `longest` seconds."""
    soaked, began = Soaked(), time.monotonic()
    while True:
        saved = list((folder / "checkpoints").glob("*.pt"))
        process = train(f"resume={folder}") if saved else train(*overrides, f"hydra.run.dir='{folder}'")
        if soaked.kills == kills:
            finished(process)
            soaked.seconds = time.monotonic() - began
            return soaked
        try:
            process.wait(chance.uniform(0, longest))
        except subprocess.TimeoutExpired:
            victim = chance.choice([process.pid, *ranks(process.pid)])
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            process.communicate(timeout=SECONDS_TO_END)
            soaked.kills += 1
            soaked.unsaved += not saved
            print(f"kill {soaked.kills}: {newest(folder)} iterations", flush=True)
        else:
            finished(process)
            sys.exit(f"soak: the run finished after {soaked.kills} kills. Use a larger total_steps.")


def ranks(leader: int) -> list[int]:
    """Processes that a run has started to share its work with."""
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{leader}/task/{leader}/children").read_text().split():
            if "multiprocessing.spawn" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
    return found


def newest(folder: Path) -> int:
    return max((int(file.stem) for file in (folder / "checkpoints").glob("*.pt")), default=0)


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Paths in two states that are not equal to the last bit; the time a run took is not compared."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        keys = [key for key in one if f"{where}.{key}" != ".clock"]
        return [path for key in keys for path in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [path for index, (a, b) in pairs for path in differences(a, b, f"{where}[{index}]")]
    same = (
        torch.equal(one, other) if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) else one == other
    )
    return [] if same else [where]


def curves(folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, without scalars that depend on the clock or the process."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/") and k != "memory/peak_mb"} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the two runs, such as outputs/soak; must not exist")
    parser.add_argument("--kills", type=int, default=50, help="how often to kill the run (default: 50)")
    parser.add_argument("--longest", type=float, default=8.0, help="latest time of a kill, in seconds (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times of the kills (default: 0)")
    given, overrides = parser.parse_known_args()
    if given.folder.exists():
        parser.error(f"{given.folder} already exists")
    whole, killed = given.folder.resolve() / "whole", given.folder.resolve() / "killed"
    overrides = [*RUN, *overrides]
    began = time.monotonic()
    finished(train(*overrides, f"hydra.run.dir='{whole}'"))
    alone = time.monotonic() - began
    soaked = soak(killed, overrides, given.kills, given.longest, random.Random(given.seed))
    unequal = differences(Checkpoints(whole).newest()[0], Checkpoints(killed).newest()[0])
    unequal += [] if curves(whole) == curves(killed) else ["metrics.jsonl"]
    print(
        f"\n{newest(whole)} iterations; left alone {alone:.0f} s; with {soaked.kills} kills, {soaked.unsaved} of them "
        f"before the first checkpoint, {soaked.seconds:.0f} s\n"
        f"{'equal to the last bit' if not unequal else 'different: ' + ', '.join(unequal[:10])}"
    )
    sys.exit(bool(unequal))


if __name__ == "__main__":
    main()
