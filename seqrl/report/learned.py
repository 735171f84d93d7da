"""Whether runs learned: whether they return more at the end of training than at its beginning, beyond chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np

from seqrl.loggers.base import RECENT
from seqrl.report.runs import RunRecord, by_seed
from seqrl.statistics import holm

# With fewer episodes, a point of a curve does not say where a run stands.
FEWEST = 10


@dataclass(frozen=True)
class Progress:
    """Mean training return of some runs in their first episodes and in their last.

    error   standard error of `last - first`, an upper bound
    """

    first: float
    last: float
    error: float

    @property
    def p(self) -> float:
        """How often chance would make as large a gain."""
        gain = self.last - self.first
        if not self.error:
            return float(gain <= 0)
        return erfc(gain / self.error / sqrt(2)) / 2


def progress(runs: Sequence[RunRecord]) -> Progress | None:
    """Progress of those runs whose curves show it, one of each seed; None if none's does."""
    showing = [[(run, rows) for run in same if (rows := _ends(run))] for same in by_seed(runs)]
    known = [first for first, *_ in filter(None, showing)]
    if not known:
        return None
    first, last = (float(np.mean([run.returns[rows[side]] for run, rows in known])) for side in (0, -1))
    errors = [_error(run, row) for run, rows in known for row in rows]
    return Progress(first, last, float(np.linalg.norm(errors)) / len(known))


def none_learned(of_groups: Sequence[Progress | None], level: float) -> bool:
    """Whether the curves show that no group gained more than chance makes of as many; False if some show nothing."""
    known = [it.p for it in of_groups if it is not None]
    return len(known) == len(of_groups) > 0 and min(holm(known)) >= level


def _ends(run: RunRecord) -> list[int]:
    """The rows of its curve that are its beginning and its end; none if there are no two."""
    says = (run.episodes >= FEWEST) & np.isfinite(run.returns + run.lowest + run.highest)
    rows: list[int] = np.flatnonzero(says).tolist()
    return [rows[0], rows[-1]] if len(rows) > 1 else []


def _error(run: RunRecord, row: int) -> float:
    """Standard error of the mean return at a row, an upper bound: the largest that its lowest and highest allow."""
    mean, low, high = run.returns[row], run.lowest[row], run.highest[row]
    return sqrt(max(0.0, (high - mean) * (mean - low)) / min(run.episodes[row], RECENT))
