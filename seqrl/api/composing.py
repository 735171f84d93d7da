"""`seqrl.compose`: a checked configuration, without a run."""

from collections.abc import Sequence
from os import PathLike, fspath

from omegaconf import DictConfig

from seqrl.config.command_line import with_trust_of_shell
from seqrl.config.composition import composed
from seqrl.config.settle import settle


def compose(*overrides: str, config_dir: str | PathLike[str] | None = None) -> DictConfig:
    """The configuration that `python -m seqrl.train <overrides>` would run with, checked.

    Change it as you like, and hand it to `seqrl.learn`, which checks it again:

        cfg = seqrl.compose("experiment=masked_cartpole", "seed=3")
        cfg.algorithm.learning_rate = 1e-3

    OmegaConf refuses a value of another type where you set it.

    overrides    of the command line: group=choice, key=value
    config_dir   folder with configuration files of your own, as `--config-dir` names it

    Raises ConfigError with every fault.
    """
    with composed(words(overrides, config_dir)) as (cfg, _):
        settle(cfg)
        return cfg


def words(overrides: Sequence[str], config_dir: str | PathLike[str] | None) -> list[str]:
    """A command line that says the same. Raises TypeError if an override is no text."""
    if wrong := [it for it in overrides if not isinstance(it, str)]:
        raise TypeError(f"an override is a text such as 'env=tmaze' (got {wrong[0]!r})")
    return [*([] if config_dir is None else ["--config-dir", fspath(config_dir)]), *with_trust_of_shell(overrides)]
