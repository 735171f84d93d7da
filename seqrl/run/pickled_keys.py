"""Keys of the dicts in a pickle, followed without loading it: some take for ever, or end the process.

Python hashes a tuple by recursion in C, through all that is in it, each time that it is a key. Keys that hash alike are
compared each with each.
"""

from pickletools import OpcodeInfo, markobject
from typing import Any

# Values in one key, which may be a tuple, and in all together.
LONGEST, MOST = 10_000, 10**8
# Keys that hash like another one. No two whole numbers below 2⁶¹ do, but for -1 and -2.
MOST_ALIKE = 100
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT")
# Texts and bytes. Nobody can tell how they hash in another process, so that they need not be told apart.
TEXT = ""
# What makes bytes, and all else: neither can be hashed.
ENCODE: Any = ["_codecs encode", "__builtin__ bytes"]
OTHER: Any = []


class PickledKeys:
    """The stack of a pickle: numbers, texts and tuples, each with the number of values in it."""

    def __init__(self) -> None:
        self._stack: list[tuple[int, Any]] = []
        self._marks: list[int] = []
        self._memo: dict[int, tuple[int, Any]] = {}
        self._values = 0
        self._known: set[Any] = set()
        self._hashes: set[int] = set()

    def accept(self, operation: OpcodeInfo, argument: Any) -> bool:
        """Follow an operation; False if it uses a key that no run saves.

        Raises IndexError or KeyError if it takes what is not there.
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
            if operation.stack_after:
                self._stack.append(_made(name, argument, taken))
            if "SETITEM" in name:
                return all(self._is_fit(*key) for key in taken[1::2])
            # Torch looks for a storage by its name.
            return name != "BINPERSID" or taken[0][0] <= MOST_ALIKE
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

    def _is_fit(self, size: int, key: Any) -> bool:
        """Whether a key is short, and can be told from the others."""
        self._values += size
        if size > LONGEST or self._values > MOST:
            return False
        try:
            self._hashes.add(hash(key))
        except TypeError:
            return False
        self._known.add(key)
        return len(self._known) - len(self._hashes) <= MOST_ALIKE


def _made(name: str, argument: Any, taken: list[tuple[int, Any]]) -> tuple[int, Any]:
    """What an operation puts on the stack."""
    if "TUPLE" in name:
        # One may be in another many times.
        return min(1 + sum(size for size, _ in taken), LONGEST + 1), tuple(value for _, value in taken)
    if name in NUMBERS:
        return 1 + argument.bit_length() // 64 if isinstance(argument, int) else 1, argument
    if name == "BINUNICODE" or (name == "REDUCE" and taken[0][1] is ENCODE):
        return 1, TEXT
    if name == "GLOBAL" and argument in ENCODE:
        return 1, ENCODE
    return 1, CONSTANTS.get(name, OTHER)
