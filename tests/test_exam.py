"""The exam, the league, and longer episodes than it has: what is left to do, and what their tables say."""

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import longer
import pytest
from exam import Result, Sitting, Task, table
from league import at_equal_seconds, at_equal_steps

TASK = Task("env=tmaze env.corridor_length=20", 1000, 0.95)


def finished(network, seed, returned, seconds, task="masked_cartpole"):
    """A run whose return rose evenly while the seconds passed."""
    curve = [[seconds * share / 20, returned * share / 20] for share in range(1, 21)]
    return Result(task, network, seed, 1000, seconds, returned, 0.5, curve)


def commands(monkeypatch):
    given = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: given.append(command) or subprocess.CompletedProcess(command, 0)
    )
    return given


def test_what_a_record_holds_is_not_trained_again(tmp_path, monkeypatch):
    given = commands(monkeypatch)
    record = tmp_path / "record.jsonl"
    record.write_text(json.dumps(asdict(finished("mingru:2", 1, 1.0, 10.0, task="tmaze_20"))) + "\n")
    sitting = Sitting(tmp_path / "exam", record, jobs=1, words=["parallel=4"])
    assert sitting.train("tmaze_20", TASK, "mingru:2", range(3)) == 0
    assert sitting.train("tmaze_20", TASK, "mingru:2", [1]) == 0
    (command,) = given
    assert {"network=mingru", "network.layers=2", "seed=0,2", "total_steps=1000", "parallel=4"} < {*command}
    # The record still holds what it held.
    assert [it.seed for it in sitting.results()["tmaze_20", "mingru:2"]] == [1]


@pytest.mark.parametrize(("returned", "verdict"), [(474.0, "**not passed**"), (475.0, "passed")])
def test_the_median_of_all_seeds_passes(returned, verdict):
    runs = [finished("lstm", seed, it, 10.0) for seed, it in enumerate([500.0, returned, 9.0])]
    assert table({("masked_cartpole", "lstm"): runs}).splitlines()[2:] == [
        f"| masked_cartpole | lstm | 3 | {returned} (9.000 to 500.0) | 0.500 | 475 | 1,000 | 10 | {verdict} |"
    ]


def test_cells_are_compared_after_as_many_steps_and_after_as_many_seconds():
    results = {
        ("masked_cartpole", "lstm"): [finished("lstm", 0, 400.0, 20.0)],
        ("masked_cartpole", "mingru"): [finished("mingru", 0, 300.0, 10.0)],
    }
    assert at_equal_steps(results).splitlines()[-1] == "| masked_cartpole, 150,000 | 400.0 | 300.0 |"
    # The LSTM had done half of its steps.
    assert at_equal_seconds(results).splitlines()[-1] == "| masked_cartpole, 150,000 | 200.0 | 300.0 |"


def test_finished_policies_are_asked_once_for_each_length(tmp_path, monkeypatch, capsys):
    for place, task, status in ("gru", "tmaze_100", "finished"), ("mingru_2", "tmaze_100", "running"):
        run = tmp_path / "league" / task / place / "0_seed-3"
        run.mkdir(parents=True)
        (run / "manifest.json").write_text(json.dumps({"status": status, "seed": 3}))
    record = tmp_path / "longer.jsonl"
    before = longer.Asked("tmaze_100", "mingru:2", 0, 4, 0.5)
    record.write_text(json.dumps(asdict(before)) + "\n")
    given = []

    def evaluate(command, check):
        run, longer_maze, *_ = command[3:]
        given.append(longer_maze)
        results = {"seed": 3, "greedy": {"return_mean": 100 / int(longer_maze.partition("=")[2])}}
        Path(run.removeprefix("run="), "evaluation.json").write_text(json.dumps(results))

    monkeypatch.setattr(subprocess, "run", evaluate)
    monkeypatch.setattr("sys.argv", ["longer.py", str(tmp_path / "league"), f"--record={record}"])
    longer.main()
    longer.main()
    assert given == ["env.corridor_length=100", "env.corridor_length=200", "env.corridor_length=400"]
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "| tmaze_100, T | 1.000 |  |",
        "| tmaze_100, 2T | 0.500 |  |",
        "| tmaze_100, 4T | 0.250 | 0.500 |",
    ]
