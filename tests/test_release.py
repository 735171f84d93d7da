"""A release has one version, and begins only with everything committed."""

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def release():
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(release, tmp_path):
    """A copy of the files that say the version."""
    for place in release.PLACES:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / place, tmp_path / place)
    return tmp_path


def test_the_version_is_the_same_everywhere(release):
    assert release.disagreement(release.versions(ROOT)) == ""


@pytest.mark.parametrize("place", ["pyproject.toml", "seqrl/__init__.py", "CITATION.cff", "CHANGELOG.md"])
def test_another_version_in_one_file_is_named(release, checkout, place):
    path = checkout / place
    path.write_text(path.read_text().replace(release.versions(ROOT)[place], "9.9.9", 1))
    assert f"{place} 9.9.9" in release.disagreement(release.versions(checkout))


def test_a_file_that_says_no_version_is_named(release, checkout):
    (checkout / "CITATION.cff").write_text("title: seqrl\n")
    assert "CITATION.cff none" in release.disagreement(release.versions(checkout))


def test_a_section_without_a_date_is_not_released(release, checkout, monkeypatch):
    version = release.versions(ROOT)["pyproject.toml"]
    (checkout / "CHANGELOG.md").write_text(f"# Changelog\n\n## [{version}] - unreleased\n")
    monkeypatch.setattr(release, "ROOT", checkout)
    with pytest.raises(SystemExit, match="has no date"):
        release.ready()


def test_what_is_not_committed_stops_a_release(release, monkeypatch):
    monkeypatch.setattr(release, "said_by", lambda *words: " M README.md" if "status" in words else "")
    with pytest.raises(SystemExit, match=r"not everything is committed:\n M README.md"):
        release.clean()


def test_a_command_that_fails_stops_a_release(release):
    with pytest.raises(SystemExit, match="false ended with exit code 1"):
        release.run("false")
