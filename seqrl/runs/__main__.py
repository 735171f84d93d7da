"""List runs: `python -m seqrl.runs [folder ...]`.

The newest come first: their folder, task, status, return, steps and age. Without a folder: those under outputs.

Example:

  python -m seqrl.runs outputs/sweeps
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from seqrl.api.listing import RunInfo, insist_on_folders, listed
from seqrl.config.begun import OUTPUTS
from seqrl.config.program import errors_in_one_line, to_the_end
from seqrl.machine import wall_time
from seqrl.metrics.display import QuietConsole
from seqrl.text import cut, docstring, duration, figure, one_line, say

COLUMNS = ("task", "status", "return", "steps", "age", "run")
RIGHT = ("return", "steps", "age")
WIDEST = 40


def table(found: Sequence[RunInfo], now: float) -> str:
    """A line for each run. Its folder comes last, whole, so that it can be copied."""
    rows = [COLUMNS, *(cells(run, now) for run in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = []
    for row in rows:
        padded = [
            cell.rjust(width) if name in RIGHT else cell.ljust(width)
            for name, cell, width in zip(COLUMNS, row, widths, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def cells(run: RunInfo, now: float) -> tuple[str, ...]:
    score = "" if run.score is None else figure(run.score)
    steps = "" if run.env_steps is None else f"{run.env_steps:,}"
    seconds = max(0.0, now - run.started)
    age = duration(seconds) if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
    short = (cut(one_line(it), WIDEST) for it in (run.task, run.status, score, steps, age))
    return *short, one_line(str(run.folder))


def main() -> None:
    """What `python -m seqrl.runs` does; `program` ends the process, too."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(docstring(__name__))
        return
    with errors_in_one_line():
        folders = [Path(word) for word in words] or [OUTPUTS]
        insist_on_folders(folders if words else [])
        found = listed(folders, lambda line: say(f"seqrl: warning: {one_line(line)}", sys.stderr))
        if not found:
            print(f"There are no runs in {', '.join(map(str, folders))}.")
            return
        QuietConsole().print(table(found, wall_time()), soft_wrap=True)


program = partial(to_the_end, main)

if __name__ == "__main__":
    program()
