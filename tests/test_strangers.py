"""Links and pipes in a folder that may be anybody's lead nowhere, and stop nothing."""

import errno
import io
import logging
import os
import re
import sys
from collections import deque
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from seqrl.config import program
from seqrl.config.paths import CONF
from seqrl.config.resolvers import point_folder
from seqrl.errors import ConfigError
from seqrl.evaluate import __main__ as evaluate
from seqrl.evaluate.__main__ import unwritten_named
from seqrl.export.card import MARK as CARD
from seqrl.files import Lines, LogFile, appending, foreign, make_folder
from seqrl.inspect import __main__ as inspect
from seqrl.loggers.mlflow import _alone
from seqrl.loggers.tensorboard import show
from seqrl.report.__main__ import main as report
from seqrl.sweeps import insist_on_own_files
from seqrl.text import say
from seqrl.tune.search import MARK as BEST
from seqrl.tune.trials import Claim, Trial
from tests.parts import room
from tests.test_report import put

GIF = b"GIF89a" + bytes(4)


@pytest.fixture
def victim(tmp_path):
    """A file of the user's own, which must stay as it is."""
    path = tmp_path / "home" / "bashrc"
    path.parent.mkdir()
    path.write_text("precious\n")
    yield path
    assert path.read_text() == "precious\n"
    assert [it.name for it in path.parent.iterdir()] == ["bashrc"]


def put_there(path: Path, what: str, victim: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "link":
        path.symlink_to(victim)
    else:
        os.mkfifo(path)


BOTH = pytest.mark.parametrize("what", ["link", "pipe"])


@BOTH
def test_nothing_is_added_to_what_is_no_regular_file(tmp_path, victim, what):
    put_there(tmp_path / "train.log", what, victim)
    said = "is a link" if what == "link" else "is not a regular file"
    for opened in (appending, Lines):
        with pytest.raises(OSError, match=said):
            opened(tmp_path / "train.log")


@BOTH
def test_the_log_of_a_run_is_a_regular_file_or_none(tmp_path, victim, what, monkeypatch):
    put_there(tmp_path / "train.log", what, victim)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = LogFile(tmp_path / "train.log", delay=True)
    handler.emit(logging.makeLogRecord({"msg": "touch owned"}))
    assert handler.stream is None
    (tmp_path / "train.log").unlink()
    handler.emit(logging.makeLogRecord({"msg": "written\ud800"}))
    handler.close()
    assert (tmp_path / "train.log").read_text() == "written\\ud800\n"


def test_what_grows_leaves_its_other_names_as_they_are(tmp_path, victim):
    """A stranger's hard link to a file of the user's own, or a snapshot that `cp -al` made of an honest run."""
    added = {"train.log": "a line\n", "metrics.jsonl": "a line\n", "output": "a line\n", "multirun.yaml": ""}
    for name in added:
        os.link(victim, tmp_path / name)
    handler = LogFile(tmp_path / "train.log", delay=True)
    handler.emit(logging.makeLogRecord({"msg": "a line"}))
    handler.close()
    grown = Lines(tmp_path / "metrics.jsonl")
    grown.add("a line\n")
    with appending(tmp_path / "output") as output:
        output.write(b"a line\n")
    victim.write_text(hydras := "hydra: {}\nnetwork:\n  _target_: seqrl.networks.RecurrentNetwork\n")
    insist_on_own_files(tmp_path)
    (tmp_path / "multirun.yaml").write_text("")
    assert victim.read_text() == hydras
    victim.write_text("precious\n")
    assert {name: (tmp_path / name).read_text() for name in added} == {
        name: f"precious\n{line}" if line else "" for name, line in added.items()
    }
    # A snapshot of a run that goes on.
    os.link(tmp_path / "metrics.jsonl", tmp_path / "snapshot")
    grown.add("and another\n")
    grown.close()
    assert (tmp_path / "snapshot").read_text() == "precious\na line\n"
    assert (tmp_path / "metrics.jsonl").read_text() == "precious\na line\nand another\n"


def test_a_search_that_goes_on_leaves_a_snapshot_of_its_journal_as_it_is(tmp_path):
    pytest.importorskip("optuna")
    from seqrl.tune.journal import opened

    line = {"op_code": 0, "worker_id": "w", "study_name": "s", "directions": [2]}
    opened(tmp_path / "journal.log").append_logs([line])
    os.link(tmp_path / "journal.log", tmp_path / "snapshot")
    opened(tmp_path / "journal.log").append_logs([line])
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("snapshot", "journal.log")] == [1, 2]


def test_hydra_opens_logs_with_nothing_else():
    handler = OmegaConf.load(CONF / "config.yaml").hydra.job_logging.handlers.file
    own = "${hydra.runtime.output_dir}/${hydra.job.name}.log"
    assert OmegaConf.to_container(handler) == {"class": "seqrl.files.LogFile", "delay": True, "filename": own}


def test_where_the_log_cannot_be_written_a_traceback_goes_to_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    handler = LogFile(tmp_path / "gone" / "train.log", delay=True)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    line = program.unexpected(ValueError("oh"))
    (file,) = tmp_path.glob("seqrl-*.log")
    assert line.endswith(f"The traceback is in {file}.")
    assert "ValueError: oh" in file.read_text()


@pytest.mark.parametrize("name", ["final_return.png", "learning_curves.pdf", "runs.csv", "report.html"])
def test_a_report_replaces_no_link_and_writes_into_none(tmp_path, victim, monkeypatch, capsys, name):
    put(tmp_path / "runs" / "0", 1.0)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "runs")])
    put_there(tmp_path / "runs" / "report" / name, "link", victim)
    with pytest.raises(SystemExit) as ended:
        report()
    assert ended.value.code == 2
    assert f"{tmp_path / 'runs' / 'report' / name} is a link. Choose another folder" in capsys.readouterr().err
    assert [path.is_symlink() for path in (tmp_path / "runs" / "report").iterdir()] == [True]


@pytest.mark.parametrize("name", ["report.html", "runs.csv", "final_return.png", "values.pdf"])
def test_a_report_replaces_nothing_that_is_not_seqrls(tmp_path, monkeypatch, capsys, name):
    put(tmp_path / "runs" / "0", 1.0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("precious")
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "runs"), f"--to={tmp_path / 'mine'}"])
    with pytest.raises(SystemExit) as ended:
        report()
    assert ended.value.code == 2
    assert f"{tmp_path / 'mine' / name} was not written by seqrl. Choose another folder" in capsys.readouterr().err
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["precious"]


@pytest.mark.slow
def test_a_report_replaces_each_of_its_files_and_a_foreign_one_not_even_beside_them(tmp_path, monkeypatch, capsys):
    for seed in (0, 1):
        put(tmp_path / "runs" / str(seed), 1.0, seed=seed)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "runs")])
    report()
    report()
    there = sorted((tmp_path / "runs" / "report").iterdir())
    assert {path.suffix for path in there} == {".html", ".csv", ".png", ".pdf"}
    for path in there:
        data = path.read_bytes()
        path.write_text("precious")
        with pytest.raises(SystemExit):
            report()
        assert f"{path} was not written by seqrl. Choose another folder" in capsys.readouterr().err
        assert path.read_text() == "precious"
        path.write_bytes(data)


@pytest.mark.thin(4)
@pytest.mark.parametrize("what", [Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ["report.html", "learning_curves.png"])
def test_a_report_replaces_no_folder_and_no_pipe_and_leaves_all_as_it_was(tmp_path, monkeypatch, capsys, name, what):
    put(tmp_path / "runs" / "0", 1.0)
    to = tmp_path / "runs" / "report"
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "runs")])
    report()
    (to / name).unlink()
    what(to / name)
    before = {path.name: path.stat().st_ino for path in to.iterdir()}
    with pytest.raises(SystemExit) as ended:
        report()
    assert ended.value.code == 2
    assert f"{to / name} is not a regular file. Choose another folder" in capsys.readouterr().err
    assert {path.name: path.stat().st_ino for path in to.iterdir()} == before


@pytest.mark.parametrize("linked", ["report", "report/a"])
def test_a_report_is_not_written_through_a_linked_folder(tmp_path, victim, monkeypatch, capsys, linked):
    for task in ("a", "b"):
        put(tmp_path / "runs" / task, 1.0, env=task)
        config = tmp_path / "runs" / task / "config.yaml"
        config.write_text(f"env: {{id: {task}}}\nseed: 0\n")
    put_there(tmp_path / "runs" / linked, "link", victim.parent)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "runs")])
    with pytest.raises(SystemExit) as ended:
        report()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said == (
        f"seqrl: error: report: {tmp_path / 'runs' / linked} is a link, and could lead anywhere. "
        "Choose another folder with --to.\n"
    )


def test_a_film_replaces_only_films_and_goes_through_no_link(tmp_path, victim, capsys):
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / "events.out.tfevents.1.curves").write_text("precious")
    for env_steps in (1, 2):
        show(tmp_path / "video", "policy", GIF, env_steps)
    names = sorted(path.name for path in (tmp_path / "video").iterdir())
    assert names[0] == "events.out.tfevents.1.curves"
    assert len(names) == 2
    for more in (1000, 10_000):
        with room(500), pytest.raises(OSError, match="File too large"):
            show(tmp_path / "video", "policy", GIF + bytes(more), 3)
    assert sorted(path.name for path in (tmp_path / "video").iterdir()) == names
    (tmp_path / "linked").symlink_to(victim.parent)
    with unwritten_named(tmp_path, Path("run")):
        make_folder(tmp_path / "linked")
    assert capsys.readouterr().out == "Could not write run/linked: is a link, and could lead anywhere.\n"


@BOTH
def test_a_search_adds_to_no_link_and_waits_for_no_pipe(tmp_path, victim, what):
    put_there(tmp_path / "claims" / "0", what, victim)
    put_there(tmp_path / "output" / "0.txt", what, victim)
    trial = Trial(0, [], {0: tmp_path / "run"}, tmp_path / "output" / "0.txt")
    for begin in (trial.poll, lambda: Claim(tmp_path / "claims" / "0")):
        with pytest.raises(ConfigError, match=r"^study: .*/0(\.txt)? is .*\. Remove it, or choose another study=…$"):
            begin()
    assert trial.error == ("was killed", 2)


def test_a_search_goes_through_no_linked_folder(tmp_path, victim):
    (tmp_path / "claims").symlink_to(victim.parent)
    with pytest.raises(ConfigError, match="claims is a link"):
        Claim(tmp_path / "claims" / "0")


def test_the_lock_of_a_database_empties_no_file(tmp_path, victim):
    lock = tmp_path / "poetry.lock"
    lock.write_text("precious")
    with _alone(f"sqlite:///{tmp_path / 'poetry'}"):
        pass
    assert lock.read_text() == "precious"
    lock.unlink()
    lock.symlink_to(victim)
    with pytest.raises(OSError, match="is a link"), _alone(f"sqlite:///{tmp_path / 'poetry'}"):
        pass


@pytest.mark.parametrize("name", ["0_\x1b]0;owned\x07", "0_${oc.env:HOME}", "0 a", "0_ü"])
def test_a_point_of_a_sweep_goes_into_no_folder_with_a_name_that_seqrl_does_not_give(tmp_path, name):
    for folder in (name, "1_seed-7"):
        put(tmp_path / folder, 1.0, seed=7)
    assert point_folder(str(tmp_path), 3, "seed-7", ["seed=7"]) == "1_seed-7"
    (tmp_path / "1_seed-7" / "manifest.json").unlink()
    assert point_folder(str(tmp_path), 3, "seed-7", ["seed=7"]) == "3_seed-7"


@pytest.mark.parametrize("name", ["multirun.yaml", ".submitit", "0_seed-0"])
@BOTH
def test_a_sweep_goes_into_no_folder_where_hydra_would_follow_a_link_or_wait_for_a_pipe(tmp_path, victim, what, name):
    put_there(tmp_path / "s" / name, what, victim)
    if what == "pipe" and name != "multirun.yaml":
        insist_on_own_files(tmp_path / "s")
        return
    said = "is a link, and could lead anywhere" if what == "link" else "is not a regular file"
    with pytest.raises(
        ConfigError, match=rf"{re.escape(name)} {said}\. Remove it, or choose another folder with sweep="
    ):
        insist_on_own_files(tmp_path / "s")


def test_a_sweep_replaces_no_multirun_yaml_that_hydra_did_not_write(tmp_path):
    kept = tmp_path / "multirun.yaml"
    insist_on_own_files(tmp_path)
    kept.write_text("hydra:\n  run: {}\nnetwork:\n  _target_: seqrl.networks.RecurrentNetwork\n")
    insist_on_own_files(tmp_path)
    for others in ("precious", "hydra:\n  sweeper: of another program\nmodel:\n  _target_: mine.Model\n"):
        kept.write_text(others)
        with pytest.raises(ConfigError, match=rf"^sweep: {kept} was not written by seqrl\. Remove it, or choose anot"):
            insist_on_own_files(tmp_path)


@pytest.mark.parametrize("word", ["seed=1", "'+env.kwargs={length: 3}'", "name=ü", "'name=a #b'"])
def test_the_best_trial_of_a_search_is_known_however_yaml_quotes_its_command(tmp_path, word):
    command = f"python -m seqrl.train env=tmaze {word}"
    (tmp_path / "best.yaml").write_text(yaml.safe_dump({"return": 1.0, "command": command}, width=1000))
    assert not foreign(tmp_path / "best.yaml", BEST)


@pytest.mark.parametrize(
    ("marks", "name", "text"),
    [
        (evaluate.MARKS, "evaluation.json", '{"mine": [1, 2], "env_steps": 320, "iterations": 5, "seed": 0}'),
        (inspect.FILES, "inspect.json", '{"said": "by me", "env_steps": 320}'),
        ({"README.md": CARD}, "README.md", "# Mine\n\nIt exports policies with `library_name: seqrl`.\n"),
        ({"best.yaml": BEST}, "best.yaml", "mine: precious\ntrial: 7\ncommand: python -m mine\n"),
    ],
)
def test_a_file_of_somebody_else_is_known_though_it_holds_words_that_seqrls_hold(tmp_path, marks, name, text):
    (tmp_path / name).write_text(text)
    assert foreign(tmp_path / name, marks[name])


def test_a_trial_of_a_search_goes_into_no_linked_folder(tmp_path, victim):
    pytest.importorskip("optuna")
    from seqrl.tune.search import Plan, Search
    from seqrl.tune.space import Dimension

    space = [Dimension("seed", choices=(7,))]
    study = tmp_path / "study"
    study.mkdir()
    (study / "0_seed-7").symlink_to(victim.parent)
    with pytest.raises(
        ConfigError, match=r"0_seed-7 is a link, and could lead anywhere\. Remove it, or choose another"
    ):
        Search(Plan(study=study), space).run()


@pytest.mark.parametrize(("failure", "why"), [(errno.ENOSPC, [errno.ENOSPC]), (errno.EPIPE, [errno.EPIPE]), (None, [])])
def test_a_line_that_cannot_be_written_ends_nothing(failure, why, monkeypatch):
    """As on a full disk, where the reader is gone, or where an environment has closed the stream."""

    class Stream(io.StringIO):
        def flush(self):
            raise OSError(failure, os.strerror(failure)) if failure else ValueError("I/O operation on closed file")

    unsaid = deque()
    monkeypatch.setattr("seqrl.text.words.UNSAID", unsaid)
    say("1 of 6 points", Stream())
    assert [error.errno for error in unsaid] == why


def test_what_a_sweep_says_of_a_point_holds_no_control_character(capsys):
    say("0_\x1b]0;owned\x07: already finished")
    assert capsys.readouterr().out == "0_\\x1b]0;owned\\x07: already finished\n"
