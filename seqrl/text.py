"""Words and numbers, written for people."""

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any


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
