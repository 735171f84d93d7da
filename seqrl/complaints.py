"""Exceptions of Hydra and OmegaConf, said for the person at the keyboard."""

import re

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from seqrl.configuration import CONF, keys, nearest
from seqrl.errors import ConfigError, SeqrlError


def complaint(error: Exception) -> tuple[list[str], int]:
    """Lines that say what went wrong, and the exit code."""
    if isinstance(error, ConfigError):
        return error.faults, error.exit_code
    if isinstance(error, SeqrlError):
        return [str(error)], error.exit_code
    if isinstance(error, MissingConfigException | OverrideParseException | HydraException | OmegaConfBaseException):
        return [_composition(error)], ConfigError.exit_code
    if isinstance(error, ValueError) and "Config group override" in str(error):
        return [f"a group needs a choice, such as network=lstm (Hydra says: {error})"], ConfigError.exit_code
    return [f"unexpected {type(error).__name__}: {error}. The traceback is in train.log of the run folder."], 1


def _composition(error: Exception) -> str:
    text = str(error)
    if found := re.search(r"Could not find '([^/']+)/([^']*)'", text):
        group, choice = found.groups()
        there = re.findall(r"^\t(?!provider)(\S+)$", text, re.MULTILINE)
        extra = (
            " Another GPU: device=cuda device.name=cuda:1." if group == "device" and choice.startswith("cuda") else ""
        )
        return f"{group}: there is no {group}={choice}.{nearest(choice, there)} Choices: {', '.join(there)}.{extra}"
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown(found.group(1))
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value. Quote what is special: 'key=\"a=b\"'."
    if found := re.search(r"Multiple values for (\w+)", text):
        return f"{found.group(1)}: is a group that is there already. Write {found.group(1)}=… without the plus sign."
    cause = error.__cause__ or error
    message = str(cause).splitlines()[0]
    key = re.search(r"full_key: (\S+)", str(cause))
    if found := re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", message):
        kind = {"Integer": "a whole number", "Float": "a number"}.get(found.group(2), found.group(2))
        message = f"must be {kind} (got {found.group(1)})"
    elif found := re.search(r"Value '(.*)' is not a valid bool", message):
        message = f"must be true or false (got {found.group(1)})"
    elif "is not Optional" in message:
        message = "needs a value (got null)"
    return f"{key.group(1) if key else 'configuration'}: {message}."


def _unknown(key: str) -> str:
    """Complaint about a key that is not there, with the nearest one that is."""
    if key.startswith("env.kwargs."):
        return f"{key}: an argument of the environment is added with a plus sign. Write +{key}=…."
    known = _known_keys()
    section, _, name = key.rpartition(".")
    if section in ("sequence", "sequence_learning") or key == "sequence":
        remedy = (
            nearest(f"sequence_learning.{name}", known)
            or " The keys are sequence_learning.*; sequence= chooses a file."
        )
    else:
        same_name = [k for k in known if name and k.rpartition(".")[2] == name]
        remedy = nearest(key, known) or (f" Did you mean {same_name[0]}?" if same_name else "")
    return f"{key}: there is no such key.{remedy} All keys: python -m seqrl.train --cfg job."


def _known_keys() -> list[str]:
    """Keys of the default configuration."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return [key for key in keys(compose("config")) if not key.endswith("_target_")]
