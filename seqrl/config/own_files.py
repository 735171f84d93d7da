"""Folders of the user's own configuration files: which they are, what is wrong in them, and what leads out of them."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from seqrl.config.overrides import quoted
from seqrl.config.paths import CONF
from seqrl.config.schema import RunConfig
from seqrl.errors import ConfigError
from seqrl.files import LOADER, YAML_BYTES, fault, insist_on_modest_yaml, read, walk
from seqrl.text import grows_by_its_keys, nearest

# Of a folder: YAML files in it, and folders beneath it.
MOST_FILES, MOST_FOLDERS = 10_000, 100_000
# Of a file: its bytes, and values that aliases stand for.
MOST_BYTES, MOST_ALIASED = 4 * YAML_BYTES, 10_000
# A group on the command line, and where it goes.
GROUP = re.compile(r"[~+]*([\w/-]+)(@[^=]*)?=(.*)", re.DOTALL)
# Keys of a run beside its groups, whose values may be paths.
KEYS = {it.name for it in fields(RunConfig)} - {it.name for it in CONF.iterdir()}
# Of a choice: `.` or `..` as a part of it, the root, and a value that is computed.
LEADS_OUT, COMPUTES = re.compile(r"(^|[^\w.])(\.{1,2}(\W|$)|/)"), re.compile(r"\$\{")


def refuse_other_files(arguments: Sequence[str]) -> None:
    """Raise ConfigError for an option that would have Hydra read other files than seqrl's own, pickles among them."""
    for word in arguments:
        name = word.partition("=")[0]
        if re.match(r"--config-[^d]|-c[npd].|-cn$|-cp$|--con?f?i?g?$|--config-d?i?$", name) and name not in ("--cfg",):
            raise ConfigError([f"{name}: seqrl has its own. A folder with files of yours: --config-dir <folder>."])
        if name.startswith("--e"):
            raise ConfigError([f"{name}: seqrl saves no such file. To go on with a run: resume=<its folder>."])


def joined(arguments: Sequence[str]) -> list[str]:
    """The same words, with each option and its folder joined into one word, whatever the folder is called.

    A home is written out: shells leave ~ as it is behind an option.
    """
    words: list[str] = []
    for word in arguments:
        if words and words[-1] in ("--config-dir", "-cd"):
            words[-1] = f"--config-dir={os.path.expanduser(word)}"
        elif word.startswith(("--config-dir=~", "-cd=~")):
            words.append(f"--config-dir={os.path.expanduser(word.partition('=')[2])}")
        else:
            words.append(word)
    return words


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """Folders of the user's own configuration. Raises ConfigError if there is no such folder."""
    refuse_other_files(arguments)
    folders = [a.partition("=")[2] for a in joined(arguments) if a.startswith(("--config-dir=", "-cd="))]
    if "" in folders:
        raise ConfigError(["--config-dir: names no folder. Write --config-dir=<folder>."])
    if missing := [folder for folder in folders if not Path(folder).is_dir()]:
        there = [path.name for path in Path.cwd().iterdir() if path.is_dir()]
        raise ConfigError([f"--config-dir: there is no folder {it}.{nearest(it, there)}" for it in missing])
    return [Path(folder).resolve() for folder in folders]


def searchpath(arguments: Sequence[str]) -> list[str]:
    """Override that has these folders searched too."""
    return [f"hydra.searchpath=[{quoted(f'file://{folder}')}]" for folder in config_dirs(arguments)]


def faults_of_choices(arguments: Sequence[str]) -> list[str]:
    """Choices of groups that are no names: Hydra would follow them to files that nobody has looked at."""
    folders = [CONF, *config_dirs(arguments)]
    found = [match.group(1, 3) for word in arguments if not word.startswith("-") and (match := GROUP.fullmatch(word))]
    return [
        _fault_of_choice(group, choice, folder)
        for group, choice in found
        if LEADS_OUT.search(choice) or COMPUTES.search(choice)
        if (folder := next((it for it in folders if (it / group).is_dir()), None))
    ]


def _fault_of_choice(group: str, choice: str, folder: Path) -> str:
    if "/" not in group and group in KEYS:
        return (
            f"{group}: Hydra takes {folder / group} for choices of it (got {choice}). Keep configuration files in a "
            "folder of their own, without one of that name, and name that with --config-dir."
        )
    return f"{group}: a choice is a name, not a path (got {choice}). For files of your own, add --config-dir <folder>."


def faults_of_folders(arguments: Sequence[str]) -> list[str]:
    """What is wrong with the files in these folders, before Hydra opens any."""
    return [line for folder in config_dirs(arguments) for line in _faults_of_folder(folder)]


def unusable_files(folders: Sequence[Path], overrides: Sequence[str], error: Exception | None = None) -> list[str]:
    """What is wrong with files that Hydra could not use.

    overrides   that chose files
    error       what it raised, which may name others; a UnicodeDecodeError is of any file, if of none that was chosen
    """
    chosen = {f"{match[1]}/{match[3]}" for word in overrides if (match := GROUP.fullmatch(word))}
    of_chosen: list[str] = []
    of_others: list[str] = []
    for folder in folders:
        for file in sorted(place / it for place, _, names in walk(folder) for it in names if it.endswith(".yaml")):
            name = file.relative_to(folder).with_suffix("").as_posix()
            is_meant = name in chosen or bool(re.search(f"[Ii]n '{re.escape(name)}'", str(error)))
            if not is_meant and not isinstance(error, UnicodeDecodeError):
                continue
            why, is_text = _unusable(file)
            if why and not (is_text and isinstance(error, UnicodeDecodeError)):
                (of_chosen if is_meant else of_others).append(f"{file}: {why}")
    return of_chosen or of_others


def _unusable(file: Path) -> tuple[str, bool]:
    """What is wrong with the form of a file that can be read, "" if nothing is, and whether it is text."""
    try:
        content = yaml.load(_text(file), LOADER)
    except UnicodeDecodeError as error:
        return f"is not UTF-8 text (got byte {error.object[error.start]:#x}). Save it as UTF-8.", False
    except (OSError, ValueError, yaml.YAMLError):
        return "", True
    if not isinstance(content, dict | None):
        got = "a list" if isinstance(content, list) else str(content)[:60]
        return f"must hold keys and their values (got {got}).", True
    defaults = (content or {}).get("defaults", [])
    odd = [it for it in defaults if not _is_default(it)] if isinstance(defaults, list) else [defaults]
    what = "defaults: must be a list of names, and of groups with a name each"
    return f"{what} (got {str(odd[0])[:60]})." if odd else "", True


def _is_default(entry: Any) -> bool:
    """Whether it is a name, or names a group and its choice, several or none."""
    if not isinstance(entry, dict):
        # A name such as 2024-05-01 is a date to YAML alone.
        return not isinstance(entry, int | float | list)
    choices = [it for value in entry.values() for it in (value if isinstance(value, list) else [value])]
    return all(it is None or isinstance(it, str) for it in choices)


def _faults_of_folder(folder: Path) -> Iterator[str]:
    """What Hydra would wait for, or fill the memory with, and numbers that mean something else than they seem to."""
    files: list[Path] = []
    for number, (place, folders, names) in enumerate(walk(folder, followlinks=True), 1):
        folders.sort()
        files += sorted(place / name for name in names if name.endswith(".yaml"))
        if len(files) > MOST_FILES or number > MOST_FOLDERS:
            limits = f"{MOST_FILES:,} YAML files or {MOST_FOLDERS:,} folders"
            yield f"--config-dir: {folder} holds more than {limits}. Keep configuration files in a folder of their own."
            return
    for file in files:
        yield from _faults_of_file(file)


def _faults_of_file(file: Path) -> Iterator[str]:
    try:
        text = _text(file)
        content = yaml.load(text, LOADER)
        if isinstance(content, dict) and grows_by_its_keys(content):
            raise ValueError("is far longer with its keys written out")
    except (FileNotFoundError, PermissionError, UnicodeDecodeError, yaml.YAMLError):
        # Hydra says what is wrong, if it is chosen at all.
        return
    except (OSError, ValueError) as error:
        yield f"{file}: {fault(error)}. Fix it, or take it out of the folder that --config-dir names."
        return
    yield from _octal(file, text)
    yield from _defaults_that_lead_out(file, content)


def _text(file: Path) -> str:
    """Of a YAML file. Raises OSError, ValueError or YAMLError if it has none, or too much."""
    # A link is the user's own, and leads to a file if all is well.
    text = read(Path(os.path.realpath(file)), MOST_BYTES).decode()
    insist_on_modest_yaml(text, MOST_ALIASED)
    return text


def _defaults_that_lead_out(file: Path, content: Any) -> Iterator[str]:
    """Entries of a list of defaults that name a file by a path, or compute its name."""
    defaults = content.get("defaults") if isinstance(content, dict) else None
    for name in _texts(defaults):
        # The root of a list of defaults is that of the folders.
        if LEADS_OUT.search(name.removeprefix("override ").strip().removeprefix("/")) or ("${" in name and ":" in name):
            yield f"{file}: defaults: a choice is a name, not a path (got {name}). Put that file into this folder."


def _texts(node: Any) -> Iterator[str]:
    """All texts in data."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for inner in node if isinstance(node, list) else [*node, *node.values()]:
            yield from _texts(inner)


def _octal(file: Path, text: str) -> Iterator[str]:
    """Numbers that YAML 1.1 reads otherwise than people do: 010 is 8."""
    for token in yaml.scan(text, Loader=LOADER):
        if isinstance(token, yaml.ScalarToken) and token.plain and re.fullmatch("[-+]?0[0-7_]+", token.value):
            digits = token.value.replace("_", "")
            number, meant = int(digits, 8), digits.lstrip("+-0") or "0"
            where = f"{file}:{token.start_mark.line + 1}"
            yield f"{where}: YAML reads {token.value} as {number}. Write {meant}, or quote it."
