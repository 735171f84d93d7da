"""What comes from the system's environment is not shown: how it is known again, however it is written."""

import json
import os
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote

# Ends of names whose values are secrets, however their words are joined; and what may follow, `secret_value`, `token2`.
# Tokens are also what a network reads: a number of them is no secret.
FOLLOWS = r"(_?(\d+(?!\d)|prod|production|dev|test|live|value|text|string|str|pem|json|hash|base64|b64))*$"
SECRET = re.compile(
    r"(password|passwd|pwd|passphrase|passcode|secret|token|credential|authorization|cookie|(db|user|root|admin)_?pass|"
    r"(api|access|private|secret|auth|signing|encryption|ssh|account|license)_?key|passkey)s?" + FOLLOWS
)
NO_SECRET = re.compile(
    r"(^|_)(pad|eos|bos|unk|mask|sep|cls|start|stop|end|special|input|output|vocab)_?tokens?" + FOLLOWS
)


def plain_name(key: object) -> str:
    """A key as words in lower case, `access_token` for `accessToken`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", str(key)).lower()


def names_secret(key: object) -> bool:
    """Whether what has such a name is a secret."""
    return bool(SECRET.search(name := plain_name(key))) and not NO_SECRET.search(name)


# How values that were read from the system's environment may be written, and the variable's name of each.
_FROM_ENVIRONMENT: dict[str, str] = {}
_READ: list[set[str]] = []
# Variables that hold no secret, as they only give seqrl's own keys their numbers; and all others that were read.
_OPEN: set[str] = set()
_SECRET: set[str] = set()
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
        for _, leaf in _leaves(value):
            _remember(name, str(leaf))


def declassify(names: Iterable[str], others: Iterable[str]) -> None:
    """Show the values of variables that hold no secret, in no configuration of this process.

    others   that hold one in this configuration
    """
    _SECRET.update(others)
    _OPEN.update(names)
    _OPEN.difference_update(_SECRET)
    for form in [form for form, name in _FROM_ENVIRONMENT.items() if name in _OPEN]:
        del _FROM_ENVIRONMENT[form]
    # An earlier configuration may have had them shown.
    for name in _SECRET:
        if (value := os.environ.get(name)) is not None and value not in _FROM_ENVIRONMENT:
            _remember(name, value)


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


def is_anything_masked() -> bool:
    """Whether a configuration took anything from the system's environment in this process."""
    return bool(_FROM_ENVIRONMENT)


def unmasked(text: str) -> str:
    """A text that was masked, with values of variables again: of those alone that this process's configuration took."""
    taken = {*_FROM_ENVIRONMENT.values()}

    def value_of(found: re.Match[str]) -> str:
        name = found[0].removeprefix("${oc.env:").removesuffix("}")
        return os.environ.get(name, found[0]) if name in taken else found[0]

    return re.sub(VARIABLE, value_of, text)


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
AND, END, NUMBER = (rf"(?:{it}|{PERCENT}(?i:{ord(it):02x}))" for it in "&;#")
AND = rf"{AND}(?:amp{END})*"
BACKSLASH = rf"(?:\\|{PERCENT}5[cC])"
BACKSLASHES, ANY_BACKSLASHES = (rf"{BACKSLASH}{{{least},16}}+" for least in (1, 0))
# A quote within quotes becomes several, of either kind. This may give back what belongs to the next character.
NAMED_QUOTE = rf"{AND}(?:{NUMBER}(?:0*3[49]|x0*2[27])|quot|apos){END}"
QUOTE = rf"(?:['\"]|{BACKSLASH}|{PERCENT}2[27]|{NAMED_QUOTE}|{BACKSLASH}[xu](?:00)?2[27])"
# Quoted thrice, a dozen become hundreds. Those that a value begins with need not all be found: they tell nothing.
QUOTES, FIRST_QUOTES = f"{QUOTE}{{1,999}}", f"{QUOTE}{{1,99}}"
SHORT = dict(zip("\n\t\r\x1b\x07\x08\x0b\x0c\0", "ntreabvf0", strict=True))
ENTITIES = {"&": "amp", "<": "lt", ">": "gt"}


# Of a value in parts: what is long for one, where it is taken apart, what no word has, and its password: that of an
# address, or behind a name.
LONG_PART, APART, NO_WORD = 8, re.compile(r"[\s:@,;=|\"'(){}\[\]]+"), re.compile(r"[\d+&!$%*^~#?\\]")
PASSWORD = re.compile(r"://[^\s/@:]*:([^\s/]{4,})@|^[^\s/@:]+:([^\s/]\S{3,})$")
# What a text calls by a name: `Pwd=hunter2`, `token: …`.
NAMED, WORD = re.compile(r"(?<![\w.-])([\w.-]+)[\"']?\s*[=:]\s*[\"']?"), re.compile(r"[^\s;,&\"']+")


def _whole(path: str) -> str:
    return rf"(?<![\w-]){re.escape(path)}(?![\w-])"


def _pattern(form: str) -> str:
    """Of a value, however it is written: quoted once or more, in an address, on a page; a number is one as a whole."""
    if re.fullmatch(r"-?[\d.]+", form):
        return rf"(?<![\w.]){re.escape(form)}(?!\w|\.\d)"
    if len(form) > MOST_ESCAPED:
        return re.escape(form)
    plain = re.sub(r"[\\'\"]+", "'", form)
    first = FIRST_QUOTES if plain[0] == "'" else _written(plain[0])
    pattern = first + "".join(map(_written, plain[1:]))
    return f"(?i:{pattern})" if len(form) >= SAME_CASE else pattern


def _written(character: str) -> str:
    """All ways in which a character may be written; a quote stands for several, and for backslashes."""
    if character.isascii() and character.isalnum():
        return character
    if character == "'":
        return QUOTES
    number, data = ord(character), character.encode(errors="surrogatepass")
    itself = ANY_BACKSLASHES + (AND if character == "&" else re.escape(character))
    ways = [
        "".join(f"{PERCENT}{byte:02x}" for byte in data),
        "".join(rf"{BACKSLASHES}x{byte:02x}" for byte in data),
        rf"{BACKSLASHES}(?:[xu]|U0{{0,4}})0{{0,2}}{number:02x}",
        rf"{AND}{NUMBER}(?:0*{number}|x0*{number:x}){END}",
    ]
    # JSON has two numbers for a character beyond the first 65,536.
    pair = character.encode("utf-16-be", "surrogatepass").hex()
    ways += [rf"{BACKSLASHES}u{pair[:4]}{BACKSLASHES}u{pair[4:]}"] if pair[4:] else []
    ways += [BACKSLASHES + SHORT[character]] if character in SHORT else []
    ways += [rf"{AND}{ENTITIES[character]}{END}"] if character in ENTITIES else []
    ways += [rf"(?:\+|{PERCENT}2b)"] if character == " " else []
    # The longest first.
    return f"(?:(?i:{'|'.join(reversed(ways))})|{itself})"


def _remember(name: str, value: str) -> None:
    lines = [line.strip() for line in value.splitlines()]
    for plain in {value, " ".join(value.split()), *lines, *_parts(value)}:
        for text in {plain, *(normalize(form, plain) for form in ("NFC", "NFD")), *_folded(plain), *_encoded(plain)}:
            if len(text) >= SHORTEST_SECRET and text.lower() not in NO_SECRETS:
                _FROM_ENVIRONMENT.setdefault(text, name)


def _parts(value: str) -> Iterator[str]:
    """What others take a value apart into that may be secret alone: fields of JSON, a password, no words."""
    with suppress(ValueError, RecursionError):
        for is_secret, it in _leaves(json.loads(value)):
            if is_secret or (isinstance(it, str) and len(it) >= LONG_PART):
                yield str(it)
    yield from named_secrets(value)
    if found := PASSWORD.search(value):
        password = found[1] or found[2]
        if found[1] or len(password) >= LONG_PART or (NO_WORD.search(password) and not password.isdecimal()):
            yield from (password, unquote(password))
    for part in APART.split(value):
        if len(part) >= LONG_PART and NO_WORD.search(part) and not os.path.lexists(part):
            yield part


def named_secrets(text: str) -> Iterator[str]:
    """What a text calls by the name of a secret."""
    named = (it.end() for it in NAMED.finditer(text) if names_secret(it[1]))
    yield from (it[0] for end in named if (it := WORD.match(text, end)))


def _folded(plain: str) -> Iterator[str]:
    """A text in letters of one case, where these are more than it has: `STRASSE` for `Straße`."""
    if len(plain) >= SAME_CASE:
        yield from (it for it in (plain.upper(), plain.casefold()) if len(it) > len(plain))


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


def _leaves(value: Any, is_secret: bool = False) -> Iterator[tuple[bool, Any]]:
    """The values in nested data, each with whether it stands beneath the name of a secret."""
    if isinstance(value, Mapping):
        for key, it in value.items():
            yield from _leaves(it, is_secret or names_secret(key))
    elif isinstance(value, list | tuple):
        for it in value:
            yield from _leaves(it, is_secret)
    else:
        yield is_secret, value
