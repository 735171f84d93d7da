"""Conclusions: the best configuration, which differences are real, and a recommendation in one sentence."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from seqrl.report.learned import Progress, none_learned, progress
from seqrl.report.runs import WIDEST, Array, RunRecord, Study, by_seed, short
from seqrl.statistics import Estimate, difference, estimate, holm, least_p, units_to_decide
from seqrl.text import cut, figure

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Group:
    """A configuration, and how its runs did.

    returns                          final return; None until a run has one
    steps_to_threshold, seconds_...  of the median run; infinite if fewer than half of the runs reach it
    progress                         of the runs that count; None if no curve shows it
    """

    point: tuple[Any, ...]
    runs: list[RunRecord]
    returns: Estimate | None
    reached: int
    steps_to_threshold: float
    seconds_to_threshold: float
    progress: Progress | None

    @property
    def finished(self) -> int:
        return sum(run.status == "finished" for run in self.runs)

    @property
    def steps_per_second(self) -> float:
        return median([run.steps_per_second for run in self.runs])

    @property
    def peak_memory_mb(self) -> float:
        return median([run.peak_memory_mb for run in self.runs])

    @property
    def clipped(self) -> float:
        return median([run.clipped for run in self.runs])

    @property
    def diverged(self) -> float:
        """Share of the runs that diverged."""
        return float(np.mean([run.diverged for run in self.runs]))


@dataclass(frozen=True)
class Comparison:
    """Two values of a key, compared where all else is equal.

    by     mean final return with `value` minus that with `against`
    p      from a permutation test over seeds, after Holm's correction for the other values of this key
    seeds  number of seeds with either value
    tests  comparisons that the correction counts
    same   share of the runs that are identical to the last digit with both
    """

    key: str
    value: Any
    against: Any
    by: Estimate
    p: float
    seeds: tuple[int, int]
    same: float
    tests: int = 1

    @property
    def real(self) -> bool:
        return self.p < SIGNIFICANT

    @property
    def too_few(self) -> str:
        """Why so few seeds cannot decide, whatever their returns, and how many could; "" if these can."""
        if least_p(*self.seeds) * self.tests < SIGNIFICANT:
            return ""
        needed = units_to_decide(self.tests, SIGNIFICANT)
        return f"{_count(min(self.seeds), 'seed')} cannot decide, {needed} could"

    @property
    def verdict(self) -> str:
        if self.same == 1:
            return "the same to the last digit"
        if self.too_few:
            return self.too_few
        return "real" if self.real else "cannot be told from noise"


@dataclass(frozen=True)
class Findings:
    """Everything that the report concludes.

    threshold     runs are timed until their training return first reaches it
    chosen        the best configuration; None until some run has a return
    comparisons   of each of its values with every other value of that key
    """

    study: Study
    threshold: float
    groups: list[Group]
    chosen: Group | None
    comparisons: list[Comparison]

    @property
    def recommendation(self) -> str:
        """What to use, and why, in one sentence; or that nothing was learned."""
        if self.chosen is None or self.chosen.returns is None:
            return "No run has a return yet."
        seeds, runs = len(scores(self.chosen.runs)), len(counted(self.chosen.runs))
        if not any(run.status == "finished" for run in self.chosen.runs):
            return f"No run is finished; best training return so far: {interval(self.chosen.returns)}."
        count = _count(runs, "run") if runs == seeds else f"{_count(seeds, 'seed')}, {_count(runs, 'run')}"
        figures = f"final return {interval(self.chosen.returns)} over {count}"
        use = " and ".join(
            f"{short(k)} = {shown(k, v)}" for k, v in zip(self.study.keys, self.chosen.point, strict=True)
        )
        if self.none_learned and (went := self.chosen.progress):
            return (
                "None learned for certain: no training return rose by more than chance explains. "
                f"The highest{f', {use},' if use else ''} went from {number(went.first)} to "
                f"{number(went.last)}; {figures}."
            )
        if not use:
            return f"One configuration: {figures}."
        compared = [key for key in self.study.keys if any(c.key == key for c in self.comparisons)]
        clauses = [self._of(key) for key in compared] or [f"the best of {_count(len(self.groups), 'configuration')}"]
        undecided = [c for c in self.comparisons if c.same < 1]
        few = undecided and all(c.too_few for c in undecided)
        # No two of them differ in one key alone: another seed might choose another.
        few = few or (len(self.groups) > 1 and not self.comparisons)
        return f"{self._beginning(use) if few else f'Use {use}'}: {figures}; {'; '.join(clauses)}."

    def _beginning(self, use: str) -> str:
        """The beginning of a recommendation that too few seeds make."""
        returns = [float(group.returns.value) for group in self.groups if group.returns is not None]
        if (ties := returns.count(max(returns))) == len(self.groups):
            return f"All {ties} configurations return the same"
        if ties > 1:
            return f"{ties} of {_count(len(self.groups), 'configuration')} return the highest"
        is_over = all(run.status in ("finished", "failed", "pruned") for group in self.groups for run in group.runs)
        return f"The highest return {'' if is_over else 'so far '}has {use}"

    @property
    def none_learned(self) -> bool:
        """Whether no configuration with a finished run returned more in its last episodes than in its first."""
        return none_learned([group.progress for group in self.groups if group.finished], SIGNIFICANT)

    def _of(self, key: str) -> str:
        """How the chosen value of a key compares with its other values."""
        mine = [c for c in self.comparisons if c.key == key]
        clauses = []
        if better := [c for c in mine if c.real and c.by.value > 0]:
            others = _series([f"{shown(key, c.against)} (by {number(float(c.by.value))})" for c in better])
            clauses.append(f"is better than {others}, {probability(max(c.p for c in better), '≤')}")
        if worse := [c for c in mine if c.real and c.by.value < 0]:
            others = _series([shown(key, c.against) for c in worse])
            clauses.append(f"is worse than {others} on average over the other settings")
        if alike := [c for c in mine if not c.real and c.same < 1]:
            few = f" ({alike[0].too_few})" if all(c.too_few for c in alike) else ""
            clauses.append(f"cannot be distinguished from {_series([shown(key, c.against) for c in alike])}{few}")
        if same := [c for c in mine if c.same == 1]:
            clauses.append(f"gives exactly the same runs as {_series([shown(key, c.against) for c in same])}")
        assert self.chosen is not None
        value = shown(key, self.chosen.point[self.study.keys.index(key)])
        return f"{short(key)} {value} {_series(clauses)}"


def findings(study: Study, threshold: float | None = None) -> Findings:
    """Draw the conclusions.

    threshold   time runs until their training return reaches this; None: nine tenths of the way from the start of the
                runs to the best
    """
    if threshold is None:
        threshold = _threshold(study.runs)
    groups = [_group(point, runs, threshold) for point, runs in study.groups.items()]
    means = {key: _level_means(study, key) for key in study.keys}

    def rating(group: Group) -> tuple[float, ...]:
        """Higher is better: finished, not diverging, high return; then steady, fast, good with other settings."""
        assert group.returns is not None
        other_settings = sum(means[key][value] for key, value in zip(study.keys, group.point, strict=True))
        # A single run may be luck.
        low = -np.inf if np.isnan(group.returns.low) else group.returns.low
        estimated = (round(float(figure), 9) for figure in (group.returns.value, low))
        is_finished = any(run.status == "finished" for run in group.runs)
        return (is_finished, -group.diverged, *estimated, -group.steps_to_threshold, other_settings)

    chosen = max((group for group in groups if group.returns is not None), key=rating, default=None)
    values = dict(zip(study.keys, chosen.point, strict=True)) if chosen else {}
    comparisons = [comparison for key, value in values.items() for comparison in _comparisons(study, key, value)]
    return Findings(study, threshold, groups, chosen, comparisons)


def pooled(study: Study, keys: Sequence[str]) -> dict[tuple[Any, ...], list[list[RunRecord]]]:
    """Runs by the values of some keys; within each, a list for each configuration of the other keys."""
    chosen = [study.keys.index(key) for key in keys]
    strata: dict[tuple[Any, ...], list[list[RunRecord]]] = defaultdict(list)
    for point, runs in study.groups.items():
        strata[tuple(point[index] for index in chosen)].append(runs)
    return dict(strata)


def counted(runs: list[RunRecord]) -> list[RunRecord]:
    """Runs whose returns are comparable: the finished ones, or if none is finished, all that have a return."""
    known = [run for run in runs if np.isfinite(run.score)]
    return [run for run in known if run.status == "finished"] or known


def scores(runs: list[RunRecord]) -> Array:
    """Final returns [seeds] of the runs that count."""
    return np.array([np.mean([run.score for run in same]) for same in by_seed(counted(runs))], dtype=np.float64)


def shown(key: str, value: Any) -> str:
    """A value in readable form."""
    if short(key) == "bptt_length" and value == 0:
        return "0 (whole episode)"
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else cut(str(value), WIDEST)


def number(value: float) -> str:
    """A number, rounded to its meaningful digits."""
    if not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if 100 <= abs(value) < 1e9 else figure(value)


def interval(of: Estimate) -> str:
    """An estimate, with its interval if it has one."""
    around = "" if np.isnan(of.low) else f" (95 % interval {between(float(of.low), float(of.high))})"
    return f"{number(float(of.value))}{around}"


def between(low: float | None, high: float | None) -> str:
    """An interval, or a dash if there is none."""
    return "–" if low is None or high is None or np.isnan(low) else f"{number(low)} to {number(high)}"


def probability(p: float, sign: str = "=") -> str:
    return f"p {sign} {p:.3f}" if p >= 0.001 else "p < 0.001"


def _group(point: tuple[Any, ...], runs: list[RunRecord], threshold: float) -> Group:
    final = scores(runs)
    steps = [run.first(threshold, run.env_steps) for run in runs]
    return Group(
        point=point,
        runs=runs,
        returns=estimate([final]) if len(final) else None,
        reached=int(np.isfinite(steps).sum()),
        steps_to_threshold=median(steps),
        seconds_to_threshold=median([run.first(threshold, run.seconds) for run in runs]),
        progress=progress(counted(runs)),
    )


def _threshold(runs: list[RunRecord]) -> float:
    curves = [run.returns for run in runs if len(run.returns)]
    if not curves:
        return np.nan
    start, best = np.median([curve[0] for curve in curves]), max(curve.max() for curve in curves)
    return float(start + 0.9 * (best - start))


def _level_means(study: Study, key: str) -> dict[Hashable, float]:
    """Mean final return with each value of a key, averaged over the configurations of the other keys."""
    means = {}
    for (level,), strata in pooled(study, [key]).items():
        returns = [scores(runs).mean() for runs in strata if len(scores(runs))]
        if returns:
            means[level] = float(np.mean(returns))
    return means


def _comparisons(study: Study, key: str, value: Any) -> list[Comparison]:
    """Compare one value of a key with every other; the p-values are corrected for all of them together."""
    made = []
    for against in study.levels(key):
        pairs = _pairs(study, key, value, against) if against != value else []
        if pairs:
            a, b = (_by_seed(pairs, side) for side in (0, 1))
            by, p = difference(a, b)
            made.append(Comparison(key, value, against, by, p, (len(a), len(b)), _same(pairs)))
    # Identical runs need no test.
    tested = [c for c in made if c.same < 1]
    adjusted = dict(zip(map(id, tested), holm([c.p for c in tested]), strict=True))
    return [replace(c, p=adjusted.get(id(c), 1.0), tests=len(tested)) for c in made]


def _pairs(study: Study, key: str, value: Any, against: Any) -> list[tuple[list[RunRecord], list[RunRecord]]]:
    """Pairs of configurations that differ only in this key, having one value and the other."""
    others = [k for k in study.keys if k != key]
    by_others: dict[tuple[Any, ...], dict[Any, list[RunRecord]]] = defaultdict(dict)
    for runs in study.groups.values():
        by_others[tuple(runs[0].value(k) for k in others)][runs[0].value(key)] = runs
    pairs = [(by[value], by[against]) for by in by_others.values() if value in by and against in by]
    finished = [tuple([run for run in side if run.status == "finished"] for side in pair) for pair in pairs]
    return [(a, b) for a, b in finished if len(scores(a)) and len(scores(b))]


def _by_seed(pairs: list[tuple[list[RunRecord], list[RunRecord]]], side: int) -> Array:
    """Final return [seeds] on one side, averaged over pairs; with a clip that never clips, runs of all are the same."""
    returns: dict[int, list[float]] = defaultdict(list)
    for pair in pairs:
        # Subtract the effect of the other keys, which is the same on both sides.
        level = (scores(pair[0]).mean() + scores(pair[1]).mean()) / 2
        for same in by_seed(run for run in pair[side] if np.isfinite(run.score)):
            returns[same[0].seed].append(float(np.mean([run.score for run in same])) - level)
    return np.array([np.mean(values) for values in returns.values()])


def _same(pairs: list[tuple[list[RunRecord], list[RunRecord]]]) -> float:
    """Share of the seeds whose runs are identical to the last digit on both sides."""
    equal = [a.fingerprint == b.fingerprint for one, other in pairs for a in one for b in other if a.seed == b.seed]
    return float(np.mean(equal)) if equal else 0.0


def median(values: list[float]) -> float:
    """Median of the known values; infinite if more than half are."""
    known = np.sort([value for value in values if not np.isnan(value)])
    if not len(known):
        return np.nan
    lower, upper = known[(len(known) - 1) // 2], known[len(known) // 2]
    return float(lower if np.isinf(upper) else (lower + upper) / 2)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _series(words: list[str]) -> str:
    """a, b and c."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
