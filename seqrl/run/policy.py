"""Loads the policy of a run folder, which may come from anyone and may still be written.

What it says is data. It chooses values; what is imported for them is for the command line to allow.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from seqrl.algorithms.base import SequenceAlgorithm
from seqrl.config.begun import loaded, no_run
from seqrl.config.schema import RunConfig, RunnerConfig, typed
from seqrl.config.secrets import secrets
from seqrl.config.settle import changes, computed
from seqrl.config.validate import faults_of_policy
from seqrl.devices.device import Device
from seqrl.errors import CheckpointError, ConfigError, last_line
from seqrl.files import fault, may_be_intact
from seqrl.machine import processors, sleep
from seqrl.networks import Network
from seqrl.run.build import constructor, insist_on_network, make_env, make_network
from seqrl.run.checkpoint import Checkpoints


def configuration(run: Path) -> DictConfig:
    """What plays in a run, and how it was evaluated: those parts of its config.yaml, which are not checked yet.

    Raises CheckpointError if they cannot be had, OSError if the file cannot be read and may be intact.
    """
    path = run / "config.yaml"
    try:
        cfg: Any = loaded(path)
        parts = {
            "env": typed(cfg.env),
            "network": typed(cfg.network),
            "device": cfg.device,
            # Runs of earlier versions know no interval.
            "evaluation": {"interval": 0, **cfg.evaluation},
            "parallel": cfg.parallel,
            "seed": cfg.seed,
        }
        whole = OmegaConf.merge(OmegaConf.structured(RunConfig), parts)
        assert isinstance(whole, DictConfig)
        found = OmegaConf.masked_copy(whole, [*parts, "trust"])
        limit = {"rollout_length": 0, "rollout_steps": 1, "rollout_rewards": 0}
        limit["episode_limit"] = cfg.runner.episode_limit
        found.runner = OmegaConf.merge(OmegaConf.structured(RunnerConfig), limit)
        return found
    except (FileNotFoundError, NotADirectoryError):
        raise no_run("run", run) from None
    except InterpolationResolutionError as error:
        raise ConfigError([f"run: {path}: {fault(error)}."]) from error
    except (OSError, ValueError, TypeError, AttributeError, OmegaConfBaseException) as error:
        if may_be_intact(error):
            raise
        raise CheckpointError(f"run: {path} is not the configuration of a run: {fault(error)}.") from error


def chosen(
    run: Path,
    *,
    trust: Sequence[str],
    seed: int | None = None,
    episodes: int | None = None,
    greedy: bool | str | None = None,
    device: str | None = None,
    values: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[DictConfig, list[str]]:
    """The configuration to play with, and how its environment differs from the run's: `key: before -> now`.

    None means the run's own value.

    values   of other keys, dotted: changes to the environment

    Raises CheckpointError if there is no run, ConfigError if it cannot, or must not, be played.
    """
    cfg = configuration(run)
    before = OmegaConf.create({"env": cfg.env})
    cfg.trust = list(trust)
    cfg.seed = cfg.seed if seed is None else seed
    cfg.evaluation.episodes = episodes or cfg.evaluation.episodes or 200
    cfg.evaluation.greedy = cfg.evaluation.greedy if greedy is None else greedy
    cfg.device.name = device or cfg.device.name
    # This machine may have fewer.
    cfg.device.threads = min(cfg.device.threads, processors())
    for key, value in values.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    if faults := [*faults_of_policy(cfg), *secrets(cfg)]:
        raise ConfigError(faults)
    return computed(cfg, faults_of_policy), changes(before, OmegaConf.create({"env": cfg.env}))


# How often a checkpoint is looked up again that has gone meanwhile, and seconds between two looks.
TRIES, PAUSE = 20, 0.1


def checkpoint(run: Path, which: str | int) -> tuple[dict[str, Any], list[str]]:
    """The state of a run, and what is wrong with newer ones that are damaged.

    which   last, best, or iterations

    Raises CheckpointError if it is not there, or not sound.
    """
    checkpoints = Checkpoints(run)
    for _ in range(TRIES):
        there = checkpoints.iterations
        try:
            state, damaged = _chosen(checkpoints, which)
            if not (damaged and _have_moved(checkpoints, there)):
                return state, damaged
        except CheckpointError:
            if not _have_moved(checkpoints, there):
                raise
        sleep(PAUSE)
    return _chosen(checkpoints, which)


def _have_moved(checkpoints: Checkpoints, there: list[int]) -> bool:
    """A run that goes on replaces them, and a disk on a network may list names for a while that are gone."""
    return checkpoints.iterations != there or bool(checkpoints.gone)


def _chosen(checkpoints: Checkpoints, which: str | int) -> tuple[dict[str, Any], list[str]]:
    if which == "last":
        return checkpoints.newest()
    if which == "best":
        checkpoints.insist_on_access()
    best = checkpoints.best if which == "best" else (int(which), 0.0)
    if which == "best" and (unreadable := checkpoints.unreadable):
        fault = f"{unreadable[0]} cannot be used, and may have been the best"
        raise CheckpointError(f"{checkpoints.folder}: {fault}. Use checkpoint=last.")
    if best is None:
        raise CheckpointError(f"{checkpoints.folder}: of none is the return known. Use checkpoint=last.")
    return checkpoints.load(best[0]), []


def progress(state: dict[str, Any]) -> dict[str, int]:
    """How far the run was in a `checkpoint`. Raises CheckpointError if it does not say that."""
    try:
        return {"iterations": state["iterations"], "env_steps": state["steps"]}
    except KeyError as error:
        raise CheckpointError(f"run: its checkpoint holds no state of a run: {error} is missing.") from error


def network(cfg: DictConfig, device: Device, state: dict[str, Any]) -> Network:
    """The network of a run as it was in a `checkpoint`.

    Raises CheckpointError if it is another one, or cannot play.
    """
    env = make_env(cfg, device, 1, "probe")
    env.close()
    unlike: list[str] = []
    try:
        saved = state["algorithm"]["network"]
        insist_on_network(cfg, env, saved)
        made = make_network(cfg, env, device)
        unlike = [
            f"{name} has shape {[*saved[name].shape]}, and here {[*it.shape]}"
            for name, it in made.state_dict().items()
            if name in saved and saved[name].shape != it.shape
        ]
        made.load_state_dict(saved)
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = unlike[0] if unlike else last_line(error)
        raise CheckpointError(
            f"run: its checkpoint is of another network: {reason}. With other observations or actions than in training "
            "there is nothing to evaluate."
        ) from error
    if unfit := [name for name, it in made.named_parameters() if not it.isfinite().all()]:
        raise CheckpointError(f"run: its network holds NaN or infinite numbers, in {unfit[0]}. Use another checkpoint.")
    return made


def learner(
    run: Path, cfg: DictConfig, network: Network, state: dict[str, Any]
) -> tuple[SequenceAlgorithm, RunnerConfig]:
    """What a `checkpoint` of a run learned with, and how it played; `network` is what it would go on to change.

    cfg   what plays, as `chosen` has it; the algorithm must obey the same rules

    Raises CheckpointError or ConfigError if they cannot, or must not, be had.
    """
    saved: Any = loaded(run / "config.yaml")
    try:
        whole = OmegaConf.merge(cfg, {"algorithm": typed(saved.algorithm)})
        runner = OmegaConf.merge(OmegaConf.structured(RunnerConfig), saved.runner)
        assert isinstance(whole, DictConfig)
    except (TypeError, AttributeError, AssertionError, OmegaConfBaseException) as error:
        raise CheckpointError(
            f"run: {run / 'config.yaml'} does not say how the run learned: {fault(error)}."
        ) from error
    whole = computed(whole, faults_of_policy)
    made: SequenceAlgorithm = constructor(whole.algorithm)(network, np.random.default_rng(0))
    try:
        made.load_state_dict(state["algorithm"])
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"run: its checkpoint is of another algorithm: {fault(error)}.") from error
    return made, runner  # type: ignore[return-value]  # as OmegaConf has it
