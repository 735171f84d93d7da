"""What the meters say at the end of a run: one sentence each, with a number and a remedy."""

from collections.abc import Iterator
from dataclasses import dataclass

from seqrl.insight.gradient_cut import NEGLIGIBLE, GradientCut
from seqrl.insight.meters import Meters
from seqrl.insight.need import MATTERS, Need
from seqrl.insight.staleness import Staleness

# Episodes of fewer steps are learned from as a whole at little cost.
LONG = 64
# A network that has learned from fewer updates hardly remembers yet, and says nothing of how little it must.
FEW = 30
# Measurements before the last one that are worth a word, if they are a quarter of all.
OFTEN = 3
# KL divergence that stored memory may make: what an update often moves a policy by.
STALE = 0.05
LENGTH = "sequence_learning.bptt_length"


@dataclass(frozen=True)
class Settings:
    """What a run did.

    bptt_length      0: whole episodes
    single_steps     sequence=off
    rollout_length   0: whole episodes
    updates          how many it made
    """

    bptt_length: int
    single_steps: bool
    rollout_length: int
    stale_state: str
    has_memory: bool
    updates: int


def advice(meters: Meters, settings: Settings) -> list[str]:
    """Sentences about what was measured; [] if nothing was, or if all is well."""
    return [
        *(_gradient(meters.cuts, settings) if meters.cuts else ()),
        *(_stale(meters.stale[-1], settings) if meters.stale else ()),
        *(_need(meters.needs, settings) if meters.needs else ()),
    ]


def _gradient(cuts: list[GradientCut], settings: Settings) -> Iterator[str]:
    found = cuts[-1]
    length, horizon = settings.bptt_length or found.longest, found.horizon
    short = [it for it in cuts if it.of(settings.bptt_length) >= NEGLIGIBLE and it.horizon > length]
    now = "sequence=off" if settings.single_steps else f"{LENGTH}={length}"
    sequences = "sequence=truncated " if settings.single_steps else ""
    if found in short:
        better = f"{sequences}{LENGTH}={horizon} would cut {found.cuts.get(horizon, 0.0):.0%}"
        if horizon == found.longest:
            whole = "the rollout" if horizon == settings.rollout_length else "the longest episode"
            better = f"{better}, as many steps as {whole} has"
        yield f"{now} cuts {found.of(settings.bptt_length):.0%} of the gradient; {better}."
    elif settings.bptt_length and len(short) >= max(OFTEN, len(cuts) / 4):
        # A run that has settled for doing without memory has nothing left to cut.
        shares = [f"{it:.0%}" for it in sorted(it.of(settings.bptt_length) for it in short)]
        share = " to ".join(dict.fromkeys([shares[0], shares[-1]]))
        enough = f"{sequences}{LENGTH}={max(it.horizon for it in short)} would have reached far enough"
        yield (
            f"{now} cut {share} of the gradient in {len(short)} of {len(cuts)} measurements, though not in the last; "
            f"{enough}."
        )
    # A network that has not learned to remember yet has a horizon of 1.
    if (
        settings.updates >= FEW
        and not settings.bptt_length
        and found.longest >= LONG
        and 1 < horizon <= found.longest / 4
    ):
        shorter = f"sequence=truncated {LENGTH}={horizon} cuts {found.cuts[horizon]:.0%} of it, and takes less memory"
        yield f"hardly any gradient comes from more than {horizon} steps back, of {found.longest}: {shorter}."


def _stale(found: Staleness, settings: Settings) -> Iterator[str]:
    if found.kl < STALE:
        return
    remedy = {
        "keep": "sequence_learning.stale_state=refresh computes it again before every epoch",
        "burn_in": "a longer sequence_learning.burn_in, or stale_state=refresh, brings it closer",
        "zero": "sequence_learning.stale_state=refresh begins sequences with the memory they had",
        "refresh": "a lower algorithm.learning_rate, or fewer algorithm.minibatches, moves it less within an epoch",
    }[settings.stale_state]
    yield (
        f"memory is stale: with what the last epoch began with, the policy is KL {found.kl:.2g} from that with memory "
        f"computed now, and values differ by {found.value:.2g} deviations of the returns; {remedy}."
    )


def _need(needs: list[Need], settings: Settings) -> Iterator[str]:
    # A strongly curved world that is fully seen may show a little.
    there = [it for it in needs if it.share - 3 * it.error > MATTERS]
    if there and not settings.has_memory:
        most = max(there, key=lambda it: it.share - it.error)
        yield (
            f"memory is needed: {most.source} foretells {most.share:.0%} ± {most.error:.0%} of what the present "
            "observation cannot, and this network has none. network=lstm remembers."
        )
    enough = settings.updates >= FEW and len(needs) > 1
    if settings.has_memory and enough and all(it.share + 3 * it.error < MATTERS for it in needs):
        highest = max(needs, key=lambda it: it.share + it.error)
        yield (
            f"no need of memory was found: the past foretells {max(0.0, highest.share):.0%} ± {highest.error:.0%} of "
            "what the present observation cannot. network=mlp is faster; see whether it does as well."
        )
