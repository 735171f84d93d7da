"""The report as a single self-contained page."""

import base64
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from seqrl.files import TEXT_BYTES
from seqrl.report import tables
from seqrl.report.figures import Drawn
from seqrl.report.findings import Findings, between, probability, shown
from seqrl.report.runs import RunRecord, clean, lines_of, short
from seqrl.run.manifest import is_number
from seqrl.text import duration

TITLES = {
    "learning_curves": "Learning curves",
    "final_return": "Final return of every run",
    "heat_map": "Final return",
    "values": "Final return by value",
    "differences": "Real or noise",
    "costs": "Costs",
    "gradient_cut": "How far back gradients reach",
}


@dataclass(frozen=True)
class Section:
    """The part of the report about one task.

    task      its name; empty if it is the only one
    figures   those drawn, by name
    """

    task: str
    findings: Findings
    figures: Mapping[str, Drawn]

    @property
    def pictures(self) -> list[tuple[str, str, str, int]]:
        """Title, caption, the image as text, and its width on the page."""
        return [
            (title, drawn.caption, *_embedded(drawn.data["png"]))
            for name, title in TITLES.items()
            if (drawn := self.figures.get(name))
        ]

    @property
    def configurations(self) -> list[tuple[dict[str, Any], bool]]:
        """Rows of the table, and whether each is the best."""
        chosen, keys = self.findings.chosen, self.findings.study.keys
        return [
            (row, chosen is not None and [row[key] for key in keys] == list(chosen.point))
            for row in tables.configurations(self.findings)
        ]

    @property
    def runs(self) -> list[dict[str, Any]]:
        return tables.runs(self.findings)


def page(sections: Sequence[Section], left_out: Sequence[str], again: Sequence[str], refresh: float | None) -> str:
    """HTML of the whole report.

    left_out   what could not be read
    again      command that writes the report again
    refresh    seconds after which the browser reloads the page; None: never
    """
    runs = [run for section in sections for run in section.findings.study.runs]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters.update(number=tables.cell, short=short, probability=probability)
    environment.globals.update(shown=shown, between=between)
    template = environment.from_string(files("seqrl.report").joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        sections=sections,
        keys=list(dict.fromkeys(short(key) for section in sections for key in section.findings.study.keys)),
        count=len(runs),
        statuses=tables.statuses(runs),
        left_out=left_out,
        commands=commands(runs),
        circumstances=circumstances(runs),
        again=shlex.join(again),
        made=time.strftime("%Y-%m-%d %H:%M"),
        refresh=refresh,
    )


def _embedded(png: bytes) -> tuple[str, int]:
    """An image as text, and its width on the page, such that letters have the same size in all images."""
    return base64.b64encode(png).decode(), round(0.55 * int.from_bytes(png[16:20], "big"))


def commands(runs: list[RunRecord]) -> list[tuple[str, str]]:
    """The commands that made the runs, and how long they took."""
    took: dict[str, dict[str, dict[str, Any]]] = {}
    for folder in dict.fromkeys(run.folder.parent for run in runs):
        for line in _noted(folder / "commands.jsonl"):
            # When it ends, a command writes another line, with its duration.
            took.setdefault(line["command"], {})[line["begun"]] = line
    return [(command, _time(list(times.values()))) for command, times in took.items()]


def _noted(path: Path) -> list[dict[str, Any]]:
    """Lines of a commands.jsonl that are some."""
    try:
        return [
            {name: clean(line[name]) for name in ("command", "begun", "cores", "seconds") if name in line}
            for line in lines_of(path, TEXT_BYTES)
            if isinstance(line, dict)
            and all(isinstance(line.get(name), str) for name in ("command", "begun"))
            and is_number(line.get("seconds", 0))
        ]
    except OSError:
        return []


def _time(times: list[dict[str, Any]]) -> str:
    # Earlier versions took them from a clock that may be set back.
    seconds = sum(max(0, line.get("seconds", 0)) for line in times)
    begun = f"started {times[0]['begun'][:16].replace('T', ' ')} on {times[-1].get('cores', '?')} cores"
    sittings = f" in {len(times)} sessions" if len(times) > 1 else ""
    ended = "" if all("seconds" in line for line in times) else "; not all finished"
    return f"{begun}, {seconds / 60:.1f} minutes{sittings}{ended}"


def circumstances(runs: list[RunRecord]) -> list[tuple[str, str]]:
    """Source, versions and devices of the runs, every one that occurred, and what the runs cost in total."""
    facts: dict[str, dict[str, None]] = {}

    def add(name: str, value: object) -> None:
        facts.setdefault(name, {})[str(value)] = None

    for run in runs:
        if git := run.facts.get("git"):
            add("commit", git["commit"][:10] + (" with changes" if git["dirty"] else ""))
        for package, version in run.facts.get("versions", {}).items():
            if package in ("seqrl", "python", "torch"):
                add(package, version)
        threads = run.facts.get("threads", "?")
        add("device", f"{run.facts.get('device', '?')}, {threads} thread{'s' * (threads != 1)}")
    spent = sum(float(run.seconds[-1]) for run in runs if len(run.seconds) and np.isfinite(run.seconds[-1]))
    return [(name, ", ".join(values)) for name, values in facts.items()] + [
        ("computing", f"{duration(spent)} in total")
    ]
