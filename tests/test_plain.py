"""What environments say of themselves, saved as plain data that can be loaded again."""

import enum
import io
import pickle
import random
from collections import Counter, OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest
import torch

from seqrl.plain import as_arrays, as_tensors, pickled, with_marks, without_marks
from seqrl.run.safe_load import loaded

Pair = namedtuple("Pair", "a b")


ARRAY, TENSOR = np.arange(6.0).reshape(2, 3), torch.ones(2, 3)


class Mood(enum.IntEnum):
    CALM = 1


def nested(depth, kind=list):
    value = None
    for _ in range(depth):
        value = kind([value])
    return value


def equal(a, b):
    if isinstance(a, np.ndarray):
        return type(b) is np.ndarray and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and equal(list(a), list(b)) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.generic):
        return isinstance(b, np.generic) and a.dtype == b.dtype and (a == b or a != a != b)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize(
    "state",
    [
        *(np.arange(6).reshape(2, 3).astype(kind) for kind in "?bBhHiIlLqQefdFD"),
        [np.dtype(kind).type(1) for kind in "?bBhHiIlLqQefdFD"],
        [np.float32(0.1), np.float16("nan"), np.float64("-inf"), np.uint64(2**64 - 1), np.int8(-128)],
        {np.int64(1): 2, (np.uint8(3), 4): 5, ("is a number of NumPy's", "<f4"): np.float32(6)},
        OrderedDict(b=OrderedDict(c=np.bool_(False)), a=1),
        np.arange(3, dtype=">f4"),
        np.arange(3, dtype=">i2"),
        np.arange(3, dtype=np.longdouble),
        np.zeros((0, 3), np.uint16),
        np.array(7, np.uint32),
        np.random.RandomState(0).get_state(),
        np.random.Generator(np.random.MT19937(0)).bit_generator.state,
        np.random.Generator(np.random.Philox(0)).bit_generator.state,
        np.random.default_rng(0).bit_generator.state,
        random.Random(0).getstate(),
        {"a": 1, None: 2, True: 3, 1.5: 4, ("b", 1): 5},
        [torch.zeros(2, dtype=torch.uint32), torch.ones(2, dtype=torch.bfloat16), b"", b"\x00\xff", -(2**70)],
        [ARRAY[0], ARRAY[1:], ARRAY.T, TENSOR, TENSOR[1:], list(ARRAY)],
        nested(49),
    ],
    ids=lambda state: type(state).__name__,
)
def test_plain_data_comes_back_from_a_checkpoint_as_it_was(state):
    file = io.BytesIO()
    torch.save({"state": as_tensors(state)}, file)
    assert equal(state, as_arrays(loaded(file.getvalue())["state"]))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.5), torch.zeros(0, 3), torch.tensor([True, False]), torch.arange(6).reshape(2, 3).T,
        torch.arange(12.0).reshape(3, 4).to(torch.bfloat16), torch.ones(2, dtype=torch.uint16),
        torch.ones(2, dtype=torch.complex64), torch.ones(2, 0, dtype=torch.int8),
        torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1), torch.arange(10)[::3], torch.ones(2, 3)[:, 1],
        torch.from_numpy(np.asfortranarray(np.arange(6.0).reshape(2, 3))),
    ],
    ids=repr,
)  # fmt: skip
def test_a_state_goes_from_process_to_process_by_its_numbers(tensor):
    state = as_tensors({"a": tensor, "b": [tensor, (1, "x")]})
    back = pickle.loads(pickled(state))
    assert equal(back, state)
    assert back["a"]["is a tensor"].stride() == as_tensors(tensor)["is a tensor"].stride()
    assert back["a"] is back["b"][0]


@pytest.mark.parametrize(
    "state",
    [
        Mood.CALM, {Mood.CALM: 1}, {frozenset([1]): 2}, {1, 2}, np.array([None]), np.array(["a"]), np.longdouble(1),
        defaultdict(int, a=1), Counter("a"), Pair(1, 2), np.ma.array([1, 2], mask=[0, 1]), np.recarray(2, "f4,f4"),
        torch.nn.Parameter(torch.ones(1)), {"is a tensor": 1}, ("is a number of NumPy's", "<f4", 1),
        torch.ones(1).expand(10**9), torch.eye(2).to_sparse(), torch.zeros(2, device="meta"), nested(60),
        {nested(60, tuple): 1}, object(), torch.ones(2, requires_grad=True), {"is an array": 1},
        {np.complex64(1j): 1}, {(1, np.complex128(1)): 1},
        np.datetime64(5, "ns"), np.timedelta64(1, "D"), np.void(b"abc"), {np.datetime64("NaT"): 1},
        torch.ones(2).to(torch.float8_e4m3fn), torch.empty(2, dtype=torch.uint4),
    ],
    ids=lambda state: type(state).__name__,
)  # fmt: skip
def test_what_a_checkpoint_could_not_give_back_is_refused_when_it_is_saved(state):
    with pytest.raises(TypeError, match="plain data"):
        as_tensors(state)


@pytest.mark.parametrize(
    "one", [[1], {"a": 1}, ARRAY, TENSOR, np.zeros(2, np.uint32), OrderedDict(a=np.int8(1))], ids=repr
)
def test_what_stands_in_several_places_is_one_thing_in_all_of_them(one):
    file = io.BytesIO()
    torch.save({"state": as_tensors({"a": one, "b": [(one,), one]})}, file)
    back = as_arrays(without_marks(loaded(file.getvalue())["state"]))
    assert equal(back["a"], one)
    assert back["a"] is back["b"][1] is back["b"][0][0]


def test_numbers_are_marked_once_where_lists_stand_in_many_places_of_each_other():
    """By walking every way to them, it would take 2^60 steps."""
    whole = [np.float32(1)]
    for _ in range(60):
        whole = [whole, whole]
    marked = with_marks({"state": whole})
    assert marked["state"][0] is marked["state"][1]
    back = without_marks(marked)["state"]
    assert back[0] is back[1]


@pytest.mark.parametrize("text", [np.str_("a"), np.bytes_(b"a")])
def test_text_of_numpys_becomes_pythons(text):
    back = without_marks(with_marks({"a": text}))["a"]
    assert (type(back), back) == (type(text.item()), text.item())


@pytest.mark.parametrize("other", [np.datetime64(5, "ns"), np.timedelta64(1), np.void(b"a"), np.array(["a"])], ids=repr)
def test_what_is_no_number_of_numpys_is_left_for_a_checkpoint_to_refuse(other):
    state = {"a": other}
    assert with_marks(state) is state


@pytest.mark.parametrize("kind", ["f4", ">f4", "u2", "?"])
def test_an_array_among_tensors_comes_back_as_one(kind):
    one = np.arange(6).reshape(2, 3).astype(kind)
    state = {"arrays": [one, (one,)], "tensor": TENSOR, 3: np.float32(1)}
    file = io.BytesIO()
    torch.save(with_marks(state), file)
    back = without_marks(loaded(file.getvalue()))
    assert equal(back, state)
    assert back["arrays"][0] is back["arrays"][1][0]


@pytest.mark.parametrize(
    "odd",
    [
        {"dtype": "O", "shape": [1], "bytes": torch.ones(1)},
        {"dtype": "<f4", "shape": [9], "bytes": TENSOR},
        {"dtype": ",", "shape": [-1], "bytes": torch.ones(8, dtype=torch.uint8)},
        {"dtype": "u1," * 10**5, "shape": [], "bytes": torch.ones(10**5, dtype=torch.uint8)},
        {"dtype": 1, "shape": [1], "bytes": torch.ones(1, dtype=torch.uint8)},
    ],
    ids=range(5),
)
def test_a_marked_array_that_is_none_is_refused(odd):
    with pytest.raises(ValueError, match="holds an odd array"):
        without_marks({"a": {"is an array": odd}})


@pytest.mark.parametrize("inner", [5, [1], {"dtype": 1}], ids=repr)
def test_data_that_looks_like_a_mark_is_left_as_it_is(inner):
    state = {"a": {"is an array": inner}}
    assert without_marks(with_marks(state)) == state


def test_instances_of_subclasses_are_left_as_they_are_for_a_checkpoint_to_refuse():
    states = [Counter({np.int64(1): 2}), defaultdict(int, a=np.int8(1)), Pair(np.int8(1), 2)]
    assert all(with_marks(state) is state for state in states)


def test_an_array_keeps_the_order_of_its_numbers_in_memory():
    """In which they are added up."""
    state = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert as_arrays(as_tensors(state)).strides == state.strides == (4, 8)


@pytest.mark.parametrize("number", [300, -1, 1.5, 1 + 2j, "1", [1] * 9, None])
def test_a_marked_number_that_its_dtype_cannot_have_is_refused(number):
    with pytest.raises(ValueError, match="holds an odd number of"):
        without_marks({"a": [("is a number of NumPy's", "|u1", number)]})
