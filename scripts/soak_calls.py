"""Kill a run at every system call that touches its folder, resume it, and compare it with the run left alone.

python scripts/soak_calls.py outputs/soak_calls

Three times: a run; one that is begun again, as nothing of it was saved; and one that goes on with other settings, which
must then go on with all of them, or as it was. Needs strace, which finds the calls and injects SIGKILL on entering each
of them, one run for each. Prints how many kills were survived with parameters, optimizer, random streams and curves
equal to the last bit. Exit code 0 if all.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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


@dataclass(frozen=True)
class Killing:
    """What is killed: a command that begins in a folder as it is made here.

    make    makes the folder
    words   of the command, given the folder
    ends    folders of runs left alone: what the run must be equal to, one of them, when it has gone on after a kill
    """

    name: str
    make: Callable[[Path], object]
    words: Callable[[Path], list[str]]
    ends: Sequence[Path]

    def calls(self, folder: Path) -> list[tuple[str, int]]:
        """Calls of the main thread that touch the folder: name, and which of that name it is."""
        log = folder.parent / "strace.log"
        strace = ["strace", "-f", "-y", "-qq", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", str(log)]
        self.make(folder)
        if train(self.words(folder), *strace):
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

    def after(self, folder: Path, call: str, number: int) -> str:
        """What is wrong after a kill at a call, once the run has gone on; else what it is equal to."""
        inject = ["strace", "-f", "-qq", "-e", f"trace={call}", "-o", "/dev/null"]
        inject += ["-e", f"inject={call}:signal=KILL:when={number}"]
        self.make(folder)
        if train(self.words(folder), *inject) == 0:
            return "not killed"
        # Where nothing was saved yet, the same command begins it again.
        if code := train([f"resume={folder}"] if can_go_on(folder) else self.words(folder)):
            return f"could not be resumed, exit code {code}"
        if strays := [path.name for path in folder.rglob("*.tmp")]:
            return ", ".join(strays)
        unequal = {end.name: unlike(end, folder) for end in self.ends}
        return next((f"{EQUAL} {name}" for name, parts in unequal.items() if not parts), str(unequal))


# What is said of a kill that was survived.
EQUAL = "equal to the last bit:"


def unlike(one: Path, other: Path) -> list[str]:
    """What differs between two runs."""
    unequal = differences(Checkpoints(one).newest()[0], Checkpoints(other).newest()[0])
    return [*unequal[:3], *([] if curves(one) == curves(other) else ["curves"])]


def killings(folder: Path, words: list[str]) -> Iterator[Killing]:
    """What is killed, with runs left alone in a folder."""

    def begin(run: Path) -> list[str]:
        return [*words, f"hydra.run.dir='{run}'"]

    def go_on(run: Path) -> list[str]:
        return [f"resume={run}", "total_steps=160", "algorithm.gamma=0.9", "algorithm.learning_rate=0.01"]

    def half(run: Path) -> None:
        """A run of which nothing was saved."""
        run.mkdir()
        shutil.copy(whole / "config.yaml", run)
        facts = json.loads((whole / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps(facts | {"status": "running"}))

    whole, longer = folder / "whole", folder / "longer"
    if train(begin(whole)):
        sys.exit("soak_calls: the run failed that is left alone")
    shutil.copytree(whole, longer)
    if train(go_on(longer)):
        sys.exit("soak_calls: the run failed that goes on with other settings")
    yield Killing("a run", lambda _: None, begin, [whole])
    yield Killing("a run that is begun again", half, begin, [whole])
    yield Killing("a run that goes on with other settings", partial(shutil.copytree, whole), go_on, [longer, whole])


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
    outcomes: Counter[str] = Counter()
    for killing in killings(folder, [*RUN, *overrides]):
        calls = killing.calls(folder / "traced")[:: given.every]
        shutil.rmtree(folder / "traced")
        print(f"{killing.name}: {len(calls)} calls: {dict(Counter(call for call, _ in calls))}", flush=True)
        for place, (call, number) in enumerate(calls):
            killed = folder / "killed"
            outcome = killing.after(killed, call, number)
            outcomes[outcome] += 1
            if not outcome.startswith(EQUAL):
                print(f"call {place}, {call} number {number}: {outcome}", flush=True)
                shutil.copytree(killed, folder / f"failed_{killing.name}_{place}".replace(" ", "_"), dirs_exist_ok=True)
            shutil.rmtree(killed, ignore_errors=True)
    print("; ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    sys.exit(not all(outcome.startswith(EQUAL) for outcome in outcomes))


if __name__ == "__main__":
    main()
