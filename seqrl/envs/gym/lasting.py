"""Wrappers whose state outlives episodes, and reaches neither evaluations nor checkpoints."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

# Of a class.
NAME = re.compile(r"Normali[sz]e(Obs|Rew|Return|State|VecObs|VecRew)|^(Vec)?Normali[sz]e$")
# Of attributes that hold such a state, or of what they hold.
STATISTICS = re.compile(r"(^|_)rms$|^running_|Running(Mean|Stat|Var|Norm)")


def layers(env: Any) -> Iterator[Any]:
    """An environment and what lies beneath it, outermost first, each once: what lies there may know its owner."""
    seen: list[Any] = []
    while env is not None and not any(env is it for it in seen):
        yield env
        seen.append(env)
        env = getattr(env, "__dict__", {}).get("env")


def lasting(env: Any) -> list[str]:
    """Names of the layers of an environment, outermost first, that keep statistics from episode to episode."""
    names = []
    for layer in layers(env):
        state = getattr(layer, "__dict__", {})
        classes = [cls.__name__ for cls in type(layer).__mro__]
        # A configuration that an environment adds to its attributes may have keys of any kind.
        kept = [*(name for name in state if isinstance(name, str)), *(type(value).__name__ for value in state.values())]
        if any(map(NAME.search, classes)) or any(map(STATISTICS.search, kept)):
            names.append(type(layer).__name__)
    return names


REMEDY = (
    "use network.normalize_observations=true, or for rewards algorithm.normalize_reward=true, whose statistics are "
    "saved with the policy."
)


def note(names: Sequence[str]) -> str:
    """What such layers mean for a run, in one line."""
    one = len(names) == 1
    return (
        f"{' and '.join(names)} {'keeps' if one else 'keep'} statistics from episode to episode, which evaluations and "
        f"resumed runs begin without: returns differ from those of training. Leave {'it' if one else 'them'} out, and "
        f"{REMEDY}"
    )
