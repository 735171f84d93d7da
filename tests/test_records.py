import json

import pytest
import torch

from seqrl.errors import ConfigError
from seqrl.records import Manifest, forget_peak_memory, peak_memory_mb


def test_the_manifest_is_whole_after_every_update(tmp_path):
    manifest = Manifest(tmp_path, seed=3)
    assert json.loads(manifest.path.read_text())["status"] == "running"
    manifest.update(status="finished", result=7.5)
    facts = json.loads(manifest.path.read_text())
    assert (facts["status"], facts["result"], facts["seed"]) == ("finished", 7.5, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    Manifest(tmp_path, seed=3)
    with pytest.raises(ConfigError, match="holds a run already"):
        Manifest(tmp_path, seed=4)
    assert json.loads((tmp_path / "manifest.json").read_text())["seed"] == 3


def test_peak_memory_counts_what_was_held_and_can_begin_anew():
    forget_peak_memory()
    before = peak_memory_mb()
    del_me = torch.ones(50_000_000 // 4)
    assert peak_memory_mb() - before == pytest.approx(50, abs=15)
    del del_me
