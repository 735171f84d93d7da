"""The program as a user starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

TINY = [
    "episodes=2",
    "parallel=3",
    "env.max_episode_steps=20",
    "network.hidden_size=8",
    "network.lstm_hidden_size=8",
    "evaluation.episodes=4",
]


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error::DeprecationWarning:seqrl", "-m", "seqrl.train", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def the_run(folder: Path) -> Path:
    (manifest,) = folder.glob("outputs/runs/*/*/manifest.json")
    return manifest.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run, started from a folder that is not the checkout."""
    folder = tmp_path_factory.mktemp("anywhere")
    done = train(folder, *TINY, "network=attention", "sequence=truncated", "seed=3")
    assert done.returncode == 0, done.stderr
    return done, the_run(folder)


def test_a_run_leaves_its_folder_named_after_its_choices(finished):
    _, run = finished
    assert run.name.endswith("_ppo_attention_truncated_s3")
    left = {path.name.split(".out.")[0] for path in run.iterdir()}
    assert left == {"config.yaml", "metrics.jsonl", "events", "train.log", "manifest.json", ".hydra"}


def test_the_saved_configuration_is_resolved(finished):
    _, run = finished
    text = (run / "config.yaml").read_text()
    assert "${" not in text
    assert OmegaConf.create(text).algorithm._target_ == "seqrl.algorithms.SequencePPOAlgorithm"


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
    assert "SequencePPOAlgorithm, as the network has an LSTM: gradients reach back 50 steps" in done.stdout
    assert "over 4 fresh episodes" in done.stdout
    assert f"tensorboard --logdir outputs/runs/{run.parent.name}/{run.name}" in done.stdout
    assert done.stderr == ""


def test_the_same_seed_gives_the_same_run_whatever_is_evaluated(tmp_path):
    rows = []
    for name, changes in {"one": [], "two": ["evaluation.episodes=0"], "other": ["seed=1"]}.items():
        (tmp_path / name).mkdir()
        assert train(tmp_path / name, *TINY, *changes).returncode == 0
        lines = (the_run(tmp_path / name) / "metrics.jsonl").read_text().splitlines()[:2]
        kept = [{k: v for k, v in json.loads(line).items() if k.startswith(("train/", "rollout/"))} for line in lines]
        rows.append(kept)
    assert rows[0] == rows[1] != rows[2]


def test_a_sweep_makes_a_run_of_every_point(tmp_path):
    swept = ["sequence_learning.bptt_length=0,10", "sequence_learning.grad_clip_norm=2,5"]
    done = train(tmp_path, "-m", *TINY, *swept)
    assert done.returncode == 0, done.stderr
    runs = sorted(tmp_path.glob("outputs/sweeps/*/*/manifest.json"))
    assert len(runs) == 4
    assert runs[1].parent.name.endswith("sequence_learning.bptt_length-0_sequence_learning.grad_clip_norm-5")
    assert all(json.loads(run.read_text())["status"] == "finished" for run in runs)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["network=lstmm"], "network: there is no network=lstmm. Did you mean lstm?"),
        (["sequence_learning.bptt_length=-1"], "sequence_learning.bptt_length: must be 0"),
        (["device=cuda", "device.name=cuda:99"], "device.name: "),
        (["hydra.run.dir=${nope.a}"], "hydra.run.dir: Interpolation key 'nope.a' not found"),
        (["-m", "network=lstm,mlpp"], "network: there is no network=mlpp"),
    ],
)
def test_a_wrong_argument_ends_in_one_line_and_exit_code_2(tmp_path, arguments, said):
    done = train(tmp_path, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("seqrl: error: ")
    assert said in line
    assert not list(tmp_path.glob("**/manifest.json"))


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        (["--help"], "python -m seqrl.train -m sequence_learning.bptt_length=0,10,50"),
        (["--cfg", "job"], "bptt_length: 0"),
        (["--info", "defaults-tree"], "sequence: full"),
    ],
)
def test_hydra_options_work(tmp_path, option, shown):
    done = train(tmp_path, *option)
    assert done.returncode == 0
    assert shown in done.stdout
