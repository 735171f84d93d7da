"""Base class of environments written as tensor programs."""

import zlib
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from seqrl.envs.base import BatchedEnv
from seqrl.envs.tasks.draws import Draws
from seqrl.types import Step


class TensorEnv(BatchedEnv):
    """B environments whose state is a few tensors: begins episodes, counts their steps, saves and restores them.

    A subclass lists its state tensors [B, ...] in `_names` and keeps each as an attribute with a leading underscore. It
    replaces them and never writes into them. `_age`, the steps played in each episode, is provided, and so are random
    numbers, `_uniform` and `_normal`.

    first   index of the first environment, where other processes play those before it
    """

    _names: tuple[str, ...]

    def __init__(self, batch_size: int, seed: int, device: torch.device | str, first: int = 0) -> None:
        self.batch_size = batch_size
        self._draws = Draws(seed, first, batch_size, device)
        self._age = torch.zeros(batch_size, dtype=torch.int64, device=device)
        # Episodes begun so far.
        self._episode = torch.zeros_like(self._age)

    def reset(self, where: Tensor | None = None) -> Tensor:
        """Begin a new episode where `where` [B] is true, everywhere if None; return all observations [B, *O]."""
        if where is None:
            where = torch.ones_like(self._age, dtype=torch.bool)
        self._age = self._age.masked_fill(where, 0)
        self._episode = self._episode + where
        self._begin(where)
        return self._observation()

    def step(self, action: Tensor) -> Step:
        """Play one action [B] each."""
        self._age = self._age + 1
        reward, terminated, truncated = self._play(action)
        return Step(self._observation(), reward, terminated, truncated, valid=torch.ones_like(terminated))

    def state_dict(self) -> dict[str, Any]:
        tensors = {name: getattr(self, f"_{name}") for name in (*self._names, "age", "episode")}
        return {**tensors, "keys": self._draws.keys}

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        if "episode" not in state:
            # Version 0.1.0 saved a generator: go on with episodes that the run cannot have played.
            begun = 2**32 + zlib.crc32(state["random"].numpy().tobytes())
            state = {**state, "episode": torch.full_like(self._episode, begun), "keys": self._draws.keys}
        for name, own in self.state_dict().items():
            if state[name].shape != own.shape:
                raise ValueError(f"{name} is {list(state[name].shape)} and not {list(own.shape)}")
        for name in (*self._names, "age", "episode"):
            setattr(self, f"_{name}", state[name].to(getattr(self, f"_{name}")))
        self._draws.keys = state["keys"].to(self._age)
        return torch.ones_like(self._age, dtype=torch.bool)

    def info(self) -> dict[str, Tensor]:
        """Every number of the state."""
        return {name: getattr(self, f"_{name}").double() for name in self._names}

    def close(self) -> None:
        """Nothing to release."""

    def _uniform(self, *shape: int, which: int = 0) -> Tensor:
        """Random numbers [B, *shape] within (0, 1) for this step of each episode; `which` of several."""
        return self._draws.uniform(shape, self._episode, self._age, which)

    def _normal(self, *shape: int, which: int = 0) -> Tensor:
        """The same from the standard normal distribution."""
        return self._draws.normal(shape, self._episode, self._age, which)

    @abstractmethod
    def _begin(self, where: Tensor) -> None:
        """Begin a new episode where `where` [B] is true."""

    @abstractmethod
    def _play(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Play `action` [B], with `_age` counting this step; return reward, terminated and truncated, each [B]."""

    @abstractmethod
    def _observation(self) -> Tensor:
        """Current observation [B, *O]."""
