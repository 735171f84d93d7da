"""What torch.save wrote, if it is tensors and plain data alone, and takes no more memory than its file suggests.

`weights_only=True` lets nothing run, but a file of a few kilobytes may still ask for any amount of memory.
"""

import io
import math
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

from seqrl.run.memory_need import is_out_of_memory
from seqrl.run.pickled_keys import Keys, PickledKeys, as_pickled

# What plain data and tensors are made of. Others that torch would load take a length, `bytearray(6_000_000_000)`.
HARMLESS = re.compile(r"torch\._utils _rebuild_(tensor_v[23]|parameter)|torch [a-z]+\d+|torch bool|__builtin__ complex")
# These do, too; torch.save names them, followed by the name of an entry, and never calls them.
STORAGE = re.compile(r"torch(\.storage)? [A-Z]\w*Storage")
# Empty, and then filled with entries that stand in the file.
EMPTY = ("collections OrderedDict", "__builtin__ bytes")
# Bytes, as torch.save writes them: a text and its encoding.
BYTES = "_codecs encode"
PUTS, GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
OPERATIONS = {
    *PUTS, *GETS, "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE",
    "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "APPEND", "APPENDS", "SETITEM", "SETITEMS",
}  # fmt: skip
# Each makes an object of 200 bytes at most, beside what stands in the file.
MOST_OPERATIONS = 5_000_000
# As many as are written. There are more than a Weight knows of: a network's state has some data beside its keys.
MOST_WRITTEN = MOST_OPERATIONS - 100_000
# Of a pickle, for a value beside those in it; for all others, such as bytes; and for tensors, beside these.
OPERATIONS_OF = {type(None): 1, bool: 1, int: 1, float: 1, str: 2, list: 4, tuple: 3, dict: 4}
OPERATIONS_OF_OTHERS, OPERATIONS_OF_TENSOR, OPERATIONS_OF_PARAMETER, OPERATIONS_OF_AXIS = 10, 20, 30, 2
# What a state may take beyond the size of its file: it may show one tensor, or one text, in several places.
SLACK_BYTES = 2**28
# The end of a zip file, which says how large its directory is and where; before it, in a large one and in torch's, the
# same in 64 bits, and where that is.
END, LOCATOR, END_64 = struct.Struct("<4s8x2IH"), struct.Struct("<8xQ4x"), struct.Struct("<40x2Q")
# Of data in data.
DEEPEST = 100
# Of a whole number.
MOST_BITS = 8 * 255 - 1
GROWS = "would grow when it is read"
TOO_MUCH, ODD_KEYS = "holds too much data that is not in tensors", "holds keys that no run saves"


class FaultError(ValueError):
    """What is wrong with a file, in words that follow its name."""


def loaded(data: bytes) -> Any:
    """The data, on the CPU. Raises ValueError with the reason if it is not such a file."""
    try:
        if fault := _fault_of_file(data):
            raise FaultError(fault)
        # It makes bytes of texts, but for empty ones.
        with torch.serialization.safe_globals([bytes]):
            found = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except (FaultError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        raise ValueError("holds more than plain data") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        # A pickle that takes what is not there, or calls something with other arguments than torch.save writes.
        raise ValueError("is damaged") from error
    if Weight(found).bytes > len(data) + SLACK_BYTES:
        raise ValueError(GROWS)
    return found


def program(data: bytes) -> bytes:
    """The pickle in what torch.save wrote, which has all but the numbers of tensors."""
    found: bytes = torch._C.PyTorchFileReader(io.BytesIO(data)).get_record("data.pkl")
    return found


def _fault_of_file(data: bytes) -> str | None:
    """What is wrong with a file; None if nothing is. Raises anything if it is damaged."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
    # Anything else torch would read in the form of its earliest versions; and of two directories, it may read another.
    if not data.startswith(b"PK\x03\x04") or not _ends_with_its_directory(data):
        return "is damaged"
    if sum(entry.file_size for entry in entries) > len(data) or any(entry.compress_type for entry in entries):
        return "is packed, and would grow when it is read"
    # As torch finds it among the entries.
    return _fault(program(data), len(data))


def _ends_with_its_directory(data: bytes) -> bool:
    """Whether the directory of a zip file stands where all readers look for it: where it says, right before its end."""
    end = len(data) - END.size
    signature, size, offset, comment = END.unpack_from(data, end)
    if data[end - LOCATOR.size :].startswith(b"PK\x06\x07"):
        (record,) = LOCATOR.unpack_from(data, end - LOCATOR.size)
        end -= LOCATOR.size + END_64.size
        size, offset = END_64.unpack_from(data, end)
        if record != end or not data[end:].startswith(b"PK\x06\x06"):
            return False
    return bool(signature == b"PK\x05\x06" and not comment and offset + size == end)


def _fault(pickled: bytes, size: int) -> str | None:
    """What is wrong with a pickle; None if it makes plain data and tensors alone, and no copies of large ones."""
    keys = PickledKeys()
    for count, (operation, argument) in enumerate(_operations(pickled)):
        name = operation.name
        if count > MOST_OPERATIONS:
            return TOO_MUCH
        named = (
            name != "GLOBAL"
            or argument in (*EMPTY, BYTES)
            or HARMLESS.fullmatch(argument)
            or STORAGE.fullmatch(argument)
        )
        if name not in OPERATIONS or not named:
            return "holds more than plain data"
        if not keys.accept(operation, argument):
            return ODD_KEYS
        if keys.encoded > size + SLACK_BYTES:
            return GROWS
    return None


def _operations(pickled: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """The operations of a pickle, with their arguments.

    Raises ValueError if it cannot be read, fills what must be EMPTY, or might call a STORAGE.
    """
    memo: dict[int, str] = {}
    on_top, expected = "", ""
    argument: Any
    for operation, argument, _ in pickletools.genops(pickled):
        name = operation.name
        if name in PUTS:
            memo[argument] = on_top
        else:
            # What is put on the stack: a global, or what the operation makes.
            on_top = argument if name == "GLOBAL" else memo.get(argument, "") if name in GETS else name
            if expected and on_top != expected:
                raise ValueError(f"holds {name} where torch.save writes {expected}")
            expected = _expected_after(on_top, expected)
        yield operation, argument


def _expected_after(on_top: str, expected: str) -> str:
    """What must be put on the stack next; "" if anything may."""
    if on_top in EMPTY:
        return "EMPTY_TUPLE"
    if STORAGE.fullmatch(on_top):
        return "BINUNICODE"
    return "REDUCE" if expected == "EMPTY_TUPLE" else ""


class Weight:
    """What plain data takes, of which each place may show the same as others.

    bytes        if each place had a copy of its own; infinite if it holds itself, is too deep, or has a whole number
                 that torch would not read
    operations   of its pickle, or somewhat more
    keys_fit     whether its keys are such as a run saves
    """

    def __init__(self, data: Any) -> None:
        self.operations, self.keys_fit = 0, True
        self._keys = Keys()
        self._known: dict[int, float] = {}
        self._known_keys: dict[int, tuple[int, Any]] = {}
        self.bytes = self._weighed(data, 0)

    def fault(self, size: float = math.inf) -> str | None:
        """Why it would not be loaded from a file of `size` bytes, in words that follow its name.

        None if it would be, as far as that depends on how much it is and on its keys.
        """
        if self.bytes == math.inf or self.bytes > size + SLACK_BYTES:
            return "is too large or too deep, or holds itself"
        if self.operations > MOST_WRITTEN:
            return TOO_MUCH
        return None if self.keys_fit else ODD_KEYS

    def _weighed(self, value: Any, depth: int) -> float:
        if id(value) in self._known:
            self.operations += 1
            return self._known[id(value)]
        self.operations += OPERATIONS_OF.get(type(value), OPERATIONS_OF_OTHERS)
        if isinstance(value, int):
            return 0 if value.bit_length() <= MOST_BITS else math.inf
        if value is None or isinstance(value, float):
            return 0
        # Until it is known to end.
        self._known[id(value)] = math.inf
        self._known[id(value)] = self._weighed_anew(value, depth)
        return self._known[id(value)]

    def _weighed_anew(self, value: Any, depth: int) -> float:
        if isinstance(value, torch.Tensor):
            kind = OPERATIONS_OF_TENSOR if type(value) is torch.Tensor else OPERATIONS_OF_PARAMETER
            self.operations += kind + OPERATIONS_OF_AXIS * value.dim()
            return value.numel() * value.element_size()
        if not isinstance(value, dict | list | tuple):
            return 0
        if depth >= DEEPEST:
            return math.inf
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        # There is a mark, and an end to it, for each thousand.
        self.operations += len(inner) // 500
        within = sum(self._weighed(it, depth + 1) for it in inner)
        # What holds itself, or is deeper, cannot be hashed soon.
        if isinstance(value, dict) and within < math.inf:
            self.keys_fit &= all(self._keys.accept(*as_pickled(it, self._known_keys)) for it in value)
        return 64 + 8 * len(inner) + within
