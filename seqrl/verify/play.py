"""Plays environments with random actions, and remembers what they answered."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from seqrl.envs import BatchedEnv
from seqrl.errors import FaultyEnvError, OutsideEnvError, described
from seqrl.spaces import Array, Joint, Packed, alternatives, masked_alternatives, parts
from seqrl.types import Step

MakeEnv = Callable[[int, str], BatchedEnv]
"""Builds environments from their number and the name of their random stream; same name, same stream."""

# Number of environments that are played together.
BATCH = 2


@dataclass(frozen=True)
class Budget:
    """How long to play: at least `least` steps, then on for `seconds`, but at most `most` steps.

    slow     seconds after which the play is over, even if they were far fewer steps
    resets   episodes to begin
    endless  steps after which an episode counts as endless
    wait     seconds to wait for the end of an episode
    """

    seconds: float = 3.0
    least: int = 640
    most: int = 8_000
    resets: int = 400
    endless: int = 20_000
    wait: float = 30.0
    slow: float = 15.0


@dataclass
class Play:
    """Environments that are played with random actions, and what they answered.

    answers     a digest of each answer: rewards and ends of a step, observations
    clock       steps that had been played before each answer
    outside     what is wrong with the first observation that is not in its space; "" if all are
    fault       what ended the play, what the environment raised or an observation that can't be read; "" if nothing
    steps       steps played by all environments together
    begun       episodes that began
    terminated, truncated   episodes that ended so
    terminated_after        steps of those that were terminated
    own         episodes whose final observation is not the first of the next
    alike       episodes whose final observation is the first of the next
    common      of these, those whose observation before the final one is the same, too
    stayed      rows that went on while others were reset
    moved       of these, those that then showed another observation
    still       steps within episodes that showed what the step before had shown
    stale       the same of steps that a time limit ended
    shown       digests of what steps within episodes showed
    cut_finals  digests of what steps showed that a time limit ended
    ghosts      steps that were spent on a reset
    ghost_rewards   what they gave
    ghost_firsts    digests of what they showed
    firsts      digests of what all episodes showed that began together
    unlike      times that these differed from one another
    largest     of all bytes that were shown, by the name of their part
    last        the last step
    holds       leave episodes that end as they are, without a reset
    """

    env: BatchedEnv
    seed: int = 0
    answers: list[bytes] = field(default_factory=list)
    clock: list[int] = field(default_factory=list)
    outside: str = ""
    fault: str = ""
    steps: int = 0
    begun: int = 0
    terminated: int = 0
    truncated: int = 0
    terminated_after: set[int] = field(default_factory=set)
    own: int = 0
    alike: int = 0
    common: int = 0
    stayed: int = 0
    moved: int = 0
    still: int = 0
    stale: int = 0
    shown: set[bytes] = field(default_factory=set)
    cut_finals: set[bytes] = field(default_factory=set)
    ghosts: int = 0
    ghost_rewards: list[float] = field(default_factory=list)
    ghost_firsts: set[bytes] = field(default_factory=set)
    firsts: set[bytes] = field(default_factory=set)
    unlike: int = 0
    largest: dict[str, int] = field(default_factory=dict)
    last: Step | None = None
    holds: bool = False

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        # Observations before the final one, and final ones that look like the next episode's first.
        self._finals: dict[int, tuple[Tensor, Tensor]] = {}
        self.observation = torch.empty(0)
        # Steps of the whole batch, and of the episodes in progress.
        self._clock = 0
        self._elapsed = [0] * self.env.batch_size
        self.begin()

    @property
    def ends(self) -> int:
        return self.terminated + self.truncated

    def begin(self) -> None:
        """Begin new episodes everywhere."""
        with self._faults():
            self.begun += self.env.batch_size
            self._elapsed = [0] * self.env.batch_size
            self._see(self.env.reset())
            firsts = set(map(_digest, self.observation))
            self.unlike += len(firsts) > 1
            self.firsts |= firsts

    def action(self) -> Tensor:
        """Random actions [B, *A], only allowed ones if there is a mask; continuous ones may leave their bounds."""
        space = self.env.observation_space
        name = space.mask if isinstance(space, Packed) else None
        allowed = None if name is None else parts(space, self.observation)[name].cpu().numpy() != 0
        drawn = _drawn(self.env.action_space, self.env.batch_size, self.random, allowed)
        return torch.from_numpy(drawn).to(self.observation.device)

    def step(self, action: Tensor | None = None) -> bool:
        """Play one step of all environments, with random actions if none are given; False if it can't go on."""
        if self.fault:
            return False
        with self._faults():
            before = self.observation
            step = self.last = self.env.step(self.action() if action is None else action)
            self._clock += 1
            self._note(torch.where(step.valid, step.reward, 0.0), step.ended, step.valid)
            self._see(step.observation)
            self._compare_finals(step)
            self._count(step)
            self._compare(before, step)
            if step.ended.any() and not self.holds:
                self._reset(step, before)
        return not self.fault

    def steps_until(self, count: int, wanted: Callable[["Play"], bool]) -> bool:
        """Play up to `count` steps of each, until something wanted happens; return whether it did."""
        return any(wanted(self) for _ in range(count) if self.step())

    def _see(self, observation: Tensor) -> None:
        self.observation = observation
        self._note(observation)
        self.outside = self.outside or self._fault_of(observation)
        for name, part in parts(self.env.observation_space, observation).items():
            if part.dtype == torch.uint8 and part.numel():
                self.largest[name] = max(int(part.max()), self.largest.get(name, 0))

    def _note(self, *answer: Tensor) -> None:
        self.answers.append(_digest(*answer))
        self.clock.append(self._clock)

    def _fault_of(self, observation: Tensor) -> str:
        fault = fault_of(self.env.observation_space, observation)
        return fault and f"{fault}, {f'at step {self._clock}' if self._clock else 'after a reset'}"

    def _count(self, step: Step) -> None:
        self.steps += int(step.valid.sum())
        for row, is_played in enumerate(step.valid.tolist()):
            self._elapsed[row] += is_played
            if step.terminated[row]:
                self.terminated_after.add(self._elapsed[row])
            if step.ended[row]:
                self._elapsed[row] = 0
        self.terminated += int(step.terminated.sum())
        self.truncated += int((step.truncated & ~step.terminated).sum())
        self.ghosts += int((~step.valid).sum())
        self.ghost_firsts |= set(map(_digest, step.observation[~step.valid]))
        self.ghost_rewards += step.reward[~step.valid & (step.reward != 0)].tolist()

    def _compare(self, before: Tensor, step: Step) -> None:
        within, cut = step.valid & ~step.ended, step.valid & step.truncated & ~step.terminated
        if before.shape == step.observation.shape:
            same = (before == step.observation).reshape(len(before), -1).all(1)
            self.still += int((same & within).sum())
            self.stale += int((same & cut).sum())
        self.shown |= set(map(_digest, step.observation[within]))
        self.cut_finals |= set(map(_digest, step.observation[cut]))

    def _reset(self, step: Step, before: Tensor) -> None:
        final, ended = step.observation.clone(), step.ended
        self.begun += int(ended.sum())
        self._see(self.env.reset(ended))
        is_same = (final == self.observation).reshape(len(final), -1).all(1)
        self.stayed += int((~ended).sum())
        self.moved += int((~ended & ~is_same).sum())
        for row in ended.nonzero().flatten().tolist():
            if torch.equal(final[row], self.observation[row]):
                # Unless the next step is spent on the reset, this is the next episode's first.
                self._finals[row] = before[row].clone(), final[row]
            else:
                self.own += 1

    def _compare_finals(self, step: Step) -> None:
        for row, (before, final) in self._finals.items():
            if not step.valid[row] and not torch.equal(final, step.observation[row]):
                self.own += 1
            else:
                self.alike += 1
                self.common += torch.equal(before, final)
        self._finals.clear()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OutsideEnvError as error:
            self.fault = self.outside = str(error)
        except FaultyEnvError as error:
            self.fault = str(error)
        except Exception as error:
            self.fault = f"it raised {described(error)}"
        except SystemExit:
            self.fault = "it ended the program (SystemExit)"


def fault_of(space: spaces.Space[Any], observation: Tensor) -> str:
    """What is wrong with the first of the observations [B, *O] that does not lie in its space; "" if all do."""
    leaves = space.parts if isinstance(space, Packed) else {"": space}
    for name, part in parts(space, observation).items():
        leaf, numbers = leaves[name], part.cpu().numpy()
        where = f" in part {name!r}" if name else ""
        if numbers.shape[1:] != leaf.shape:
            return f"its shape is {numbers.shape[1:]}, not {leaf.shape}{where}"
        low, high = _bounds(leaf)
        # Bounds of float32 may be rounded.
        room = 1e-5 * np.maximum(1, np.abs(numbers)) if numbers.dtype.kind == "f" else 0
        wrong = ~((numbers >= low - room) & (numbers <= high + room) & np.isfinite(numbers))
        if wrong.any():
            low, high = (np.broadcast_to(bound, numbers.shape)[wrong][0] for bound in (low, high))
            number = numbers[wrong][0]
            return (
                f"{number:g} is not within {low:g} to {high:g}{where}" if math.isfinite(number) else f"{number}{where}"
            )
    return ""


def _bounds(space: spaces.Space[Any]) -> tuple[Array, Array]:
    match space:
        case spaces.Box():
            # Bytes and large whole numbers would overflow.
            return np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
        case spaces.Discrete():
            return np.asarray(0), np.asarray(space.n - 1)
        case spaces.MultiDiscrete():
            return np.asarray(0), space.nvec - 1
    return np.asarray(0), np.asarray(1)


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


def _digest(*tensors: Tensor) -> bytes:
    digest = blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.digest()
