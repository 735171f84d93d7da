"""Line charts as SVG, drawn by hand so that a page needs nothing else; colours are those of the page."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

# A chart is drawn for wide pages and again for narrow ones, whose letters would shrink.
WIDTHS = {"wide": 760, "narrow": 360}
HEIGHT, TOP, BOTTOM, LEFT, RIGHT = 280, 44, 44, 58, 16
# Letters of a label, in pixels each.
LETTER = 6.6
# Height of a line of words, in pixels.
TALL = 14


@dataclass(frozen=True)
class Line:
    """A line over some positions.

    y        by position
    low, high   of an interval around it, if there is one
    colour   of the page's: 0, 1, 2, …
    name     in the legend; "" for none
    style    line, dashed or bars
    """

    y: Mapping[float, float]
    low: Mapping[float, float] = field(default_factory=dict)
    high: Mapping[float, float] = field(default_factory=dict)
    colour: int = 0
    name: str = ""
    style: str = "line"


@dataclass(frozen=True)
class Label:
    """A few words in a chart.

    x, y     where they stand, y on their line
    anchor   start, middle or end: which part of them is at x
    """

    x: float
    y: float
    words: str
    anchor: str = "middle"

    @property
    def ends(self) -> tuple[float, float]:
        wide = LETTER * len(self.words)
        left = self.x - {"start": 0.0, "middle": wide / 2, "end": wide}[self.anchor]
        return left, left + wide

    def touches(self, other: "Label") -> bool:
        (left, right), (others_left, others_right) = self.ends, other.ends
        return left < others_right and others_left < right and abs(self.y - other.y) < TALL

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies behind the words."""
        left, right = self.ends
        return left <= x <= right and self.y - TALL <= y <= self.y + 3


@dataclass(frozen=True)
class Chart:
    """Lines over one axis, and marks on both.

    ticks     what stands below which position
    marks     vertical lines with a few words, by position
    levels    horizontal ones, by height
    least     the y axis holds at least these
    """

    lines: Sequence[Line]
    x_label: str
    y_label: str
    ticks: Mapping[float, str]
    marks: Sequence[tuple[float, str, int]] = ()
    levels: Sequence[tuple[float, str]] = ()
    least: Sequence[float] = ()

    def legend(self) -> str:
        """Names of the lines and their colours, where they have any."""
        named = [line for line in self.lines if line.name]
        keys = (
            f'<span><i class="{"dashes " * (line.style == "dashed")}c{line.colour}"></i>{escape(line.name)}</span>'
            for line in named
        )
        return f'<p class="legend">{"".join(keys)}</p>' if named else ""

    def svg(self, title: str) -> str:
        """The chart for wide pages and for narrow ones."""
        return "".join(self._drawn(title, kind, width) for kind, width in WIDTHS.items())

    def _drawn(self, title: str, kind: str, width: int) -> str:
        return "".join(
            [
                f'<svg class="{kind}" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(title)}">',
                *self._frame(width),
                *(part for line in self.lines for part in self._band(line, width)),
                *self._levels(width),
                *self._marks(width),
                *(part for line in self.lines for part in self._line(line, width)),
                *(text(it.x, it.y, it.words, it.anchor, "words") for it in self._labels(width)),
                "</svg>",
            ]
        )

    @property
    def _reach(self) -> tuple[float, float]:
        """Ends of the x axis."""
        positions = [x for line in self.lines for x in line.y] + list(self.ticks)
        low, high = min(positions), max(positions)
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    @property
    def _range(self) -> tuple[float, float]:
        """Ends of the y axis."""
        heights = [y for line in self.lines for it in (line.y, line.low, line.high) for y in it.values()]
        heights += [*(y for y, _ in self.levels), *self.least]
        low, high = min(heights), max(heights)
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return (low if low in self.least else low - room), high + room

    def _x(self, x: float, width: int) -> float:
        low, high = self._reach
        return LEFT + 8 + (width - LEFT - RIGHT - 16) * (x - low) / (high - low)

    def _y(self, y: float) -> float:
        low, high = self._range
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / (high - low)

    def _frame(self, width: int) -> Iterator[str]:
        for y in nice(*self._range):
            at = self._y(y)
            yield f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            yield text(LEFT - 8, at + 4, f"{y:g}", "end")
        bottom = HEIGHT - BOTTOM
        yield f'<line class="axis" x1="{LEFT}" x2="{width - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        free = -math.inf
        for x, words in sorted(self.ticks.items()):
            at, half = self._x(x, width), LETTER * len(words) / 2
            if at - half >= free:
                yield text(at, bottom + 18, words)
                free = at + half + 6
        yield text((LEFT + width - RIGHT) / 2, HEIGHT - 6, self.x_label, style="label")
        yield text(4, 12, self.y_label, "start", "label")

    def _band(self, line: Line, width: int) -> Iterator[str]:
        positions = sorted(set(line.low) & set(line.high))
        if len(positions) > 1 and line.style != "bars":
            up = [f"{self._x(x, width):.1f},{self._y(line.high[x]):.1f}" for x in positions]
            down = [f"{self._x(x, width):.1f},{self._y(line.low[x]):.1f}" for x in reversed(positions)]
            yield f'<polygon class="band c{line.colour}" points="{" ".join(up + down)}"/>'

    def _line(self, line: Line, width: int) -> Iterator[str]:
        points = [(self._x(x, width), self._y(y)) for x, y in sorted(line.y.items())]
        if line.style == "bars":
            wide = max(1.0, 0.7 * (width - LEFT - RIGHT - 16) / max(1.0, self._reach[1] - self._reach[0]))
            floor = self._y(max(0.0, self._range[0]))
            for x, y in points:
                yield (
                    f'<rect class="bar c{line.colour}" x="{x - min(wide, 26) / 2:.1f}" y="{min(y, floor):.1f}" '
                    f'width="{min(wide, 26):.1f}" height="{abs(floor - y):.1f}"/>'
                )
            return
        yield (
            f'<polyline class="{line.style} c{line.colour}" points="'
            f'{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
        )
        if len(points) <= 24 and line.style == "line":
            for x, y in points:
                yield f'<circle class="dot c{line.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'

    def _levels(self, width: int) -> Iterator[str]:
        for y, _ in self.levels:
            at = self._y(y)
            yield f'<line class="level" x1="{LEFT}" x2="{width - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'

    def _marks(self, width: int) -> Iterator[str]:
        for x, _, colour in sorted(self.marks):
            at = self._x(x, width)
            yield f'<line class="mark c{colour}" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'

    def _labels(self, width: int) -> list[Label]:
        """Words of the marks, above them, and of the levels, where they touch nothing else if there is such a place."""
        placed: list[Label] = []
        for x, words, _ in sorted(self.marks):
            half = LETTER * len(words) / 2
            label = Label(min(max(self._x(x, width), half + 4), width - 4 - half), TOP - 8, words)
            if not any(label.touches(other) for other in placed):
                placed.append(label)
        drawn = [point for line in self.lines for point in self._path(line, width)]
        for y, words in self.levels:
            # Above it or below it, at either end.
            ends = [(width - RIGHT, "end"), (LEFT + 4, "start")]
            places = [Label(x, self._y(y) + off, words, anchor) for x, anchor in ends for off in (-5, 14)]
            taken = placed.copy()

            def crowd(it: Label, taken: list[Label] = taken) -> tuple[bool, bool, int]:
                return it.y > HEIGHT - BOTTOM, any(map(it.touches, taken)), sum(it.holds(*at) for at in drawn)

            placed.append(min(places, key=crowd))
        return placed

    def _path(self, line: Line, width: int) -> Iterator[tuple[float, float]]:
        """Points along a line, a few pixels apart."""
        points = [(self._x(x, width), self._y(y)) for x, y in sorted(line.y.items())]
        for (x0, y0), (x1, y1) in pairwise(points):
            steps = 1 + int(math.hypot(x1 - x0, y1 - y0) / 4)
            yield from ((x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps + 1))


def text(x: float, y: float, words: str, anchor: str = "middle", style: str = "tick") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def nice(low: float, high: float) -> list[float]:
    """A few round numbers between two."""
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next(it for it in (1, 2, 5, 10) if (high - low) / (step * it) <= 6)
    first = math.ceil(low / step)
    return [round(step * it, 12) for it in range(first, math.floor(high / step) + 1)]
