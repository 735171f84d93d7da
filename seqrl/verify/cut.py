"""Ends episodes on purpose, where random play ends none."""

from dataclasses import replace

import torch
from torch import Tensor

from seqrl.envs import BatchedEnv
from seqrl.types import Step


class Cut(BatchedEnv):
    """Truncates the episodes of all environments every `steps` steps, and begins all of them anew.

    All at once, as any environment allows that at any time. A step that one spends on its reset puts it off.
    """

    def __init__(self, env: BatchedEnv, steps: int) -> None:
        self.env, self.steps, self.batch_size = env, steps, env.batch_size
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self._clock, self._cut = 0, False

    def reset(self, where: Tensor | None = None) -> Tensor:
        if where is None or self._cut:
            where, self._clock, self._cut = None, 0, False
        return self.env.reset(where)

    def step(self, action: Tensor) -> Step:
        step = self.env.step(action)
        self._clock += 1
        if self._clock < self.steps or not bool(step.valid.all()):
            return step
        self._cut = True
        return replace(step, truncated=torch.ones_like(step.truncated))

    def close(self) -> None:
        self.env.close()
