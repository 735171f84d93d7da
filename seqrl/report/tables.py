"""The tables: configurations, comparisons and runs, as CSV and in the terminal."""

import csv
import io
from collections import Counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seqrl.report.findings import Findings, Group, between, number, probability, shown
from seqrl.report.runs import MOST_KEYS, RunRecord, short
from seqrl.text import encoded, printable

Rows = list[dict[str, Any]]


def configurations(findings: Findings) -> Rows:
    """A row for each configuration, the best first; those without a finished run last."""
    told = sorted({name for group in findings.groups for run in group.runs for name in run.told})[:MOST_KEYS]
    rows = []
    for group in sorted(findings.groups, key=lambda group: _rating(group, findings), reverse=True):
        estimate = group.returns
        rows.append(
            dict(zip(findings.study.keys, group.point, strict=True))
            | {
                "runs": len(group.runs),
                "finished": group.finished,
                "return_iqm": float(estimate.value) if estimate else None,
                "return_low": _finite(float(estimate.low)) if estimate else None,
                "return_high": _finite(float(estimate.high)) if estimate else None,
                "reached_threshold": group.reached,
                "steps_to_threshold": _finite(group.steps_to_threshold),
                "seconds_to_threshold": _finite(group.seconds_to_threshold),
                "steps_per_second": _finite(group.steps_per_second),
                "peak_memory_mb": _finite(group.peak_memory_mb),
                "clipped_share": _finite(group.clipped),
                "diverged_share": group.diverged,
                **{name: _mean_of(name, group) for name in told},
            }
        )
    return rows


def comparisons(findings: Findings) -> Rows:
    """A row for each comparison."""
    return [
        {
            "key": c.key,
            "value": c.value,
            "against": c.against,
            "difference": float(c.by.value),
            "low": float(c.by.low),
            "high": float(c.by.high),
            "p_holm": c.p,
            "seeds": min(c.seeds),
            "equal_to_the_last_digit": c.same,
            "verdict": c.verdict,
        }
        for c in findings.comparisons
    ]


def runs(findings: Findings) -> Rows:
    """A row for each run."""
    told = sorted({name for run in findings.study.runs for name in run.told})[:MOST_KEYS]
    return [
        {"folder": printable(str(run.folder)), "seed": run.seed}
        | dict(zip(findings.study.keys, findings.study.point(run), strict=True))
        | {
            "status": run.status,
            "return": _finite(run.score),
            "env_steps": int(run.env_steps[-1]) if len(run.env_steps) else 0,
            "seconds": _finite(float(run.seconds[-1])) if len(run.seconds) else None,
            "steps_per_second": _finite(run.steps_per_second),
            "peak_memory_mb": _finite(run.peak_memory_mb),
            "gradient_cut": _finite(run.gradient_cut),
            "clipped_share": _finite(run.clipped),
            "steps_to_threshold": _finite(run.first(findings.threshold, run.env_steps)),
            **{name: run.told.get(name) for name in told},
            "error": run.facts.get("error"),
        }
        for run in findings.study.runs
    ]


def csv_of(rows: Rows) -> bytes:
    """A table as a file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_inert, rows[0] if rows else []))
    writer.writerows(map(_inert, row.values()) for row in rows)
    return encoded(text.getvalue())


def _inert(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, which may be anybody's, behind an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t")) else value


def statuses(all_runs: list[RunRecord]) -> str:
    """Number of runs by status: 74 finished, 1 failed."""
    return ", ".join(f"{count} {status}" for status, count in Counter(run.status for run in all_runs).items())


def show(findings: Findings, console: Console) -> None:
    """Print the recommendation, the best configurations and the comparisons."""
    console.print(f"\n{findings.recommendation}\n", style="bold", markup=False, soft_wrap=True)
    table = Table(box=None, header_style="dim", padding=(0, 1), pad_edge=False)
    for key in findings.study.keys:
        table.add_column(short(key), no_wrap=True)
    # In how many runs the training return was as high as this at some time.
    threshold = f"reached {number(findings.threshold)}" if np.isfinite(findings.threshold) else "reached"
    for title in ("runs", "return", "95 % interval", threshold, "steps/s", "MB"):
        table.add_column(title, justify="right", no_wrap=True)
    rows = configurations(findings)
    for row in rows[:20]:
        values = ["null" if row[key] is None else str(row[key]) for key in findings.study.keys]
        spread = between(row["return_low"], row["return_high"])
        reached = f"{row['reached_threshold']}/{row['runs']}"
        figures = [cell(row[name]) for name in ("return_iqm", "steps_per_second", "peak_memory_mb")]
        if not row["finished"] and row["return_iqm"] is not None:
            figures[0] = f"in training {figures[0]}"
        table.add_row(
            *map(escape, values), f"{row['finished']}/{row['runs']}", figures[0], spread, reached, *figures[1:]
        )
    # In full width, even in a narrow terminal or a file.
    Console(width=console.measure(table, options=console.options.update(width=1000)).maximum).print(table)
    if len(rows) > 20:
        console.print(f"and {len(rows) - 20} more, in configurations.csv")
    if findings.comparisons:
        console.print()
    for c in findings.comparisons:
        by = f"{number(float(c.by.value))} ({between(float(c.by.low), float(c.by.high))})"
        verdict = c.verdict if c.same == 1 else f"by {by}: {c.verdict}, {probability(c.p)}"
        compared = f"{short(c.key)} {shown(c.key, c.value)} over {shown(c.key, c.against)}"
        console.print(f"  {compared}: {verdict}", markup=False, soft_wrap=True)


def _rating(group: Group, findings: Findings) -> tuple[float, ...]:
    if group.returns is None:
        return (False,)
    returns = float(group.returns.value), group is findings.chosen, float(np.nan_to_num(group.returns.low))
    return (True, group.finished > 0, *returns)


def _mean_of(name: str, group: Group) -> float | None:
    """Mean over a configuration's runs of a number that environments told at the end of episodes."""
    numbers = [run.told[name] for run in group.runs if name in run.told]
    return sum(numbers) / len(numbers) if numbers else None


def cell(value: float | None) -> str:
    """A number as a table shows it; a dash for none."""
    return "–" if value is None else number(value)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
