"""Base class of environments written as tensor programs."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from seqrl import seeds
from seqrl.envs.base import BatchedEnv
from seqrl.types import Step


class TensorEnv(BatchedEnv):
    """B environments whose state is a few tensors: begins episodes, counts their steps, saves and restores them.

    A subclass lists its state tensors [B, ...] in `_names` and keeps each as an attribute with a leading underscore. It
    replaces them and never writes into them. `_age`, the steps played in each episode, is provided.
    """

    _names: tuple[str, ...]

    def __init__(self, batch_size: int, seed: int, device: torch.device | str) -> None:
        self.batch_size = batch_size
        self._random = seeds.generator(seed, "environment", device)
        self._age = torch.zeros(batch_size, dtype=torch.int64, device=device)

    def reset(self, where: Tensor | None = None) -> Tensor:
        """Begin a new episode where `where` [B] is true, everywhere if None; return all observations [B, *O]."""
        if where is None:
            where = torch.ones_like(self._age, dtype=torch.bool)
        self._age = self._age.masked_fill(where, 0)
        self._begin(where)
        return self._observation()

    def step(self, action: Tensor) -> Step:
        """Play one action [B] each."""
        self._age = self._age + 1
        reward, terminated, truncated = self._play(action)
        return Step(self._observation(), reward, terminated, truncated, valid=torch.ones_like(terminated))

    def state_dict(self) -> dict[str, Any]:
        tensors = {name: getattr(self, f"_{name}") for name in (*self._names, "age")}
        return {**tensors, "random": self._random.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        for name in (*self._names, "age"):
            setattr(self, f"_{name}", state[name].to(getattr(self, f"_{name}")))
        self._random.set_state(state["random"])
        return torch.ones_like(self._age, dtype=torch.bool)

    def info(self) -> dict[str, Tensor]:
        """Every number of the state."""
        return {name: getattr(self, f"_{name}").double() for name in self._names}

    def close(self) -> None:
        """Nothing to release."""

    @abstractmethod
    def _begin(self, where: Tensor) -> None:
        """Begin a new episode where `where` [B] is true."""

    @abstractmethod
    def _play(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Play `action` [B], with `_age` counting this step; return reward, terminated and truncated, each [B]."""

    @abstractmethod
    def _observation(self) -> Tensor:
        """Current observation [B, *O]."""
