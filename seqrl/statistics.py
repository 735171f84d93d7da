"""Interquartile means, stratified bootstrap intervals, and tests by permutation.

Source: Agarwal et al. (2021), Deep reinforcement learning at the edge of the statistical precipice; Holm (1979), A
simple sequentially rejective multiple test procedure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 2000
PERMUTATIONS = 20_000
LEVEL = 0.95
# Of a curve: memory grows with them, the number of runs and that of resamples.
POINTS_AT_ONCE = 10


@dataclass(frozen=True)
class Estimate:
    """A figure, and the interval that holds it with 95 % confidence; the same shape, whatever that is.

    The interval is NaN where a single run says nothing about it.
    """

    value: Array
    low: Array
    high: Array


def interquartile_mean(values: Array, axis: int = 0) -> Array:
    """Mean of the middle half: a quarter of the values, rounded down, is left out at either end."""
    values = np.sort(values, axis=axis)
    count = values.shape[axis]
    cut = count // 4
    return np.asarray(np.take(values, range(cut, count - cut), axis=axis).mean(axis=axis))


def estimate(strata: Sequence[Array]) -> Estimate:
    """Interquartile mean of runs, and its interval by a bootstrap that draws within each stratum.

    strata   [runs, ...] each: runs of one configuration
    """
    value = interquartile_mean(np.concatenate(strata))
    if all(len(stratum) == 1 for stratum in strata):
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    if value.ndim and value.size > POINTS_AT_ONCE:
        # All points of a curve are drawn alike, whatever is done at once.
        pieces = [
            estimate([s[:, i : i + POINTS_AT_ONCE] for s in strata]) for i in range(0, value.size, POINTS_AT_ONCE)
        ]
        return Estimate(value, *(np.concatenate(ends) for ends in zip(*((p.low, p.high) for p in pieces), strict=True)))
    random = np.random.default_rng(0)
    drawn = np.concatenate([s[random.integers(len(s), size=(RESAMPLES, len(s)))] for s in strata], axis=1)
    low, high = _interval(interquartile_mean(drawn, axis=1))
    return Estimate(value, low, high)


def mean(values: Array) -> Estimate:
    """Mean of independent values [n], and its interval by a bootstrap."""
    random = np.random.default_rng(0)
    if len(values) == 1:
        return Estimate(values[0], np.array(np.nan), np.array(np.nan))
    # One by one: there may be many values.
    drawn = [values[random.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    return Estimate(values.mean(), *_interval(np.array(drawn)))


def difference(a: Array, b: Array) -> tuple[Estimate, float]:
    """How much larger the mean of `a` is than that of `b`, and the p-value.

    The p-value is that of a permutation test, two-sided: how often is the difference as large if all are dealt out to
    the two sides anew? Every way of dealing is counted where there are few.

    a, b    [units] and [units], independent of each other
    """
    random = np.random.default_rng(0)
    value = a.mean() - b.mean()
    means = [side[random.integers(len(side), size=(RESAMPLES, len(side)))].mean(1) for side in (a, b)]
    both = np.concatenate([a, b])
    if comb(len(both), len(a)) <= PERMUTATIONS:
        dealt, more = np.array(list(combinations(range(len(both)), len(a)))), 0
    else:
        dealt, more = random.random((PERMUTATIONS, len(both))).argsort(1)[:, : len(a)], 1
    mean = both[dealt].mean(1)
    differences = mean - (both.sum() - mean * len(a)) / len(b)
    # Of equal differences some come out a rounding smaller.
    as_large = np.abs(differences) >= abs(value) - 1e-9 * np.ptp(both)
    interval = _interval(means[0] - means[1]) if len(a) > 1 and len(b) > 1 else (np.array(np.nan), np.array(np.nan))
    return Estimate(value, *interval), float((more + as_large.sum()) / (more + len(dealt)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values as they are when so many comparisons are made at once."""
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for position, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - position)))
        adjusted[index] = largest
    return adjusted.tolist()


def _interval(drawn: Array) -> tuple[Array, Array]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high
