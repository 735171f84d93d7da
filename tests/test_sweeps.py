"""Sweeps as a user starts them: many runs, in one process after another, side by side, or in a queue."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from seqrl import sweeps
from seqrl.config.hydra_errors import points_of_sweep
from seqrl.config.resolvers import folder_name, point_folder
from seqrl.errors import ConfigError, SeqrlError
from seqrl.machine import cores
from seqrl.sweeps import SweepWorkers, jobs_at_once
from tests.programs import Program, run_program

SMALL = ["network.hidden_size=8", "network.lstm_hidden_size=8", "evaluation.episodes=4", "parallel=2", "logger=jsonl"]
TINY = [*SMALL, "env.max_episode_steps=20", "episodes=2"]
# An environment that raises while a file lies beside it.
MOODY = """
from pathlib import Path
import gymnasium as gym
import numpy as np

class Moody(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2)

    def __init__(self, name="a"):
        self.name = name

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.clock += 1
        if self.clock == 3 and Path(f"{self.name}.broken").exists():
            raise OSError("the robot fell over")
        return np.zeros(1, np.float32), 1.0, self.clock == 5, False, {}

gym.register("Moody-v0", entry_point=Moody)
"""
SIDE_BY_SIDE = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
MOODY_ARGUMENTS = [*SMALL, "env.id=moody:Moody-v0", "trust=[moody]", "episodes=4", "env.backend=sync"]


def sweep(folder: Path, *arguments: str, program: str = "") -> subprocess.CompletedProcess[str]:
    start = ["-c", f"{program}\nimport runpy; runpy.run_module('seqrl.train', run_name='__main__', alter_sys=True)"]
    return run_program(folder, *(start if program else ["-m", "seqrl.train"]), "-m", *arguments, "sweep=s")


def manifests(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted((folder / "s").glob("*/manifest.json"))}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


READ_ONLY = """
import builtins, errno, io, os

def of_a_disk_mounted_for_reading(path, mode="r", *more, own=open, **named):
    if str(path).endswith("multirun.yaml") and mode == "w":
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
    return own(path, mode, *more, **named)

builtins.open = io.open = of_a_disk_mounted_for_reading
"""


def test_a_sweep_in_a_folder_that_cannot_be_written_gets_one_line(tmp_path):
    done = sweep(tmp_path, *SMALL, "env=tmaze", "seed=1,2", program=READ_ONLY)
    file = tmp_path / "s" / "multirun.yaml"
    what = "Read-only file system. Have its disk mounted for writing, or choose another folder."
    assert (done.returncode, done.stderr) == (2, f"seqrl: error: {file}: {what}\n")


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_the_same_command_again_finishes_what_failed_or_was_not_begun_and_nothing_else(tmp_path, launcher):
    (tmp_path / "moody.py").write_text(MOODY)
    (tmp_path / "b.broken").touch()
    arguments = [*MOODY_ARGUMENTS, f"hydra/launcher={launcher}"]
    first = sweep(tmp_path, *arguments, "+env.kwargs.name=a,b,c")
    assert first.returncode == 5, first.stderr
    a, b, c = manifests(tmp_path)
    known = manifests(tmp_path)
    assert [known[name]["status"] for name in (a, b, c)] == ["finished", "failed", "finished"]
    assert known[b]["exit_code"] == 5
    assert "the robot fell over" in known[b]["error"]
    assert "the robot fell over" in first.stderr
    log = (tmp_path / "s" / b / "train.log").read_text()
    assert "Traceback" in log
    assert "moody.py" in log
    assert "sweep: 2 finished, 1 failed, in s" in first.stdout
    assert "Run the same command with sweep=s" in first.stdout

    (tmp_path / "b.broken").unlink()
    done = {name: everything(tmp_path / "s" / name) for name in (a, c)}
    second = sweep(tmp_path, *arguments, "+env.kwargs.name=d,b,a,c")
    assert second.returncode == 0, second.stderr
    known = manifests(tmp_path)
    assert len(known) == 4
    assert {facts["status"] for facts in known.values()} == {"finished"}
    assert "error" not in known[b]
    assert {name: everything(tmp_path / "s" / name) for name in (a, c)} == done
    assert f"{a}: already finished" in second.stdout


def test_a_clock_that_is_set_back_makes_no_sweep_shorter(tmp_path, monkeypatch):
    clock = iter([7200.0, 0.0])
    monkeypatch.setattr(sweeps, "wall_time", lambda: next(clock))
    command = sweeps.Command(tmp_path)
    command.note()
    command.note(ended=True)
    begin, end = (json.loads(line) for line in (tmp_path / "commands.jsonl").read_text().splitlines())
    assert begin == {name: it for name, it in end.items() if name != "seconds"}
    assert 0 <= end["seconds"] < 60


@pytest.mark.slow
def test_jobs_side_by_side_share_the_cores_and_no_bit_depends_on_it(tmp_path):
    assert sweep(tmp_path, *TINY, "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2").returncode == 0
    for name, facts in manifests(tmp_path).items():
        gradient_threads = OmegaConf.load(tmp_path / "s" / name / "config.yaml").algorithm.gradient_threads
        assert gradient_threads == max(1, cores() // 2)
        assert facts["implied"] == []


@pytest.mark.slow
def test_what_the_command_line_says_of_learners_holds(tmp_path):
    assert sweep(tmp_path, *TINY, "algorithm.gradient_threads=3", "hydra/launcher=joblib").returncode == 0
    ((name, _),) = manifests(tmp_path).items()
    assert OmegaConf.load(tmp_path / "s" / name / "config.yaml").algorithm.gradient_threads == 3


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], pytest.param(SIDE_BY_SIDE, marks=pytest.mark.slow)])
def test_a_point_of_another_configuration_is_refused_and_left_as_it_is(tmp_path, launcher):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    own = tmp_path / "own" / "experiment" / "mine.yaml"
    own.write_text("# @package _global_\nparallel: 2\n")
    arguments = ["--config-dir", "own", "experiment=mine", *(a for a in TINY if not a.startswith("parallel"))]
    assert sweep(tmp_path, *arguments, "seed=0,1").returncode == 0
    before = everything(tmp_path / "s")
    own.write_text("# @package _global_\nparallel: 3\n")
    again = sweep(tmp_path, *arguments, "seed=0,1", *launcher)
    assert again.returncode == 2
    assert "sweep: 2 refused, in s" in again.stdout
    assert "was started with another configuration: parallel: 2 -> 3. Choose another folder, sweep=…" in again.stderr
    assert "Run the same command" not in again.stdout
    assert len(again.stderr.splitlines()) == 2
    # What was complained of is in the points' logs; multirun.yaml is Hydra's, about the last command.
    new = ("train.log", "multirun.yaml", "commands.jsonl")
    assert {k: v for k, v in everything(tmp_path / "s").items() if not k.endswith(new)} == {
        k: v for k, v in before.items() if not k.endswith(new)
    }
    commands = [json.loads(line)["command"] for line in (tmp_path / "s" / "commands.jsonl").read_text().splitlines()]
    assert len(commands) == 4
    assert all(command.startswith("python -m seqrl.train -m --config-dir own") for command in commands)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize(
    "launcher",
    [[], SIDE_BY_SIDE, pytest.param(["hydra/launcher=submitit_local"], marks=pytest.mark.slow)],
)
def test_a_point_that_fails_before_it_has_a_manifest_is_named_and_the_exit_code_tells(tmp_path, launcher):
    foreign = tmp_path / "s" / "0_seed-0"
    foreign.mkdir(parents=True)
    (foreign / "metrics.jsonl").touch()
    done = sweep(tmp_path, *TINY, "seed=0,1", *launcher)
    assert done.returncode == 2, done.stderr
    _, said = done.stdout.split("sweep: ")
    # In a queue, the error is said in another place.
    elsewhere = launcher == ["hydra/launcher=submitit_local"]
    reason = "ConfigError: run folder: " if elsewhere else "failed\n"
    assert said.startswith(f"1 failed, 1 finished, in s\n  0_seed-0: {reason}")
    assert "holds metrics.jsonl, which seqrl did not write" in (said if elsewhere else done.stderr)
    assert said.endswith("Run the same command with sweep=s to finish the rest.\n")


def test_workers_whose_file_is_gone_say_so(monkeypatch):
    monkeypatch.setenv(SweepWorkers.VARIABLE, "")
    workers = SweepWorkers.create()
    workers.remove()
    with pytest.raises(SeqrlError, match=r"seqrl-sweep-\w+ is gone"), workers.working():
        pass


def test_workers_are_told_to_stop_in_the_room_that_their_file_has_as_the_disk_may_be_full(monkeypatch):
    monkeypatch.setenv(SweepWorkers.VARIABLE, "")
    workers = SweepWorkers.create()
    monkeypatch.setattr(SweepWorkers, "abandoned", False)
    before = workers._path.stat().st_size
    assert workers.stop_signal() is None
    workers.stop(signal.SIGTERM)
    assert workers.stop_signal() is signal.SIGTERM
    assert workers._path.stat().st_size == before
    workers.remove()


def rows(run: Path) -> list[dict]:
    """Whole lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]


@pytest.mark.parametrize("launcher", [[], pytest.param(SIDE_BY_SIDE, marks=pytest.mark.slow)])
def test_a_folder_that_leads_elsewhere_is_refused_before_anything_is_written(tmp_path, launcher):
    (tmp_path / "bashrc").write_text("precious")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "multirun.yaml").symlink_to(tmp_path / "bashrc")
    before = everything(tmp_path)
    refused = sweep(tmp_path, *TINY, *launcher)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "seqrl: error: sweep: s/multirun.yaml is a link, and could lead anywhere. Remove it, or choose another folder "
        "with sweep=…\n"
    )
    assert everything(tmp_path) == before


@contextmanager
def going(folder: Path, *arguments: str, points: int) -> Iterator[Program]:
    """A sweep, once so many of its points have come some way."""
    with Program(folder, "-m", "seqrl.train", "-m", *arguments, "sweep=s") as process:
        deadline = time.monotonic() + 60
        while sum(len(rows(run.parent)) > 3 for run in folder.glob("s/*/metrics.jsonl")) < points:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGKILL))],
)
@pytest.mark.slow
def test_a_sweep_that_was_stopped_goes_on_where_it_stopped(tmp_path, number):
    arguments = [*SMALL, "episodes=1000000", "rollout_length=16", "total_steps=1280", "seed=0,1", "algorithm.epochs=2"]
    with going(tmp_path, *arguments, points=1) as process:
        os.killpg(process.pid, number)
        said = process.stderr.read()
    ((name, facts),) = manifests(tmp_path).items()
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert f"point 0 of the sweep: stopped by {number.name}." in said
        assert "run the same command with sweep=s to continue the sweep" in said
        assert facts["status"] == "interrupted"
    before = rows(tmp_path / "s" / name)
    assert len(before) < 40

    done = sweep(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert [facts["status"] for facts in manifests(tmp_path).values()] == ["finished", "finished"]
    for run in manifests(tmp_path):
        steps = [row["env_steps"] for row in rows(tmp_path / "s" / run)]
        assert steps[:40] == list(range(32, 1281, 32))
    # All but the iteration that it was killed in.
    kept = len(before) - 2
    assert rows(tmp_path / "s" / name)[:kept] == before[:kept]


def ends(group: int) -> bool:
    """Whether no process of a group is left, after a while."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


# Ctrl-C goes to every process of a terminal, a cluster's or an operator's signal to the command alone.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "send", "heard"),
    [
        (signal.SIGTERM, os.kill, "SIGTERM"),
        pytest.param(signal.SIGINT, os.killpg, "SIGINT", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, os.kill, "SIGHUP", marks=pytest.mark.slow),
    ],
)
def test_points_side_by_side_save_themselves_when_their_command_is_stopped(tmp_path, number, send, heard):
    arguments = [*SMALL, "episodes=1000000", "rollout_length=16", "seed=range(6)"]
    arguments += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    with going(tmp_path, *arguments, points=2) as process:
        send(process.pid, number)
        # To the end of the last process that could write there.
        printed, said = process.stdout.read(), process.stderr.read()
    assert ends(process.pid)
    known = manifests(tmp_path)
    assert [facts["status"] for facts in known.values()] == ["interrupted", "interrupted"]
    assert all(f"stopped by {heard}. Continue with" in facts["error"] for facts in known.values())
    assert "Traceback" not in said
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert "sweep: 2 interrupted, in s" in printed
        assert "Run the same command with sweep=s to finish the rest." in printed


def test_the_points_of_a_sweep_are_those_that_hydra_makes():
    words = ["-m", "~logger", "seed=1,2", "hydra/launcher=joblib", "+env.kwargs={a: 'b,c'}"]
    found = points_of_sweep(words)
    assert [sorted(point) for point in found] == [
        ["+env.kwargs={a:'b,c'}", f"seed={seed}", "~logger=null"] for seed in (1, 2)
    ]


def test_a_point_of_another_command_of_the_sweep_is_named_and_does_not_fail_this_one(tmp_path):
    assert sweep(tmp_path, *SMALL, "seed=1,2").returncode == 0
    manifest = tmp_path / "s" / "0_seed-1" / "manifest.json"
    manifest.write_text(
        json.dumps(json.loads(manifest.read_text()) | {"status": "failed", "error": "X.", "exit_code": 4})
    )
    done = sweep(tmp_path, *SMALL, "seed=2,3")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[-2:] == ["sweep: 1 failed, 2 finished, in s", "  0_seed-1, of another command: X."]


def test_the_folder_of_a_point_is_found_again_whatever_its_number(tmp_path):
    assert point_folder(str(tmp_path), 3, "seed-1", ["seed=1"]) == "3_seed-1"
    for name, overrides in {"3_seed-1": ["seed=1"], "12": ["seed=1", "x=2"], "4_seed-11": ["seed=11"]}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"overrides": overrides, "implied": ["y=1"]}))
    (tmp_path / "5_broken").mkdir()
    (tmp_path / "5_broken" / "manifest.json").write_text("{")
    assert point_folder(str(tmp_path), 7, "seed-1", ["seed=1"]) == "3_seed-1"
    assert point_folder(str(tmp_path), 7, "x-2_seed-1", ["x=2", "seed=1"]) == "12"
    assert point_folder(str(tmp_path), 7, "seed-2", ["seed=2"]) == "7_seed-2"
    assert point_folder(str(tmp_path), 7, "", ["seed=3"]) == "7"


def test_the_points_stay_together_whatever_folder_an_environment_enters(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "restless.py").write_text(
        "import os\n"
        "from seqrl.envs import MemoryChain\n"
        "class Restless(MemoryChain):\n"
        "    def __init__(self, **given):\n"
        "        os.chdir('elsewhere')\n"
        "        super().__init__(**given)\n"
    )
    mine = ["env=memory_chain", "env.length=2", "env._target_=restless.Restless", "trust=[restless]"]
    done = sweep(tmp_path, *SMALL, *mine, "episodes=2", "evaluation.episodes=0", "seed=1,2")
    assert [run["status"] for run in manifests(tmp_path).values()] == ["finished"] * 2, done.stderr
    assert not list((tmp_path / "elsewhere").iterdir())


def test_points_are_named_after_what_is_swept_only(tmp_path):
    (tmp_path / "own" / "algorithm").mkdir(parents=True)
    done = sweep(tmp_path, *TINY, "--config-dir", "own", "algorithm.epochs=1,2", "network=lstm", "seed=3")
    assert done.returncode == 0, done.stderr
    assert list(manifests(tmp_path)) == ["0_algorithm.epochs-1", "1_algorithm.epochs-2"]


def test_points_that_differ_where_a_name_is_too_long_have_folders_of_their_own():
    one, other = (folder_name(f"env.kwargs.text-{'x' * 300}{end}_seed-0") for end in "ab")
    assert one != other
    assert max(len(one), len(other)) <= 240


@pytest.mark.parametrize(
    ("launcher", "jobs"),
    [({}, 1), ({"n_jobs": 3}, 3), ({"n_jobs": -1}, cores()), ({"n_jobs": -cores() - 5}, 1), ({"n_jobs": None}, 1)],
)
def test_a_launcher_says_how_many_jobs_run_at_once(launcher, jobs):
    assert jobs_at_once(OmegaConf.create(launcher)) == jobs


def test_a_launcher_that_runs_no_jobs_is_refused():
    with pytest.raises(ConfigError, match=r"^hydra\.launcher\.n_jobs: must be 1 or more, or -1 .* \(got 0\)\.$"):
        jobs_at_once(OmegaConf.create({"n_jobs": 0}))


@pytest.mark.slow
def test_a_folder_for_many_runs_needs_many_runs(tmp_path):
    done = run_program(tmp_path, "-m", "seqrl.train", "sweep=s")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "sweep: is the folder of a sweep. Add -m" in done.stderr


@pytest.mark.parametrize(("launcher", "extra"), [("joblib", "joblib"), ("slurm", "slurm"), ("slurm_gpu", "slurm")])
def test_a_launcher_that_is_not_installed_is_named_with_its_extra(tmp_path, launcher, extra):
    package = f"hydra_plugins.hydra_{'joblib' if launcher == 'joblib' else 'submitit'}_launcher"
    missing = f"import sys; sys.modules[{package!r}] = None"
    done = sweep(tmp_path, *TINY, "seed=0,1", f"hydra/launcher={launcher}", program=missing)
    assert done.returncode == 2
    assert done.stderr == (
        f"seqrl: error: hydra/launcher: {launcher} is not installed. Install it: pip install 'seqrl[{extra}]'.\n"
    )


@pytest.mark.slow
def test_points_run_in_processes_of_a_queue(tmp_path):
    (tmp_path / "moody.py").write_text(MOODY)
    (tmp_path / "b.broken").touch()
    for command in range(2):
        done = sweep(tmp_path, *MOODY_ARGUMENTS, "+env.kwargs.name=a,b", "hydra/launcher=submitit_local")
        assert done.returncode == 5, done.stderr
        # Nobody can have left results there, which would be unpickled.
        names = [it.name for it in (tmp_path / "s" / ".submitit").iterdir()]
        assert len(names) == command + 1
        assert all(re.fullmatch("[0-9a-f]{8}", it) for it in names)
    assert [facts["status"] for facts in manifests(tmp_path).values()] == ["finished", "failed"]
    assert "sweep: 1 finished, 1 failed, in s" in done.stdout
