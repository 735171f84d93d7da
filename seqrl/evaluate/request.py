"""What a command line of seqrl.evaluate asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqrl.config.schema import AT_LEAST_1, Rule, key, keys_of
from seqrl.config.words import read, value_of
from seqrl.errors import ConfigError
from seqrl.text import nearest

WHOLE = Rule(lambda x: x >= 0, "a whole number of at least 0")
CHECKPOINT = Rule(
    lambda x: x in ("last", "best") or (not isinstance(x, str) and x >= 0), "last, best or a number of iterations"
)
FOLDER = "the folder of a run, such as outputs/runs/<date>/<run>"


@dataclass(frozen=True)
class Words:
    """Keys of the command line; None means the run's own value."""

    run: Path = key(None, "folder of the run, which holds its config.yaml", Rule(bool, FOLDER), example="<folder>")
    checkpoint: str | int = key(
        "last", "last, best, or the number of iterations after which it was saved: checkpoint=120", CHECKPOINT
    )
    episodes: int | None = key(None, "default: as many as the run's own evaluation", AT_LEAST_1, example="200")
    greedy: bool | str | None = key(
        None,
        "true: the likeliest actions; false: sampled ones; or both; default: as in the run",
        choices=[True, False, "both"],
        example="true",
    )
    seed: int | None = key(None, "play other episodes than the run was evaluated on", WHOLE, example="1")
    memoryless_control: bool = key(True, "play the episodes again with memory zeroed")
    video: bool = key(False, "true: film the policy and what its memory does, for policy.gif and TensorBoard")
    device: str | None = key(
        None, "default: the device the run was trained on", Rule(bool, "cpu, cuda, mps or auto"), example="cpu"
    )
    trust: list[str] = key([], "modules of your own that the run needs", example="[my_module]")


@dataclass(frozen=True)
class Request(Words):
    """What a command line asks for.

    env   changes to the environment, by dotted key
    """

    env: dict[str, Any] = field(default_factory=dict)


def requested(given: Sequence[str]) -> Request:
    """Read a command line.

    Raises ConfigError with all of its faults.
    """
    values, others, wrong = read(Words, [word.lstrip("+").removeprefix("evaluation.") for word in given])
    env: dict[str, Any] = {}
    for word in others:
        name, equals, _ = word.partition("=")
        if not equals or word.startswith("-"):
            wrong.append(f"{word}: is not key=value. Run python -m seqrl.evaluate --help for the keys.")
        elif name.startswith("env."):
            env[name] = value_of(word)
        else:
            known = list(keys_of(Words))
            wrong.append(f"{name}: there is no such key.{nearest(name, known)} Keys: {', '.join(known)}, env.*.")
    if not wrong and "run" not in values:
        wrong.append(f"run: is missing. Name {FOLDER}.")
    if wrong:
        raise ConfigError(wrong)
    return Request(**values, env=env)
