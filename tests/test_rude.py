"""Programs whose environments close the output or remove the working folder: what is done counts, shown or not."""

import json

import pytest

from tests.programs import run_program

RUDE = """
import contextlib, os, shutil, sys
import gymnasium
import numpy as np
from gymnasium import spaces

class Rude(gymnasium.Env):
    observation_space, action_space = spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(2)

    def __init__(self, deed):
        self.deed = deed

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.clock += 1
        if self.deed == "remove" and os.path.exists("rude.py"):
            shutil.rmtree(os.getcwd())
        if self.deed == "write":
            for descriptor in range(3):
                with contextlib.suppress(OSError):
                    os.write(descriptor, b"noise\\n")
        if self.deed == "close":
            sys.stdout.close()
        return np.zeros(2, np.float32), 1.0, self.clock >= 4, False, {}

gymnasium.register("Rude-v0", Rude, disable_env_checker=True)
"""
TINY = [
    "env.id=rude:Rude-v0", "trust=[rude]", "profile=quick", "parallel=2", "episodes=2", "evaluation.episodes=2",
    "network=mlp", "network.hidden_size=8", "env.backend=sync", "algorithm.gradient_threads=1", "logger=jsonl",
]  # fmt: skip


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "rude.py").write_text(RUDE)
    return tmp_path / "work"


@pytest.mark.parametrize("deed", ["close", "remove"])
def test_a_run_that_can_no_longer_show_its_end_is_finished(work, deed):
    run = work.parent / "run"
    done = run_program(work, "-m", "seqrl.train", *TINY, f"+env.kwargs.deed={deed}", f"hydra.run.dir={run}")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads((run / "manifest.json").read_text())
    assert (facts["status"], facts["result"]) == ("finished", 4.0)
    assert ("mean return   4" in done.stdout) == (deed == "remove")


def test_what_an_environment_prints_where_there_is_no_output_reaches_no_file_of_the_run(work):
    run = work.parent / "run"
    words = ["train", *TINY, "+env.kwargs.deed=write", f"hydra.run.dir={run}"]
    code = "; ".join([
        "import os, sys, runpy", "os.closerange(0, 3)", "sys.stdin = sys.stdout = sys.stderr = None",
        f"sys.argv = {words}", "runpy.run_module('seqrl.train', run_name='__main__', alter_sys=True)",
    ])  # fmt: skip
    done = run_program(work, "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    written = [path for path in run.rglob("*") if path.is_file() and b"noise" in path.read_bytes()]
    assert (json.loads((run / "manifest.json").read_text())["status"], written) == ("finished", [])


@pytest.mark.slow
def test_points_of_a_sweep_that_cannot_show_their_ends_are_finished(work):
    done = run_program(work, "-m", "seqrl.train", "-m", *TINY, "+env.kwargs.deed=close", "seed=0,1", "sweep=sw")
    assert (done.returncode, done.stderr) == (0, "")
    statuses = [json.loads(path.read_text())["status"] for path in work.glob("sw/*/manifest.json")]
    assert statuses == ["finished", "finished"]


@pytest.mark.slow
def test_what_verify_finds_counts_if_it_cannot_be_shown(work):
    done = run_program(work, "-m", "seqrl.verify", *TINY, "+env.kwargs.deed=close")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("train", ["-m", "seed=0,1", "sweep=s"]),
        ("report.__main__", ["s"]),
        ("export.__main__", ["run=s"]),
    ],
)
def test_a_machine_that_lets_no_temporary_file_be_written_is_told_so(tmp_path, program, words):
    """A container that is read-only but for a volume of data."""
    (tmp_path / "s").mkdir()
    none = "import tempfile; tempfile.tempdir = None; tempfile._candidate_tempdir_list = lambda: []"
    done = run_program(tmp_path, "-c", f"{none}; from seqrl.{program} import main; main()", *words)
    said = "TMPDIR: no folder for temporary files can be written. Name one that can be: TMPDIR=<folder>."
    assert (done.returncode, done.stderr.strip()) == (2, f"seqrl: error: {said}")
    assert [*(tmp_path / "s").iterdir()] == []
