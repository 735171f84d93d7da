"""The configuration guide's flat YAML files and flags, translated into overrides of `python -m seqrl.train`."""

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_type_hints

import yaml

from seqrl.configuration import (
    CHOICES,
    RULES,
    NetworkConfig,
    RunConfig,
    SequenceLearningConfig,
    choices,
    nearest,
)
from seqrl.errors import ConfigError

PLAIN = ["episodes", "parallel", "rollout_length", "total_steps", "checkpoint_interval", "seed"]
SECTIONS = {"sequence_learning": SequenceLearningConfig, "network": NetworkConfig}
# What a key may hold.
KEYS: dict[str, tuple[type, ...]] = {
    **{key: get_args(kind) or (kind,) for key, kind in get_type_hints(RunConfig).items() if key in PLAIN},
    "algorithm": (str,),
    "device": (str,),
    **{
        f"{section}.{key}": get_args(kind) or (kind,)
        for section, schema in SECTIONS.items()
        for key, kind in get_type_hints(schema).items()
        if not key.startswith("_")
    },
}
ALLOWED = {**CHOICES, "algorithm": choices("algorithm"), "device": [*choices("device"), "cuda:<n>"]}
NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", NoneType: "null"}
# use_lstm and use_attention of the networks that have a name.
NETWORKS = {"lstm": (True, False), "attention": (True, True), "mlp": (False, False)}


FLAGS = {
    "--episodes": "episodes",
    "--parallel": "parallel",
    "--device": "device",
    "--algorithm": "algorithm",
    "--seed": "seed",
    "--total-steps": "total_steps",
    "--rollout-length": "rollout_length",
    "--checkpoint-interval": "checkpoint_interval",
    "--bptt-length": "sequence_learning.bptt_length",
    "--grad-clip-norm": "sequence_learning.grad_clip_norm",
}


@dataclass(frozen=True)
class Setting:
    """A value as it was given, and where: file:line, or a flag."""

    value: Any
    where: str


Settings = dict[str, Setting]


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where a command line is wrong."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError([f"{message}. All flags: --help."])


def command(arguments: list[str], description: str | None = None) -> tuple[list[str], bool]:
    """Overrides that a command line of the guide stands for, and whether they are only to be printed.

    Flags win over the file; overrides such as env.id=Acrobot-v1 come last and win over both.

    Raises ConfigError with every fault of file and flags.
    """
    parser = Parser(
        "scripts/train.py",
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="flat YAML file")
    for name, key in FLAGS.items():
        parser.add_argument(name, metavar="X", dest=key, help=f"in place of the file's {key}")
    parser.add_argument("--print", action="store_true", dest="only_print", help="only say the command")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what python -m seqrl.train takes")
    given, unknown = parser.parse_known_intermixed_args(arguments)
    settings: Settings = {}
    faults = [
        f"{word}: there is no such flag.{nearest(word, [*FLAGS, '--config', '--print'])}"
        for word in unknown
        if word.startswith("-")
    ]
    if not faults:  # Otherwise such a word is most likely the value of a misspelt flag.
        faults += [f"{word}: is neither a flag nor key=value." for word in given.overrides if "=" not in word]
    try:
        settings |= read(given.config) if given.config else {}
    except ConfigError as error:
        faults += error.faults
    for name, key in FLAGS.items():
        try:
            if (text := getattr(given, key)) is not None:
                settings[key] = flag(name, key, text)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return [*overrides(settings), *given.overrides], given.only_print


def read(path: Path) -> Settings:
    """Settings of a flat YAML file, by dotted key.

    Raises ConfigError with every fault of the file, `file:line: what is wrong`.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError([f"--config: {path} cannot be read: {error.strerror}. Name a YAML file."]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not text in UTF-8. Name a YAML file."]) from None
    except yaml.YAMLError as error:
        raise ConfigError([_syntax(path, error)]) from None
    if not isinstance(root, yaml.MappingNode):
        held = "is empty" if root is None else "does not hold keys and values"
        raise ConfigError([f"{path}: {held}. Write lines such as episodes: 10."])
    found = [*_flat(root, path)]
    settings = {key: setting for key, setting in found if not isinstance(setting, str)}
    faults = [setting for _, setting in found if isinstance(setting, str)]
    if faults := faults + [fault for key, setting in settings.items() for fault in _faults(key, setting)]:
        raise ConfigError(faults)
    return settings


def flag(name: str, key: str, text: str) -> Setting:
    """Setting that a flag gives. Raises ConfigError if it does not suit."""
    node = yaml.compose(text, Loader=yaml.SafeLoader) if text.strip() else None
    setting = Setting(_scalar(node) if isinstance(node, yaml.ScalarNode) else text, name)
    if found := list(_faults(key, setting)):
        raise ConfigError(found)
    return setting


def overrides(settings: Mapping[str, Setting]) -> list[str]:
    """Overrides that say the same. What is not set is as the guide has it: no sequence learning, an LSTM."""
    given = {key: setting.value for key, setting in settings.items()}
    said = [*_network(given), *_sequence(given)]
    if "algorithm" in given:
        said.append(f"algorithm={given['algorithm']}")
    if "device" in given:
        group, _, index = given["device"].partition(":")
        said += [f"device={group}", *([f"device.name={given['device']}"] if index else [])]
    return [*said, *(f"{key}={_text(given[key])}" for key in PLAIN if key in given)]


def _network(given: Mapping[str, Any]) -> Iterator[str]:
    use_lstm, use_attention = given.get("network.use_lstm", True), given.get("network.use_attention", False)
    name = given.get("network.type") or ("attention" if use_attention else "lstm" if use_lstm else "mlp")
    yield f"network={name}"
    meant = dict(zip(("network.use_lstm", "network.use_attention"), NETWORKS[name], strict=True))
    for key, value in given.items():
        # A contradiction goes on to the program, which says what to do.
        if key.startswith("network.") and key != "network.type" and meant.get(key) != value:
            yield f"{key}={_text(value)}"


def _sequence(given: Mapping[str, Any]) -> Iterator[str]:
    length = given.get("sequence_learning.bptt_length", 0)
    if not given.get("sequence_learning.enabled", False):
        yield "sequence=off"
    else:
        yield f"sequence={'truncated' if length else 'full'}"
    for key, value in given.items():
        implied = key == "sequence_learning.enabled" or (key == "sequence_learning.bptt_length" and not length)
        if key.startswith("sequence_learning.") and not implied:
            yield f"{key}={_text(value)}"


def _flat(root: yaml.MappingNode, path: Path, section: str = "") -> Iterator[tuple[str, Setting | str]]:
    """Dotted keys with their settings, or with what is wrong with them."""
    lines: dict[str, int] = {}
    for name, node in root.value:
        line = name.start_mark.line + 1
        where = f"{path}:{line}"
        key = f"{section}{name.value}"
        if key in lines:
            yield key, f"{where}: {key} stands here and in line {lines[key]}. Keep one of them."
        lines.setdefault(key, line)
        if isinstance(node, yaml.MappingNode) and key in SECTIONS:
            yield from _flat(node, path, f"{key}.")
        elif key in SECTIONS:
            yield key, f"{where}: {key} is a section. Write its keys below it, indented."
        elif key not in KEYS:
            yield key, f"{where}: there is no key {key}.{_meant(key)}"
        elif not isinstance(node, yaml.ScalarNode):
            yield key, f"{where}: {key} must be {_kind(key)}. Write {key.rpartition('.')[2]}: and a value in one line."
        else:
            yield key, Setting(_scalar(node), where)


def _scalar(node: yaml.ScalarNode) -> Any:
    """Value of a scalar; words that old YAML takes for booleans, and numbers it takes for octal, stay text."""
    kind, text = node.tag.rpartition(":")[2], node.value
    if kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind == "float" or (kind == "int" and (text == "0" or not text.lstrip("+-").startswith("0"))):
        return yaml.safe_load(text)
    if kind == "null":
        return None
    # 1e-3 is text to YAML 1.1.
    if node.style is None and re.fullmatch(r"[+-]?\d+(\.\d*)?e[+-]?\d+", text, re.IGNORECASE):
        return float(text)
    return text


def _faults(key: str, setting: Setting) -> Iterator[str]:
    """What is wrong with a value: its kind, its range or its name."""
    value, kinds = setting.value, KEYS[key]
    label = setting.where if setting.where.startswith("--") else f"{setting.where}: {key}"
    if type(value) not in kinds and not (float in kinds and type(value) is int):
        octal = " Numbers do not begin with 0." if str(value).startswith("0") and str(value).isdigit() else ""
        yield f"{label}: must be {_kind(key)} (got {_text(value)}).{octal}"
    elif key in RULES and value is not None and not RULES[key][0](value):
        yield f"{label}: must be {RULES[key][1]} (got {value})."
    elif key in ALLOWED and value not in ALLOWED[key] and not (key == "device" and str(value).startswith("cuda:")):
        yield f"{label}: must be one of {', '.join(ALLOWED[key])} (got {value!r}).{nearest(str(value), ALLOWED[key])}"


def _kind(key: str) -> str:
    return " or ".join(NAMES[kind] for kind in KEYS[key])


def _meant(key: str) -> str:
    """The key that was meant, or all there are."""
    names = [*KEYS, *SECTIONS]
    same = [name for name in names if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if same:
        return f" Did you mean {same[0]}?"
    return nearest(key, names) or f" Keys: {', '.join([*SECTIONS, *(k for k in KEYS if '.' not in k)])}."


def _syntax(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    remedy = "Indent with spaces." if "'\\t'" in problem else "Mend the YAML."
    return f"{where}: {problem}. {remedy}"


def _text(value: Any) -> str:
    return {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool | None) else str(value)
