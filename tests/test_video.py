"""Films show what was played, and what memory did."""

import io
import itertools
import re
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image

from seqrl.envs import GymnasiumEnv, TMaze
from seqrl.envs.gym.registry import draws_itself
from seqrl.film.film import PIECE, Film, Limits, film, gif, still
from seqrl.film.pictures import picture
from seqrl.loggers.tensorboard import show
from seqrl.networks.heads import Categorical
from seqrl.run.evaluator import play
from tests.parts import small_network
from tests.worlds import Script


class Remembers:
    """Walks down a T-maze and turns as the sign showed; without memory, up."""

    def initial_state(self, batch_size):
        return {"sign": torch.zeros(batch_size)}

    def step(self, observation, state):
        sign = state["sign"] + observation[:, 0]
        forward = 10 - 20 * observation[:, 1]
        logits = torch.stack([forward, forward - 20, 1 + 3 * sign, -1 - 3 * sign], 1)
        return Categorical(logits), sign, {"sign": sign}


class Grey(gymnasium.Env):
    """A grey screen, ten shades lighter with each step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1.0, 1.0, (12,))
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, render_mode=None, drawn=""):
        self.render_mode, self.drawn = render_mode, drawn

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return self.np_random.uniform(-1, 1, 12).astype(np.float32), {}

    def step(self, action):
        self.clock += 1
        return self.np_random.uniform(-1, 1, 12).astype(np.float32), float(action[0]), self.clock == 4, False, {}

    def render(self):
        drawn = np.full((60, 120, 3), 10 * self.clock, np.uint8)
        return DRAWN[self.drawn](drawn) if self.drawn else drawn


class Undrawn(Grey):
    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pencil is not installed, run `pip install pencil`")


def fails(picture):
    raise RuntimeError("no display")


def ends(picture):
    sys.exit("no display")


def fails_later(picture):
    return fails(picture) if picture.max() == 20 else picture


# What may be returned for a picture, by a name.
DRAWN = {
    "grey": lambda it: it[:, :, 0],
    "one channel": lambda it: it[:, :, :1],
    "transparent": lambda it: np.dstack([it, it[:, :, :1]]),
    "channels first": lambda it: np.moveaxis(it, 2, 0),
    "up to 1": lambda it: it / 255,
    "real": lambda it: 1.0 * it,
    "whole": lambda it: it.astype(np.int64),
    "list": lambda it: [0 * it, it],
    "nested list": lambda it: it.tolist(),
    "stack": lambda it: np.stack([0 * it, it]),
    "image": Image.fromarray,
    "tensor": torch.tensor,
    "huge": lambda it: np.broadcast_to(it[:1, :1], (6_000, 12_000, 3)),
    "none": lambda it: None,
    "object": lambda it: object(),
    "text": lambda it: "a grey screen",
    "ragged": lambda it: [[1, 2], [3]],
    "empty": lambda it: it[:0],
    "no list": lambda it: [],
    "fails": fails,
    "ends": ends,
    "fails later": fails_later,
}
PICTURES = list(DRAWN)[: list(DRAWN).index("none")]
NONE = {
    "none": "reset: its render returned None. Fix the environment.",
    "object": "its render returned an object, which is no picture.",
    "text": "its render returned a str, which is no picture.",
    "ragged": "its render returned a list, which is no picture.",
    "empty": "its render returned an array of shape (0, 120, 3), which is no picture.",
    "no list": "its render returned an array of shape (0,), which is no picture.",
    "fails": "its render raised RuntimeError: no display (test_video.py:",
    "ends": "its render raised SystemExit: no display (test_video.py:",
    "fails later": "step 2: its render raised RuntimeError: no display (test_video.py:",
}

gymnasium.register("test/Grey-v0", Grey, disable_env_checker=True)
gymnasium.register("test/Undrawn-v0", Undrawn, disable_env_checker=True)


def test_curves_part_exactly_where_memory_decides():
    films = film(TMaze(1, seed=0, corridor_length=5), Remembers(), None, Limits(episodes=4))
    assert [episode.reward.tolist() for episode in films] == [[0.0] * 5 + [1.0]] * 4
    signs = [episode.curves["value"][0, 0] for episode in films]
    assert set(signs) == {-1.0, 1.0}
    for episode, sign in zip(films, signs, strict=True):
        with_memory, zeroed = episode.curves["probability of the action"].T
        assert (np.abs(with_memory - zeroed)[:5] < 0.01).all()
        assert with_memory[5] > 0.98
        # Without memory it turns up, which is right if the sign pointed there.
        assert zeroed[5] == pytest.approx(1 / (1 + np.exp(-2 * sign)), abs=0.01)
        assert episode.curves["value"][:, 1].tolist() == [sign, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("ghosts", [False, True])
@pytest.mark.parametrize(("episodes", "steps", "lengths"), [(3, 500, [3, 60, 3]), (9, 100, [3, 60, 3, None])])
def test_episodes_are_whole_except_one_that_takes_too_long(ghosts, episodes, steps, lengths):
    env = Script([[3, 60]], ghosts=ghosts)
    films = film(env, small_network(env), None, Limits(episodes, steps))
    cut = steps - sum(length or 0 for length in lengths) - 3 * ghosts
    assert [len(episode.reward) for episode in films] == [length or cut for length in lengths]
    # Rewards are 1, 2, 3, ... in each episode.
    assert all(episode.reward.tolist() == list(range(1, len(episode.reward) + 1)) for episode in films)
    assert all(len(line) == len(episode.reward) for episode in films for line in episode.curves.values())
    assert [episode.curves["observation"][0, 1] for episode in films] == list(range(len(lengths)))


def test_without_memory_each_curve_has_one_line():
    env = Script([[3]])
    with_memory, without = (film(env, small_network(env, kind), None, Limits(1))[0] for kind in ("lstm", "memoryless"))
    for name in ("value", "probability of the action"):
        assert (with_memory.curves[name].shape[1], without.curves[name].shape[1]) == (2, 1)


def test_an_environment_without_pictures_is_shown_by_its_observation():
    env = GymnasiumEnv("test/Grey-v0", 1, seed=0, backend="sync", kwargs={"render_mode": "rgb_array"})
    (with_pictures,) = film(env, small_network(env), None, Limits(1))
    assert [picture.shape for picture in with_pictures.pictures] == [(240, 480, 3)] * 4
    assert [int(picture.mean()) for picture in with_pictures.pictures] == [0, 10, 20, 30]
    assert list(with_pictures.curves) == ["value", "log-density of the action"]
    env = GymnasiumEnv("CartPole-v1", 1, seed=0, backend="sync")
    (without,) = film(env, small_network(env), None, Limits(1))
    assert set(without.pictures) == {None}
    assert list(without.curves) == ["observation", "value", "probability of the action"]
    assert without.curves["observation"].shape == (len(without.reward), 4)


class Several(gymnasium.Env):
    """Shows a Dict of so many numbers and a choice, and draws nothing."""

    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, numbers):
        self.seen = {"at": np.arange(numbers, dtype=np.float32), "door": 3}
        parts = {"at": gymnasium.spaces.Box(-9, 9, (numbers,), np.float32), "door": gymnasium.spaces.Discrete(5)}
        self.observation_space = gymnasium.spaces.Dict(parts)

    def reset(self, *, seed=None, options=None):
        return self.seen, {}

    def step(self, action):
        return self.seen, 1.0, False, True, {}


gymnasium.register("test/Several-v0", Several, disable_env_checker=True)


@pytest.mark.parametrize(("numbers", "observed"), [(2, [[0.0, 1.0, 3.0]]), (8, None)])
def test_an_observation_of_several_parts_is_shown_by_their_numbers_unless_they_are_too_many(numbers, observed):
    said = []
    env = GymnasiumEnv("test/Several-v0", 1, seed=0, backend="sync", kwargs={"numbers": numbers})
    (filmed,) = film(env, small_network(env), None, Limits(1), undrawn=said.append)
    assert said == ["it draws none, as Gymnasium's do with the render mode rgb_array."]
    found = filmed.curves.get("observation")
    assert (found if found is None else found.tolist()) == observed


def grey(drawn, **kwargs):
    return GymnasiumEnv("test/Grey-v0", 1, seed=0, kwargs={"render_mode": "rgb_array", "drawn": drawn}, **kwargs)


@pytest.mark.thin(4)
@pytest.mark.parametrize("drawn", PICTURES)
def test_whatever_is_a_picture_is_shown(drawn):
    env, said = grey(drawn, backend="sync"), []
    (filmed,) = film(env, small_network(env), None, Limits(1), undrawn=said.append)
    assert [int(picture.mean()) for picture in filmed.pictures] == [0, 10, 20, 30]
    assert {picture.shape for picture in filmed.pictures} == {(240, 480, 3)}
    assert said == []


@pytest.mark.parametrize("drawn", NONE)
def test_what_is_no_picture_is_said_once_and_the_observation_shown(drawn, monkeypatch):
    # Few enough numbers to be curves.
    monkeypatch.setattr("seqrl.film.film.OBSERVED", [(0, 0, 0)] * 12)
    env, said = grey(drawn, backend="sync"), []
    (filmed,) = film(env, small_network(env), None, Limits(1), undrawn=said.append)
    assert filmed.pictures == [None] * 4
    assert filmed.curves["observation"].shape == (4, 12)
    (line,) = said
    assert NONE[drawn] in line


def test_a_tall_picture_has_room_beside_it():
    upright = picture(np.zeros((640, 100, 3), np.uint8))
    assert upright.shape == (640, 480, 3)
    assert (upright[:, 190:290] == 0).all()
    assert (upright[:, :190] == 255).all()
    assert picture(np.zeros((640, 640, 3), np.uint8), tallest=240).shape == (240, 480, 3)


def test_a_film_is_as_tall_as_its_tallest_picture():
    curves = {"value": np.array([[0.0], [np.inf]])}
    grown = [np.zeros((height, 480, 3), np.uint8) for height in (100, 200)]
    image = Image.open(io.BytesIO(gif([Film(grown, np.zeros(2), curves)])))
    assert image.size == (480, 200 + 24 + 84)
    image.seek(0)
    upper, lower = np.asarray(image.convert("L"))[[50, 150], 0].tolist()
    assert (upper, lower) == (0, pytest.approx(255, abs=4))


def test_a_picture_that_the_environment_draws_on_later_is_kept_as_it_was():
    drawn = np.zeros((240, 480, 3), np.uint8)
    kept = picture(drawn)
    drawn += 1
    assert not kept.any()


def test_the_first_episode_filmed_is_the_first_evaluated():
    env = GymnasiumEnv("test/Grey-v0", 5, seed=3, backend="sync")
    network = small_network(env)
    returns, _ = play(env, network, 5, None, 100)
    (filmed,) = film(GymnasiumEnv("test/Grey-v0", 1, seed=3, backend="sync"), network, None, Limits(1))
    assert filmed.reward.sum() == pytest.approx(float(returns[0]))


def test_an_environment_that_can_draw_itself_is_recognized_and_a_missing_package_named():
    assert [draws_itself(id) for id in ("test/Grey-v0", "CartPole-v1", "test/Undrawn-v0")] == [True, True, True]
    env, said = GymnasiumEnv("test/Undrawn-v0", 1, seed=0, backend="sync", kwargs={"render_mode": "rgb_array"}), []
    film(env, small_network(env), None, Limits(1), undrawn=said.append)
    (line,) = said
    assert re.search(r"^env.id: drawing test/Undrawn-v0 needs a package that is missing: pencil .*pencil`\.$", line)


@pytest.mark.parametrize("metadata", [None, {}, {"render_modes": None}, {"render_modes": 3}, "rgb_array"])
def test_metadata_of_any_kind_say_whether_it_draws_itself(metadata, monkeypatch):
    monkeypatch.setattr(Grey, "metadata", metadata)
    assert not draws_itself("test/Grey-v0")


def test_a_film_has_a_frame_for_each_step_and_pauses_at_the_end_of_an_episode():
    env = GymnasiumEnv("test/Grey-v0", 1, seed=0, backend="sync", kwargs={"render_mode": "rgb_array"})
    image = Image.open(io.BytesIO(gif(film(env, small_network(env), None, Limits(2)))))
    assert (image.format, image.n_frames, image.info["loop"]) == ("GIF", 8, 0)
    shades, durations = [], []
    for frame in range(8):
        image.seek(frame)
        shades.append(np.asarray(image.convert("RGB"))[:240].mean())
        durations.append(image.info["duration"])
    assert shades == pytest.approx([0, 10, 20, 30] * 2, abs=2)
    assert durations == [200, 200, 200, 1000] * 2


def test_a_thinned_film_goes_as_fast_and_shows_how_an_episode_ends():
    curves = {"value": np.zeros((7, 1))}
    image = Image.open(io.BytesIO(gif([Film([None] * 7, np.zeros(7), curves)] * 2, every=3)))
    durations = []
    for frame in range(image.n_frames):
        image.seek(frame)
        durations.append(image.info["duration"])
    # Steps 1, 4 and 7 of each.
    assert durations == [600, 600, 1000] * 2
    image = Image.open(io.BytesIO(gif([Film([None] * 7, np.zeros(7), curves)], every=5)))
    # Steps 1, 6 and 7.
    assert image.n_frames == 3


def test_a_film_of_a_slow_environment_ends_when_its_time_is_up(monkeypatch):
    env = Script([[60]])
    # A second passes with every look at it.
    clock = itertools.count()
    monkeypatch.setattr("seqrl.film.film.perf_counter", lambda: next(clock))
    (short,) = film(env, small_network(env), None, Limits(1, seconds=3))
    assert len(short.reward) == 3 * PIECE
    (shortest,) = film(Script([[60]]), small_network(env), None, Limits(1, seconds=0))
    assert len(shortest.reward) == PIECE


def test_the_first_frame_of_a_film_is_a_picture_of_its_own():
    grown = [np.full((100, 480, 3), shade, np.uint8) for shade in (0, 200)]
    frame = Image.open(io.BytesIO(still(gif([Film(grown, np.zeros(2), {"value": np.zeros((2, 1))})]))))
    assert (frame.format, frame.size) == ("PNG", (480, 100 + 24 + 84))
    assert np.asarray(frame.convert("L"))[50, 50] == pytest.approx(0, abs=4)


@pytest.mark.parametrize("steps", [1, pytest.param(250, marks=pytest.mark.slow)])
def test_an_episode_of_any_length_can_be_drawn(steps):
    env = Script([[steps]], continuous=True)
    image = Image.open(io.BytesIO(gif(film(env, small_network(env), None, Limits(1)))))
    # A row for the observation, and one each for value and density.
    assert image.size == (480, 24 + 3 * 84)
    assert image.n_frames == steps


def test_tensorboard_has_only_the_last_film(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    env = Script([[3]])
    data = gif(film(env, small_network(env), None, Limits(1)))
    for env_steps in (5, 7):
        show(tmp_path, "policy", data, env_steps)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (image,) = events.Images("policy")
    assert (image.step, image.encoded_image_string) == (7, data)
    assert (image.width, image.height) == Image.open(io.BytesIO(data)).size
