"""Say in figures what a policy's memory does: `python -m seqrl.inspect run=<folder> [key=value ...]`.

Plays the policy of a run with its memory cut, zeroed, frozen and swapped; follows its outputs back to earlier
observations; and looks for these in its memory. Writes inspect.json, and inspect.html, a page in one file, to the run's
folder, and changes nothing else there. The run may be finished, interrupted or still running.

{usage}
  env.<key>=<value>          change the environment: env.corridor_length=40
  env.<key>=[a,b,c]          play it also with each of these values: 'env.corridor_length=[10,20,40]'

Several runs are measured one after another; a page with all of them beside each other is written to the current folder,
as inspect_runs.html.

Examples:

  python -m seqrl.inspect run=outputs/runs/<date>/<run> checkpoint=best
  python -m seqrl.inspect 'run=[outputs/runs/<date>/<run>,outputs/runs/<date>/<run>]'
"""

import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from seqrl.config.begun import LATEST
from seqrl.config.program import run_on_words, to_the_end
from seqrl.config.words import usage
from seqrl.errors import ConfigError, SeqrlError, UnsavedError, described
from seqrl.files import fault, insist_on_own, write, write_together
from seqrl.inspect.earlier import with_earlier
from seqrl.inspect.measure import measured
from seqrl.inspect.page import MARK, page
from seqrl.inspect.reel import Reel, reel
from seqrl.inspect.request import Request, Words, requested
from seqrl.inspect.said import paragraph
from seqrl.inspect.subject import Subject, subject
from seqrl.machine import perf_counter
from seqrl.metrics.display import Bar, QuietConsole
from seqrl.run import policy
from seqrl.text import docstring, duration, encoded, masked, masked_data, printable

SEVERAL = "inspect_runs.html"
PAGE = "inspect.html"
# By which seqrl knows its own, in the order in which they are written.
FILES = {PAGE: MARK, "inspect.json": '"memory_is_used": '}
# What a page says until its film is made, which may take some seconds, or end the process.
UNFINISHED = "The program ended before it was made."


def say(text: str) -> None:
    QuietConsole().print(printable(text), soft_wrap=True)


def inspect(request: Request) -> None:
    """Measure each run, write what was found to its folder, and a page of all of them if there are several."""
    # An environment may change the working folder.
    here = Path.cwd()
    # Another run may be the latest soon.
    words = [f"run={request.runs[0]}" if word == f"run={LATEST}" else word for word in sys.argv[1:]]
    reports: dict[str, dict[str, Any]] = {}
    for run in request.runs:
        # Before the first is measured.
        policy.configuration(run)
        _insist_on_own(here / run, FILES)
    if len(request.runs) > 1:
        _insist_on_own(here, {SEVERAL: MARK})
    subjects = []
    for run in request.runs:
        subjects.append(it := subject(request, run, say))
        report = _report(it, here / run)
        reports[str(run)] = report
        data = json.dumps(report, allow_nan=False, indent=1).encode()
        # Masked once the configuration has read its variables.
        again = masked(f"python -m seqrl.inspect {shlex.join(words)}")
        html = _page(run, report, again, UNFINISHED if request.video else None)
        _save({here / run / name: content for name, content in zip(FILES, (html, data), strict=True)}, run)
        say(f"Page: {run / 'inspect.html'}; figures: {run / 'inspect.json'}")
    if len(reports) > 1:
        _save({here / SEVERAL: encoded(page(_short(reports), [again]))}, Path())
        say(f"All of them: {SEVERAL}")
    # Whatever happens to a film, all figures are there.
    for it in subjects if request.video else []:
        film = _film(it)
        try:
            write(here / it.run / PAGE, _page(it.run, reports[str(it.run)], again, film))
        except OSError as error:
            say(f"No film: could not write {it.run / PAGE} again: {error.strerror}.")


def _page(run: Path, report: dict[str, Any], again: str, film: Reel | str | None) -> bytes:
    return encoded(page({run.name or str(run): report}, [again], film))


def _film(it: Subject) -> Reel | str:
    """A film of the policy, or why there is none."""
    try:
        return reel(it.cfg, it.device, it.network)
    except Exception as error:
        why = str(error) if isinstance(error, SeqrlError) else described(error)
        say(f"No film: {why}")
        return printable(why)


def _report(it: Subject, folder: Path) -> dict[str, Any]:
    """What inspect.json holds of a run; `folder` is where it is."""
    began = perf_counter()
    say(f"{it.run}, after {it.about['iterations']} iterations, {it.about['env_steps']:,} steps")
    for change in it.about["changed"]:
        say(f"changed: {change}")
    with closing(it.evaluator), Bar() as bar:
        found = measured(it, bar.show)
        for note in it.evaluator.notes:
            say(f"note: {note}")
    report = {"said": "", **it.about, **found, "seconds": round(perf_counter() - began, 1)}
    report = with_earlier(report, folder)
    report["said"] = paragraph(report)
    say(f"\n{report['said']}\n")
    say(f"measured in {duration(report['seconds'])}")
    return masked_data(report)  # type: ignore[no-any-return]


def _insist_on_own(folder: Path, marks: Mapping[str, str]) -> None:
    try:
        insist_on_own(folder, marks)
    except OSError as error:
        raise ConfigError([f"inspect: {error.filename} {fault(error)}. Move it away."]) from error


def _save(files: dict[Path, bytes], shown: Path) -> None:
    """Raise UnsavedError if a file cannot be written; `shown` is its folder as the user would type it."""
    try:
        write_together(files)
    except OSError as error:
        place = shown / Path(error.filename).name
        raise UnsavedError(
            f"inspect: could not write {place}: {error.strerror}. Mend that, and inspect again."
        ) from error


def _short(reports: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same by the shortest names that tell runs apart: those of their folders, or their paths."""
    names = [Path(run).name for run in reports]
    return dict(zip(names, reports.values(), strict=True)) if len(set(names)) == len(names) else reports


def main() -> None:
    """What `python -m seqrl.inspect` does; `program` ends the process, too."""
    run_on_words(lambda: docstring(__name__).format(usage=usage(Words)), lambda words: inspect(requested(words)))


program = partial(to_the_end, main)

if __name__ == "__main__":
    program()
