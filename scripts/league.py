"""Play the league: every memory cell learns every task that tells cells apart, with nothing given but their names.

python scripts/league.py outputs/league --jobs 2

A sweep for each task and cell, in a folder of its own, as in scripts/exam.py: finished runs are not repeated, and
interrupted ones are resumed. Then two Markdown tables: what final policies return after equal steps, and what the same
runs returned in training after equal seconds, when the fastest cell had done its steps. `python -m seqrl.report
outputs/league` makes a page with the curves of all.

Nothing is tuned for any cell: all of them run with the defaults, which were chosen with an LSTM and with attention.
"""

import statistics
import sys
from collections.abc import Callable, Sequence

import numpy as np
from exam import TASKS as EXAM
from exam import Result, Results, Task, arguments, figure, seeds, sitting, spread

AS_IN_THE_EXAM = "masked_cartpole masked_pendulum repeat_previous_hard memory_chain_100 tmaze_100 noisy_cartpole"
TASKS = {name: EXAM[name] for name in AS_IN_THE_EXAM.split()}
TASKS |= {
    # With fewer steps than in the exam.
    "repeat_first_medium": Task(EXAM["repeat_first_medium"].environment, 1_000_000, 0.8),
    "count_recall": Task(EXAM["count_recall"].environment, 1_000_000, 0.3),
    "autoencode": Task("env=popgym env.id=popgym:popgym-AutoencodeEasy-v0", 1_000_000, -0.283),
}
CELLS = ["lstm", "gru", "mingru", "mingru:2", "matrix", "gtrxl", "attention"]


def at_equal_steps(results: Results) -> str:
    """What final policies return: median, worst and best."""
    return _table(results, lambda name, cell: spread([run.result for run in results[name, cell]]))


def at_equal_seconds(results: Results) -> str:
    """Median return in training when the fastest cell of each task had done all of its steps."""

    def entry(name: str, cell: str) -> str:
        least = min(_seconds(results[name, it]) for it in CELLS if (name, it) in results)
        return figure(statistics.median(_return_after(least, run) for run in results[name, cell]))

    return _table(results, entry)


def _seconds(runs: Sequence[Result]) -> float:
    return statistics.median(run.curve[-1][0] for run in runs)


def _return_after(seconds: float, run: Result) -> float:
    at, returns = np.array(run.curve).T
    return float(np.interp(seconds, at, returns))


def _table(results: Results, entry: Callable[[str, str], str]) -> str:
    played = [cell for cell in CELLS if any((name, cell) in results for name in TASKS)]
    lines = [f"| task, steps | {' | '.join(played)} |", f"| --- |{' --- |' * len(played)}"]
    for name, task in TASKS.items():
        entries = [entry(name, cell) if (name, cell) in results else "" for cell in played]
        if any(entries):
            lines.append(f"| {name}, {task.steps:,} | {' | '.join(entries)} |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(seeds=3)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS, metavar="CELL", help=", ".join(CELLS))
    given = parser.parse_args()
    league = sitting(given)
    pairs = [(name, cell) for name in given.tasks for cell in given.cells]
    codes = [league.train(name, TASKS[name], cell, seeds(given, given.seeds)) for name, cell in pairs]
    results = league.results()
    print(f"At equal steps\n\n{at_equal_steps(results)}\n\nAt equal seconds\n\n{at_equal_seconds(results)}")
    sys.exit(max(codes, default=0))


if __name__ == "__main__":
    main()
