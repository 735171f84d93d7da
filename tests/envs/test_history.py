"""What environments say of themselves, saved as plain data that can be loaded again."""

import enum
import io
import random

import numpy as np
import pytest
import torch

from seqrl.envs.gym.history import as_arrays, as_tensors
from seqrl.run.plain_data import loaded


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
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize(
    "state",
    [
        *(np.arange(6).reshape(2, 3).astype(kind) for kind in "?bBhHiIlLqQefdFD"),
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
        nested(49),
    ],
    ids=lambda state: type(state).__name__,
)
def test_plain_data_comes_back_from_a_checkpoint_as_it_was(state):
    file = io.BytesIO()
    torch.save({"state": as_tensors(state)}, file)
    assert equal(state, as_arrays(loaded(file.getvalue())["state"]))


def test_keys_that_are_numbers_of_numpy_become_those_of_python():
    assert as_tensors({np.int64(1): 2, (np.int64(3), 4): 5}) == {1: 2, (3, 4): 5}


@pytest.mark.parametrize(
    "state",
    [
        Mood.CALM, {Mood.CALM: 1}, {frozenset([1]): 2}, {1, 2}, np.array([None]), np.array(["a"]), np.longdouble(1),
        torch.ones(1).expand(10**9), torch.eye(2).to_sparse(), torch.zeros(2, device="meta"), nested(60),
        {nested(60, tuple): 1}, object(),
    ],
    ids=lambda state: type(state).__name__,
)  # fmt: skip
def test_what_a_checkpoint_could_not_give_back_is_refused_when_it_is_saved(state):
    with pytest.raises(TypeError, match="plain data"):
        as_tensors(state)
