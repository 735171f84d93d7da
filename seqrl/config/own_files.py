"""Folders of the user's own configuration files: which they are, and what is wrong with the files in them."""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from seqrl.errors import ConfigError
from seqrl.files import YAML_BYTES, fault, insist_on_modest_yaml, read
from seqrl.text import nearest

# Of a folder: YAML files in it, and folders beneath it.
MOST_FILES, MOST_FOLDERS = 10_000, 100_000
# Of a file: its bytes, and values that aliases stand for.
MOST_BYTES, MOST_ALIASED = 4 * YAML_BYTES, 10_000


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """Folders of the user's own configuration.

    Raises ConfigError if there is no such folder, or for an option that would take the place of seqrl's own files.
    """
    for word in arguments:
        name = word.partition("=")[0]
        if re.match(r"--config-[^d]|-c[npd].|-cn$|-cp$|--con?f?i?g?$|--config-d?i?$", name) and name not in ("--cfg",):
            raise ConfigError([f"{name}: seqrl has its own. A folder with files of yours: --config-dir <folder>."])
    folders = [value for name, value in pairwise(arguments) if name in ("--config-dir", "-cd")]
    folders += [a.partition("=")[2] for a in arguments if a.startswith(("--config-dir=", "-cd="))]
    if missing := [folder for folder in folders if not Path(folder).is_dir()]:
        there = [path.name for path in Path.cwd().iterdir() if path.is_dir()]
        raise ConfigError([f"--config-dir: there is no folder {it}.{nearest(it, there)}" for it in missing])
    return [Path(folder).resolve() for folder in folders]


def searchpath(arguments: Sequence[str]) -> list[str]:
    """Override that has these folders searched too."""
    return [f"hydra.searchpath=[file://{folder}]" for folder in config_dirs(arguments)]


def faults_of_folders(arguments: Sequence[str]) -> list[str]:
    """What is wrong with the files in these folders, before Hydra opens any."""
    return [line for folder in config_dirs(arguments) for line in _faults_of_folder(folder)]


def _faults_of_folder(folder: Path) -> Iterator[str]:
    """What Hydra would wait for, or fill the memory with, and numbers that mean something else than they seem to."""
    files: list[Path] = []
    for number, (place, folders, names) in enumerate(os.walk(folder, followlinks=True), 1):
        folders.sort()
        files += sorted(Path(place, name) for name in names if name.endswith(".yaml"))
        if len(files) > MOST_FILES or number > MOST_FOLDERS:
            limits = f"{MOST_FILES:,} YAML files or {MOST_FOLDERS:,} folders"
            yield f"--config-dir: {folder} holds more than {limits}. Keep configuration files in a folder of their own."
            return
    for file in files:
        yield from _faults_of_file(file)


def _faults_of_file(file: Path) -> Iterator[str]:
    try:
        # A link is the user's own, and leads to a file if all is well.
        text = read(Path(os.path.realpath(file)), MOST_BYTES).decode()
        insist_on_modest_yaml(text, MOST_ALIASED)
    except (FileNotFoundError, PermissionError, UnicodeDecodeError, yaml.YAMLError):
        # Hydra says what is wrong, if it is chosen at all.
        return
    except (OSError, ValueError) as error:
        yield f"{file}: {fault(error)}. Fix it, or take it out of the folder that --config-dir names."
        return
    yield from _octal(file, text)


def _octal(file: Path, text: str) -> Iterator[str]:
    """Numbers that YAML 1.1 reads otherwise than people do: 010 is 8."""
    for token in yaml.scan(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(token, yaml.ScalarToken) and token.plain and re.fullmatch("[-+]?0[0-7_]+", token.value):
            digits = token.value.replace("_", "")
            number, meant = int(digits, 8), digits.lstrip("+-0") or "0"
            where = f"{file}:{token.start_mark.line + 1}"
            yield f"{where}: YAML reads {token.value} as {number}. Write {meant}, or quote it."
