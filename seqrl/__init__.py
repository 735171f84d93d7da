"""seqrl: reinforcement learning for agents that must remember.

compose   a checked configuration
learn     a run, as the command does it
load      the policy of a run, to play with
runs      the runs in a folder

What goes wrong is a SeqrlError with the line that the command would print; a wrong configuration is a ConfigError.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seqrl.machine import begin_quietly

begin_quietly()

from seqrl.config import resolvers  # noqa: E402 - takes half a second

if TYPE_CHECKING:
    from seqrl.api.composing import compose
    from seqrl.api.learning import Result, learn
    from seqrl.api.listing import RunInfo, runs
    from seqrl.api.playing import Policy, PolicyState, load
    from seqrl.errors import ConfigError, SeqrlError

__version__ = "0.2.0"
__all__ = [
    "ConfigError",
    "Policy",
    "PolicyState",
    "Result",
    "RunInfo",
    "SeqrlError",
    "compose",
    "learn",
    "load",
    "runs",
]

# Sweep workers and readers of saved configurations need these as soon as the package is there.
resolvers.register()

# Where each name is. torch takes a second to import, and most programs need only one of them.
_HOMES = {
    "ConfigError": "seqrl.errors",
    "Policy": "seqrl.api.playing",
    "PolicyState": "seqrl.api.playing",
    "Result": "seqrl.api.learning",
    "RunInfo": "seqrl.api.listing",
    "SeqrlError": "seqrl.errors",
    "compose": "seqrl.api.composing",
    "learn": "seqrl.api.learning",
    "load": "seqrl.api.playing",
    "runs": "seqrl.api.listing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seqrl' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
