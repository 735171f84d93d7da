"""Points of a sweep as jobs of a real Slurm, of this one machine; where it is installed, and one may start it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SLURM = Path(__file__).resolve().parents[1] / "scripts" / "one_node_slurm.sh"
PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch"]
# An environment that takes its time: 0.05 s a step.
SLOW = """
import time
import gymnasium as gym
import numpy as np

class Slow(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        time.sleep(0.05)
        self.clock += 1
        return np.zeros(1, np.float32), 1.0, self.clock == 8, False, {}

gym.register("Slow-v0", entry_point=Slow)
"""
ARGUMENTS = [
    "env.id=slow:Slow-v0", "trust=[slow]", "env.backend=sync", "network.hidden_size=8", "network.lstm_hidden_size=8",
    "evaluation.episodes=2", "parallel=2", "rollout_length=16", "episodes=1000000", "seed=0,1", "logger=jsonl",
    # Two at once on two cores.
    "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1", "sweep=s",
]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons need root"),
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason="Slurm is not installed"),
]


def sweep(folder: Path, *arguments: str) -> dict[str, dict]:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (folder / "slow.py").write_text(SLOW)
    command = [SLURM, sys.executable, "-m", "seqrl.train", "-m", *ARGUMENTS, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sweep: 2 finished, in s" in done.stdout
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("s/*/manifest.json"))}


def test_points_are_jobs_of_a_cluster(tmp_path):
    for facts in sweep(tmp_path, "total_steps=64").values():
        assert facts["status"] == "finished"


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_a_job_whose_time_is_over_goes_on_from_its_checkpoint_in_another(tmp_path, backend):
    limits = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10", f"env.backend={backend}"]
    # More than a minute: 80 s in one process, 60 s and the starts where two run side by side.
    total = {"sync": 1600, "async": 2400}[backend]
    for name, facts in sweep(tmp_path, f"total_steps={total}", *limits).items():
        assert facts["status"] == "finished"
        log = (tmp_path / "s" / name / "train.log").read_text()
        assert "resumed after" in log
        rows = (tmp_path / "s" / name / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(row)["env_steps"] for row in rows]
        assert steps[: total // 32] == list(range(32, total + 1, 32))


def test_tasks_of_a_job_are_one_run(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    two = ["hydra.launcher.tasks_per_node=2", "total_steps=64", "seed=0"]
    command = [SLURM, sys.executable, "-m", "seqrl.train", "-m", *ARGUMENTS, *two]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sweep: 1 finished, in s" in done.stdout
    (run,) = tmp_path.glob("s/*/manifest.json")
    assert "processes: 2" in (run.parent / "config.yaml").read_text()
    assert len([*run.parent.glob("metrics.jsonl")]) == 1


def test_tasks_of_a_point_that_is_refused_end_with_it(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    two = ["hydra.launcher.tasks_per_node=2", "parallel=1", "total_steps=64", "seed=0"]
    command = [SLURM, sys.executable, "-m", "seqrl.train", "-m", *ARGUMENTS, *two]
    # Others that wait for the first one do so for ten minutes.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "0: ConfigError: processes: each plays at least one environment (got 2, and parallel=1)" in done.stdout


def test_a_point_that_fails_on_several_tasks_ends_with_its_line(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW.replace("time.sleep(0.05)", "assert self.clock < 5"))
    two = ["hydra.launcher.tasks_per_node=2", "total_steps=64", "seed=0"]
    command = [SLURM, sys.executable, "-m", "seqrl.train", "-m", *ARGUMENTS, *two]
    # The command waits for what each task returns.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "0: FaultyEnvError: environment" in done.stdout


CANCELS = """
"$@" & command=$!
until [ $(cat s/0_*/metrics.jsonl s/1_*/metrics.jsonl 2>/dev/null | wc -l) -ge 4 ]; do sleep 0.2; done
scancel --signal=KILL 1_0
scancel 1_1 1_2
wait $command
"""


def test_jobs_that_are_killed_or_cancelled_are_named_and_the_others_go_on(tmp_path):
    """Without accounts, and whether they have begun or not."""
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "-m", "seqrl.train", "-m", *ARGUMENTS, "total_steps=640", "seed=0,1,2,3"]
    many = [SLURM, "bash", "-c", CANCELS, "bash", *command]
    done = subprocess.run(many, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    said = done.stdout[done.stdout.index("sweep: ") :].splitlines()
    assert said[0] == "sweep: 3 killed, 1 finished, in s"
    for point, line in zip(["0_seed-0", "1_seed-1", "2"], said[1:4], strict=True):
        assert line.startswith(
            f"  {point}: its job ended without a result. What it printed is in {tmp_path}/s/.submitit/"
        )
    assert said[4] == "Run the same command with sweep=s to finish the rest."

    again = subprocess.run([SLURM, *command], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "sweep: 4 finished, in s" in again.stdout
