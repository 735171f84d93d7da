"""The page: one file, with everything in it."""

import json
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from seqrl.inspect.figures import figures
from seqrl.inspect.reel import Reel
from seqrl.text import figure

Report = Mapping[str, Any]
# By which seqrl knows its own pages.
MARK = "seqrl inspect</title>"
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1c20; --soft: #5f636b; --line: #d9dbe0; --card: #f5f6f8;
  --c0: #0072b2; --c1: #d55e00; --c2: #00875f; --c3: #b3558c; --c4: #b07d00; --c5: #3b8fc4; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171b; --ink: #e8e9ec; --soft: #a2a7b0; --line: #363a42;
  --card: #1f2228; --c0: #56b4e9; --c1: #f08a4b; --c2: #3fc79a; --c3: #dd8fbd; --c4: #e6b84c; --c5: #8cc8f0; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  color: var(--ink); background: var(--paper); max-width: 52rem; margin: 2.5rem auto; padding: 0 1.25rem; }
td small { color: var(--soft); display: block; } td:first-child { color: var(--soft); min-width: 5.5rem; }
h1 { font-size: .95rem; font-weight: 600; color: var(--soft); margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.8rem 0 .6rem; }
.answer { font-size: 1.45rem; line-height: 1.42; font-weight: 500; margin: .5rem 0 1.4rem; }
.note, figcaption, footer { color: var(--soft); font-size: .88rem; }
figure { margin: 0; } figcaption { margin-top: .3rem; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 8px;
  margin-bottom: .6rem; }
@media (prefers-color-scheme: dark) { img { filter: brightness(.88); } }
svg { width: 100%; height: auto; display: block; font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
svg.narrow { display: none; }
@media (max-width: 560px) { svg.wide { display: none; } svg.narrow { display: block; } .answer { font-size: 1.2rem; }
  body { margin-top: 1.25rem; padding: 0 1rem; } }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem; margin: 0; }
.cards div { background: var(--card); border-radius: 8px; padding: .6rem .8rem; }
.cards dt { color: var(--soft); font-size: .8rem; line-height: 1.3; }
.cards dd { margin: .1rem 0 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.cards dd small { font-size: .78rem; font-weight: 400; color: var(--soft); display: block; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; } th, td { padding: .3rem .5rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } td.n, th.n { text-align: right; min-width: 5rem; overflow-wrap: anywhere; }
ul { padding-left: 1.1rem; } details { margin-top: 2.4rem; } summary { cursor: pointer; font-weight: 600; }
pre { background: var(--card); padding: .8rem 1rem; border-radius: 8px; font-size: .8rem; overflow-x: auto; }
.tick, .words, .label { fill: var(--soft); } .label { font-weight: 600; }
.words { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
.grid { stroke: var(--line); stroke-width: .7; } .axis { stroke: var(--soft); stroke-width: 1; }
.level { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; }
.mark { stroke-width: 1.2; stroke-dasharray: 5 4; }
.line, .dashed { fill: none; stroke-width: 2.2; stroke-linejoin: round; } .dashed { stroke-width: 1.4;
  stroke-dasharray: 4 3; } .band { stroke: none; opacity: .16; } .key { stroke-width: 2.4; }
""" + "".join(
    f".c{i}{{stroke:var(--c{i})}} .dot.c{i},.band.c{i},.bar.c{i}{{fill:var(--c{i})}} i.c{i}{{background:var(--c{i})}}\n"
    for i in range(6)
)
SWATCH = """i { display: inline-block; width: .7rem; height: .7rem; border-radius: 3px; margin-right: .4rem; }
.legend { margin: 0 0 .5rem; font-size: .85rem; color: var(--soft); display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; }
.legend i { height: 3px; width: 1.1rem; vertical-align: middle; border-radius: 0; } i.dashes { opacity: .55; }
"""


def page(reports: Mapping[str, Report], commands: Sequence[str], film: Reel | str | None = None) -> str:
    """HTML of one run's report, or of several beside each other.

    reports    what inspect.json holds, by the name of the run
    commands   that made it
    film       of a single run, or why there is none; None: not asked for
    """
    names = list(reports)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(', '.join(names))} – {MARK}",
        f"<style>{STYLE}{SWATCH}</style></head><body>",
        *(_head(*next(iter(reports.items()))) if len(reports) == 1 else _heads(reports)),
        *_film(film),
        *(
            f"<section><h2>{escape(it.title)}</h2><figure>{it.chart.legend()}{it.chart.svg(it.title)}"
            f"<figcaption>{escape(it.caption)}</figcaption></figure></section>"
            for it in figures(reports)
        ),
        *(part for name, report in reports.items() for part in _missing(report, name if len(reports) > 1 else "")),
        *_made(reports, commands),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _head(name: str, report: Report) -> Iterator[str]:
    yield f"<h1>{escape(name)}</h1>"
    yield f'<p class="answer">{escape(report["said"])}</p>'
    yield '<dl class="cards">'
    for label, value, more in facts(report):
        small = f"<small>{escape(more)}</small>" if more else ""
        yield f"<div><dt>{escape(label)}</dt><dd>{escape(value)}{small}</dd></div>"
    yield "</dl>"
    yield f'<p class="note">{escape(circumstances(report))}</p>'


def _film(film: Reel | str | None) -> Iterator[str]:
    if isinstance(film, str):
        yield f'<p class="note">There is no film of it. {escape(film)}</p>'
    elif film is not None:
        gif, still = (f"data:image/{kind};base64,{b64encode(data).decode()}" for kind, data in film.images.items())
        yield (
            f'<section><h2>What does it do?</h2><figure><picture><source media="(prefers-reduced-motion)" '
            f'srcset="{still}"><img src="{gif}" alt="{escape(film.shows)}"></picture>'
            f"<figcaption>{escape(film.caption)}</figcaption></figure></section>"
        )


def _heads(reports: Mapping[str, Report]) -> Iterator[str]:
    yield f"<h1>{len(reports)} policies, beside each other</h1>"
    for colour, (name, report) in enumerate(reports.items()):
        yield f'<p><b><i class="c{colour % 6}"></i>{escape(name)}</b><br>{escape(report["said"])}</p>'
    tables = {name: {label: (value, more) for label, value, more in facts(report)} for name, report in reports.items()}
    labels = dict.fromkeys(label for table in tables.values() for label in table)
    yield '<div class="scroll"><table><tr><th></th>'
    yield "".join(f'<th class="n"><i class="c{i % 6}"></i>{escape(name)}</th>' for i, name in enumerate(reports))
    yield "</tr>"
    for label in labels:
        cells = [table.get(label, ("–", "")) for table in tables.values()]
        shown = "".join(f'<td class="n">{escape(it)}<small>{escape(more)}</small></td>' for it, more in cells)
        yield f"<tr><td>{escape(label)}</td>{shown}</tr>"
    yield "</table></div>"
    for name, report in reports.items():
        yield f'<p class="note">{escape(f"{name}: {circumstances(report)}")}</p>'


def facts(report: Report) -> Iterator[tuple[str, str, str]]:
    """The figures at the top of the page: label, value, a few words more."""
    yield "return", figure(report["return"][0]), _between(report["return"])
    if report["window_returns"]:
        zeroed = report["window_returns"]["1"]
        yield "memory zeroed", figure(zeroed[0]), _between(zeroed)
    if swapped := report["memory_swapped"]:
        yield "another's memory", figure(swapped["return"][0]), _between(swapped["return"])
    if report["window"] is not None:
        yield "window", str(report["window"]), "observations"
    if report["temporal_range"]:
        value = figure(report["temporal_range"]["value"])
        yield "temporal range", figure(report["temporal_range"]["policy"]), f"steps; of the value {value}"
    if report["influence"]:
        reach = report["influence"]["policy"]["reach"]
        ends = reach < report["length_max"] - 1
        yield f"influence {'ends' if ends else 'lasts'}", str(reach), "steps back" if ends else "steps, a whole episode"
    if report["contamination_half_life"] is not None:
        yield "a wrong observation's half-life", figure(report["contamination_half_life"]), "steps"
    if report["bptt_length"] is not None:
        yield "trained with gradients over", *_trained(report["bptt_length"], report["rollout_length"])
    if report["gradient_horizon"] is not None:
        steps = report["gradient_horizon"]
        yield "gradient horizon", str(steps), f"step{'s' * (steps > 1)}, of its last checkpoint"
    if report["gradient_cut"]:
        yield "gradient cut off", f"{100 * report['gradient_cut']:.0f} %", "by bptt_length"
    if report["staleness_kl"] is not None:
        yield "stale memory", f"{report['staleness_kl']:.2g}", "nats, after an update"
    if need := report["need"]:
        yield (
            "need of memory",
            f"{100 * need['share']:.1f} %",
            "of surprise, " + ("beyond" if need["is_there"] else "not beyond") + " doubt",
        )


def _trained(length: int, rollout: int | None) -> tuple[str, str]:
    if length or rollout:
        return str(length or rollout), "steps" if length else "steps, the whole rollout"
    return "all", "steps of the episode"


def _between(estimate: Sequence[float | None]) -> str:
    _, low, high = estimate
    return "" if low is None or high is None else f"{figure(low)} to {figure(high)}"


def circumstances(report: Report) -> str:
    """What was played."""
    how = "likeliest" if report["greedy"] else "sampled"
    changed = f" Changed: {'; '.join(report['changed'])}." if report["changed"] else ""
    return (
        f"After {report['iterations']:,} iterations, {report['env_steps']:,} steps; {report['episodes']} episodes of "
        f"{figure(report['length_mean'])} steps on average, {how} actions, seed {report['seed']}.{changed} "
        "Intervals hold with 95 % confidence, for this policy."
    )


def _missing(report: Report, name: str) -> Iterator[str]:
    missing = {key: why for key, why in report["not_measured"].items() if key != "elsewhere"}
    if missing:
        yield f"<h2>Not measured{f': {escape(name)}' if name else ''}</h2><ul>"
        yield from (f"<li><b>{escape(key)}</b>: {escape(why)}</li>" for key, why in missing.items())
        yield "</ul>"


def _made(reports: Mapping[str, Report], commands: Sequence[str]) -> Iterator[str]:
    yield "<details><summary>All figures</summary>"
    for name, report in reports.items():
        yield f"<h2>{escape(name)}</h2><pre>{escape(json.dumps(report, indent=1, ensure_ascii=False))}</pre>"
    yield "</details><h2>How this page was made</h2>"
    yield from (f"<pre>{escape(command)}</pre>" for command in commands)
    yield f"<footer><p>Made with seqrl on {time.strftime('%Y-%m-%d %H:%M')}.</p></footer>"
