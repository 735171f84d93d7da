"""Numbers that environments tell at the end of an episode are logged, in training and in evaluation."""

import json
import sys
from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import seqrl
from seqrl.envs import EnvError, GymnasiumEnv
from seqrl.metrics.episodes import EpisodeStatistics
from seqrl.run.evaluator import means
from seqrl.runner import Runner
from tests.parts import small_network
from tests.programs import run_program

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning", "ignore::UserWarning:gymnasium"
)


class Tells(gymnasium.Env):
    """Ends after 2 or 3 steps, by turns; succeeds in the longer ones. Tells the clock only in these."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.clock, self.length = 0, 2 + self.episodes % 2
        self.episodes += 1
        return np.zeros(2, np.float32), {"is_success": True}

    def step(self, action):
        self.clock += 1
        told = {"is_success": self.length == 3, "words": "none", "many": np.zeros(3)}
        told |= {"clock": float(self.clock)} if self.length == 3 else {}
        return np.zeros(2, np.float32), 1.0, self.clock == self.length, False, told


class Shares(gymnasium.Env):
    """Has one info for all of its copies, as a class does that forgets to make one of its own; shows what it tells."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)
    told = {}  # noqa: RUF012 - that is what is wrong with it

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.mine = np.array([self.np_random.random()], np.float32)
        return self.mine, self.told

    def step(self, action):
        self.told["mine"] = float(self.mine[0])
        return self.mine, 1.0, True, False, self.told


gymnasium.register("test/Shares-v0", Shares, disable_env_checker=True)
gymnasium.register("test/Tells-v0", Tells, disable_env_checker=True)
gymnasium.register("test/TellsVector-v0", vector_entry_point=lambda num_envs: None)


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("rollout_length", [0, 5])
def test_the_end_of_every_episode_is_told_once(backend, rollout_length):
    with closing(GymnasiumEnv("test/Tells-v0", 2, 0, backend=backend, log_info=["is_success", "clock"])) as env:
        runner = Runner(env, small_network(env), rollout_length, 0, torch.Generator().manual_seed(0))
        statistics = EpisodeStatistics(2)
        told, ended = [], 0
        for _ in range(2):
            ended += len(statistics.update(runner.collect()))
            told += runner.take_ended_info()
        # Two rollouts of one episode each, or of two in five steps.
        assert len(told) == ended == (8 if rollout_length else 4)
        first = [numbers for row, numbers in told if row == 0]
        assert [numbers["is_success"] for numbers in first] == [0.0, 1.0] * (2 if rollout_length else 1)
        assert np.isnan(first[0]["clock"])
        assert first[1]["clock"] == 3.0
        assert runner.take_ended_info() == []
        statistics.note(numbers for _, numbers in told)
        assert statistics.row()["info/is_success"] == 0.5
        # A mean over those that tell it.
        assert statistics.row()["info/clock"] == 3.0
        again = EpisodeStatistics(2)
        again.load_state_dict(statistics.state_dict(), torch.ones(2, dtype=torch.bool))
        assert again.row()["info/is_success"] == 0.5


def test_of_environments_that_share_one_info_each_is_told_its_own():
    with closing(GymnasiumEnv("test/Shares-v0", 3, 0, backend="sync", log_info=["mine"])) as env:
        shown = env.reset()
        env.step(torch.zeros(3, dtype=torch.int64))
        told = env.ended_info(torch.arange(3))["mine"]
        assert torch.equal(told.float(), shown[:, 0])
        assert len(set(told.tolist())) == 3


def test_a_name_that_info_has_not_is_noted_once_with_those_it_has():
    with closing(GymnasiumEnv("test/Tells-v0", 2, 0, backend="sync", log_info=["is_succes", "many"])) as env:
        runner = Runner(env, small_network(env), 0, 0, torch.Generator().manual_seed(0))
        runner.collect()
        runner.collect()
        assert env.notes == [
            "info has no number 'is_succes' at the end of an episode, which env.log_info names: it has is_success.",
            "info has no number 'many' at the end of an episode, which env.log_info names: it has is_success.",
        ]


def test_a_vector_form_is_not_asked():
    with pytest.raises(EnvError, match=r"env\.log_info need single environments"):
        GymnasiumEnv("CartPole-v1", 2, 0, backend="vector", log_info=["is_success"])
    with closing(GymnasiumEnv("CartPole-v1", 2, 0, log_info=["is_success"])) as env:
        assert env.backend in ("sync", "async")


def test_the_mean_of_numbers_whose_sum_is_infinite_is_a_number():
    statistics, largest = EpisodeStatistics(2), sys.float_info.max
    statistics.recent.append((0.0, 1))
    statistics.note([{"cost": largest}, {"cost": largest}])
    assert statistics.row()["info/cost"] == largest
    assert means([{"cost": largest}, {"cost": largest}]) == {"cost": largest}


@pytest.mark.slow
def test_a_run_and_an_evaluation_say_the_mean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("env.id=test/Tells-v0", "env.backend=sync", "parallel=2", "episodes=4", "evaluation.episodes=4")
    words += ("network.hidden_size=8", "network.lstm_hidden_size=8", "env.log_info=[is_success]")
    result = seqrl.learn(*words, quiet=True)
    assert result.metrics[3]["info/is_success"] == 0.5
    assert result.metrics[-1]["info/evaluation_is_success"] == 0.5
    assert result.facts["info_evaluation_is_success"] == 0.5
    (tmp_path / "tells.py").write_text("from tests.envs import test_log_info\n")
    config = result.folder / "config.yaml"
    config.write_text(config.read_text().replace("id: test/Tells", "id: tells:test/Tells"))
    shown = run_program(tmp_path, "-m", "seqrl.evaluate", "run=latest", "trust=[tells]")
    assert any(line.split() == ["is_success", "0.50"] for line in shown.stdout.splitlines()), shown.stderr
    facts = json.loads((result.folder / "evaluation.json").read_text())
    assert facts["greedy"]["info"] == {"is_success": 0.5}


def test_a_number_that_is_infinite_is_left_out_of_the_mean_and_noted(monkeypatch):
    step = Tells.step

    def best_of_none(self, action):
        *answer, told = step(self, action)
        return *answer, {**told, "clock": np.inf if self.length == 2 else 3.0}

    monkeypatch.setattr(Tells, "step", best_of_none)
    with closing(GymnasiumEnv("test/Tells-v0", 2, 0, backend="sync", log_info=["clock"])) as env:
        runner = Runner(env, small_network(env), 5, 0, torch.Generator().manual_seed(0))
        runner.collect()
        statistics = EpisodeStatistics(2)
        statistics.recent.append((0.0, 1))
        statistics.note(numbers for _, numbers in runner.take_ended_info())
        assert statistics.row()["info/clock"] == 3.0
        assert env.notes == ["info['clock'] was infinite at the end of an episode, which its mean leaves out."]
