"""The memory chain as a tensor program."""

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from seqrl.envs.tasks.base import TensorEnv


class MemoryChain(TensorEnv):
    """Recall, at the end of an episode, a bit that was shown at its start.

    Observation: the time left, from 1 down to 0; which bit to recall, in the last observation before the answer; the
    bits as -1 or 1, in the first two observations. Anything not shown is 0. Actions: 0 or 1; only the last one counts.
    Reward: at the last step, 1 for the right bit and -1 for the wrong one. An episode terminates after `length` + 1
    steps.

    length   steps from the first observation to the one that is answered
    bits     the number of bits shown, one of which must be recalled

    The best mean return is 1. Without memory it is 0 (derived), unless `length` is 1.
    Source: Osband et al. (2020), "Behaviour suite for reinforcement learning": memory length (one bit, `length` 1 to
    100) and memory size (1 to 40 bits, `length` 2), as in its code, which shows the bits twice.
    """

    action_space = Discrete(2)
    _names = ("context", "query")

    def __init__(
        self,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        length: int = 20,
        bits: int = 1,
        first: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, device, first)
        self.length, self.bits = length, bits
        low, high = np.array([0, 0] + bits * [-1]), np.array([1, max(1, bits - 1)] + bits * [1])
        self.observation_space = Box(low.astype(np.float32), high.astype(np.float32))
        self._context = torch.zeros(batch_size, bits, dtype=torch.int64, device=device)
        self._query = torch.zeros(batch_size, 1, dtype=torch.int64, device=device)

    def _begin(self, where: Tensor) -> None:
        context, query = (2 * self._uniform(self.bits)).long(), (self.bits * self._uniform(1, which=1)).long()
        self._context = context.where(where.unsqueeze(1), self._context)
        self._query = query.where(where.unsqueeze(1), self._query)

    def _play(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        terminated = self._age > self.length
        right = action == self._context.gather(1, self._query).squeeze(1)
        reward = torch.where(right, 1.0, -1.0).masked_fill(~terminated, 0.0)
        return reward, terminated, torch.zeros_like(terminated)

    def _observation(self) -> Tensor:
        # The first two observations are the same.
        time = (self._age - 1).clamp_min(0).unsqueeze(1)
        left = (self.length - time) / self.length
        query = self._query * (time == self.length - 1)
        return torch.cat([left, query, (2 * self._context - 1) * (time == 0)], 1)
