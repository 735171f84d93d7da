"""The program as a user starts it."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from seqrl.text import figure
from tests.programs import Program, run_program

TINY = [
    "episodes=2",
    "parallel=3",
    "env.max_episode_steps=20",
    "network.hidden_size=8",
    "network.lstm_hidden_size=8",
    "evaluation.episodes=4",
]


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program(folder, "-m", "seqrl.train", *arguments)


def train_from_the_start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With the start of Python, and a way of its own to hash."""
    command = [sys.executable, "-W", "error::DeprecationWarning:seqrl", "-m", "seqrl.train", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def the_run(folder: Path) -> Path:
    (manifest,) = folder.glob("outputs/runs/*/*/manifest.json")
    return manifest.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run, started from a folder that is not the checkout."""
    folder = tmp_path_factory.mktemp("anywhere")
    done = train_from_the_start(folder, *TINY, "network=attention", "sequence=truncated", "seed=3")
    assert done.returncode == 0, done.stderr
    return done, the_run(folder)


def test_a_run_leaves_its_folder_named_after_its_task_and_what_learns(finished):
    _, run = finished
    assert run.name.endswith("_masked_cartpole_ppo_attention_bptt50_s3")
    left = {path.name.split(".out.")[0] for path in run.iterdir()}
    assert left == {"config.yaml", "metrics.jsonl", "events", "train.log", "manifest.json", "checkpoints"}


def test_the_saved_configuration_is_resolved(finished):
    _, run = finished
    text = (run / "config.yaml").read_text()
    assert "${" not in text
    assert OmegaConf.create(text).algorithm._target_ == "seqrl.algorithms.SequencePPOAlgorithm"


def test_the_log_says_what_the_run_came_to(finished):
    done, run = finished
    (line,) = [line for line in done.stdout.splitlines() if "mean return" in line]
    assert line in (run / "train.log").read_text()


def test_the_manifest_says_how_it_ended_and_where_it_came_from(finished):
    _, run = finished
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["seed"] == 3
    assert manifest["evaluation_episodes"] == 4
    assert manifest["result"] == manifest["evaluation_return_mean"] > 0
    assert manifest["command"][-1] == "seed=3"
    assert manifest["versions"]["torch"]
    assert {"threads", "env_steps", "steps_per_second", "peak_memory_mb", "git"} <= set(manifest)


def test_tensorboard_and_jsonl_hold_the_same_rows(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, run = finished
    events = EventAccumulator(str(run))
    events.Reload()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    written = {(name, e.step): e.value for name in events.Tags()["scalars"] for e in events.Scalars(name)}
    expected = {(name, row["env_steps"]): x for row in rows for name, x in row.items() if name != "env_steps"}
    assert set(written) == set(expected)
    assert all(written[key] == pytest.approx(expected[key], rel=1e-5) for key in expected)
    groups = {name.split("/")[0] for name, _ in expected}
    assert groups == {"rollout", "train", "time", "memory", "evaluation"}


def test_the_end_says_result_folder_and_tensorboard(finished):
    done, run = finished
    learns = "SequencePPOAlgorithm, as the network has an LSTM beneath its attention: gradients reach back 50 steps"
    assert learns in done.stdout
    assert "over 4 fresh episodes" in done.stdout
    assert f"tensorboard --logdir outputs/runs/{run.parent.name}/{run.name}" in done.stdout
    assert done.stderr == ""


def test_the_same_seed_gives_the_same_run_whatever_is_evaluated_logged_or_saved(tmp_path):
    rows = []
    for name, changes in {
        "one": [],
        "two": ["evaluation.episodes=0", "checkpoint_interval=1", "logger=jsonl"],
        "three": ["evaluation.interval=1", "evaluation.greedy=both", "evaluation.memoryless_control=true"],
        "other": ["seed=1"],
    }.items():
        (tmp_path / name).mkdir()
        start = train_from_the_start if name == "two" else train
        assert start(tmp_path / name, *TINY, *changes).returncode == 0
        rows.append(learned(the_run(tmp_path / name)))
    assert len(rows[0]) == 2
    assert rows[0] == rows[1] == rows[2] != rows[3]


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def learned(run: Path) -> list[dict]:
    """What an update does to the policy, and what it played."""
    return [
        {name: value for name, value in row.items() if name.startswith(("env_steps", "train/", "rollout/"))}
        for row in rows_of(run)
        if "train/policy_loss" in row
    ]


def evaluations(run: Path) -> dict[int, dict]:
    """Scalars of each evaluation, by the updates before it."""
    rows = rows_of(run)
    return {
        sum("train/policy_loss" in row for row in rows[:place]): row
        for place, row in enumerate(rows)
        if "evaluation/return_mean" in row
    }


# Asks itself to stop after some iterations.
STOPS = """
import os, signal, sys
import seqrl.run.run
from seqrl import train

iterate = seqrl.run.run.Run.iterate
def last(self):
    row = iterate(self)
    if self.iterations == int(os.environ["STOP_AFTER"]):
        os.kill(os.getpid(), signal.SIGTERM)
    return row
seqrl.run.run.Run.iterate = last
train.main()
"""


# Steps so large that the policy does not only improve.
EVALUATED = [*TINY, "episodes=7", "evaluation.interval=2", "evaluation.episodes=8", "env.max_episode_steps=60"]
EVALUATED += ["algorithm.learning_rate=0.05", "checkpoint_keep=1", "seed=1", "logger=jsonl"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run that was evaluated at intervals, and what it said."""
    folder = tmp_path_factory.mktemp("evaluated")
    done = train(folder, *EVALUATED)
    assert done.returncode == 0, done.stderr
    return the_run(folder), done.stdout


def test_the_policy_is_evaluated_at_intervals_and_at_the_end_and_the_best_is_kept(evaluated):
    run, said = evaluated
    returns = {iteration: row["evaluation/return_mean"] for iteration, row in evaluations(run).items()}
    assert list(returns) == [2, 4, 6, 7]
    best = max(returns, key=lambda iteration: (returns[iteration], iteration))
    assert best != 7
    assert {path.stem for path in (run / "checkpoints").glob("*.pt")} == {f"{best:08d}", "00000007"}
    assert f"best policy   {figure(returns[best])} after {best} of 7 iterations" in said
    assert f" · evaluated {figure(returns[2])} · " in said
    # Of the final policy there is one evaluation, and it is the result.
    told = json.loads((run / "manifest.json").read_text())
    assert told["result"] == returns[7]
    assert told["env_steps"] == rows_of(run)[-1]["env_steps"]
    assert {"seconds", "steps_per_second", "peak_memory_mb"} <= told.keys()


def test_evaluations_have_a_share_of_the_time_and_none_of_the_steps(evaluated):
    run, _ = evaluated
    last = [row for row in rows_of(run) if "time/elapsed_seconds" in row][-1]
    shares = [value for name, value in last.items() if name.endswith("_share") and "idle" not in name]
    assert sum(shares) == pytest.approx(1)
    assert last["time/evaluation_share"] > 0
    assert last["env_steps"] == pytest.approx(last["rollout/length_mean"] * last["rollout/episodes"])
    assert last["time/steps_per_second"] == pytest.approx(last["env_steps"] / last["time/elapsed_seconds"])


def test_a_run_that_goes_on_keeps_its_best_policy_and_evaluates_what_it_would_have(evaluated, tmp_path):
    whole, _ = evaluated
    environment = {**os.environ, "STOP_AFTER": "3"}
    stopped = run_program(tmp_path, "-c", STOPS, *EVALUATED, "hydra.run.dir=parts", env=environment)
    assert stopped.returncode == 143
    parts = tmp_path / "parts"
    assert list(evaluations(parts)) == [2]
    done = train(tmp_path, "resume=parts")
    assert done.returncode == 0, done.stderr
    assert evaluations(parts) == evaluations(whole)
    assert learned(parts) == learned(whole)
    assert {path.name for path in (parts / "checkpoints").iterdir()} == {
        path.name for path in (whole / "checkpoints").iterdir()
    }


@pytest.mark.slow
def test_who_plays_is_measured_once_said_saved_and_kept(tmp_path):
    small = [*TINY[:2], *TINY[3:], "env.id=Acrobot-v1", "+env.kwargs.max_episode_steps=20"]
    done = train(tmp_path, *small)
    assert re.search(r"^environments: a?sync, [\d,]+ steps/s", done.stdout, re.MULTILINE), done.stdout
    run = the_run(tmp_path)
    before = OmegaConf.load(run / "config.yaml")
    first = before.env.backend
    assert first in ("sync", "async")
    # As if another had been chosen: it is not chosen again.
    before.env.backend = "async" if first == "sync" else "sync"
    OmegaConf.save(before, run / "config.yaml")
    done = train(tmp_path, f"resume={run}", "episodes=3")
    assert done.returncode == 0, done.stderr
    assert not re.search("^environments", done.stdout, re.MULTILINE)
    # Since the checkpoint, which the one that was chosen first has played.
    assert re.findall("^changed: (env.*) ->", done.stdout, re.MULTILINE) == ["env.backend: " + first]
    assert OmegaConf.load(run / "config.yaml").env.backend == before.env.backend


def test_a_rollout_in_which_nothing_was_played_teaches_nothing(tmp_path):
    """The vector form spends the only step of it on a reset."""
    small = [*TINY[3:], "env.id=CartPole-v1", "env.backend=vector", "parallel=1", "rollout_length=1", "total_steps=40"]
    done = train(tmp_path, *small, "algorithm.normalize_reward=true", "hydra.run.dir=run")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][:-1]
    played = [row["env_steps"] - before["env_steps"] for before, row in pairwise(rows)]
    assert set(played) == {0, 1}
    assert ["train/policy_loss" in row for row in rows[1:]] == [bool(steps) for steps in played]
    assert all(row.get("train/skipped", 0) == 0 for row in rows)


# A device that only one can have, as a lock.
EXCLUSIVE = """
import fcntl
import gymnasium as gym
import numpy as np

class Robot(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.lock = open("robot.lock", "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RuntimeError("the robot is in use") from None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.clock += 1
        return np.zeros(2, np.float32), 1.0, self.clock == 30, False, {}

    def close(self):
        self.lock.close()

gym.register("Robot-v0", Robot)
"""
ROBOT = [
    "env.id=robot:Robot-v0", "trust=[robot]", "parallel=1", "total_steps=64", "rollout_length=16",
    "network.hidden_size=8", "network.lstm_hidden_size=8", "evaluation.episodes=1", "hydra.run.dir=run",
]  # fmt: skip


@pytest.fixture
def with_robot(tmp_path):
    (tmp_path / "robot.py").write_text(EXCLUSIVE)
    return tmp_path


def test_environments_of_training_are_closed_before_the_final_evaluation(with_robot):
    done = train(with_robot, *ROBOT)
    assert done.returncode == 0, done.stderr
    assert "over 1 fresh episodes" in done.stdout
    # No episode has ended in the first rollout.
    assert "return - ·" in done.stdout
    assert "nan" not in done.stdout


def test_environments_that_only_an_evaluation_cannot_have_are_said_to_be_for_it(with_robot):
    done = train(with_robot, *ROBOT, "evaluation.interval=2")
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert said.startswith("seqrl: error: env.id: Robot-v0 cannot be built: RuntimeError: the robot is in use")
    assert "for an evaluation, in environments beside those of training: evaluation.interval=0" in said


def test_a_sweep_makes_a_run_of_every_point(tmp_path):
    swept = ["sequence_learning.bptt_length=0,10", "sequence_learning.grad_clip_norm=2,5"]
    done = train(tmp_path, "-m", *TINY, *swept)
    assert done.returncode == 0, done.stderr
    runs = sorted(tmp_path.glob("outputs/sweeps/*/*/manifest.json"))
    assert len(runs) == 4
    assert runs[1].parent.name.endswith("sequence_learning.bptt_length-0_sequence_learning.grad_clip_norm-5")
    assert all(json.loads(run.read_text())["status"] == "finished" for run in runs)


def test_a_point_of_a_sweep_that_fails_does_not_stop_the_others(tmp_path):
    done = train(tmp_path, "-m", *TINY, "episodes=1", "env.hidden=[9],[1],[1,3]")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("seqrl: error: point 0 of the sweep: env.hidden: an observation of size 4 has no index 9")
    runs = sorted(tmp_path.glob("outputs/sweeps/*/*/manifest.json"))
    assert [json.loads(run.read_text())["status"] for run in runs] == ["failed", "finished", "finished"]


def test_all_points_of_a_sweep_are_checked_before_the_first_begins(tmp_path):
    swept = ["sequence_learning.bptt_length=0,-1", "sequence_learning.grad_clip_norm=2,0", "network=lstm,mlp"]
    done = train(tmp_path, "-m", *TINY, *swept)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.startswith("seqrl: error: points 2, 3, 6, 7 of the sweep: sequence_learning.grad_clip_norm: must be")
    assert second.startswith("seqrl: error: points 4, 5, 6, 7 of the sweep: sequence_learning.bptt_length: must be 0")
    assert not list(tmp_path.iterdir())


@pytest.mark.thin(8)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["network=lstmm"], "network: there is no network=lstmm. Did you mean lstm?"),
        (["sequence_learning.bptt_length=-1"], "sequence_learning.bptt_length: must be 0"),
        (["device=cuda", "device.name=cuda:99"], "device.name: "),
        (["hydra.run.dir=${nope.a}"], "hydra.run.dir: Interpolation key 'nope.a' not found"),
        (["name='a${nope}'"], "name: Interpolation key 'nope' not found"),
        (["-m", "network=lstm,mlpp"], "network: there is no network=mlpp"),
        (["-m", "seed=0,1", "validate=true"], "validate: works for a single run only"),
    ],
)
def test_a_wrong_argument_ends_in_one_line_and_exit_code_2(tmp_path, arguments, said):
    done = train(tmp_path, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("seqrl: error: ")
    assert said in line
    assert not list(tmp_path.iterdir())


def test_a_run_logs_whatever_hydra_is_told_to_log(tmp_path):
    done = train(tmp_path, *TINY, "evaluation.episodes=0", "hydra/job_logging=none", "hydra.run.dir=run")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "train.log").is_file()


@pytest.mark.thin(6)
@pytest.mark.parametrize(
    ("option", "shown"),
    [
        (["--help"], "python -m seqrl.train -m sequence_learning.bptt_length=0,10,50"),
        (["--cfg", "job"], "bptt_length: 0"),
        (["--info", "defaults-tree"], "sequence: full"),
        (["env.id=Acrobot-v1", "--cfg", "job"], "id: Acrobot-v1"),
    ],
)
def test_hydra_options_work(tmp_path, option, shown):
    done = train(tmp_path, *option)
    assert done.returncode == 0
    assert shown in done.stdout


def test_a_run_goes_on_where_it_stopped_and_further_if_asked(tmp_path):
    assert train(tmp_path, *TINY, "network=attention", "seed=3").returncode == 0
    run = the_run(tmp_path)
    first = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    done = train(tmp_path, f"resume={run.relative_to(tmp_path)}", "episodes=4")
    assert done.returncode == 0, done.stderr
    assert the_run(tmp_path) == run
    assert f"resumed after 2 iterations, {first[-1]['env_steps']} steps\n" in done.stdout
    assert "changed: episodes: 2 -> 4" in done.stdout
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[:2] == first[:2]
    # None: the evaluations at the end of both parts.
    assert [row.get("rollout/episodes") for row in rows] == [3, 6, None, 9, 12, None]
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["env_steps"], manifest["status"]) == (rows[-1]["env_steps"], "finished")


@pytest.mark.slow
def test_resuming_in_vain_changes_nothing_of_the_run(tmp_path):
    (tmp_path / "conf" / "network").mkdir(parents=True)
    own = "_target_: seqrl.networks.recurrent_network\nuse_lstm: true\nuse_attention: false\nhidden_size: 8\n"
    own += "lstm_hidden_size: 8\nwindow: 1\nheads: 1\nseparate_critic: false\n"
    (tmp_path / "conf" / "network" / "own.yaml").write_text(own)
    tiny = [argument for argument in TINY if not argument.startswith("network")]
    assert train(tmp_path, "--config-dir", "conf", "network=own", *tiny).returncode == 0
    run = the_run(tmp_path)
    before = (run / "manifest.json").read_text()
    refused = train(tmp_path, "network=mlp", f"hydra.run.dir={run}")
    assert refused.returncode == 2
    wrong = train(tmp_path, "--config-dir", "conf", f"resume={run}", "network.lstm_hidden_size=16")
    assert wrong.returncode == 3
    assert "the checkpoint is of another network or algorithm" in wrong.stderr
    assert (run / "manifest.json").read_text() == before
    done = train(tmp_path, "--config-dir", "conf", f"resume={run}", "episodes=3")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((run / "manifest.json").read_text())["status"] == "finished"


def test_validation_says_sizes_and_leaves_nothing(tmp_path):
    done = train(tmp_path, *TINY, "parallel=100", "validate=True")
    assert done.returncode == 0, done.stderr
    assert "100 environments, episodes of" in done.stdout
    assert "MB for" in done.stdout
    assert not list(tmp_path.iterdir())


# Learns with 100 MB more than it holds when its first rollout is there.
SHORT_OF_MEMORY = """
import resource, sys
import seqrl.run.run
from seqrl import train

learn = seqrl.run.run.Run._learn
def starved(self, rollout):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 300_000_000,) * 2)
    return learn(self, rollout)
seqrl.run.run.Run._learn = starved
train.main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to its memory")
def test_want_of_memory_names_the_need_and_settings_that_fit(tmp_path):
    starved = [
        "-c",
        SHORT_OF_MEMORY,
        "parallel=192",
        "rollout_length=256",
        "episodes=1",
        "total_steps=1",
    ]
    starved += ["algorithm.epochs=1", "algorithm.minibatches=1", "evaluation.episodes=0", "logger=jsonl"]
    done = run_program(tmp_path, *starved)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    needed, free, remedy = re.fullmatch(
        r"seqrl: error: memory: an update of 49,152 steps at once needs about (\d+) MB, and (\d+) MB are free\. "
        r"Use (\S+) or parallel=\d+\.",
        line,
    ).groups()
    assert int(needed) > int(free)
    mended = run_program(tmp_path, *starved, remedy)
    assert mended.returncode == 0, mended.stderr


def test_resuming_what_is_no_run_ends_in_one_line_and_exit_code_3(tmp_path):
    done = train(tmp_path, "resume=nowhere")
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("seqrl: error: resume: ")
    assert line.endswith("nowhere does not exist. python -m seqrl.runs lists the runs.")
    assert not list(tmp_path.iterdir())


def test_a_reader_that_has_gone_does_not_end_the_run(tmp_path):
    with Program(tmp_path, "-m", "seqrl.train", *TINY) as running:
        running.stdout.close()
        said = running.stderr.read()
    assert (running.returncode, said) == (0, "")
    assert json.loads((the_run(tmp_path) / "manifest.json").read_text())["status"] == "finished"


@pytest.mark.thin(3)
@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_a_checkpoint_at_the_iterations_edge(tmp_path, number, backend):
    arguments = ["env.id=CartPole-v1", f"env.backend={backend}", "parallel=2", "rollout_length=16", "logger=jsonl"]
    arguments += ["network.hidden_size=8", "network.lstm_hidden_size=8", "episodes=1000000", "checkpoint_interval=0"]
    with Program(tmp_path, "-m", "seqrl.train", *arguments) as going:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("outputs/runs/*/*/metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        # As a terminal does: to all processes of the group.
        os.killpg(going.pid, number) if number == signal.SIGINT else going.send_signal(number)
        said = going.stderr.read()
    assert going.returncode == 128 + number
    run = the_run(tmp_path)
    assert said.splitlines()[-1] == f"seqrl: error: stopped by {number.name}. Continue with resume={run}"
    manifest = json.loads((run / "manifest.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert manifest["status"] == "interrupted"
    saved = sorted(path.stem for path in (run / "checkpoints").glob("*.pt"))
    assert saved == ["00000000", f"{len(rows):08d}"]
    with pytest.raises(ProcessLookupError):
        os.killpg(going.pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux changes the limits of a running process")
def test_a_disk_that_is_full_for_a_while_does_not_end_the_run(tmp_path):
    with Program(tmp_path, "-m", "seqrl.train", *TINY, "episodes=1000000", "rollout_length=16") as going:
        # Not its first, which must succeed.
        run = waited_for(tmp_path, "outputs/runs/*/*/checkpoints/*[1-9].pt").parent.parent
        before = (run / "metrics.jsonl").read_text()
        # Every write fails, as on a full disk.
        resource.prlimit(going.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        # The limit may come between a row and its checkpoint.
        wait_until_said(going, "warning: logger jsonl", "warning: checkpoint")
        resource.prlimit(going.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_until_said(going, "logger jsonl: works again", "checkpoint: works again")
        going.send_signal(signal.SIGTERM)
        _, errors = going.communicate()
    assert going.returncode == 143
    assert errors.splitlines()[-1].startswith("seqrl: error: stopped by SIGTERM. Continue with resume=")
    assert "Traceback" not in errors
    text = (run / "metrics.jsonl").read_text()
    assert text.startswith(before)
    # Rows that could not be written were written later: each of 16 steps of 3 environments.
    steps = [json.loads(line)["env_steps"] for line in text.splitlines()]
    assert steps == [48 * number for number in range(1, len(steps) + 1)]
    assert train(tmp_path, f"resume={run}", "total_steps=1").returncode == 0


def wait_until_said(process, *starts: str) -> None:
    """Read what a process prints until a line has begun with each of the starts, in whatever order."""
    lines, awaited = [], list(starts)
    for line in process.stdout:
        lines.append(line)
        awaited = [start for start in awaited if not line.startswith(start)]
        if not awaited:
            return
    raise AssertionError(f"{lines}\n{process.stderr.read()}")


def waited_for(folder: Path, pattern: str) -> Path:
    deadline = time.monotonic() + 60
    while not (found := list(folder.glob(pattern))):
        assert time.monotonic() < deadline, pattern
        time.sleep(0.1)
    return found[0]


def test_a_loss_that_is_not_finite_leaves_what_led_to_it_and_can_be_gone_on_with(tmp_path):
    broken = """
import sys, torch
import seqrl.algorithms.ppo
plain = seqrl.algorithms.ppo.clipped_surrogate
calls = []
def spoilt(log_ratio, advantage, clip_range):
    calls.append(1)
    return plain(log_ratio, advantage, clip_range) * (float("nan") if len(calls) > 40 else 1.0)
seqrl.algorithms.ppo.clipped_surrogate = spoilt
from seqrl import train
train.main()
"""
    done = run_program(tmp_path, "-c", broken, *TINY, "episodes=50")
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    run = the_run(tmp_path)
    assert re.search(
        r"^seqrl: error: loss: .* 3 times in a row, all skipped\. Reduce .*algorithm\.learning_rate \(got \S+\)\. ",
        line,
    )
    assert line.endswith(f"Continue with resume={run}. What led to it is in {run / 'not_finite.pt'}.")
    import torch

    dump = torch.load(run / "not_finite.pt", weights_only=True)
    assert all(parameter.isfinite().all() for parameter in dump["parameters"].values())
    assert any(not gradient.isfinite().all() for gradient in dump["gradients"].values())
    assert len(dump["sequences"]["advantage"]) > 0
    assert json.loads((run / "manifest.json").read_text())["status"] == "failed"
    assert train(tmp_path, f"resume={run}", "episodes=2").returncode == 0


@pytest.mark.thin(7)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["device=cuda"], "device.name: "),
        (["network.hidden_size=0"], "network.hidden_size: must be"),
        (["env.id=Nope-v0"], "env.id: "),
        (["env.id=CartPole-v1", "+env.kwargs.nope=1"], "env.kwargs: "),
        (["env.k=52", "env=repeat_previous"], "env.k: must be less"),
        ([f"checkpoint_keep={2**53}"], "run folder: "),
        (["env.id=CartPole-v1", "+env.kwargs.nope=1", "hydra.job.chdir=true"], "env.kwargs: "),
    ],
)
def test_a_refused_command_leaves_nothing_behind(tmp_path, words, message):
    done = train(tmp_path, *[word for word in TINY if not word.startswith("env.")], *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"seqrl: error: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.thin(9)
@pytest.mark.parametrize("words", [["env.id=CartPole-v1", "+env.kwargs.nope=1"], ["network.hidden_size=0"]])
@pytest.mark.parametrize(("folder", "kept"), [(".", []), (".", ["train.log"]), ("mine/run", ["mine"]),
                                              ("mine/run", ["mine", "mine/run", "mine/run/train.log"])])  # fmt: skip
def test_a_refused_command_removes_only_what_it_made(tmp_path, words, folder, kept):
    here = tmp_path / "here"
    here.mkdir()
    for name in kept:
        path = here / name
        path.write_text("precious") if path.suffix else path.mkdir()
    done = train(here, *[word for word in TINY if not word.startswith("env.")], *words, f"hydra.run.dir={folder}")
    assert done.returncode == 2, done.stderr
    assert sorted(str(path.relative_to(here)) for path in here.rglob("*")) == kept
    assert all(path.read_text().startswith("precious") for path in here.rglob("*.log"))


@pytest.mark.slow
def test_text_from_outside_is_no_markup_and_any_terminal_will_do(tmp_path):
    (tmp_path / "mine.py").write_text(
        "class Logger:\n"
        "    def __init__(self, folder, env_steps): raise OSError('no room on [/mnt/data] for [bold] …')\n"
    )
    words = [*TINY, "+logger.mine._target_=mine.Logger", "trust=[mine]", "hydra.run.dir='[run]'"]
    # How a stream is encoded is decided when Python starts.
    command = [sys.executable, "-m", "seqrl.train", *words]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "no room on [/mnt/data] for [bold] ?" in done.stdout
    assert "run folder    [run]" in done.stdout


def test_a_checkpoint_of_another_run_is_not_resumed(tmp_path):
    for name in ("a", "b"):
        assert train(tmp_path, *TINY, f"hydra.run.dir={name}").returncode == 0
    for path in (tmp_path / "a" / "checkpoints").iterdir():
        shutil.copy(path, tmp_path / "b" / "checkpoints" / path.name)
    done = train(tmp_path, "resume=b", "episodes=3")
    assert done.returncode == 3
    assert "belongs to another run" in done.stderr


def test_a_folder_whose_name_is_too_long_gets_one_line(tmp_path):
    done = train(tmp_path, *TINY, f"hydra.run.dir={'x' * 300}")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"seqrl: error: {'x' * 300}: File name too long. Choose a shorter name, or choose another folder.\n"
    )
