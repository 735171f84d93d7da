"""What can be read from memory by a linear function.

Ridge regressions from memory, after it has seen the present observation, to observations of the past and to what the
environment tells beside them. Half of the episodes fit a probe, the others judge it.

Source: Alain & Bengio (2017), "Understanding intermediate layers using linear classifier probes".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import Space
from torch import Tensor

from seqrl.insight import NotApplicableError
from seqrl.inspect.episodes import Episodes
from seqrl.runner import Player
from seqrl.spaces import Packed, alternatives, parts
from seqrl.types import State

# Of more numbers in memory, random mixtures are probed; an observation of more numbers is not.
MOST_FEATURES, MOST_NUMBERS = 256, 64
# Steps that a probe is fitted to and judged by, and never fewer than these.
MOST_STEPS, FEWEST_STEPS, FEWEST_EPISODES = 4096, 64, 4
# Strengths of the penalty, relative to the variance of a feature; a part of the first half chooses.
PENALTIES = [1e-6, 1e-4, 1e-2, 1.0]
LAGS = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
OBSERVATION = "observation"


@dataclass(frozen=True)
class Probed:
    """R² of held-out episodes by lag: 1 is all of it, 0 nothing more than its mean.

    memory    from memory
    present   from the present observation alone, which memory must beat to have kept anything
    """

    memory: dict[int, float]
    present: dict[int, float]


def probes(network: Player, episodes: Episodes) -> dict[str, Probed | str]:
    """Probes by what they look for: `observation`, and each number in `info`; or why there is none.

    Raises NotApplicableError if there is no memory, or too few episodes.
    """
    if not network.initial_state(1):
        raise NotApplicableError("the network has no memory")
    if len(episodes.length) < FEWEST_EPISODES:
        raise NotApplicableError(f"it takes at least {FEWEST_EPISODES} episodes to fit and judge a probe")
    sources = {"memory": memories(network, episodes)}
    shown = numbers(episodes.observation, episodes.space)
    # What the environment calls an observation is not what the policy sees.
    targets = {
        f"info.{name}" if name == OBSERVATION else name: told.reshape(*told.shape[:2], -1).cpu()
        for name, told in episodes.info.items()
    }
    if shown is not None:
        sources["present"] = shown
        targets = {OBSERVATION: shown, **targets}
    found: dict[str, Probed | str] = (
        {} if shown is not None else {OBSERVATION: f"it has more than {MOST_NUMBERS} numbers"}
    )
    fitting = {name: it for name, it in targets.items() if it.shape[2] <= MOST_NUMBERS}
    found |= {name: f"it has more than {MOST_NUMBERS} numbers" for name in targets if name not in fitting}
    for names in _alike(fitting):
        found |= _probed(sources, {name: fitting[name] for name in names}, episodes)
    return found


def _alike(targets: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of targets that are known at the same steps, and can share a regression."""
    groups: dict[bytes, list[str]] = {}
    for name, target in targets.items():
        groups.setdefault(target.isfinite().all(2).numpy().tobytes(), []).append(name)
    return list(groups.values())


@torch.no_grad()
def memories(network: Player, episodes: Episodes) -> Tensor:
    """Memory [T, N, F] after each observation, in float64; random mixtures of it where it is large."""
    mix: Tensor | None = None
    rows = []
    for _, _, state in episodes.replay(network):
        row = flat(state)
        if row.shape[1] > MOST_FEATURES and mix is None:
            random = torch.Generator().manual_seed(0)
            mix = torch.randn(row.shape[1], MOST_FEATURES, generator=random, dtype=torch.float64).to(row)
        rows.append(row if mix is None else row @ mix / row.shape[1] ** 0.5)
    return torch.stack(rows).double().cpu()


def flat(state: State) -> Tensor:
    """All numbers of memory [N, F]."""
    return torch.cat([leaf.float().reshape(len(leaf), -1) for leaf in state.values()], 1)


def numbers(observation: Tensor, space: Space[Any]) -> Tensor | None:
    """Observations [T, N, F] as numbers, choices one-hot; None if there are too many."""
    leaves = space.parts if isinstance(space, Packed) else {"": space}
    columns = []
    for name, part in parts(space, observation).items():
        sizes = alternatives(leaves[name])
        part = part.reshape(*observation.shape[:2], -1)
        if sizes and sum(sizes) <= MOST_NUMBERS:
            hot = [torch.nn.functional.one_hot(one.long(), n) for one, n in zip(part.unbind(2), sizes, strict=True)]
            part = torch.cat(hot, 2)
        columns.append(part.double())
    shown = torch.cat(columns, 2).cpu()
    return shown if shown.shape[2] <= MOST_NUMBERS else None


def _probed(
    sources: Mapping[str, Tensor], targets: Mapping[str, Tensor], episodes: Episodes
) -> dict[str, Probed | str]:
    """Probe each source [T, N, F] for targets [T, N, K] of each lag."""
    real, target = episodes.real.cpu(), torch.cat(list(targets.values()), 2)
    found, sizes = {name: Probed({}, {}) for name in targets}, [it.shape[2] for it in targets.values()]
    for lag in _lags(episodes):
        earlier = target[: len(target) - lag]
        known = real[lag:] & earlier.isfinite().all(2)
        for source, it in sources.items():
            explained = r_squared(it[lag:], earlier, known)
            for name, columns in zip(targets, explained.split(sizes), strict=True):
                varying = columns[columns.isfinite()]
                if len(varying):
                    getattr(found[name], source)[lag] = float(varying.mean())
    rare = "it does not vary, or is seen too rarely"
    return {name: it if it.memory else rare for name, it in found.items()}


def _lags(episodes: Episodes) -> Iterator[int]:
    """Lags that enough episodes have steps of."""
    longest = int(episodes.length.double().quantile(0.25))
    yield from (lag for lag in LAGS if lag < max(1, longest))


def r_squared(source: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Shares [K] of the variance of `target` [T, N, K] that a ridge regression on `source` [T, N, F] explains.

    Of episodes that it was not fitted to. NaN where too little varies.

    known   [T, N] bool, the steps that count
    """
    episode = torch.arange(known.shape[1]) % 4
    # Two quarters fit, of which one chooses the penalty first; two judge.
    fit, choose, judge = (known & part for part in (episode == 0, episode == 2, episode % 2 == 1))
    explained = torch.full((target.shape[2],), torch.nan, dtype=torch.float64)
    if min(int(part.sum()) for part in (fit | choose, judge)) < FEWEST_STEPS:
        return explained
    varies = target[judge].var(0, correction=0) > 1e-9 * (1e-9 + target[judge].square().mean(0))
    if not varies.any():
        return explained
    target, best = target[..., varies], 0
    if fit.any() and choose.any():
        best = int(_explained(source, target, fit, choose, PENALTIES).mean(1).argmax())
    explained[varies] = _explained(source, target, fit | choose, judge, PENALTIES[best : best + 1])[0]
    return explained


def _explained(source: Tensor, target: Tensor, fit: Tensor, judge: Tensor, penalties: Sequence[float]) -> Tensor:
    """R² [penalties, K] on some steps of regressions that were fitted to others."""
    x, y, truth = _some(source[fit]), _some(target[fit]), _some(target[judge])
    mean, deviation, centre = x.mean(0), x.std(0, correction=0).clamp(min=1e-8), y.mean(0)
    x, x_judged = (x - mean) / deviation, (_some(source[judge]) - mean) / deviation
    values, vectors = torch.linalg.eigh(x.T @ x)
    along, seen = vectors.T @ (x.T @ (y - centre)), x_judged @ vectors
    variance = (truth - truth.mean(0)).square().mean(0).clamp(min=torch.finfo(torch.float64).tiny)
    rows = []
    for penalty in penalties:
        guess = seen @ (along / (values.clamp(min=0) + penalty * len(x)).unsqueeze(1)) + centre
        rows.append(1 - (guess - truth).square().mean(0) / variance)
    return torch.stack(rows)


def _some(rows: Tensor) -> Tensor:
    """Evenly chosen rows, if there are very many."""
    return rows[:: max(1, -(-len(rows) // MOST_STEPS))]


def table(found: dict[str, Probed | str]) -> dict[str, dict[str, dict[str, float]]]:
    """Probes as inspect.json has them."""
    return {
        name: {
            source: {str(lag): round(value, 6) for lag, value in getattr(it, source).items()}
            for source in ("memory", "present")
        }
        for name, it in found.items()
        if isinstance(it, Probed)
    }
