"""A pickle, followed without loading it: keys that take for ever or end the process, and bytes that fill the memory.

Python hashes a tuple by recursion in C, through all that is in it, each time that it is a key. Keys that hash alike are
compared each with each. Bytes are made of a text, which may be used many times.
"""

from collections import Counter
from pickletools import OpcodeInfo, markobject
from typing import Any

# Values in one key, which may be a tuple, and in all together.
LONGEST, MOST = 10_000, 10**8
# Comparisons of a key with another that hashes alike. No two whole numbers below 2⁶¹ do, but for -1 and -2; so every
# place of a map whose coordinates are negative is alike to up to three others.
MOST_ALIKE = 10**7
# Values in the name of a storage, as torch.save writes it.
STORAGE_VALUES = 100
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT")
# The only one that torch.save writes. Others may make more of a text than it is, or bytes of bytes.
ENCODING = "latin1"
# What makes bytes, and all else: neither can be hashed.
ENCODE: Any = ["_codecs encode", "__builtin__ bytes"]
OTHER: Any = []


class Text(str):
    """A text or bytes, equal to any other: nobody can tell how they hash in another process.

    length        of a text, which bytes may be made of; None for bytes
    is_encoding   whether it names the encoding of these
    """

    length: int | None
    is_encoding: bool

    def __new__(cls, text: str | None = None) -> "Text":
        made = super().__new__(cls)
        made.length, made.is_encoding = None if text is None else len(text), text == ENCODING
        return made


class Keys:
    """Keys of all dicts in a state: whether they are short, and soon told from each other."""

    def __init__(self) -> None:
        self._values = 0
        self._known: set[Any] = set()
        self._same_hash: Counter[int] = Counter()
        self._compared = 0

    def accept(self, size: int, key: Any) -> bool:
        """Whether one more is such as a run saves.

        size   values in it
        key    it, with Text for texts and bytes, and OTHER for what is no key
        """
        self._values += size
        if size > LONGEST or self._values > MOST:
            return False
        try:
            hashed = hash(key)
        except TypeError:
            return False
        if key not in self._known:
            self._known.add(key)
            self._same_hash[hashed] += 1
        self._compared += size * (self._same_hash[hashed] - 1)
        return self._compared <= MOST_ALIKE


def as_pickled(key: Any, known: dict[int, tuple[int, Any]]) -> tuple[int, Any]:
    """A key as PickledKeys finds it: its values, and what is compared; `known` has those of tuples, by identity."""
    if isinstance(key, tuple):
        if id(key) not in known:
            known[id(key)] = _of_tuple([as_pickled(it, known) for it in key])
        return known[id(key)]
    if isinstance(key, str | bytes):
        return 1, Text()
    if isinstance(key, int | float):
        return _of_number(key)
    return 1, None if key is None else OTHER


class PickledKeys:
    """The stack of a pickle: numbers, texts and tuples, each with the number of values in it.

    encoded   bytes that it makes of texts
    """

    def __init__(self) -> None:
        self.encoded = 0
        self._stack: list[tuple[int, Any]] = []
        self._marks: list[int] = []
        self._memo: dict[int, tuple[int, Any]] = {}
        self._keys = Keys()

    def accept(self, operation: OpcodeInfo, argument: Any) -> bool:
        """Follow an operation; False if it uses a key that no run saves.

        Raises IndexError or KeyError if it takes what is not there, ValueError if it makes bytes otherwise than of a
        text.
        """
        name = operation.name
        if name == "MARK":
            self._marks.append(len(self._stack))
        elif "PUT" in name:
            self._memo[argument] = self._stack[-1]
        elif "GET" in name:
            self._stack.append(self._memo[argument])
        else:
            taken = self._taken(operation)
            if name == "REDUCE" and taken[0][1] is ENCODE:
                self.encoded += _encoded(taken[1][1])
            if operation.stack_after:
                self._stack.append(_made(name, argument, taken))
            if "SETITEM" in name:
                return all(self._keys.accept(*key) for key in taken[1::2])
            # Torch looks for a storage by its name.
            return name != "BINPERSID" or taken[0][0] <= STORAGE_VALUES
        return True

    def _taken(self, operation: OpcodeInfo) -> list[tuple[int, Any]]:
        """What an operation takes from the stack."""
        before = operation.stack_before
        count = len(before)
        if markobject in before:
            count = before.index(markobject) + len(self._stack) - self._marks.pop()
        if count > len(self._stack):
            raise IndexError("nothing is left to take")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken


def _made(name: str, argument: Any, taken: list[tuple[int, Any]]) -> tuple[int, Any]:
    """What an operation puts on the stack."""
    if "TUPLE" in name:
        return _of_tuple(taken)
    if name in NUMBERS:
        return _of_number(argument)
    if name == "BINUNICODE":
        return 1, Text(argument)
    if name == "REDUCE" and taken[0][1] is ENCODE:
        return 1, Text()
    if name == "GLOBAL" and argument in ENCODE:
        return 1, ENCODE
    return 1, CONSTANTS.get(name, OTHER)


def _of_tuple(inner: list[tuple[int, Any]]) -> tuple[int, Any]:
    # One may be in another many times.
    return min(1 + sum(size for size, _ in inner), LONGEST + 1), tuple(value for _, value in inner)


def _of_number(number: float) -> tuple[int, Any]:
    return 1 + number.bit_length() // 64 if isinstance(number, int) else 1, number


def _encoded(arguments: Any) -> int:
    """How many bytes are made of a text and the name of an encoding, or of nothing."""
    # A pattern of a tuple fits a list, too.
    if isinstance(arguments, tuple):
        match arguments:
            case ():
                return 0
            case (Text(length=int(length)), Text(is_encoding=True)):
                return length
    raise ValueError("holds bytes that torch.save does not write")
