import errno
import functools
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import pickletools
import random
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch

from seqrl.config.begun import can_go_on
from seqrl.errors import CheckpointError, ConfigError
from seqrl.files import STRAY
from seqrl.run import checkpoint, policy, safe_load
from seqrl.run.checkpoint import Checkpoints, unpacked
from seqrl.text import masks
from tests.parts import refuse


def saved(tmp_path, *iterations):
    checkpoints = Checkpoints(tmp_path)
    for iteration in iterations:
        checkpoints.save({"iterations": iteration, "weight": torch.arange(1000.0) + iteration}, iteration)
    return checkpoints


def files(tmp_path):
    return {path.name for path in (tmp_path / "checkpoints").iterdir()}


def of(*iterations):
    return {f"{iteration:08d}.pt" for iteration in iterations}


def flip(tmp_path, iteration, place):
    """One bit of a checkpoint, of the byte at a place or of the last of a text."""
    path = tmp_path / "checkpoints" / f"{iteration:08d}.pt"
    data = bytearray(path.read_bytes())
    data[data.index(place) + len(place) - 1 if isinstance(place, bytes) else place] ^= 4
    path.write_bytes(data)


def pair(tmp_path, iteration, facts=None, **returns):
    """A checkpoint as 0.1.0 wrote it."""
    folder = tmp_path / "checkpoints"
    folder.mkdir(exist_ok=True)
    path = folder / f"{iteration:08d}.pt"
    torch.save({"iterations": iteration}, path)
    written = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **returns}
    path.with_suffix(".json").write_text(json.dumps(written) if facts is None else facts)


def test_the_newest_comes_back_as_it_was_and_older_ones_go(tmp_path):
    state, passed_over = saved(tmp_path, 8, 9, 10, 11).newest()
    assert state["iterations"] == 11
    assert torch.equal(state["weight"], torch.arange(1000.0) + 11)
    assert passed_over == []
    assert files(tmp_path) == of(10, 11)


def test_as_many_are_kept_as_is_asked_for_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for iteration, score in enumerate([1.0, float("nan"), 7.0, 7.0, 2.0, 3.0, 4.0]):
        checkpoints.save({"iterations": iteration}, iteration, score)
    # Of two that are equal, the one that has learned more.
    assert files(tmp_path) == of(3, 4, 5, 6)
    assert checkpoints.newest()[0]["iterations"] == 6
    checkpoints.save({"iterations": 7}, 7, 8.0)
    assert files(tmp_path) == of(5, 6, 7)


def test_where_policies_were_evaluated_the_best_is_one_of_those(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    unknown = float("nan")
    scores = [(90.0, unknown), (1.0, 5.0), (80.0, unknown), (2.0, 7.0), (3.0, 6.0), (70.0, 7.0), (4.0, unknown)]
    bests = []
    for iteration, (training, evaluation) in enumerate(scores):
        checkpoints.save({"iterations": iteration}, iteration, training, evaluation)
        bests.append(checkpoints.best)
    assert bests == [(0, 90.0), (1, 5.0), (1, 5.0), (3, 7.0), (3, 7.0), (5, 7.0), (5, 7.0)]
    assert files(tmp_path) == of(5, 6)


def test_the_best_is_one_of_those_that_are_measured_as_the_newest_is_and_others_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for iteration, (yardstick, mean) in enumerate([("a", 9.0), ("a", 8.0), ("b", 1.0), ("b", 2.0), ("b", 0.5)], 1):
        checkpoints.yardstick = yardstick
        checkpoints.save({"iterations": iteration}, iteration, mean)
    assert checkpoints.best == Checkpoints(tmp_path).best == (4, 2.0)
    assert files(tmp_path) == of(1, 4, 5)


def test_what_is_saved_once_more_without_its_returns_stays_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for iteration, score in enumerate([1.0, 9.0]):
        checkpoints.save({"iterations": iteration}, iteration, score, score)
    # As a run does that goes on from there.
    checkpoints.begin({"iterations": 1}, 1)
    assert checkpoints.best == (1, 9.0)
    for iteration in (2, 3):
        checkpoints.save({"iterations": iteration}, iteration, 100.0)
    assert files(tmp_path) == of(1, 3)
    assert checkpoints.newest()[0]["iterations"] == 3


@pytest.mark.parametrize("facts", ["{}", '{"return_mean": null}', '{"return_mean": "9"}'])
def test_where_no_return_is_known_none_is_the_best(tmp_path, facts):
    pair(tmp_path, 1, facts)
    assert Checkpoints(tmp_path).best is None


def test_what_a_run_has_left_behind_does_not_come_back(tmp_path):
    checkpoints = saved(tmp_path, 8, 9)
    flip(tmp_path, 9, -1)
    assert checkpoints.newest()[0]["iterations"] == 8
    checkpoints.begin({"iterations": 8}, 8)
    assert files(tmp_path) == of(8)
    checkpoints.save({"iterations": 9, "anew": True}, 9)
    assert checkpoints.newest()[0] == {"iterations": 9, "anew": True}


def test_what_a_run_has_left_behind_and_nobody_can_remove_is_not_passed_over(tmp_path, monkeypatch):
    """It would be taken for the newest, or stand in the way of the one to come."""
    checkpoints = saved(tmp_path, 8, 9)
    flip(tmp_path, 9, -1)
    monkeypatch.setattr(os, "unlink", lambda path, **_: (_ for _ in ()).throw(PermissionError(1, "no", str(path))))
    with pytest.raises(PermissionError, match="00000009"):
        checkpoints.begin({"iterations": 8}, 8)


def test_what_is_saved_is_never_written_again(tmp_path):
    checkpoints = saved(tmp_path, 8)
    path = tmp_path / "checkpoints" / "00000008.pt"
    before = path.stat()
    checkpoints.save({"iterations": 8.5}, 8)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert checkpoints.newest()[0]["iterations"] == 8


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_flipped_bit_or_a_lost_end_is_noticed_and_the_one_before_is_used(tmp_path, damage, seed):
    checkpoints = saved(tmp_path, 1, 2)
    path = tmp_path / "checkpoints" / "00000002.pt"
    data = bytearray(path.read_bytes())
    chance = random.Random(seed)
    place = chance.randrange(len(data))
    data[place] ^= 1 << chance.randrange(8)
    path.write_bytes({"flip": data, "cut": data[:place]}[damage])
    state, said = checkpoints.newest()
    assert state["iterations"] == 1
    assert said == ["00000002.pt is damaged"]


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EACCES, "with chmod or chown"), (errno.EIO, "See whether its disk is failing")]
)
def test_one_that_cannot_be_read_for_now_is_refused_with_the_remedy_and_stays(tmp_path, monkeypatch, number, remedy):
    checkpoints = saved(tmp_path, 1, 2)
    path = tmp_path / "checkpoints" / "00000002.pt"
    refuse(monkeypatch, path, number)
    for use in (checkpoints.newest, lambda: checkpoints.load(2), lambda: policy.checkpoint(tmp_path, "best")):
        with pytest.raises(CheckpointError, match=rf"{path}: cannot be read \(.*\), and may be intact. .*{remedy}"):
            use()
    with pytest.raises(OSError, match=os.strerror(number)):
        Checkpoints(tmp_path).save({"iterations": 2}, 2)
    assert files(tmp_path) == of(1, 2)


def test_facts_of_0_1_0_that_cannot_be_read_for_now_are_refused_with_the_remedy(tmp_path, monkeypatch):
    pair(tmp_path, 1)
    pair(tmp_path, 2)
    refuse(monkeypatch, tmp_path / "checkpoints" / "00000002.json", errno.EACCES)
    with pytest.raises(CheckpointError, match=r"00000002\.pt: cannot be read .*with chmod or chown"):
        Checkpoints(tmp_path).newest()


def test_checkpoints_that_cannot_be_listed_are_not_taken_for_none(tmp_path, monkeypatch):
    saved(tmp_path, 1)

    def denied(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(PermissionError, match="checkpoints"):
        can_go_on(tmp_path)


def test_an_empty_checkpoint_is_noticed_and_the_one_before_is_used(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    (tmp_path / "checkpoints" / "00000002.pt").write_bytes(b"")
    state, wrong = checkpoints.newest()
    assert (state["iterations"], wrong) == (1, ["00000002.pt is damaged"])


def test_where_none_is_sound_the_run_does_not_start_from_scratch(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    for path in (tmp_path / "checkpoints").glob("*.pt"):
        path.write_bytes(b"text")
    with pytest.raises(CheckpointError, match=r"checkpoints: holds no checkpoint that can be used: .*Start a new run"):
        checkpoints.newest()


@pytest.mark.parametrize("facts", ["", "[1]", "{", "\0", "{}", '{"sha256": "of another"}'])
def test_with_damaged_facts_a_checkpoint_of_0_1_0_is_damaged(tmp_path, facts):
    pair(tmp_path, 1)
    pair(tmp_path, 2, facts)
    checkpoints = Checkpoints(tmp_path)
    state, wrong = checkpoints.newest()
    assert (state["iterations"], wrong) == (1, ["00000002.pt is damaged"])
    checkpoints.save({"iterations": 3}, 3)
    assert checkpoints.newest()[0]["iterations"] == 3


def test_a_checkpoint_of_0_1_0_that_was_not_finished_is_none(tmp_path):
    pair(tmp_path, 1)
    pair(tmp_path, 2)
    (tmp_path / "checkpoints" / "00000002.json").unlink()
    state, wrong = Checkpoints(tmp_path).newest()
    assert (state["iterations"], wrong) == (1, [])
    (tmp_path / "checkpoints" / "00000001.json").unlink()
    assert not can_go_on(tmp_path)


def test_checkpoints_of_0_1_0_are_kept_and_left_like_others(tmp_path):
    for iteration, score in enumerate([1.0, 9.0, 2.0]):
        pair(tmp_path, iteration, return_mean=score)
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.best == (1, 9.0)
    checkpoints.begin({"iterations": 2}, 2)
    assert files(tmp_path) == {"00000001.pt", "00000001.json", "00000002.pt", "00000002.json"}
    checkpoints.save({"iterations": 3}, 3, 10.0)
    assert files(tmp_path) == of(3)


@pytest.mark.parametrize(("mine", "sound"), [("a", True), ("b", False), (None, True)])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, mine, sound):
    Checkpoints(tmp_path, run="a").save({"iterations": 1}, 1)
    if sound:
        assert Checkpoints(tmp_path, run=mine).newest()[0] == {"iterations": 1}
    else:
        with pytest.raises(CheckpointError, match=r"00000001\.pt belongs to another run"):
            Checkpoints(tmp_path, run=mine).newest()


def sealed(tmp_path, header):
    """A checkpoint whose digest is right, whatever its header says."""
    data = saved(tmp_path, 1)._path(1).read_bytes()
    rest = header + b"\n" + data.split(b"\n", 2)[2]
    digest = hashlib.sha256(b"1\n" + rest).hexdigest().encode()
    (tmp_path / "checkpoints" / "00000001.pt").write_bytes(b"seqrl checkpoint 1 " + digest + b"\n" + rest)


@pytest.mark.parametrize(
    "header", [b"{}", b"[]", b"3", b"null", b"", b"\xff", b'{"run": {"a": 1}}', b'{"return_mean": NaN}', b"[" * 60000]
)
def test_a_sealed_checkpoint_with_an_odd_header_belongs_to_no_run(tmp_path, header):
    sealed(tmp_path, header)
    assert Checkpoints(tmp_path).best is None
    assert Checkpoints(tmp_path).owner is None
    assert Checkpoints(tmp_path).newest()[0]["iterations"] == 1
    with pytest.raises(CheckpointError, match="belongs to another run"):
        Checkpoints(tmp_path, run="a").newest()


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("seqrl.run.checkpoint.VERSION", 2)
        saved(tmp_path, 1)
    with pytest.raises(CheckpointError, match="is of a newer version of seqrl"):
        Checkpoints(tmp_path).newest()


def test_what_may_not_be_of_this_run_is_left_alone(tmp_path, monkeypatch):
    Checkpoints(tmp_path, run="other").save({"iterations": 1}, 1)
    saved_by = Checkpoints(tmp_path, run="mine")
    for iteration in (2, 3):
        saved_by.save({"iterations": iteration}, iteration)
    with monkeypatch.context() as patch:
        patch.setattr("seqrl.run.checkpoint.VERSION", 2)
        Checkpoints(tmp_path, run="mine").save({"iterations": 7}, 7)
    folder = tmp_path / "checkpoints"
    (folder / "00000099.pt").write_bytes(b"notes of mine")
    kept = {name: (folder / name).read_bytes() for name in of(1, 7, 99)}
    checkpoints = Checkpoints(tmp_path, run="mine")
    assert checkpoints.newest()[0] == {"iterations": 3}
    assert checkpoints.foreign == sorted(of(1, 7, 99))
    for iteration in (3, 4, 5):
        checkpoints.save({"iterations": iteration}, iteration)
    assert files(tmp_path) == of(1, 4, 5, 7, 99)
    # What stands in the way has another name afterwards.
    checkpoints.save({"iterations": 75}, 7)
    assert checkpoints.newest()[0] == {"iterations": 75}
    assert files(tmp_path) == {*of(1, 5, 7, 99), "00000007.pt.aside"}
    moved = {"00000007.pt": "00000007.pt.aside"}
    assert {name: (folder / moved.get(name, name)).read_bytes() for name in kept} == kept


@pytest.mark.parametrize("resumed", [False, True])
def test_a_flipped_bit_in_a_return_does_not_cost_the_best(tmp_path, resumed):
    checkpoints = Checkpoints(tmp_path, run="mine")
    for iteration, mean in enumerate([10.0, 50.0, 31.5, 32.5], 1):
        checkpoints.save({"iterations": iteration}, iteration, mean)
    # 31.5 becomes 71.5.
    flip(tmp_path, 3, b'"return_mean": 3')
    if resumed:
        checkpoints = Checkpoints(tmp_path, run="mine")
    assert checkpoints.unreadable == ["00000003.pt"]
    checkpoints.save({"iterations": 5}, 5, 33.0)
    assert checkpoints.best == (2, 50.0)
    assert checkpoints.load(2) == {"iterations": 2}
    assert files(tmp_path) == of(2, 4, 5)


def packed() -> bytes:
    """Ten thousand times as much when it is read: zeros, packed."""
    data, grows = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.zeros(10_000)}, data)
    with zipfile.ZipFile(data) as plain, zipfile.ZipFile(grows, "w", zipfile.ZIP_DEFLATED) as deflated:
        for entry in plain.infolist():
            deflated.writestr(entry.filename, plain.read(entry))
    return grows.getvalue()


def test_a_checkpoint_that_grows_when_it_is_read_is_refused():
    with pytest.raises(ValueError, match="is packed, and would grow"):
        unpacked(packed())


def test_of_two_directories_in_a_checkpoint_none_is_believed():
    """Python's zipfile looks before the end, where nothing is packed; torch where the end says, where all is."""
    body, end = packed()[:-22], packed()[-22:]
    size, offset = struct.unpack("<2I", end[12:20])
    plain, place = bytearray(body[offset:]), 0
    while place < size:
        (packed_size,) = struct.unpack_from("<I", plain, place + 20)
        names = struct.unpack_from("<3H", plain, place + 28)
        struct.pack_into("<H", plain, place + 10, 0)
        struct.pack_into("<I", plain, place + 24, packed_size)
        place += 46 + sum(names)
    forged = body + bytes(plain) + end
    entries = zipfile.ZipFile(io.BytesIO(forged)).infolist()
    assert sum(entry.file_size for entry in entries) < len(forged)
    assert len(torch._C.PyTorchFileReader(io.BytesIO(forged)).get_record("data/0")) == 40_000
    with pytest.raises(ValueError, match="is damaged"):
        unpacked(forged)


@pytest.mark.parametrize("where", ["checkpoints", "checkpoints/00000001.pt"])
def test_no_link_is_followed(tmp_path, where):
    saved(tmp_path, 1)
    path = tmp_path / where
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises((CheckpointError, OSError), match=r"link|symbolic"):
        Checkpoints(tmp_path).newest()
    if where == "checkpoints":
        with pytest.raises(OSError, match="is a link"):
            saved(tmp_path, 2)


def test_where_nothing_was_saved_there_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"checkpoints: holds no checkpoint: nothing of this run was saved\. "):
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
    assert files(tmp_path) == of(1, 3)


def save_for_ever(folder):
    for iteration in range(1, 10**6):
        saved(folder, iteration)


def test_a_process_killed_while_saving_leaves_a_sound_checkpoint(tmp_path):
    chance = random.Random(0)
    reached = []
    # On a busy machine, the first process may be killed before it begins.
    saved(tmp_path, 1)
    for _ in range(20):
        saving = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(tmp_path,))
        saving.start()
        time.sleep(0.05 + 0.05 * chance.random())
        saving.kill()
        saving.join()
        state, said = Checkpoints(tmp_path).newest()
        assert torch.equal(state["weight"], torch.arange(1000.0) + state["iterations"])
        assert said == []
        reached.append(state["iterations"])
    # It was killed while it saved, not before.
    assert max(reached) > 1
    saved(tmp_path, 10**6)
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if STRAY.fullmatch(path.name)]


def test_what_is_not_a_checkpoint_is_left_alone(tmp_path):
    checkpoints = saved(tmp_path, 1)
    (tmp_path / "checkpoints" / "mine.pt").write_bytes(b"precious")
    (tmp_path / "checkpoints" / "folder").mkdir()
    (tmp_path / "checkpoints" / "00000002.pt.tmp").write_bytes(b"precious")
    (tmp_path / "checkpoints" / ".seqrl-0123456789abcdef.tmp").write_bytes(b"stray")
    (tmp_path / "checkpoints" / f".seqrl-{'f' * 16}.tmp").mkdir()
    checkpoints.save({"iterations": 3}, 3)
    assert files(tmp_path) == {*of(1, 3), "mine.pt", "folder", "00000002.pt.tmp", f".seqrl-{'f' * 16}.tmp"}


def test_nothing_but_plain_data_is_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "created"), "w"))

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"iterations": 1}, 1)
    (path,) = tmp_path.glob("**/*.pt")
    path.write_bytes(checkpoint.packed({"iterations": Evil()}, {"run": None}))
    with pytest.raises(CheckpointError, match="more than plain data"):
        checkpoints.newest()
    assert not (tmp_path / "created").exists()


def with_pickle(program):
    """What torch.save wrote, with another pickle in the place of its own."""
    written, changed = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.ones(3)}, written)
    with zipfile.ZipFile(written) as plain, zipfile.ZipFile(changed, "w") as other:
        for entry in plain.infolist():
            other.writestr(entry.filename, program if entry.filename.endswith("data.pkl") else plain.read(entry))
    return changed.getvalue()


# {"a": ...
A = b"\x80\x02}X\x01\x00\x00\x00a"
LIST_OF_LISTS = b"".join(b"]q" + bytes([n]) + b"(" + (b"h" + bytes([n - 1])) * 10 + b"e" for n in range(1, 12))
TEXT = b"X" + (10**6).to_bytes(4, "little") + b"x" * 10**6 + b"q\x02X\x06\x00\x00\x00latin1q\x03\x86R"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        # bytearray(10**9)
        (A + b"cbuiltins\nbytearray\n\x8a\x04" + (10**9).to_bytes(4, "little") + b"\x85Rs.", "more than plain data"),
        (A + b"ctorch.storage\nUntypedStorage\n\x8a\x04" + (10**9).to_bytes(4, "little") + b"\x85Rs.", "is damaged"),
        (A + b"ccollections\nOrderedDict\nq\x00]\x85Rs.", "is damaged"),
        (A + b"c__builtin__\nbytes\n\x8a\x04" + (10**9).to_bytes(4, "little") + b"\x85Rs.", "is damaged"),
        (A + b"(]q\x00K\x01a" + LIST_OF_LISTS + b"ts.", "would grow"),
        (A + b"](c_codecs\nencode\nq\x01" + TEXT + b"h\x01h\x02h\x03\x86R" * 400 + b"es.", "would grow"),
        (A + b"]q\x00h\x00as.", "would grow"),
        (A + b"]" * 500 + b"a" * 499 + b"s.", "would grow"),
        (A, "is damaged"),
    ],
    ids=["length", "storage", "copies", "zeros", "laughs", "texts", "itself", "deep", "half"],
)
def test_a_small_file_that_takes_much_memory_is_refused_before_it_does(program, said):
    with pytest.raises(ValueError, match=said):
        unpacked(with_pickle(program))


def number(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(data)]) + data


D = b"\x80\x02}"
DEEP = b")" + b"\x85" * 20_000


@pytest.mark.parametrize(
    ("program", "said"),
    [
        # Python ends if it hashes such a tuple.
        (D + DEEP + b"K\x01s.", "keys"),
        (D + b"X\x01\x00\x00\x00a(X\x07\x00\x00\x00storageK\x01" + DEEP + b"K\x02K\x03tQs.", "keys"),
        # A tuple that holds the one before twice, 60 times.
        (D + b")q\x00" + b"h\x00\x86q\x00h\x00" * 60 + b"K\x01s.", "keys"),
        (D + b"(" + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(1, 5000)) + b"u.", "keys"),
        (D + b"(" + b"".join(b"G" + struct.pack(">d", 2.0 ** (61 * n)) + b"N" for n in range(-17, 17)) * 9 + b"u.", ""),
        (D + b"]K\x01s.", "keys"),
        (D + b"s.", "damaged"),
        (D + b"h\x09K\x01s.", "damaged"),
        (A + b"c_codecs\nencode\n" + TEXT.replace(b"latin1", b"utf_16") + b"s.", "damaged"),
        (A + b"c_codecs\nencode\nq\x01h\x01" + TEXT + b"h\x03\x86Rs.", "damaged"),
        (A + b"c_codecs\nencode\n](X\x01\x00\x00\x00xX\x06\x00\x00\x00utf_16eRs.", "damaged"),
        (D + b"X\x01\x00\x00\x00ac__builtin__\ncomplex\nX\x01\x00\x00\x00x\x85Rs.", "damaged"),
    ],
    ids=[
        "deep", "storage", "doubled", "alike", "few alike", "list", "nothing", "memo", "encoding", "bytes of bytes",
        "list of arguments", "call",
    ],
)  # fmt: skip
def test_keys_that_take_for_ever_and_pickles_that_make_no_sense_are_refused(program, said):
    if said:
        with pytest.raises(ValueError, match=said):
            unpacked(with_pickle(program))
    else:
        assert unpacked(with_pickle(program))


def test_a_run_whose_state_could_not_be_loaded_again_ends_before_it_learns(tmp_path):
    with pytest.raises(ConfigError, match=r"could not be loaded again: it holds more than plain data\. .*of your own"):
        Checkpoints(tmp_path).begin({"iterations": 0, "seen": {1, 2}}, 0)


@pytest.mark.parametrize(
    "mark", [("is a number of NumPy's", "<f4", "x"), {"is an array": {"dtype": 1, "shape": 2, "bytes": 3}}]
)
def test_a_state_that_looks_like_an_odd_mark_ends_its_run_before_it_learns(tmp_path, mark):
    with pytest.raises(ConfigError, match=r"could not be loaded again: it holds an odd (number|array)"):
        Checkpoints(tmp_path).begin({"iterations": 0, "algorithm": {"mine": mark}}, 0)


@pytest.mark.parametrize("own", [{"environment": None}, {"ranks": [{"environment": None}] * 2}], ids=["alone", "ranks"])
def test_an_environments_state_that_has_become_what_cannot_be_loaded_is_left_out(tmp_path, own, caplog):
    checkpoints, weights = Checkpoints(tmp_path), {"network": {"weight": torch.ones(2)}}
    holds = {"place": {1: 2}}
    for iteration in range(4):
        mine = {"environment": holds}
        runner = {"rounds": 1, **(mine if "ranks" not in own else {"ranks": [mine, mine]})}
        checkpoints.save({"iterations": iteration, "algorithm": weights, "runner": runner}, iteration)
        kept = checkpoints.load(iteration)
        assert kept["algorithm"]["network"]["weight"].tolist() == [1, 1]
        assert kept["runner"] == (runner if iteration < 2 else {"rounds": 1, "environment": None, **own})
        if iteration == 1:
            holds = {"place": {n * (2**61 - 1): n for n in range(1, 5000)}}
    (said,) = caplog.messages
    assert said.startswith(
        "checkpoint: from here on, the environment's own state is left out: it holds keys that no run"
    )


@pytest.mark.parametrize("grows", ["in keys", "in size"])
def test_what_cannot_be_loaded_is_left_out_however_little_a_state_has_grown(tmp_path, grows, monkeypatch, caplog):
    if grows == "in size":
        monkeypatch.setattr(safe_load, "MOST_OPERATIONS", 30_000)
        monkeypatch.setattr(safe_load, "MOST_WRITTEN", 27_000)
    checkpoints = Checkpoints(tmp_path)
    for iteration in range(5):
        holds = {"trail": [0.5] * (25_000 + 900 * iteration * (grows == "in size")), "seen": {}}
        if grows == "in keys" and iteration > 2:
            holds["seen"] = {(None,) * 10_000: 1}
        state = {"iterations": iteration, "algorithm": {"network": {}}, "runner": {"environment": holds}}
        checkpoints.save(state, iteration)
        assert checkpoints.load(iteration)["runner"]["environment"] == (holds if iteration < 3 else None)
    (said,) = caplog.messages
    assert {"in keys": "holds keys that no run", "in size": "holds too much data that is not in tensors"}[grows] in said


def some_data(chance, depth=0):
    """Plain data at random, and deep."""
    kind = chance.choice(["list", "tuple", "dict", "ordered", "number", "text", "bytes", "tensor"])
    if depth > 4 or kind in ("number", "text", "bytes", "tensor"):
        leaves = [None, True, -1, 2**40, 2**80, 0.5, complex(1, 2), "", f"t{chance.random()}", b"", b"\xff1"]
        shape = [1] * chance.choice([0, 1, 2, 5, 60])
        dtype = chance.choice([torch.float32, torch.uint16, torch.bool])
        return torch.ones(shape, dtype=dtype) if kind == "tensor" else chance.choice(leaves)
    inner = [some_data(chance, depth + 1) for _ in range(chance.choice([0, 1, 2, 4]))]
    if kind == "list":
        return inner * chance.choice([1, 1, 300])
    if kind == "tuple":
        return tuple(inner)
    keys = [chance.choice([n, -n, f"{n}", (n, f"{n}"), b"1", (n, (n, None, 0.5))]) for n, _ in enumerate(inner)]
    return (dict if kind == "dict" else OrderedDict)(zip(keys, inner, strict=True))


@pytest.mark.parametrize("seed", range(30))
def test_a_state_is_known_to_have_no_fewer_operations_than_its_pickle(seed):
    chance = random.Random(seed)
    data = {str(n): some_data(chance) for n in range(20)}
    file = io.BytesIO()
    torch.save(data, file)
    operations = sum(1 for _ in pickletools.genops(safe_load.program(file.getvalue())))
    # What is written a single time, and found again later.
    assert operations <= safe_load.Weight(data).operations + 20
    assert operations >= 0.2 * safe_load.Weight(data).operations


@pytest.mark.parametrize(
    "section",
    [
        {"k" * 10**6: dict.fromkeys(range(100), 0)},
        dict.fromkeys(range(100), "v" * 10**6),
        {"list": [["v" * 10**6] * 10] * 10},
        {"empty": [[[""] * 1000] * 1000] * 1000},
        functools.reduce(lambda inner, _: dict.fromkeys(range(10), inner), range(8), {}),
    ],
    ids=["key", "text", "list", "empty", "deep"],
)
def test_a_configuration_that_grows_as_it_is_compared_is_refused_first(tmp_path, section):
    """What has changed is said by dotted keys, each with its value."""
    state = {"iterations": 1, "config": {"env": {"kwargs": section}}}
    with pytest.raises(ValueError, match="holds a configuration that is far longer with its keys written out"):
        checkpoint._of_run(state)


def test_a_state_of_many_small_arrays_is_not_thought_larger_than_it_is():
    data = [torch.ones(3) for _ in range(1000)]
    file = io.BytesIO()
    torch.save(data, file)
    operations = sum(1 for _ in pickletools.genops(safe_load.program(file.getvalue())))
    assert safe_load.Weight(data).operations < 1.2 * operations


def held(keys):
    return {"state": [{key: None} for key in keys]}


def nested_key(depth):
    key = ()
    for _ in range(depth):
        key = (key, key)
    return key


@pytest.mark.parametrize(
    ("keys", "fit"),
    [
        ([(0,) * 9_999, "text", b"bytes", None, 0.5, True, -1, ((1, 2), 3)], True),
        ([(0,) * 10_000], False),
        ([(2**6400,) * 99], True),
        ([(2**6400,) * 100], False),
        ([nested_key(12)], True),
        ([nested_key(13)], False),
        ([n * (2**61 - 1) for n in range(2500)], True),
        ([n * (2**61 - 1) for n in range(5000)], False),
        ([(f"{n}", n * (2**61 - 1)) for n in range(2500)], False),
        ([(f"{n}", 1) for n in range(5000)], True),
    ],
)
def test_keys_are_known_not_to_be_loaded_before_they_are_written(keys, fit, monkeypatch):
    monkeypatch.setattr(safe_load, "MOST_BITS", 10_000)
    file = io.BytesIO()
    torch.save(held(keys), file)
    pickled = safe_load.program(file.getvalue())
    assert safe_load.Weight(held(keys)).keys_fit == fit
    assert (safe_load._fault(pickled, len(pickled)) is None) == fit


def itself():
    own = []
    own.append(own)
    return own


@pytest.mark.parametrize(
    "mine",
    [functools.reduce(lambda inner, _: [inner], range(200), 1), itself(), 2**3000],
    ids=["deep", "itself", "number"],
)
def test_an_algorithms_state_that_has_become_what_cannot_be_loaded_leaves_older_checkpoints(tmp_path, mine):
    checkpoints, weights = Checkpoints(tmp_path, keep=1), {f"weight {n}": torch.ones(2) for n in range(300)}
    checkpoints.save({"iterations": 1, "algorithm": {"network": weights}}, 1)
    with pytest.raises(OSError, match="it could not be loaded again: it is too large or too deep, or holds itself"):
        checkpoints.save({"iterations": 2, "algorithm": {"network": weights, "mine": mine}}, 2)
    assert checkpoints.newest()[0]["iterations"] == 1


@pytest.mark.parametrize("is_anything_masked", [False, True])
@pytest.mark.parametrize("holds", [functools.reduce(lambda older, _: (older, 1), range(20_000), ()), itself()], ids=len)
def test_an_environments_state_that_has_no_end_is_left_out(tmp_path, holds, is_anything_masked, monkeypatch, caplog):
    if is_anything_masked:
        monkeypatch.setattr(masks, "_FROM_ENVIRONMENT", {"Zx9-quuxle": "LICENCE"})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.begin({"iterations": 0, "runner": {"environment": ()}}, 0)
    checkpoints.save({"iterations": 1, "runner": {"environment": holds}}, 1)
    assert checkpoints.load(1)["runner"] == {"environment": None}
    assert "left out: it is too large or too deep, or holds itself." in caplog.text


def test_a_number_of_numpys_that_an_algorithm_has_come_to_hold_is_loaded_as_it_was(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    weights = {f"weight {n}": torch.ones(2) for n in range(100)}
    for iteration, weight in enumerate([np.float32(0.5), 1.0, np.float64(0.99), np.float64(0.98)]):
        save = checkpoints.save if iteration else checkpoints.begin
        mine = {"network": weights, "weight": weight, "seen": {np.int64(iteration): [True]}}
        save({"iterations": iteration, "algorithm": mine}, iteration)
        found = checkpoints.load(iteration)["algorithm"]
        assert (type(found["weight"]), found["weight"]) == (type(weight), weight)
        assert found["seen"] == {iteration: [True]}
        assert [type(key) for key in found["seen"]] == [np.int64]


def test_maps_with_places_of_both_signs_and_many_bytes_can_be_loaded(tmp_path):
    """Python hashes -1 as -2, and bytes are made of texts."""
    sides = range(-40, 40)
    holds = {
        "visits": [{(x, y): 1 for x in sides for y in sides}] * 2,
        "seen": [b"x" * 10**5, *map(b"%d".__mod__, range(20_000))],
    }
    Checkpoints(tmp_path).save({"iterations": 1, "runner": {"environment": holds}}, 1)
    assert Checkpoints(tmp_path).load(1)["runner"]["environment"] == holds


def test_a_checkpoint_has_variables_names_and_gives_their_values_back(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(masks, "_FROM_ENVIRONMENT", {"Zx9-quuxle": "LICENCE"})
    monkeypatch.setenv("LICENCE", "Zx9-quuxle")
    weights = torch.ones(2)
    mine = {
        "keys": ["", {"key": "by Zx9-quuxle"}],
        "pair": ("Zx9-quuxle", b"\xff Zx9-quuxle"),
        "network": {"weight": weights},
    }
    state = {"iterations": 0, "config": {"x": "1"}, "algorithm": mine, "runner": {}, "episodes": {}, "clock": {}}
    Checkpoints(tmp_path).begin(state, 0)
    (path,) = tmp_path.glob("**/*.pt")
    assert b"quuxle" not in path.read_bytes()
    assert b"${oc.env:LICENCE}" in path.read_bytes()
    assert mine["keys"] == ["", {"key": "by Zx9-quuxle"}]
    found = Checkpoints(tmp_path).load(0)["algorithm"]
    assert torch.equal(found.pop("network")["weight"], weights)
    assert found == {"keys": ["", {"key": "by Zx9-quuxle"}], "pair": ("Zx9-quuxle", b"\xff Zx9-quuxle")}
    assert not caplog.messages
    # Of a run whose configuration does not name the variable.
    monkeypatch.setattr(masks, "_FROM_ENVIRONMENT", {})
    assert Checkpoints(tmp_path).load(0)["algorithm"]["pair"][0] == "${oc.env:LICENCE}"


def test_a_text_that_cannot_be_given_back_is_said_once(tmp_path, monkeypatch, caplog):
    checkpoint._say_what_changes.cache_clear()
    monkeypatch.setattr(masks, "_FROM_ENVIRONMENT", {"Zx9-quuxle": "LICENCE"})
    monkeypatch.setenv("LICENCE", "Zx9-quuxle")
    Checkpoints(tmp_path).save({"algorithm": {"quoted": "zx9-QUUXLE"}}, 1)
    Checkpoints(tmp_path).save({"algorithm": {"quoted": "zx9-QUUXLE"}}, 2)
    said = "checkpoint: where the run goes on, its state has another text in the place of ${oc.env:LICENCE}"
    assert caplog.messages == [said]


def test_a_tensor_that_repeats_a_few_numbers_is_refused():
    written = io.BytesIO()
    torch.save({"weight": torch.ones(1).expand(10**9)}, written)
    with pytest.raises(ValueError, match="would grow"):
        unpacked(written.getvalue())


def test_what_torch_would_read_in_its_earliest_form_is_refused():
    with pytest.raises(ValueError, match="is damaged"):
        unpacked(pickle.dumps({"a": 1}, 2) + with_pickle(A + b"K\x01s."))


def test_plain_data_of_every_kind_comes_back():
    state = {
        "numbers": [1, -1, 2**200, 1.5, True, None, 1j],
        "texts": ["ü", "", b"\x00\xff", b"", b""],
        "nested": (OrderedDict(a={1: [()]}), torch.float32),
        "parameters": torch.nn.LSTM(2, 3).state_dict(),
        "keys": {0: 1, -1: 2, (1, ("a", b"b", 2.5)): 3, None: 4, b"x": 5, b"": 6},
        "kinds": [torch.ones(2, dtype=kind) for kind in (torch.bool, torch.uint8, torch.int64, torch.bfloat16)],
    }
    written = io.BytesIO()
    torch.save(state, written)
    assert repr(unpacked(written.getvalue())) == repr(state)


def test_where_memory_is_short_for_a_while_no_older_checkpoint_is_used_and_none_is_removed(tmp_path, monkeypatch):
    """It says nothing of the checkpoint: neither that it is damaged, nor that the run must begin anew."""
    saved(tmp_path, 1, 2)
    size = (tmp_path / "checkpoints" / "00000002.pt").stat().st_size
    monkeypatch.setattr("seqrl.run.checkpoint.free_memory", lambda: size - 1)
    for use in (Checkpoints.newest, partial(Checkpoints.load, iteration=2)):
        with pytest.raises(CheckpointError, match=r"and may be intact\. Free some memory\.") as refused:
            use(Checkpoints(tmp_path))
        assert f"cannot be read (needs {size / 1e6:,.0f} MB of memory, and {(size - 1) / 1e6:,.0f} are free)" in str(
            refused.value
        )
    monkeypatch.setattr("seqrl.run.checkpoint.all_memory", lambda: size - 1)
    with pytest.raises(CheckpointError, match=r"00000002\.pt cannot be read \(is larger than"):
        Checkpoints(tmp_path).newest()
    assert files(tmp_path) == of(1, 2)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 GB")])
def test_a_checkpoint_for_which_the_allocator_has_no_memory_is_not_taken_for_damaged(tmp_path, monkeypatch, error):
    saved(tmp_path, 1, 2)

    def load(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(CheckpointError, match=r"\(Cannot allocate memory\), and may be intact\. Free some memory"):
        Checkpoints(tmp_path).newest()


@pytest.mark.parametrize("lack", ["memory", "disk"])
def test_the_best_checkpoint_is_kept_though_it_cannot_be_read_for_now(tmp_path, monkeypatch, lack):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for iteration, mean in enumerate([5.0, 50.0, 1.0], 1):
        checkpoints.save({"iterations": iteration}, iteration, mean)
    again = Checkpoints(tmp_path, keep=1)
    with monkeypatch.context() as patch:
        if lack == "memory":
            patch.setattr("seqrl.run.checkpoint.free_memory", lambda: 0)
        else:
            refuse(patch, tmp_path / "checkpoints" / "00000002.pt", errno.EIO)
        again.save({"iterations": 4}, 4, 2.0)
    assert files(tmp_path) == of(2, 4)
    assert again.best == (2, 50.0)


def test_a_sparse_file_in_the_place_of_a_checkpoint_takes_no_memory(tmp_path):
    saved(tmp_path, 1)
    path = tmp_path / "checkpoints" / "00000002.pt"
    path.write_bytes(b"seqrl checkpoint 1 abc\n{}\n")
    os.truncate(path, 10**8)
    tracemalloc.start()
    try:
        state, damaged = Checkpoints(tmp_path).newest()
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert (state["iterations"], damaged) == (1, ["00000002.pt is damaged"])


def test_a_checkpoint_is_looked_through_in_little_memory(tmp_path):
    Checkpoints(tmp_path).save({"weight": torch.zeros(10_000_000)}, 1, 1.0)
    again = Checkpoints(tmp_path)
    tracemalloc.start()
    try:
        assert again.best == (1, 1.0)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
