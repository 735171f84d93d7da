"""The plan that validation prints: what each bptt_length would take."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seqrl.algorithms.sequences import split, starts
from seqrl.machine import perf_counter
from seqrl.run import plan, rehearsal
from seqrl.run.build import constructor
from seqrl.run.plan import PeakMemory, Played, Way, grown, recommended, said_of_waiting
from seqrl.run.rehearsal import rehearse
from seqrl.runner import Runner
from tests.parts import small_network
from tests.test_configuration import composed
from tests.worlds import Script

SMALL = ["network.hidden_size=8", "network.lstm_hidden_size=8", "total_steps=3000", "device=cpu"]
ROW = re.compile(
    r"^ +(\d+)(?:: whole)? +(does not fit|\?|[\d,]+ MB) +(\?|[\d,]+) +(\?|\d+ \w+)(?: +(.*))?$", re.MULTILINE
)


def planned(capsys, *overrides) -> dict[int, tuple[str, str, str, str]]:
    rehearse(composed("env=masked_cartpole", *SMALL, *overrides))
    return {int(length): rest for length, *rest in ROW.findall(capsys.readouterr().out)}


def test_every_length_up_to_the_longest_episode_has_a_row_with_its_cost(capsys, monkeypatch):
    monkeypatch.setattr(plan, "TRYING", 0.05)
    began = perf_counter()
    rows = planned(capsys, "rollout_length=40", "sequence=truncated", "sequence_learning.bptt_length=20")
    assert perf_counter() - began < 15
    assert [*rows] == [8, 16, 20, 32, 0]
    for memory, speed, time, _ in rows.values():
        assert 50 < float(memory.removesuffix(" MB").replace(",", "")) < 20_000
        assert float(speed.replace(",", "")) > 0
        assert time != "?"
    assert "as you have it" in rows[20][3]
    assert "the longest that fits" in rows[0][3]
    assert sum("recommended" in row[3] for row in rows.values()) == 1


@pytest.mark.parametrize("playing", [0.0, 100.0])
def test_the_plan_is_that_of_all_environments_whoever_of_them_was_measured(monkeypatch, playing):
    budgets = []
    monkeypatch.setattr(plan, "TRYING", 0.05)
    monkeypatch.setattr(rehearsal, "PLAYING", playing)
    monkeypatch.setattr(rehearsal, "table", lambda cfg, found, played, budget: budgets.append(budget) or "")
    words = [word for word in SMALL if not word.startswith("total_steps")]
    rehearse(composed("env=masked_cartpole", *words, "episodes=30", "parallel=20"))
    assert [budget.episodes_to_end for budget in budgets] == [600]


def test_a_length_that_no_sequence_has_is_that_of_whole_ones(capsys, monkeypatch):
    monkeypatch.setattr(plan, "TRYING", 0.05)
    rehearse(composed("env=masked_cartpole", *SMALL, "rollout_length=10", "sequence_learning.bptt_length=499"))
    printed = capsys.readouterr().out
    assert re.search(r"^  0: whole .*as you have it", printed, re.MULTILINE)
    assert "No sequence here is longer than 499 steps: bptt_length=499 does what 0 does" in printed


@pytest.mark.parametrize("more", [["network=mlp"], ["sequence=off"]])
def test_where_bptt_length_means_nothing_there_is_no_plan(capsys, more):
    assert planned(capsys, "rollout_length=40", *more) == {}


@pytest.mark.slow
def test_what_does_not_fit_is_not_tried(capsys, monkeypatch):
    monkeypatch.setattr(plan, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(plan, "_learned", None)
    rows = planned(capsys, "rollout_length=40")
    assert {row[0] for row in rows.values()} == {"does not fit"}
    assert not any("recommended" in row[3] for row in rows.values())


def test_where_time_is_up_nothing_more_is_measured(capsys, monkeypatch):
    monkeypatch.setattr("seqrl.run.rehearsal.SECONDS", -100.0)
    rows = planned(capsys, "rollout_length=40")
    assert {row[:2] == ["?", "?"] for row in map(list, rows.values())} == {True}


def test_what_earlier_measurements_left_behind_counts_for_none_of_them():
    memory, kept, found = PeakMemory(torch.device("cpu")), [], []
    for _ in range(4):
        memory.forget()
        while_it_lasts = b"x" * 40_000_000
        found.append(memory.megabytes)
        del while_it_lasts
        kept.append(b"x" * 20_000_000)
    assert max(found) - min(found) < 5
    assert found[0] > 40


@pytest.mark.slow
def test_a_plan_that_was_measured_while_others_took_the_cores_says_so_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(plan, "TRYING", 0.01)
    for waited, said in ((0.7, 0), (3.0, 1)):
        clock = iter([(1.0, 5.0), (8.0, 5.0 + waited)])
        monkeypatch.setattr(rehearsal, "core_seconds", lambda clock=clock: next(clock))
        rehearse(composed("env=masked_cartpole", *SMALL, "rollout_length=16"))
        printed = capsys.readouterr().out
        assert printed.count("The machine was busy") == said
    assert "The machine was busy: 30% of this was waiting for a core." in printed


def test_environments_that_take_cores_themselves_and_systems_that_are_silent_are_no_busy_machine():
    assert said_of_waiting(1.0, 9.0, "async") == ""
    assert said_of_waiting(1.0, 9.0, "sync")
    assert said_of_waiting(0.0, 0.0, "") == ""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not tell")
def test_two_that_share_a_core_wait_half_of_the_time():
    code = """
import os, sys
from time import monotonic
from seqrl.machine import core_seconds
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
other = os.fork()
before, end = core_seconds(), monotonic() + 1
while monotonic() < end:
    pass
if other:
    os.waitpid(other, 0)
    print(*(now - then for now, then in zip(core_seconds(), before)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    computed, waited = map(float, done.stdout.split())
    assert computed > 0
    assert waited > 0.5 * computed


def test_the_longest_that_is_hardly_slower_than_the_quickest_is_recommended():
    found = [
        Way(8, 1.0, 1000.0, True),
        Way(64, 1.0, 900.0, True),
        Way(0, 1.0, 500.0, True),
        Way(128, None, None, False),
    ]
    assert recommended(found) == found[1]
    assert recommended([Way(0, None, None, True)]) is None
    # The speed that counts is the one that lasts.
    assert recommended([Way(8, 1.0, 1000.0, True), Way(0, 1.0, 1000.0, True, grown=700.0)]).bptt_length == 8
    assert recommended([Way(8, 1.0, 1000.0, True), Way(0, 1.0, 1000.0, True, grown=900.0)]).bptt_length == 0


def rollout_of(lengths, steps=12):
    env = Script(lengths)
    runner = Runner(env, small_network(env, "gru"), steps, 0, None)
    runner.collect()
    return runner.collect()


def test_episodes_that_grow_fill_the_rollout_and_those_that_are_equally_long_do_not_grow():
    rollout = rollout_of([[3, 4], [5]])
    longer = grown(rollout)
    assert int(starts(rollout.age, 0).sum()) > 2
    assert starts(longer.age, 0).sum(0).tolist() == [1, 1]
    assert torch.equal(longer.valid, rollout.valid)
    assert grown(rollout_of([[4], [4]])) is None
    assert grown(rollout_of([[99], [98]])) is None


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize(("for_a_step", "slower"), [(0.0, False), (0.01, True)])
def test_a_run_that_slows_down_as_its_episodes_grow_says_so_below_the_table(capsys, monkeypatch, for_a_step, slower):
    def learned(algorithm, rollout, *_):
        """Seconds that a gradient step takes, by its longest sequence, and megabytes."""
        sequences = split(rollout, rollout.value, rollout.value, algorithm.settings.bptt_length)
        return 1 + for_a_step * sequences.length.max(), 100.0

    monkeypatch.setattr(plan, "_learned", learned)
    rehearse(composed("env=masked_cartpole", *SMALL, "rollout_length=200", "parallel=4"))
    printed = capsys.readouterr().out
    said = re.search(
        r"Where episodes fill a rollout of 200 steps, 0: whole does (\d+) steps/s, .+ for this run", printed
    )
    assert (said is not None) == slower
    if said:
        # A gradient step takes 3 seconds then; a beginner's episodes are shorter than 120 steps.
        assert 1.3 * int(said[1]) < int(re.search(r"0: whole +100 MB +(\d+)", printed)[1])


def test_what_many_environments_take_is_measured_together_where_they_are_one_program(monkeypatch):
    cfg = composed("env=tmaze", "parallel=40", "rollout_length=256", *SMALL)
    rollout = SimpleNamespace()
    small = Played(rollout, seconds=3.0, larger=10.0)
    asked = []

    def played(run):
        asked.append((run.runner.rollout_length, run.runner.env.batch_size))
        return Played(rollout, seconds=0.5)

    monkeypatch.setattr(rehearsal, "_played", played)
    together = rehearsal._played_together(cfg, constructor(cfg.device)(), small)
    assert asked == [(32, 40)]
    # Half a second for 32 of 256 steps.
    assert together.larger * together.seconds == pytest.approx(4.0)
    processes = replace(small, backend="async")
    assert rehearsal._played_together(cfg, constructor(cfg.device)(), processes) is processes
