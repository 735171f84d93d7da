"""Short names for tasks and runs, from the values of a configuration alone."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from seqrl.config.paths import CONF, choices
from seqrl.config.schema import SCHEMAS, default_of, keys_of

# Keys of an environment that leave its task as it is.
HOW_IT_IS_PLAYED = ("backend", "timeout_seconds", "log_info")


def key_of(override: str) -> str:
    """The key of `key=value`, or of `+key=value`."""
    return override.lstrip("+").partition("=")[0]


def task_name(env: Mapping[str, Any]) -> str:
    """What a section `env` plays: a file of group env, the id without its module, or the name of a class."""
    target, id = str(env.get("_target_", "")), env.get("id")
    own = target.rpartition(".")[2]
    alike = [
        (sum(env.get(key) == value for key, value in task.items()), name)
        for name, task in _tasks().items()
        if all(env.get(key) == task.get(key) for key in ("_target_", "id", "hidden"))
    ]
    if alike:
        return max(alike)[1]
    return re.split(r"[:/]", str(id))[-1] if id else own


def task_of(cfg: DictConfig) -> str:
    """The same of a whole configuration; "" if it does not say."""
    # As plain data: OmegaConf raises this and that for a value that it does not like.
    plain = OmegaConf.to_container(cfg, resolve=False)
    env = plain.get("env") if isinstance(plain, dict) else None
    return task_name({str(key): value for key, value in env.items()}) if isinstance(env, dict) else ""


def network_of(cfg: DictConfig) -> str:
    """Its memory cell, attention over it, and how many layers if several; or its type, or the name of its class."""
    kind, cell = _value(cfg, "network.type"), _value(cfg, "network.memory._target_")
    if not (kind and cell and _value(cfg, "network.use_lstm")):
        return str(kind or str(_value(cfg, "network._target_")).rpartition(".")[2])
    home, _, name = str(cell).rpartition(".")
    name = name.lower() if home == "seqrl.networks" else name
    if _value(cfg, "network.use_attention"):
        name = "attention" if name == "lstm" else f"{name}-attention"
    return f"{name}-{layers}" if (layers := _value(cfg, "network.layers") or 1) != 1 else name


def run_name(cfg: DictConfig) -> str:
    """Task, algorithm, network, how far back gradients reach if not to the beginning, and seed; or its own name."""
    if name := _value(cfg, "name"):
        return str(name)
    return "_".join(filter(None, [task_of(cfg), *_how(cfg), f"s{_value(cfg, 'seed')}"]))


def _how(cfg: DictConfig) -> Iterator[str]:
    algorithm = str(_value(cfg, "algorithm._target_")).rpartition(".")[2]
    known = re.fullmatch(r"(?:Sequence)?(PPO|Reinforce)Algorithm", algorithm)
    yield known[1].lower() if known else algorithm
    yield network_of(cfg)
    if _value(cfg, "sequence_learning.enabled") is False:
        yield "off"
    elif (not known or algorithm.startswith("Sequence")) and (length := _value(cfg, "sequence_learning.bptt_length")):
        yield f"bptt{length}"


def elsewhere(group: str, key: str) -> str:
    """` Choices that have it: env=tmaze.` for a key that only some files of a group have; otherwise nothing."""
    there = choices(group) if group in ("env", "network", "algorithm") else []
    having = [name for name in there if key in keys_of(_schema(group, name))]
    return f" Choices that have it: {group}={', '.join(having)}." if having else ""


def _schema(group: str, name: str) -> type[Any]:
    """The schema of a file in a group."""
    base = str(_file(group, name)["defaults"][0]).partition("@")[0]
    return SCHEMAS[base.removeprefix("/schema/")] if base.startswith("/") else _schema(group, base)


def _file(group: str, name: str) -> dict[str, Any]:
    keys: dict[str, Any] = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return keys


def _value(cfg: DictConfig, key: str) -> Any:
    """A value, or None where it cannot be had: whoever checks the configuration says why."""
    try:
        return OmegaConf.select(cfg, key)
    except Exception:
        return None


@cache
def _tasks() -> dict[str, dict[str, Any]]:
    """The files of group env that are tasks by themselves: built in, or an environment with something masked."""
    found = {}
    for name in choices("env"):
        schema, keys = _schema("env", name), _file("env", name)
        if schema is not SCHEMAS["gymnasium"] or name.startswith("masked_"):
            defaults = {key: default_of(it) for key, it in keys_of(schema).items()}
            found[name] = {"_target_": schema._target_, **defaults, **keys}
    return found
