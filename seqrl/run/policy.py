"""Loads the policy of a run folder, which may come from anyone and may still be written.

What it says is data. It chooses values; what is imported for them is for the command line to allow.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seqrl.config.begun import loaded
from seqrl.config.schema import RunConfig, RunnerConfig, typed
from seqrl.devices.device import Device
from seqrl.errors import CheckpointError
from seqrl.files import fault, may_be_intact
from seqrl.networks import Network
from seqrl.run.build import make_env, make_network
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
        limit = {"rollout_length": 0, "rollout_steps": 1, "episode_limit": cfg.runner.episode_limit}
        found.runner = OmegaConf.merge(OmegaConf.structured(RunnerConfig), limit)
        return found
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"run: {run} is not a run folder. Name the one that has config.yaml in it.") from None
    except (OSError, ValueError, TypeError, AttributeError, OmegaConfBaseException) as error:
        if may_be_intact(error):
            raise
        raise CheckpointError(f"run: {path} is not the configuration of a run: {fault(error)}.") from error


def checkpoint(run: Path, which: str | int) -> tuple[dict[str, Any], list[str]]:
    """The state of a run, and what is wrong with newer ones that are damaged.

    which   last, best, or iterations

    Raises CheckpointError if it is not there, or not sound.
    """
    checkpoints = Checkpoints(run)
    while True:
        there = checkpoints.iterations
        try:
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
        except CheckpointError:
            # A run that goes on may have replaced it meanwhile.
            if checkpoints.iterations == there:
                raise


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
    made = make_network(cfg, env, device)
    try:
        made.load_state_dict(state["algorithm"]["network"])
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip().rstrip(".")
        raise CheckpointError(
            f"run: its checkpoint is of another network: {reason}. With other observations or actions than in training "
            "there is nothing to evaluate."
        ) from error
    if unfit := [name for name, it in made.named_parameters() if not it.isfinite().all()]:
        raise CheckpointError(f"run: its network holds NaN or infinite numbers, in {unfit[0]}. Use another checkpoint.")
    return made
