"""Fresh episodes of a policy, without learning from them."""

import math

import torch
from torch import Tensor

from seqrl.envs.base import BatchedEnv
from seqrl.loggers import Row
from seqrl.networks import Distribution
from seqrl.runner import Player, Runner
from seqrl.types import State


class Forgetful:
    """A network whose memory is zeroed before every step: what it then reaches, it reaches without memory."""

    def __init__(self, network: Player) -> None:
        self.network = network

    def initial_state(self, batch_size: int) -> State:
        return self.network.initial_state(batch_size)

    def step(self, observation: Tensor, state: State) -> tuple[Distribution, Tensor, State]:
        return self.network.step(observation, self.initial_state(len(observation)))


def play(
    env: BatchedEnv, player: Player, episodes: int, generator: torch.Generator | None, episode_limit: int
) -> tuple[Tensor, Tensor]:
    """Return and length [episodes] of fresh episodes, in equal shares of every environment.

    generator       draws the actions; None takes the likeliest one
    episode_limit   steps after which an episode counts as one that never ends

    Which are counted is decided by the environment, never by who ends first: that would favour short episodes.
    """
    runner = Runner(env, player, 0, 0, generator, episode_limit=episode_limit)
    rollouts = [runner.collect() for _ in range(math.ceil(episodes / env.batch_size))]
    returns = torch.cat([rollout.reward.where(rollout.valid, 0).sum(0) for rollout in rollouts])
    lengths = torch.cat([rollout.valid.sum(0) for rollout in rollouts])
    return returns[:episodes].double().cpu(), lengths[:episodes].double().cpu()


def row(returns: Tensor, lengths: Tensor) -> Row:
    """Scalars of an evaluation."""
    return {
        "evaluation/return_mean": float(returns.mean()),
        "evaluation/return_std": float(returns.std(correction=0)),
        "evaluation/return_min": float(returns.min()),
        "evaluation/length_mean": float(lengths.mean()),
        "evaluation/episodes": len(returns),
    }
