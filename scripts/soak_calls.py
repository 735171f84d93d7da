"""Kill a run at every system call that touches its folder, resume it, and compare it with the run left alone.

python scripts/soak_calls.py outputs/soak_calls

Needs strace, which finds the calls and injects SIGKILL on entering each of them, one run for each. Prints how many
kills were survived with parameters, optimizer, random streams and curves equal to the last bit. Exit code 0 if all.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from soak import curves, differences

from seqrl.config.begun import can_go_on
from seqrl.run.checkpoint import Checkpoints

# One thread, so that a run makes the same calls whenever it is done; episodes in progress must be replayed.
RUN = [
    "env.id=CartPole-v1",
    "env=gymnasium",
    "env.backend=sync",
    "parallel=2",
    "rollout_length=16",
    "total_steps=96",
    "algorithm.epochs=1",
    "algorithm.gradient_threads=1",
    "network.hidden_size=8",
    "network.lstm_hidden_size=8",
    "evaluation.episodes=2",
    "logger=jsonl",
]
CALLS = (
    "open,openat,write,pwrite64,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,flock"
)
# 1234 openat(AT_FDCWD, "/folder/x", …) = 5</folder/x>; strace pads the number of the process.
LINE = re.compile(r"(?P<process>\d+)\s+(?P<call>\w+)\((?P<rest>.*)")


def train(words: list[str], *strace: str) -> int:
    """Exit code of a run; negative if a signal ended it."""
    command = [*strace, sys.executable, "-m", "seqrl.train", *words]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


def touching(folder: Path, words: list[str]) -> list[tuple[str, int]]:
    """Calls of the main thread that touch a folder: name, and which of that name it is."""
    log = folder.parent / "strace.log"
    strace = ["strace", "-f", "-y", "-qq", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", str(log)]
    if train([*words, f"hydra.run.dir='{folder}'"], *strace):
        sys.exit(f"soak_calls: the traced run failed; see {log}")
    counts: Counter[str] = Counter()
    found = []
    main = ""
    for line in log.read_text(errors="replace").splitlines():
        match = LINE.match(line)
        main = main or (match["process"] if match else "")
        if match and match["process"] == main:
            counts[match["call"]] += 1
            if str(folder) in match["rest"]:
                found.append((match["call"], counts[match["call"]]))
    return found


def survived(folder: Path, words: list[str], call: str, number: int, whole: Path) -> str:
    """What is wrong after a kill at a call and as many resumptions as it takes; nothing if all is equal."""
    inject = ["strace", "-f", "-qq", "-e", f"trace={call}", "-o", "/dev/null"]
    inject += ["-e", f"inject={call}:signal=KILL:when={number}"]
    code = train([*words, f"hydra.run.dir='{folder}'"], *inject)
    if code == 0:
        return "not killed"
    # Where nothing was saved yet, the same command begins it again.
    again = [f"resume={folder}"] if can_go_on(folder) else [*words, f"hydra.run.dir='{folder}'"]
    if code := train(again):
        return f"could not be resumed, exit code {code}"
    unequal = differences(Checkpoints(whole).newest()[0], Checkpoints(folder).newest()[0])
    strays = [path.name for path in folder.rglob("*.tmp")]
    return ", ".join([*unequal[:3], *([] if curves(whole) == curves(folder) else ["curves"]), *strays])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the runs, such as outputs/soak_calls; must not exist")
    parser.add_argument("--every", type=int, default=1, help="kill at every so many calls only (default: 1)")
    given, overrides = parser.parse_known_args()
    if given.folder.exists():
        parser.error(f"{given.folder} already exists")
    if not shutil.which("strace"):
        parser.error("strace is not installed. On Debian: apt install strace")
    folder = given.folder.resolve()
    folder.mkdir(parents=True)
    words = [*RUN, *overrides]
    whole = folder / "whole"
    calls = touching(whole, words)[:: given.every]
    print(f"{len(calls)} calls touch the run folder: {dict(Counter(call for call, _ in calls))}", flush=True)
    outcomes: Counter[str] = Counter()
    for place, (call, number) in enumerate(calls):
        killed = folder / "killed"
        outcome = survived(killed, words, call, number, whole)
        outcomes[outcome or "equal to the last bit"] += 1
        if outcome:
            print(f"call {place}, {call} number {number}: {outcome}", flush=True)
            shutil.copytree(killed, folder / f"failed_{place}", dirs_exist_ok=True)
        shutil.rmtree(killed, ignore_errors=True)
    print("; ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    sys.exit(set(outcomes) != {"equal to the last bit"})


if __name__ == "__main__":
    main()
