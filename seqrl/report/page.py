"""The report as one page that needs nothing beside it."""

import base64
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from seqrl.report import tables
from seqrl.report.findings import Findings, between, number, probability, shown
from seqrl.report.runs import RunRecord, lines_of, short

TITLES = {
    "learning_curves": "Learning curves",
    "final_return": "Every run's end",
    "heat_map": "Final return",
    "values": "Return over each value",
    "differences": "Real or noise",
    "costs": "What it costs",
}


@dataclass(frozen=True)
class Section:
    """What is said of one task.

    task        its name; empty if there is but one
    folder      holds the pictures
    captions    of the pictures that there are, by name
    """

    task: str
    found: Findings
    folder: Path
    captions: Mapping[str, str]

    @property
    def pictures(self) -> list[tuple[str, str, str, int]]:
        """Title and caption, the picture as text, the width to show it with."""
        return [
            (title, self.captions[name], *_embedded((self.folder / f"{name}.png").read_bytes()))
            for name, title in TITLES.items()
            if name in self.captions
        ]

    @property
    def configurations(self) -> list[tuple[dict[str, Any], bool]]:
        """Rows of the table, and whether that is the recommended one."""
        chosen, keys = self.found.chosen, self.found.study.keys
        return [
            (row, chosen is not None and [row[key] for key in keys] == list(chosen.point))
            for row in tables.configurations(self.found)
        ]

    @property
    def runs(self) -> list[dict[str, Any]]:
        return tables.runs(self.found)


def page(sections: Sequence[Section], again: Sequence[str], refresh: float | None) -> str:
    """HTML of the whole report.

    again      command that makes the report again
    refresh    seconds after which a browser shall look for a newer one; None: never
    """
    runs = [run for section in sections for run in section.found.study.runs]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters.update(number=_number, short=short, probability=probability)
    environment.globals.update(shown=shown, between=between)
    template = environment.from_string(files("seqrl.report").joinpath("page.html.j2").read_text())
    return template.render(
        sections=sections,
        keys=list(dict.fromkeys(short(key) for section in sections for key in section.found.study.keys)),
        count=len(runs),
        statuses=tables.statuses(runs),
        commands=commands(runs),
        circumstances=circumstances(runs),
        again=shlex.join(again),
        made=time.strftime("%Y-%m-%d %H:%M"),
        refresh=refresh,
    )


def _embedded(png: bytes) -> tuple[str, int]:
    """A picture as text, and the width to show it with, so that letters are as large in all."""
    return base64.b64encode(png).decode(), round(0.55 * int.from_bytes(png[16:20], "big"))


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


def commands(runs: list[RunRecord]) -> list[tuple[str, str]]:
    """What made the runs, and how long it took."""
    took: dict[str, dict[str, dict[str, Any]]] = {}
    for folder in dict.fromkeys(run.folder.parent for run in runs):
        for line in lines_of(folder / "commands.jsonl"):
            # At its end, a command leaves another line, with its seconds.
            took.setdefault(line["command"], {})[line["begun"]] = line
    return [(command, _time(list(times.values()))) for command, times in took.items()]


def _time(times: list[dict[str, Any]]) -> str:
    seconds = sum(line.get("seconds", 0) for line in times)
    begun = f"begun {times[0]['begun'][:16].replace('T', ' ')} on {times[-1]['cores']} cores"
    goes = f" in {len(times)} goes" if len(times) > 1 else ""
    ended = "" if all("seconds" in line for line in times) else "; one has not come to its end"
    return f"{begun}, {seconds / 60:.1f} minutes{goes}{ended}"


def circumstances(runs: list[RunRecord]) -> list[tuple[str, str]]:
    """Source, versions and machines of the runs, and what they cost together; all that there were."""
    facts: dict[str, dict[str, None]] = {}

    def add(name: str, value: object) -> None:
        facts.setdefault(name, {})[str(value)] = None

    for run in runs:
        if git := run.facts.get("git"):
            add("commit", git["commit"][:10] + (" with changes" if git["dirty"] else ""))
        for package, version in run.facts.get("versions", {}).items():
            if package in ("seqrl", "python", "torch"):
                add(package, version)
        add("device", f"{run.facts.get('device', '?')}, {run.facts.get('threads', '?')} thread(s)")
    spent = sum(float(run.seconds[-1]) for run in runs if len(run.seconds))
    return [(name, ", ".join(values)) for name, values in facts.items()] + [
        ("computing", f"{spent / 60:,.0f} minutes in all")
    ]
