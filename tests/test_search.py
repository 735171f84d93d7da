"""A search whose processes are killed, or share it, and whose journal or disk is not as it should be."""

import errno
import json
import os
from pathlib import Path
from threading import Thread

import pytest

from seqrl.errors import ConfigError, UnsavedError
from seqrl.tune.space import Dimension

pytest.importorskip("optuna")
from seqrl.tune.journal import opened
from seqrl.tune.search import Plan, Search

SPACE = [Dimension("algorithm.learning_rate", low=1e-4, high=1e-2, log=True), Dimension("algorithm.epochs", 1, 4)]
KEYS = {dimension.key for dimension in SPACE}


SEARCHES: list[Search] = []


def search(folder: Path, trials: int = 3) -> Search:
    SEARCHES.append(Search(Plan(study=folder, trials=trials), SPACE))
    return SEARCHES[-1]


@pytest.fixture(autouse=True)
def _ended():
    yield
    for it in SEARCHES:
        kill(it)
    SEARCHES.clear()


def kill(search: Search) -> None:
    """Let go of its trials, as the system does when a process is killed."""
    for _, claim, _ in search.running.values():
        claim.release()


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "journal.log").read_text().splitlines()]


def rewrite(folder: Path, logs: list[dict]) -> None:
    (folder / "journal.log").write_text("".join(json.dumps(log) + "\n" for log in logs))


def begun(search: Search) -> dict[int, list[str]]:
    """Values of the trials that a search runs."""
    return {number: trial.arguments for number, (trial, _, _) in search.running.items()}


@pytest.fixture
def finished(tmp_path):
    """The folder of a search in which a trial has finished."""
    one = search(tmp_path)
    one._begin_next()
    one._end(0, "COMPLETE", 1.0)
    return tmp_path


@pytest.mark.parametrize("proposed", [0, 1])
def test_a_trial_that_was_proposed_by_half_is_left_out_and_the_next_gets_all_of_its_values(tmp_path, proposed):
    whole = search(tmp_path / "whole")
    whole._begin_next()
    half = search(tmp_path / "half")
    half._begin_next()
    kill(half)
    logs = logged(tmp_path / "half")
    values = [number for number, log in enumerate(logs) if log["op_code"] == 5]
    rewrite(tmp_path / "half", logs[: values[0] + proposed])
    again = search(tmp_path / "half")
    assert again._begin_next()
    # Whether or not it was interrupted, the search proposes the same.
    assert begun(again) == {1: begun(whole)[0]}
    again._end(1, "COMPLETE", -1.0)
    assert "1 finished. Best, trial 1: -1" in again.best()


def test_the_best_trial_is_said_where_it_cannot_be_written_down(finished):
    finished = finished.rename(finished.with_name("a b"))
    (finished / "best.yaml").mkdir()
    again = search(finished, trials=1)
    again.run()
    assert "1 finished. Best, trial 0: 1\n\n  python -m seqrl.train algorithm.learning_rate=" in again.best()
    assert again.best().endswith(f"python -m seqrl.report '{finished}'")
    with pytest.raises(UnsavedError, match=r"best\.yaml: could not be written: Is a directory\. Remove what stands in"):
        again.keep_best()


@pytest.mark.parametrize(("value", "is_alike"), [(1.0, True), (0.5, False)])
def test_a_search_whose_trials_all_return_the_same_says_that_nothing_was_told_apart(finished, value, is_alike):
    again = search(finished)
    again._begin_next()
    again._end(1, "COMPLETE", value)
    told = "2 finished. Best, trial 0: 1, as every other: nothing was told apart\n"
    assert (told in again.best()) is is_alike


def test_a_trial_with_some_of_its_values_that_an_older_version_finished_is_not_the_best(finished):
    logs = logged(finished)
    rewrite(finished, [log for log in logs if log.get("param_name") != "algorithm.epochs"])
    assert search(finished).best() == "No trial has finished."


def test_only_one_search_proposes_at_a_time_so_that_no_trial_is_taken_by_half_or_too_much(tmp_path, monkeypatch):
    one, other = search(tmp_path, trials=1), search(tmp_path, trials=1)
    beside = Thread(target=other._begin_next)
    suggest = Dimension.suggest

    def suggest_slowly(self, trial):
        value = suggest(self, trial)
        if not beside.ident:
            beside.start()
            beside.join(0.3)
        return value

    monkeypatch.setattr(Dimension, "suggest", suggest_slowly)
    assert one._begin_next()
    beside.join(10)
    assert [list(begun(it)) for it in (one, other)] == [[0], []]
    assert [set(trial.params) for trial in one.study.trials] == [KEYS]


def test_a_trial_that_another_process_has_just_ended_is_not_taken_again(tmp_path):
    one, other = search(tmp_path, trials=1), search(tmp_path, trials=1)
    one._begin_next()
    stale = other._trials()[0]
    assert not other._begin_next()
    assert other.best() == "No trial has finished; 1 running in another process."
    one._end(0, "COMPLETE", 1.0)
    assert not other._take(stale)
    assert not other._begin_next()


@pytest.mark.parametrize(
    "senseless",
    [
        {"op_code": 5, "worker_id": "x"},
        {"op_code": 99, "worker_id": "x"},
        {"op_code": 4, "worker_id": "x", "study_id": 0, "datetime_start": 3},
        {"op_code": 4, "worker_id": "x", "study_id": "0", "datetime_start": None},
        {"op_code": 6, "worker_id": "x", "trial_id": 1, "state": 1, "values": ["x"]},
        {"op_code": 7, "worker_id": "x", "trial_id": 1, "step": 1, "intermediate_value": None},
        {"op_code": 2, "worker_id": "x", "study_id": 0, "user_attr": 3},
    ],
)
def test_a_line_of_the_journal_that_makes_no_sense_is_named(finished, senseless):
    logs = logged(finished)
    rewrite(finished, [*logs, senseless, logs[-1]])
    with pytest.raises(ConfigError) as refused:
        search(finished)
    (line,) = refused.value.faults
    assert f"journal.log is damaged in line {len(logs) + 1}. To go on, keep what was before" in line


def test_a_journal_that_says_everything_twice_goes_on(finished):
    rewrite(finished, 2 * logged(finished))
    again = search(finished)
    assert again._count("COMPLETE") == 1
    assert again._begin_next()
    (arguments,) = begun(again).values()
    assert len(arguments) == 2


def test_a_full_disk_gets_one_line_and_leaves_no_half_of_one(finished, monkeypatch):
    journal = opened(finished / "journal.log")
    before = (finished / "journal.log").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError) as refused:
            journal.append_logs([{"op_code": 1}])
    (line,) = refused.value.faults
    path = finished / "journal.log"
    assert line == (
        f"study: {path} cannot be written: No space left on device. Free some space, and continue with study={finished}"
    )
    assert path.read_bytes().startswith(before)
    assert path.read_bytes().endswith(b"\n")


def test_on_a_disk_without_links_a_search_is_refused_with_the_remedy(tmp_path, monkeypatch):
    """As exFAT is, through FUSE."""

    def unlinked(*_, **__):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("os.symlink", unlinked)
    said = (
        r"study: .* is on a disk that has no links \(Function not implemented\), .*\. Choose another disk, with study="
    )
    with pytest.raises(ConfigError, match=said):
        Search(Plan(study=tmp_path / "study"), [Dimension("seed", choices=(7,))]).run()


def test_a_search_that_was_recorded_otherwise_is_refused_in_one_line(finished):
    logs = logged(finished)
    rewrite(finished, [*logs, logs[1] | {"user_attr": {"search": 3}}])
    with pytest.raises(ConfigError, match="was started with a different search"):
        search(finished)


CHOICES = [Dimension("network", choices=("lstm", "gru")), *SPACE]
FORGED = {
    "a choice": ("network", 2, {"name": "CategoricalDistribution", "attributes": {"choices": ["lstm", "gru", "../x"]}}),
    "other choices": ("network", 0, {"name": "CategoricalDistribution", "attributes": {"choices": ["lstm", "mlp"]}}),
    "a number": (
        "algorithm.epochs",
        1e9,
        {"name": "IntDistribution", "attributes": {"low": 1, "high": 10**9, "step": 1, "log": False}},
    ),
    "a kind": (
        "algorithm.epochs",
        2.5,
        {"name": "FloatDistribution", "attributes": {"low": 1.0, "high": 4.0, "step": None, "log": False}},
    ),
    "choices for a range": (
        "algorithm.learning_rate",
        0,
        {"name": "CategoricalDistribution", "attributes": {"choices": [0.001, 0.002]}},
    ),
}


@pytest.mark.parametrize("state", ["RUNNING", "FAIL"])
@pytest.mark.parametrize("what", FORGED)
def test_a_value_that_the_space_does_not_propose_is_refused_in_one_line_and_never_run(tmp_path, what, state):
    key, value, distribution = FORGED[what]
    one = Search(Plan(study=tmp_path), CHOICES)
    one._begin_next()
    if state == "FAIL":
        one._end(0, "FAIL", outcome="failed: x")
    kill(one)
    logs = logged(tmp_path)
    forged = {"param_value_internal": value, "distribution": json.dumps(distribution)}
    rewrite(tmp_path, [log | forged if log.get("param_name") == key else log for log in logs])
    again = Search(Plan(study=tmp_path), CHOICES)
    with pytest.raises(ConfigError, match=rf"trial 0 has {key}=.*, which search=ppo does not propose\. Choose another"):
        again.run()
    assert not again.running
