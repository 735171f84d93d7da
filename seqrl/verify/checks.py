"""Checks that an environment and a network must pass before you train with them.

The checks play a little and compare: what acting computed with what learning computes, a batch with its parts, one
environment with its twin. Networks are checked in float64, with noise added to every parameter so that heads that start
near zero hide nothing; a network that cannot be converted is checked in float32, with wider tolerances.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from seqrl.algorithms.sequences import Sequences, split
from seqrl.envs import BatchedEnv
from seqrl.networks import Network
from seqrl.runner import Runner
from seqrl.spaces import ACTION_MASK, Array, Joint, Packed, alternatives, masked_alternatives, parts
from seqrl.types import Rollout, SequenceBatch, State

# Number of environments, and steps of each in a rollout.
BATCH, LENGTH = 4, 64
# Rollouts to wait for an episode to end, and steps after which an episode counts as endless.
PATIENCE, ENDLESS = 32, 20_000


@dataclass(frozen=True)
class Finding:
    """Result of a check.

    figure   what was measured, and what is allowed
    remedy   what to do if the check failed
    """

    name: str
    passed: bool
    figure: str
    remedy: str


@dataclass(frozen=True)
class Subject:
    """What is checked, and what it has played.

    make_env      builds environments from their number and the name of their random stream; same name, same stream
    network       with noise added to its parameters
    bptt_length   steps after which sequences are cut
    rollout       begins with carried memory and contains the end of an episode, if any episode ended
    """

    make_env: Callable[[int, str], BatchedEnv]
    network: Network
    bptt_length: int
    rollout: Rollout

    @property
    def exact(self) -> bool:
        return next(self.network.parameters()).dtype == torch.float64

    def allowed(self, exact: float, single: float) -> float:
        return exact if self.exact else single


def played(make_env: Callable[[int, str], BatchedEnv], network: Network, bptt_length: int) -> Subject:
    """Add noise to the parameters of the network, and play with it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            width = parameter.shape[-1] if parameter.dim() else 1
            parameter.add_(0.5 / math.sqrt(width) * torch.randn(parameter.shape, generator=generator))
    try:
        return _played(make_env, network.double(), bptt_length)
    except RuntimeError as error:
        if "dtype" not in str(error):
            raise
        return _played(make_env, network.float(), bptt_length)


def _played(make_env: Callable[[int, str], BatchedEnv], network: Network, bptt_length: int) -> Subject:
    env = make_env(BATCH, "verify")
    try:
        runner = Runner(env, network, LENGTH, bptt_length, torch.Generator().manual_seed(0))
        runner.collect()
        for _ in range(PATIENCE):
            rollout = runner.collect()
            # In the first half: the checks need the steps that follow.
            if rollout.ended[: LENGTH // 2].any():
                break
    finally:
        env.close()
    return Subject(make_env, network, bptt_length, rollout)


def network_checks(subject: Subject) -> Iterator[Finding]:
    """Whether the network computes the same either way, and uses nothing that it must not."""
    yield _ratio(subject)
    yield _values(subject)
    yield _gradients(subject)
    yield _no_leak(subject)
    yield _alone(subject)
    yield _forgets(subject)
    yield _chunks(subject)


def env_checks(make_env: Callable[[int, str], BatchedEnv]) -> Iterator[Finding]:
    """Whether the environment is repeatable and fit to learn from."""
    yield _repeats(make_env)
    yield from _interface(make_env)


def _sequences(subject: Subject, rollout: Rollout | None = None) -> Sequences:
    """The rollout cut into sequences, with the index t * B + b of each step in place of its advantage."""
    rollout = rollout or subject.rollout
    index = torch.arange(rollout.valid.numel(), dtype=torch.float64).view(rollout.valid.shape)
    return split(rollout, index, rollout.value, subject.bptt_length)


def _batch(subject: Subject, rollout: Rollout | None = None) -> SequenceBatch:
    (batch,) = _sequences(subject, rollout).batches(max_steps=None)
    return batch


def _ratio(subject: Subject) -> Finding:
    batch = _batch(subject)
    with torch.no_grad():
        log_ratio = subject.network.unroll(batch)[0].log_prob(batch.action) - batch.log_prob
    return _small(
        "ratio is 1 before the first update",
        float(log_ratio.abs().max()),
        subject.allowed(1e-10, 1e-5),
        "largest |Δ log π|",
        "`unroll` and `step` compute different policies; the usual causes are dropout, batch statistics or memory that "
        "is not reset at an unreal step.",
    )


def _values(subject: Subject) -> Finding:
    batch = _batch(subject)
    with torch.no_grad():
        value = subject.network.unroll(batch)[1]
    difference = (value - batch.target).abs().max() / batch.target.abs().max().clamp_min(1e-8)
    return _small(
        "acting equals the unrolled sequence",
        float(difference),
        subject.allowed(1e-10, 1e-4),
        "largest relative Δ value",
        "`unroll` and `step` compute different values; compare them block by block.",
    )


def _gradients(subject: Subject) -> Finding:
    """Compare gradients with those of a plain reference: one environment at a time, step by step."""
    network, parameters = subject.network, list(subject.network.parameters())
    batch = _batch(subject)
    weight = torch.randn(2, len(batch.action), generator=torch.Generator().manual_seed(1)).to(parameters[0].dtype)

    def gradients(log_prob: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        loss = (weight[0] * log_prob + weight[1] * value).sum()
        return torch.autograd.grad(loss, parameters, materialize_grads=True)

    policy, value = network.unroll(batch)
    fast = gradients(policy.log_prob(batch.action), value)
    slow = gradients(*_one_by_one(subject))
    whole = torch.stack([g.norm() for g in slow]).norm()
    errors = [float((a - b).norm() / b.norm().clamp_min(1e-6 * whole)) for a, b in zip(fast, slow, strict=True)]
    worst = int(np.argmax(errors))
    name = [name for name, _ in network.named_parameters()][worst]
    return _small(
        "gradients equal the plain reference",
        errors[worst],
        subject.allowed(1e-9, 1e-3),
        f"largest relative Δ, of {name}",
        "the backward pass of `unroll` reaches too far or not far enough: check that it stops at every cut and reset.",
    )


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


def _no_leak(subject: Subject) -> Finding:
    """Change the observations before an episode began: nothing computed within it may change."""
    name = "nothing leaks across a reset"
    rollout = subject.rollout
    later = (rollout.age == 0).cummax(0).values & rollout.valid  # [T, B], from the first episode that begins here
    before = ~(rollout.age == 0).cummax(0).values
    if not (later.any() and before.any()):
        return Finding(name, True, f"no episode began within {LENGTH} steps", "")
    observation = rollout.observation.clone()
    shuffled = observation.flip(0).roll(1, 1)
    # Replace them by other observations of this environment, which are valid in any space.
    observation[before] = shuffled[before]
    changed = replace(rollout, observation=observation)
    with torch.no_grad():
        batches = [_batch(subject), _batch(subject, changed)]
        values = [subject.network.unroll(batch)[1] for batch in batches]
    within = later.flatten()[batches[0].advantage.long()]
    worst = float((values[0] - values[1])[within].abs().max())
    return _small(
        name,
        worst,
        subject.allowed(1e-12, 1e-6),
        "largest Δ value after a reset",
        "after an unreal step, memory is not that of a new episode: see Block.unroll.",
    )


def _alone(subject: Subject) -> Finding:
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
    return _small(
        "padding and neighbours change nothing",
        worst / float(together.abs().max().clamp_min(1e-8)),
        subject.allowed(1e-10, 1e-4),
        "largest relative Δ value",
        "a step's result depends on other sequences of the batch: batch statistics, or a mean over padding.",
    )


def _forgets(subject: Subject) -> Finding:
    """The memory of a new episode is zero, and its first step is computed from that."""
    rollout, network = subject.rollout, subject.network
    state = network.initial_state(BATCH)
    left = max((float(leaf.double().abs().max()) for leaf in state.values() if leaf.numel()), default=0.0)
    first = (rollout.age == 0) & rollout.valid
    if first.any():
        with torch.no_grad():
            value = network.step(rollout.observation[first], network.initial_state(int(first.sum())))[1]
        left = max(left, float((value - rollout.value[first]).abs().max()))
    return _small(
        "nothing is left in memory after a reset",
        left,
        subject.allowed(1e-10, 1e-4),
        "largest remainder",
        "`initial_state` must be zeros: the runner forgets an episode by zeroing its memory.",
    )


def _chunks(subject: Subject) -> Finding:
    rollout, sequences = subject.rollout, _sequences(subject)
    index = sequences.advantage.long()
    envs = rollout.valid.shape[1]
    age = rollout.age.flatten()[index]
    faults = int((index.bincount(minlength=rollout.valid.numel()).view_as(rollout.valid) != rollout.valid.long()).sum())
    for begin, length in zip(sequences.begin, sequences.length, strict=True):
        steps, ages = index[begin : begin + length], age[begin : begin + length]
        faults += int((steps.diff() != envs).sum() + (ages.diff() != 1).sum())
        faults += int(bool(subject.bptt_length) and length > subject.bptt_length)
    return Finding(
        "every step once, in unbroken sequences",
        faults == 0,
        f"{faults} faults in {len(sequences.length)} sequences of {len(index)} steps, 0 allowed",
        "please report this: the splitter is part of seqrl.",
    )


def _repeats(make_env: Callable[[int, str], BatchedEnv]) -> Finding:
    """Two environments with the same seed answer the same actions alike."""
    first, again = (_answers(make_env(BATCH, "verify")) for _ in range(2))
    differing = _differences(first, again)
    figure = f"{differing} of {len(first)} answers differ, 0 allowed"
    if not differing and not _differences(first, _answers(make_env(BATCH, "verify another seed"))):
        figure += "; the seed changes nothing"
    return Finding(
        "environment repeats with seed and actions",
        differing == 0,
        figure,
        "draw all randomness from self.np_random, which reset(seed=...) seeds.",
    )


def _answers(env: BatchedEnv) -> list[Tensor]:
    random = np.random.default_rng(0)
    try:
        observation = env.reset()
        answers = [observation.clone()]
        for _ in range(3 * LENGTH):
            step = env.step(_action(env, observation, random))
            observation, ended = step.observation, step.terminated | step.truncated
            shown = torch.where(step.valid, step.reward, 0.0)
            answers += [observation.clone(), shown, ended.clone()]
            if ended.any():
                observation = env.reset(ended)
                answers.append(observation.clone())
    finally:
        env.close()
    return answers


def _differences(one: list[Tensor], other: list[Tensor]) -> int:
    """Number of answers that differ, plus those that only one side has."""
    return sum(not torch.equal(a, b) for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))


@dataclass
class Tally:
    """What was counted while an environment played.

    outside   observations outside their space
    steps     steps played
    ends      episodes that ended
    own       of these, episodes whose final observation is not the next episode's first
    """

    outside: int = 0
    steps: int = 0
    ends: int = 0
    own: int = 0


def _interface(make_env: Callable[[int, str], BatchedEnv]) -> Iterator[Finding]:
    """Shapes, types and bounds are right; episodes end, and end with an observation of their own."""
    env = make_env(1, "verify")
    try:
        tally = _tally(env)
    finally:
        env.close()
    yield Finding(
        "observations lie in their space",
        tally.outside == 0,
        f"{tally.outside} of {tally.steps + tally.ends} do not, 0 allowed",
        "widen observation_space, or fix the observations of the environment: their shape, type and bounds.",
    )
    yield Finding(
        "episodes end",
        tally.ends > 0,
        f"{tally.ends} ended within {tally.steps:,} random steps",
        "give the environment a time limit, such as +env.kwargs.max_episode_steps=1000, or use rollout_length=128.",
    )
    if tally.ends:
        yield Finding(
            "the final observation is its own",
            tally.own > 0,
            f"{tally.ends - tally.own} of {tally.ends} equal the next episode's first one",
            "return the last observation of the episode that ended, not the first of the next; a time limit is "
            "bootstrapped from it. If the two look alike by design, ignore this.",
        )


def _tally(env: BatchedEnv) -> Tally:
    """Play random actions in one environment until three episodes have ended, or for ENDLESS steps."""
    random, tally = np.random.default_rng(0), Tally()
    observation = env.reset()
    while tally.ends < 3 and tally.steps < ENDLESS:
        tally.outside += not _contains(env.observation_space, observation)
        step = env.step(_action(env, observation, random))
        tally.steps += 1
        observation = step.observation
        if (step.terminated | step.truncated).any():
            tally.outside += not _contains(env.observation_space, observation)
            tally.ends += 1
            final = observation.clone()
            observation = env.reset(step.terminated | step.truncated)
            if torch.equal(final, observation):
                # Unless this step is spent on the reset, it belongs to the new episode.
                step = env.step(_action(env, observation, random))
                observation = step.observation
                tally.own += not step.valid.all() and not torch.equal(final, observation)
            else:
                tally.own += 1
    return tally


def _contains(space: spaces.Space[Any], observation: Tensor) -> bool:
    if isinstance(space, Packed):
        return all(_contains(space.parts[name], part) for name, part in space.split(observation).items())
    element = observation[0].cpu().numpy()
    if isinstance(space, spaces.Box):
        # Bounds of float32 may be rounded.
        room = 1e-5 * np.maximum(1, np.abs(element))
        inside = (element >= space.low - room) & (element <= space.high + room)
        return element.shape == space.shape and bool(inside.all())
    return bool(space.contains(element.astype(space.dtype)))


def _action(env: BatchedEnv, observation: Tensor, random: np.random.Generator) -> Tensor:
    """Random actions [B, *A], only allowed ones if there is a mask; continuous ones may lie outside their bounds."""
    mask = parts(env.observation_space, observation).get(ACTION_MASK)
    drawn = _drawn(env.action_space, env.batch_size, random, None if mask is None else mask.cpu().numpy() != 0)
    return torch.from_numpy(drawn).to(observation.device)


def _drawn(space: spaces.Space[Any], count: int, random: np.random.Generator, allowed: Array | None) -> Array:
    if isinstance(space, Joint):
        drawn, end = [], 0
        for part in space.parts.values():
            begin, end = end, end + sum(masked_alternatives(part))
            mask = None if allowed is None or begin == end else allowed[:, begin:end]
            drawn.append(_drawn(part, count, random, mask).reshape(count, -1))
        return np.concatenate(drawn, 1).astype(np.float32)
    if sizes := alternatives(space):
        scores = [random.random((count, n)) for n in sizes]
        if allowed is not None:
            scores = [
                np.where(m, s, -1) for m, s in zip(np.split(allowed, np.cumsum(sizes)[:-1], 1), scores, strict=True)
            ]
        return np.stack([score.argmax(1) for score in scores], 1).reshape(count, *(space.shape or ()))
    return random.normal(size=(count, *(space.shape or ()))).astype(np.float32)


def _small(name: str, figure: float, allowed: float, what: str, remedy: str) -> Finding:
    # NaN fails.
    return Finding(name, figure <= allowed, f"{what} {figure:.1e}, allowed {allowed:.0e}", remedy)
