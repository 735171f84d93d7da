"""The plan that validation prints: what each bptt_length would take."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from seqrl.machine import perf_counter
from seqrl.run import plan, rehearsal
from seqrl.run.build import constructor
from seqrl.run.plan import PeakMemory, Played, Way, recommended
from seqrl.run.rehearsal import rehearse
from tests.test_configuration import composed

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


@pytest.mark.parametrize("more", [["network=mlp"], ["sequence=off"]])
def test_where_bptt_length_means_nothing_there_is_no_plan(capsys, more):
    assert planned(capsys, "rollout_length=40", *more) == {}


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


def test_the_longest_that_is_hardly_slower_than_the_quickest_is_recommended():
    found = [
        Way(8, 1.0, 1000.0, True),
        Way(64, 1.0, 900.0, True),
        Way(0, 1.0, 500.0, True),
        Way(128, None, None, False),
    ]
    assert recommended(found) == found[1]
    assert recommended([Way(0, None, None, True)]) is None


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
