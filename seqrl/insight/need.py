"""Whether a task needs memory: whether the past foretells what the present observation does not."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from seqrl.insight.probe import NotApplicableError, Probe
from seqrl.networks import Encoder
from seqrl.spaces import parts

# Numbers that an observation, or an action, is reduced to: its principal components.
COMPONENTS = 12
# More numbers are first mixed into as many.
MIXED = 256
# Deviations from the mean at which they are clipped.
OUTLIER = 4.0
# Alternatives that an action may have to be told apart.
CHOICES = 16
# Random features of the present, so that no curve of it is taken for a memory.
WAVES = 160
# Weight of the penalty on coefficients, in steps.
PENALTY = 3.0
FOLDS = 3
# A smaller share is no reason to remember: a deck without replacement foretells a little of its next card.
MATTERS = 0.05
# Surprises beyond so many deviations, or times their median size, are extreme: all else would drown in them.
EXTREME = 4.0
# Episodes, or their parts, below which nothing can be told.
FEWEST = 6
LAGS = (1, 2, 3, 4, 8)
TRACES = (4.0, 16.0, 1e9)


@dataclass(frozen=True)
class Need:
    """Share of the surprise of a step that the past foretells and the present does not.

        surprise   δ = r + γ V(o') − V(o), of a value V of the present observation alone

    In a Markov decision process nothing before o foretells δ once the action is known, whatever the policy and whatever
    V: the share is 0. It is measured on episodes that neither chose what to look at nor were fitted to.

    share     0 or less: none
    error     standard error
    source    what foretells most: the observation some steps back, an average of the past, or the first
    """

    share: float
    error: float
    source: str

    @property
    def is_there(self) -> bool:
        """Whether it is more than chance makes, and not too little to matter."""
        return self.share > max(MATTERS, 3 * self.error)


@torch.no_grad()
def need(probe: Probe) -> Need:
    """Measure whether the task of a probe needs memory, from its observations, actions and rewards.

    Raises NotApplicableError if the observations are no numbers, or if there are too few episodes.
    """
    rollout = probe.rollout
    now, action, group = components(seen(probe)), _actions(probe), _groups(probe)
    surprise, counts = _surprise(probe, _squares(now))
    # Of some episodes, no step counts: those that do are numbered without a gap.
    episodes, group = group[counts].unique(return_inverse=True)
    if len(episodes) < FEWEST:
        raise NotApplicableError(f"there are too few episodes to tell ({len(episodes)} of {FEWEST})")
    pasts = dict(_pasts(now, rollout.valid, rollout.age))
    # Single precision is enough for what a penalty bounds, and twice as fast.
    present = _present(now, action)[counts].float()
    rows = {name: _with_past(now, action, past)[counts].float() for name, past in pasts.items()}
    return _explained(_forms(surprise[counts]).float(), present, rows, group)


def seen(probe: Probe) -> Tensor:
    """What the policy sees at every step, as numbers [T, B, D]."""
    network, observation = probe.network, probe.rollout.observation
    encoder = getattr(getattr(network, "actor", None), "encoder", None)
    if isinstance(encoder, Encoder):
        values = parts(encoder.space, observation)
        flat = []
        for name, reader in zip(encoder.read, encoder.readers, strict=True):
            is_image = not hasattr(reader, "first") and not hasattr(reader, "normalizer")
            value = values[name].flatten(2) if is_image else reader(values[name], torch.float32)
            flat.append(value.double())
        return torch.cat(flat, -1)
    if not observation.is_floating_point():
        raise NotApplicableError("a network of its own reads the observations")
    return observation.flatten(2).double()


def components(x: Tensor) -> Tensor:
    """The principal components [T, B, C] of numbers [T, B, D], each with unit deviation; those that vary."""
    if x.shape[-1] > MIXED:
        generator = torch.Generator().manual_seed(0)
        mix = torch.randn(x.shape[-1], MIXED, generator=generator, dtype=x.dtype).to(x.device)
        x = x @ mix / MIXED**0.5
    flat = x.flatten(0, 1)
    scale = flat.std(0, correction=0)
    varies = scale > 1e-6 * (1 + flat.abs().mean(0))
    flat = (flat[:, varies] - flat[:, varies].mean(0)) / scale[varies]
    if not flat.shape[1]:
        return x.new_zeros(*x.shape[:-1], 0)
    size, direction = torch.linalg.eigh(flat.T @ flat / len(flat))
    kept = (size > 1e-6 * size[-1]).nonzero().squeeze(1)[-COMPONENTS:]
    found: Tensor = (flat @ direction[:, kept] / size[kept].sqrt()).clamp(-OUTLIER, OUTLIER)
    return found.view(*x.shape[:2], -1)


def _actions(probe: Probe) -> Tensor:
    """Actions as numbers [T, B, A]: few choices one-hot."""
    action = probe.rollout.action
    if not action.is_floating_point() and action.dim() == 2 and int(action.max()) < CHOICES:
        return one_hot(action.long(), int(action.max()) + 1).double()
    flat = components((action.unsqueeze(-1) if action.dim() == 2 else action.flatten(2)).double())
    return torch.cat([torch.ones_like(flat[..., :1]), flat], -1)


def _groups(probe: Probe) -> Tensor:
    """Number of the episode of every step [T, B]."""
    begins = (probe.rollout.age == 0) & probe.rollout.valid
    begins[0] = True
    return begins.T.flatten().cumsum(0).view(begins.T.shape).T - 1


def _surprise(probe: Probe, features: Tensor) -> tuple[Tensor, Tensor]:
    """δ of every step [T, B], and where it is known: where the next observation was seen, or nothing follows."""
    rollout, played = probe.rollout, probe.rollout.valid
    gamma = probe.algorithm.settings.gamma
    target = probe.target.double()
    middle = target[played].mean()
    weights = _fit(features[played], target[played] - middle)
    value = features @ weights + middle
    following = torch.cat([value[1:], torch.zeros_like(value[:1])])
    follows = torch.cat([played[1:], torch.zeros_like(played[:1])]) & ~rollout.ended
    surprise = rollout.reward.double() + gamma * following.where(follows, 0) - value
    return surprise, played & (follows | rollout.terminated)


def _forms(surprise: Tensor) -> Tensor:
    """Surprise [M, 1 or 2] without what is extreme for its deviation, and without what is extreme for its median."""
    middle, spread = surprise.mean(), surprise.std(correction=0)
    forms = [surprise.clamp(middle - EXTREME * spread, middle + EXTREME * spread)]
    middle = surprise.median()
    usual = (surprise - middle).abs().median()
    if usual > 1e-9 * surprise.abs().max():
        forms.append(surprise.clamp(middle - EXTREME * usual, middle + EXTREME * usual))
    return torch.stack(forms, 1)


def _pasts(now: Tensor, valid: Tensor, age: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What was seen before every step [T, B, C], in several forms; 0 where the episode is younger."""
    seen = now.where(valid.unsqueeze(-1), 0)
    # Episodes may have begun before the rollout: their first observation is the first one known.
    known = _counted(age, valid)
    for lag in LAGS:
        shifted = torch.cat([torch.zeros_like(seen[:lag]), seen[:-lag]]) if lag < len(seen) else torch.zeros_like(seen)
        yield f"{lag} steps back" if lag > 1 else "1 step back", shifted.where((known >= lag).unsqueeze(-1), 0)
    traces = [torch.zeros_like(seen[0]) for _ in TRACES]
    first = torch.zeros_like(seen[0])
    columns: list[list[Tensor]] = [[] for _ in range(len(TRACES) + 1)]
    for t in range(len(seen)):
        new = (known[t] == 0).unsqueeze(-1)
        first = seen[t].where(new, first)
        traces = [trace.masked_fill(new, 0) for trace in traces]
        for column, value in zip(columns, (*traces, first.masked_fill(new, 0)), strict=True):
            column.append(value)
        traces = [trace * (1 - 1 / steps) + seen[t] for trace, steps in zip(traces, TRACES, strict=True)]
    names = [*(f"an average over some {steps:g} steps" for steps in TRACES[:-1]), "the sum of all", "the first"]
    for name, column in zip(names, columns, strict=True):
        yield name, torch.stack(column)


def _counted(age: Tensor, valid: Tensor) -> Tensor:
    """Steps played before each one [T, B], in its episode and in this rollout."""
    time = torch.arange(len(age), device=age.device).unsqueeze(1)
    return torch.minimum(age, time.expand_as(age)) * valid


def _squares(x: Tensor) -> Tensor:
    """x, and the products of its components."""
    one, other = torch.triu_indices(x.shape[-1], x.shape[-1])
    return _scaled(torch.cat([x, x[..., one] * x[..., other]], -1))


def _present(now: Tensor, action: Tensor) -> Tensor:
    """Features of the present observation and action [T, B, F]."""
    generator = torch.Generator().manual_seed(0)
    width = now.shape[-1]
    direction = torch.randn(width, WAVES, generator=generator, dtype=now.dtype).to(now.device)
    phase = 2 * torch.pi * torch.rand(WAVES, generator=generator, dtype=now.dtype).to(now.device)
    waves = (now @ direction / max(1, width) ** 0.5 + phase).cos()
    return _scaled(torch.cat([_squares(now), waves, action, _products(action, now)], -1))


def _with_past(now: Tensor, action: Tensor, past: Tensor) -> Tensor:
    """Further features with what was seen before [T, B, F]."""
    return _scaled(torch.cat([past, past.square(), _products(action, past), _products(now, past)], -1))


def _products(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(-1) * y.unsqueeze(-2)).flatten(-2)


def _scaled(x: Tensor) -> Tensor:
    """Each with mean 0 and deviation 1; nothing, where nothing varies."""
    flat = x.flatten(0, -2)
    if not flat.numel():
        return x
    centred = x - flat.mean(0)
    return centred / flat.std(0, correction=0).clamp_min(1e-9)


def _fit(features: Tensor, y: Tensor) -> Tensor:
    """Coefficients of a linear model with a small penalty."""
    products = features.T @ features
    products.diagonal().add_(PENALTY + 1e-9 * len(features))
    weights: Tensor = torch.linalg.solve(products, features.T @ y)
    return weights


def _explained(y: Tensor, present: Tensor, pasts: dict[str, Tensor], group: Tensor) -> Need:
    """Share of what is to be foretold that the best of the pasts explains beyond the present.

    Of three parts of the episodes, one is fitted to, one chooses, and the third is measured with both fitted to.

    y       [M, K] in several forms, of which one is chosen, too
    group   [M] number of the episode
    """
    part = group % FOLDS
    y = y - y.mean(0)
    y = y / y.square().mean(0).sqrt().clamp_min(1e-12)
    gain = torch.zeros_like(y[:, 0])
    chosen: list[str] = []
    for fold in range(FOLDS):
        fitted, choosing, measured = (part == (fold + later) % FOLDS for later in range(FOLDS))
        left = _left(y, present, fitted, choosing)
        clear = {}
        for name, past in pasts.items():
            better = left.square() - _left(y, torch.cat([present, past], -1), fitted, choosing).square()
            clear[name] = _clearness(better, group[choosing])
        best = max(clear, key=lambda name: float(clear[name].max()))
        chosen.append(best)
        form = int(clear[best].argmax())
        errors = [_left(y, it, fitted | choosing, measured) for it in (present, torch.cat([present, pasts[best]], -1))]
        gain[measured] = (errors[0].square() - errors[1].square())[:, form]
    share = float(gain.mean())
    error = float(_by_group(gain - share, group).norm()) / len(y)
    return Need(share, error, max(chosen, key=chosen.count))


def _by_group(x: Tensor, group: Tensor) -> Tensor:
    """Sum of x [M, ...] over each group."""
    sums: Tensor = x.new_zeros(int(group.max()) + 1, *x.shape[1:])
    sums.index_add_(0, group, x)
    return sums


def _clearness(gain: Tensor, group: Tensor) -> Tensor:
    """Gain [M, K] in units of its standard error [K], so that a rare large one does not count for much."""
    sums = _by_group(gain, group)
    clearness: Tensor = sums.sum(0) / sums.norm(dim=0).clamp_min(1e-12)
    return clearness


def _left(y: Tensor, features: Tensor, fitted: Tensor, measured: Tensor) -> Tensor:
    """What of y [M, K] a model of these features [M, F], fitted to some of the steps, leaves over at others."""
    known = y[fitted]
    middle = known.mean(0)
    foretold = features[measured] @ _fit(features[fitted], known - middle) + middle
    # No model knows of more than it has seen.
    return y[measured] - torch.minimum(torch.maximum(foretold, known.amin(0)), known.amax(0))
