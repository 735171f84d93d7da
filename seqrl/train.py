"""Train an agent: `python -m seqrl.train [group=choice ...] [key=value ...]`.

The composition root: composes the configuration, builds the parts, runs the loop. Nothing imports it.
"""

import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NoReturn

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from seqrl import seeds
from seqrl.checkpoint import Checkpoints
from seqrl.complaints import complaint
from seqrl.configuration import CONF, NetworkConfig, faults
from seqrl.devices import Device, chosen
from seqrl.envs.base import BatchedEnv
from seqrl.errors import ConfigError, SeqrlError
from seqrl.footprint import Footprint, footprint
from seqrl.hints import Hints, faster
from seqrl.metrics import Display, EpisodeStatistics, Logger, Row, duration
from seqrl.networks import Network
from seqrl.probe import probe
from seqrl.records import Manifest, forget_peak_memory, peak_memory_mb
from seqrl.resume import arguments, changes
from seqrl.run import Budget, Run
from seqrl.runner import Runner
from seqrl.types import Rollout

log = logging.getLogger(__name__)

# What keeps Hydra from making a run folder.
LEAVE_NOTHING = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra.job_logging.root.handlers=[]"]


def train(cfg: DictConfig, folder: Path) -> float:
    """Do one run into `folder`, or go on with it; return the mean return of its evaluation.

    Without an evaluation, that of its last episodes.
    """
    device: Device = built(cfg.device)()
    with ExitStack() as stack:
        manifest = stack.enter_context(Manifest(folder, goes_on=cfg.resume is not None))
        display = stack.enter_context(Display())
        device = prepared(device, cfg, display.say)
        forget_peak_memory()
        checkpoints = Checkpoints(folder)
        run = resumed(cfg, device, checkpoints, display.say) if cfg.resume else build(cfg, device)
        stack.callback(run.runner.env.close)
        OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
        manifest.update(seed=cfg.seed, threads=device.threads, device=str(device.torch_device))
        loggers: list[Logger] = [built(logger)(folder, run.budget.steps) for logger in cfg.logger.values()]
        for logger in loggers:
            stack.callback(logger.close)

        display.say(introduction(cfg, run, device))
        learn(cfg, run, loggers, checkpoints, display)

        checkpoints.save(run.state_dict(), run.iterations)
        manifest.update(
            env_steps=run.budget.steps,
            steps_per_second=run.budget.steps / run.clock.elapsed,
            seconds=run.clock.elapsed,
            peak_memory_mb=peak_memory_mb(),
        )
        result = evaluate(cfg, run.runner.network, device)
        for logger in loggers:
            if result:
                logger.write(result, run.budget.steps)
        score = result.get("evaluation/return_mean", run.episodes.row().get("rollout/return_mean", math.nan))
        named = {name.replace("/", "_"): value for name, value in result.items()}
        manifest.update(status="finished", result=score, **named)
    display.console.print(summary(run, result, score, folder), soft_wrap=True)
    return score


def learn(cfg: DictConfig, run: Run, loggers: list[Logger], checkpoints: Checkpoints, display: Display) -> None:
    """Iterate until the budget is spent."""
    algorithm = run.algorithm
    hints = Hints(algorithm.minibatches, algorithm.bptt_length, cfg.rollout_length, algorithm.grad_clip_norm)
    while not run.budget.spent:
        row = run.iterate()
        for logger in loggers:
            logger.write(row, run.budget.steps)
        display.show(run.budget.progress, row)
        for hint in hints.new(row):
            display.say(f"hint: {hint}")
        if cfg.checkpoint_interval and run.iterations % cfg.checkpoint_interval == 0:
            checkpoints.save(run.state_dict(), run.iterations)
        run.clock.lap("other")


def validate(cfg: DictConfig) -> None:
    """Build all parts, play and learn one tiny iteration, and say how large the real one is; leaves no run behind."""
    display = Display()
    device = prepared(built(cfg.device)(), cfg, display.say)
    tiny = OmegaConf.merge(cfg, {"parallel": min(cfg.parallel, 4)})
    assert isinstance(tiny, DictConfig)
    run = build(tiny, device)
    try:
        rollout = run.runner.collect()
        need = footprint(run.algorithm, rollout, cfg.parallel)
        run.algorithm.update(rollout, 0.0)
    finally:
        run.runner.env.close()
    display.say(introduction(cfg, run, device))
    display.console.print(sizes(cfg, run, rollout, need), soft_wrap=True)


def build(cfg: DictConfig, device: Device, *stream: int) -> Run:
    """All parts of a run. `stream` tells the environments' random numbers from those of an earlier part of the run."""
    env = make_env(cfg, device, cfg.parallel, "training", *stream)
    network = make_network(cfg, env, device)
    algorithm = built(cfg.algorithm)(network, np.random.default_rng(seeds.stream(cfg.seed, "shuffle")))
    runner: Runner = built(cfg.runner)(
        env=env,
        network=network,
        state_interval=algorithm.bptt_length,
        state_lead=algorithm.state_lead,
        generator=seeds.generator(cfg.seed, "policy", device.torch_device),
    )
    return Run(runner, algorithm, Budget(cfg.episodes * cfg.parallel, cfg.total_steps), EpisodeStatistics(cfg.parallel))


def resumed(cfg: DictConfig, device: Device, checkpoints: Checkpoints, say: Callable[[str], None]) -> Run:
    """The run that the newest sound checkpoint holds; says what was passed over and what has changed since."""
    state, passed_over = checkpoints.newest()
    run = build(cfg, device, state["iterations"])
    run.load_state_dict(state)
    for fault in passed_over:
        say(f"warning: the checkpoint {fault}; an older one takes its place.")
    say(f"goes on after {run.iterations} iterations, {run.budget.steps:,} steps; episodes begin anew")
    before = OmegaConf.load(Path(cfg.resume) / "config.yaml")
    assert isinstance(before, DictConfig)
    for change in changes(before, cfg):
        say(f"changed: {change}")
    return run


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


def built(part: DictConfig) -> Callable[..., Any]:
    """Constructor of what `_target_` names, with the part's other keys filled in.

    Raises ConfigError if it cannot be imported, or has no such parameters.
    """
    try:
        constructor: partial[Any] = instantiate(part, _partial_=True, _convert_="all")
        signature(constructor.func).bind_partial(**constructor.keywords)
    except InstantiationException as error:
        reason = str(error.__cause__ or error).splitlines()[0].rstrip(".:")
        raise ConfigError([f"_target_ {part._target_}: {reason}. Check its spelling, and PYTHONPATH."]) from error
    except TypeError as error:
        raise ConfigError([f"_target_ {part._target_}: {error}. The keys of a part are its parameters."]) from error
    return constructor


def make_env(cfg: DictConfig, device: Device, batch_size: int, *stream: str | int) -> BatchedEnv:
    """`batch_size` environments, seeded by the stream that is named."""
    purpose, *index = stream
    seed = seeds.stream(cfg.seed, str(purpose), *map(int, index))
    env: BatchedEnv = built(cfg.env)(batch_size=batch_size, seed=seed, device=device.torch_device)
    return env


def network_builder(cfg: DictConfig) -> Callable[..., Network]:
    parts = OmegaConf.to_container(cfg.network, resolve=True)
    assert isinstance(parts, dict)
    if OmegaConf.get_type(cfg.network) is NetworkConfig:
        # It names what the other keys say, and is no part.
        del parts["type"]
    return built(OmegaConf.create(parts))


def make_network(cfg: DictConfig, env: BatchedEnv, device: Device) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.stream(cfg.seed, "init"))
        network = network_builder(cfg)(env.observation_space, env.action_space)
    return network.to(device.torch_device, device.dtype)


def evaluate(cfg: DictConfig, network: Network, device: Device) -> Row:
    """Play fresh episodes with the final policy, the same number of every environment; {} if none are wanted."""
    wanted = cfg.evaluation.episodes
    if not wanted:
        return {}
    batch_size = min(wanted, cfg.parallel)
    env = make_env(cfg, device, batch_size, "evaluation")
    generator = None if cfg.evaluation.greedy else seeds.generator(cfg.seed, "evaluation policy", device.torch_device)
    runner = Runner(
        env, network, rollout_length=0, state_interval=0, generator=generator, episode_limit=cfg.runner.episode_limit
    )
    try:
        rollouts = [runner.collect() for _ in range(math.ceil(wanted / batch_size))]
    finally:
        env.close()
    # By environment, never by who ends first: that would favour short episodes.
    returns = torch.cat([rollout.reward.where(rollout.valid, 0).sum(0) for rollout in rollouts])[:wanted].double()
    lengths = torch.cat([rollout.valid.sum(0) for rollout in rollouts])[:wanted].double()
    return {
        "evaluation/return_mean": float(returns.mean()),
        "evaluation/return_std": float(returns.std(correction=0)),
        "evaluation/return_min": float(returns.min()),
        "evaluation/length_mean": float(lengths.mean()),
        "evaluation/episodes": wanted,
    }


def introduction(cfg: DictConfig, run: Run, device: Device) -> str:
    """What learns, why it was selected, and where."""
    parameters = sum(parameter.numel() for parameter in run.runner.network.parameters())
    return f"{type(run.algorithm).__name__}, {reason(cfg)}; {parameters:,} parameters on {device.torch_device}"


def reason(cfg: DictConfig) -> str:
    """Why this algorithm was selected."""
    if not cfg.network.get("use_lstm", True):
        return "as the network has no LSTM"
    if not cfg.sequence_learning.enabled:
        return "as sequence_learning.enabled is false"
    length = cfg.sequence_learning.bptt_length
    return f"as the network has an LSTM: gradients reach back {f'{length} steps' if length else 'to the episode start'}"


def summary(run: Run, result: Row, score: float, folder: Path) -> str:
    """The short table at the end of a run."""
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    if result:
        over = f"over {result['evaluation/episodes']:.0f} fresh episodes, worst {result['evaluation/return_min']:.1f}"
    else:
        over = "over the last episodes of training"
    steps, clock = run.budget.steps, run.clock
    shares = {part: share for part, share in clock.shares.items() if part != "other" or share > 0.05}
    spent = ", ".join(f"{part} {share:.0%}" for part, share in sorted(shares.items(), key=lambda item: -item[1]))
    return f"""
  mean return   [bold]{score:.1f}[/bold] {over}
  played        {steps:,} steps, {run.budget.episodes:,} episodes in {duration(clock.elapsed)}, \
{steps / clock.elapsed:,.0f} steps/s
  time went to  {spent}; idle {clock.idle:.0%}
  faster with   {faster(clock.shares, run.algorithm.bptt_length, torch.get_num_threads())}
  run folder    {folder}
  curves        tensorboard --logdir {folder}
"""


def sizes(cfg: DictConfig, run: Run, rollout: Rollout, need: Footprint) -> str:
    """What validation found, as a table."""
    env, network = run.runner.env, run.runner.network
    parameters = sum(parameter.numel() for parameter in network.parameters())
    mean_length = float(rollout.valid.sum() / rollout.valid.shape[1])
    limit = run.algorithm.steps_at_once(cfg.parallel)
    if cfg.rollout_length:
        later = ""
    elif limit is None:
        later = "; more with longer episodes, unless max_tokens_per_batch bounds it"
    else:
        later = f"; at most {limit * need.bytes_per_step / 1e6:,.0f} MB for {limit:,}, with longer episodes"
    played = (
        f"rollouts of {mean_length:.0f} steps" if cfg.rollout_length else f"episodes of {mean_length:.0f} steps now"
    )
    return f"""
  observation   {env.observation_space}
  action        {env.action_space}
  parameters    {parameters:,}
  iteration     {cfg.parallel * mean_length:,.0f} steps: {cfg.parallel} environments, {played}
  update        {need.megabytes:,.0f} MB for {need.steps:,} steps at once{later}
  valid         without validate=true, this command trains
"""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float:
    """One run, alone or as a point of a sweep."""
    try:
        if found := faults(cfg):
            raise ConfigError(found)
        if cfg.validate:
            validate(cfg)
            return math.nan
        return train(cfg, Path(HydraConfig.get().runtime.output_dir))
    except Exception as error:
        if HydraConfig.get().mode is not RunMode.MULTIRUN:
            fail(error)
        # The other points of a sweep go on; its exit code tells.
        exit_codes_of_failed_points.append(report(error))
        return math.nan


exit_codes_of_failed_points: list[int] = []


def fail(error: Exception, arguments: Sequence[str] = ()) -> NoReturn:
    """End with a line for each fault."""
    sys.exit(report(error, arguments))


def report(error: Exception, arguments: Sequence[str] = ()) -> int:
    """Print a line for each fault, and return the exit code; a traceback goes to a file alone."""
    lines, exit_code = complaint(error, arguments) or ([unexpected(error)], 1)
    if isinstance(error, SeqrlError) and error.__cause__ and log.hasHandlers():
        log.error("%s", lines[0], exc_info=error)
    for line in lines:
        print(f"seqrl: error: {line}", file=sys.stderr)
    return exit_code


def unexpected(error: Exception) -> str:
    """Line about an error that nobody foresaw; its traceback goes to the run's log, or else to a file of its own."""
    logs = [h.baseFilename for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    if logs:
        log.error("unexpected", exc_info=error)
    else:
        with NamedTemporaryFile("w", prefix="seqrl-", suffix=".log", delete=False) as file:
            file.writelines(traceback.format_exception(error))
        logs = [file.name]
    first = (str(error).splitlines() or [""])[0].rstrip(".:")
    return f"unexpected {type(error).__name__}: {first}. The traceback is in {logs[0]}."


def main() -> None:
    """Entry point of `python -m seqrl.train` and `seqrl-train`."""
    # Modules beside the user's work can be named, however the program was started.
    sys.path.insert(0, str(Path.cwd()))
    # `env.id=…` alone can only mean a Gymnasium environment.
    if any(a.startswith("env.id=") for a in sys.argv) and not any(a.startswith("env=") for a in sys.argv):
        sys.argv.append("env=gymnasium")
    # A reader that has gone, as in `--info defaults-tree | head`, is no reason for tracebacks.
    logging.raiseExceptions = False
    sys.argv[1:] = arguments(sys.argv[1:])
    if "validate=true" in sys.argv:
        sys.argv += LEAVE_NOTHING
    # Hydra then hands its errors over as they are.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        job()
    except KeyboardInterrupt:
        print("seqrl: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        fail(error, sys.argv[1:])
    if exit_codes_of_failed_points:
        sys.exit(max(exit_codes_of_failed_points))


if __name__ == "__main__":
    main()
