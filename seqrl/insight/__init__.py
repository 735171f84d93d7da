"""What memory does, in figures: how far gradients reach, how stale stored memory is, whether a task needs memory."""

from seqrl.insight.gradient_cut import GradientCut, gradient, gradient_cut
from seqrl.insight.memories import recomputed
from seqrl.insight.meters import Meters
from seqrl.insight.need import Need, need
from seqrl.insight.probe import NotApplicableError, Probe, untouched
from seqrl.insight.staleness import Staleness, staleness

__all__ = [
    "GradientCut", "Meters", "Need", "NotApplicableError", "Probe", "Staleness", "gradient", "gradient_cut", "need",
    "recomputed", "staleness", "untouched",
]  # fmt: skip
