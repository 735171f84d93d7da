import math
import re
import time
from dataclasses import replace

import pytest
import torch

from seqrl.metrics.clock import Clock
from seqrl.metrics.display import Display
from seqrl.metrics.episodes import EpisodeStatistics
from seqrl.runner import Runner
from seqrl.text import duration, figure, percentages
from tests.parts import small_network
from tests.worlds import Script


@pytest.mark.parametrize("rollout_length", [1, 3, 7, 50])
@pytest.mark.parametrize("ghosts", [False, True])
def test_episodes_are_summed_across_rollouts_without_ghost_steps(rollout_length, ghosts):
    env = Script([[3, 5], [4]], ghosts=ghosts)
    runner = Runner(env, small_network(env), rollout_length, 0, torch.Generator().manual_seed(0))
    statistics = EpisodeStatistics(2)
    ended = [episode for _ in range(-(-60 // rollout_length)) for episode in statistics.update(runner.collect())]
    # Rewards are 1, 2, 3, ...: an episode of n steps returns n (n + 1) / 2.
    assert {length for _, length in ended} == {3, 4, 5}
    assert all(reward == length * (length + 1) / 2 for reward, length in ended)
    assert statistics.ended == len(ended)


def test_whole_episodes_are_counted_once_each():
    env = Script([[3], [1]])
    runner = Runner(env, small_network(env), 0, 0, torch.Generator().manual_seed(0))
    statistics = EpisodeStatistics(2)
    assert sorted(statistics.update(runner.collect())) == [(1.0, 1), (6.0, 3)]
    assert sorted(statistics.update(runner.collect())) == [(1.0, 1), (6.0, 3)]
    assert statistics.row()["rollout/return_mean"] == 3.5


def test_an_episode_is_summed_by_itself_whatever_others_return():
    env = Script([[2]])
    rollout = Runner(env, small_network(env), 5, 0, torch.Generator().manual_seed(0)).collect()
    statistics, small = EpisodeStatistics(1), torch.tensor([[-(2.0**60)], [0.0], [0.25], [0.5], [0.125]])
    assert [it for it, _ in statistics.update(replace(rollout, reward=small))] == [-(2.0**60), 0.75]
    # The episode in progress goes on.
    ended = statistics.update(replace(rollout, reward=small.flip(0)))
    assert ended[0] == (0.125 + 0.125 + 0.5, 3)


def test_a_clock_that_has_not_moved_gives_no_speed(monkeypatch):
    monkeypatch.setattr("seqrl.metrics.clock.perf_counter", lambda: 1.7e9)
    clock = Clock()
    clock.lap("environment")
    row = clock.row(env_steps=10)
    assert (row["time/elapsed_seconds"], row["time/steps_per_second"], row["time/environment_share"]) == (0, 0, 0)


def test_time_passes_where_the_module_time_is_frozen(monkeypatch):
    for name in ("time", "monotonic", "perf_counter", "process_time"):
        monkeypatch.setattr(time, name, lambda: 1.7e9)
    clock = Clock()
    clock.lap("environment")
    assert clock.elapsed > 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.4, "4 s"), (125, "2 min 05 s"), (12000, "3 h 20 min"), (math.inf, "?"), (3599.9, "1 h 00 min")],
)
def test_a_duration_is_readable(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (481.26, "481.3"), (-21.0, "-21.0"), (0.974, "0.97"), (-0.0123, "-0.01"), (0.001, "0.0010"),
        (-0.00314, "-0.0031"), (4.2e-5, "4.2e-05"), (-1e-9, "0.00"), (1.2e21, "1.20e+21"), (-0.0, "0.00"),
        (math.nan, "-"),
    ],
)  # fmt: skip
def test_a_return_is_rounded_to_its_meaningful_digits(number, text):
    assert figure(number) == text


@pytest.mark.parametrize(
    ("shares", "shown"),
    [
        ({"a": 0.333, "b": 0.333, "c": 0.334}, {"c": 34, "a": 33, "b": 33}),
        ({"a": 0.006, "b": 0.994}, {"b": 99, "a": 1}),
        ({"a": 0.001, "b": 0.999}, {"b": 100}),
        ({"a": 0.0}, {}),
    ],
)
def test_percentages_add_up_to_a_hundred(shares, shown):
    assert percentages(shares) == shown
    assert sum(shown.values()) in (0, 100)


def test_the_last_thing_in_a_terminal_is_how_the_run_ended(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with Display() as display:
        display.evaluating(0.9)
        display.end("finished in 3 s", 1.0, 3.0)
    # Rich draws the bar once more, and erases the line.
    shown = re.split(r"\x1b\[2K", capsys.readouterr().out)
    assert "finished in 3 s" in "".join(shown[:-1])
    assert "evaluating" in shown[-2]
    assert shown[-1] == ""
