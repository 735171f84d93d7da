"""Reads words `key=value` of programs that compose no configuration, such as seqrl.evaluate, by a schema."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from seqrl.config.begun import LATEST, named_run
from seqrl.config.overrides import faults_of_form, parsed
from seqrl.config.schema import Rule, as_whole, default_of, key, keys_of
from seqrl.errors import ConfigError
from seqrl.text import nearest

NAMES = {
    int: "a whole number",
    bool: "true or false",
    str: "a name",
    list[str]: "a list, such as [my_module]",
    Path: "a folder",
}

# Of programs that play the policy of a run.
WHOLE = Rule(lambda x: x >= 0, "a whole number of at least 0")
CHECKPOINT = Rule(
    lambda x: x in ("last", "best") or (not isinstance(x, str) and x >= 0), "last, best or a number of iterations"
)
FOLDER = "the folder of a run, such as outputs/runs/<date>/<run>"


@dataclass(frozen=True)
class OfPolicy:
    """Keys of every program that takes the policy of a run; None means the run's own value."""

    run: Path = key(
        None,
        "folder of the run, which holds its config.yaml; latest: the newest",
        Rule(bool, FOLDER),
        example="<folder>",
    )
    checkpoint: str | int = key(
        "last", "last, best, or the number of iterations after which it was saved: checkpoint=120", CHECKPOINT
    )
    trust: list[str] = key([], "modules of your own that the run needs", example="[my_module]")


@dataclass(frozen=True)
class OfPlayedPolicy(OfPolicy):
    """The same of those that play it where the user says."""

    seed: int | None = key(None, "play other episodes than the run was evaluated on", WHOLE, example="1")
    device: str | None = key(
        None, "default: the device the run was trained on", Rule(bool, "cpu, cuda, mps or auto"), example="cpu"
    )


def read(schema: type[Any], words: Sequence[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """The values that words give to the keys of a schema, the other words, and what is wrong with the values."""
    values: dict[str, Any] = {}
    others, wrong = [], []
    keys, kinds = keys_of(schema), get_type_hints(schema)
    for word in words:
        key, equals, text = word.partition("=")
        if key not in keys or not equals:
            others.append(word)
            continue
        # A folder may be called anything, but not nothing.
        values[key] = (text and Path(os.path.expanduser(text))) if _is_path(kinds[key]) else value_of(word)
        if int in (kinds[key], *get_args(kinds[key])):
            values[key] = as_whole(values[key])
        if not _fits(values[key], kinds[key], keys[key].metadata):
            near = nearest(text, [str(choice) for choice in keys[key].metadata["choices"]])
            wrong.append(f"{key}: must be {_meaning(kinds[key], keys[key].metadata)} (got {text}).{near}")
    return values, others, wrong


def read_for_policy(
    schema: type[Any], words: Sequence[str], program: str, changes_env: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values that words give to the keys of a program that plays the policy of a `run`, and changes to its `env.*`.

    changes_env   whether it takes any

    Raises ConfigError with all of their faults, CheckpointError if the `latest` run is asked for and there is none.
    """
    see_help = f"Run python -m {program} --help for the keys."
    for word in words:
        if word not in keys_of(schema) and "=" not in word and (word == LATEST or os.path.isdir(word)):
            raise ConfigError([f"{word}: is not key=value. Write run={word}."])
    if wrong := faults_of_form([word for word in words if not word.startswith("-")], see_help):
        raise ConfigError(wrong)
    values, others, wrong = read(schema, words)
    env: dict[str, Any] = {}
    for word in others:
        name = word.partition("=")[0]
        if word.startswith(("-", "~")):
            wrong.append(f"{word}: is not key=value. {see_help}")
        elif name.startswith("env.") and changes_env:
            env[name] = value_of(word)
        else:
            known = [*keys_of(schema), *["env.*"] * changes_env]
            wrong.append(f"{name}: there is no such key.{nearest(name, known)} Keys: {', '.join(known)}.")
    if not wrong and "run" not in values:
        wrong.append(f"run: is missing. Name {FOLDER}.")
    if wrong:
        raise ConfigError(wrong)
    return values | {"run": named_run(values["run"])}, env


def value_of(override: str) -> Any:
    """The value of an override, as Hydra reads it.

    Raises HydraException if it cannot be read, ConfigError if there are several.
    """
    (found,) = parsed([override])
    if found.is_sweep_override():
        key, _, text = override.partition("=")
        raise ConfigError([f"{key}: has several values (got {text}). Give one."])
    return found.value()


def usage(schema: type[Any]) -> str:
    """A line for each key of a schema: an example, and what it means."""
    lines = []
    for name, field in keys_of(schema).items():
        default = default_of(field)
        shown = field.metadata.get("example") or str(default).lower()
        lines.append(f"  {f'{name}={shown}':26} {field.metadata['help']}")
    return "\n".join(lines)


def _is_path(kind: Any) -> bool:
    return Path in (kind, *get_args(kind))


def _fits(value: Any, kind: Any, about: Mapping[str, Any]) -> bool:
    kinds = [get_origin(it) or it for it in (get_args(kind) if isinstance(kind, UnionType) else [kind])]
    # Not isinstance: True is an int.
    if type(value) not in kinds and not (_is_path(kind) and isinstance(value, Path)):
        return False
    if value is None:
        return True
    if about["choices"] and not any(type(value) is type(it) and value == it for it in about["choices"]):
        return False
    return about["rule"] is None or bool(about["rule"].holds(value))


def _meaning(kind: Any, about: Mapping[str, Any]) -> str:
    if about["rule"]:
        return str(about["rule"].meaning)
    if about["choices"]:
        *most, last = (str(it).lower() for it in about["choices"])
        return f"{', '.join(most)} or {last}"
    return next(meaning for it, meaning in NAMES.items() if kind in (it, it | None))
