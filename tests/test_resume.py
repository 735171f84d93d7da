import pytest
from omegaconf import OmegaConf

from seqrl.errors import CheckpointError
from seqrl.resume import arguments, changes


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "a run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("- network=attention\n- seed=3\n- resume='/elsewhere'\n")
    return run


def test_a_command_without_resume_stays_as_it_is():
    assert arguments(["network=lstm", "seed=1"]) == ["network=lstm", "seed=1"]
    assert arguments(["resume=null"]) == ["resume=null"]


def test_the_choices_that_began_the_run_come_first_and_its_folder_last(folder):
    assert arguments([f"resume={folder}", "episodes=20", "hydra.run.dir=/x"]) == [
        "network=attention",
        "seed=3",
        "episodes=20",
        f"hydra.run.dir='{folder}'",
        f"resume='{folder}'",
    ]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no run.*manifest\.json"):
        arguments([f"resume={tmp_path}"])


def test_what_has_changed_is_named():
    before = OmegaConf.create({"seed": 1, "network": {"width": 8, "old": 1}, "resume": None})
    now = OmegaConf.create({"seed": 1, "network": {"width": "${seed}"}, "env": {}, "resume": "x"})
    assert changes(before, now) == ["network.width: 8 -> 1", "network.old: 1 -> not there"]
