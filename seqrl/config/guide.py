"""Translates the flat YAML files and flags of the configuration guide into overrides.

A flat file has keys such as `episodes`, `parallel`, `algorithm` and `device`, and two sections, `sequence_learning` and
`network`. Where it is silent, the guide's defaults hold, or seqrl's where the guide has none:

    sequence_learning.enabled        false: the standard algorithms, even with an LSTM
    sequence_learning.bptt_length    0: back to the episode's start
    network.type                     what use_lstm and use_attention say; if they are silent too, an LSTM

A flag wins over the file, an override (`key=value`) over both.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args, get_type_hints

from seqrl.config.flat_yaml import Setting, read
from seqrl.config.paths import choices
from seqrl.config.schema import NetworkConfig, Rule, RunConfig, SequenceLearningConfig, keys_of
from seqrl.errors import ConfigError
from seqrl.text import nearest

SECTIONS = {"sequence_learning": SequenceLearningConfig, "network": NetworkConfig}
# Groups that are one key here. An `env` that is none of these is an id of Gymnasium's.
NAMES: dict[str, list[str]] = {"algorithm": choices("algorithm"), "device": choices("device"), "env": []}
GPU = re.compile(r"cuda:[0-9]+$")
# What can be set, and its type: whole numbers of the run, names of groups, and all of the sections.
KEYS: dict[str, Any] = {
    **{key: hint for key, hint in get_type_hints(RunConfig).items() if hint in (int, int | None)},
    **dict.fromkeys(NAMES, str),
    **{
        f"{section}.{key}": hint
        for section, schema in SECTIONS.items()
        for key, hint in get_type_hints(schema).items()
        # What has keys of its own does not fit on a line.
        if key not in ("_target_", "memory")
    },
}
# What else their schemas say of them.
ABOUT = {
    f"{prefix}{key}": field.metadata
    for prefix, schema in [("", RunConfig), *((f"{section}.", schema) for section, schema in SECTIONS.items())]
    for key, field in keys_of(schema).items()
}
FLAGS = {key: f"--{key}" for key in KEYS if "." not in key} | {
    f"sequence_learning.{key}": f"--{key}" for key in ("bptt_length", "grad_clip_norm")
}
# How a value is spelt, how that is read, and its name. Stricter than YAML 1.1, where 010 is 8 and off is false.
FORMS: dict[type, tuple[str, Callable[[str], Any], str]] = {
    bool: (r"(?i:true|false)", lambda text: text.lower() == "true", "true or false"),
    int: (r"[+-]?(0|[1-9][0-9]{0,17})", int, "a whole number"),
    float: (r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", float, "a number"),
    str: (r"[\w.:/-]+", str, "a name"),
}
NULL = ("null", "~")
# What an override replaces of the file besides its own key: a group's choice decides these.
DECIDED = {
    "network": ["network.use_lstm", "network.use_attention"],
    "sequence": ["sequence_learning.bptt_length"],
    "device": ["device.name"],
    "env": ["env.id"],
    "env.id": ["env"],
}
# These bring a sequence of their own, which the guide's default must not replace.
WITH_SEQUENCE = {"profile", "experiment", "resume"}


def translate(config: str | None, flags: Mapping[str, str], others: Sequence[str]) -> list[str]:
    """Overrides that a flat file, flags and other arguments stand for.

    config    path of the file, or None
    flags     key -> value, as written
    others    overrides, and whatever else stands on the command line

    Raises ConfigError with every fault of all three.
    """
    in_file, faults = ({}, []) if config is None else read(config)
    in_flags = {key: Setting(FLAGS[key], text) for key, text in flags.items()}
    flat: dict[str, Any] = {}
    for key, setting in [*in_file.items(), *in_flags.items()]:
        try:
            flat[key] = value(key, setting)
        except ValueError as error:
            faults.append(f"{setting.where}: {error}")
    faults += _not_understood(others)
    if faults:
        raise ConfigError(faults)
    chosen = {other.lstrip("+~").partition("=")[0] for other in others}
    if not chosen & WITH_SEQUENCE:
        flat.setdefault("sequence_learning.enabled", False)
    replaced = chosen.union(*(DECIDED.get(key, []) for key in chosen))
    kept = {key: it for key, it in overrides(flat).items() if key not in replaced}
    return [*(f"{key}={it if isinstance(it, str) else json.dumps(it)}" for key, it in kept.items()), *others]


def overrides(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Choices of groups, and then the keys, that sound flat settings stand for."""
    keys, groups = dict(flat), {}
    lstm, attention = keys.get("network.use_lstm"), keys.get("network.use_attention")
    if network := keys.pop("network.type", None):
        groups["network"] = network
    elif (lstm, attention) != (None, None):
        groups["network"] = "attention" if attention else "mlp" if lstm is False else "lstm"
    enabled = keys.pop("sequence_learning.enabled", None)
    if enabled is not None:
        length = keys.get("sequence_learning.bptt_length") or keys.pop("sequence_learning.bptt_length", 0)
        groups["sequence"] = "off" if not enabled else "truncated" if length else "full"
    if algorithm := keys.pop("algorithm", None):
        groups["algorithm"] = algorithm
    if device := keys.pop("device", None):
        groups["device"], _, index = device.partition(":")
        keys |= {"device.name": device} if index else {}
    if env := keys.pop("env", None):
        built_in = env in choices("env")
        groups["env"] = env if built_in else "gymnasium"
        keys |= {} if built_in else {"env.id": env}
    return groups | keys


def value(key: str, setting: Setting) -> Any:
    """What a setting says; raises ValueError with what it must be instead."""
    if key in SECTIONS:
        raise ValueError(f"is a section (got {setting}). Write its keys on the lines below, indented.")
    if key not in KEYS:
        raise ValueError(f"there is no such key.{_similar(key)}")
    kind, *null = get_args(KEYS[key]) or [KEYS[key]]
    text = setting.text
    if null and text in NULL and not setting.quoted:
        return None
    pattern, read_as, meaning = FORMS[kind]
    about: Mapping[str, Any] = ABOUT.get(key, {})
    rule = about.get("rule") or Rule(lambda _: True, meaning)
    holds, meaning = rule.holds, rule.meaning
    if allowed := NAMES.get(key) or about.get("choices", []):
        holds, meaning = (lambda name: GPU.sub("cuda", name) in allowed), f"one of {', '.join(allowed)}"
    spelt = re.fullmatch(pattern, text) and (kind is str or not setting.quoted)
    if not spelt or not holds(read_as(text)):
        raise ValueError(f"must be {meaning} (got {setting}).{nearest(text, allowed)}")
    return read_as(text)


def _similar(key: str) -> str:
    """`Did you mean …?`: the same name elsewhere, or the nearest."""
    name = key.rpartition(".")[2]
    elsewhere = [known for known in KEYS if known.rpartition(".")[2] == name]
    if elsewhere:
        return f" Did you mean {elsewhere[0]}?"
    return nearest(key, [*KEYS, *SECTIONS]) or f" Keys: {', '.join(KEYS)}."


def _not_understood(others: Sequence[str]) -> Iterator[str]:
    """Faults of arguments that are neither flags nor overrides."""
    known = ["--config", "--print", *FLAGS.values()]
    after_flag = False
    for other in others:
        name, equals, _ = other.partition("=")
        if other.startswith("-"):
            yield (
                f"{name}: there is no such flag.{nearest(name, known)} Flags: {', '.join(known)}. "
                "All else is key=value, such as network.window=32."
            )
        elif not equals and not other.startswith("~") and not after_flag:
            yield f"{other}: is neither a flag nor key=value. Write --config {other} if it is a file."
        after_flag = other.startswith("-") and not equals
