"""Recorded episodes, and what the network makes of them when it sees them again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import Space
from torch import Tensor

from seqrl.envs.base import BatchedEnv
from seqrl.networks import Distribution
from seqrl.runner import Player, Runner
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
    """

    observation: Tensor
    length: Tensor
    info: dict[str, Tensor]
    space: Space[Any]

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
    """Environments that are asked before every step what else they can tell, which the policy does not see."""

    def __init__(self, env: BatchedEnv) -> None:
        self.env, self.batch_size = env, env.batch_size
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.told: list[dict[str, Tensor]] = []

    def reset(self, where: Tensor | None = None) -> Tensor:
        return self.env.reset(where)

    def step(self, action: Tensor) -> Step:
        self.told.append({name: number.double().clone() for name, number in self.env.info().items()})
        return self.env.step(action)

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
        runner = Runner(told, network, 0, 0, generator, episode_limit=limit)
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
    return Episodes(rollout.observation[:MOST_STEPS], length, info, env.observation_space)


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
    return Episodes(observation[:longest], length, {name: it[:longest] for name, it in info.items()}, pieces[0].space)
