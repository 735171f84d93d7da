"""A run folder of version 0.1.0, kept for good, and what people wrote for that version."""

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError

from seqrl.config import settle
from seqrl.config.validate import faults
from seqrl.evaluate.__main__ import evaluate
from seqrl.evaluate.request import requested
from seqrl.report.runs import find
from tests.programs import run_program
from tests.test_configuration import composed

DATA = Path(__file__).parent / "data"


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(DATA / "run_0_1_0", tmp_path / "run"))


def rows(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: it for key, it in row.items() if not key.startswith("time/") and "peak" not in key} for row in lines]


def test_a_run_of_0_1_0_goes_on_as_that_version_went_on_with_it(run):
    done = run_program(run.parent, "-m", "seqrl.train", f"resume={run}", "total_steps=192")
    assert (done.returncode, done.stderr) == (0, "")
    assert "algorithm" not in done.stdout.partition("SequencePPO")[0]
    expected = rows(DATA / "continued_0_1_0.jsonl")
    # Another processor rounds otherwise.
    assert [pytest.approx(row, rel=1e-3, abs=1e-6) for row in expected] == rows(run / "metrics.jsonl")


def test_a_run_of_0_1_0_is_evaluated_as_it_was_then(run, capsys):
    evaluate(requested([f"run={run}"]))
    assert json.loads((run / "evaluation.json").read_text())["greedy"]["returns"] == [11, 12, 13, 15, 21, 13]


def test_a_run_of_0_1_0_is_reported(run):
    (reported,) = find([run])
    assert (reported.status, reported.seed, reported.score) == ("finished", 0, pytest.approx(14.1667, rel=1e-4))


@pytest.fixture
def settled(monkeypatch):
    """Settles what some overrides compose to."""

    def settled(*overrides, given=(), **more):
        monkeypatch.setattr(settle, "overrides", lambda: list(given or overrides))
        monkeypatch.setattr(settle, "config_dir", lambda: None)
        return settle.settle(composed(*overrides), **more)

    return settled


def test_the_final_configuration_cannot_be_written(settled):
    cfg = settled("network=attention").cfg
    for write in (
        lambda: setattr(cfg, "parallel", 3),
        lambda: setattr(cfg.network, "heads", 3),
        lambda: OmegaConf.update(cfg, "algorithm.gamma", 0.5),
        lambda: cfg.env.pop("hidden"),
    ):
        with pytest.raises(ReadonlyConfigError):
            write()


def test_the_old_name_of_a_key_means_the_new_one(settled):
    cfg = settled("algorithm.learners=1").cfg
    assert cfg.algorithm.gradient_threads == 1
    assert "learners" not in cfg.algorithm
    assert faults(cfg) == []


@pytest.mark.parametrize(
    ("given", "cores", "threads"),
    [
        ([], None, None),
        ([], 1, 1),
        ([], 4, 4),
        (["algorithm.gradient_threads=3"], 1, 3),
        (["algorithm.learners=3"], 1, 3),
    ],
)
def test_runs_side_by_side_share_the_cores_unless_the_command_line_says_otherwise(settled, given, cores, threads):
    found = settled(*given, given=given, cores=cores)
    assert (found.cfg.algorithm.gradient_threads, found.implied) == (threads, [])


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_the_parts_of_its_gradient_and_who_plays(settled, run):
    found = settled("env.id=CartPole-v1", "env=gymnasium", given=["env.id=CartPole-v1"], begun_in=run, cores=4)
    assert found.cfg.algorithm.gradient_parts == 1
    assert found.implied == ["algorithm.exploration=entropy", "algorithm.gradient_parts=1"]
    assert found.cfg.env.backend == "auto", "other environments"
    same = ["env.id=CartPole-v1", "env=gymnasium", "env.hidden=[1,3]", "+env.kwargs.max_episode_steps=30"]
    assert settled(*same, begun_in=run).cfg.env.backend == "sync"


@pytest.mark.slow
def test_a_point_of_a_sweep_that_was_begun_before_there_was_a_key_goes_on_without_it(settled, run):
    words = ["env=tmaze", "total_steps=900"]
    config = OmegaConf.create(settled(*words).saved("tensor"))
    del config.rollout_rewards, config.runner.rollout_rewards
    OmegaConf.save(config, run / "config.yaml")
    found = settled(*words, begun_in=run)
    assert (found.cfg.runner.rollout_rewards, found.changes) == (0, [])
    assert found.implied == ["rollout_rewards=0"]
    # From then on its configuration has the key.
    OmegaConf.save(OmegaConf.create(found.saved("tensor")), run / "config.yaml")
    for overrides, implied in (([], found.implied), (found.implied, [])):
        said = {"overrides": overrides, "implied": implied, "config_dir": None}
        (run / "manifest.json").write_text(json.dumps(said))
        assert settled(*words, begun_in=run).changes == []
    changed = settled(*words, "rollout_rewards=8", begun_in=run).changes
    assert "rollout_rewards: 0 -> 8" in changed


@pytest.mark.slow
def test_a_point_of_such_a_sweep_that_was_not_begun_then_does_as_the_first_one(settled, run):
    words = ["env=tmaze", "total_steps=900"]
    config = OmegaConf.create(settled(*words).saved("tensor"))
    del config.rollout_rewards, config.runner.rollout_rewards, config.algorithm.exploration
    OmegaConf.save(config, run / "config.yaml")

    def found(*more, beside=run):
        cfg = settled(*words, *more, begun_in=run.parent / "1", beside=beside).cfg
        return cfg.rollout_rewards, cfg.runner.rollout_rewards, cfg.algorithm.get("exploration")

    assert found() == (0, 0, "entropy")
    assert found("rollout_rewards=8") == (8, 8, "entropy")
    assert found("algorithm=reinforce")[0] == 0
    assert found(beside=None) == found(beside=run.parent / "none") == (64, 64, "barrier")
    # Another's is said where it is gone on with.
    (run / "config.yaml").write_text("{")
    assert found() == (64, 64, "barrier")


def test_files_copied_from_0_1_0_compose(tmp_path):
    (tmp_path / "algorithm").mkdir()
    rule = "${learns_sequences:${sequence_learning.enabled},${oc.select:network.use_lstm,true}}"
    (tmp_path / "algorithm" / "mine.yaml").write_text(
        "defaults:\n  - /schema/ppo@_here_\n"
        f"_target_: seqrl.algorithms.${{choose:{rule},SequencePPOAlgorithm,PPOAlgorithm}}\nlearners: 1\n"
    )
    cfg = composed(f"hydra.searchpath=[file://{tmp_path}]", "algorithm=mine")
    assert cfg.algorithm._target_ == "seqrl.algorithms.SequencePPOAlgorithm"
    assert cfg.algorithm.grad_clip_norm == 5.0
