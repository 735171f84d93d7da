"""A sweep whose processes are killed: each costs its own point a new beginning, and the others nothing."""

import os
import signal
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from seqrl import sweeps
from seqrl.config.program import FAILURES
from seqrl.errors import ConfigError
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


def dies(number: int, overrides: list[str], context: None, config: DictConfig) -> JobReturn:
    """A point whose process is killed as many times as its override says."""
    folder, times = Path(config.hydra.sweep.dir), int(overrides[0].removeprefix("times="))
    with (folder / str(number)).open("a") as file:
        file.write("x")
    if (folder / str(number)).stat().st_size <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return JobReturn(_return_value=10 * number)


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
