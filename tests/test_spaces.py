import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.spaces import Joint, Packed, leaves, nested, values

NESTED = spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Tuple([spaces.Box(-1, 1, (3,)), spaces.MultiBinary(5)])})


def test_leaves_have_names_and_an_order_that_values_share():
    assert [name for name, _ in leaves(NESTED)] == ["a.0", "a.1", "b"]
    NESTED.seed(0)
    element = NESTED.sample()
    assert NESTED.contains(nested(NESTED, iter(list(values(NESTED, element)))))
    assert list(leaves(spaces.Discrete(2))) == [("", spaces.Discrete(2))]


def test_packed_observations_split_again_in_any_batch_shape():
    packed = Packed(dict(leaves(NESTED)))
    assert packed.shape[0] % 8 == 0
    NESTED.seed(0)
    elements = [NESTED.sample() for _ in range(6)]
    observation = torch.from_numpy(np.stack([packed.pack(values(NESTED, element)) for element in elements]))
    for batch in (observation, observation.view(2, 3, -1), observation[1:], observation.repeat(1, 1)[::2]):
        parts = packed.split(batch)
        assert parts["a.0"].dtype == torch.float32
        assert parts["b"].shape == batch.shape[:-1]
    parts = packed.split(observation)
    assert parts["a.1"].tolist() == [element["a"][1].tolist() for element in elements]
    assert torch.equal(packed.join(parts), observation)


def test_a_part_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"its observation 'place' has shape \(2,\), not \(3,\)"):
        Packed({"place": spaces.Box(-1, 1, (3,))}).pack([np.zeros(2)])


def test_samples_are_elements_of_the_parts_and_repeat_with_the_seed():
    packed = Packed(dict(leaves(NESTED)))
    joint = Joint({"move": spaces.Discrete(3), "keys": spaces.MultiDiscrete([2, 4]), "arm": spaces.Box(-1, 1, (2,))})
    for space in (packed, joint):
        drawn = []
        for _ in range(2):
            space.seed(3)
            drawn.append([space.sample() for _ in range(4)])
        assert np.array_equal(drawn[0], drawn[1])
        assert not np.array_equal(drawn[0][0], drawn[0][1])
        for name, value in space.split(torch.from_numpy(drawn[0][0])).items():
            assert space.parts[name].contains(np.asarray(value).astype(space.parts[name].dtype)), name


def test_composed_spaces_are_equal_by_their_parts_and_survive_pickling():
    packed = Packed(dict(leaves(NESTED)))
    other = Packed({"a.0": spaces.Box(-2, 2, (3,)), "a.1": spaces.MultiBinary(5), "b": spaces.Discrete(3)})
    assert other.shape == packed.shape
    assert other != packed
    assert pickle.loads(pickle.dumps(packed)) == packed
    assert Joint({"a": spaces.Discrete(2)}) != Joint({"a": spaces.Discrete(3)})
