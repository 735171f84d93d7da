"""Say what runs have found: `python -m seqrl.report outputs/sweeps/<...>`.

Writes report.html, one page that needs nothing beside it, its pictures as PNG and PDF and its tables as CSV; prints a
summary. Folders may hold a sweep, several, or a single run; runs that still go on are taken as they are.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from seqrl.config.program import errors_in_one_line
from seqrl.config.resolvers import folder_name
from seqrl.errors import ConfigError
from seqrl.files import write

EXTRA = "report: needs matplotlib and Jinja2. Install them: pip install 'seqrl[report]'."


def report(folders: Sequence[Path], to: Path, threshold: float | None, watch: float | None) -> bool:
    """Write the report on some folders of runs; return whether any of these goes on.

    watch   seconds until the next report, which the page then waits for
    """
    try:
        from seqrl.report import figures, page
    except ModuleNotFoundError as error:
        raise ConfigError([EXTRA]) from error
    from seqrl.report import findings, runs, tables

    known = runs.found(folders)
    console = Console(highlight=False)
    sections = []
    tasks = runs.by_task(known)
    for task, of_task in tasks.items():
        found = findings.findings(runs.Study(of_task), threshold)
        folder = to / folder_name(task.replace(" ", "_")) if len(tasks) > 1 else to
        folder.mkdir(parents=True, exist_ok=True)
        sections.append(page.Section(task if len(tasks) > 1 else "", found, folder, figures.draw(found, folder)))
        for name in ("configurations", "comparisons", "runs"):
            tables.save(getattr(tables, name)(found), folder / f"{name}.csv")
    goes_on = any(run.status == "running" for run in known)
    again = ["python", "-m", "seqrl.report", *map(str, folders)]
    again += [f"--threshold={threshold:g}"] if threshold is not None else []
    write(to / "report.html", page.page(sections, again, watch if goes_on else None).encode())
    for section in sections:
        if section.task:
            console.print(f"\n{section.task}", style="bold", markup=False)
        tables.show(section.found, console)
    said = f"\n{len(known)} runs: {tables.statuses(known)}. Page: {to / 'report.html'}"
    console.print(said, markup=False, soft_wrap=True)
    return goes_on


def main() -> None:
    """Entry point of `python -m seqrl.report` and `seqrl-report`."""
    parser = argparse.ArgumentParser(
        prog="python -m seqrl.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="where runs lie, such as outputs/sweeps/how_far_back")
    parser.add_argument("--to", type=Path, help="folder to write to; otherwise `report` in the first of them")
    parser.add_argument(
        "--threshold",
        type=float,
        help="training return whose reaching is timed; otherwise nine tenths of the way to the best",
    )
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=60.0,
        metavar="SECONDS",
        help="do it again, every minute, while runs go on",
    )
    arguments = parser.parse_args()
    to = arguments.to or arguments.folders[0] / "report"
    with errors_in_one_line():
        while report(arguments.folders, to, arguments.threshold, arguments.watch) and arguments.watch:
            time.sleep(arguments.watch)


if __name__ == "__main__":
    main()
