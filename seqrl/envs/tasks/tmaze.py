"""The passive T-maze as a tensor program."""

from typing import Any

import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from seqrl.envs.tasks.base import TensorEnv
from seqrl.spaces import Array

FORWARD, BACK, UP, DOWN = range(4)


class TMaze(TensorEnv):
    """Walk down a corridor and, at its end, turn the way the sign at the entrance pointed.

    Observation: the sign, 1 for up or -1 for down, at the first step and 0 later; whether the junction is reached.
    Actions: forward, back, up, down. Reward: 1 for the right turn at the junction, 0 for the wrong one, and
    -1 / `corridor_length` for every step that could have gone forward and did not. An episode terminates with a turn at
    the junction, or after `corridor_length` + 1 steps, which are just enough.

    corridor_length   steps from the entrance to the junction

    The best mean return is 1. Without memory it is 0.5.
    Source: Bakker (2002), "Reinforcement learning with long short-term memory"; rewards and horizon of the passive form
    in Ni et al. (2023), "When do transformers shine in RL?".
    """

    observation_space: Space[Any] = Box(-1.0, 1.0, (2,))
    action_space: Space[Any] = Discrete(4)

    _names = ("sign", "place")

    def __init__(
        self,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        corridor_length: int = 20,
        first: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, device, first)
        self.corridor_length = corridor_length
        self._sign = torch.zeros(batch_size, device=device)
        self._place = torch.zeros_like(self._age)

    def _begin(self, where: Tensor) -> None:
        sign = 1 - 2 * self._uniform().round().to(self._sign)
        self._sign = sign.where(where, self._sign)
        self._place = self._place.masked_fill(where, 0)

    def _play(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at_junction = self._place == self.corridor_length
        turned = at_junction & ((action == UP) | (action == DOWN))
        right = turned & ((action == UP) == (self._sign > 0))
        place = (self._place + (action == FORWARD).long() - (action == BACK).long()).clamp(0, self.corridor_length)
        lost = (self._age <= self.corridor_length) & (place <= self._place)
        self._place = place
        reward = right.float() - lost.float() / self.corridor_length
        terminated = turned | (self._age > self.corridor_length)
        return reward, terminated, torch.zeros_like(terminated)

    def render(self) -> Array:
        """Image of the first maze [H, W, 3]."""
        from seqrl.envs.tasks.pictures import t_maze

        return t_maze(int(self._place[0]), self.corridor_length, float(self._sign[0]), bool(self._age[0] == 0))

    def _observation(self) -> Tensor:
        return torch.stack([self._sign * (self._age == 0), (self._place == self.corridor_length).float()], 1)
