"""Report on runs: `python -m seqrl.report outputs/sweeps/<...>`.

Writes report.html, a single self-contained page, with its figures as PNG and PDF and its tables as CSV, and prints a
summary. Each folder may hold one sweep, several, or a single run; runs still going count with what they have so far.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from seqrl.config.begun import named_run
from seqrl.config.program import errors_in_one_line, to_the_end
from seqrl.config.resolvers import folder_name
from seqrl.errors import ConfigError
from seqrl.files import fault, insist_on_own, make_folder, write_together
from seqrl.machine import sleep
from seqrl.metrics.display import QuietConsole
from seqrl.packages import insist_on_temporary_files
from seqrl.text import docstring, encoded, free, one_line, printable, say

EXTRA = "report: needs matplotlib and Jinja2, which are not installed. Install them: pip install 'seqrl[report]'."

PAGE = "report.html"
# By which seqrl knows its own pages and tables; their columns that no other has.
MARK = "seqrl report</title>"
TABLES = {
    "configurations": "runs,finished,return_iqm,return_low",
    "comparisons": "key,value,against,difference",
    "runs": ",status,return,env_steps,seconds",
}
# Seconds between two reports.
LONGEST = 1e6


def report(folders: Sequence[Path], to: Path, threshold: float | None, watch: float | None) -> bool:
    """Write the report on the runs in some folders; return whether any is still running.

    watch   seconds until the next report; the page reloads at that pace
    """
    insist_on_temporary_files()
    try:
        from seqrl.report import figures, page
    except ModuleNotFoundError as error:
        raise ConfigError([EXTRA]) from error
    from seqrl.report import findings, runs, tables

    left_out: list[str] = []
    records = runs.find(folders, lambda line: left_out.append(one_line(line)))
    tasks = {task: runs.Study(of_task) for task, of_task in runs.by_task(records).items()}
    left_out += [study.warning for study in tasks.values() if study.ignored]
    for line in left_out:
        say(f"seqrl: warning: {line}", sys.stderr)
    console = QuietConsole()
    sections = []
    # Before anything is written.
    folders_of = _folders(to, list(tasks))
    for folder in dict.fromkeys([to, *folders_of.values()]):
        _make(folder)
    marks = {f"{name}.csv": mark for name, mark in TABLES.items()}
    marks |= {f"{name}.{kind}": figures.MARK for name in page.TITLES for kind in figures.KINDS}
    _insist_on_own(to, list(folders_of.values()), marks)
    files: dict[Path, bytes] = {}
    for task, study in tasks.items():
        concluded = findings.findings(study, threshold)
        drawn = figures.draw(concluded)
        sections.append(page.Section(task if len(tasks) > 1 else "", concluded, drawn))
        folder = folders_of[task]
        files |= {folder / f"{name}.{kind}": data for name, it in drawn.items() for kind, data in it.data.items()}
        files |= {folder / f"{name}.csv": tables.csv_of(getattr(tables, name)(concluded)) for name in TABLES}
    still_running = any(run.status == "running" for run in records)
    again = ["python", "-m", "seqrl.report", *map(str, folders)]
    again += [f"--threshold={threshold:g}"] if threshold is not None else []
    whole = encoded(page.page(sections, left_out, again, watch if still_running else None))
    write_together({to / PAGE: whole, **files})
    for section in sections:
        if section.task:
            console.print(f"\n{section.task}", style="bold", markup=False)
        tables.show(section.findings, console)
    summary = printable(
        f"\n{len(records)} run{'s' if records[1:] else ''}: {tables.statuses(records)}. Page: {to / PAGE}"
    )
    console.print(summary, markup=False, soft_wrap=True)
    return still_running


def _folders(to: Path, tasks: Sequence[str]) -> dict[str, Path]:
    """Where the files of each task go: the folder itself for a single one, or else one beneath it for each."""
    if len(tasks) == 1:
        return {tasks[0]: to}
    taken, folders = {PAGE}, dict[str, Path]()
    for task in tasks:
        # What may be anybody's: it could be nothing but dots, or the same as another in letters that a folder may have.
        name = folder_name(task.replace(" ", "_"), 200).strip(".") or "task"
        # Some file systems take letters of either case for the same.
        own = free(name.casefold(), taken, "{}-{}")
        taken.add(own)
        folders[task] = to / (name + own[len(name) :])
    return folders


def _make(folder: Path) -> None:
    try:
        make_folder(folder)
    except OSError as error:
        raise ConfigError([f"report: {folder} {fault(error)}. Choose another folder with --to."]) from error


def _insist_on_own(to: Path, folders: Sequence[Path], marks: Mapping[str, str]) -> None:
    try:
        insist_on_own(to, {PAGE: MARK})
        for folder in folders:
            insist_on_own(folder, marks)
    except OSError as error:
        raise ConfigError([f"report: {error.filename} {fault(error)}. Choose another folder with --to."]) from error


def _pace(text: str) -> float:
    """Seconds between two reports."""
    seconds = float(text)
    if not 0 < seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"must be between 0 and {LONGEST:,.0f} seconds (got {text})")
    return seconds


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("names no folder")
    return Path(os.path.expanduser(text))


def _refuse(message: str) -> NoReturn:
    raise ConfigError([f"report: {message}. Run python -m seqrl.report --help for the arguments."])


def main() -> None:
    """What `python -m seqrl.report` does; `program` ends the process, too."""
    parser = argparse.ArgumentParser(
        prog="python -m seqrl.report",
        description=docstring(__name__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders",
        type=_folder,
        nargs="+",
        help="folders that hold runs, such as outputs/sweeps/how_far_back; latest: the newest run",
    )
    parser.add_argument("--to", type=_folder, help="folder to write to; default: `report` in the first folder")
    parser.add_argument(
        "--threshold",
        type=float,
        help="time runs until their training return reaches this; default: nine tenths of the way to the best",
    )
    parser.add_argument(
        "--watch",
        type=_pace,
        nargs="?",
        const=60.0,
        metavar="SECONDS",
        help="write the report again every 60 (or SECONDS) seconds while runs are going",
    )
    parser.error = _refuse  # type: ignore[method-assign]
    with errors_in_one_line():
        arguments = parser.parse_args()
        folders = [named_run(folder) for folder in arguments.folders]
        to = arguments.to or folders[0] / "report"
        while report(folders, to, arguments.threshold, arguments.watch) and arguments.watch:
            sleep(arguments.watch)


program = partial(to_the_end, main)

if __name__ == "__main__":
    program()
