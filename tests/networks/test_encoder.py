import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.errors import ConfigError
from seqrl.networks import Encoder
from seqrl.networks.encoder import Choices, Image, Numbers, flattened, reader
from seqrl.spaces import Packed


def test_choices_are_read_one_hot():
    read = Choices(spaces.MultiDiscrete([2, 3]))(torch.tensor([[1, 0], [0, 2]]), torch.float32)
    assert read.tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    assert Choices(spaces.Discrete(3))(torch.tensor([2, 0]), torch.float32).tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("space", "size"),
    [(spaces.Discrete(3), 3), (spaces.MultiDiscrete([2, 3]), 5), (spaces.MultiDiscrete([[2, 3], [2, 2]]), 9),
     (spaces.MultiBinary((2, 3)), 6), (spaces.Box(-1, 1, (2, 4)), 8), (spaces.Box(-1, 1, ()), 1)],
)  # fmt: skip
def test_no_rows_are_read_as_none(space, size):
    module = reader(space, False)
    assert module(torch.zeros(0, *space.shape, dtype=torch.int64), torch.float32).shape == (0, size)
    assert module(torch.zeros(4, *space.shape, dtype=torch.int64), torch.float32).shape == (4, size)


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


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((7, 7, 20), 20), ((20, 7, 7), 20), ((3, 7, 7), 3), ((7, 7, 3), 3), ((7, 7, 7), 7), ((3, 5, 7), 3),
        ((4, 210, 160, 3), 12), ((4, 3, 84, 84), 12), ((4, 84, 84, 1), 4), ((2, 7, 7, 20), 40),
    ],
)  # fmt: skip
def test_channels_are_told_by_the_axes_that_are_alike_and_frames_are_channels(shape, channels):
    encoder = Encoder(spaces.Box(0, 255, shape, np.uint8), 4)
    assert encoder.readers[0].layers[0][0].in_channels == channels
    x = torch.randint(0, 256, (2, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert encoder(x).shape == (2, 4)


def test_a_stack_of_frames_is_read_frame_by_frame():
    first, last = Image((4, 3, 18, 19)), Image((4, 18, 19, 3))
    last.load_state_dict(first.state_dict())
    x = torch.randint(0, 256, (2, 4, 3, 18, 19), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first(x, torch.float32), last(x.movedim(2, -1), torch.float32))
    flat = Image((12, 18, 19))
    flat.load_state_dict(first.state_dict())
    assert torch.equal(first(x, torch.float32), flat(x.flatten(1, 2), torch.float32))


def test_bytes_are_scaled_by_the_bounds_of_their_space():
    def read(space, *shown):
        return Numbers(space)(torch.tensor([shown], dtype=torch.uint8), torch.float32).flatten().tolist()

    low, high = np.array([0, 10, 7, 0], np.uint8), np.array([1, 20, 7, 255], np.uint8)
    assert read(spaces.Box(low, high, dtype=np.uint8), 1, 15, 7, 51) == pytest.approx([1, 0.5, 0, 0.2])
    assert read(spaces.Box(0, 1, (2,), np.uint8), 0, 1) == [0, 1]
    bits = Encoder(spaces.Box(0, 1, (7, 7, 20), np.uint8), 4)
    whole = Encoder(spaces.Box(0, 255, (7, 7, 20), np.uint8), 4)
    assert set(bits.state_dict()) == set(whole.state_dict())
    whole.load_state_dict(bits.state_dict())
    x = torch.randint(0, 2, (3, 7, 7, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(bits(x), whole(255 * x))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1), (2, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_smallest_observations_are_read(shape, dtype):
    space = spaces.Box(0, 1, shape, dtype)
    assert Encoder(space, 4)(torch.zeros(2, *shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype)).shape == (2, 4)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_observation_without_numbers_is_refused_unless_there_is_more_to_see(shape, dtype):
    nothing = spaces.Box(0, 1, shape, dtype)
    with pytest.raises(ConfigError, match="has no numbers, so that there is nothing to see"):
        Encoder(nothing, 4)
    both = Packed({"nothing": nothing, "place": spaces.Discrete(3)})
    assert Encoder(both, 4)(torch.from_numpy(np.stack([both.sample()] * 2))).shape == (2, 4)


def test_what_may_be_an_image_and_is_read_as_numbers_is_said():
    image = spaces.Box(0, 1, (64, 64, 3))
    (said,) = flattened(image)
    assert said.startswith("the observation (64, 64, 3) is read as 12,288 numbers")
    (said,) = flattened(Packed({"camera": image, "bytes": spaces.Box(0, 255, (64, 64, 3), np.uint8)}))
    assert said.startswith("part 'camera' of the observation (64, 64, 3)")
    for small in (spaces.Box(0, 1, (9000,)), spaces.Box(0, 1, (9, 9)), spaces.Discrete(9000)):
        assert flattened(small) == []


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


@pytest.mark.parametrize("unit", [1e-15, 1e-6, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_normalisation_does_not_depend_on_the_unit(unit, mean):
    x = mean + torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    numbers = Numbers(spaces.Box(-np.inf, np.inf, (1,)), normalize=True)
    for piece in (x[:300], x[300:]):
        numbers.adapt(unit * piece)
    read = numbers(unit * x, torch.float32)
    if unit < 1e18:
        assert torch.allclose(read, (x - x.mean()) / x.std(correction=0), atol=1e-4)
    else:
        # Float32 cannot hold the variance; what is left is clipped, and no number is lost or NaN.
        assert read.isfinite().all()
        assert read.sign().equal((x - x.mean()).sign())


def test_a_rounding_error_is_no_deviation():
    numbers = Numbers(spaces.Box(-np.inf, np.inf, (1,)), normalize=True)
    x = torch.full((1000, 1), 0.1) + torch.tensor([0, 1e-8]).repeat(500).unsqueeze(1)
    for piece in x.split(100):
        numbers.adapt(piece)
    assert numbers(x, torch.float32).abs().max() <= 0.1
    zeros = Numbers(spaces.Box(-np.inf, np.inf, (1,)), normalize=True)
    zeros.adapt(torch.zeros(10, 1))
    assert zeros(torch.tensor([[0.0], [3.0], [-3.0]]), torch.float32).flatten().tolist() == [0, 10, -10]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            spaces.Discrete(10**10),
            r"^env: the observation is read as 10,000,000,000 one-hot numbers, for which .*MultiDis",
        ),
        (
            Packed({"a": spaces.Discrete(3), "b": spaces.MultiDiscrete([10**10, 2])}, None),
            r"^env: part 'b' .* is read as 10,000,000,002 one-hot .* hide it with env\.hidden=\[b\]\.$",
        ),
    ],
)
def test_an_observation_that_no_machine_can_learn_from_is_named_with_the_memory_it_needs(space, said):
    with pytest.raises(ConfigError, match=said) as it:
        Encoder(space, 512)
    assert "needs at least 81,920 GB of memory, and this machine has" in str(it.value)
