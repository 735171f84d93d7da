"""Words and numbers, written for people; what is shown is masked."""

import ast
import difflib
import inspect
import logging
import math
import re
import sys
import textwrap
from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import accumulate, chain, count
from typing import Any, TextIO

from seqrl.text.masks import masked


def nearest(word: str, words: list[str]) -> str:
    """` Did you mean …?` if a word is close to one of `words`, otherwise nothing."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def docstring(of: Any) -> str:
    """The docstring of a function, or of a module by its name, which `python -OO` has taken away."""
    module = sys.modules[of] if isinstance(of, str) else None
    if said := (module or of).__doc__:
        return str(said)
    tree: Any = ast.parse(textwrap.dedent(inspect.getsource(module or of)))
    return ast.get_docstring(tree if module else tree.body[0], clean=False) or ""


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
    """A return, rounded to its meaningful digits: 481.3, 0.97, 0.0031, 4.2e-05, 1.23e+10.

    What is below a millionth is what rounding leaves of 0; `-`: NaN, as before the first episode ends.
    """
    if math.isnan(number):
        return "-"
    size = abs(number)
    if 1e-6 <= size < 1e-3:
        return f"{number:.1e}"
    if size >= 1e9:
        return f"{number:.2e}"
    if 1e-3 <= size < 1e-2:
        return f"{number:.4f}"
    return f"{number:.1f}" if size >= 10 else f"{number if size >= 0.01 else 0.0:.2f}"


def percentages(shares: Mapping[str, float]) -> dict[str, int]:
    """Shares of a whole as whole percentages that add up to 100, the largest first; those that round to 0 are left out.

    What rounding takes away goes to where it took most.
    """
    whole = sum(shares.values())
    if not whole:
        return {}
    exact = {name: 100 * share / whole for name, share in shares.items()}
    rounded = {name: int(number) for name, number in exact.items()}
    most_cut = sorted(exact, key=lambda name: rounded[name] - exact[name])
    for name in most_cut[: 100 - sum(rounded.values())]:
        rounded[name] += 1
    return {name: number for name, number in sorted(rounded.items(), key=lambda it: -it[1]) if number}


# Characters of a configuration whose keys are written out, and what each value counts beside its own, as it takes time,
# too. A large one that is no more than its text has a tenth.
MOST_DOTTED, OF_A_VALUE = 50_000_000, 20


def dotted(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values in nested mappings, by dotted key; a list counts as one value."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def grows_by_its_keys(config: Any) -> bool:
    """Whether nested mappings, which may be anybody's, are too long once each value stands behind its dotted key.

    A key of a megabyte may be that of thousands of values, and one mapping may stand in many places.
    """
    return any(total > MOST_DOTTED for total in accumulate(_lengths(config, 0)))


def _lengths(value: Any, of_key: int) -> Iterator[int]:
    """Characters of all values, each with its key, and of mappings and lists themselves."""
    yield OF_A_VALUE + of_key + (len(value) if isinstance(value, str | bytes) else 0)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _lengths(inner, of_key + len(str(key)) + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _lengths(inner, 0)


# What a terminal obeys, or what turns the order of letters round; and halves of characters, which nothing can write.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text as it may be shown: masked, and control characters but line breaks and tabs spelt out, such as \\x1b."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), masked(text))


def encoded(text: str) -> bytes:
    """A text as a file of UTF-8. Halves of characters, which stand for what is not UTF-8 in a name, are spelt out."""
    return text.encode(errors="backslashreplace")


def one_line(text: str) -> str:
    """The same in one line: line breaks and tabs are spelt out, too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


# Of what is listed that may be anybody's.
MOST_LINES, LONGEST_LINE = 40, 500


def cut(text: str, most: int) -> str:
    """What may be anybody's, such that it does not push all else out of sight."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def few(lines: Sequence[str]) -> list[str]:
    """The first lines of what may be anybody's, each cut, and how many more there are."""
    more = [f"and {len(lines) - MOST_LINES:,} more"] if len(lines) > MOST_LINES else []
    return [*(cut(masked(line), LONGEST_LINE) for line in lines[:MOST_LINES]), *more]


def free(name: str, taken: Container[str], numbered: str) -> str:
    """The name, or if it is taken the first that is not, with a number from 2 on, in the form `numbered`."""
    return next(it for it in chain([name], (numbered.format(name, n) for n in count(2))) if it not in taken)


# Why something could not be printed, the latest reasons.
UNSAID: deque[OSError] = deque(maxlen=10)


def say(text: str, to: TextIO | None = None) -> None:
    """Print a text as it may be shown, now; nothing where the stream is closed, which an environment may have done.

    Where it cannot be written, as its reader is gone or its disk is full, UNSAID has the reason.

    to   a stream; None: the standard output
    """
    try:
        print(printable(text), file=to, flush=True)
    except OSError as error:
        UNSAID.append(error)
    except ValueError:
        pass


class MaskedFormatter(logging.Formatter):
    """Of a log: tracebacks included, no value from the system's environment is written."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))
