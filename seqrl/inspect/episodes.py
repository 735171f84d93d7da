"""Recorded episodes, and what the network makes of them when it sees them again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import Space
from torch import Tensor

from seqrl.envs.base import BatchedEnv
from seqrl.errors import SeqrlError, described
from seqrl.networks import Distribution
from seqrl.runner import LIMIT_EPISODES, Player, Runner
from seqrl.types import Rollout, State, Step

# Of these episodes, and no more of their steps: memory before every step is held at once.
MOST_EPISODES, MOST_STEPS = 32, 512


@dataclass(frozen=True)
class Episodes:
    """N episodes side by side, from their first steps on.

    observation   [T, N, *O]  what the policy saw; anything after an episode's end
    length        [N] int  steps of each
    info          [T, N, ...]  by name, what the environment tells beside the observation; NaN where it does not
    space         of one observation
    fault         why `info` is not all that the environment could tell; "" if it is
    """

    observation: Tensor
    length: Tensor
    info: dict[str, Tensor]
    space: Space[Any]
    fault: str = ""

    @property
    def real(self) -> Tensor:
        """[T, N] bool, true on steps that were played."""
        return torch.arange(len(self.observation), device=self.length.device).unsqueeze(1) < self.length

    def replay(
        self, network: Player, observation: Sequence[Tensor] | Tensor | None = None
    ) -> Iterator[tuple[Distribution, Tensor, State]]:
        """Policy and value [N] at each step, and the memory after it.

        observation   [N, *O] at each step, to see instead
        """
        shown = self.observation if observation is None else observation
        state = network.initial_state(len(shown[0]))
        for seen in shown:
            policy, value, state = network.step(seen, state)
            yield policy, value, state


class Told(BatchedEnv):
    """Environments that are asked before every step what else they can tell, which the policy does not see.

    fault   why they cannot; they are then asked no more
    """

    def __init__(self, env: BatchedEnv) -> None:
        self.env, self.batch_size = env, env.batch_size
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.told: list[dict[str, Tensor]] = []
        self.fault = ""
        self._shapes: dict[str, torch.Size] = {}

    def reset(self, where: Tensor | None = None) -> Tensor:
        return self.env.reset(where)

    def step(self, action: Tensor) -> Step:
        self.told.append({} if self.fault else self._told())
        return self.env.step(action)

    def _told(self) -> dict[str, Tensor]:
        try:
            told = {str(name): torch.as_tensor(it).double().clone() for name, it in self.env.info().items()}
        except SeqrlError:
            raise
        except Exception as error:
            self.fault = f"its info() raised {described(error)}"
            return {}
        if any(not it.dim() or len(it) != self.batch_size for it in told.values()):
            self.fault = f"its info() must return a number, or several, for each of {self.batch_size} environments"
        elif any(self._shapes.setdefault(name, it.shape) != it.shape for name, it in told.items()):
            self.fault = "its info() returned other shapes than before"
        return {} if self.fault else told

    def close(self) -> None:
        self.env.close()


def record(
    make: Callable[[], BatchedEnv], network: Player, episodes: int, generator: torch.Generator | None, limit: int
) -> Episodes:
    """Play episodes and keep what was seen.

    make        builds the environments, which are closed again
    generator   draws the actions; None takes the likeliest one
    limit       steps after which an episode counts as one that never ends
    """
    wanted = min(episodes, MOST_EPISODES)
    pieces: list[Episodes] = []
    with closing(make()) as env:
        told = Told(env)
        runner = Runner(told, network, 0, 0, generator, episode_limit=limit, if_endless=f"{LIMIT_EPISODES}.")
        while sum(len(piece.length) for piece in pieces) < wanted:
            pieces.append(_recorded(runner.collect(), told))
            told.told.clear()
    return _beside(pieces, wanted)


def _recorded(rollout: Rollout, env: Told) -> Episodes:
    info = {}
    for name in dict.fromkeys(name for numbers in env.told for name in numbers):
        like = next(numbers[name] for numbers in env.told if name in numbers)
        unknown = torch.full_like(like, torch.nan)
        info[name] = torch.stack([numbers.get(name, unknown) for numbers in env.told[:MOST_STEPS]])
    length = rollout.valid.sum(0).clamp(max=MOST_STEPS)
    return Episodes(rollout.observation[:MOST_STEPS], length, info, env.observation_space, env.fault)


def _beside(pieces: Sequence[Episodes], count: int) -> Episodes:
    """The first `count` of all episodes, in one."""
    steps = max(len(piece.observation) for piece in pieces)

    def joined(tensors: Sequence[Tensor], gap: float) -> Tensor:
        padded = [torch.cat([it, it.new_full((steps - len(it), *it.shape[1:]), gap)]) for it in tensors]
        return torch.cat(padded, 1)[:, :count]

    names = [name for name in pieces[0].info if all(name in piece.info for piece in pieces)]
    info = {name: joined([piece.info[name] for piece in pieces], torch.nan) for name in names}
    length = torch.cat([piece.length for piece in pieces])[:count]
    longest = int(length.max())
    observation = joined([piece.observation for piece in pieces], 0)
    return Episodes(
        observation[:longest],
        length,
        {name: it[:longest] for name, it in info.items()},
        pieces[0].space,
        pieces[-1].fault,
    )
