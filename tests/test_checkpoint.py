import json
import os
import random

import pytest
import torch

from seqrl.checkpoint import KEEP, Checkpoints
from seqrl.errors import CheckpointError


def saved(tmp_path, *iterations):
    checkpoints = Checkpoints(tmp_path)
    for iteration in iterations:
        checkpoints.save({"iterations": iteration, "weight": torch.arange(1000.0) + iteration}, iteration)
    return checkpoints


def test_the_newest_comes_back_as_it_was_and_older_ones_go(tmp_path):
    state, passed_over = saved(tmp_path, 8, 9, 10, 11).newest()
    assert state["iterations"] == 11
    assert torch.equal(state["weight"], torch.arange(1000.0) + 11)
    assert passed_over == []
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == KEEP


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(tmp_path, damage, seed):
    checkpoints = saved(tmp_path, 1, 2)
    path = tmp_path / "checkpoints" / "00000002.pt"
    data = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(len(data))
    if damage == "gone":
        path.unlink()
    else:
        data[place] ^= 1
        path.write_bytes({"flip": data, "cut": data[:place], "empty": b""}[damage])
    state, (said,) = checkpoints.newest()
    assert state["iterations"] == 1
    assert "00000002.pt" in said


def test_where_none_is_sound_the_run_does_not_start_from_scratch(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    for path in (tmp_path / "checkpoints").glob("*.pt"):
        path.write_bytes(b"text")
    with pytest.raises(CheckpointError, match=r"resume: .*no checkpoint that can be used: .*Start a new run"):
        checkpoints.newest()


@pytest.mark.parametrize("index", [None, "", "[1]", "{", '{"00000009.pt": "no such file"}'])
def test_without_a_sound_index_there_is_no_checkpoint(tmp_path, index):
    (tmp_path / "checkpoints").mkdir()
    if index is not None:
        (tmp_path / "checkpoints" / "index.json").write_text(index)
    with pytest.raises(CheckpointError):
        Checkpoints(tmp_path).newest()


def test_a_save_that_fails_half_way_leaves_the_older_one(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            checkpoints.save({"iterations": 2}, 2)
    assert checkpoints.newest()[0]["iterations"] == 1
    checkpoints.save({"iterations": 3}, 3)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"00000001.pt", "00000003.pt", "index.json"}


def test_what_is_not_a_checkpoint_is_left_alone(tmp_path):
    checkpoints = saved(tmp_path, 1)
    (tmp_path / "checkpoints" / "mine.pt").write_bytes(b"precious")
    (tmp_path / "checkpoints" / "folder").mkdir()
    (tmp_path / "checkpoints" / "00000002.pt.tmp").write_bytes(b"stray")
    checkpoints.save({"iterations": 3}, 3)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"00000001.pt", "00000003.pt", "index.json", "mine.pt", "folder"}


def test_nothing_but_plain_data_is_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "created"), "w"))

    import hashlib

    checkpoints = saved(tmp_path, 1)
    path = tmp_path / "checkpoints" / "00000001.pt"
    torch.save({"iterations": Evil()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "checkpoints" / "index.json").write_text(json.dumps({path.name: digest}))
    with pytest.raises(CheckpointError, match="more than plain data"):
        checkpoints.newest()
    assert not (tmp_path / "created").exists()
