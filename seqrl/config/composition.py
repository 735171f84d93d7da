"""Composes a configuration as Hydra does for the command, inside a program that may use Hydra for itself."""

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from seqrl.config.begun import as_saved
from seqrl.config.command_line import completed, is_override
from seqrl.config.hydra_errors import composed_by_hydra, message_for
from seqrl.config.own_files import searchpath
from seqrl.errors import ConfigError, SeqrlError

# Hydra has one state for the whole process.
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def composed(words: Sequence[str], instead: DictConfig | None = None) -> Iterator[tuple[DictConfig, Path]]:
    """The configuration that a command line means, and the folder that its run would have.

    Meanwhile Hydra answers as it does in a command; afterwards it is as it was.

    instead   a configuration of a run, which takes the place of what the words mean

    Raises ConfigError, or another SeqrlError, with what the command would say.
    """
    with _ONE_AT_A_TIME, _hydra_lent(), ExitStack() as stack:
        with errors_of_seqrl(words):
            given = completed(list(words), leave_nothing=False)
        # What is wrong with each word is found out with those that it implies.
        stack.enter_context(errors_of_seqrl(given))
        whole = _whole(given)
        OmegaConf.set_readonly(whole, False)
        if instead is not None:
            with open_dict(whole):
                whole = _replaced(whole, instead)
        HydraConfig.instance().set_config(whole)
        folder = Path(str(whole.hydra.run.dir)).absolute()
        cfg = copy.deepcopy(whole)
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg, folder


def _whole(given: Sequence[str]) -> DictConfig:
    if options := [it for it in given if not is_override(it) and not it.startswith("--config-dir")]:
        raise ConfigError([f"{it}: is not key=value, as in experiment=tmaze." for it in options])
    return composed_by_hydra([*searchpath(given), *filter(is_override, given)], return_hydra_config=True)


def _replaced(whole: DictConfig, instead: DictConfig) -> DictConfig:
    missing = [str(key) for key in whole if key != "hydra" and key not in instead]
    if unknown := [str(key) for key in instead if key not in whole]:
        raise ConfigError([f"{key}: there is no such key in a run." for key in unknown])
    if missing:
        raise ConfigError([f"{key}: is missing. Begin with seqrl.compose()." for key in missing])
    made = as_saved(whole, instead, [])
    for key in ("resume", "trust", "validate"):
        made[key] = instead[key]
    return made


@contextmanager
def errors_of_seqrl(words: Sequence[str] = ()) -> Iterator[None]:
    """Raise what the user did wrong as a SeqrlError, with the lines that a command prints; the rest stays as it is."""
    try:
        yield
    except SeqrlError:
        raise
    except Exception as error:
        if (message := message_for(error, words)) is None:
            raise
        raise ConfigError(message[0]) from error


@contextmanager
def _hydra_lent() -> Iterator[None]:
    """Hydra's own state, put back at the end."""
    state, context = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = state
        HydraConfig.instance().cfg = context
