"""What environments show is what the policy sees, or the run says why not."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.envs import GymnasiumEnv
from seqrl.errors import OutsideEnvError
from seqrl.runner import Runner
from seqrl.types import Step
from tests.parts import small_network
from tests.worlds import Script

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning", "ignore::UserWarning:gymnasium"
)


class Shows(gymnasium.Env):
    """Shows elements of a space, and something odd at its first reset (`at` = 0) or third step (`at` = 3)."""

    action_space = spaces.Discrete(2)

    def __init__(self, space, odd, at):
        self.observation_space, self.odd, self.at = space, odd, at

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        self.clock = 0
        return self.seen(), {}

    def step(self, action):
        self.clock += 1
        return self.seen(), 0.0, self.clock == 5, False, {}

    def seen(self):
        return self.odd if self.clock == self.at else self.observation_space.sample()


gymnasium.register("test/Shows-v0", Shows, disable_env_checker=True)


def shown(space, odd, at=3, backend="sync"):
    return GymnasiumEnv("test/Shows-v0", 2, 0, backend=backend, kwargs={"space": space, "odd": odd, "at": at})


def bytes_of(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


def several(**parts):
    return spaces.Dict({**parts, "b": spaces.Discrete(2)})


OUTSIDE = [
    (spaces.Discrete(3), 3, "its observation is outside its space: 3 is not within 0 to 2"),
    (spaces.Discrete(3), -1, "its observation is outside its space: -1 is not within 0 to 2"),
    (spaces.Discrete(3, start=5), 4, "its observation is outside its space: 4 is not within 5 to 7"),
    (spaces.Discrete(3), 1.5, "its observation is outside its space: 1.5 is no whole number"),
    (spaces.Discrete(3), np.nan, "its observation is outside its space: nan is not within 0 to 2"),
    (spaces.MultiDiscrete([3, 4]), np.array([3, 0]), "its observation is outside its space: 3 is not within 0 to 2"),
    (
        spaces.MultiDiscrete([3, 4], dtype=np.int8),
        np.array([0, 256]),
        "its observation is outside its space: 256 is not within 0 to 3",
    ),
    (spaces.MultiBinary(2), np.array([0, 2]), "its observation is outside its space: 2 is not within 0 to 1"),
    (bytes_of(2), np.array([300, 0]), "its observation is outside its space: 300 is not within 0 to 255"),
    (bytes_of(2), np.array([0.5, 0]), "its observation is outside its space: 0.5 is no whole number"),
    (
        spaces.Box(-5, 5, (2,), np.int8),
        np.array([0, -200]),
        "its observation is outside its space: -200 is not within -128 to 127",
    ),
    (spaces.Box(-1, 1, (2,)), np.array([None, 1]), "its observation is made of object, not of numbers"),
    (spaces.Box(-1, 1, (2,)), np.array([1j, 1]), "its observation is made of complex128, not of numbers"),
    (
        spaces.Box(-1, 1, (2,), np.float64),
        np.array([0, 1e300]),
        r"its observation has 1e\+300, which is beyond float32\. Scale",
    ),
    (spaces.Box(-1, 1, (2,)), np.array([0, -1e300]), r"its observation has -1e\+300, which is beyond float32\. Scale"),
    (spaces.Box(-1, 1, (2,)), [0.0, 1e300], r"its observation has 1e\+300, which is beyond float32\. Scale"),
    (
        spaces.Box(-1, 1, (), np.float16),
        np.float64(1e5),
        r"its observation has 100000, which is beyond float16\. Scale",
    ),
    (several(a=spaces.Box(-1, 1, (1,))), {"a": [1e39], "b": 0}, r"its observation 'a' has 1e\+39, which is beyond"),
    (spaces.Box(0, 9, (2,), np.int64), np.array([0, 10**9 + 1]), "its observation has 1000000001, which float32 would"),
    (spaces.Box(0, 9, (), np.uint64), np.uint64(2**64 - 1), "its observation has 18446744073709551615, which float32"),
    (spaces.Box(-1, 1, (2,)), np.array([0, -(2**24) - 1]), "its observation has -16777217, which float32 would change"),
    (
        several(a=spaces.Box(0, 9, (1,), np.int32)),
        {"a": [2**24 + 1], "b": 0},
        "its observation 'a' has 16777217, which",
    ),
    (
        several(a=spaces.Discrete(3)),
        {"a": 3, "b": 0},
        "its observation 'a' is outside its space: 3 is not within 0 to 2",
    ),
    (
        several(a=bytes_of(1)),
        {"a": [300], "b": 0},
        "its observation 'a' is outside its space: 300 is not within 0 to 255",
    ),
    (several(a=bytes_of(1)), {"a": [3, 4], "b": 0}, r"its observation 'a' has shape \(2,\), not \(1,\)"),
    (several(a=bytes_of(1)), {"b": 0}, "its observation does not have all parts: a, b"),
    (several(action_mask=spaces.Box(1, 1, (2,))), {"action_mask": [np.nan, 1], "b": 0}, r"its action_mask is \[nan"),
]


@pytest.mark.thin(2)
@pytest.mark.parametrize(("space", "odd", "message"), OUTSIDE)
@pytest.mark.parametrize("at", [0, 3])
def test_what_the_space_does_not_have_is_named_with_environment_episode_and_step(space, odd, message, at):
    with closing(shown(space, odd, at)) as env:
        runner = Runner(env, small_network(env), 4, 0, torch.Generator().manual_seed(0))
        when = "step 3" if at else "reset"
        with pytest.raises(OutsideEnvError, match=rf"^environment 0, episode 1 \(seed \d+\), {when}: {message}") as it:
            runner.collect()
    assert it.value.exit_code == 5


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("space", "odd", "expected"),
    [
        (bytes_of(2), np.array([200, 7]), [200, 7]),
        (bytes_of(2), [200.0, 7.0], [200, 7]),
        (spaces.Discrete(3, start=5), np.array(7.0), 2),
        (spaces.MultiDiscrete([3, 4]), [2, 3], [2, 3]),
        (spaces.MultiBinary(2), np.array([True, False]), [1, 0]),
        (spaces.Box(0, 9, (2,), np.int64), np.array([3.0, 4.0]), [3, 4]),
        (spaces.Box(0, 9, (3,), np.int64), np.array([2**24, -(2**24) - 2, 10**9]), [2**24, -(2**24) - 2, 10**9]),
        (spaces.Box(-1, 1, (2,)), np.array([1, 0]), [1, 0]),
        # The bounds of a Box are no choices: the policy sees what is shown.
        (spaces.Box(0, 1, (2,), np.uint8), np.array([7, 0]), [7, 0]),
        (spaces.Box(-1, 1, ()), 0.5, 0.5),
    ],
)
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_other_dtypes_are_read_for_the_same_numbers(space, odd, expected, backend):
    with closing(shown(space, odd, 0, backend)) as env:
        assert env.reset()[0].tolist() == expected


def test_a_process_each_says_the_same():
    with closing(shown(spaces.Discrete(3), 1.5, backend="async")) as env:
        runner = Runner(env, small_network(env), 4, 0, torch.Generator().manual_seed(0))
        with pytest.raises(OutsideEnvError, match=r"^environment 0, episode 1 \(seed \d+\), step 3: its observation"):
            runner.collect()


@pytest.mark.parametrize(
    ("space", "odd", "limits"),
    [
        (spaces.Discrete(3), torch.tensor(3), "3 is not within 0 to 2"),
        (spaces.MultiDiscrete([4, 3]), torch.tensor([3, 3]), "3 is not within 0 to 2"),
        (spaces.MultiDiscrete([4, 3]), torch.tensor([3, -1]), "-1 is not within 0 to 2"),
    ],
)
def test_a_tensor_program_that_shows_no_choice_of_its_space_is_named(space, odd, limits):
    env = Script([[5], [5]])
    env.observation_space = space
    plain = env.step

    def seen():
        return torch.zeros(2, *space.shape, dtype=torch.int64)

    def step(action):
        it = plain(action)
        observation = seen()
        observation[1] = odd if env.clock[1] == 3 else 0
        return Step(observation, it.reward, it.terminated, it.truncated, it.valid)

    env.step, env.observation = step, seen
    runner = Runner(env, small_network(env), 4, 0, torch.Generator().manual_seed(0))
    with pytest.raises(
        OutsideEnvError, match=f"^environment 1, step 3 of its episode: its observation is outside its space: {limits}"
    ):
        runner.collect()
