"""Words and numbers, written for people."""

import difflib
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO


def nearest(word: str, words: list[str]) -> str:
    """` Did you mean …?` if a word is close to one of `words`, otherwise nothing."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def duration(seconds: float) -> str:
    """Seconds in readable form: 4 s, 2 min 05 s, 3 h 20 min."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def figure(number: float) -> str:
    """A return, rounded to its meaningful digits: 481.3, 0.97."""
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def dotted(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values in nested mappings, by dotted key; a list counts as one value."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# What was read from the system's environment, by value: the variable's name.
_FROM_ENVIRONMENT: dict[str, str] = {}
_READ: list[set[str]] = []
# Shorter values stand in too many words that have nothing to do with them.
SHORTEST_SECRET = 4


def read_environment(name: str, value: str) -> None:
    """Remember that a configuration took a variable's value, which must not be shown."""
    _FROM_ENVIRONMENT[value] = name
    for names in _READ:
        names.add(name)


@contextmanager
def environment_read() -> Iterator[set[str]]:
    """The names of the variables that are read meanwhile."""
    names: set[str] = set()
    _READ.append(names)
    try:
        yield names
    finally:
        _READ.remove(names)


def masked(text: str) -> str:
    """A text in which values from the system's environment are replaced by their variables' names."""
    for value in sorted(_FROM_ENVIRONMENT, key=len, reverse=True):
        if len(value) >= SHORTEST_SECRET:
            text = text.replace(value, f"${{oc.env:{_FROM_ENVIRONMENT[value]}}}")
    return text


# What a terminal obeys, or what turns the order of letters round; and halves of characters, which nothing can write.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text as it may be shown: masked, and control characters but line breaks and tabs spelt out, such as \\x1b."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), masked(text))


def say(text: str, to: TextIO | None = None) -> None:
    """Print a text as it may be shown; nothing where the stream is closed, which an environment may have done.

    to   a stream; None: the standard output
    """
    with suppress(ValueError):
        print(printable(text), file=to)


class MaskedFormatter(logging.Formatter):
    """Of a log: tracebacks included, no value from the system's environment is written."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))
