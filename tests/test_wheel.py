"""The wheel holds all that a run needs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the contents of the wheel, and nothing of the checkout."""
    source, built, target = (tmp_path_factory.mktemp(name) for name in ("source", "built", "installed"))
    for part in ("seqrl", "conf"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source / part)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        built,
        source,
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    return target


@pytest.mark.slow
def test_the_wheel_ships_the_configuration_inside_the_package(installed):
    shipped = {path.relative_to(installed / "seqrl") for path in (installed / "seqrl" / "conf").rglob("*.yaml")}
    assert shipped == {path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")}
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {"seqrl"}


@pytest.mark.slow
def test_a_run_from_the_wheel_works_in_any_folder(installed, tmp_path):
    command = [sys.executable, "-c", "import seqrl.train; print(seqrl.__file__); seqrl.train.main()"]
    tiny = ["episodes=1", "parallel=2", "evaluation.episodes=2", "env.max_episode_steps=5", "profile=quick"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [*command, *tiny], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stdout
    assert len(list(tmp_path.glob("outputs/runs/*/*/manifest.json"))) == 1
