"""The figures of the page, each of one run or of several on top of each other."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqrl.inspect.chart import Chart, Line
from seqrl.text import figure

Report = Mapping[str, Any]
# Positions of an axis that gets a tick at each.
FEW = 12
# Lines of one chart; more would be a tangle.
MOST = 6


@dataclass(frozen=True)
class Figure:
    """A chart with its title, and what a reader must know of it."""

    title: str
    caption: str
    chart: Chart


def figures(reports: Mapping[str, Report]) -> Iterator[Figure]:
    """All that can be drawn of some runs, by their names."""
    for key, draw in DRAWN.items():
        having = {name: report for name, report in reports.items() if report[key] is not None}
        if having and (found := draw(having)) is not None and found.chart.lines:
            yield found
    yield from _elsewhere(reports)
    for name, report in reports.items():
        if report["probes"]:
            yield from _probes(report["probes"], name if len(reports) > 1 else "")


def _window(reports: Mapping[str, Report]) -> Figure | None:
    measured = sorted({int(k) for report in reports.values() for k in report["window_returns"] if k != "all"})
    position = {str(k): math.log2(k) for k in measured}
    position["all"] = math.log2(measured[-1]) + 1
    ticks = {at: k for k, at in position.items() if k == "all" or at.is_integer()}
    lines, levels, label = _returns(reports, "window_returns", position)
    marks = [
        (math.log2(report["window"]), _mark("window", report["window"], reports), colour)
        for colour, report in enumerate(reports.values())
        if report["window"]
    ]
    caption = (
        "Mean return of the same episodes, played with memory rebuilt at every step from the last k observations "
        "alone, the present one included; 1 is memory zeroed before every step. Bands: 95 % intervals. The window is "
        "the smallest k that loses less than 5 % of what memory is worth."
    )
    chart = Chart(lines, "last observations that memory is built from", label, ticks, marks, levels)
    return Figure("How many observations does it need?", caption, chart)


def _returns(
    reports: Mapping[str, Report], key: str, position: Mapping[str, float]
) -> tuple[list[Line], list[tuple[float, str]], str]:
    """Returns by what the axis has, and levels to compare them to; of several runs in units of what memory is worth."""
    if len(reports) == 1:
        (report,) = reports.values()
        whole, zeroed = report["return"][0], report["window_returns"]["1"][0]
        levels = [(whole, "all of memory"), (zeroed, "memory zeroed")]
        line = _line({position[at]: it for at, it in report[key].items()}, 0, "")
        return [line], levels[: 1 + (abs(whole - zeroed) > 0.02 * abs(whole))], "return"
    lines = []
    for colour, (name, report) in enumerate(reports.items()):
        zeroed = report["window_returns"]["1"][0]
        worth = (report["return"][0] - zeroed) / 100
        if report["memory_is_used"]["used"]:
            at = {
                position[at]: [None if it is None else (it - zeroed) / worth for it in estimate]
                for at, estimate in report[key].items()
            }
            lines.append(_line(at, colour, name))
    return lines, [(100.0, "all of memory"), (0.0, "memory zeroed")], "return, % of what memory is worth"


def _frozen(reports: Mapping[str, Report]) -> Figure | None:
    places = sorted({int(t) for report in reports.values() for t in report["memory_frozen"]})
    position = {str(t): math.log2(2 * t) if t else -1.0 for t in places}
    lines, levels, label = _returns(reports, "memory_frozen", position)
    if len(reports) == 1:
        (report,) = reports.values()
        swapped = report["memory_swapped"]
        levels = [levels[0], *([(swapped["return"][0], "another episode's memory")] if swapped else [])]
    caption = (
        "Mean return if memory no longer changes once an episode has shown so many observations: where the curve "
        "reaches the upper line, all that must be remembered has been seen. Another episode's memory: before every "
        "step, memory is that of another episode at the same step."
    )
    ticks = {at: t for t, at in position.items()}
    chart = Chart(lines, "observations after which memory is frozen", label, ticks, levels=levels)
    return Figure("When does it see what it must remember?", caption, chart)


def _influence(reports: Mapping[str, Report]) -> Figure | None:
    lines, marks = [], []
    longest = max(_shown_lags(report) for report in reports.values())
    several = len(reports) > 1
    for colour, (name, report) in enumerate(reports.items()):
        for number, output in enumerate(["policy"] if several else ["policy", "value"]):
            weights = report["influence"][output]["weights"][: longest + 1]
            largest = max(weights) or 1.0
            at = {float(lag): weight / largest for lag, weight in enumerate(weights)}
            lines.append(Line(at, colour=colour if several else number, name=name if several else output))
        mean = report["temporal_range"]["policy"]
        marks.append((min(mean, longest), _mark("range", figure(mean), reports), colour))
    caption = (
        "Mean norm of the derivative of the policy's logits (and of the value) by the observation k steps back, as a "
        "share of the largest. The temporal range is the mean lag, weighted by these norms; lags whose norm is below "
        "a hundredth of the largest are said to influence nothing. A derivative sees small changes only: a memory "
        "that is saturated may hold what a derivative does not see."
    )
    chart = Chart(lines, "steps back", "influence", _ticks(longest), marks, least=[0.0])
    return Figure("How far back does an action look?", caption, chart)


def _shown_lags(report: Report) -> int:
    """A little further back than anything influences."""
    reach = max(report["influence"][output]["reach"] for output in ("policy", "value"))
    return int(min(len(report["influence"]["policy"]["weights"]) - 1, max(4, 1.25 * reach)))


def _contamination(reports: Mapping[str, Report]) -> Figure | None:
    lines, marks = [], []
    longest = max(_shown_harm(report) for report in reports.values())
    for colour, (name, report) in enumerate(reports.items()):
        kl = report["contamination"]["kl"][: longest + 1]
        at = {float(lag): value for lag, value in enumerate(kl)}
        lines.append(Line(at, colour=colour, name=name if len(reports) > 1 else ""))
        half_life = report["contamination_half_life"]
        if half_life:
            marks.append((min(half_life, longest), _mark("half-life", figure(half_life), reports), colour))
    caption = (
        "A wrong observation, from another episode, is shown once; afterwards the episode's own ones. KL divergence "
        "of the policy from the one that never saw it, in nats, by the steps since. The half-life counts from there "
        "to where the divergence is below half of its largest after step 0 for good."
    )
    chart = Chart(lines, "steps since the wrong observation", "KL, nats", _ticks(longest), marks, least=[0.0])
    return Figure("How long does a wrong observation disturb it?", caption, chart)


def _shown_harm(report: Report) -> int:
    """A little further than there is a hundredth of the largest divergence."""
    kl = report["contamination"]["kl"]
    carried = kl[1:] or [0.0]
    last = max((lag for lag, value in enumerate(kl) if value >= 0.01 * max(max(carried), 1e-12)), default=0)
    return int(min(len(kl) - 1, max(4, 1.25 * last)))


def _gradient(reports: Mapping[str, Report]) -> Figure | None:
    lengths = sorted({int(k) for report in reports.values() for k in report["gradient_cuts"]})
    lines, marks = [], []
    for colour, (name, report) in enumerate(reports.items()):
        at = {math.log2(int(k)): 100 * cut for k, cut in report["gradient_cuts"].items()}
        chance = {math.log2(int(k)): 100 * share for k, share in report["gradient_chance"].items()}
        shows_chance = len(reports) == 1 and len(chance) > 1
        own = "what a cut loses" if shows_chance else ""
        lines.append(Line(at, colour=colour, name=name if len(reports) > 1 else own))
        if shows_chance:
            lines.append(Line(chance, colour=1, name="what chance makes of that", style="dashed"))
        marks.append(
            (math.log2(report["gradient_horizon"]), _mark("horizon", report["gradient_horizon"], reports), colour)
        )
    if len(lengths) < 2:
        return None
    caption = (
        "Share of the last checkpoint's gradient that is lost if it reaches back only so many steps. Chance: what the "
        "two halves of the episodes do not share of that loss, which averages out from update to update. The horizon "
        "is the smallest measured length from which on less than 10 % is lost, or no more than chance makes."
    )
    ticks = {math.log2(k): str(k) for k in lengths}
    chart = Chart(lines, "steps that gradients reach back (bptt_length)", "gradient lost, %", ticks, marks, least=[0.0])
    return Figure("How far must gradients reach?", caption, chart)


def _elsewhere(reports: Mapping[str, Report]) -> Iterator[Figure]:
    """Returns where the environment is another; a figure for each key."""
    found = {name: report["elsewhere"] or {} for name, report in reports.items()}
    for key in dict.fromkeys(key for of_run in found.values() for key in of_run):
        yield _of_key(key, {name: of_run.get(key) for name, of_run in found.items()})


def _of_key(key: str, found: Mapping[str, Any]) -> Figure:
    """found   by run; None where it was not played with other values of this key"""
    values = list(dict.fromkeys(value for it in found.values() if it for value in it["returns"]))
    position = {value: float(index) for index, value in enumerate(values)}
    lines, marks = [], []
    for colour, (name, elsewhere) in enumerate(found.items()):
        if elsewhere is None:
            continue
        at = {position[value]: it for value, it in elsewhere["returns"].items()}
        lines.append(_line(at, colour, name if len(found) > 1 else ""))
        if elsewhere["trained"] in position:
            marks.append((position[elsewhere["trained"]], "trained here", colour))
    caption = f"Mean return where {key} is another, with 95 % intervals; nothing is learned there."
    chart = Chart(lines, key, "return", {at: value for value, at in position.items()}, marks)
    return Figure(f"Does it hold elsewhere? {key.removeprefix('env.')}", caption, chart)


def _probes(probes: Mapping[str, Any], run: str) -> Iterator[Figure]:
    """R² by lag; targets that are many go to further charts."""
    names = list(probes)
    for first in range(0, len(names), MOST):
        lines = []
        lags: set[int] = set()
        for colour, name in enumerate(names[first : first + MOST]):
            for source, style in {"present": "dashed", "memory": "line"}.items():
                at = {_spread(int(lag)): max(0.0, value) for lag, value in probes[name][source].items()}
                lags |= set(map(int, probes[name][source]))
                lines.append(Line(at, colour=colour, name=name if source == "memory" else "", style=style))
        caption = (
            "R² on held-out episodes of ridge regressions from memory to what was observed, or told in info, so many "
            "steps ago: 1 is all of it, 0 nothing (worse than the mean is shown as 0). Dashed: from the present "
            "observation alone; only what lies above it is memory's."
        )
        ticks = {_spread(lag): str(lag) for lag in sorted(lags)}
        chart = Chart([line for line in lines if line.y], "steps ago", "R²", ticks, least=[0.0, 1.0])
        yield Figure(f"What is in memory?{f' {run}' if run else ''}", caption, chart)


def _spread(lag: int) -> float:
    return math.log2(1 + lag)


def _mark(words: str, value: object, reports: Mapping[str, Report]) -> str:
    """Words at a mark; several runs have no room for them."""
    return str(value) if len(reports) > 1 else f"{words} {value}"


def _line(at: Mapping[float, Sequence[float | None]], colour: int, name: str) -> Line:
    """A line of [mean, low, high] by position."""
    low = {x: it[1] for x, it in at.items() if it[1] is not None}
    high = {x: it[2] for x, it in at.items() if it[2] is not None}
    return Line({x: float(it[0] or 0.0) for x, it in at.items()}, low, high, colour, name)


def _ticks(longest: int) -> dict[float, str]:
    step = next(it for it in (1, 2, 5, 10, 20, 50, 100, 200, 500) if longest / it <= FEW)
    return {float(x): str(x) for x in range(0, longest + 1, step)}


# By the key of inspect.json that says whether there is anything to draw.
DRAWN: dict[str, Callable[[Mapping[str, Report]], Figure | None]] = {
    "window_returns": _window,
    "influence": _influence,
    "memory_frozen": _frozen,
    "contamination": _contamination,
    "gradient_cuts": _gradient,
}
