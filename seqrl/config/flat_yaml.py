"""Reads a flat YAML file as it was written: each value as text, with its line."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from seqrl.text import nearest

KINDS = {yaml.SequenceNode: "a list", yaml.MappingNode: "a section"}


@dataclass(frozen=True)
class Setting:
    """A value as it was written, and where: a flag, or a key on a line of a file."""

    where: str
    text: str
    quoted: bool = False

    def __str__(self) -> str:
        return f"'{shown(self.text)}'" if self.quoted else shown(self.text) or "nothing"


def shown(text: str) -> str:
    """The text, fit to stand in one line."""
    short = text if len(text) <= 60 else f"{text[:60]}…"
    return short if short.isprintable() else ascii(short)[1:-1]


def read(file: str) -> tuple[dict[str, Setting], list[str]]:
    """What a file sets, by dotted key, and what is wrong with the file's form.

    Keys stand at the top or in sections, one deep. Nothing says yet that a key exists or that its value is sound.
    """
    try:
        content = Path(file).read_bytes().decode()
    except OSError as error:
        there = [str(path) for path in Path(file).parent.glob("*.y*ml")]
        return {}, [f"{file or '--config'}: cannot be read ({error.strerror}).{nearest(file, there)} Name a YAML file."]
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return {}, [f"{file}:{line}: is not UTF-8 (got byte {error.object[error.start]:#x}). Save the file as UTF-8."]
    try:
        top = yaml.compose(content, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        return {}, [_not_yaml(file, content, error)]
    if not isinstance(top, yaml.MappingNode):
        line, kind = (top.start_mark.line + 1, KINDS.get(type(top), "a value")) if top else (1, "nothing")
        return {}, [f"{file}:{line}: must be keys with values (got {kind}). Begin with a line such as episodes: 10"]
    settings: dict[str, Setting] = {}
    return settings, list(_collect(top, file, "", settings))


def _collect(section: Any, file: str, prefix: str, settings: dict[str, Setting]) -> Iterator[str]:
    """Put a section's keys into `settings`; what does not fit is a fault."""
    for name, node in section.value:
        key = f"{prefix}{name.value if isinstance(name, yaml.ScalarNode) else '?'}"
        where = f"{file}:{name.start_mark.line + 1}: {shown(key)}"
        if isinstance(node, yaml.MappingNode) and not prefix:
            if any(known.startswith(f"{key}.") for known in settings):
                yield f"{where}: stands twice. Put its keys together."
            yield from _collect(node, file, f"{key}.", settings)
        elif not isinstance(node, yaml.ScalarNode):
            yield f"{where}: must be one value (got {KINDS[type(node)]})."
        elif key in settings:
            yield f"{where}: is set twice (got {shown(node.value)} after {settings[key]}). Keep one of the lines."
        else:
            settings[key] = Setting(where, node.value, quoted=node.style is not None)


def _not_yaml(file: str, content: str, error: Exception) -> str:
    """Complaint about what PyYAML cannot read."""
    if isinstance(error, yaml.reader.ReaderError):
        line = content.count("\n", 0, error.position) + 1
        return f"{file}:{line}: is not text (got character {error.character:#x}). Remove it."
    if not isinstance(error, yaml.MarkedYAMLError):
        return f"{file}:1: is nested too deeply. Keys stand at the top or in a section."
    line = error.problem_mark.line + 1
    if "'\\t'" in str(error.problem):
        return f"{file}:{line}: has a tab where YAML wants spaces. Replace it."
    return f"{file}:{line}: is not YAML: {shown(error.problem)}. Write key: value, sections indented by two spaces."
