"""What an environment keeps from episode to episode, and nothing saves, is named."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.wrappers import vector

from seqrl.envs import GymnasiumEnv
from seqrl.envs.gym.lasting import lasting, note
from seqrl.envs.inputs import WithInputs
from seqrl.verify.layers import time_limit
from tests.envs.clocks import Clock


class Centred(gymnasium.Wrapper):
    """Keeps a mean under a name of its own."""

    def __init__(self, env):
        super().__init__(env)
        self.running_mean = np.zeros(4)


class MyNormalizer(wrappers.NormalizeObservation):
    pass


class HalvedReward(gymnasium.RewardWrapper):
    def reward(self, reward):
        return reward / 2


class Scaled(gymnasium.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.scale = wrappers.utils.RunningMeanStd()


KEEP = [wrappers.NormalizeObservation, wrappers.NormalizeReward, Centred, MyNormalizer, Scaled]
NOT = [
    HalvedReward,
    wrappers.FlattenObservation,
    wrappers.RecordEpisodeStatistics,
    lambda env: wrappers.FrameStackObservation(env, 2),
    lambda env: wrappers.TransformReward(env, abs),
]


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_wrappers_that_keep_statistics_are_named_outermost_first(backend):
    made = GymnasiumEnv("CartPole-v1", 2, seed=0, wrappers=KEEP, backend=backend)
    names = ["Scaled", "MyNormalizer", "Centred", "NormalizeReward", "NormalizeObservation"]
    with closing(WithInputs(made, ["first"])) as env:
        assert env.notes == [note(names)]


def test_wrappers_that_forget_with_every_episode_are_not_named():
    with closing(GymnasiumEnv("CartPole-v1", 2, seed=0, wrappers=NOT, backend="sync")) as env:
        assert env.notes == []


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("behind", [True, False])
def test_an_environment_that_holds_itself_is_played(backend, behind):
    class Robot:
        def __init__(self, env):
            self.env = env

    def wrap(env):
        env.unwrapped.env = Robot(env.unwrapped) if behind else env.unwrapped
        return env

    with closing(GymnasiumEnv("CartPole-v1", 2, seed=0, wrappers=[Centred, wrap], backend=backend)) as env:
        assert env.notes == [note(["Centred"])]
        env.reset()
        assert env.state_dict()
        if backend == "sync":
            assert time_limit(env) == 500


def test_wrappers_of_a_vector_form_are_named():
    envs = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point")
    assert lasting(vector.NormalizeReward(vector.NormalizeObservation(envs))) == [
        "NormalizeReward",
        "NormalizeObservation",
    ]
    with closing(GymnasiumEnv("CartPole-v1", 2, seed=0)) as env:
        assert (env.backend, env.notes) == ("vector", [])


def test_the_note_names_them_and_the_remedy():
    said = note(["NormalizeObservation"])
    assert said.startswith("NormalizeObservation keeps statistics from episode to episode")
    assert "network.normalize_observations=true" in said


class Configured(Clock):
    """Its attributes are those of a configuration, which knows no other names and has numbers for some."""

    def __init__(self):
        super().__init__()
        self.__dict__.update({0: "left", "config": {"size": 3}})

    def __getattr__(self, name):
        return self.__dict__["config"][name]


gymnasium.register("test/Configured-v0", Configured, disable_env_checker=True)


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_an_environment_whose_attributes_are_those_of_a_configuration_is_played(backend):
    with closing(GymnasiumEnv("test/Configured-v0", 2, seed=0, backend=backend)) as env:
        env.reset()
        assert env.state_dict()
        assert env.notes == []
