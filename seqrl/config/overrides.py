"""Reads overrides, `key=value`, as Hydra does: a command line's, and those of a manifest, which may be anybody's."""

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from seqrl.errors import ConfigError

# Brackets within brackets, which the parser follows with calls of its own, and words of all values: the time for a list
# grows with the square of its length.
DEEPEST, MOST_WORDS = 50, 10_000
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
# Bytes that are not UTF-8, as Python reads them.
NO_TEXT = re.compile("[\ud800-\udfff]")
WORD = re.compile(r"[^\s,:=\[\]{}()]+")
# A key and its value in words of their own, which no word's own NUL parts.
APART = re.compile(r"(?<![^\0])([^-=:\0][^=:\0]*)(?:\0[=:]\0?|[=:]\0)([^=~\0][^=\0]*)(?![^\0])")


def parsed(overrides: Sequence[str]) -> list[Override]:
    """Raises HydraException if one cannot be read, ConfigError if one is too large to be."""
    insist_on_modest(overrides)
    return OverridesParser.create().parse_overrides(list(overrides))


def insist_on_modest(overrides: Sequence[str]) -> None:
    """Raise ConfigError, before Hydra parses them, for overrides that are nested too deeply, too long, or no text.

    A file name may be any bytes, which the parser reads within quotes alone.
    """
    plain = {override: QUOTED.sub("''", override) for override in overrides}
    for override, text in plain.items():
        if NO_TEXT.search(text) and not override.startswith("-"):
            value = override.partition("=")[2]
            raise ConfigError(
                [f"{_key(override)}: is not UTF-8 (got {value}). Use a name that is, or rename the folder."]
            )
        if max(accumulate((it in "[{(") - (it in ")}]") for it in text), default=0) > DEEPEST:
            raise ConfigError([f"{_key(override)}: is nested too deeply. Nest at most {DEEPEST} brackets."])
    words = {override: len(WORD.findall(text)) for override, text in plain.items()}
    if sum(words.values()) > MOST_WORDS:
        longest = max(words, key=lambda override: words[override])
        remedy = f"Put it in a YAML file of your own (--config-dir): a command has at most {MOST_WORDS:,}."
        raise ConfigError([f"{_key(longest)}: has {words[longest]:,} words. {remedy}"])


def faults_of_form(words: Sequence[str], remedy: str = "Write {}=….") -> list[str]:
    """Words that should be key=value and are not, a line each.

    remedy   for one that has nothing of a value
    """
    if apart := list(APART.finditer("\0".join(words))):
        return [f"{' '.join(it[0].split(chr(0)))}: has blanks in it. Write {it[1]}={it[2]}." for it in apart]
    wrong = []
    for word in _joined(words):
        if " " in word and word not in words:
            wrong.append(f"{word}: has blanks in it. Write {word.replace(' ', '')}.")
            continue
        key, _, value = word.partition(":")
        if word.lstrip("+~").startswith("="):
            wrong.append(f"{word}: names no key. Write key=value.")
        elif "=" not in word and not word.startswith("~"):
            meant = f"Write {key}={value.strip()}." if value else remedy.format(key)
            wrong.append(f"{word}: is not key=value. {meant}")
    return wrong


def _joined(words: Sequence[str]) -> list[str]:
    """Words, with those that a list in several words, `[1, 3]` or `1, 3`, was taken apart into as one."""
    whole: list[str] = []
    for word in words:
        if whole and "=" in whole[-1] and "=" not in word and (whole[-1].endswith(",") or _closing(whole[-1])):
            whole[-1] += f" {word}"
        else:
            whole.append(word)
    return whole


def as_meant(key: str, value: str) -> str:
    """What to write instead of a value that cannot be read: without blanks, its brackets closed, or in quotes."""
    bare = f"{key.strip()}={value.strip()}"
    for meant in (bare, bare + _closing(bare)):
        with suppress(HydraException):
            if meant != f"{key}={value}" and OverridesParser.create().parse_override(meant):
                return f"Write '{meant}'."
    escaped = value.replace('"', r"\"")
    return f"Quote special characters: '{key}=\"{escaped}\"'."


def _closing(text: str) -> str:
    """The brackets that close those which a text leaves open."""
    left: list[str] = []
    for letter in QUOTED.sub("", text):
        if left and letter == left[-1]:
            left.pop()
        elif letter in "[{(":
            left.append("]})"["[{(".index(letter)])
    return "".join(reversed(left))


def quoted(text: str) -> str:
    """A text in the form of the command line, where nothing of it has a meaning."""
    # Backslashes count double before a quote, and so at the end.
    escaped = re.sub(r"(\\*)'", r"\1\1\'", re.sub(r"(\\+)$", r"\1\1", text))
    return f"'{escaped}'"


def unquoted(text: str) -> str:
    """A text without the quotes around it."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _key(override: str) -> str:
    return override.partition("=")[0]
