"""What a run folder says of how its run was begun, and whether it can go on.

The command stands in manifest.json, what it came to in config.yaml, and the iterations in the names of checkpoints.
"""

import hashlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from seqrl.config.naming import key_of
from seqrl.config.schema import typed
from seqrl.errors import CheckpointError, ConfigError
from seqrl.files import fault, json_of, loadable_yaml, may_be_intact, read, read_text, read_yaml, regular, walk
from seqrl.text import dotted, nearest

log = logging.getLogger(__name__)

# Where runs are, if nobody says otherwise, and what the newest of them may be called.
OUTPUTS, LATEST = Path("outputs"), "latest"
# At least so many has the number of iterations that names a checkpoint.
DIGITS = 8
# Keys whose defaults have changed: a run keeps what they were when it began.
CHANGED_DEFAULTS = [
    "episodes",
    "rollout_steps",
    "rollout_rewards",
    "algorithm.learning_rate",
    "algorithm.epochs",
    "algorithm.minibatches",
    "algorithm.exploration",
    "algorithm.entropy_coefficient",
    "algorithm.anneal",
]
# What runs did before there were these keys.
BEFORE_THE_KEY = {
    "processes": 1,
    "rollout_steps": 1,
    "runner.rollout_steps": 1,
    "rollout_rewards": 0,
    "runner.rollout_rewards": 0,
    "algorithm.minibatch_steps": 512,
    "algorithm.exploration": "entropy",
    "env.log_info": [],
}
# Sections whose keys depend on what they name, and groups that are sections of another name.
ANY = ("env", "network", "algorithm")
SECTIONS = {"sequence": "sequence_learning"}
OPEN = object()
# Seconds since 1970 that no run begins at.
NO_MOMENT = 1e100
# The beginning of what a saved configuration may leave to be read when it is used, and how often it may.
VARIABLE = re.compile(r"\$\{\s*oc\.(?:env|decode|create)\s*:")
# In a text that is read once more, what makes another value of it: a dollar, also in other words, or an alias of YAML.
DECODES = re.compile(r"\$\{\s*oc\.(?:decode|create)\s*:")
COMPUTES = re.compile(r"[$*]|\\(x|u00|U000000)24")
MOST_VARIABLES = 1000


def run_folders(folder: Path, unread: Callable[[Path, str], object]) -> Iterator[Path]:
    """The folders of runs in a folder, at any depth.

    unread   is told which folder cannot be read, and why: there may be runs in it
    """

    def note(error: OSError) -> None:
        # What was removed meanwhile holds none.
        if may_be_intact(error):
            unread(Path(error.filename), f"cannot be read ({fault(error)})")

    for place, folders, files in walk(folder, note):
        is_run = "manifest.json" in (*folders, *files)
        folders[:] = sorted({*folders} - {".git", "__pycache__", *(["checkpoints"] if is_run else [])})
        if is_run:
            yield place


def leaving_out(say: Callable[[str], object]) -> Callable[[Path, str], object]:
    """An `unread` of `run_folders` that says, in a line each, what is left out."""
    return lambda place, why: say(f"{place}: {why}. Runs in it are left out.")


def started(folder: Path, facts: Any = None) -> float:
    """When a run was begun, in seconds since 1970; for one that does not say so, when its manifest was last written.

    facts   of its manifest, if that has been read

    Raises OSError or ValueError if its manifest cannot be read.
    """
    if facts is None:
        facts = json_of(read_text(folder / "manifest.json"))
    said = facts.get("started") if isinstance(facts, dict) else None
    if not isinstance(said, int | float):
        return (folder / "manifest.json").stat().st_mtime
    # Neither NaN, which is not older nor newer than any, nor what is too large for a float.
    if not abs(said) < NO_MOMENT:
        raise ValueError(f"gives started a value that no run has (got {repr(said)[:60]})")
    return float(said)


def named_run(folder: Path) -> Path:
    """The folder of a run that may be called `latest`: the newest one under outputs.

    One that may be newer, and does not say when it was begun, is passed over aloud. Raises CheckpointError if there is
    none.
    """
    if str(folder) != LATEST or folder.exists():
        return folder
    found: list[tuple[float, Path]] = []
    silent: list[tuple[Path, str]] = []
    for path in run_folders(OUTPUTS, lambda *unread: silent.append(unread)):
        try:
            found.append((started(path), path))
        except FileNotFoundError:
            # Removed meanwhile.
            continue
        except (OSError, ValueError) as error:
            silent.append((path / "manifest.json", fault(error)))
    if not found:
        unread = f" that can be read: {silent[0][0]} {silent[0][1]}" if silent else ""
        raise CheckpointError(f"{LATEST}: there is no run in {OUTPUTS}{unread}. Name the folder of one.")
    begun, newest = max(found)
    for path, why in silent:
        with suppress(OSError):
            if path.lstat().st_mtime >= begun:
                log.warning("%s: passed over %s, which %s; using %s.", LATEST, path, why, newest)
    return newest


def no_run(key: str, folder: Path) -> CheckpointError:
    """What to raise where the folder that a key names as a run's is none."""
    if os.path.lexists(folder):
        where = "is not a run folder. Name the one that has config.yaml and manifest.json in it"
    else:
        where = f"does not exist.{nearest(str(folder), [LATEST])} python -m seqrl.runs lists the runs"
    return CheckpointError(f"{key}: {folder} {where}.")


def saved_iterations(folder: Path) -> list[int]:
    """Iterations after which there is a checkpoint in a run folder, in their order.

    Raises OSError if that cannot be seen: a run whose checkpoints are hidden must not begin anew.
    """
    try:
        names = os.listdir(folder / "checkpoints")
    except OSError as error:
        if may_be_intact(error):
            raise
        names = []
    files = [folder / "checkpoints" / name for name in names if re.fullmatch(rf"[0-9]{{{DIGITS},}}\.pt", name)]
    return sorted(int(file.stem) for file in files if not _is_half_a_pair(file))


def _is_half_a_pair(file: Path) -> bool:
    """Whether it is the state that 0.1.0 wrote first, without the facts that make a checkpoint of it."""
    if file.with_suffix(".json").exists():
        return False
    try:
        with regular(file) as state:
            # A checkpoint that is damaged at its very beginning is there all the same, and must be passed over aloud.
            return state.read(4).startswith(b"PK")
    except OSError:
        return False


def can_go_on(folder: Path) -> bool:
    """Whether there is a checkpoint in a run folder to go on from, sound or not."""
    return bool(saved_iterations(folder))


def command(folder: Path) -> tuple[list[str], str | None]:
    """Overrides of the command that a run goes by, and the folder of the user's own configuration.

    Raises OSError or ValueError with the reason if its manifest does not say that.
    """
    manifest = json_of(read_text(folder / "manifest.json"))
    try:
        began, config_dir = [*manifest["overrides"], *manifest.get("implied", [])], manifest["config_dir"]
    except (AttributeError, KeyError, TypeError):
        raise ValueError("does not say how the run was begun") from None
    if not all(isinstance(it, str) for it in [*began, config_dir or ""]):
        raise ValueError("does not say how the run was begun")
    return began, config_dir


def former_defaults(folder: Path) -> list[str]:
    """Overrides that keep a run as it was begun, where defaults have changed since.

    Empty if config.yaml is not that of the latest command, which had looked at the defaults already.
    """
    path = folder / "config.yaml"
    try:
        cfg = loaded(path)
        if _other_configuration(folder, digest(read(path))):
            return []
    except (OSError, ValueError) as error:
        if may_be_intact(error):
            raise
        return []
    # What is not of seqrl may not know its keys.
    own = str(OmegaConf.select(cfg, "algorithm._target_")).startswith("seqrl.")
    before = {key: value for key, value in BEFORE_THE_KEY.items() if own or not key.startswith("algorithm.")}
    values = {key: OmegaConf.select(cfg, key, default=before.get(key)) for key in CHANGED_DEFAULTS}
    return [f"{key}={value}" for key, it in values.items() if (value := _plain(it)) is not None]


def _other_configuration(folder: Path, its_digest: str) -> bool:
    """Whether a manifest tells of another configuration than that of its folder; older versions' tell of none."""
    try:
        return bool(json_of(read_text(folder / "manifest.json")).get("config_digest", its_digest) != its_digest)
    except (OSError, ValueError, AttributeError):
        return False


def digest(text: bytes) -> str:
    """What a manifest knows its config.yaml by."""
    return hashlib.sha256(text).hexdigest()


def _plain(value: Any) -> str | None:
    """A number, a name or a list of names, as an override has it; None for anything else, which may be anybody's."""
    if isinstance(value, ListConfig):
        names = [str(it) for it in value]
        return f"[{','.join(names)}]" if all(name.isidentifier() for name in names) else None
    is_name = isinstance(value, str) and value.isidentifier()
    return str(value) if is_name or isinstance(value, int | float) else None


def saved(folder: Path) -> DictConfig | None:
    """config.yaml of a run folder; None if there is none yet.

    Raises CheckpointError if it is none, OSError if it cannot be read and may be one.
    """
    path = folder / "config.yaml"
    try:
        return loaded(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if may_be_intact(error):
            raise
        raise CheckpointError(f"resume: {path} is not the configuration of a run: {fault(error)}.") from error


def loaded(path: Path) -> DictConfig:
    """A configuration that a run has saved, which may be anybody's. Raises OSError or ValueError if it is none.

    A run saves what its keys came to, and of variables of the system's environment the words. Whatever else could
    compute, such as a text made of ten times another one, is refused.
    """
    return _loaded(read_yaml(path))


def saved_text(cfg: DictConfig) -> bytes:
    """config.yaml of a run of this configuration, in its words.

    Raises ConfigError if a run could not be read from it again, or would be another one.
    """
    text = OmegaConf.to_yaml(cfg)
    try:
        again = dotted_values(_loaded(loadable_yaml(text)))
    except ValueError as error:
        raise ConfigError([f"config.yaml, which the run would save, {error}. Nothing could go on from it."]) from error
    pairs = {key: (repr(value), repr(again.get(key))) for key, value in dotted_values(cfg).items()}
    if changed := {key: (one[:60], other[:60]) for key, (one, other) in pairs.items() if one != other}:
        what = "is another value when it is read again from config.yaml"
        raise ConfigError([f"{key}: {what} (got {one}, and {other} there)." for key, (one, other) in changed.items()])
    return text.encode()


def dotted_values(cfg: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """The values of a configuration by dotted key, in its words."""
    sections = OmegaConf.to_container(cfg) if isinstance(cfg, DictConfig) else cfg
    assert isinstance(sections, dict)
    return dict(dotted({str(key): value for key, value in sections.items()}))


def _loaded(text: str) -> DictConfig:
    if len(VARIABLE.findall(text)) > MOST_VARIABLES:
        raise ValueError(f"has more than {MOST_VARIABLES} variables")
    try:
        found = OmegaConf.load(io.StringIO(text))
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(str(error) or "is not a mapping") from error
    if not isinstance(found, DictConfig):
        raise ValueError("is not a mapping")
    if computing := next(_computing(OmegaConf.to_container(found)), None):
        raise ValueError(f"computes a value, which no run saves (got {computing[:60]})")
    return found


def _computing(node: Any) -> Iterator[str]:
    """Texts that stand for something else than a variable of the system's environment, decoded or with a default."""
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _computing(inner)
    if isinstance(node, str) and "${" in node:
        rest = VARIABLE.sub("", node)
        # A dollar before a brace would be another variable, wherever either comes from.
        computes = "$$" in node or ("$" in rest and "{" in rest)
        if computes or (DECODES.search(node) and COMPUTES.search(rest)):
            yield node


def goes_by_configuration(folder: Path) -> bool:
    """Whether the command that began a run is not known, and what it came to is."""
    try:
        command(folder)
    except (OSError, ValueError):
        return can_go_on(folder) and (folder / "config.yaml").exists()
    return False


def as_saved(cfg: DictConfig, before: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """What a run came to, in the form of a composed configuration, with what the command line chooses now.

    cfg         composed, without the run's own command
    overrides   of the command line

    Raises ConfigError for one whose meaning depends on the run's own command.
    """
    whole = cfg.copy()
    named = list(map(key_of, overrides))
    chosen = [SECTIONS.get(key, key) for key in named]
    if unclear := [key for key in chosen if OmegaConf.select(cfg, key, default=OPEN) is OPEN]:
        raise ConfigError(
            [
                f"{key}: cannot be chosen, as the command that began the run is not known. Set single keys."
                for key in unclear
            ]
        )
    first = {key: BEFORE_THE_KEY[key] for key in ("rollout_steps", "rollout_rewards")}
    with open_dict(whole):
        for key, value in [*first.items(), *before.items()]:
            if key in ("resume", "trust", "validate", *chosen):
                continue
            if isinstance(value, DictConfig) and OmegaConf.get_type(whole.get(key)) is not dict and key not in ANY:
                whole[key] = OmegaConf.merge(OmegaConf.structured(OmegaConf.get_type(whole[key])), value)
            else:
                whole[key] = typed(value) if key in ANY and isinstance(value, DictConfig) else value
        for key in chosen:
            if "." in key:
                OmegaConf.update(whole, key, OmegaConf.select(cfg, key), force_add=True)
    return whole
