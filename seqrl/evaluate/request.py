"""What a command line of seqrl.evaluate asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from seqrl.config.schema import AT_LEAST_1, key
from seqrl.config.words import OfPlayedPolicy, read_for_policy


@dataclass(frozen=True)
class Words(OfPlayedPolicy):
    """Keys of the command line; None means the run's own value."""

    episodes: int | None = key(None, "default: as many as the run's own evaluation", AT_LEAST_1, example="200")
    greedy: bool | str | None = key(
        None,
        "true: the likeliest actions; false: sampled ones; or both; default: as in the run",
        choices=[True, False, "both"],
        example="true",
    )
    memoryless_control: bool = key(True, "play the episodes again with memory zeroed")
    video: bool = key(False, "true: film the policy and what its memory does, for policy.gif and TensorBoard")


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
    words = [word.lstrip("+").removeprefix("evaluation.") for word in given]
    values, env = read_for_policy(Words, words, "seqrl.evaluate")
    return Request(**values, env=env)
