"""Run folders in which something is damaged, or nothing was saved: what can go on goes on, and advice leads on."""

import errno
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import seqrl
from seqrl.config import begun
from seqrl.config.begun import as_saved
from seqrl.config.command_line import arguments
from seqrl.errors import CheckpointError, ConfigError
from seqrl.run import build, policy
from seqrl.run.checkpoint import Checkpoints
from seqrl.run.manifest import Manifest, facts_of
from tests.parts import refuse
from tests.test_configuration import composed
from tests.test_train import TINY, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run whose choices are not the default ones."""
    folder = tmp_path_factory.mktemp("anywhere")
    choices = ["env=tmaze", "env.corridor_length=4", "network=attention", "sequence=truncated", "algorithm=reinforce"]
    tiny = [argument for argument in TINY if not argument.startswith("env.")]
    done = train(folder, *tiny, *choices, "logger=csv", "seed=3", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return folder


def put_into(part: Any, where: Sequence[Any], odd: object) -> None:
    """Replace what is deep within plain data, and is there."""
    *ways, last = where
    for way in ways:
        part = part[way]
    assert last in part
    part[last] = odd


def flip(data: bytes) -> bytes:
    """The same with a bit flipped, in the first brace."""
    return bytes([data[0] ^ 1]) + data[1:]


def test_a_run_whose_manifest_is_damaged_goes_on_by_its_configuration(finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    run = tmp_path / "run"
    before, owner = OmegaConf.load(run / "config.yaml"), Checkpoints(run).owner
    manifest = run / "manifest.json"
    manifest.write_bytes(flip(manifest.read_bytes()))
    # Twice: the second time, the manifest is whole, and still does not know the command.
    for episodes, reason in ((4, "is not JSON"), (6, "does not say how the run was begun")):
        done = train(tmp_path, "resume=run", f"episodes={episodes}", "evaluation.episodes=2")
        assert done.returncode == 0, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"seqrl: warning: resume: {manifest}: {reason}")
        assert line.endswith(" Resuming from its config.yaml instead.")
        assert f"changed: episodes: {episodes - 2} -> {episodes}\n" in done.stdout
        now = OmegaConf.load(run / "config.yaml")
        assert {
            key for key in before if key not in ("episodes", "evaluation", "resume") and before[key] != now[key]
        } == set()
        assert (now.episodes, now.evaluation.episodes) == (episodes, 2)
        facts = json.loads(manifest.read_text())
        assert (facts["status"], facts["seed"], facts["id"]) == ("finished", 3, owner)
    rows = [json.loads(line).get("rollout/episodes") for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [it for it in rows if it] == [3, 6, 9, 12, 15, 18]


SEALED = "resume: the checkpoint is of another network or algorithm: "


@pytest.mark.thin(6)
@pytest.mark.parametrize(
    "odd",
    [{"runner": None}, {"runner": {}}, {"runner": {"ranks": []}}, {"algorithm": None}, {"algorithm": {}}],
    ids=str,
)
def test_a_sealed_checkpoint_that_lacks_what_a_run_goes_on_from_gets_one_line(finished, tmp_path, monkeypatch, odd):
    shutil.copytree(finished / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints(tmp_path / "run", run=facts_of(tmp_path / "run")["id"])
    state = {name: it for name, it in (checkpoints.newest()[0] | odd).items() if it is not None}
    checkpoints.save(state, 9)
    before = facts_of(tmp_path / "run")["started"]
    with pytest.raises(CheckpointError, match=SEALED):
        seqrl.learn("resume=run", "episodes=4", quiet=True)
    assert facts_of(tmp_path / "run")["started"] == before


@pytest.mark.thin(18)
@pytest.mark.parametrize(
    ("where", "odd"),
    [
        (["clock", "spent"], {"update": "long"}),
        (["clock", "busy"], None),
        (["clock", "spent"], {"update": float("nan")}),
        (["runner", "environment", "age"], torch.zeros(0, dtype=torch.int64)),
        (["runner", "environment", "keys"], torch.zeros(0, dtype=torch.int64)),
        (["runner", "episodes"], {"age": torch.zeros(1), "observation": torch.zeros(1, 3), "state": {}}),
        (["episodes", "recent"], [("long", 1)]),
        (["episodes", "recent"], [(1.0, 10**400)]),
        (["episodes", "ended"], "many"),
        (["episodes", "ended"], -1),
        (["episodes", "open"], (torch.ones(1), torch.ones(1))),
        (["runner", "rounds"], "many"),
        (["config"], {"seed": torch.ones(2)}),
    ],
    ids=str,
)
def test_a_sealed_checkpoint_with_an_odd_part_within_gets_one_line(finished, tmp_path, monkeypatch, where, odd):
    shutil.copytree(finished / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints(tmp_path / "run", run=facts_of(tmp_path / "run")["id"])
    state = checkpoints.newest()[0]
    put_into(state, where, odd)
    checkpoints.save(state, 9)
    with pytest.raises(CheckpointError, match=SEALED):
        seqrl.learn("resume=run", "episodes=12", quiet=True)


@pytest.fixture(scope="module")
def of_gymnasium(tmp_path_factory):
    """A tiny run with episodes in progress."""
    folder = tmp_path_factory.mktemp("gymnasium")
    tiny = [argument for argument in TINY if not argument.startswith(("env.", "episodes"))]
    choices = ["env.id=CartPole-v1", "env.backend=sync", "rollout_length=8", "total_steps=48", "logger=[]"]
    done = train(folder, *tiny, *choices, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.thin(18)
@pytest.mark.parametrize(
    ("where", "odd"),
    [
        (["number"], b"abc"),
        (["number"], torch.tensor([1, 1])),
        (["number"], torch.tensor([0, 0, 0])),
        (["clock"], torch.tensor([-1, 0, 0])),
        (["observation"], None),
        (["observation"], torch.zeros(3, 5)),
        (["history", "first"], torch.tensor([900, 0, 0])),
        (["history", "first"], torch.tensor([0.5, 0, 0])),
        (["history", "told"], torch.ones(20, 3)),
        (["history", "told"], torch.ones(20, 2, dtype=torch.int64)),
        (["digest"], [[], 1, 2]),
        (["digest"], 3),
        (["said"], [{}, {}, {}]),
        (["said"], [{"env": 0, "clock": "1", "elapsed": []}] * 3),
        (["said"], [{"env": 0}] * 3),
        (["said"], [{"env": 0, "clock": 1, "elapsed": ["1"]}] * 3),
        (["said"], "no"),
    ],
    ids=str,
)
def test_an_odd_state_of_environments_in_a_sealed_checkpoint_is_no_fault_of_theirs(
    of_gymnasium, tmp_path, monkeypatch, where, odd
):
    shutil.copytree(of_gymnasium / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints(tmp_path / "run", run=facts_of(tmp_path / "run")["id"])
    state = checkpoints.newest()[0]
    put_into(state["runner"]["environment"], where, odd)
    checkpoints.save(state, 9)
    with pytest.raises(CheckpointError, match=SEALED):
        seqrl.learn("resume=run", "total_steps=96", quiet=True)


@pytest.mark.slow
def test_ages_of_episodes_in_a_sealed_checkpoint_may_be_whole_numbers_of_any_size(of_gymnasium, tmp_path, monkeypatch):
    shutil.copytree(of_gymnasium / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints(tmp_path / "run", run=facts_of(tmp_path / "run")["id"])
    state = checkpoints.newest()[0]
    state["runner"]["episodes"]["age"] = state["runner"]["episodes"]["age"].to(torch.uint8)
    checkpoints.save(state, 9)
    seqrl.learn("resume=run", "total_steps=96", quiet=True)


def test_a_network_that_would_fill_the_memory_is_not_built_to_go_on(finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    built = []
    whole = build.make_network
    monkeypatch.setattr(build, "make_network", lambda *given: built.append(given) or whole(*given))
    with pytest.raises(CheckpointError, match=rf"{SEALED}network\.hidden_size: 8 -> 12\. Leave"):
        seqrl.learn("resume=run", "network.hidden_size=12", quiet=True)
    assert not built


def test_choices_are_taken_onto_a_saved_configuration_and_others_are_refused():
    before = composed("env=tmaze", "network=attention", "seed=3", "evaluation.interval=2")
    given = ["sequence=truncated", "env.corridor_length=7", "parallel=4", "total_steps=null"]
    # The default task knows no corridor.
    now = as_saved(composed("env=tmaze", *given), before, given)
    assert (now.env.corridor_length, now.parallel, now.seed, now.evaluation.interval) == (7, 4, 3, 2)
    assert (now.network.use_attention, now.sequence_learning.bptt_length) == (True, 50)
    assert now.total_steps is None
    for override in ("experiment=tmaze", "profile=quick", "~logger.jsonl"):
        with pytest.raises(ConfigError, match="as the command that began the run is not known"):
            as_saved(composed(), before, [override])


@pytest.mark.parametrize(
    "manifest", ['{"status": "failed"}', '{"status": "running", "overrides": ["seed=1"], "config_dir": null}', "{"]
)
def test_a_run_of_which_nothing_was_saved_is_begun_again_in_its_folder(finished, tmp_path, manifest):
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text(manifest)
    refused = train(tmp_path, f"resume={run}")
    assert refused.returncode == 3
    assert re.match(
        rf"seqrl: error: .*{run}.*: nothing of this run was saved.* Start it again with the same command",
        refused.stderr,
    )
    with Manifest(run) as begun:
        assert begun.facts["status"] == "running"
    assert (run / "manifest_before_1.json").read_text() == manifest


# The machine fails as the manifest is about to be replaced.
KILLED = """
import os, sys
from pathlib import Path
from seqrl.run.manifest import Manifest
Manifest.begin = lambda self: os._exit(9)
Manifest(Path(sys.argv[1])).__enter__()
"""


@pytest.mark.slow
def test_a_run_of_which_nothing_was_saved_is_begun_again_after_it_was_killed_twice(tmp_path):
    (tmp_path / "manifest.json").write_text('{"status": "failed", "overrides": ["seed=1"]}')
    (tmp_path / "config.yaml").write_text("seed: 1")
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", KILLED, tmp_path]).returncode == 9
    with Manifest(tmp_path) as begun:
        assert begun.facts["status"] == "running"
        assert "overrides" not in begun.facts
    assert "seed=1" in (tmp_path / "manifest_before_1.json").read_text()


@pytest.mark.parametrize("taken", [(1,), (2,), (1, 2, 4)])
def test_a_manifest_of_a_run_that_is_begun_again_takes_a_name_that_is_free(tmp_path, taken):
    (tmp_path / "manifest.json").write_text('{"status": "failed"}')
    for number in taken:
        (tmp_path / f"manifest_before_{number}.json").write_text("precious")
    with Manifest(tmp_path):
        pass
    (new,) = {path.name for path in tmp_path.glob("manifest_before*")} - {f"manifest_before_{n}.json" for n in taken}
    assert (tmp_path / new).read_text() == '{"status": "failed"}'
    for number in taken:
        assert (tmp_path / f"manifest_before_{number}.json").read_text() == "precious"


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (
            '{"status": "finished"}',
            r"already holds a run that is finished\. Choose another folder with hydra\.run\.dir=",
        ),
        ('{"name": "my web page"}', r"holds a manifest\.json that seqrl did not write\. Choose another folder"),
    ],
)
def test_a_folder_whose_run_cannot_go_on_and_is_not_dead_is_left_alone(tmp_path, manifest, said):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ConfigError, match=said), Manifest(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_dead_run_that_is_still_going_is_not_set_aside(tmp_path):
    with Manifest(tmp_path):
        with pytest.raises(ConfigError, match="in use"), Manifest(tmp_path):
            pass
        assert json.loads((tmp_path / "manifest.json").read_text())["status"] == "running"


@pytest.mark.slow
def test_a_run_that_is_stopped_in_its_final_evaluation_is_interrupted_and_goes_on(tmp_path):
    command = [sys.executable, "-m", "seqrl.train", *TINY, "evaluation.episodes=1000000", "hydra.run.dir=run"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as going:
        deadline = time.monotonic() + 60
        while "peak_memory_mb" not in facts_of(tmp_path / "run"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        going.send_signal(signal.SIGTERM)
        said = going.stderr.read()
    assert (going.returncode, len(said.splitlines())) == (143, 1)
    assert said.startswith("seqrl: error: stopped by SIGTERM. Continue with resume=")
    facts = facts_of(tmp_path / "run")
    assert (facts["status"], facts["exit_code"]) == ("interrupted", 143)
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    for _ in range(2):
        # A run that is finished already is evaluated as it was, and its row is there.
        done = train(tmp_path, "resume=run", "evaluation.episodes=4")
        assert done.returncode == 0, done.stderr
        assert facts_of(tmp_path / "run")["status"] == "finished"
        text = (tmp_path / "run" / "metrics.jsonl").read_text()
        assert text.startswith(rows)
        assert len(text.splitlines()) == len(rows.splitlines()) + 1


@pytest.mark.parametrize("word", ["resume=", "resume=''"])
def test_a_resume_of_nothing_gets_one_line(word):
    with pytest.raises(ConfigError, match=r"^resume: names no run\. Write resume=<folder>"):
        arguments([word])


def test_without_manifest_and_configuration_a_folder_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a run folder\. .* has config\.yaml and manifest\.json in it\.$"):
        arguments([f"resume={tmp_path}"])
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="nothing of this run was saved"):
        arguments([f"resume={tmp_path}"])


@pytest.mark.parametrize("name", ["manifest.json", "config.yaml"])
def test_a_file_of_a_run_that_cannot_be_read_for_now_is_not_taken_for_damaged(tmp_path, monkeypatch, name):
    (tmp_path / "manifest.json").write_text('{"status": "finished", "overrides": [], "config_dir": null}')
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    refuse(monkeypatch, tmp_path / name, errno.EACCES)
    uses = {
        "manifest.json": [
            facts_of,
            lambda run: Manifest(run, goes_on=True)._claim(),
            lambda run: arguments([f"resume={run}"]),
        ],
        "config.yaml": [begun.saved, begun.former_defaults, policy.configuration],
    }
    for use in uses[name]:
        with pytest.raises(PermissionError) as refused:
            use(tmp_path)
        assert refused.value.filename == str(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "config.yaml"}


DEEP = {"a": 1}
for _ in range(60):
    DEEP = {"a": DEEP}
UNREADABLE = {
    "deep": (DEEP, r"config\.yaml, which the run would save, is nested too deeply\. Nothing could go on from it\."),
    "a number": ({"n": 2**2000}, r"looks like a number or a date, and is none"),
    "large": ({"text": "x" * 2**20}, r"is larger than 1 MB"),
    "a line break": ({"text": "one\x85two"}, r"env\.kwargs\.text: is another value when it is read again .*'one two'"),
    "a path": ({"path": Path("/data")}, r"holds a tag of YAML that seqrl does not read \(got .*PosixPath\)"),
    "computed": ({"text": "$${oc.env:HOME}"}, r"computes a value, which no run saves"),
}


@pytest.mark.thin(3)
@pytest.mark.parametrize("what", UNREADABLE)
def test_a_configuration_that_could_not_be_read_again_is_refused_before_it_is_saved(what):
    kwargs, said = UNREADABLE[what]
    with pytest.raises(ConfigError, match=said):
        begun.saved_text(OmegaConf.create({"env": {"kwargs": kwargs}, "seed": 10**120}))


def test_a_configuration_with_odd_values_is_saved_as_it_is(tmp_path):
    odd = {
        "a": "${oc.env:HOME}/*.png",
        "b": "  two\nlines ",
        "c": [None, True, 1e-9, "1e-9", "on", "ü"],
        "d": {},
        "e": "",
    }
    cfg = OmegaConf.create({"env": {"kwargs": odd}, "seed": 10**120})
    (tmp_path / "config.yaml").write_bytes(begun.saved_text(cfg))
    assert OmegaConf.to_container(begun.loaded(tmp_path / "config.yaml")) == OmegaConf.to_container(cfg)


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("${}*\\ oc.env:XYab'\"\n\tä\x85")
)
VALUES = st.recursive(LEAVES, lambda it: st.lists(it) | st.dictionaries(st.text("abC"), it), max_leaves=8)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_what_is_saved_of_a_configuration_is_read_again_as_it_was_or_refused(value):
    try:
        cfg = OmegaConf.create({"env": {"kwargs": {"x": value}}})
    except OmegaConfBaseException:
        # It begins a reference, and ends none.
        return
    try:
        text = begun.saved_text(cfg).decode()
    except ConfigError:
        return
    assert repr(OmegaConf.to_container(begun._loaded(text))) == repr(OmegaConf.to_container(cfg))


TINY_GYM = [it for it in TINY if not it.startswith("env.")]


def test_a_run_that_nothing_could_go_on_from_leaves_nothing_behind(tmp_path):
    refused = train(
        tmp_path, *TINY_GYM, "env.id=CartPole-v1", "+env.kwargs.render_mode='one\x85two'", "hydra.run.dir=run"
    )
    assert refused.returncode == 2
    assert "env.kwargs.render_mode: is another value when it is read again" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_a_manifest_may_hold_any_seed(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"seed": 10**120}))
    assert facts_of(tmp_path) == {"seed": 10**120}
