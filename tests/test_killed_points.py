"""A sweep whose processes are killed: each costs its own point a new beginning, and the others nothing."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from seqrl import sweeps
from seqrl.config.program import FAILURES
from seqrl.errors import ConfigError
from seqrl.run.refusal import note_folder
from seqrl.sweeps import Pool
from tests.parts import room
from tests.test_sweeps import MOODY, MOODY_ARGUMENTS, manifests, sweep

pytest.importorskip("joblib")
# Kills the process that plays it, as the system does for want of memory, while a file lies beside it.
DEADLY = MOODY.replace("self.clock += 1", "self.clock += 1; self.die()").replace(
    "    def step(",
    """    def die(self):
        file = Path(f"{self.name}.deadly")
        if self.clock == 3 and file.exists():
            file.unlink()
            __import__("os").kill(__import__("os").getpid(), 9)

    def step(""",
)


@pytest.mark.slow
def test_a_point_whose_process_is_killed_begins_again_and_the_others_go_on(tmp_path):
    (tmp_path / "moody.py").write_text(DEADLY)
    (tmp_path / "a.deadly").touch()
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = sweep(tmp_path, *MOODY_ARGUMENTS, "+env.kwargs.name=a,b", *launcher)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "a.deadly").exists()
    assert [facts["status"] for facts in manifests(tmp_path).values()] == ["finished", "finished"]
    assert done.stderr == "seqrl: warning: point 0 of the sweep: its process was killed. It goes on in a new one.\n"
    assert "sweep: 2 finished, in s" in done.stdout


@pytest.mark.slow
def test_a_point_whose_job_is_killed_is_named_and_the_same_command_finishes_it(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "moody.py").write_text(DEADLY)
    (tmp_path / "a.deadly").touch()
    points = [*MOODY_ARGUMENTS, "+env.kwargs.name=a,b", "hydra/launcher=slurm_local"]
    done = sweep(tmp_path, *points)
    assert (done.returncode, done.stderr) == (1, "")
    assert "sweep: 1 killed, 1 finished, in s\n  0_+env.kwargs.name-a: its job ended without a result." in done.stdout
    assert done.stdout.endswith("\nRun the same command with sweep=s to finish the rest.\n")
    done = sweep(tmp_path, *points)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sweep: 2 finished, in s\n" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "slurm_local"])
def test_a_sweep_that_python_is_to_keep_out_of_its_folder_runs_nothing_there(tmp_path, launcher):
    if launcher != "joblib":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    for name in ("joblib", "submitit", "argparse", "pickle"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(77)\n")
    points = ["env=tmaze", "total_steps=64", "parallel=2", "seed=0,1", "logger=[]", "evaluation.episodes=0", "sweep=s"]
    words = [sys.executable, "-P", "-m", "seqrl.train", "-m", f"hydra/launcher={launcher}", *points]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sweep: 2 finished, in s" in done.stdout
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("output", ["<&- >&- 2>&-", "> /dev/full", "| head -n 1 > first"])
def test_a_sweep_side_by_side_comes_to_its_end_whatever_becomes_of_its_output(tmp_path, output):
    points = [
        "env=tmaze",
        "total_steps=64",
        "parallel=2",
        "seed=0,1,2",
        "logger=[]",
        "evaluation.episodes=0",
        "sweep=s",
    ]
    command = [sys.executable, "-m", "seqrl.train", "-m", "hydra/launcher=joblib", *points]
    program = f"set -o pipefail; {shlex.join(command)} {output}"
    assert subprocess.run(["bash", "-c", program], cwd=tmp_path).returncode == 0
    assert [facts["status"] for facts in manifests(tmp_path).values()] == ["finished"] * 3


def dies(number: int, overrides: list[str], context: None, config: DictConfig) -> JobReturn:
    """A point whose process is killed as many times as its override says."""
    folder, times = Path(config.hydra.sweep.dir), int(overrides[0].removeprefix("times="))
    with (folder / str(number)).open("a") as file:
        file.write("x")
    if (folder / str(number)).stat().st_size <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return JobReturn(_return_value=10 * number)


@pytest.mark.slow
def test_a_point_that_is_killed_again_and_again_is_given_up_and_named_and_the_exit_code_tells(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(FAILURES, "worst", 0)
    monkeypatch.setattr(sweeps, "FAILED", {})
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    points = [(dies, (number, [f"times={times}"], None, config), {}) for number, times in enumerate([0, 9, 1, 0])]
    first, second, *others = (done._return_value for done in Pool(n_jobs=2)(points))
    assert (first, *others) == (0, 20, 30)
    assert second != second
    assert [len((tmp_path / str(number)).read_text()) for number in range(4)] == [1, 3, 2, 1]
    assert FAILURES.worst == 1
    assert sweeps.FAILED["1"].facts["error"] == "its process was killed"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert said.count("seqrl: warning: point 1 of the sweep: its process was killed. Giving it up.") == 1


def test_one_job_runs_in_the_process_itself(tmp_path):
    assert Pool(n_jobs=1)([(lambda it: (it, os.getpid()), (1,), {})]) == [(1, os.getpid())]


def test_a_sweep_that_was_told_to_stop_begins_no_process(monkeypatch):
    monkeypatch.setattr(Pool, "stopped", stopped := threading.Event())
    monkeypatch.setattr(Pool, "_process", lambda _: pytest.fail("began"))
    stopped.set()
    with pytest.raises(CancelledError):
        Pool(n_jobs=2)([(len, ("",), {})])


def test_where_no_process_can_be_started_a_line_says_so(tmp_path):
    """Their locks are files in /dev/shm."""
    said = r"^hydra/launcher: joblib cannot start processes \(File too large\)\. They need /dev/shm, .* or leave hydra/"
    for begin in (Pool.install, lambda: Pool(n_jobs=2)([(len, ("",), {})])):
        with room(0), pytest.raises(ConfigError, match=said):
            begin()


@pytest.fixture
def queue(monkeypatch):
    """What submitit has of launchers and jobs, for this test alone."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
    from submitit.core.core import Job
    from submitit.slurm.slurm import SlurmJob

    for place, name in ((BaseSubmititLauncher, "launch"), (Job, "results"), (SlurmJob, "watcher")):
        monkeypatch.setattr(place, name, vars(place)[name])
    # The disk is not slow.
    monkeypatch.setattr(Job, "_results_timeout_s", 1)
    monkeypatch.setattr(FAILURES, "worst", 0)
    monkeypatch.setattr(sweeps, "FAILED", {})
    return SimpleNamespace(launcher=BaseSubmititLauncher, slurm_job=SlurmJob)


def of_sweep(folder: Path, jobs: Path = Path("%j")) -> SimpleNamespace:
    """What a launcher knows of a sweep."""
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    return SimpleNamespace(config=config, params={"submitit_folder": str(jobs)})


def test_what_submitit_refuses_is_said_in_a_line_and_leaves_nothing_behind(tmp_path, monkeypatch, queue, capsys):
    folder = tmp_path / "sweep"
    note_folder(folder)
    jobs = folder / ".submitit" / "5f3a" / "%j"
    jobs.parent.mkdir(parents=True)
    for path in (folder / "multirun.yaml", folder / "commands.jsonl", jobs.parent / "submission.sh"):
        path.touch()

    def launch(self, job_overrides, initial_job_idx):
        raise RuntimeError("sbatch: warning: the partition is busy\nsbatch: error: Invalid account.")

    monkeypatch.setattr(queue.launcher, "launch", launch)
    sweeps.listen_to_queue()
    with pytest.raises(SystemExit, match="2"):
        queue.launcher.launch(of_sweep(folder, jobs), [["seed=0"]], initial_job_idx=0)
    assert not folder.exists()
    assert capsys.readouterr().err == (
        "seqrl: error: hydra/launcher: jobs could not be submitted: sbatch: error: Invalid account.\n"
    )


def test_a_sweep_that_a_queue_refuses_in_a_folder_that_was_there_leaves_what_others_have_written(
    tmp_path, monkeypatch, queue
):
    note_folder(tmp_path)
    (tmp_path / "commands.jsonl").write_text("before\n")
    (tmp_path / ".submitit" / "5f3a").mkdir(parents=True)

    def launch(self, job_overrides, initial_job_idx):
        raise RuntimeError("sbatch: error: Invalid account.")

    monkeypatch.setattr(queue.launcher, "launch", launch)
    sweeps.listen_to_queue()
    with pytest.raises(SystemExit, match="2"):
        queue.launcher.launch(of_sweep(tmp_path, tmp_path / ".submitit" / "5f3a" / "%j"), [["seed=0"]], 0)
    assert [path.name for path in tmp_path.rglob("*")] == ["commands.jsonl"]


def test_points_that_a_queue_refuses_after_others_are_named_and_those_that_ended_count(tmp_path, monkeypatch, queue):
    def launch(self, job_overrides, initial_job_idx):
        raise RuntimeError("sbatch: error: Batch job submission failed: Job violates the account's limit.")

    monkeypatch.setattr(queue.launcher, "launch", launch)
    sweeps.listen_to_queue()
    (tmp_path / "5").mkdir()
    facts = {"overrides": ["seed=5"], "status": "finished", "result": 2.5}
    (tmp_path / "5" / "manifest.json").write_text(json.dumps(facts))
    jobs = queue.launcher.launch(of_sweep(tmp_path), [["seed=4"], ["seed=5"]], initial_job_idx=4)
    assert [it.status for it in jobs] == [JobStatus.COMPLETED] * 2
    assert {name: it.facts["error"] for name, it in sweeps.FAILED.items()} == {
        "4": "jobs could not be submitted: sbatch: error: Batch job submission failed: Job violates the account's limit"
    }
    assert FAILURES.worst == 1


@pytest.mark.slow
def test_a_job_of_a_queue_that_leaves_no_result_is_named_and_the_others_count(tmp_path, monkeypatch, queue):
    import submitit

    class Odd:
        def __reduce__(self):
            return int, ("no number",)

    def job(overrides: list[str]) -> object:
        if overrides == ["x=killed"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if overrides == ["x=odd"]:
            return Odd()
        if overrides == ["x=raises"]:
            return JobReturn(_return_value=OSError("the node has no such folder"), status=JobStatus.FAILED)
        return JobReturn(_return_value=1.5, status=JobStatus.COMPLETED)

    def launch(self, job_overrides, initial_job_idx):
        executor = submitit.AutoExecutor(cluster="local", folder=tmp_path / ".submitit" / "%j")
        return [it.results()[0] for it in executor.map_array(job, job_overrides)]

    monkeypatch.setattr(queue.launcher, "launch", launch)
    sweeps.listen_to_queue()
    # Killed once it had said that all is done.
    (tmp_path / "done").mkdir()
    facts = {"overrides": ["y=1", "x=killed"], "status": "finished", "result": 2.5}
    (tmp_path / "done" / "manifest.json").write_text(json.dumps(facts))
    points = [["x=killed"], ["x=well"], ["x=odd"], ["x=raises"], ["x=killed", "y=1"]]
    killed, well, *others, done = queue.launcher.launch(of_sweep(tmp_path), points, initial_job_idx=3)
    assert well.return_value == 1.5
    assert type(done.return_value) is float
    assert [it.return_value.folder for it in (killed, *others)] == list(sweeps.FAILED) == ["3", "5", "6"]
    assert FAILURES.worst == 1
    said, places = zip(
        *(it.facts["error"].split(". What it printed is in ") for it in sweeps.FAILED.values()), strict=True
    )
    assert said == (
        "its job ended without a result",
        "its job ended with ValueError: invalid literal for int() with base 10: 'no number'",
        "its job ended with OSError: the node has no such folder",
    )
    assert all(list(Path(place).glob("*_log.out")) for place in places)


def test_a_job_that_is_not_in_the_queue_any_more_has_ended_though_nobody_keeps_accounts(tmp_path, monkeypatch, queue):
    sweeps.listen_to_queue()
    # As squeue, which leaves out what somebody has had it leave out.
    (tmp_path / "squeue").write_text('#!/bin/sh\n[ -z "$SQUEUE_STATES" ] && echo 7_0 && cat queued\n')
    (tmp_path / "squeue").chmod(0o755)
    (tmp_path / "queued").write_text("7_1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SQUEUE_STATES", "pending")
    jobs = [queue.slurm_job(tmp_path, f"7_{task}") for task in range(3)]

    def done() -> list[bool]:
        queue.slurm_job.watcher.update()
        return [job.done() for job in jobs]

    assert done() == [False, False, True]
    (tmp_path / "queued").unlink()
    # Where it cannot be asked, all is as before.
    assert done() == [False, False, True]
    (tmp_path / "queued").touch()
    assert done() == [False, True, True]
