"""Suites of environments: what each contains, how to select one, and its known returns."""

import contextlib
import importlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import yaml
from gymnasium import Space

from seqrl import envs
from seqrl.config import trust
from seqrl.config.paths import CONF
from seqrl.config.resolvers import built_in_tasks
from seqrl.config.schema import SCHEMAS
from seqrl.envs.gym import envpool as pool
from seqrl.packages import is_installed, without_arguments


@dataclass(frozen=True)
class Suite:
    """Environments that a package registers with Gymnasium.

    package    the package that provides them
    install    what to install with pip
    origin     prefix of the ids, or of the entry points, of its environments
    module     the module to import first; empty if Gymnasium registers them itself
    preset     the choice of config group env that suits them; empty for gymnasium
    many       too many, or too slow to build, to list unless asked for
    """

    name: str
    package: str
    install: str
    origin: str
    module: str = ""
    preset: str = ""
    many: bool = False

    @property
    def is_installed(self) -> bool:
        return is_installed(self.package)

    @property
    def choice(self) -> str:
        """Command-line overrides that select the environment ID, as a shell takes them."""
        if not self.module:
            return "env.id=ID"
        trusted = "" if self.module in trust.SUITES else f" 'trust=[{self.module}]'"
        preset = f"env={self.preset} " if self.preset else ""
        return f"{preset}env.id={self.module}:ID{trusted}"

    def ids(self) -> list[str]:
        with silence():
            importlib.import_module(self.package)
        return [
            id
            for id, spec in gymnasium.registry.items()
            if id.startswith(self.origin) or str(spec.entry_point).startswith(self.origin)
        ]

    def spaces(self, id: str) -> tuple[Space[Any], Space[Any]]:
        """Observation and action space; raises whatever the environment raises while it is built."""
        with silence(), contextlib.closing(gymnasium.make(id)) as env:
            return env.observation_space, env.action_space


class BuiltIn(Suite):
    """seqrl's built-in tasks, with the settings in conf/env."""

    @property
    def choice(self) -> str:
        return "env=ID"

    def ids(self) -> list[str]:
        return built_in_tasks()

    def spaces(self, id: str) -> tuple[Space[Any], Space[Any]]:
        keys = yaml.safe_load((CONF / "env" / f"{id}.yaml").read_text(encoding="utf-8"))
        schema = SCHEMAS[keys.pop("defaults")[0].removeprefix("/schema/").removesuffix("@_here_")]
        target = keys.pop("_target_", getattr(schema, "_target_", ""))
        env = getattr(envs, target.rpartition(".")[2])(batch_size=1, seed=0, **keys)
        return env.observation_space, env.action_space


class EnvPool(Suite):
    """Environments that EnvPool provides."""

    @property
    def choice(self) -> str:
        return "env.id=ID env.backend=envpool"

    def ids(self) -> list[str]:
        return list(pool.library().list_all_envs())

    def spaces(self, id: str) -> tuple[Space[Any], Space[Any]]:
        return pool.spaces(id)


@dataclass(frozen=True)
class KnownReturns:
    """Mean returns to compare with.

    best         of the best known policy
    memoryless   of the best policy that sees only the current observation
    """

    best: float
    memoryless: float


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hide banners, warnings and our arguments, and keep the log files of packages out of the working directory."""
    said = io.StringIO()
    elsewhere = contextlib.chdir(tempfile.gettempdir())
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), elsewhere:
        warnings.simplefilter("ignore")
        with without_arguments():
            yield


SUITES = [
    BuiltIn("built-in tasks", "seqrl", "seqrl", ""),
    Suite("classic control", "gymnasium", "gymnasium", "gymnasium.envs.classic_control"),
    Suite("toy text", "gymnasium", "gymnasium", "gymnasium.envs.toy_text"),
    Suite("popgym", "popgym", "seqrl[popgym]", "popgym-", "popgym"),
    Suite("minigrid memory", "minigrid", "seqrl[minigrid]", "MiniGrid-Memory", "minigrid", "minigrid"),
    Suite("mujoco", "mujoco", "seqrl[mujoco]", "gymnasium.envs.mujoco", many=True),
    Suite("atari", "ale_py", "seqrl[atari]", "ALE/", "ale_py", "atari", many=True),
    EnvPool("envpool", "envpool", "seqrl[envpool]", "", many=True),
]
# By built-in task name or environment id.
KNOWN_RETURNS = {
    "masked_cartpole": KnownReturns(500, 50),
    "noisy_cartpole": KnownReturns(0.99, 0.26),
    "tmaze": KnownReturns(1, 0.5),
    "memory_chain": KnownReturns(1, 0),
    "repeat_first": KnownReturns(1, -0.5),
    "repeat_previous": KnownReturns(1, -0.49),
    "count_recall": KnownReturns(1, -0.92),
    "popgym-CountRecallEasy-v0": KnownReturns(1, -0.92),
    "popgym-RepeatPreviousEasy-v0": KnownReturns(1, -0.49),
    "popgym-RepeatFirstEasy-v0": KnownReturns(1, -0.5),
    "popgym-NoisyPositionOnlyCartPoleEasy-v0": KnownReturns(0.99, 0.26),
}
