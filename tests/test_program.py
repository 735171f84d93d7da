"""A program ends with one line for each fault, and an exit code that says what kind."""

import logging
import threading
from errno import ENOSPC

import pytest

from seqrl.config.program import errors_in_one_line
from seqrl.errors import CheckpointError, ConfigError


@pytest.mark.parametrize(
    ("error", "exit_code", "lines"),
    [
        (ConfigError(["a: is wrong.", "b: is wrong."]), 2, ["a: is wrong.", "b: is wrong."]),
        (CheckpointError("c: is damaged."), 3, ["c: is damaged."]),
        (OSError(ENOSPC, "it is full", "d"), 2, ["d: it is full. Free some space, or choose another folder."]),
        # As a file that is open raises it.
        (OSError(ENOSPC, "it is full"), 2, ["it is full. Free some space, or choose another folder."]),
    ],
)
def test_an_expected_error_gets_a_line_for_each_fault_and_its_exit_code(capsys, error, exit_code, lines):
    with pytest.raises(SystemExit) as ended, errors_in_one_line():
        raise error
    assert ended.value.code == exit_code
    assert capsys.readouterr().err.splitlines() == [f"seqrl: error: {line}" for line in lines]


def test_an_unexpected_error_gets_one_line_that_names_the_file_with_its_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # pytest's own handlers would take the traceback.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(SystemExit) as ended, errors_in_one_line():
        _ = 1 / 0
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert line.startswith("seqrl: error: unexpected ZeroDivisionError")
    (log,) = tmp_path.iterdir()
    assert line.endswith(f"The traceback is in {log}.")


def test_an_unexpected_error_gets_its_line_where_no_file_can_be_written(capsys, monkeypatch):
    def full(**_):
        raise OSError(ENOSPC, "it is full")

    monkeypatch.setattr("seqrl.config.program.NamedTemporaryFile", lambda *_, **__: full())
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(SystemExit) as ended, errors_in_one_line():
        _ = 1 / 0
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("seqrl: error: unexpected ZeroDivisionError")
    assert "The traceback is in" not in line


@pytest.mark.parametrize(("when_interrupted", "printed"), [("", ""), ("stopped", "stopped\n")])
def test_ctrl_c_ends_with_130(capsys, when_interrupted, printed):
    with pytest.raises(SystemExit) as ended, errors_in_one_line(when_interrupted=when_interrupted):
        raise KeyboardInterrupt
    assert (ended.value.code, capsys.readouterr().err) == (130, printed)


def test_without_an_error_the_program_continues(capsys):
    with errors_in_one_line():
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_no_log_is_kept_neither_a_warning_nor_a_thread_prints_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(threading, "excepthook", None)
    with errors_in_one_line():
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            logging.getLogger("seqrl").warning("environment 0 failed to close:\nZeroDivisionError", exc_info=True)
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    assert [line.partition(" (")[0] for line in capsys.readouterr().err.splitlines()] == [
        "seqrl: warning: environment 0 failed to close: ZeroDivisionError",
        "seqrl: warning: a thread ended: ZeroDivisionError: division by zero",
    ]
