"""Words and numbers, written for people; values from the system's environment are masked."""

import difflib
import json
import logging
import math
import os
import re
from base64 import b64encode, urlsafe_b64encode
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain, count
from pathlib import Path
from typing import Any, TextIO
from unicodedata import normalize
from urllib.parse import unquote


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
    """A return, rounded to its meaningful digits: 481.3, 0.97; `-` if it is NaN, as before the first episode ends."""
    if math.isnan(number):
        return "-"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


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


def dotted(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values in nested mappings, by dotted key; a list counts as one value."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# Ends of names whose values are secrets. Tokens are also what a network reads: a number of them is no secret.
SECRET = re.compile(
    r"(^|_)(password|passwd|pwd|passphrase|secret|token|credential|authorization|cookie|"
    r"(api|access|private|secret|auth|signing|encryption|ssh|account|license)_?key)s?$"
)
NO_SECRET = re.compile(r"(^|_)(pad|eos|bos|unk|mask|sep|cls|start|stop|end|special|input|output|vocab)_tokens?$")


def plain_name(key: object) -> str:
    """A key as words in lower case, `access_token` for `accessToken`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", str(key)).lower()


def names_secret(key: object) -> bool:
    """Whether what has such a name is a secret."""
    return bool(SECRET.search(name := plain_name(key))) and not NO_SECRET.search(name)


# How values that were read from the system's environment may be written, and the variable's name of each.
_FROM_ENVIRONMENT: dict[str, str] = {}
_READ: list[set[str]] = []
# Variables that hold no secret, as they only give seqrl's own keys their numbers.
_OPEN: set[str] = set()
# Paths that a shell must be able to read.
_PATHS: set[str] = set()
# Shorter values stand in too many words that have nothing to do with them.
SHORTEST_SECRET = 4
NO_SECRETS = ("true", "false", "null", "none")


def read_environment(name: str, value: str) -> None:
    """Remember that a configuration took a variable's value, which must not be shown."""
    for names in _READ:
        names.add(name)
    if name not in _OPEN:
        _remember(name, value)


def read_decoded(text: str, value: Any) -> None:
    """Remember what was decoded from a text, if that came from the system's environment."""
    found = [_FROM_ENVIRONMENT[form] for form in _perhaps_in(text) if re.search(_pattern(form), text)]
    for name in dict.fromkeys(found):
        for leaf in _leaves(value):
            _remember(name, str(leaf))


def declassify(names: Iterable[str]) -> None:
    """Show the values of variables that hold no secret."""
    _OPEN.update(names)
    for form in [form for form, name in _FROM_ENVIRONMENT.items() if name in _OPEN]:
        del _FROM_ENVIRONMENT[form]


def show_path(path: Path) -> None:
    """Never mask a path in what is shown, absolute or from the working folder: it may be typed again."""
    _PATHS.update({str(path), str(path.absolute()), os.path.relpath(path)} - {".", "/"})


Hidden = tuple[dict[str, str], set[str]]


def hidden() -> Hidden:
    """What texts are masked of in this process."""
    return {**_FROM_ENVIRONMENT}, {*_PATHS}


def hide(what: Hidden) -> None:
    """Mask it in this process, too: it has its configuration from another one."""
    _FROM_ENVIRONMENT.update(what[0])
    _PATHS.update(what[1])


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
    """A text in which values from the system's environment are replaced by their variables' names.

    Mask a text before you cut it: half a secret is found no more.
    """
    if not (forms := _perhaps_in(text)):
        return text
    # The longest that fits; what is masked already stays so.
    words = tuple(sorted({*forms, *_PATHS}, key=len, reverse=True))

    def name_of(found: re.Match[str]) -> str:
        assert found.lastindex
        word = found[0] if found.lastindex == 1 else words[found.lastindex - 2]
        name = None if word in _PATHS else _FROM_ENVIRONMENT.get(word)
        return found[0] if name is None else f"${{oc.env:{name}}}"

    return _any_of(words, frozenset(_PATHS)).sub(name_of, text)


# Sections of data whose keys an environment has chosen, or who configured it; all other keys are seqrl's own.
FOREIGN = ("info", "probes", "environment")


def masked_data(value: Any, foreign: bool = False) -> Any:
    """The same for all texts in plain data. Mask data before you write it as JSON.

    foreign   mask keys, too, as within the sections FOREIGN; a key of seqrl's own stays, whatever a variable holds
    """
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {
            (masked(key) if foreign and isinstance(key, str) else key): masked_data(it, foreign or key in FOREIGN)
            for key, it in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked_data(it, foreign) for it in value]
    return value


def _perhaps_in(text: str) -> list[str]:
    """Values that a text may hold, each in one of its forms. To look for all ways to write one takes long."""
    lower = text.lower()
    return [form for form in _FROM_ENVIRONMENT if all(run in lower for run in _runs(form))]


@lru_cache(maxsize=2**16)
def _runs(form: str) -> list[str]:
    """The longest runs of letters and digits in a value, in lower case: they stay together however it is written."""
    return sorted({run.lower() for run in re.findall("[a-zA-Z0-9]+", form)}, key=len)[-4:]


@lru_cache(maxsize=64)
def _any_of(words: tuple[str, ...], paths: frozenset[str]) -> re.Pattern[str]:
    """What is masked already, or one of these words, each a group."""
    patterns = (_whole(word) if word in paths else _pattern(word) for word in words)
    return re.compile("|".join(["(" + VARIABLE + ")", *(f"({pattern})" for pattern in patterns)]))


VARIABLE = r"\$\{oc\.env:\w+\}"
# Of a value: from so many characters on, letters of either case are the same; up to so many, it is found however it is
# written, and beyond that as it is.
SAME_CASE, MOST_ESCAPED = 8, 2**14
# What escapes others may be escaped itself: in an address, on a page; levels of quotes double the backslashes.
PERCENT = "%(?:25)*"
AND, END, NUMBER = (rf"(?:{it}|{PERCENT}{ord(it):02x})" for it in "&;#")
AND = rf"{AND}(?:amp{END})*"
BACKSLASH = rf"(?:\\|{PERCENT}5c)"
BACKSLASHES, ANY_BACKSLASHES = (rf"{BACKSLASH}{{{least},16}}+" for least in (1, 0))
# A quote within quotes becomes several, of either kind. This may give back what belongs to the next character.
NAMED_QUOTE = rf"{AND}(?:{NUMBER}(?:0*3[49]|x0*2[27])|quot|apos){END}"
QUOTES = rf"(?:['\"]|{BACKSLASH}|{PERCENT}2[27]|{NAMED_QUOTE}|{BACKSLASH}[xu](?:00)?2[27]){{1,99}}"
SHORT = dict(zip("\n\t\r\x1b\x07\x08\x0b\x0c\0", "ntreabvf0", strict=True))
ENTITIES = {"&": "amp", "<": "lt", ">": "gt"}


# Of a value in parts: what is long for one, where it is taken apart, what no word has, and its password: that of an
# address, or behind a name.
LONG_PART, APART, NO_WORD = 8, re.compile(r"[\s:@,;=|\"'(){}\[\]]+"), re.compile(r"[\d+&!$%*^~#?\\]")
PASSWORD = re.compile(r"://[^\s/@:]*:([^\s/]{4,})@|^[^\s/@:]+:([^\s/]\S{3,})$")
# What a text calls by a name: `Pwd=hunter2`, `token: …`.
NAMED = re.compile(r"([\w.-]+)[\"']?\s*[=:]\s*[\"']?(?=([^\s;,&\"']+))")


def _whole(path: str) -> str:
    return rf"(?<![\w-]){re.escape(path)}(?![\w-])"


def _pattern(form: str) -> str:
    """Of a value, however it is written: quoted once or more, in an address, on a page; a number is one as a whole."""
    if re.fullmatch(r"-?[\d.]+", form):
        return rf"(?<![\w.]){re.escape(form)}(?!\w|\.\d)"
    if len(form) > MOST_ESCAPED:
        return re.escape(form)
    pattern = "".join(_written(it) for it in re.sub(r"[\\'\"]+", "'", form))
    return f"(?i:{pattern})" if len(form) >= SAME_CASE else pattern


def _written(character: str) -> str:
    """All ways in which a character may be written; a quote stands for several, and for backslashes."""
    if character.isascii() and character.isalnum():
        return character
    if character == "'":
        return QUOTES
    number, data = ord(character), character.encode(errors="surrogatepass")
    itself = AND if character == "&" else ANY_BACKSLASHES + re.escape(character)
    ways = [
        "".join(f"{PERCENT}{byte:02x}" for byte in data),
        "".join(rf"{BACKSLASHES}x{byte:02x}" for byte in data),
        rf"{BACKSLASHES}(?:[xu]|U0{{0,4}})0{{0,2}}{number:02x}",
        rf"{AND}{NUMBER}(?:0*{number}|x0*{number:x}){END}",
    ]
    ways += [BACKSLASHES + SHORT[character]] if character in SHORT else []
    ways += [rf"{AND}{ENTITIES[character]}{END}"] if character in ENTITIES else []
    ways += [rf"(?:\+|{PERCENT}2b)"] if character == " " else []
    # The longest first.
    return f"(?:(?i:{'|'.join(reversed(ways))})|{itself})"


def _remember(name: str, value: str) -> None:
    lines = [line.strip() for line in value.splitlines()]
    for plain in {value, " ".join(value.split()), *lines, *_parts(value)}:
        for text in {plain, *(normalize(form, plain) for form in ("NFC", "NFD")), *_encoded(plain)}:
            if len(text) >= SHORTEST_SECRET and text.lower() not in NO_SECRETS:
                _FROM_ENVIRONMENT.setdefault(text, name)


def _parts(value: str) -> Iterator[str]:
    """What others take a value apart into that may be secret alone: fields of JSON, a password, no words."""
    with suppress(ValueError, RecursionError):
        fields = json.loads(value)
        yield from (it for it in _leaves(fields) if isinstance(it, str) and len(it) >= LONG_PART)
        named = dotted(fields) if isinstance(fields, Mapping) else ()
        yield from (it for name, it in named if isinstance(it, str) and names_secret(name))
    yield from (it for name, it in NAMED.findall(value) if names_secret(name))
    if found := PASSWORD.search(value):
        password = found[1] or found[2]
        if found[1] or len(password) >= LONG_PART or (NO_WORD.search(password) and not password.isdecimal()):
            yield from (password, unquote(password))
    for part in APART.split(value):
        if len(part) >= LONG_PART and NO_WORD.search(part) and not os.path.lexists(part):
            yield part


def _encoded(plain: str) -> Iterator[str]:
    """A text as it may stand in a header, also within a longer one: `user:password` in base64."""
    data = plain.encode(errors="surrogatepass")
    yield data.hex()
    for encode in (b64encode, urlsafe_b64encode):
        yield encode(data).decode().rstrip("=")
        for before in range(3):
            # A letter has six bits: those that are the text's alone.
            known = slice(-(-8 * before // 6), 8 * (before + len(data)) // 6)
            inside = encode(bytes(before) + data).decode()[known]
            yield inside if len(inside) >= SAME_CASE else ""


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for it in value:
            yield from _leaves(it)
    else:
        yield value


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


# Why a console could not print something, the latest reasons.
UNSAID: deque[OSError] = deque(maxlen=10)


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
