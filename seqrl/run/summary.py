"""What a run says at its beginning and at its end."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from shlex import quote

from omegaconf import DictConfig, OmegaConf

from seqrl.config.naming import task_of
from seqrl.config.schema import CELLS
from seqrl.config.unused import unused
from seqrl.devices.device import Device
from seqrl.envs.base import BatchedEnv
from seqrl.loggers import Row
from seqrl.machine import cores
from seqrl.metrics.hints import faster
from seqrl.networks import Network
from seqrl.networks.encoder import flattened
from seqrl.run.memory_need import Footprint
from seqrl.run.run import Run
from seqrl.text import duration, figure, percentages


def introduction(cfg: DictConfig, run: Run, device: Device, overrides: Iterable[str], place: Path | None) -> str:
    """What is learned; what learns, why it was selected, and where; who plays, if that was measured; unused overrides.

    place   of the run's files; None: it writes none
    """
    size = f"{parameters(run.algorithm.network):,} parameters"
    where = f"{device.torch_device}{f' in {run.ranks.size} processes' if run.ranks.size > 1 else ''}"
    lines = [
        f"{task_of(cfg)}, seed {cfg.seed}{f', in {place}' if place else ''}",
        f"{type(run.algorithm).__name__}, {reason(cfg)}; {size} on {where}",
    ]
    env = run.runner.env
    if env.backend_reason:
        lines.append(f"environments: {env.backend}, {env.backend_reason}")
    return "\n".join([*lines, *(f"note: {it}" for it in unused(cfg, overrides))])


def notes(env: BatchedEnv) -> list[str]:
    """What you should know about the environments, and about how the network reads them, one line each."""
    return [f"note: {it}" for it in (*flattened(env.observation_space), *env.notes)]


def reason(cfg: DictConfig) -> str:
    """Why this algorithm was selected."""
    if not cfg.network.get("use_lstm", True):
        return "as the network has no LSTM"
    if not cfg.sequence_learning.enabled:
        return "as sequence_learning.enabled is false"
    length = cfg.sequence_learning.bptt_length
    if "use_lstm" not in cfg.network:
        why = "sequence_learning.enabled is true"
    elif OmegaConf.select(cfg, "network.memory._target_", default=CELLS["lstm"]) == CELLS["lstm"]:
        why = f"the network has an LSTM{' beneath its attention' if cfg.network.get('use_attention') else ''}"
    else:
        why = "the network has a memory that gradients can follow"
    start = (
        f"of the episode, or of its rollout of {cfg.rollout_length} steps" if cfg.rollout_length else "of the episode"
    )
    return f"as {why}: gradients reach back {f'{length} steps' if length else f'to the start {start}'}"


def summary(run: Run, result: Row, score: float, best: tuple[int, float] | None, place: Path) -> str:
    """The short table at the end of a run.

    best    iterations of the best policy that was evaluated, and its return; None where there is only the final one
    place   of the run's files
    """
    if result:
        over = (
            f"over {result['evaluation/episodes']:.0f} fresh episodes, worst {figure(result['evaluation/return_min'])}"
        )
    else:
        over = "over the last episodes of training"
    kept = f"\n  best policy   {figure(best[1])} after {best[0]} of {run.iterations} iterations" if best else ""
    steps, clock = run.budget.steps, run.clock
    episodes = f"{run.budget.episodes:,} episode{'s' * (run.budget.episodes != 1)}"
    spent = ", ".join(f"{part} {percent}%" for part, percent in percentages(clock.shares).items())
    return f"""
  mean return   {figure(score)} {over}
  played        {steps:,} steps, {episodes} in {duration(clock.elapsed)}, \
{clock.per_second(steps):,.0f} steps/s; {run.budget.ended_by} ended it
  time went to  {spent}{waited(clock.idle)}
  faster with   {faster(clock.shares, run.algorithm.parts, cores(), run.ranks.size, run.config.get("env"))}
  run folder    {place}{kept}
  curves        {curves(place)}
"""


def waited(idle: float) -> str:
    """What the share of idle time means, if it is worth a word."""
    return f"; {idle:.0%} of it waiting, for a core or for other processes" if idle >= 0.05 else ""


def curves(folder: Path) -> str:
    """Where to look at them: the command that shows them, as a shell takes it, or a file."""
    # Whatever was chosen to be written; the folder may be out of reach.
    has_events = False
    with suppress(OSError):
        has_events = any(folder.glob("events.out.tfevents.*"))
    return f"tensorboard --logdir {quote(str(folder))}" if has_events else f"{folder}/metrics.jsonl"


def sizes(cfg: DictConfig, run: Run, steps: float, rounds: int, need: Footprint, free: int | None) -> str:
    """What validation found, as a table.

    steps    of all environments, each playing one episode or `rollout_length` steps
    rounds   episodes of each environment in a rollout
    free     bytes of memory on the device; None: unknown
    """
    env, network = run.runner.env, run.algorithm.network
    mean_length = steps / cfg.parallel
    limit = run.algorithm.chunk_steps(cfg.parallel)
    if cfg.rollout_length:
        later = ""
    elif limit is None:
        later = "; more with longer episodes, unless max_tokens_per_batch bounds it"
    else:
        later = f"; at most {limit * need.bytes_per_step / 1e6:,.0f} MB for {limit:,}, with longer episodes"
    if cfg.rollout_length:
        played = f"rollouts of {mean_length:.0f} steps"
    elif rounds > 1:
        played = f"{rounds} episodes of {mean_length:.0f} steps each now"
    else:
        played = f"episodes of {mean_length:.0f} steps now"
    return f"""
  observation   {env.observation_space}
  action        {env.action_space}
  parameters    {parameters(network):,}
  iteration     {rounds * steps:,.0f} steps: {cfg.parallel} environments, {played}
  update        {need.megabytes:,.0f} MB for {need.steps:,} steps at once{later}
  {fitness(need, free)}
"""


def fitness(need: Footprint, free: int | None) -> str:
    """Whether the command would train.

    free   bytes of memory on the device; None: unknown
    """
    if free is None or need.megabytes * 1e6 <= free:
        return "valid         without validate=true, this command trains"
    return f"too large     of memory, {free / 1e6:,.0f} MB are free: use a smaller parallel, or a bptt_length that fits"


def parameters(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
