"""Tiny worlds with known answers."""

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from seqrl.envs import BatchedEnv
from seqrl.types import Step


class Script(BatchedEnv):
    """Environments whose episodes have the lengths written down: environment b plays lengths[b] one after another.

    Observation: (environment, episode, step in the episode, 1). Reward: 1 + step in the episode.
    ends     "terminated", "truncated", "both" or "mixed" (by turns)
    ghosts   spend a step on every reset, as NEXT_STEP vector environments do
    continuous   actions are two numbers, of which the first has bounds, instead of one of three choices
    """

    def __init__(
        self,
        lengths: list[list[int]],
        ends: str = "mixed",
        ghosts: bool = False,
        continuous: bool = False,
    ) -> None:
        self.lengths, self.ends, self.ghosts = lengths, ends, ghosts
        self.batch_size = len(lengths)
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,))
        high = np.array([1.0, np.inf], np.float32)
        self.action_space = spaces.Box(-high, high) if continuous else spaces.Discrete(3)
        self.episode = torch.zeros(self.batch_size, dtype=torch.long)
        self.clock = torch.zeros(self.batch_size, dtype=torch.long)
        self.begun = False
        self.pending = torch.zeros(self.batch_size, dtype=torch.bool)
        self.inner_steps = torch.zeros(self.batch_size, dtype=torch.long)

    def observation(self) -> Tensor:
        one = torch.ones(self.batch_size)
        return torch.stack([torch.arange(self.batch_size).float(), self.episode.float(), self.clock.float(), one], 1)

    def reset(self, where: Tensor | None = None) -> Tensor:
        if where is None:
            self.episode += int(self.begun)
            self.clock.zero_()
            self.begun = True
        elif self.ghosts:
            self.pending = where.clone()
        else:
            self._begin(where)
        return self.observation()

    def step(self, action: Tensor) -> Step:
        assert action.shape[0] == self.batch_size
        ghost, self.pending = self.pending, torch.zeros_like(self.pending)
        reward = (1 + self.clock).float().masked_fill(ghost, 0)
        self.clock += (~ghost).long()
        self._begin(ghost)
        length = torch.tensor([row[int(e) % len(row)] for row, e in zip(self.lengths, self.episode, strict=True)])
        ended = (self.clock >= length) & ~ghost
        even = self.episode % 2 == 0
        terminated = ended & {"terminated": ~ghost, "both": ~ghost, "mixed": even, "truncated": ghost}[self.ends]
        truncated = ended & {"truncated": ~ghost, "both": ~ghost, "mixed": ~even, "terminated": ghost}[self.ends]
        return Step(self.observation(), reward, terminated, truncated, ~ghost)

    def close(self) -> None:
        pass

    def _begin(self, where: Tensor) -> None:
        self.episode += where.long()
        self.clock = self.clock.masked_fill(where, 0)


class Cue(BatchedEnv):
    """A sign is shown at the first step only; the action at the last must match it. Return 1 or -1; 0 without memory.

    delay    steps between the cue and the answer
    """

    def __init__(self, batch_size: int, seed: int, device: str = "cpu", delay: int = 4) -> None:
        self.batch_size, self.delay = batch_size, delay
        self.observation_space = spaces.Box(-1.0, 1.0, (2,))
        self.action_space = spaces.Discrete(2)
        self.random = torch.Generator().manual_seed(seed)
        self.cue = torch.zeros(batch_size)
        self.clock = torch.zeros(batch_size, dtype=torch.long)

    def observation(self) -> Tensor:
        first, last = self.clock == 0, self.clock == self.delay
        return torch.stack([self.cue * first, last.float()], 1)

    def reset(self, where: Tensor | None = None) -> Tensor:
        where = torch.ones(self.batch_size, dtype=torch.bool) if where is None else where
        fresh = torch.randint(0, 2, (self.batch_size,), generator=self.random) * 2.0 - 1
        self.cue = fresh.where(where, self.cue)
        self.clock = self.clock.masked_fill(where, 0)
        return self.observation()

    def step(self, action: Tensor) -> Step:
        last = self.clock == self.delay
        reward = (action * 2.0 - 1) * self.cue * last
        self.clock = self.clock + 1
        never = torch.zeros_like(last)
        return Step(self.observation(), reward, last, never, ~never)

    def close(self) -> None:
        pass
