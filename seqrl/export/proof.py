"""Plays a run's environment with the exported step beside the policy, and compares all that they compute."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from seqrl.envs.base import BatchedEnv
from seqrl.envs.translate import scale
from seqrl.export.model import refusal
from seqrl.export.ports import FIRST, NEXT, REWARD, STATE, mask_ports, named
from seqrl.export.step import OneStep, computed, modes, remembered
from seqrl.networks import Network
from seqrl.spaces import Array, Joint, Packed, alternatives
from seqrl.types import State

# Environment steps that are compared, and the largest difference that is taken for rounding: in units of the largest
# number that an output has, or of 1 if that is larger.
STEPS, TOLERANCE = 10_000, 1e-5
# One in so many steps clears the memory of an episode that goes on.
CLEARED = 50
# Logits below are those of choices that are not allowed.
FORBIDDEN = -1e30


@dataclass
class Proof:
    """How far an exported step and the policy are apart.

    steps     environment steps that were compared
    begun     episodes that began meanwhile
    cleared   times that memory was cleared within an episode
    ties      choices that differ where two alternatives are equally likely, within the tolerance
    wrong     names of outputs that differ in what cannot be rounded
    """

    steps: int = 0
    begun: int = 0
    cleared: int = 0
    ties: int = 0
    wrong: set[str] = field(default_factory=set)
    # Largest difference, and largest number, of each output.
    apart: dict[str, float] = field(default_factory=dict)
    size: dict[str, float] = field(default_factory=dict)

    @property
    def largest(self) -> tuple[float, str]:
        """The largest difference, in units of the output's largest number or of 1, and the output's name."""
        differences = {name: it / max(1.0, self.size[name]) for name, it in self.apart.items()}
        return max(((it, name) for name, it in differences.items()), default=(0.0, "value"))

    @property
    def holds(self) -> bool:
        return not self.wrong and self.largest[0] <= TOLERANCE

    def note(self, name: str, difference: float, size: float) -> None:
        """Take in how far an output is apart at one step."""
        difference = difference if math.isfinite(difference) else math.inf
        self.apart[name] = max(self.apart.get(name, 0.0), difference)
        self.size[name] = max(self.size.get(name, 0.0), size if math.isfinite(size) else 0.0)


class Exported:
    """An exported step, run by onnxruntime, that keeps its own memory.

    Raises ConfigError if onnxruntime cannot run it.
    """

    def __init__(self, model: bytes, step: OneStep, rows: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise refusal(error) from error
        self._names = [it.name for it in self._session.get_outputs()]
        self.memory = {port.name: port.zeros(rows) for port in step.inputs if port.name.startswith(STATE)}

    def step(self, shown: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs, by name; the memory moves on."""
        answers = dict(zip(self._names, self._session.run(None, {**shown, **self.memory}), strict=True))
        self.memory = {name: answers[f"{NEXT}{name}"] for name in self.memory}
        return answers

    def forget(self, where: Array) -> None:
        for name, leaf in self.memory.items():
            # What onnxruntime returns may not be written to.
            self.memory[name] = np.where(where.reshape(-1, *[1] * (leaf.ndim - 1)), np.zeros((), leaf.dtype), leaf)


def prove(
    model: bytes,
    step: OneStep,
    env: BatchedEnv,
    network: Network,
    generator: torch.Generator,
    steps: int,
    show: Callable[[float], None] = lambda _: None,
) -> Proof:
    """Play with the policy, and have the exported step compute the same from what the environment itself shows.

    Half of the environments are given the likeliest action, half of them a sampled one. The exported step's memory goes
    only through the exported step.

    network     the policy itself
    generator   draws actions, and when memory is cleared
    steps       environment steps to play, at least
    show        is told which share of them is played
    """
    proof, rows = Proof(begun=env.batch_size), env.batch_size
    observation, state, exported = env.reset(), network.initial_state(rows), Exported(model, step, rows)
    with torch.inference_mode():
        while proof.steps < steps:
            policy, value, after = network.step(observation, state)
            chosen = modes(policy, env.action_space)
            answers = exported.step({**_shown(step, observation), **_more(step, env, observation)})
            numbers = {**computed(policy, value, after), **remembered(chosen, env.action_space, step.more)}
            ties = proof.ties
            _compare(proof, answers, numbers)
            for name, choice in chosen.items():
                _compare_action(proof, step, name, choice, answers, numbers)
            if proof.ties == ties:
                _compare_remembered(proof, answers, numbers)
            greedy = policy.mode()
            sampled = torch.arange(rows).view(-1, *[1] * (greedy.dim() - 1)) % 2 == 1
            stepped = env.step(policy.sample(generator).where(sampled, greedy))
            begins = stepped.ended | ~stepped.valid
            observation = env.reset(stepped.ended) if stepped.ended.any() else stepped.observation
            clears = (torch.rand(rows, generator=generator) < 1 / CLEARED) & ~begins
            proof.steps, proof.begun = proof.steps + rows, proof.begun + int(stepped.ended.sum())
            proof.cleared += int(clears.sum())
            show(min(1.0, proof.steps / steps))
            state = _without(after, begins | clears)
            exported.forget((begins | clears).numpy())
    return proof


def _shown(step: OneStep, observation: Tensor) -> dict[str, Array]:
    """What the environment itself shows, by the name of the input."""
    own = step.own
    shown = own.shown(observation)
    masks = dict(zip(own.masks, mask_ports(own), strict=True))
    spaces = {**own.observed, **own.masks}
    return {
        masks.get(name, named("observation", name)): np.asarray(shown[name], own.dtype(space))
        for name, space in spaces.items()
    }


def _more(step: OneStep, env: BatchedEnv, observation: Tensor) -> dict[str, Array]:
    """What the policy sees besides, by the name of the input."""
    space = env.observation_space
    if not step.more or not isinstance(space, Packed):
        return {}
    parts = {name: space.part(observation, name) for name in step.more}
    return {name: (it.squeeze(1) if name in (REWARD, FIRST) else it).numpy() for name, it in parts.items()}


def _without(state: State, where: Tensor) -> State:
    return {name: leaf.masked_fill(where.view(-1, *[1] * (leaf.dim() - 1)), 0) for name, leaf in state.items()}


def _compare(proof: Proof, answers: Mapping[str, Array], expected: Mapping[str, Tensor]) -> None:
    """Note how far numbers are apart, and whether memory is of the same type, shape and marks."""
    for name, tensor in expected.items():
        it, like = answers[name], tensor.numpy()
        if it.shape != like.shape or it.dtype != like.dtype:
            proof.wrong.add(name)
        elif like.dtype.kind == "f":
            with np.errstate(invalid="ignore", over="ignore"):
                forbidden = (it < FORBIDDEN) & (like < FORBIDDEN)
                difference = np.where(forbidden, 0, np.abs(it.astype(np.float64) - like))
            size = np.abs(np.where(forbidden, 0, like))
            proof.note(name, float(difference.max(initial=0)), float(size.max(initial=0)))
        elif name.startswith(f"{NEXT}{STATE}") and not np.array_equal(it, like):
            proof.wrong.add(name)


def _compare_remembered(proof: Proof, answers: Mapping[str, Array], expected: Mapping[str, Tensor]) -> None:
    """Compare what is shown of the action at the next step."""
    for name, tensor in expected.items():
        if name.startswith(NEXT) and tensor.dtype == torch.int64 and not np.array_equal(answers[name], tensor.numpy()):
            proof.wrong.add(name)


def _compare_action(
    proof: Proof, step: OneStep, part: str, choice: Tensor, answers: Mapping[str, Array], numbers: Mapping[str, Tensor]
) -> None:
    """Compare a part of the action with what the environment would have been given."""
    own, name = step.own, named("action", part)
    it, like = answers[name], np.asarray(own.to_env[part](choice.numpy()))
    like = like.astype(own.dtype(own.acted[part]), copy=False)
    if it.shape != like.shape or it.dtype != like.dtype:
        proof.wrong.add(name)
    elif like.dtype.kind == "f":
        # The last digit of a coarse type may be rounded either way.
        difference = np.abs(it.astype(np.float64) - like) - np.spacing(np.abs(like))
        space = own.acted[part]
        half = scale(space)[1] if own.is_translated and isinstance(space, Box) else np.ones(())
        # One that is fixed has a range of 0.
        unit = np.where((half == 0) | (half == 1), np.maximum(1, np.abs(like)), half)
        proof.note(name, float((difference.clip(0) / unit).max(initial=0)), 1.0)
    elif not np.array_equal(it, like):
        _compare_choices(proof, step, part, choice.numpy(), it.astype(np.int64) - like, numbers)


def _compare_choices(
    proof: Proof, step: OneStep, part: str, choice: Array, off: Array, numbers: Mapping[str, Tensor]
) -> None:
    """Count choices that differ and are as likely as those of the policy.

    off   by how much choices are off
    """
    space = step.action_space
    sizes = alternatives(space.parts[part] if isinstance(space, Joint) else space)
    name = named("logits", part)
    if name not in numbers:
        proof.wrong.add(named("action", part))
        return
    rows = numbers[name].numpy()
    starts = np.cumsum([0, *sizes[:-1]])
    policys = choice.reshape(len(rows), -1).astype(np.int64)
    others = policys + off.reshape(len(rows), -1)
    for row, column in zip(*np.nonzero(policys != others), strict=True):
        other, mine = int(others[row, column]), int(policys[row, column])
        likely = rows[row, starts[column] + mine]
        unit = max(1.0, proof.size[name])
        if 0 <= other < sizes[column] and likely - rows[row, starts[column] + other] <= TOLERANCE * unit:
            proof.ties += 1
        else:
            proof.wrong.add(named("action", part))
