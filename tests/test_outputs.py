"""What fails beside the training is said once and does not end it."""

import errno
import json
import multiprocessing
import os
from collections import namedtuple

import pytest
import torch

from seqrl.envs import FaultyEnvError
from seqrl.errors import ConfigError, UnsavedError
from seqrl.loggers import About, Logger, TensorBoard
from seqrl.machine import end_at_once
from seqrl.metrics.episodes import EpisodeStatistics
from seqrl.run import checkpoint
from seqrl.run.checkpoint import Checkpoints
from seqrl.run.outputs import Outputs, open_loggers
from seqrl.run.run import Budget, Run
from seqrl.run.summary import curves
from seqrl.runner import Runner
from tests.parts import ppo, room, small_network
from tests.worlds import Script


class Fickle(Logger):
    """Fails as long as it is told to."""

    def __init__(self):
        self.fails, self.rows = False, []

    def write(self, row, env_steps):
        if self.fails:
            raise RuntimeError("no connection\nand more")
        self.rows.append((env_steps, row))

    def close(self):
        self.write({}, -1)


@pytest.fixture
def said():
    return []


@pytest.fixture
def outputs(tmp_path, said):
    with Outputs(tmp_path, said.append) as outputs:
        outputs.loggers = {"fickle": Fickle(), "firm": Fickle()}
        yield outputs


def small_run():
    env = Script([[3], [4]])
    network = small_network(env)
    runner = Runner(env, network, 5, 0, torch.Generator().manual_seed(0))
    return Run(runner, ppo(network), Budget(100, None), EpisodeStatistics(2))


def test_a_logger_that_fails_is_said_once_and_tried_again(outputs, said):
    fickle, firm = outputs.loggers.values()
    for step, fickle.fails in enumerate([False, True, True, False, False, True]):
        outputs.write({"x": 1.0}, step)
    for logger in outputs.loggers.values():
        outputs._attempt(f"logger {'fickle' if logger is fickle else 'firm'}", logger.close)
    failed = "logger fickle: RuntimeError: no connection (test_outputs.py:35)"
    warning = f"warning: {failed}. Training continues and will retry."
    assert said == [warning, "logger fickle: works again; it may lack rows", warning]
    assert [step for step, _ in fickle.rows] == [0, 3, 4]
    assert [step for step, _ in firm.rows] == [0, 1, 2, 3, 4, 5, -1]


class Takes(Logger):
    """Takes apart what it is told."""

    def begin(self, about):
        about.config.clear()
        about.overrides.clear()

    def write(self, row, env_steps):
        row.clear()


def test_a_logger_may_change_what_it_is_told(said, tmp_path):
    row, about = {"x": 1.0}, About("run", None, {"seed": 1}, ["seed=1"])
    with Outputs(tmp_path, said.append) as outputs:
        outputs.loggers = open_loggers({"takes": Takes, "firm": Fickle}, about, said.append)
        outputs.write(row, 1)
        assert outputs.loggers["firm"].rows == [(1, {"x": 1.0})]
    assert (row, about.config, about.overrides, said) == ({"x": 1.0}, {"seed": 1}, ["seed=1"], [])


def test_a_logger_that_fails_does_not_work_again_because_it_has_nothing_to_wait_for(outputs, said):
    outputs.loggers["fickle"].fails = True
    run = small_run()
    for step in range(3):
        outputs.write({"x": 1.0}, step)
        assert outputs.save(run)
    outputs.loggers["fickle"].fails = False
    assert len(said) == 1


def test_a_checkpoint_that_cannot_be_written_is_said_and_the_older_one_survives(outputs, said, tmp_path):
    run = small_run()
    assert outputs.save(run)
    run.iterate()
    (tmp_path / "checkpoints").rename(tmp_path / "moved")
    # A file where a folder is expected fails for everyone, also for root.
    (tmp_path / "checkpoints").write_text("in the way")
    assert not outputs.save(run)
    assert not outputs.save(run)
    (line,) = said
    assert line.startswith("warning: checkpoint: ")
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "moved").rename(tmp_path / "checkpoints")
    assert Checkpoints(tmp_path).newest()[0]["iterations"] == 0
    assert outputs.save(run)
    assert Checkpoints(tmp_path).newest()[0]["iterations"] == 1


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_removed_is_said_once_and_costs_nothing_else(outputs, said, tmp_path, monkeypatch):
    unlink, stray = os.unlink, f".seqrl-{'0' * 16}.tmp"

    def refused(path, **more):
        if os.path.basename(path) in ("00000002.pt", stray):
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, **more)

    run, folder = small_run(), tmp_path / "checkpoints"
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refused)
        for _ in range(5):
            run.iterate()
            assert outputs.save(run)
            (folder / stray).touch()
        best = outputs.checkpoints.best[0]
        assert {it.name for it in folder.glob("*.pt")} == {f"{it:08d}.pt" for it in (2, best, 4, 5)}
    (line,) = said
    assert line.startswith("warning: removing old checkpoints: PermissionError: [Errno 1] Operation not permitted: '")
    run.iterate()
    assert outputs.save(run)
    assert not (folder / "00000002.pt").exists()
    assert said[1:] == ["removing old checkpoints: works again"]
    outputs.finish(run, {}, 1.0)


def test_the_fault_of_an_environment_is_none_of_the_disk(outputs):
    run = small_run()

    def fail():
        raise FaultyEnvError("environment 0: its state_dict raised")

    run.runner.state_dict = fail
    with pytest.raises(FaultyEnvError):
        outputs.save(run)


def test_a_manifest_that_cannot_be_written_ends_nothing(outputs, said, tmp_path, monkeypatch):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        outputs.note(env_steps=3)
    outputs.note(result=1.0)
    assert len(said) == 2
    assert "No space left on device" in said[0]
    facts = json.loads((tmp_path / "manifest.json").read_text())
    assert (facts["env_steps"], facts["result"]) == (3, 1.0)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_whose_folder_was_moved_leaves_the_one_begun_in_its_place_alone(said, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    run = small_run()
    with Outputs(folder, said.append) as old:
        assert old.save(run)
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        with Outputs(folder, said.append) as new:
            for _ in range(3):
                run.iterate()
                assert new.save(run)
            new.note(result=7.0)
            before = files(folder)
            run.iterate()
            assert not old.save(run)
            old.note(result=1.0)
            assert old.dump("not_finite.pt", {}) is None
            assert files(folder) == before
        # The same where nothing is in its place.
        folder.rename(tmp_path / "moved too")
        with pytest.raises(UnsavedError, match=r"run folder: .* was moved away, and the final policy is not saved\.$"):
            old.finish(run, {}, 1.0)
    moved = f"OSError: {folder} was moved away, and nothing more is written there. Training continues and will retry."
    assert said == [f"warning: {name}: {moved}" for name in ("checkpoint", "manifest", "not_finite.pt")]
    assert not folder.exists()


def test_a_result_that_cannot_be_saved_is_an_error_though_the_policy_is(said, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    run = small_run()
    with Outputs(folder, said.append) as outputs:
        assert outputs.save(run)
        why = rf"result could not be saved in {folder}: File too large\..* again with resume={folder}$"
        with room(10), pytest.raises(UnsavedError, match=why):
            outputs.finish(run, {}, 1.0)
        assert json.loads((folder / "manifest.json").read_text())["status"] == "running"
        folder.rename(tmp_path / "moved")
        with pytest.raises(UnsavedError, match=r"run folder: .* was moved away, and the result is not saved\.$"):
            outputs.finish(run, {}, 1.0)
    assert not said


def test_how_to_go_on_says_what_is_saved_and_whether_the_folder_is_still_there(said, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with Outputs(folder, said.append) as outputs:
        assert outputs.advice() == f"Continue with resume={folder}"
        older = f"Continue from an older checkpoint (the newest could not be saved) with resume={folder}"
        assert outputs.advice(saved=False) == older
        folder.rename(tmp_path / "moved")
        for _ in range(2):
            assert outputs.advice().startswith(f"Its folder {folder} was moved away or removed, and what came after")
            assert f"resume={folder}" not in outputs.advice()
            # One begun in its place is none to go on with.
            folder.mkdir(exist_ok=True)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO])
def test_a_folder_that_is_out_of_reach_was_not_moved_and_how_to_go_on_is_said(said, tmp_path, monkeypatch, number):
    run, stat = small_run(), os.stat

    def unreachable(path, *more, **also):
        if str(path).startswith(str(tmp_path)):
            raise OSError(number, os.strerror(number), str(path))
        return stat(path, *more, **also)

    with Outputs(tmp_path, said.append) as outputs:
        assert outputs.save(run)
        run.iterate()
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", unreachable)
            assert not outputs.save(run)
            with pytest.raises(UnsavedError, match=r"the final policy could not be saved .* again with resume="):
                outputs.finish(run, {}, 1.0)
            assert outputs.advice() == f"Continue with resume={tmp_path}"
            assert curves(tmp_path) == f"{tmp_path}/metrics.jsonl"


def test_a_logger_that_fails_does_not_work_again_because_the_run_ends(said, tmp_path):
    fickle = Fickle()
    with Outputs(tmp_path, said.append) as outputs:
        outputs.loggers, fickle.fails = {"fickle": fickle}, True
        outputs.write({"x": 1.0}, 0)
    assert len(said) == 1


def test_a_failure_is_dumped_as_plain_data(outputs, tmp_path):
    path = outputs.dump("not_finite.pt", {"gradients": {"a": torch.ones(2)}})
    assert path == tmp_path / "not_finite.pt"
    assert torch.load(path, weights_only=True)["gradients"]["a"].tolist() == [1, 1]


def test_a_run_that_a_full_disk_ends_before_anything_is_saved_leaves_nothing(said, tmp_path):
    (folder := tmp_path / "run").mkdir()

    def begin():
        with Outputs(folder, said.append) as outputs:
            (folder / "config.yaml").write_text("seed: 1")
            outputs.checkpoints.begin({"weight": torch.zeros(10_000)}, 0)

    with room(5_000), pytest.raises(OSError, match="File too large"):
        begin()
    assert not folder.exists()


def test_a_folder_without_room_is_noticed_before_training(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage(10_000))
    with pytest.raises(ConfigError, match=r"^run folder: 0\.0 MB are free in .*, and its checkpoints need 0\.2 MB\."):
        Checkpoints(tmp_path).begin({"weight": torch.zeros(10_000)}, 0)


def test_a_run_that_goes_on_notices_before_training_that_its_checkpoints_cannot_be_written(tmp_path, monkeypatch):
    Checkpoints(tmp_path).begin({"weight": torch.zeros(10)}, 0)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "checkpoints")
    with pytest.raises(PermissionError, match=rf"Permission denied: '{tmp_path}/checkpoints'"):
        Checkpoints(tmp_path).begin({"weight": torch.zeros(10)}, 0)


def test_tensorboard_writes_again_when_the_disk_can(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(tmp_path)
    logger.write({"x": 1.0}, 1)
    logger._writer.add_scalar = None
    with pytest.raises(TypeError):
        logger.write({"x": 2.0}, 2)
    logger.write({"x": 3.0}, 3)
    logger.close()
    steps = []
    for file in sorted(tmp_path.glob("events*")):
        events = EventAccumulator(str(file))
        events.Reload()
        steps += [event.step for event in events.Scalars("x")] if "x" in events.Tags()["scalars"] else []
    assert 3 in steps


def ended_at_once(folder):
    with Outputs(folder, print) as outputs:
        outputs.loggers = {"firm": Fickle()}
        end_at_once(FaultyEnvError("environment 0: it hangs."))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_run_that_ends_at_once_says_why_in_its_manifest(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=ended_at_once, args=(tmp_path,))
    process.start()
    process.join(30)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (process.exitcode, manifest["exit_code"], manifest["status"]) == (5, 5, "failed")
    assert manifest["error"] == "FaultyEnvError: environment 0: it hangs."
