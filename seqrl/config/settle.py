"""Makes the composed configuration final: checked, completed, read-only."""

import copy
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from seqrl.config.begun import BEFORE_THE_KEY, VARIABLE, as_saved, dotted_values, goes_by_configuration, saved
from seqrl.config.begun import command as command_of
from seqrl.config.naming import key_of
from seqrl.config.secrets import public, secrets, variables
from seqrl.config.trust import set_by_files
from seqrl.config.validate import faults
from seqrl.errors import CheckpointError, ConfigError
from seqrl.machine import processes_started
from seqrl.packages import release_hydra
from seqrl.text import declassify, few

GRADIENT_THREADS, LEARNERS = "algorithm.gradient_threads", "algorithm.learners"
GRADIENT_PARTS = "algorithm.gradient_parts"
# Keys of seqrl 0.1.0 that have another name now; the old one is accepted until 0.3.0.
RENAMED = {LEARNERS: GRADIENT_THREADS}
# Keys that decide nothing of what is learned.
NO_MATTER = re.compile(r"(name|resume|trust|logger|algorithm\.gradient_threads)(\.|$)")


@dataclass(frozen=True)
class Settled:
    """A final configuration, and where it came from.

    cfg          read-only, and nothing in it is left to be computed
    words        the same as it is saved: what comes from the system's environment keeps its words
    overrides    of the command line, as they were written: a variable of the system's environment keeps its name;
                 None for a run whose command is not known, and whose configuration says all
    implied      overrides that nobody wrote, which going on with the run needs again
    config_dir   folder of the user's own configuration
    changes      since config.yaml was written, if the run goes on: `key: before -> now`
    """

    cfg: DictConfig
    words: DictConfig
    overrides: list[str] | None
    implied: list[str] = field(default_factory=list)
    config_dir: str | None = None
    changes: list[str] = field(default_factory=list)

    @property
    def asked(self) -> list[str]:
        """Overrides that somebody has just written: going on with a run adds those that began it."""
        return [] if self.cfg.resume else self.overrides or []

    def saved(self, backend: str) -> dict[str, Any]:
        """The configuration as it is saved, in sections.

        backend   who plays, where that was left open: what was measured once is not measured again
        """
        config = OmegaConf.to_container(self.words, enum_to_str=True)
        assert isinstance(config, dict)
        if config["env"].get("backend") == "auto":
            config["env"]["backend"] = backend
        return {str(key): value for key, value in config.items()}


def settle(
    cfg: DictConfig,
    *,
    begun_in: Path | None = None,
    beside: Path | None = None,
    resume: bool = False,
    cores: int | None = None,
    by_command: bool = True,
) -> Settled:
    """What a composed configuration comes to.

    begun_in   folder where this run was begun before; None: what `resume` says
    beside     the first run of the same sweep
    resume     go on from a checkpoint there, though the command line does not say so
    cores      that the run may use; None: all
    by_command whether the overrides that Hydra knows made it; otherwise a program did, which may trust what it likes

    Raises ConfigError with all that is wrong with it, CheckpointError if it goes on with what is no run.
    """
    release_hydra()
    cfg = copy.deepcopy(cfg)
    command = overrides() if by_command else None
    if cfg.resume and begun_in is None and goes_by_configuration(Path(cfg.resume)):
        cfg, command = as_saved(cfg, saved(Path(cfg.resume)) or cfg, overrides()), None
    if (resume or cfg.resume) and (started := processes_started()) > 1:
        # The command that began the run may have asked for others.
        cfg.processes = started
    for old, new in RENAMED.items():
        _rename(cfg, old, new)
    check(cfg, by_command)
    declassify(*variables(cfg))
    if resume:
        cfg.resume = str(begun_in)
    folder = begun_in or (Path(cfg.resume) if cfg.resume else None)
    before = saved(folder) if folder else None
    implied: list[str] = []
    if begun_in and (example := beside if before is None else begun_in):
        implied += _keep_former(cfg, example, command or [])
    _share_cores(cfg, cores)
    implied += [] if before is None else _keep_parts(cfg, before)
    if before is not None:
        keep_backend(cfg, before)
    words = public(cfg)
    changed = [] if before is None else changes(before, words)
    return Settled(computed(cfg, faults), words, command, implied, config_dir(), changed)


def _keep_former(cfg: DictConfig, example: Path, given: Sequence[str]) -> list[str]:
    """Have a point of a sweep do what was done before there was a key, unless the command gives that.

    example   folder of the point, or of the first of its sweep, which tells whether there was the key

    Returns what that implies: once a run has gone on, its configuration has the key, too, and its command says it.
    """
    try:
        before = saved(example)
    except (CheckpointError, OSError):
        # Another's. What is wrong with the point's own has been said.
        before = None
    if before is None:
        return []
    keys = set(map(key_of, given))
    known: list[str] = []
    with suppress(OSError, ValueError):
        known = command_of(example)[0]
    kept = []
    for key, value in BEFORE_THE_KEY.items():
        part = key.rpartition(".")[0]
        # What plays has these of the run's. Other environments or algorithms may have others.
        if part == "runner" or key in (*keys, "processes") or (part and not _alike(before, cfg, f"{part}._target_")):
            continue
        was_none = OmegaConf.select(before, key, default=before) is before
        if (was_none or f"{key}={value}" in known) and OmegaConf.select(cfg, key) not in (None, value):
            OmegaConf.update(cfg, key, value)
            kept.append(f"{key}={value}")
    return kept


def _alike(one: DictConfig, other: DictConfig, key: str) -> bool:
    return bool(OmegaConf.select(one, key) == OmegaConf.select(other, key))


def computed(cfg: DictConfig, faults: Callable[[DictConfig], list[str]]) -> DictConfig:
    """A configuration with the values that its words stand for, read-only.

    A word may stand for something else later: once Hydra adds a key, a backend is chosen, or a file is written. What is
    built must be what was checked.

    Raises ConfigError with what `faults` finds in it.
    """
    whole = copy.deepcopy(cfg)
    OmegaConf.set_readonly(whole, False)
    OmegaConf.resolve(whole)
    if found := faults(whole):
        raise ConfigError(found)
    OmegaConf.set_readonly(whole, True)
    return whole


def with_values(cfg: DictConfig, values: dict[str, Any]) -> DictConfig:
    """A copy of a final configuration with some other values, by section."""
    other = OmegaConf.merge(cfg, values)
    assert isinstance(other, DictConfig)
    return other


def check(cfg: DictConfig, by_command: bool = True) -> None:
    """Raise ConfigError with all that is wrong with the configuration of a job."""
    # Those of a job are told without `resume`.
    if by_command and (found := [*set_by_files(cfg, ["resume=", *overrides()])]):
        raise ConfigError(found)
    if found := [*faults(cfg), *secrets(cfg)]:
        raise ConfigError(found)


def overrides() -> list[str]:
    """Those of a job but for `resume`, as they were written."""
    task = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(task, list)
    return [override for override in map(str, task) if not override.startswith("resume=")]


def config_dir() -> str | None:
    """Folder of the user's own configuration, if the command line names one."""
    sources = HydraConfig.get().runtime.config_sources
    # As `--config-dir` names it, and as that is said in Python.
    own = ("command-line", "hydra.searchpath in command-line")
    return next((str(source.path) for source in sources if source.provider in own), None)


def changes(before: DictConfig | dict[str, Any], now: DictConfig) -> list[str]:
    """What differs between two configurations that were saved, `key: before -> now`, and makes it another run."""
    old, new = (dotted_values(it) for it in (before, now))
    for was, name in RENAMED.items():
        if was in old:
            old[name] = old.pop(was)
    if (parts := _parts_without_the_key(old)) is not None:
        old[GRADIENT_PARTS] = parts
    old = {key: value for key, value in BEFORE_THE_KEY.items() if key in new} | old
    keys = [key for key in {**old, **new} if not NO_MATTER.match(key) and old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'not there')} -> {new.get(key, 'not there')}" for key in keys]


def unknown_changes(words: DictConfig) -> str:
    """A note on what may have changed without a word, as variables of the system's environment give it; often empty."""
    keys = [key for key, it in dotted_values(words).items() if VARIABLE.search(str(it)) and not NO_MATTER.match(key)]
    if not keys:
        return ""
    come = "come from variables" if keys[1:] else "comes from a variable"
    return f"{', '.join(few(keys))} {come} of the environment, whose values no file keeps: a change would not be listed"


def that_matters(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What decides something of what is learned, of a configuration in sections."""
    return {
        key: that_matters(it, f"{prefix}{key}.") if isinstance(it, dict) else it
        for key, it in config.items()
        if not NO_MATTER.match(f"{prefix}{key}")
    }


def _rename(cfg: DictConfig, old: str, new: str) -> None:
    section, _, name = old.rpartition(".")
    part = cfg.get(section)
    if isinstance(part, DictConfig) and name in part:
        OmegaConf.update(cfg, new, part[name])
        with open_dict(part):
            del part[name]


def _share_cores(cfg: DictConfig, cores: int | None) -> None:
    """Let runs side by side share the cores, unless somebody says how many threads there are to be."""
    if cores is not None and OmegaConf.select(cfg, GRADIENT_THREADS, default=0) is None:
        OmegaConf.update(cfg, GRADIENT_THREADS, max(1, cores))


def _keep_parts(cfg: DictConfig, before: DictConfig) -> list[str]:
    """Go on with the parts of a gradient that a run of 0.1.0 had: one for each thread. Returns what that implies."""
    parts = _parts_without_the_key(dotted_values(before))
    if parts is None or OmegaConf.select(cfg, GRADIENT_PARTS, default=0) is not None:
        return []
    OmegaConf.update(cfg, GRADIENT_PARTS, parts)
    return [f"{GRADIENT_PARTS}={parts}"]


def _parts_without_the_key(old: dict[str, Any]) -> Any:
    """Parts of the gradient of a run whose saved configuration has no key for them; None if it has one."""
    return None if GRADIENT_PARTS in old else old.get(GRADIENT_THREADS, old.get(LEARNERS))


def keep_backend(cfg: DictConfig, before: DictConfig) -> None:
    """Where env.backend is left open, take what plays already, if the environments are the same."""
    others = [change for change in changes(before, public(cfg)) if re.match(r"env\.(?!backend:)", change)]
    if cfg.env.get("backend") == "auto" and not others:
        cfg.env.backend = before.env.get("backend", "auto")
