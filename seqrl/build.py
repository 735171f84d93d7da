"""From the configuration to the parts of a run: all that is named by a `_target_` is built here."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from seqrl import seeds
from seqrl.configuration import NetworkConfig, nearest
from seqrl.devices import Device, chosen
from seqrl.envs import BatchedEnv, GymnasiumEnv
from seqrl.envs.inputs import WithInputs
from seqrl.errors import ConfigError, SeqrlError, described
from seqrl.evaluation import Evaluator
from seqrl.extras import fault_of_target
from seqrl.metrics import EpisodeStatistics
from seqrl.networks import Graphed, Network
from seqrl.probe import probe
from seqrl.run import Budget, Run
from seqrl.runner import Runner


def build(cfg: DictConfig, device: Device, *stream: int) -> Run:
    """All parts of a run. `stream` tells the environments' random numbers from those of an earlier part of the run."""
    env = make_env(cfg, device, cfg.parallel, "training", *stream)
    network = make_network(cfg, env, device)
    algorithm = built(cfg.algorithm)(network, np.random.default_rng(seeds.stream(cfg.seed, "shuffle")))
    runner: Runner = built(cfg.runner)(
        env=env,
        network=Graphed(network) if device.graphs else network,
        state_interval=algorithm.bptt_length,
        state_lead=algorithm.state_lead,
        generator=seeds.generator(cfg.seed, "policy", device.torch_device),
    )
    return Run(runner, algorithm, Budget(cfg.episodes * cfg.parallel, cfg.total_steps), EpisodeStatistics(cfg.parallel))


def prepared(device: Device, cfg: DictConfig, say: Callable[[str], None]) -> Device:
    """The device that is meant, ready; anything but the CPU is first tried with a small step of the network."""
    if device.candidates != [torch.device("cpu")]:
        env = make_env(cfg, replace(device, name="cpu"), 1, "probe")
        env.close()
        device = chosen(
            device,
            lambda it: probe(network_builder(cfg), env.observation_space, env.action_space, it, device.dtype),
            say,
        )
    device.prepare()
    return device


@dataclass(frozen=True)
class Constructor:
    """Builds what a section of the configuration names; what is wrong with it is said with the section's name.

    where    the section
    target   its `_target_`
    make     what that names, with the section's other keys filled in
    """

    where: str
    target: str
    make: partial[Any]

    def __call__(self, *given: Any, **named: Any) -> Any:
        try:
            return self.make(*given, **named)
        except (SeqrlError, MemoryError):
            raise
        except Exception as error:
            raise self.complaint(error) from error

    def complaint(self, error: Exception) -> ConfigError:
        key = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if isinstance(error, TypeError) and key and key[1] in self.make.keywords:
            others = [name for name in self.make.keywords if name != key[1]]
            meant = nearest(key[1], others)
            return ConfigError([f"{self.where}.{key[1]}: {self.target} takes no such parameter.{meant}"])
        return ConfigError([f"{self.where}: {self.target}: {described(error)}."])


def built(part: DictConfig) -> Constructor:
    """Constructor of what `_target_` names, with the part's other keys filled in.

    Raises ConfigError if it cannot be imported, or has no such parameters.
    """
    where = part._get_full_key(None)
    try:
        constructor = Constructor(where, part._target_, instantiate(part, _partial_=True, _convert_="all"))
    except InstantiationException as error:
        reason = str(error.__cause__ or error).splitlines()[0].rstrip(".:")
        fault = fault_of_target(part._target_) or f"{part._target_}: {reason}."
        raise ConfigError([f"{where}._target_: {fault}"]) from error
    try:
        signature(constructor.make.func).bind_partial(**constructor.make.keywords)
    except TypeError as error:
        raise constructor.complaint(error) from error
    return constructor


def make_env(cfg: DictConfig, device: Device, batch_size: int, *stream: str | int) -> BatchedEnv:
    """`batch_size` environments, seeded by the stream that is named."""
    purpose, *index = stream
    seed = seeds.stream(cfg.seed, str(purpose), *map(int, index))
    part = cfg.env
    if wrappers := part.get("wrappers"):
        # They wait for the environment that each of them is put around.
        part = OmegaConf.merge(part, {"wrappers": [{**wrapper, "_partial_": True} for wrapper in wrappers]})
    env: BatchedEnv = built(part)(batch_size=batch_size, seed=seed, device=device.torch_device)
    inputs = cfg.network.get("inputs")
    return WithInputs(env, inputs) if inputs else env


def make_evaluator(cfg: DictConfig, device: Device) -> Evaluator:
    """What plays the evaluations of a run, in environments and with random numbers of their own."""
    wanted = cfg.evaluation
    return Evaluator(
        partial(make_env, cfg, device, min(wanted.episodes, cfg.parallel), "evaluation"),
        partial(seeds.generator, cfg.seed, "evaluation policy", device.torch_device),
        episodes=wanted.episodes,
        greedy=wanted.greedy,
        memoryless_control=wanted.memoryless_control,
        episode_limit=cfg.runner.episode_limit,
    )


def settled(cfg: DictConfig, env: BatchedEnv) -> str:
    """Write into the configuration who plays, if that was left open, so that nothing chooses again.

    Returns a line that says it, or nothing.
    """
    env = env.env if isinstance(env, WithInputs) else env
    if not isinstance(env, GymnasiumEnv) or cfg.env.get("backend") != "auto":
        return ""
    cfg.env.backend = env.choice.backend
    return f"environments: {env.choice.backend}, {env.choice.why}"


def network_builder(cfg: DictConfig) -> Callable[..., Network]:
    parts = OmegaConf.to_container(cfg.network, resolve=True)
    assert isinstance(parts, dict)
    # What the environment shows is not the network's business.
    parts.pop("inputs", None)
    if OmegaConf.get_type(cfg.network) is NetworkConfig:
        # It names what the other keys say, and is no part.
        del parts["type"]
    return built(OmegaConf.create({"network": parts}).network)


def make_network(cfg: DictConfig, env: BatchedEnv, device: Device) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.stream(cfg.seed, "init"))
        network = network_builder(cfg)(env.observation_space, env.action_space)
    network.products = device.products
    return network.to(device.torch_device, device.dtype)
