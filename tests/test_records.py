import errno
import fcntl
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import threading

import pytest
import torch

from seqrl.errors import ConfigError, TakenError
from seqrl.files import regular_only, write, write_together
from seqrl.machine import forget_peak_memory, peak_memory_mb
from seqrl.run import manifest
from seqrl.run.hold import LOCK, Hold, is_held
from seqrl.run.manifest import Manifest, standing
from seqrl.tune.trials import Claim
from tests.parts import room


def facts(folder):
    return json.loads((folder / "manifest.json").read_text())


def saved(folder):
    """As if the run had a checkpoint."""
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "00000001.pt").touch()


def test_the_manifest_is_whole_at_any_time(tmp_path):
    with Manifest(tmp_path) as manifest:
        assert facts(tmp_path)["status"] == "running"
        manifest.update(seed=3)
        manifest.update(status="finished", result=7.5)
    found = facts(tmp_path)
    assert (found["status"], found["result"], found["seed"]) == ("finished", 7.5, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("no such thing"), "failed", "ValueError: no such thing"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
    ],
)
def test_a_run_that_ends_early_does_not_stay_running(tmp_path, error, status, said):
    with pytest.raises(type(error)), Manifest(tmp_path):
        raise error
    assert (facts(tmp_path)["status"], facts(tmp_path)["error"]) == (status, said)


def test_a_result_that_is_not_finite_is_null(tmp_path):
    with Manifest(tmp_path) as manifest:
        manifest.update(result=math.nan, steps_per_second=math.inf)
    assert (facts(tmp_path)["result"], facts(tmp_path)["steps_per_second"]) == (None, None)


def test_a_number_that_json_has_not_ends_no_run_that_goes_on(tmp_path):
    saved(tmp_path)
    odd = '{"status": "interrupted", "id": "x", "told": {"by": ["others", NaN, 1e999]}}'
    (tmp_path / "manifest.json").write_text(odd)
    with Manifest(tmp_path, goes_on=True) as manifest:
        manifest.begin()
    assert facts(tmp_path)["told"] == {"by": ["others", None, None]}


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    with Manifest(tmp_path) as manifest:
        manifest.update(seed=3)
    saved(tmp_path)
    with pytest.raises(ConfigError, match=r"already holds a run.*resume="), Manifest(tmp_path):
        pass
    assert facts(tmp_path)["seed"] == 3


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_run_that_still_goes_on_is_not_disturbed(tmp_path, goes_on):
    with Manifest(tmp_path):
        with pytest.raises(ConfigError, match="in use"), Manifest(tmp_path, goes_on=goes_on):
            pass
        assert facts(tmp_path)["status"] == "running"


def local_locks_of_folders(monkeypatch):
    """As on NFS: a folder's lock is granted to everyone, for no machine is told of another's."""
    flock = fcntl.flock

    def as_on_nfs(descriptor, operation):
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_run_is_not_disturbed_from_a_machine_that_does_not_see_locks_of_folders(tmp_path, monkeypatch, goes_on):
    local_locks_of_folders(monkeypatch)
    with Manifest(tmp_path):
        saved(tmp_path)
        with pytest.raises(TakenError, match="in use"), Manifest(tmp_path, goes_on=goes_on):
            pass
        assert is_held(tmp_path)
        assert standing(tmp_path)["status"] == "running"
    assert not is_held(tmp_path)
    with Manifest(tmp_path, goes_on=True):
        pass


def test_a_lock_that_was_removed_before_it_could_be_had_is_none(tmp_path, monkeypatch):
    local_locks_of_folders(monkeypatch)
    first, others = Hold(tmp_path), []
    once = iter([True])

    def meanwhile(name, flags):
        descriptor = regular_only(name, flags)
        if next(once, False):
            # Between the opening of the file and its lock, one run ends and another begins.
            first.let_go()
            others.append(Hold(tmp_path))
        return descriptor

    monkeypatch.setattr("seqrl.run.hold.regular_only", meanwhile)
    with pytest.raises(TakenError):
        Hold(tmp_path)
    assert is_held(tmp_path)
    others[0].let_go()
    assert list(tmp_path.iterdir()) == []


def test_where_files_have_no_locks_a_run_is_kept_on_its_machine_and_says_so(tmp_path, monkeypatch, caplog):
    flock = fcntl.flock

    def of_folders_alone(descriptor, operation):
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", of_folders_alone)
    with Manifest(tmp_path):
        assert "is kept for this run on this machine alone: its file system has no locks of files" in caplog.text
        assert is_held(tmp_path)
        with pytest.raises(TakenError, match="in use"), Manifest(tmp_path, goes_on=True):
            pass
    assert not is_held(tmp_path)


def test_what_a_killed_run_left_of_its_lock_keeps_nobody_out_and_a_file_of_somebody_else_stays(tmp_path):
    (tmp_path / LOCK).touch()
    with Manifest(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()
    (tmp_path / LOCK).write_text("precious")
    with Manifest(tmp_path, goes_on=True):
        assert is_held(tmp_path)
    assert (tmp_path / LOCK).read_text() == "precious"
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).mkdir()
    with pytest.raises(ConfigError, match=rf"{LOCK} in it cannot be opened: .*\. Remove it, if no run goes on"):
        Hold(tmp_path)


@pytest.mark.parametrize("fails", ["links", "remove_strays", "facts_of", "write"])
def test_a_folder_that_cannot_be_claimed_for_now_is_let_go_of(tmp_path, monkeypatch, fails):
    def refused(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path))

    with monkeypatch.context() as for_now:
        for_now.setattr(f"seqrl.run.manifest.{fails}", refused)
        with pytest.raises(PermissionError), Manifest(tmp_path):
            pass
    assert [*tmp_path.iterdir()] == []
    with Manifest(tmp_path):
        assert is_held(tmp_path)


@pytest.mark.parametrize("copied", [["-al"], ["-a"]])
def test_a_copy_of_a_run_that_goes_on_or_was_killed_is_a_run_of_its_own(tmp_path, copied):
    (run := tmp_path / "run").mkdir()
    first = Hold(run)
    subprocess.run(["cp", *copied, run, copy := tmp_path / "copy"], check=True)
    assert (copy / LOCK).exists()
    assert (is_held(run), is_held(copy)) == (True, False)
    second = Hold(copy)
    assert is_held(copy)
    with pytest.raises(TakenError):
        Hold(run)
    second.let_go()
    assert (is_held(run), [*copy.iterdir()]) == (True, [])
    first.let_go()


def test_a_folder_in_which_no_lock_can_be_written_is_not_said_to_hold_one(tmp_path, monkeypatch):
    def read_only(name, flags):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)

    monkeypatch.setattr("seqrl.run.hold.regular_only", read_only)
    with pytest.raises(ConfigError) as refused:
        Hold(tmp_path)
    said = (
        f"{LOCK} cannot be written there: Read-only file system. Have its disk mounted for writing, or choose another"
    )
    assert f"{said} folder." in str(refused.value)


def test_a_run_is_not_disturbed_from_a_machine_to_which_its_folder_has_another_number(tmp_path, monkeypatch):
    """As with SMB and file systems in user space: folders of two machines have nothing but names in common."""
    local_locks_of_folders(monkeypatch)
    first = Hold(tmp_path)
    (tmp_path / LOCK).write_bytes(b"1\n")
    assert is_held(tmp_path)
    with pytest.raises(TakenError):
        Hold(tmp_path)
    first.let_go()
    assert (is_held(tmp_path), [*tmp_path.iterdir()]) == (False, [])


def test_who_only_looks_whether_a_run_goes_on_does_not_keep_it_from_its_folder(tmp_path):
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.15, os.close, [looking]).start()
    with Manifest(tmp_path):
        assert is_held(tmp_path)


def test_a_run_that_ends_while_it_is_looked_at_was_not_killed(tmp_path, monkeypatch):
    with Manifest(tmp_path) as manifest:
        pass
    assert standing(tmp_path)["status"] == "killed"

    def ends(folder):
        write(folder / "manifest.json", json.dumps(manifest.facts | {"status": "finished"}).encode())
        return False

    monkeypatch.setattr("seqrl.run.manifest.is_held", ends)
    assert standing(tmp_path)["status"] == "finished"


def test_a_run_that_has_stopped_can_be_gone_on_with(tmp_path):
    with pytest.raises(ValueError), Manifest(tmp_path):  # noqa: PT011
        raise ValueError
    with Manifest(tmp_path, goes_on=True) as manifest:
        assert facts(tmp_path)["status"] == "failed"
        manifest.begin()
        assert facts(tmp_path)["status"] == "running"
        assert "error" not in facts(tmp_path)


def test_going_on_in_vain_leaves_what_the_run_had_reached(tmp_path):
    with Manifest(tmp_path) as manifest:
        manifest.update(status="finished", result=7.5)
    before = facts(tmp_path)
    with pytest.raises(ValueError), Manifest(tmp_path, goes_on=True):  # noqa: PT011
        raise ValueError
    assert facts(tmp_path) == before
    with Manifest(tmp_path, goes_on=True) as manifest:
        manifest.begin(is_over=True)
        assert facts(tmp_path)["result"] == 7.5
        manifest.begin()
        assert "result" not in facts(tmp_path)


def test_a_refused_folder_is_let_go_of(tmp_path):
    with Manifest(tmp_path):
        pass
    saved(tmp_path)
    with pytest.raises(ConfigError), Manifest(tmp_path):
        pass
    with Manifest(tmp_path, goes_on=True):
        pass


def test_a_run_that_is_refused_puts_back_the_manifest_that_it_moved_aside(tmp_path):
    for name in ("manifest.json", "config.yaml"):
        (tmp_path / name).write_text('{"status": "failed"}')
    with Manifest(tmp_path) as manifest:
        assert facts(tmp_path)["status"] == "running"
        manifest.withdraw()
    assert facts(tmp_path) == {"status": "failed"}
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "config.yaml"}


def test_peak_memory_counts_what_was_held_and_can_begin_anew():
    forget_peak_memory()
    before = peak_memory_mb()
    del_me = torch.ones(50_000_000 // 4)
    assert peak_memory_mb() - before == pytest.approx(50, abs=15)
    del del_me


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "checkpoints", "mlflow_run_id"])
def test_a_folder_with_files_of_somebody_else_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).mkdir() if name == "checkpoints" else (tmp_path / name).write_text("precious")
    with pytest.raises(ConfigError, match=f"holds {name}, which seqrl did not write"), Manifest(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert name == "checkpoints" or (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("name", ["evaluation.json.tmp", "train.log", "checkpoints", "checkpoints/00000001.pt"])
def test_a_folder_with_a_link_is_refused_and_the_link_not_followed(tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    run = tmp_path / "run"
    (run / name).parent.mkdir(parents=True)
    (run / name).symlink_to(elsewhere)
    for goes_on in (False, True):
        with pytest.raises(ConfigError, match="holds a link"), Manifest(run, goes_on=goes_on):
            pass
    assert elsewhere.read_text() == "precious"


def test_a_file_that_cannot_be_written_says_why_in_the_words_of_who_refuses(tmp_path, monkeypatch):
    def refuse(*given, **named):
        raise PermissionError("the game has no such file")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match="the game has no such file"):
        write(tmp_path / "config.yaml", b"")


def test_files_that_belong_together_appear_when_all_of_them_are_there(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("old")
    with room(100), pytest.raises(OSError, match="File too large") as refused:
        write_together({tmp_path / "a": b"new", tmp_path / "b": bytes(1000)})
    assert refused.value.filename == str(tmp_path / "b")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old"}
    write_together({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new"}


def test_files_that_belong_together_stay_as_they_were_if_one_of_them_cannot_be_replaced(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").symlink_to("nowhere")
    (tmp_path / "d").mkdir()
    with pytest.raises(OSError, match="Is a directory") as refused:
        write_together({tmp_path / name: b"new" for name in "abcde"})
    assert refused.value.filename == str(tmp_path / "d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "d"]
    assert (tmp_path / "a").read_text() == "old"
    assert os.readlink(tmp_path / "b") == "nowhere"


@pytest.mark.parametrize(("renames", "left"), [(0, "old"), (1, "old"), (2, "new")])
def test_ctrl_c_leaves_files_that_belong_together_all_old_or_all_new(tmp_path, monkeypatch, renames, left):
    replace, moment = os.replace, iter(range(10))

    def interrupted(one, other):
        now = next(moment)
        if now == renames == 0:
            signal.raise_signal(signal.SIGINT)
        replace(one, other)
        if now == renames - 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "replace", interrupted)
    for name in "ab":
        (tmp_path / name).write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_together({tmp_path / name: b"new" for name in "ab"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": left, "b": left}


def test_ctrl_c_leaves_no_half_of_a_file(tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "config.yaml", b"")
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_cannot_sync_folders_keeps_a_run(tmp_path, monkeypatch):
    sync = os.fsync

    def of_files_alone(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_alone)
    with Manifest(tmp_path) as manifest:
        manifest.update(status="finished")
    assert facts(tmp_path)["status"] == "finished"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_and_no_run_is_said_to_go_on_there(tmp_path, monkeypatch, number):
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "manifest.json").write_text('{"status": "running"}')

    def none(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    folder = tmp_path / "new"
    folder.mkdir()
    with pytest.raises(ConfigError, match=rf"its file system has no locks \({os.strerror(number)}\)") as refused:
        Manifest(folder).__enter__()
    # A sweep passes over what another process is at, and must not pass over this.
    assert type(refused.value) is ConfigError
    assert list(folder.iterdir()) == []
    assert not is_held(folder)
    assert standing(killed)["status"] == "killed"
    with pytest.raises(ConfigError, match=r"study: .*1 cannot be locked: .*study="):
        Claim(tmp_path / "claims" / "1")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_to_look_for_the_revision_writes_nothing_into_the_repository(tmp_path, monkeypatch):
    """Git would refresh its index, under a lock that stays if it is killed."""
    repository = tmp_path / "checkout"
    (repository / "seqrl").mkdir(parents=True)
    file, index = repository / "seqrl" / "code.py", repository / ".git" / "index"
    file.write_text("x = 1\n")
    name = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    for words in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=repository, check=True)
    os.utime(file, (1e9, 1e9))
    os.utime(index, (2e9, 2e9))
    before = index.read_bytes()
    monkeypatch.setattr(manifest, "PACKAGE", repository / "seqrl")
    # As in a hook of another repository.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", ".git/other")
    told = manifest.git_revision()
    assert told is not None
    assert told["dirty"] is False
    assert (index.read_bytes(), index.stat().st_mtime) == (before, 2e9)
