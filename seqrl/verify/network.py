"""Checks that a network must pass before you train with it.

The network plays a little, and what acting computed is compared with what learning computes, a batch with its parts.
It is checked in float64, with noise added to every parameter so that heads that start near zero hide nothing; a network
that cannot be converted is checked in float32, with wider tolerances.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from seqrl.algorithms.sequences import Sequences, split, step_in_sequence
from seqrl.machine import perf_counter
from seqrl.types import Rollout, SequenceBatch, State
from seqrl.verify.findings import Begin, Check, Finding, Measured, Status, UncheckedError, check, found, holds, small
from seqrl.verify.subject import BATCH, MOST_ROWS, SHORT, Subject

# Seconds that the steps of a long sequence may take one by one.
STEPPING = 3.0
# Steps over which gradients are compared with finite differences.
FEW = 8


def network_checks(subject: Subject, begin: Begin = lambda name: None) -> Iterator[Finding]:
    """Whether the network computes the same either way, and uses nothing that it must not."""
    return found(CHECKS, subject, begin)


@check(
    "the network acts and learns",
    "Fix the network; if it is a layer that needs the statistics of a batch, such as BatchNorm, use LayerNorm.",
)
def runs(subject: Subject) -> Measured:
    """It plays, and its gradients can be computed."""
    if isinstance(subject.played, str):
        return holds(False, subject.played)
    batch = _batch(subject)
    policy, value = subject.network.unroll(batch)
    (policy.log_prob(batch.action) + value).sum().backward()
    subject.network.zero_grad()
    return holds(True, f"{len(batch.action):,} steps in {int((subject.rollout.age == 0).sum())} episodes")


@check("it computes in float64", "Create tensors with the dtype of what you compute with, such as x.new_zeros(…).")
def precise(subject: Subject) -> Measured:
    """Whether the network can be checked to the last digits."""
    if not subject.inexact:
        return Measured(Status.PASS, "checked in float64")
    return Measured(Status.WARN, f"checked in float32, with wider tolerances: {subject.inexact}")


@check(
    "training and evaluation compute the same",
    "Leave out what differs between network.train() and network.eval(), such as BatchNorm and Dropout; LayerNorm does "
    "not.",
)
def modes(subject: Subject) -> Measured:
    """network.train() and network.eval() give the same values: a run learns in one and is evaluated in the other."""
    values = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        empty = subject.network.initial_state(subject.rows)
        remembered = copy.deepcopy(subject.network).step(subject.observation.flip(0), empty)[2]
        for training in (True, False):
            network = copy.deepcopy(subject.network).train(training)
            # With a memory that is not empty, the same for both.
            policy, value, state = network.step(subject.observation, remembered)
            values.append([value, policy.log_prob(policy.mode()), *state.values()])
    return small(_worst(*values), subject.allowed(1e-10, 1e-5), "largest relative Δ")


def _worst(ones: list[Tensor], others: list[Tensor]) -> float:
    """Largest difference of tensors, each relative to its largest number; NaN if there is one."""
    pairs = [(one.double(), other.double()) for one, other in zip(ones, others, strict=True) if one.numel()]
    return float(np.max([float((one - other).abs().max() / other.abs().max().clamp_min(1e-8)) for one, other in pairs]))


def _sequences(subject: Subject, rollout: Rollout | None = None) -> Sequences:
    """The rollout cut into sequences, with the index t * B + b of each step in place of its advantage."""
    rollout = rollout or subject.rollout
    index = torch.arange(rollout.valid.numel(), dtype=torch.float64).view(rollout.valid.shape)
    return split(rollout, index, rollout.value, subject.bptt_length)


def _batch(subject: Subject, rollout: Rollout | None = None) -> SequenceBatch:
    (batch,) = _sequences(subject, rollout).batches(max_steps=None)
    return batch


@check(
    "ratio is 1 before the first update",
    "`unroll` and `step` compute different policies; the usual causes are dropout, batch statistics or memory that is "
    "not reset at an unreal step.",
)
def ratio(subject: Subject) -> Measured:
    """Acting and learning compute the same policy."""
    batch = _batch(subject)
    with torch.no_grad():
        log_ratio = subject.network.unroll(batch)[0].log_prob(batch.action) - batch.log_prob
    return small(float(log_ratio.abs().max()), subject.allowed(1e-10, 1e-5), "largest |Δ log π|")


@check(
    "acting equals the unrolled sequence",
    "`unroll` and `step` compute different values; compare them block by block.",
)
def values(subject: Subject) -> Measured:
    """Acting and learning compute the same value."""
    batch = _batch(subject)
    with torch.no_grad():
        value = subject.network.unroll(batch)[1]
    return small(_worst([value], [batch.target]), subject.allowed(1e-10, 1e-4), "largest relative Δ value")


@check(
    "gradients equal the plain reference",
    "the backward pass of `unroll` reaches too far or not far enough: check that it stops at every cut and reset.",
)
def gradients(subject: Subject) -> Measured:
    """Gradients are those of one environment at a time, step by step."""
    network, parameters = subject.network, _learned(subject.network)
    batch = _batch(subject)
    weight = torch.randn(2, len(batch.action), generator=torch.Generator().manual_seed(1)).to(parameters[0].dtype)

    def of(log_prob: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        loss = (weight[0] * log_prob + weight[1] * value).sum()
        return torch.autograd.grad(loss, parameters, materialize_grads=True)

    policy, value = network.unroll(batch)
    fast = of(policy.log_prob(batch.action), value)
    slow = of(*_one_by_one(subject))
    whole = torch.stack([g.norm() for g in slow]).norm()
    errors = [float((a - b).norm() / b.norm().clamp_min(1e-6 * whole)) for a, b in zip(fast, slow, strict=True)]
    worst = int(np.argmax(errors))
    name = [name for name, it in network.named_parameters() if it.requires_grad][worst]
    return small(errors[worst], subject.allowed(1e-9, 1e-3), f"largest relative Δ, of {name}")


def _learned(network: nn.Module) -> list[nn.Parameter]:
    """Its parameters but for those that are frozen."""
    return [it for it in network.parameters() if it.requires_grad]


def _one_by_one(subject: Subject) -> tuple[Tensor, Tensor]:
    """Log-probability and value of every step, in the order of `split`, without any batching."""
    rollout, network = subject.rollout, subject.network
    log_probs, values = [], []
    for b in range(rollout.valid.shape[1]):
        state: State = {}
        for t in range(len(rollout.valid)):
            if not rollout.valid[t, b]:
                continue
            age = int(rollout.age[t, b])
            if age == 0:
                state = network.initial_state(1)
            elif t == 0:
                row = int(rollout.state_index[t, b])
                state = {name: leaf[row : row + 1] for name, leaf in rollout.state.items()}
            elif subject.bptt_length and age % subject.bptt_length == 0:
                state = {name: leaf.detach() for name, leaf in state.items()}
            policy, value, state = network.step(rollout.observation[t, b : b + 1], state)
            log_probs.append(policy.log_prob(rollout.action[t, b : b + 1]))
            values.append(value)
    return torch.cat(log_probs), torch.cat(values)


@check(
    "long sequences equal their single steps",
    "`unroll` must give each step of a sequence what `step` gives, and its gradient, however long the sequence is.",
)
def long(subject: Subject) -> Measured | None:
    """A sequence as long as a run's longest gives the same values and gradients unrolled as step by step."""
    network, parameters = subject.network, _learned(subject.network)
    if not network.initial_state(1):
        return None
    observation = subject.observation[torch.arange(subject.longest) % subject.rows]
    actions, log_probs, values = [], [], []
    state, began = network.initial_state(1), perf_counter()
    for t in range(_foreseeable(subject, observation)):
        policy, value, state = network.step(observation[t : t + 1], state)
        actions.append(policy.mode().detach())
        log_probs.append(policy.log_prob(actions[-1]))
        values.append(value)
        if perf_counter() - began > STEPPING:
            break
    steps = len(values)
    order, zeros = torch.arange(steps), torch.zeros(steps, dtype=values[0].dtype)
    mask, empty = torch.ones(steps, 1, dtype=torch.bool), network.initial_state(1)
    batch = SequenceBatch(observation[:steps], torch.cat(actions), zeros, zeros, zeros, order, mask, empty)
    policy, value = network.unroll(batch)
    weight = torch.randn(steps, generator=torch.Generator().manual_seed(1)).to(value.dtype)

    def gradient(value: Tensor, log_prob: Tensor) -> Tensor:
        loss = (weight * (value + log_prob)).sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, materialize_grads=True)])

    one_by_one, at_once = (torch.cat(values), torch.cat(log_probs)), (value, policy.log_prob(batch.action))
    worst = _worst([it.detach() for it in at_once], [it.detach() for it in one_by_one])
    expected = gradient(*one_by_one)
    worst = max(worst, float((gradient(*at_once) - expected).norm() / expected.norm().clamp_min(1e-8)))
    return small(worst, subject.allowed(1e-8, 1e-2), f"largest relative Δ over {steps:,} steps")


def _foreseeable(subject: Subject, observation: Tensor) -> int:
    """Steps until a change as small as rounding has grown; in a chaotic cell it always does."""
    network, began = subject.network, perf_counter()
    with torch.no_grad():
        state = network.step(observation[:1], network.initial_state(1))[2]
        little = subject.allowed(1e-15, 1e-7)
        other = {name: leaf * (1 + little) if leaf.is_floating_point() else leaf for name, leaf in state.items()}
        largest = 0.0
        for t in range(1, len(observation)):
            (_, value, state), (_, moved, other) = (network.step(observation[t : t + 1], it) for it in (state, other))
            largest = max(largest, float(value.abs().max()))
            if float((value - moved).abs().max()) > subject.allowed(1e-12, 1e-4) * largest:
                return t
            if perf_counter() - began > STEPPING:
                break
    return len(observation)


@check(
    "gradients match finite differences",
    "Compute memory without detach and torch.no_grad(), or gradients do not reach back through it. If you stop them on "
    "purpose, as a Transformer-XL does, ignore this.",
)
def slope(subject: Subject) -> Measured | None:
    """Values of later steps change with the parameters as their gradient says, also by way of memory."""
    # Its parameters are moved, and none may be dropped.
    network = copy.deepcopy(subject.network).eval()
    parameters = _learned(network)
    if not network.initial_state(1):
        return None
    random = torch.Generator().manual_seed(1)
    direction = [torch.randn(it.shape, generator=random).to(it) for it in parameters]
    weight = torch.randn(FEW, BATCH, generator=random)

    def later() -> Tensor:
        state, values = network.initial_state(BATCH), []
        for t in range(FEW):
            _, value, state = network.step(subject.observation.roll(t, 0)[:BATCH], state)
            values.append(value)
        return (weight.to(value) * torch.stack(values)).sum()

    told = torch.autograd.grad(later(), parameters, materialize_grads=True)
    expected = sum(float((a * b).sum()) for a, b in zip(told, direction, strict=True))
    little, ends = subject.allowed(1e-7, 1e-2), []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, along in zip(parameters, direction, strict=True):
                parameter.add_(sign * little * along)
            ends.append(float(later()))
    found_so = (ends[0] - ends[1]) / (2 * little)
    error = abs(found_so - expected) / max(abs(found_so), abs(expected), 1e-8)
    if error <= (allowed := subject.allowed(1e-4, 0.1)):
        return holds(True, f"relative Δ to finite differences {error:.1e}, allowed {allowed:g}")
    return Measured(Status.WARN, f"finite differences over {FEW} steps: relative Δ {error:.1g}")


@check("nothing leaks across a reset", "after an unreal step, memory is not that of a new episode: see Block.unroll.")
def leaks(subject: Subject) -> Measured | None:
    """A sequence gives the same results behind another one in a row of the grid as alone."""
    if not subject.network.initial_state(1):
        return None
    sequences, worst = _sequences(subject), 0.0
    second = np.arange(min(len(sequences.length), 32))
    with torch.no_grad():
        for first, n in zip(np.roll(second, 1).tolist(), second.tolist(), strict=True):
            behind, alone = (subject.network.unroll(_row(sequences, order))[1] for order in ([first, n], [n]))
            worst = max(worst, _worst([behind[-len(alone) :]], [alone]))
    return small(worst, subject.allowed(1e-10, 1e-4), "largest relative Δ value after a reset")


def _row(sequences: Sequences, order: list[int]) -> SequenceBatch:
    """A grid of one row, in which sequences follow one another, each as if an episode began with it."""
    chosen = sequences.select(np.array(order))
    # An unreal step between two.
    moved = np.repeat(chosen.begin + np.arange(len(order)), chosen.length)
    steps = torch.from_numpy(moved + step_in_sequence(chosen.length))
    mask = torch.zeros(int(chosen.length.sum()) + len(order) - 1, 1, dtype=torch.bool)
    mask[steps] = True
    zeros = {name: leaf.new_zeros(1, *leaf.shape[1:]) for name, leaf in sequences.state.items()}
    given = (chosen.observation, chosen.action, chosen.log_prob, chosen.advantage, chosen.target)
    return SequenceBatch(*given, grid_index=steps, mask=mask, state=zeros)


@check(
    "padding and neighbours change nothing",
    "a step's result depends on other sequences of the batch: batch statistics, or a mean over padding.",
)
def alone(subject: Subject) -> Measured:
    """A sequence gives the same results alone as in a batch."""
    sequences = _sequences(subject)
    with torch.no_grad():
        (batch,) = sequences.batches(max_steps=None)
        together = subject.network.unroll(batch)[1]
        worst = 0.0
        for n in range(min(len(sequences.length), 32)):
            (one,) = sequences.select(np.array([n])).batches(max_steps=None)
            steps = slice(int(sequences.begin[n]), int(sequences.begin[n] + sequences.length[n]))
            worst = max(worst, float((subject.network.unroll(one)[1] - together[steps]).abs().max()))
    worst /= float(together.abs().max().clamp_min(1e-8))
    return small(worst, subject.allowed(1e-10, 1e-4), "largest relative Δ value")


@check(
    "a batch as large as training's is the same",
    "a row's result depends on the other rows, or on their number: batch statistics, a mean over rows, or a limit.",
)
def crowd(subject: Subject) -> Measured:
    """A row gives the same results in a batch as large as training's as in a small one, acting and learning."""
    with torch.no_grad():
        worst = max(_acting_in_a_crowd(subject), _learning_in_a_crowd(subject))
    learning = f", learning of {MOST_ROWS:,}," if subject.rows > MOST_ROWS else ""
    return small(worst, subject.allowed(1e-10, 1e-4), f"largest relative Δ in batches of {subject.rows:,}{learning}")


def _acting_in_a_crowd(subject: Subject) -> float:
    network, observation = subject.network, subject.observation
    _, _, state = network.step(observation.flip(0), network.initial_state(subject.rows))
    policy, value, after = network.step(observation, state)
    action = policy.mode()
    few = []
    for begin in range(0, subject.rows, BATCH):
        rows = slice(begin, begin + BATCH)
        one, one_value, one_after = network.step(observation[rows], {name: leaf[rows] for name, leaf in state.items()})
        few.append([one_value, one.log_prob(action[rows]), *one_after.values()])
    return _worst([value, policy.log_prob(action), *after.values()], [torch.cat(one) for one in zip(*few, strict=True)])


def _learning_in_a_crowd(subject: Subject) -> float:
    sequences = _sequences(subject)
    (batch,) = sequences.batches(max_steps=None)
    value = torch.zeros(subject.rollout.valid.numel(), dtype=batch.target.dtype)
    value[batch.advantage.long()] = subject.network.unroll(batch)[1]
    # Two of these do not fit in one row of a grid.
    long = np.flatnonzero(2 * sequences.length >= sequences.length.max())
    chosen = np.random.default_rng(0).choice(long, min(subject.rows, MOST_ROWS))
    (crowded,) = sequences.select(chosen).batches(max_steps=None)
    return _worst([subject.network.unroll(crowded)[1]], [value[crowded.advantage.long()]])


@check(
    "nothing is left in memory after a reset",
    "`initial_state` must be zeros: the runner forgets an episode by zeroing its memory.",
)
def forgets(subject: Subject) -> Measured | None:
    """The memory of a new episode is zero, and its first step is computed from that."""
    rollout, network = subject.rollout, subject.network
    state = network.initial_state(BATCH)
    if not state:
        return None
    first = (rollout.age == 0) & rollout.valid
    left = max((float(leaf.double().abs().max()) for leaf in state.values() if leaf.numel()), default=0.0)
    if not first.any() and not left:
        raise UncheckedError(
            "no episode began while it was watched",
            "Give the environment a time limit, such as +env.kwargs.max_episode_steps=1000.",
        )
    if first.any():
        with torch.no_grad():
            value = network.step(rollout.observation[first], network.initial_state(int(first.sum())))[1]
        left = max(left, float((value - rollout.value[first]).abs().max()))
    cut = f", where episodes were cut after {SHORT} steps: random play ended none" if subject.is_cut else ""
    return small(left, subject.allowed(1e-10, 1e-4), f"largest remainder{cut}")


@check(
    "every step once, in unbroken sequences",
    "please report this: the splitter is part of seqrl.",
)
def cuts(subject: Subject) -> Measured:
    """Sequences hold every step that was played, once and in order."""
    rollout, sequences = subject.rollout, _sequences(subject)
    index = sequences.advantage.long()
    envs = rollout.valid.shape[1]
    age = rollout.age.flatten()[index]
    faults = int((index.bincount(minlength=rollout.valid.numel()).view_as(rollout.valid) != rollout.valid.long()).sum())
    for begin, length in zip(sequences.begin, sequences.length, strict=True):
        steps, ages = index[begin : begin + length], age[begin : begin + length]
        faults += int((steps.diff() != envs).sum() + (ages.diff() != 1).sum())
        faults += int(bool(subject.bptt_length) and length > subject.bptt_length)
    return holds(not faults, f"{faults} faults in {len(sequences.length)} sequences of {len(index)} steps, 0 allowed")


CHECKS: list[Check] = [runs, precise, modes, ratio, values, gradients, slope, long, leaks, alone, crowd, forgets, cuts]
