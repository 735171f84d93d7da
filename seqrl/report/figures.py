"""The figures: learning curves, final returns, costs, and which differences are real."""

from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from typing import Any

import numpy as np

# It first obeys a matplotlibrc of the working folder, which may be a stranger's, and could start LaTeX.
with chdir("/"):
    import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from seqrl.report.findings import Findings, Group, between, median, number, pooled, probability, scores, shown
from seqrl.report.runs import Array, RunRecord, by_seed, short
from seqrl.statistics import Estimate, estimate

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8.5, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.edgecolor": "#444444",
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.color": "#444444", "ytick.color": "#444444",
    "axes.grid": False, "legend.frameon": False, "figure.dpi": 200, "savefig.bbox": "tight", "pdf.fonttype": 42,
    # A dollar in a value is a dollar.
    "text.parse_math": False,
}  # fmt: skip
# Okabe and Ito (2008): distinct for colour-blind readers, too.
DISTINCT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
PANELS = 8
# Up to this many values, a key's values get a colour, row or column each; beyond, each is a point.
FEW = 12
POINTS = 150
GREY = "#8a8a8a"
# Of the files of a figure, and by which seqrl knows its own.
KINDS, MARK = ("png", "pdf"), "seqrl report"

# Numbers of a configuration besides its return: title, value, whether less is better.
COSTS: list[tuple[str, Callable[[Group], float], bool]] = [
    ("thousand steps to threshold", lambda group: group.steps_to_threshold / 1000, True),
    ("seconds to threshold", lambda group: group.seconds_to_threshold, True),
    ("thousand steps per second", lambda group: group.steps_per_second / 1000, False),
    ("peak memory, MB", lambda group: group.peak_memory_mb, True),
    ("clipped gradients, %", lambda group: 100 * group.clipped, True),
    ("diverged runs, %", lambda group: 100 * group.diverged, True),
]


@dataclass(frozen=True)
class Drawn:
    """A figure: its caption, and its bytes by the kind of file."""

    caption: str
    data: dict[str, bytes]


def draw(findings: Findings) -> dict[str, Drawn]:
    """The figures, by name."""
    found: dict[str, Drawn] = {}
    with mpl.rc_context():
        # The same figures for everybody, whatever their own matplotlibrc says.
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        for name, picture in {
            "learning_curves": learning_curves,
            "final_return": final_return,
            "heat_map": heat_map,
            "values": values,
            "costs": costs,
            "gradient_cut": gradient_cut,
            "differences": differences,
        }.items():
            drawn = picture(findings)
            if drawn is None:
                continue
            figure, caption = drawn
            found[name] = Drawn(caption, {kind: _saved(figure, kind) for kind in KINDS})
            plt.close(figure)
    return found


def _saved(figure: Figure, kind: str) -> bytes:
    data = BytesIO()
    says = {"CreationDate": None, "Creator": MARK} if kind == "pdf" else {"Software": MARK}
    figure.savefig(data, format=kind, metadata=says)
    return data.getvalue()


def learning_curves(findings: Findings) -> tuple[Figure, str] | None:
    """Training return against environment steps: a colour for each value of one key, a panel for each of another."""
    study = findings.study
    if crowded(findings):
        return _all_curves(findings)
    keys = by_importance(findings)[:2]
    if len(keys) == 2 and len(study.levels(keys[1])) > PANELS:
        keys = keys[:1]
    colours = colours_of(study.levels(keys[0]), keys[0]) if keys else {None: DISTINCT[0]}
    panels = study.levels(keys[1]) if len(keys) > 1 else [None]
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(min(7.2, 2 + 2.2 * columns), 0.6 + 2 * rows), sharex=True, sharey=True, squeeze=False
    )  # fmt: skip
    strata = pooled(study, keys)
    for panel, ax in zip(panels, axes.flat, strict=False):
        points = [() if not keys else (level,) if len(keys) == 1 else (level, panel) for level in colours]
        _plot_curves(ax, [strata.get(point, []) for point in points], list(colours.values()))
        if len(keys) > 1:
            ax.set_title(f"{short(keys[1])} = {shown(keys[1], panel)}")
    if not any(ax.lines for ax in axes.flat):
        plt.close(figure)
        return None
    for ax in list(axes.flat)[: len(panels)]:
        if np.isfinite(findings.threshold):
            ax.axhline(findings.threshold, color=GREY, linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
        ax.margins(x=0)
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_visible(False)
    for row in axes:
        row[0].set_ylabel("training return")
    if keys:
        _legend(figure, colours, keys[0])
    figure.tight_layout(w_pad=1.2)
    middle = (axes[-1][0].get_position().x0 + axes[-1][-1].get_position().x1) / 2
    figure.supxlabel("thousand environment steps", fontsize=8, x=middle, y=0.02, va="top")
    others = [short(key) for key in study.keys if key not in keys]
    over = f", pooled over {' and '.join(others)}" if others else ""
    return figure, (
        f"Training return (mean of the latest episodes): interquartile mean over seeds{over}, with its 95 % interval "
        "from a stratified bootstrap; of finished runs only, if there are any. Dashed: the threshold."
    )


def _plot_curves(ax: Axes, strata: list[list[list[RunRecord]]], colours: list[Any]) -> None:
    """Curves with their intervals, each thinner than the one before so that none is hidden."""
    for runs, colour, width in zip(strata, colours, np.linspace(2.0, 1.3, len(colours)), strict=True):
        if curve := _curve(runs):
            steps, mean = curve
            ax.fill_between(steps / 1000, mean.low, mean.high, color=colour, alpha=0.16, linewidth=0)
            ax.plot(steps / 1000, mean.value, color=colour, linewidth=width)


def _legend(figure: Figure, colours: dict[Any, Any], key: str) -> None:
    handles = [Line2D([], [], color=colour, linewidth=2, label=shown(key, level)) for level, colour in colours.items()]
    figure.legend(
        handles=handles, title=short(key), loc="center left", bbox_to_anchor=(1.0, 0.5), title_fontsize=8,
        alignment="left",
    )  # fmt: skip


def _all_curves(findings: Findings) -> tuple[Figure, str] | None:
    """Training return of all configurations, the chosen one in colour."""
    figure, ax = plt.subplots(figsize=(5.2, 2.8))
    # The chosen one last, above the others.
    for group in sorted(findings.groups, key=lambda group: group is findings.chosen):
        if curve := _curve([group.runs]):
            is_chosen = group is findings.chosen
            look: dict[str, Any] = (
                {"color": DISTINCT[0], "linewidth": 2} if is_chosen else {"color": GREY, "alpha": 0.4}
            )
            ax.plot(curve[0] / 1000, curve[1].value, **{"linewidth": 0.8, **look})
    if not ax.lines:
        plt.close(figure)
        return None
    ax.set_xlabel("thousand environment steps")
    ax.set_ylabel("training return")
    ax.margins(x=0)
    return figure, "Training return (mean of the latest episodes) of every configuration; blue: the best one."


def values(findings: Findings) -> tuple[Figure, str] | None:
    """Final return over the values of each key, if there are too many values for a map."""
    if not crowded(findings):
        return None
    keys = findings.study.keys
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(7.2, 0.3 + 1.7 * rows), sharey=True, squeeze=False)
    for index, (key, ax) in enumerate(zip(keys, axes.flat, strict=False)):
        levels = findings.study.levels(key)
        in_order = len(levels) <= FEW or not all(isinstance(level, int | float) for level in levels)
        for group in findings.groups:
            value = group.point[index]
            is_chosen = group is findings.chosen
            finals = [run.score for run in group.runs]
            x = levels.index(value) if in_order else value
            colour = DISTINCT[0] if is_chosen else "#333333"
            ax.plot([x] * len(finals), finals, "o", color=colour, markersize=6 if is_chosen else 3, alpha=0.6, mew=0)
        if in_order:
            ax.set_xticks(range(len(levels)), [shown(key, level) for level in levels], fontsize=6.5)
            ax.set_xlim(-0.5, len(levels) - 0.5)
        elif levels[0] > 0 and levels[-1] > 30 * levels[0]:
            ax.set_xscale("log")
        ax.set_title(short(key))
    for ax in list(axes.flat)[len(keys) :]:
        ax.set_visible(False)
    for row in axes:
        row[0].set_ylabel("final return")
    figure.tight_layout()
    return figure, "Final return of every run over the value of each key; blue: the best configuration."


def crowded(findings: Findings) -> bool:
    """Whether some key has so many values that few are tried twice, as in a search."""
    return any(len(findings.study.levels(key)) > FEW for key in findings.study.keys)


def final_return(findings: Findings) -> tuple[Figure, str] | None:
    """Final return of every run, and the interquartile mean of each configuration with its interval."""
    groups = [group for group in findings.groups if group.returns is not None]
    if not groups:
        return None
    best_first = sorted(groups, key=lambda it: (it.finished > 0, *_value(it), it is findings.chosen))[-40:]
    figure, ax = plt.subplots(figsize=(7.2, 0.7 + 0.21 * len(best_first)))
    for row, group in enumerate(best_first):
        assert group.returns is not None
        is_chosen = group is findings.chosen
        ax.plot(
            [group.returns.low, group.returns.high],
            [row, row],
            color=DISTINCT[0],
            linewidth=5,
            alpha=0.25,
            solid_capstyle="butt",
        )
        ax.plot(group.returns.value, row, "|", color=DISTINCT[0], markersize=9, markeredgewidth=2)
        spread = np.linspace(-0.22, 0.22, len(group.runs)) if len(group.runs) > 1 else np.zeros(1)
        for run, off in zip(sorted(group.runs, key=lambda r: r.seed), spread, strict=True):
            ax.plot(run.score, row + off, "o", color="#333333", markersize=2.4, markeredgewidth=0, alpha=0.8)
        label = ", ".join(_brief(k, v) for k, v in zip(findings.study.keys, group.point, strict=True)) or "all runs"
        ax.annotate(
            label, (0, row), xytext=(-6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="center", fontweight="bold" if is_chosen else "normal", fontsize=7.5,
        )  # fmt: skip
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_ylim(-0.7, len(best_first) - 0.3)
    ax.set_xlabel("return of the final policy")
    if findings.study.keys:
        ax.annotate(
            ", ".join(map(short, findings.study.keys)), (0, 1), xytext=(-6, 5), xycoords="axes fraction",
            textcoords="offset points", ha="right", color="#444444", fontsize=7.5, fontstyle="italic",
        )  # fmt: skip
    unfinished = ""
    if any(not group.finished for group in best_first):
        unfinished = " Configurations without a finished run stand last, with what they reached in training."
    left_out = f" The best {len(best_first)} of {len(groups)} configurations." if len(groups) > len(best_first) else ""
    return figure, (
        "Return of the final policy, best configuration on top: a dot for each run, a bar at the interquartile mean, "
        f"and its 95 % interval.{left_out}{unfinished}"
    )


def heat_map(findings: Findings) -> tuple[Figure, str] | None:
    """Final return over two keys."""
    keys = _plane(findings)
    if keys is None:
        return None
    levels = [findings.study.levels(key) for key in keys]
    estimates = {
        point: estimate(finals)
        for point, strata in pooled(findings.study, keys).items()
        if (finals := [s for s in map(scores, strata) if len(s)])
    }
    cells = _cells(levels, {point: float(e.value) for point, e in estimates.items()})
    if not np.isfinite(cells).any():
        return None
    figure, ax = plt.subplots(figsize=(1.6 + 0.95 * len(levels[1]), 0.9 + 0.5 * len(levels[0])))
    texts = {
        point: f"{number(float(e.value))}\n{between(float(e.low), float(e.high))}" for point, e in estimates.items()
    }
    _heat(ax, keys, levels, cells, texts, less_is_better=False)
    return figure, f"Final return: interquartile mean over seeds{_over(findings, keys)}, and its 95 % interval below."


def costs(findings: Findings) -> tuple[Figure, str] | None:
    """What each configuration cost: a small map for each cost, or bars if one key was swept."""
    keys = _plane(findings) or tuple(by_importance(findings)[:1])
    if not keys or crowded(findings):
        return None
    by_point = _groups_by(findings, keys)
    drawn, constant = [], []
    for title, figure_of, less_is_better in COSTS:
        figures = {point: median([figure_of(group) for group in groups]) for point, groups in by_point.items()}
        known = [value for value in figures.values() if np.isfinite(value)]
        if known and len({number(value) for value in figures.values()}) > 1:
            drawn.append((title, figures, less_is_better))
        elif known:
            constant.append(f"{title}: {number(known[0])}")
    if not drawn:
        return None
    columns = 2 if len(drawn) == 4 else min(3, len(drawn))
    lines = -(-len(drawn) // columns)
    levels = [findings.study.levels(key) for key in keys]
    if len(keys) == 2:
        # Each map at least as wide as the longest title, and labels of rows before the first.
        size = (min(7.2, 1.0 + columns * max(2.1, 0.8 + 0.62 * len(levels[1]))), lines * (0.75 + 0.27 * len(levels[0])))
    else:
        size = (7.2, lines * (0.7 + 0.24 * len(levels[0])))
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True)
    for (title, figures, less_is_better), ax in zip(drawn, axes.flat, strict=False):
        if len(keys) == 2:
            texts = {point: number(value) for point, value in figures.items()}
            _heat(ax, keys, levels, _cells(levels, figures), texts, less_is_better)
        else:
            _bars(ax, keys[0], levels[0], figures)
        ax.set_title(title)
        if ax not in axes[:, 0]:
            ax.set_ylabel("")
    for ax in list(axes.flat)[len(drawn) :]:
        ax.set_visible(False)
    figure.tight_layout(w_pad=1.5, h_pad=1.2)
    same = f" The same for all: {'; '.join(constant)}." if constant else ""
    darker = " Darker is better." if len(keys) == 2 else ""
    return figure, (
        f"Costs: medians over runs{_over(findings, keys)}; – where fewer than half of the runs reach the threshold of "
        f"{number(findings.threshold)}.{darker}{same}"
    )


def gradient_cut(findings: Findings) -> tuple[Figure, str] | None:
    """What each bptt_length cuts off the gradient, beside the return it came to."""
    key = next((key for key in findings.study.keys if key.endswith("bptt_length")), None)
    if key is None or not any(np.isfinite(run.gradient_cut) for group in findings.groups for run in group.runs):
        return None
    levels = findings.study.levels(key)
    of_level = {level: [run for run in findings.study.runs if run.value(key) == level] for level in levels}
    figure, axes = plt.subplots(1, 2, figsize=(min(7.2, 3.2 + 0.5 * len(levels)), 2.2))
    cuts = [[100 * run.gradient_cut for run in runs] for runs in of_level.values()]
    finals = [[run.score for run in runs] for runs in of_level.values()]
    for ax, columns, title in zip(axes, (cuts, finals), ("gradient cut off, %", "final return"), strict=True):
        for x, column in enumerate(columns):
            known = [value for value in column if np.isfinite(value)]
            ax.plot([x] * len(known), known, "o", color="#333333", markersize=3, alpha=0.6, mew=0)
        ax.plot([median(column) for column in columns], color=DISTINCT[0], linewidth=1.5)
        ax.set_xticks(range(len(levels)), [shown(key, level).replace(" (", "\n(") for level in levels])
        ax.set_xlim(-0.5, len(levels) - 0.5)
        ax.set_xlabel(short(key))
        ax.set_title(title)
    axes[0].set_ylim(bottom=0)
    figure.tight_layout(w_pad=1.5)
    return figure, (
        f"What each bptt_length cuts off the gradient, and the return of the final policy: a dot for each run"
        f"{_over(findings, [key])}, a line through the medians. A return that falls where much is cut off says that "
        "gradients must reach further back."
    )


def differences(findings: Findings) -> tuple[Figure, str] | None:
    """How the chosen values compare with the others, all else being equal."""
    compared = [c for c in findings.comparisons if c.same < 1][::-1]
    if not compared:
        return None
    figure, ax = plt.subplots(figsize=(5.2, 0.7 + 0.25 * len(compared)))
    for row, c in enumerate(compared):
        colour = DISTINCT[0] if c.real else GREY
        ax.plot([c.by.low, c.by.high], [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
        ax.plot(c.by.value, row, "o", color=colour, markersize=4.5)
        label = f"{short(c.key)}: {shown(c.key, c.value)} over {shown(c.key, c.against)}"
        ax.annotate(
            label, (0, row), xytext=(-6, 0), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
            va="center", fontsize=7.5,
        )  # fmt: skip
        ax.annotate(
            f"real, {probability(c.p)}" if c.real else f"noise? {probability(c.p)}", (1, row), xytext=(6, 0),
            xycoords=("axes fraction", "data"), textcoords="offset points", va="center", fontsize=7.5, color=colour,
        )  # fmt: skip
    ax.axvline(0, color="#444444", linewidth=0.7)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_ylim(-0.6, len(compared) - 0.4)
    ax.set_xlabel("difference in mean final return")
    return figure, (
        "How much better the best value of each key is than another, averaged over all settings that both were "
        "combined with, and the 95 % interval of a bootstrap over seeds. Blue: real, the permutation test over seeds "
        "rejects at 5 % after Holm's correction for the values of that key. Grey: not distinguishable from noise with "
        "these seeds."
    )


def by_importance(findings: Findings) -> list[str]:
    """Swept keys, starting with the one whose values differ most in return."""
    spread = {}
    for key in findings.study.keys:
        means = [
            float(np.mean([scores(runs).mean() for runs in strata if len(scores(runs))]))
            for strata in pooled(findings.study, [key]).values()
            if any(len(scores(runs)) for runs in strata)
        ]
        spread[key] = np.ptp(means) if means else 0.0
    return sorted(spread, key=lambda key: -spread[key])


def colours_of(levels: Sequence[Any], key: str) -> dict[Any, Any]:
    """A colour for each value: along one scale for numbers, as distinct as possible for names."""
    if len(levels) > 2 and all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels):
        viridis = mpl.colormaps["viridis"]
        return {
            level: viridis(0.92 * (1 - position))
            for level, position in zip(levels, np.linspace(0.05, 1, len(levels)), strict=True)
        }
    many = [mpl.colormaps["tab20"](index) for index in range(20)]
    scale = DISTINCT if len(levels) <= len(DISTINCT) else many
    return {level: scale[index % len(scale)] for index, level in enumerate(levels)}


def _curve(strata: list[list[RunRecord]]) -> tuple[Array, Estimate] | None:
    """Steps [POINTS] and the training return there, as far as every run has got; only finished runs, if any are."""
    runs = [[run for run in group if len(run.returns) > 1] for group in strata]
    if any(run.status == "finished" for group in runs for run in group):
        runs = [[run for run in group if run.status == "finished"] for group in runs]
    runs = [group for group in runs if group]
    if not runs:
        return None
    begin = max(run.env_steps[0] for group in runs for run in group)
    end = min(run.env_steps[-1] for group in runs for run in group)
    if end <= begin:
        return None
    steps = np.linspace(begin, end, POINTS)

    def curve(same: list[RunRecord]) -> Array:
        return np.asarray(np.mean([np.interp(steps, run.env_steps, run.returns) for run in same], axis=0))

    return steps, estimate([np.stack([curve(same) for same in by_seed(group)]) for group in runs])


def _plane(findings: Findings) -> tuple[str, str] | None:
    """The two keys that a map is drawn over: rows, columns."""
    keys = by_importance(findings)
    if len(keys) < 2 or crowded(findings):
        return None
    if len(findings.study.levels(keys[1])) > 2 * len(findings.study.levels(keys[0])):
        return keys[1], keys[0]
    return keys[0], keys[1]


def _over(findings: Findings, keys: Sequence[str]) -> str:
    others = [short(key) for key in findings.study.keys if key not in keys]
    return f" and {' and '.join(others)}" if others else ""


def _groups_by(findings: Findings, keys: Sequence[str]) -> dict[tuple[Any, ...], list[Group]]:
    chosen = [findings.study.keys.index(key) for key in keys]
    by: dict[tuple[Any, ...], list[Group]] = {}
    for group in findings.groups:
        by.setdefault(tuple(group.point[index] for index in chosen), []).append(group)
    return by


def _cells(levels: Sequence[list[Any]], values: dict[tuple[Any, ...], float]) -> Array:
    cells = np.array([values.get(point, np.nan) for point in product(*levels)], dtype=np.float64)
    return np.where(np.isfinite(cells), cells, np.nan).reshape([len(of) for of in levels])


def _heat(
    ax: Axes,
    keys: Sequence[str],
    levels: Sequence[list[Any]],
    cells: Array,
    texts: dict[tuple[Any, ...], str],
    less_is_better: bool,
) -> None:
    rows, columns = levels
    scale = mpl.colormaps["Blues_r" if less_is_better else "Blues"].with_extremes(bad="#f2f2f2")
    low, high = np.nanmin(cells), np.nanmax(cells)
    # A few percent do not deserve a colour, and the ends of the scale, white and near black, show little.
    reach = max(high - low, 0.2 * max(abs(low), abs(high))) or 1.0
    shades = ax.imshow(
        np.ma.masked_invalid(cells), cmap=scale, vmin=low - 0.25 * reach, vmax=high + 0.25 * reach, aspect="auto"
    )
    for row, column in product(range(len(rows)), range(len(columns))):
        text = texts.get((rows[row], columns[column]), "")
        first, _, rest = text.partition("\n")
        red, green, blue, _ = shades.cmap(shades.norm(cells[row, column]))
        # As bright as eyes find it.
        colour = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else "#222222"
        ax.text(column, row - (0.1 if rest else 0), first, ha="center", va="center", color=colour, fontsize=8)
        ax.text(column, row + 0.26, rest, ha="center", va="center", color=colour, fontsize=5.5)
    ax.set_xticks(range(len(columns)), [shown(keys[1], level) for level in columns])
    ax.set_yticks(range(len(rows)), [shown(keys[0], level) for level in rows])
    ax.tick_params(length=0, labelsize=7)
    ax.set_xlabel(short(keys[1]), fontsize=7.5)
    ax.set_ylabel(short(keys[0]), fontsize=7.5)
    for side in ax.spines.values():
        side.set_visible(False)


def _bars(ax: Axes, key: str, levels: list[Any], values: dict[tuple[Any, ...], float]) -> None:
    heights = [values.get((level,), np.nan) for level in levels]
    ax.barh(
        range(len(levels)), [h if np.isfinite(h) else 0 for h in heights], color=DISTINCT[0], height=0.6, alpha=0.85
    )
    for row, height in enumerate(heights):
        ax.annotate(
            number(height), (height if np.isfinite(height) else 0, row), xytext=(3, 0), textcoords="offset points",
            va="center", fontsize=7,
        )  # fmt: skip
    ax.set_yticks(range(len(levels)), [shown(key, level) for level in levels])
    ax.set_ylabel(short(key), fontsize=7.5)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.18)


def _brief(key: str, value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else shown(key, value)


def _value(group: Group) -> tuple[float, float]:
    assert group.returns is not None
    return float(group.returns.value), float(np.nan_to_num(group.returns.low))
