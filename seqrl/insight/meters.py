"""The meters of a run: what they measure during some of its updates, without a trace in what is learned."""

import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor

from seqrl.algorithms.base import Observer, SequenceAlgorithm
from seqrl.insight.gradient_cut import GradientCut, gradient_cut
from seqrl.insight.need import Need, need
from seqrl.insight.probe import NotApplicableError, Probe, untouched
from seqrl.insight.staleness import Staleness, staleness
from seqrl.machine import perf_counter
from seqrl.types import Rollout, State

Row = dict[str, float]
# Steps of the probe whose need of memory is measured: no gradient is computed for it, and more of them say more.
NEED_STEPS = 2048


class Meters(Observer):
    """Measures once in every `interval` updates, in the middle of it, and at the first the need of memory; 0: never.

    A run that ends before the first middle is measured at half of its budget.

    A beginner's policy tries everything, so that what the past foretells is seen best.

    seconds   that the latest measurement took
    reasons   why a measure is absent from it, by the measure's name
    cut, stale, needs   what was found so far, the latest last; those that apply
    """

    def __init__(self, interval: int = 0) -> None:
        self.interval = interval
        self.seconds = 0.0
        self.reasons: dict[str, str] = {}
        self.cuts: list[GradientCut] = []
        self.stale: list[Staleness] = []
        self.needs: list[Need] = []
        self._only_need = False
        self._probe: Probe | None = None
        self._row: Row | None = None

    def ready_for(self, update: int, is_half_time: bool = False) -> "Meters | None":
        """These meters, if they measure during this update, counted from 1.

        is_half_time   whether half of the run's budget is spent with this update: a run that is too short to be
                       measured otherwise is measured then
        """
        in_the_middle = self.interval > 0 and update % self.interval == self.interval // 2
        in_the_middle |= self.interval > 0 and is_half_time and update < self.interval // 2
        # What a network has not learned to remember sends back no gradient.
        self._only_need = not in_the_middle
        return self if in_the_middle or (self.interval and update == 1) else None

    def taken(self) -> Row | None:
        """The scalars of the update before this call; None if nothing was measured."""
        row, self._row, self._probe = self._row, None, None
        return row

    def before(
        self, algorithm: SequenceAlgorithm, rollout: Rollout, advantage: Tensor, target: Tensor, progress: float
    ) -> None:
        began = perf_counter()
        self._row, self.reasons = {}, {}

        def measure_need() -> Row:
            return self._need(Probe.cut_from(algorithm, rollout, advantage, target, progress, NEED_STEPS))

        def measure_cut() -> Row:
            self._probe = Probe.cut_from(algorithm, rollout, advantage, target, progress)
            return self._cut(self._probe, algorithm.settings.bptt_length)

        with untouched(algorithm.network):
            self._row |= self._apply("need", measure_need)
            if not self._only_need:
                self._row |= self._apply("gradient_cut", measure_cut)
        self.seconds = perf_counter() - began

    def after(self, stored: State) -> None:
        if (probe := self._probe) is None:
            return
        began = perf_counter()
        assert self._row is not None
        with untouched(probe.network):
            self._row |= self._apply("staleness", lambda: self._staleness(probe, stored))
        self.seconds += perf_counter() - began

    def _cut(self, probe: Probe, length: int) -> Row:
        found = gradient_cut(probe, also=[length])
        self.cuts.append(found)
        return {"memory/gradient_cut": found.of(length), "memory/gradient_horizon": found.horizon}

    def _need(self, probe: Probe) -> Row:
        found = need(probe)
        self.needs.append(found)
        return {"memory/need": found.share}

    def _staleness(self, probe: Probe, stored: State) -> Row:
        # The network has learned since.
        found = staleness(probe.anew(), stored)
        self.stale.append(found)
        return {"memory/staleness_kl": found.kl, "memory/staleness_value": found.value}

    def _apply(self, name: str, measure: Callable[[], Row]) -> Row:
        """What is measured; {} where it does not apply, with the reason. No measurement may end a run."""
        try:
            return measure()
        except NotApplicableError as error:
            self.reasons[name] = str(error)
        except Exception as error:
            self.reasons[name] = failure(error)
            logging.getLogger(__name__).warning("insight: %s could not be measured: %s.", name, self.reasons[name])
        return {}


def failure(error: Any) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
