"""Equal sweeps at the same time: none fails because of the other, and nothing is done twice."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from seqrl import sweeps
from seqrl.config.paths import CONF
from seqrl.run.manifest import Manifest
from seqrl.sweeps import Point
from seqrl.tune.search import Plan
from tests.test_sweeps import TINY, manifests


@pytest.fixture
def looked(monkeypatch):
    """A point that is looked at without its configuration, which `play` then does as it is told."""

    def looked(folder: Path, play) -> float:
        monkeypatch.setattr(sweeps, "settle", lambda *_, **__: None)
        monkeypatch.setattr(Point, "share_of_cores", 1)
        monkeypatch.setattr(Point, "refuse_another", lambda *_: None)
        return sweeps._finish_point(OmegaConf.create({}), Point(folder, None), play)

    return looked


def test_a_point_that_another_process_has_just_begun_is_left_to_it(tmp_path, looked, capsys):
    with Manifest(tmp_path) as other:
        # As if it had been free when it was looked at.
        assert not looked(tmp_path, lambda *_: Manifest(tmp_path).__enter__()) >= 0
        assert other.path.exists()
    assert capsys.readouterr().out == f"{tmp_path.name}: is running in another process, skipped\n"


def test_a_point_that_another_process_has_begun_and_finished_meanwhile_is_not_done_twice(tmp_path, looked, capsys):
    def finished_by_another(*_):
        with Manifest(tmp_path) as other:
            other.update(status="finished", result=7.0)
        return Manifest(tmp_path).__enter__()

    assert looked(tmp_path, finished_by_another) == 7.0
    assert capsys.readouterr().out == f"{tmp_path.name}: already finished, 7.00\n"


@pytest.mark.slow
def test_equal_sweeps_into_one_folder_share_its_points(tmp_path):
    command = [sys.executable, "-m", "seqrl.train", "-m", *TINY, "seed=0,1,2", "sweep=s"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [errors for _, errors in said] == ["", ""]
    assert [facts["status"] for facts in manifests(tmp_path).values()] == ["finished"] * 3
    played = [
        (tmp_path / "s" / name / "metrics.jsonl").read_text().count("rollout/return_mean")
        for name in manifests(tmp_path)
    ]
    assert played == [2, 2, 2]


def test_runs_sweeps_and_searches_begun_in_the_same_second_have_a_folder_each():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        composed = [compose("config", return_hydra_config=True).hydra for _ in range(3)]
        # Choices are known only to a program that runs.
        runs = {OmegaConf.to_container(hydra.run, resolve=False)["dir"].partition("_$")[0] for hydra in composed}
        folders = {hydra.sweep.dir for hydra in composed}
    assert len(folders) == 3
    assert all(run.endswith("%f}") for run in runs)
    assert len({Plan().study for _ in range(3)}) == 3
