"""The policy under inspection, and all that it takes to play it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seqrl import seeds
from seqrl.config.begun import loaded
from seqrl.config.settle import with_values
from seqrl.devices.device import Device
from seqrl.errors import ConfigError
from seqrl.inspect.episodes import Episodes, record
from seqrl.inspect.request import Request
from seqrl.networks import Network
from seqrl.run import policy
from seqrl.run.build import make_device, make_env, make_evaluator, prepare_device
from seqrl.run.evaluator import Evaluator
from seqrl.runner import Player
from seqrl.statistics import Array

TENSORS = [
    f"seqrl.envs.{it}" for it in ("CartPole", "CountRecall", "MemoryChain", "RepeatFirst", "RepeatPrevious", "TMaze")
]
MOST_TENSORS = 32


@dataclass(frozen=True)
class Elsewhere:
    """A key of the environment, and the values to play it with.

    trained   the run's own value
    cfgs      the configuration with each value, by how it is written
    """

    key: str
    trained: Any
    cfgs: Mapping[str, DictConfig]


@dataclass(frozen=True)
class Subject:
    """A policy, and how it is played.

    run         its folder, as the user gave it
    about       how far the run was, the seed, and what was changed in the environment
    state       the checkpoint
    evaluator   plays the same episodes again and again
    """

    run: Path
    cfg: DictConfig
    about: dict[str, Any]
    state: dict[str, Any]
    device: Device
    network: Network
    evaluator: Evaluator
    elsewhere: Elsewhere | None

    @property
    def has_memory(self) -> bool:
        return bool(self.network.initial_state(1))

    @property
    def episodes(self) -> int:
        return int(self.cfg.evaluation.episodes)

    @property
    def batch(self) -> int:
        """Episodes that are played side by side."""
        return min(self.episodes, int(self.cfg.parallel))

    def scores(self, player: Player, episodes: int | None = None) -> tuple[Array, Array]:
        """Return and length [episodes] of the same episodes, as any player plays them."""
        returns, lengths = self.evaluator.scores(player, episodes)
        return returns.numpy(), lengths.numpy()

    def record(self) -> Episodes:
        """Some of the episodes, with what was seen."""
        # A vector form of its own does not say what its environments tell.
        backend = "sync" if self.cfg.env.get("backend") == "auto" else ""
        make = partial(make_env, self.cfg, self.device, self.batch, "evaluation", backend=backend)
        return record(make, self.network, self.episodes, self.generator(), self.cfg.runner.episode_limit)

    def generator(self) -> torch.Generator | None:
        """What draws the actions; None where they are the likeliest."""
        if self.cfg.evaluation.greedy:
            return None
        return seeds.generator(self.cfg.seed, "evaluation policy", self.device.torch_device)

    def progress(self) -> float:
        """Share of the run that was done, as far as it is known."""
        total = self.saved("total_steps")
        return min(1.0, self.about["env_steps"] / total) if total else 1.0

    def saved(self, key: str, *sections: str) -> int | None:
        """A whole number of the run's configuration, from the first of some sections that has it; None if none does.

        sections   none: the top
        """
        try:
            cfg: Any = loaded(self.run / "config.yaml")
            values = [OmegaConf.select(cfg, f"{section}.{key}") for section in sections] or [OmegaConf.select(cfg, key)]
        except (OSError, ValueError, OmegaConfBaseException):
            return None
        return next((value for value in values if type(value) is int and value >= 0), None)


def subject(request: Request, run: Path, say: Callable[[str], None]) -> Subject:
    """Load a policy.

    Raises CheckpointError if there is none, ConfigError if it cannot, or must not, be played.
    """
    lists = _lists(run, request)
    usual = {key: value for key, value in request.env.items() if key not in lists}
    choose = partial(
        policy.chosen,
        run,
        trust=request.trust,
        seed=request.seed,
        episodes=request.episodes,
        greedy=None,
        device=request.device,
    )
    cfg, changed = choose(values=usual)
    if cfg.evaluation.greedy == "both":
        cfg = with_values(cfg, {"evaluation": {"greedy": True}})
    cfg = with_values(cfg, {"parallel": _side_by_side(cfg), "evaluation": {"memoryless_control": False}})
    elsewhere = None
    for key, values in lists.items():
        cfgs = {str(value): choose(values={**usual, key: value})[0] for value in values}
        elsewhere = Elsewhere(key, OmegaConf.select(cfg, key), {name: _alike(it, cfg) for name, it in cfgs.items()})
    state, passed_over = policy.checkpoint(run, request.checkpoint)
    for fault in passed_over:
        say(f"warning: checkpoint {fault}; using an older one.")
    about = {**policy.progress(state), "seed": cfg.seed, "changed": changed}
    device = prepare_device(make_device(cfg), cfg, say)
    network = policy.network(cfg, device, state)
    return Subject(run, cfg, about, state, device, network, make_evaluator(cfg, device), elsewhere)


def _alike(cfg: DictConfig, like: DictConfig) -> DictConfig:
    return with_values(cfg, {"parallel": like.parallel, "evaluation": OmegaConf.to_container(like.evaluation)})


def _side_by_side(cfg: DictConfig) -> int:
    """Environments to play in: more than in training where they are tensors, which take hardly longer then."""
    are_tensors = str(cfg.env._target_) in TENSORS
    return max(int(cfg.parallel), MOST_TENSORS) if are_tensors else int(cfg.parallel)


def _lists(run: Path, request: Request) -> dict[str, list[Any]]:
    """Those changes that are lists where the run has a single value: values to play one after another."""
    cfg = policy.configuration(run)
    found = {}
    for key, value in request.env.items():
        own = OmegaConf.select(cfg, key)
        if isinstance(value, list) and own is not None and not OmegaConf.is_list(own):
            found[key] = value
    if len(found) > 1:
        first, second, *_ = found
        raise ConfigError([f"{second}: only one key may have several values, and {first} has."])
    for key, value in found.items():
        if len(value) < 2 or len({str(it) for it in value}) < len(value):
            raise ConfigError([f"{key}: list at least two values, and each once (got {value})."])
    return found
