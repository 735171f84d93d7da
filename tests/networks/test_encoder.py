import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.errors import ConfigError
from seqrl.networks import Encoder
from seqrl.networks.encoder import Choices, Image, Numbers
from seqrl.spaces import Packed


def test_choices_are_read_one_hot():
    read = Choices(spaces.MultiDiscrete([2, 3]))(torch.tensor([[1, 0], [0, 2]]), torch.float32)
    assert read.tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    assert Choices(spaces.Discrete(3))(torch.tensor([2, 0]), torch.float32).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_bytes_are_divided_by_255_and_numbers_stay_unchanged():
    read = Numbers(spaces.Box(0, 255, (2,), np.uint8))(torch.tensor([[255, 51]], dtype=torch.uint8), torch.float64)
    assert read.tolist() == [[1, 0.2]]
    assert Numbers(spaces.Box(-9, 9, (2, 1)))(torch.tensor([[[7.0], [-2.0]]]), torch.float32).tolist() == [[7, -2]]


@pytest.mark.parametrize(
    ("shape", "channels"), [((84, 84), 1), ((84, 84, 3), 3), ((4, 84, 84), 4), ((40, 60, 1), 1), ((5, 7, 3), 3)]
)
def test_images_of_any_size_are_read_with_channels_first_or_last(shape, channels):
    image = Image(shape)
    assert image.layers[0][0].in_channels == channels
    x = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    read = image(x, torch.float32)
    assert read.shape == (2, 3, image.output_size)
    assert not torch.equal(read[0, 0], read[1, 2])


def test_channels_first_and_last_are_read_alike():
    first, last = Image((3, 40, 50)), Image((40, 50, 3))
    last.load_state_dict(first.state_dict())
    x = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first(x, torch.float32), last(x.movedim(1, -1), torch.float32))


def test_all_parts_are_read_except_the_mask():
    parts = {"image": spaces.Box(0, 255, (5, 5, 3), np.uint8), "place": spaces.Discrete(4)}
    space = Packed({**parts, "action_mask": spaces.MultiBinary(2)})
    encoder = Encoder(space, 8)
    random = torch.Generator().manual_seed(0)
    values = {
        "image": torch.randint(0, 256, (6, 5, 5, 3), dtype=torch.uint8, generator=random),
        "place": torch.tensor([0, 1, 2, 3, 0, 1]),
        "action_mask": torch.tensor([[1, 0]] * 6),
    }
    features = encoder(space.join(values))
    assert encoder.allowed(space.join(values)).tolist() == [[True, False]] * 6
    others = {"image": values["image"].flip(0), "place": values["place"].roll(1), "action_mask": torch.ones(6, 2)}
    changed = [
        part
        for part, other in others.items()
        if not torch.equal(encoder(space.join({**values, part: other})), features)
    ]
    assert changed == ["image", "place"]


def test_a_space_that_cannot_be_read_is_named():
    with pytest.raises(ConfigError, match="env: no encoder for the observation space Text"):
        Encoder(spaces.Text(3), 8)


def test_normalisation_does_not_depend_on_how_the_data_was_split():
    x = 5 + 3 * torch.randn(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 1] *= 1e4
    numbers = Numbers(spaces.Box(-np.inf, np.inf, (2,)), normalize=True).double()
    assert torch.allclose(numbers(x[:3] / 1e5, torch.float64), x[:3] / 1e5)
    for piece in (x[:1], x[1:300], x[300:]):
        numbers.adapt(piece)
    assert torch.allclose(numbers.normalizer.mean, x.mean(0))
    assert torch.allclose(numbers.normalizer.variance, x.var(0, correction=0))
    read = numbers(x, torch.float64)
    assert torch.allclose(read.std(0, correction=0), torch.ones(2, dtype=torch.float64))
    assert numbers(x + 1e9, torch.float64).unique().tolist() == [10]


def test_a_constant_number_is_read_as_zero():
    numbers = Numbers(spaces.Box(-np.inf, np.inf, (1,)), normalize=True)
    numbers.adapt(torch.full((10, 1), 1e6))
    assert numbers(torch.full((2, 1), 1e6), torch.float32).tolist() == [[0], [0]]
