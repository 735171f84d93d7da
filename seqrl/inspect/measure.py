"""Takes all measurements of one policy, and says of each that was not taken why."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqrl.insight import NotApplicableError
from seqrl.inspect import probes
from seqrl.inspect.contamination import contamination
from seqrl.inspect.episodes import Episodes
from seqrl.inspect.influence import Influence, influence
from seqrl.inspect.players import Halted, Swapped, Windowed
from seqrl.inspect.subject import Subject
from seqrl.inspect.training import KEYS as KEYS_OF
from seqrl.inspect.training import training
from seqrl.inspect.windows import TOLERATED, Windows, summary
from seqrl.run import results
from seqrl.run.build import make_evaluator
from seqrl.run.evaluator import frozen
from seqrl.statistics import Array
from seqrl.text import masked

# Keys of inspect.json that say what was measured; None where it was not, and `not_measured` says why.
KEYS = [
    "memory_is_used", "window", "window_returns", "memory_swapped", "memory_frozen", "temporal_range", "influence",
    "contamination_half_life", "contamination", "probes", "gradient_horizon", "gradient_cut", "gradient_cuts",
    "gradient_chance", "staleness_kl", "need", "elsewhere",
]  # fmt: skip
OF_MEMORY = KEYS[: KEYS.index("gradient_horizon")]
NO_MEMORY = "not applicable: the network has no memory"


@dataclass
class Measured:
    """What inspect.json holds.

    found          by key
    not_measured   why, by key, where there is nothing
    """

    found: dict[str, Any] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def attempt(self, *keys: str) -> Iterator[None]:
        """Note why keys have no value, if what is measured does not apply."""
        try:
            yield
        except NotApplicableError as reason:
            self.not_measured |= dict.fromkeys(keys, f"not applicable: {reason}")

    def json(self) -> dict[str, Any]:
        reasons = {key: why for key, why in self.not_measured.items() if self.found.get(key) is None}
        return {**dict.fromkeys(KEYS), **_finite(self.found), "not_measured": reasons}


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(it) for key, it in value.items()}
    if isinstance(value, list):
        return [_finite(it) for it in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


Advance = Callable[[float, str], None]


def measured(subject: Subject, advance: Advance) -> dict[str, Any]:
    """All measurements of a policy, as inspect.json has them.

    advance   is told, before each, the share that is done and what comes next
    """
    found = Measured()
    with frozen(subject.network):
        advance(0.0, "playing")
        whole, lengths = subject.scores(subject.network)
        found.found |= {
            "episodes": len(whole),
            "greedy": bool(subject.cfg.evaluation.greedy),
            "return": summary(whole),
            "length_mean": float(lengths.mean()),
            "length_max": int(lengths.max()),
            "bptt_length": subject.saved("bptt_length", "algorithm", "sequence_learning"),
            "rollout_length": subject.saved("rollout_length", "runner"),
        }
        if subject.has_memory:
            _tamper(subject, whole, lengths, found, advance)
            advance(0.5, "recording")
            _look_into(subject, subject.record(), found, advance)
        else:
            found.not_measured |= dict.fromkeys(OF_MEMORY, NO_MEMORY)
        _training(subject, found, advance)
        advance(0.97, "playing elsewhere")
        _elsewhere(subject, whole, found)
    return found.json()


def _tamper(subject: Subject, whole: Array, lengths: Array, found: Measured, advance: Advance) -> None:
    """Play with less of memory, with another's, and with one that no longer changes."""

    def play(k: int, episodes: int) -> Array:
        return subject.scores(Windowed(subject.network, k), episodes)[0]

    windows = Windows(play, whole, lengths, subject.batch)
    window = windows.measure(lambda: advance(0.1, f"window of {max(windows.returns)}"))
    if window is None:
        found.not_measured["window"] = windows.reason
    used = results.memory(whole, windows.returns[1])
    found.found |= {
        "memory_is_used": {"used": is_used(**used), **used, "verdict": results.verdict(**used)},
        "window": window,
        "window_returns": windows.table(),
    }
    advance(0.35, "memory of another episode")
    if subject.batch > 1:
        swapped = subject.scores(Swapped(subject.network))[0]
        lost = results.memory(whole, swapped)
        found.found["memory_swapped"] = {"return": summary(swapped), **lost}
    else:
        found.not_measured["memory_swapped"] = "not applicable: it takes two episodes side by side"
    advance(0.4, "memory that no longer changes")
    steps = [2**power for power in range(20) if 2**power < lengths.max()]
    frozen_at = {str(t): summary(subject.scores(Halted(subject.network, t))[0]) for t in steps}
    found.found["memory_frozen"] = {"0": summary(windows.returns[1]), **frozen_at}


def is_used(return_lost: float, interval: list[float] | None, episodes: int) -> bool | None:
    """Whether memory is used; None if too few episodes were played to say."""
    if interval is None or episodes < results.FEWEST:
        return None
    return interval[0] > 0


def _look_into(subject: Subject, episodes: Episodes, found: Measured, advance: Advance) -> None:
    """See recorded episodes again: what influences, what disturbs, and what memory holds."""
    advance(0.55, "influence of earlier observations")
    with found.attempt("temporal_range", "influence"):
        by_output = influence(subject.network, episodes)
        found.found["temporal_range"] = {name: it.range for name, it in by_output.items()}
        found.found["influence"] = {name: _profile(it) for name, it in by_output.items()}
    advance(0.75, "wrong observations")
    with found.attempt("contamination", "contamination_half_life"):
        harm = contamination(subject.network, episodes)
        found.found["contamination"] = {"kl": harm.kl.tolist()}
        found.found["contamination_half_life"] = harm.half_life
        if harm.half_life is None:
            steps = len(harm.kl) - 1
            found.not_measured["contamination_half_life"] = f"not forgotten within the {steps} steps that were seen"
    advance(0.85, "probes of memory")
    with found.attempt("probes"):
        read = probes.probes(subject.network, episodes)
        found.found["probes"] = probes.table(read)
        found.not_measured |= {
            # Unlike all other keys here, the environment has chosen the name.
            f"probes.{masked(name)}": f"not applicable: {it}"
            for name, it in read.items()
            if isinstance(it, str)
        }
        if episodes.fault or not episodes.info:
            why = episodes.fault or "the environment tells nothing in info"
            found.not_measured["probes.info"] = f"not applicable: {why}"


def _training(subject: Subject, found: Measured, advance: Advance) -> None:
    """Ask what the last checkpoint would learn with."""
    advance(0.88, "gradients of the last checkpoint")
    with found.attempt(*(key for keys in KEYS_OF.values() for key in keys)):
        measured, reasons = training(subject)
        found.found |= measured
        for name, why in reasons.items():
            found.not_measured |= dict.fromkeys(KEYS_OF[name], f"not applicable: {why}")


def _profile(it: Influence) -> dict[str, Any]:
    return {"weights": it.weights.tolist(), "reach": it.reach}


def _elsewhere(subject: Subject, whole: Array, found: Measured) -> None:
    """Return with other values of a key of the environment."""
    asked = subject.elsewhere
    if asked is None:
        found.not_measured["elsewhere"] = "not asked for: env.<key>=[a,b,c] plays with each of several values"
        return
    returns = {}
    for value, cfg in asked.cfgs.items():
        with closing(make_evaluator(cfg, subject.device)) as evaluator:
            returns[value] = evaluator.scores(subject.network)[0].numpy()
    worth = found.found["memory_is_used"]["return_lost"] if "memory_is_used" in found.found else abs(whole.mean())
    least = whole.mean() - TOLERATED * max(worth, 0)
    found.found["elsewhere"] = {
        asked.key: {
            "trained": str(asked.trained),
            "returns": {value: summary(it) for value, it in returns.items()},
            "holds": [value for value, it in returns.items() if np.mean(it) >= least],
        }
    }
