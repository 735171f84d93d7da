"""Completes the command line: resume, sweep and other short words, in the words of Hydra."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from seqrl.config import begun
from seqrl.config.hydra_errors import faults_of_files, faults_of_sweep
from seqrl.config.overrides import faults_of_form, insist_on_modest, parsed, quoted, unquoted
from seqrl.config.own_files import faults_of_choices, joined, refuse_other_files
from seqrl.config.schema import MlflowConfig
from seqrl.config.synonyms import ours
from seqrl.config.trust import ADDRESSES
from seqrl.errors import CheckpointError, ConfigError
from seqrl.files import fault, may_be_intact
from seqrl.packages import how_to_install, is_installed
from seqrl.text import VARIABLE, dotted, say

KEY = "resume="
# Keys that say what is to be done with a run.
SWITCHES = ("resume", "validate")


def arguments(given: list[str]) -> list[str]:
    """The same command line; with `resume=<run folder>`, behind the choices that began that run, and in its folder.

    Raises CheckpointError if the folder holds no run, ConfigError if it needs configuration that is not named again.
    """
    named = [argument.removeprefix(KEY) for argument in given if argument.startswith(KEY)]
    if not named or named[-1] == "null":
        return given
    if not (name := unquoted(named[-1])):
        raise ConfigError(["resume: names no run. Write resume=<folder>, or resume=latest for the newest."])
    folder = begun.named_run(Path(name)).resolve()
    if "${" in str(folder):
        raise ConfigError([f"resume: {folder} holds ${{ in its name, which Hydra would replace. Rename the folder."])
    others = [argument for argument in given if not argument.startswith((KEY, "hydra.run.dir="))]
    chosen = {_key(argument) for argument in others}
    # A key that is added once more cannot be there already.
    again = {_key(argument) for argument in others if argument.startswith("+")}
    began, config_dir = _beginning(folder)
    if config_dir is not None and not any(word.startswith(("--config-dir", "-cd")) for word in given):
        raise ConfigError(
            [f"resume: this run used configuration files of your own. Add --config-dir {quote(config_dir)}"]
        )
    again |= {_key(override) for override in began if leads_away(override)} & chosen
    began = [override for override in began if _key(override) not in again and _is_choice(override)]
    if elsewhere := [*filter(leads_away, began), *_addresses(folder, chosen)]:
        raise ConfigError(
            [f"resume: this run used {elsewhere[0]}, which its folder alone cannot ask for. Write it again."]
        )
    here = quoted(str(folder))
    return [*_former_defaults(folder, began, others), *began, *others, f"hydra.run.dir={here}", f"{KEY}{here}"]


def _former_defaults(folder: Path, began: Sequence[str], now: Sequence[str]) -> list[str]:
    """Overrides that keep what the defaults were when a run was begun, but for what was chosen, or is chosen now."""
    keys = {_key(override) for override in now}
    if keys & {"experiment", "profile"}:
        return []
    # A budget of steps alone is meant to be spent.
    keys |= {"episodes"} if "total_steps" in keys else set()
    keys |= {_key(override) for override in began}
    return [override for override in begun.former_defaults(folder) if _key(override) not in keys]


# A key of a logger that says where rows go; and what else may stand in one that is not written out.
ADDRESS, WRITTEN_OUT = re.compile(rf"\b({'|'.join(ADDRESSES)})\b"), re.compile(VARIABLE)


def leads_away(override: str) -> bool:
    """Whether it chooses a package, or sends the curves somewhere: a folder, which may be anybody's, must not.

    What is computed of a logger could be an address, in letters that nobody knows again.
    """
    key = _key(override)
    is_of_logger = key.partition(".")[0] == "logger"
    return "@" in key or (is_of_logger and bool(ADDRESS.search(override) or "${" in WRITTEN_OUT.sub("", override)))


def _addresses(folder: Path, chosen: set[str]) -> Iterator[str]:
    """Where the loggers send their rows in a run that goes by its config.yaml, if nothing chooses that now."""
    if not begun.goes_by_configuration(folder) or "logger" in chosen:
        return
    saved = OmegaConf.to_container(begun.saved(folder) or OmegaConf.create())
    loggers = saved.get("logger") or {} if isinstance(saved, dict) else {}
    for key, value in dotted({"logger": loggers}):
        if value not in (None, MlflowConfig.tracking_uri) and leads_away(override := f"{key}={value}"):
            yield f"{'='.join(key.split('.')[:2])} {override}"


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _is_choice(override: str) -> bool:
    """Whether it chooses a value or a group of a run: no option, nothing of Hydra's own, nothing to trust."""
    return not (override.startswith("-") or re.match(r"(hydra|trust|resume|validate)\b", _key(override)))


def _beginning(folder: Path) -> tuple[list[str], str | None]:
    """Overrides of the command that a run goes by, and the folder of the user's own configuration."""
    try:
        return begun.command(folder)
    except (OSError, ValueError) as error:
        if may_be_intact(error):
            raise
        reason = fault(error)
    if begun.goes_by_configuration(folder):
        line = f"seqrl: warning: resume: {folder / 'manifest.json'}: {reason}. Resuming from its config.yaml instead."
        say(line, sys.stderr)
        return [], None
    if not os.path.lexists(folder / "manifest.json"):
        raise begun.no_run("resume", folder)
    raise CheckpointError(f"resume: {folder}: nothing of this run was saved. Start it again with the same command.")


# What keeps Hydra from making a run folder.
LEAVE_NOTHING = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra.job_logging.root.handlers=[]"]


def completed(given: list[str], leave_nothing: bool) -> list[str]:
    """The command line with what it implies, options first: argparse takes overrides only in one piece.

    Raises ConfigError or CheckpointError if it makes no sense.
    """
    given = [_with_home(_as_set(word)) for word in given]
    if unknown := [word for word in given if word.startswith("--") and not _is_option(word)]:
        raise ConfigError([_no_option(word) for word in unknown])
    refuse_other_files(given)
    if any(word.lstrip("+~").startswith("hydra.searchpath") for word in given):
        raise ConfigError(["hydra.searchpath: seqrl looks at no folder of it. Name yours with --config-dir <folder>."])
    insist_on_options(given)
    given = joined(given)
    insist_on_modest(words := arguments(given))
    # `env.id=…` alone can only mean a Gymnasium environment.
    if any(w.startswith("env.id=") for w in words) and not any(w.startswith("env=") for w in words):
        words.append("env=gymnasium")
    if leave_nothing:
        words += LEAVE_NOTHING
    many = {"-m", "--multirun"} & set(given)
    for key in SWITCHES:
        if many and any(w.startswith(f"{key}=") for w in given):
            raise ConfigError([f"{key}: works for a single run only. Remove {key}=… or -m."])
    insist_on_folders(words)
    if not many and any(w.startswith(FOLDER) for w in given):
        raise ConfigError(["sweep: is the folder of a sweep. Add -m, or use hydra.run.dir=… for a single run."])
    words = for_hydra(words)
    for look in (faults_of_choices, faults_of_launcher, faults_of_sweep if many else faults_of_files):
        if found := look(words):
            raise ConfigError(found)
    if many:
        words.append(only_what_is_swept(words))
    return [w for w in words if not is_override(w)] + [w for w in words if is_override(w)]


def _as_set(word: str) -> str:
    """Without the sign of what is added, where it can only mean that it is set: keys that seqrl itself reads."""
    bare = word.lstrip("+")
    return bare if bare.startswith((*(f"{key}=" for key in SWITCHES), FOLDER)) else word


def _with_home(word: str) -> str:
    """With the home folder in place of ~, which shells leave as it is behind most keys."""
    key, _, name = word.partition("=")
    if key.lstrip("+") in ("resume", *FOLDERS) and (bare := unquoted(name)).startswith("~"):
        return f"{key}={quoted(os.path.expanduser(bare))}"
    return word


def insist_on_folders(words: Sequence[str]) -> None:
    """Raise ConfigError for a folder without a name, which would be the working folder."""
    for word in words:
        key, equals, name = word.lstrip("+").partition("=")
        if equals and key in FOLDERS and not name.strip("'\" "):
            raise ConfigError([f"{key}: names no folder. Write {key}=<folder>, or leave it out."])


# Hydra's own, which may be shortened.
OPTIONS = (
    "--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun",
    "--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info",
)  # fmt: skip


def insist_on_options(words: Sequence[str]) -> None:
    """Raise ConfigError for options that Hydra's own parser answers with its usage, and for what is no override."""
    if "${" in (here := str(Path.cwd())):
        # Hydra takes it into its configuration.
        raise ConfigError([f"working folder: Hydra would compute the ${{ in its name (got {here}). Use another one."])
    if not sys.argv:
        # Of a program that embeds Python; argparse wants a name.
        sys.argv.append("")
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError([f"{message}. All options: python -m seqrl.train --hydra-help."])

    parser.error = refuse  # type: ignore[method-assign]
    if wrong := faults_of_form(parser.parse_intermixed_args(words).overrides):
        raise ConfigError(wrong)


def _is_option(word: str) -> bool:
    name = word.partition("=")[0]
    # --experiment would be short for --experimental-rerun.
    return name != "--experiment" and any(option.startswith(name) for option in OPTIONS)


def _no_option(word: str) -> str:
    name, equals, value = word.removeprefix("--").partition("=")
    name = name.replace("-", "_")
    return f"{word}: there is no such option. Keys have no dashes: {ours(name) or name}={value if equals else '…'}."


# Variable with modules of one's own that need not be named each time.
TRUST = "SEQRL_TRUST"


def trusted_by_shell() -> list[str]:
    """Modules that the shell's variable names."""
    return os.environ.get(TRUST, "").strip("[] ").replace(",", " ").split()


def with_trust_of_shell(words: Sequence[str]) -> list[str]:
    """A command line that also trusts what the shell's variable names, unless it names modules itself."""
    modules = trusted_by_shell()
    named = any(word.lstrip("+").startswith("trust=") for word in words)
    return [*words, f"trust=[{','.join(modules)}]"] if modules and not named else [*words]


def names_modules(words: Sequence[str]) -> bool:
    """Whether the command line trusts modules of the user's own."""
    values = [word.partition("=")[2].strip("'\" []") for word in words if word.lstrip("+").startswith("trust=")]
    return bool(values and values[-1])


def is_override(word: str) -> bool:
    return not word.startswith("-") and ("=" in word or word.startswith("~"))


def is_true(key: str, words: Sequence[str]) -> bool:
    """Whether a switch is set on the command line, however it is spelt."""
    return any(w.lower().lstrip("+") in (f"{key}=true", f"{key}=yes", f"{key}=on", f"{key}=1") for w in words)


# Launchers that come with an extra: where they are, and which.
EXTRAS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "slurm_gpu": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "slurm_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
}

LAUNCHER = "hydra/launcher="

# Launchers as their plugin has them, and what conf/hydra/launcher makes of them.
PRESETS = {f"{LAUNCHER}submitit_slurm": f"{LAUNCHER}slurm", f"{LAUNCHER}submitit_local": f"{LAUNCHER}slurm_local"}

# Folder of a sweep, short for Hydra's name of it; and all that is written to.
FOLDER = "sweep="
FOLDERS = ("sweep", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.run.dir")


def for_hydra(words: Sequence[str]) -> list[str]:
    """The command line of a sweep in the words of Hydra, in which the folder is one, whatever it is called."""

    def translated(word: str) -> str:
        if not word.startswith(FOLDER):
            return PRESETS.get(word, word)
        folder = word.removeprefix(FOLDER)
        says_all = "${" in folder or unquoted(folder) != folder
        return f"hydra.sweep.dir={folder if says_all else quoted(folder)}"

    return [translated(word) for word in words]


def faults_of_launcher(words: Sequence[str]) -> list[str]:
    """Complaint about a launcher on the command line that is not installed."""
    chosen = [word.removeprefix(LAUNCHER) for word in words if word.startswith(LAUNCHER)]
    return [
        f"hydra/launcher: {launcher} is not installed. {how_to_install(EXTRAS[launcher][1])}"
        for launcher in chosen
        if launcher in EXTRAS and not is_installed(EXTRAS[launcher][0])
    ]


def only_what_is_swept(words: Sequence[str]) -> str:
    """Override that leaves out of the points' names what all of them have in common."""
    given = parsed([w for w in words if "=" in w and not w.startswith("-")])
    common = ",".join(f"'{o.key_or_group}'" for o in given if not o.is_sweep_override())
    return f"hydra.job.config.override_dirname.exclude_keys=[{common}]"
