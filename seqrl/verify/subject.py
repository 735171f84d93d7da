"""A network to check, with the observations and the rollout that several checks look at."""

import copy
import math
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from seqrl.envs import BatchedEnv
from seqrl.errors import ConfigError, described
from seqrl.machine import perf_counter
from seqrl.networks import Network
from seqrl.runner import Runner
from seqrl.types import Rollout, change_of_form
from seqrl.verify.cut import Cut
from seqrl.verify.findings import UncheckedError
from seqrl.verify.layers import time_limit
from seqrl.verify.play import MakeEnv, Play

# Number of environments, and steps of each in a rollout.
BATCH, LENGTH = 4, 64
# Steps of an episode that is cut.
SHORT = 24
# Rollouts, and seconds, to wait for an episode that begins within one.
PATIENCE, SECONDS = 400, 8.0
# Rows of a batch at least, and at most in a grid.
ROWS, MOST_ROWS = 64, 1024
# Steps of a sequence at most.
LONGEST = 1000


@dataclass
class Subject:
    """A network to check.

    make_env      builds environments from their number and the name of their random stream
    network       gets noise added to its parameters
    bptt_length   steps after which sequences are cut
    parallel      environments of a run
    rollout_length   steps of a rollout; 0: whole episodes
    """

    make_env: MakeEnv
    network: Network
    bptt_length: int
    parallel: int = 16
    rollout_length: int = 0
    # Why it is not checked in float64.
    inexact: str = field(default="", init=False)
    # Whether the episodes of the rollout were ended on purpose, as none began within it.
    is_cut: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.network.parameters():
                width = parameter.shape[-1] if parameter.dim() else 1
                parameter.add_(0.5 / math.sqrt(width) * torch.randn(parameter.shape, generator=generator))
        try:
            self._act_once(self.network.double())
        except Exception as error:
            self.inexact = described(error)
            self.network.float()

    def _act_once(self, network: Network) -> None:
        # Of a copy, so that statistics that it keeps remain as they are.
        copied = copy.deepcopy(network)
        empty = copied.initial_state(BATCH)
        _, value, state = copied.step(self.observation[:BATCH], empty)
        value.sum().backward()
        if change := change_of_form(empty, state):
            raise ConfigError([f"its memory changes its form: {change}"])

    @property
    def rows(self) -> int:
        """Rows of the largest batch: those that act together, or that the steps of a rollout are cut into to learn."""
        cut = math.ceil(self._episode / self.bptt_length) if self.bptt_length else 1
        return max(ROWS, self.parallel, min(self.parallel * cut, MOST_ROWS))

    @cached_property
    def longest(self) -> int:
        """Steps of the longest sequence that a run learns from, as far as is known: at most LONGEST."""
        return max(2, min(self._episode, self.bptt_length or LONGEST, LONGEST))

    @cached_property
    def _episode(self) -> int:
        """Steps of a rollout, or of the longest episode that is known."""
        if self.rollout_length:
            return self.rollout_length
        with closing(self.make_env(BATCH, "verify")) as env:
            if limit := time_limit(env):
                return limit
            play, began = Play(env), perf_counter()
            age, longest = torch.zeros(BATCH, dtype=torch.long), 0
            while int(age.max()) < LONGEST and perf_counter() - began < SECONDS / 4 and play.step() and play.last:
                age += play.last.valid.cpu()
                longest = max(longest, int(age.max()))
                age[play.last.ended.cpu()] = 0
                if play.steps >= 2 * BATCH * LONGEST:
                    break
        return longest

    @cached_property
    def observation(self) -> Tensor:
        """Observations [rows, *O] from random actions."""
        with closing(self.make_env(BATCH, "verify")) as env:
            play = Play(env)
            seen = [play.observation]
            while len(seen) * BATCH < self.rows and play.step():
                seen.append(play.observation)
        observations = torch.cat(seen)
        # Over again, if the environment could not go on.
        return observations[torch.arange(self.rows) % len(observations)]

    @property
    def rollout(self) -> Rollout:
        """Begins with carried memory and contains the end of an episode, one that was cut if no other came.

        Raises UncheckedError if the network can't play.
        """
        if isinstance(self.played, str):
            raise UncheckedError(f"the network can't play: {self.played}", "Fix that first.")
        return self.played

    @cached_property
    def played(self) -> Rollout | str:
        """What the network played, or why it can't."""
        try:
            with closing(self.make_env(BATCH, "verify")) as env:
                rollout = self._play(env)
            if not resets(rollout).any():
                with closing(self.make_env(BATCH, "verify")) as env:
                    rollout, self.is_cut = self._play(Cut(env, SHORT)), True
            return rollout
        except Exception as error:
            return described(error)

    def _play(self, env: BatchedEnv) -> Rollout:
        runner = Runner(env, self.network, LENGTH, self.bptt_length, torch.Generator().manual_seed(0))
        began = perf_counter()
        for trial in range(PATIENCE):
            # Episodes as long as a rollout would always begin with one: the odd steps between move the view.
            runner.rollout_length = 2 * (trial % LENGTH) + 1
            runner.collect()
            runner.rollout_length = LENGTH
            rollout = runner.collect()
            if resets(rollout).any() or perf_counter() - began > SECONDS:
                break
        return rollout

    def allowed(self, exact: float, single: float) -> float:
        return single if self.inexact else exact


def resets(rollout: Rollout) -> Tensor:
    """Columns [B] that begin within an episode, and begin another one in their first half."""
    # In the first half: the checks need the steps that follow.
    return (rollout.age[0] > 0) & (rollout.age[: LENGTH // 2] == 0).any(0)
