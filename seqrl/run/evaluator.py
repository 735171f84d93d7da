"""Evaluation episodes, during training and for seqrl.evaluate."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter

import torch
from torch import Tensor, nn

from seqrl.envs.base import BatchedEnv
from seqrl.loggers import Row
from seqrl.metrics.episodes import mean
from seqrl.networks import Distribution, Network
from seqrl.ranks import ALONE, Ranks
from seqrl.runner import LIMIT_EPISODES, Player, Runner
from seqrl.types import State

# How episodes are played.
GREEDY, SAMPLED, WITHOUT_MEMORY = "greedy", "sampled", "without_memory"
# A run that learns from parts of an episode may learn from one that never ends, but not play it to the end.
IF_ENDLESS = f"An evaluation plays whole episodes. {LIMIT_EPISODES}, or train without: evaluation.episodes=0."


class Forgetful:
    """A network whose memory is zeroed before every step: what it then reaches, it reaches without memory."""

    def __init__(self, network: Player) -> None:
        self.network = network

    def initial_state(self, batch_size: int) -> State:
        return self.network.initial_state(batch_size)

    def step(self, observation: Tensor, state: State) -> tuple[Distribution, Tensor, State]:
        return self.network.step(observation, self.initial_state(len(observation)))


class Watched:
    """A network that tells somebody about every step; whoever is told may raise, and so end the episodes."""

    def __init__(self, network: Player, told: Callable[[], None]) -> None:
        self.network, self.told = network, told

    def initial_state(self, batch_size: int) -> State:
        return self.network.initial_state(batch_size)

    def step(self, observation: Tensor, state: State) -> tuple[Distribution, Tensor, State]:
        self.told()
        return self.network.step(observation, state)


def play(
    env: BatchedEnv,
    player: Player,
    episodes: int,
    generator: torch.Generator | None,
    episode_limit: int,
    told: Callable[[float], None] = lambda share: None,
    infos: list[dict[str, float]] | None = None,
    ranks: Ranks = ALONE,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return and length [episodes] of fresh episodes, in equal shares of every environment.

    generator       draws the actions; None takes the likeliest one
    episode_limit   steps after which an episode counts as one that never ends
    told            is called at every step with the share of the episodes that have ended, in whole rounds
    infos           gets the numbers that the environment told at the end of each episode
    ranks           processes that share the environments, of which there are `batch_size`

    Which are counted is decided by the environment, never by who ends first: that would favour short episodes.
    """
    returns: list[Tensor] = []
    lengths: list[Tensor] = []
    batch_size = env.batch_size if batch_size is None else batch_size
    rounds = math.ceil(episodes / batch_size)
    watched = Watched(player, lambda: told(len(returns) / rounds))
    runner = Runner(
        env,
        watched,
        0,
        0,
        generator,
        episode_limit=episode_limit,
        ranks=ranks,
        batch_size=batch_size,
        if_endless=IF_ENDLESS,
    )
    while len(returns) < rounds:
        reward, valid = runner.play()
        # In double precision, as training counts them; some accelerators have none.
        returns.append(reward.where(valid, 0).cpu().double().sum(0))
        lengths.append(valid.cpu().double().sum(0))
        if infos is not None:
            infos += [numbers for _, numbers in sorted(runner.take_ended_info(), key=itemgetter(0))]
            del infos[episodes:]
    return torch.cat(returns)[:episodes], torch.cat(lengths)[:episodes]


class Evaluator:
    """Plays the same fresh episodes whenever it is asked, so that only the policy makes a difference.

    make_env              builds environments of its own, anew whenever all episodes are played
    make_generator        builds what draws the actions where they are sampled; the same one every time
    episodes              in equal shares of every environment
    greedy                take the likeliest action; False: a sampled one; "both": one after the other
    memoryless_control    play them once more with memory zeroed before every step
    episode_limit         steps after which an episode counts as one that never ends
    ranks                 processes that share the environments
    side_by_side          environments of all of them; None: as many as `make_env` builds

    infos   of the latest episodes, by how they were played: numbers that the environment told at their ends
    """

    def __init__(
        self,
        make_env: Callable[[], BatchedEnv],
        make_generator: Callable[[], torch.Generator],
        episodes: int,
        greedy: bool | str,
        memoryless_control: bool,
        episode_limit: int,
        ranks: Ranks = ALONE,
        side_by_side: int | None = None,
    ) -> None:
        self._ranks, self._side_by_side = ranks, side_by_side
        self.episodes, self.greedy, self.memoryless_control = episodes, greedy, memoryless_control
        self._make_env, self._make_generator, self._episode_limit = make_env, make_generator, episode_limit
        self._env: BatchedEnv | None = None
        self.infos: dict[str, list[dict[str, float]]] = {}

    def row(self, network: Network, told: Callable[[float], None] = lambda share: None) -> Row:
        """Scalars of an evaluation of a network; {} if no episodes are wanted.

        told   as for `play`
        """
        if not self.episodes:
            return {}
        played = self.play(network, told)
        scalars = row(*next(iter(played.values())))
        if self.greedy == "both":
            sampled = row(*played[SAMPLED])
            del sampled["evaluation/episodes"]
            scalars |= {name.replace("/", "/sampled_"): value for name, value in sampled.items()}
        for name, number in means(self.infos.get(next(iter(played)), [])).items():
            scalars[f"info/evaluation_{name}"] = number
        if WITHOUT_MEMORY in played:
            scalars["evaluation/return_without_memory"] = float(played[WITHOUT_MEMORY][0].mean())
        return scalars

    def play(
        self, network: Network, told: Callable[[float], None] = lambda share: None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return and length [episodes] of each episode, by how it is played; the network learns nothing from it.

        told   is called at every step with the share that is done, and may raise to end the evaluation
        """
        usual = GREEDY if self.greedy else SAMPLED
        plays: dict[str, tuple[Player, str]] = {usual: (network, usual)}
        if self.greedy == "both":
            plays[SAMPLED] = (network, SAMPLED)
        if self.memoryless_control:
            plays[WITHOUT_MEMORY] = (Forgetful(network), usual)
        played: dict[str, tuple[Tensor, Tensor]] = {}

        def of_all(share: float) -> None:
            told((len(played) + share) / len(plays))

        with frozen(network):
            for name, (player, how) in plays.items():
                generator = self._make_generator() if how == SAMPLED else None
                env = self._new_env()
                self.infos[name] = []
                told_too = self.infos[name]
                played[name] = self._played(env, player, self.episodes, generator, of_all, told_too)
        return played

    def scores(self, player: Player, episodes: int | None = None) -> tuple[Tensor, Tensor]:
        """Return and length [episodes] of the same episodes, as any player plays them.

        episodes   the first so many; None: all
        """
        generator = None if self.greedy else self._make_generator()
        wanted = self.episodes if episodes is None else episodes
        return self._played(self._new_env(), player, wanted, generator)

    def _played(
        self,
        env: BatchedEnv,
        player: Player,
        episodes: int,
        generator: torch.Generator | None,
        told: Callable[[float], None] = lambda share: None,
        infos: list[dict[str, float]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        limit, batch_size = self._episode_limit, self._side_by_side
        return play(env, player, episodes, generator, limit, told, infos, self._ranks, batch_size)

    @property
    def notes(self) -> Sequence[str]:
        """What you should know about the environments, once something was played."""
        return () if self._env is None else self._env.notes

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    def _new_env(self) -> BatchedEnv:
        """New environments: used ones may keep statistics or a level that no saved state holds."""
        # First: there may be room for one, or a device that only one can have.
        self.close()
        self._env = None
        self._env = self._make_env()
        return self._env


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Meanwhile nothing that is seen moves a network's running statistics, and no dropout draws random numbers."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def means(infos: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each number over the episodes at whose ends the environment told it."""
    told: dict[str, list[float]] = {}
    for numbers in infos:
        for name, number in numbers.items():
            told.setdefault(name, []).extend([number] if math.isfinite(number) else [])
    return {name: mean(numbers) for name, numbers in told.items() if numbers}


def row(returns: Tensor, lengths: Tensor) -> Row:
    """Scalars of an evaluation."""
    return {
        "evaluation/return_mean": float(returns.mean()),
        "evaluation/return_std": float(returns.std(correction=0)),
        "evaluation/return_min": float(returns.min()),
        "evaluation/length_mean": float(lengths.mean()),
        "evaluation/episodes": len(returns),
    }
