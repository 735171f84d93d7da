"""Run `seqrl.verify` on every environment that is installed, and count those that it rejects, with the reasons.

    python scripts/verify_all.py [word ...] [--jobs 2] [--arguments network=mlp ...]

Words narrow the list to suites and names that contain all of them, such as `popgym easy`. Exit code 1 if any is
rejected.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from seqrl.envs.suites import SUITES, Suite

# Beside those that `python -m seqrl.envs` lists.
MORE = [
    Suite("box2d", "Box2D", "gymnasium[box2d]", "gymnasium.envs.box2d"),
    Suite("minigrid", "minigrid", "seqrl[minigrid]", "MiniGrid-", "minigrid", "minigrid"),
]
# Seconds for one environment.
PATIENCE = 600


class Outcome(NamedTuple):
    """What verify finds about an environment.

    exit_code   of the program; -1 if it took too long
    faults      lines of what fails, could not be checked, or deserves a warning
    """

    name: str
    exit_code: int
    faults: list[str]


def commands(words: Sequence[str]) -> dict[str, list[str]]:
    """The overrides that select each environment, by its name."""
    chosen: dict[str, list[str]] = {}
    for suite in (suite for suite in [*SUITES, *MORE] if suite.is_installed and not suite.many):
        for name in sorted(suite.ids()):
            if all(word.lower() in f"{suite.name} {name}".lower() for word in words):
                chosen[name] = [re.sub(r"\bID\b", name, word) for word in suite.choice.split()]
    return chosen


def verified(arguments: Sequence[str], item: tuple[str, list[str]]) -> Outcome:
    name, overrides = item
    command = [sys.executable, "-m", "seqrl.verify", *overrides, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return Outcome(name, -1, [f"took more than {PATIENCE} seconds"])
    found = re.findall(r"^  (?:FAIL|NOT CHECKED|warn) .*", done.stdout, re.MULTILINE)
    errors = [line for line in done.stderr.splitlines() if line.startswith("seqrl: error")]
    return Outcome(name, done.returncode, [re.sub(r"\s{2,}", "  ", line.strip()) for line in [*found, *errors]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="word", help="such as popgym, CartPole")
    parser.add_argument("--jobs", type=int, default=2, help="environments to check side by side")
    parser.add_argument("--arguments", nargs="*", default=[], help="more arguments of seqrl.verify")
    given = parser.parse_args()
    outcomes = []
    with ThreadPoolExecutor(given.jobs) as pool:
        for outcome in pool.map(partial(verified, given.arguments), commands(given.words).items()):
            outcomes.append(outcome)
            print(f"{'rejected' if outcome.exit_code else 'accepted'}  {outcome.name}", flush=True)
            for fault in outcome.faults:
                print(f"    {fault}", flush=True)
    rejected = [outcome for outcome in outcomes if outcome.exit_code]
    print(f"\n{len(rejected)} of {len(outcomes)} rejected")
    # By status and check, without what was measured.
    reasons = Counter("  ".join(fault.split("  ")[:2]) for outcome in rejected for fault in outcome.faults)
    for reason, count in reasons.most_common():
        print(f"  {count:4}  {reason}")
    sys.exit(bool(rejected))


if __name__ == "__main__":
    main()
