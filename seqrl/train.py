"""Train an agent: `python -m seqrl.train [group=choice ...] [key=value ...]`.

The composition root: composes the configuration, builds the parts, runs the loop. Nothing imports it.
"""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from seqrl import seeds
from seqrl.complaints import complaint
from seqrl.configuration import CONF, faults
from seqrl.devices import Device
from seqrl.envs.base import BatchedEnv
from seqrl.errors import ConfigError
from seqrl.metrics import Clock, Display, EpisodeStatistics, Logger, Row, duration
from seqrl.networks import Network
from seqrl.records import Manifest, forget_peak_memory, peak_memory_mb
from seqrl.runner import Runner

log = logging.getLogger(__name__)


def train(cfg: DictConfig, folder: Path) -> float:
    """Do one run into `folder`; return the mean return of its evaluation, or of its last episodes if there is none."""
    if found := faults(cfg):
        raise ConfigError(found)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    device: Device = built(cfg.device)()
    device.prepare()
    forget_peak_memory()
    manifest = Manifest(folder, seed=cfg.seed, threads=device.threads, device=str(device.torch_device))

    env = make_env(cfg, device, cfg.parallel, "training")
    network = make_network(cfg, env, device)
    algorithm = built(cfg.algorithm)(network, np.random.default_rng(seeds.stream(cfg.seed, "shuffle")))
    runner: Runner = built(cfg.runner)(
        env=env,
        network=network,
        state_interval=algorithm.bptt_length,
        state_lead=algorithm.state_lead,
        generator=seeds.generator(cfg.seed, "policy", device.torch_device),
    )
    loggers: list[Logger] = [built(logger)(folder) for logger in cfg.logger.values()]
    episodes = EpisodeStatistics(cfg.parallel)
    budget = Budget(cfg.episodes * cfg.parallel, cfg.total_steps)
    clock = Clock()

    with Display() as display:
        display.console.print(
            f"{type(algorithm).__name__}, {reason(cfg)}; {size(network)} parameters on {device.torch_device}",
            soft_wrap=True,
        )
        row: Row = {}
        while not budget.spent:
            rollout = runner.collect()
            clock.lap("collect")
            learned = algorithm.update(rollout, budget.progress)
            clock.lap("update")
            budget.count(int(rollout.valid.sum()), len(episodes.update(rollout)))
            row = {**episodes.row(), **learned, **clock.row(budget.steps), "memory/peak_mb": peak_memory_mb()}
            for logger in loggers:
                logger.write(row, budget.steps)
            display.show(budget.progress, row, clock.elapsed)
            clock.lap("log")

    env.close()
    result = evaluate(cfg, network, device)
    for logger in loggers:
        if result:
            logger.write(result, budget.steps)
        logger.close()
    score = result.get("evaluation/return_mean", row.get("rollout/return_mean", float("nan")))
    manifest.update(
        status="finished",
        result=score,
        **{name.replace("/", "_"): value for name, value in result.items()},
        env_steps=budget.steps,
        steps_per_second=row["time/steps_per_second"],
        seconds=clock.elapsed,
        peak_memory_mb=peak_memory_mb(),
    )
    display.console.print(summary(row, result, budget, clock, folder), soft_wrap=True)
    return score


@dataclass
class Budget:
    """How much of a run is over: ended episodes or environment steps, whichever comes first."""

    episodes_to_end: int
    steps_to_take: int | None
    steps: int = 0
    episodes: int = 0

    def count(self, steps: int, episodes: int) -> None:
        self.steps += steps
        self.episodes += episodes

    @property
    def progress(self) -> float:
        """Share of the budget that is spent; may pass 1 with the last rollout."""
        share = self.episodes / self.episodes_to_end
        return share if self.steps_to_take is None else max(share, self.steps / self.steps_to_take)

    @property
    def spent(self) -> bool:
        return self.progress >= 1


def built(part: DictConfig) -> Callable[..., Any]:
    """Constructor of what `_target_` names, with the part's other keys filled in."""
    constructor: Callable[..., Any] = instantiate(part, _partial_=True, _convert_="all")
    return constructor


def make_env(cfg: DictConfig, device: Device, batch_size: int, purpose: str) -> BatchedEnv:
    env: BatchedEnv = built(cfg.env)(
        batch_size=batch_size, seed=seeds.stream(cfg.seed, purpose), device=device.torch_device
    )
    return env


def make_network(cfg: DictConfig, env: BatchedEnv, device: Device) -> Network:
    # `type` names what the other keys say; it is no part.
    parts = OmegaConf.masked_copy(cfg.network, [key for key in cfg.network if key != "type"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.stream(cfg.seed, "init"))
        network: Network = built(parts)(env.observation_space, env.action_space)
    return network.to(device.torch_device, device.dtype)


def evaluate(cfg: DictConfig, network: Network, device: Device) -> Row:
    """Play fresh episodes with the final policy, the same number of every environment; {} if none are wanted."""
    if not cfg.evaluation.episodes:
        return {}
    batch_size = min(cfg.evaluation.episodes, 200)
    env = make_env(cfg, device, batch_size, "evaluation")
    generator = None if cfg.evaluation.greedy else seeds.generator(cfg.seed, "evaluation policy", device.torch_device)
    runner = Runner(env, network, rollout_length=0, state_interval=0, generator=generator)
    played = EpisodeStatistics(batch_size)
    ended = [e for _ in range(-(-cfg.evaluation.episodes // batch_size)) for e in played.update(runner.collect())]
    env.close()
    returns = np.array([episode_return for episode_return, _ in ended])
    return {
        "evaluation/return_mean": float(returns.mean()),
        "evaluation/return_std": float(returns.std()),
        "evaluation/return_min": float(returns.min()),
        "evaluation/length_mean": float(np.mean([length for _, length in ended])),
        "evaluation/episodes": len(ended),
    }


def reason(cfg: DictConfig) -> str:
    """Why this algorithm was selected."""
    if not cfg.network.get("use_lstm", True):
        return "as the network has no LSTM"
    if not cfg.sequence_learning.enabled:
        return "as sequence_learning.enabled is false"
    length = cfg.sequence_learning.bptt_length
    return f"as the network has an LSTM: gradients reach back {f'{length} steps' if length else 'to the episode start'}"


def size(network: Network) -> str:
    return f"{sum(parameter.numel() for parameter in network.parameters()):,}"


def summary(row: Row, result: Row, budget: Budget, clock: Clock, folder: Path) -> str:
    """The short table at the end of a run."""
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    if result:
        score = (
            f"[bold]{result['evaluation/return_mean']:.1f}[/bold] over {result['evaluation/episodes']:.0f} fresh "
            f"episodes, worst {result['evaluation/return_min']:.1f}"
        )
    else:
        score = f"{row.get('rollout/return_mean', float('nan')):.1f} over the last episodes of training"
    played = (
        f"{budget.steps:,} steps, {budget.episodes:,} episodes in {duration(clock.elapsed)}, "
        f"{row['time/steps_per_second']:,.0f} steps/s"
    )
    return f"""
  mean return   {score}
  played        {played}
  run folder    {folder}
  curves        tensorboard --logdir {folder}
"""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float:
    """One run, alone or as a point of a sweep."""
    try:
        return train(cfg, Path(HydraConfig.get().runtime.output_dir))
    except Exception as error:
        fail(error)


def fail(error: Exception) -> NoReturn:
    """End in one line a fault; a traceback goes to the run's log alone."""
    lines, exit_code = complaint(error)
    if exit_code == 1:
        log.error("unexpected", exc_info=error)
    for line in lines:
        print(f"seqrl: error: {line}", file=sys.stderr)
    sys.exit(exit_code)


def main() -> None:
    """Entry point of `python -m seqrl.train` and `seqrl-train`."""
    # Modules beside the user's work can be named, however the program was started.
    sys.path.insert(0, str(Path.cwd()))
    # `env.id=…` alone can only mean a Gymnasium environment.
    if any(a.startswith("env.id=") for a in sys.argv) and not any(a.startswith("env=") for a in sys.argv):
        sys.argv.append("env=gymnasium")
    # A reader that has gone, as in `--info defaults-tree | head`, is no reason for tracebacks.
    logging.raiseExceptions = False
    # Hydra then hands its errors over as they are.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        job()
    except KeyboardInterrupt:
        print("seqrl: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        fail(error)


if __name__ == "__main__":
    main()
