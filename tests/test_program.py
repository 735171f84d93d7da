"""A program ends with one line for each fault, and an exit code that says what kind."""

import logging
import os
import signal
import subprocess
import sys
import threading
from errno import EACCES, ELOOP, ENOENT, ENOSPC, ENOTDIR, EROFS
from importlib import import_module
from pathlib import Path

import pytest

import seqrl
from seqrl.config.program import errors_in_one_line, to_the_end
from seqrl.errors import CheckpointError, ConfigError, FaultyEnvError, RaisedError
from seqrl.files import LogFile
from tests.programs import NAMES, run_program

PRESSED = """
import os, signal, sys
class Pressed:
    def find_spec(self, name, *more):
        if name == "{name}":
            try:
                os.kill(os.getpid(), signal.{pressed})
            except KeyboardInterrupt:
                # As libraries do that must do without something.
                {caught}
sys.meta_path.insert(0, Pressed())
"""


@pytest.mark.thin(9)
@pytest.mark.parametrize("where", ["rich.console", "omegaconf"])
@pytest.mark.parametrize(
    "words", [["-m", "seqrl.runs"], ["-m", "seqrl.runs", "-m"], ["seqrl-runs"], ["mine.py"]], ids=str
)
def test_ctrl_c_while_a_program_imports_what_it_needs_gets_one_line(tmp_path, words, where):
    caught = "raise" if words == ["mine.py"] else "raise ImportError('no such thing')"
    (tmp_path / "sitecustomize.py").write_text(PRESSED.format(pressed="SIGINT", name=where, caught=caught))
    for name in ("seqrl-runs", "mine.py"):
        (tmp_path / name).write_text("import seqrl.runs.__main__")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(seqrl.__file__).parent.parent)])}
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGINT
    # A program of one's own has its own words.
    assert (done.stderr == "seqrl: interrupted\n") == (words != ["mine.py"])


@pytest.mark.parametrize("own", [False, True])
def test_a_program_that_is_ended_while_it_imports_what_it_needs_says_by_what(tmp_path, own):
    (tmp_path / "sitecustomize.py").write_text(PRESSED.format(pressed="SIGTERM", name="omegaconf", caught="raise"))
    (tmp_path / "mine.py").write_text("import seqrl.runs.__main__")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(seqrl.__file__).parent.parent)])}
    words = ["mine.py"] if own else ["-m", "seqrl.runs"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == ((-15, "") if own else (143, "seqrl: ended by SIGTERM\n"))


@pytest.mark.parametrize(
    ("error", "exit_code", "lines"),
    [
        (ConfigError(["a: is wrong.", "b: is wrong."]), 2, ["a: is wrong.", "b: is wrong."]),
        (CheckpointError("c: is damaged."), 3, ["c: is damaged."]),
        (OSError(ENOSPC, "it is full", "d"), 2, ["d: it is full. Free some space, or choose another folder."]),
        # As a file that is open raises it.
        (OSError(ENOSPC, "it is full"), 2, ["it is full. Free some space, or choose another folder."]),
        *(
            (OSError(number, "no", "d"), 2, [f"d: no. {remedy}, or choose another folder."])
            for number, remedy in [
                (EACCES, "Make it readable and writable for you with chmod or chown"),
                (EROFS, "Have its disk mounted for writing"),
                (ENOENT, "See whether it was moved or removed"),
                (ENOTDIR, "Remove what stands in its way"),
            ]
        ),
        (OSError(ELOOP, "is a link", "d"), 2, ["d: is a link. Choose another folder."]),
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


def test_an_error_of_an_environments_own_names_the_log_with_its_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [LogFile(str(tmp_path / "train.log"))])
    with pytest.raises(SystemExit), errors_in_one_line():
        raise FaultyEnvError("environment 0: it is on fire.") from RaisedError("ValueError", "on fire", "line 18")
    said = f"environment 0: it is on fire. The traceback is in {tmp_path}/train.log."
    assert capsys.readouterr().err == f"seqrl: error: {said}\n"
    assert "line 18" in (tmp_path / "train.log").read_text()


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


def test_a_program_whose_working_folder_is_gone_says_so(tmp_path):
    (tmp_path / "gone").mkdir()
    env = os.environ | {"PYTHONPATH": str(Path(seqrl.__file__).parent.parent)}
    words = ["sh", "-c", f"rmdir ../gone; exec {sys.executable} -m seqrl.train"]
    done = subprocess.run(words, cwd=tmp_path / "gone", env=env, capture_output=True, text=True, timeout=60)
    said = "seqrl: error: the working folder is not there (No such file or directory). Go to another.\n"
    assert (done.returncode, done.stdout, done.stderr.splitlines(keepends=True)[-1]) == (2, "", said)


def test_ctrl_c_ends_with_130_and_a_line(capsys):
    with pytest.raises(SystemExit) as ended, errors_in_one_line():
        raise KeyboardInterrupt
    assert (ended.value.code, capsys.readouterr().err) == (130, "seqrl: interrupted\n")


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


LEFT_BEHIND = {
    "thread": ("threading.Thread(target=time.sleep, args=(60,), name='sim').start()", "thread sim"),
    "handler": ("atexit.register(time.sleep, 60)", "an exit handler"),
    "process": ("multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,)).start()", ""),
    "last word": ("import os; atexit.register(os._exit, 0)", ""),
    "child": ("import os; os.fork() or os._exit(0); os.wait()", ""),
    "timer": ("import signal as s; s.signal(s.SIGPROF, print); s.setitimer(s.ITIMER_PROF, 1e-3, 1e-3)", ""),
    "nothing": ("pass", ""),
}
LEAVES = """
import atexit, multiprocessing, sys, threading, time
from seqrl.config import program
program.LAST_SECONDS = {seconds}
def main():
    {deed}
    print("done")
    sys.exit(3)
program.to_the_end(main)
"""

ON = [
    "try:",
    "    program.to_the_end(main)",
    "except SystemExit:",
    "    time.sleep(0.5)",
    "program.LAST_SECONDS = 30",
    "print('still there')",
]


@pytest.mark.parametrize(("deed", "named"), LEFT_BEHIND.values(), ids=LEFT_BEHIND)
def test_a_program_ends_with_its_exit_code_whatever_is_left_behind(tmp_path, deed, named):
    done = run_program(tmp_path, "-c", LEAVES.format(deed=deed, seconds=0.5 if named else 30))
    assert (done.returncode, done.stdout) == (3, "done\n")
    said = f"seqrl: {named} goes on after 0.5 s; the program ends without it\n" if named else ""
    assert done.stderr == said


@pytest.mark.slow
def test_a_program_ends_with_its_exit_code_where_no_thread_can_be_started(tmp_path):
    deed = "import resource as r; r.setrlimit(r.RLIMIT_DATA, (2**20, r.getrlimit(r.RLIMIT_DATA)[1]))"
    command = [sys.executable, "-c", LEAVES.format(deed=deed, seconds=30)]
    env = os.environ | {"PYTHONPATH": str(Path(seqrl.__file__).parent.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\n", "")


def test_what_fails_when_it_is_collected_gets_a_line(tmp_path):
    fails = "program.forgiving_output(); type('It', (), {'__del__': lambda it: 1 / 0})()"
    done = run_program(tmp_path, "-c", LEAVES.format(deed=fails, seconds=30))
    assert (done.returncode, done.stdout) == (3, "done\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("seqrl: warning: ignored: ZeroDivisionError: division by zero")


def test_a_program_that_is_one_of_several_ends_nothing_but_itself(tmp_path):
    code = LEAVES.format(deed="pass", seconds=0) + "\n".join(["", *ON])
    done = run_program(tmp_path, "-c", code.replace("program.to_the_end(main)", "", 1))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\nstill there\n", "")


@pytest.mark.parametrize("name", [*NAMES, "seqrl.envs.__main__"])
def test_every_program_ends_so(name):
    assert import_module(name).program.func is to_the_end


def test_seqrl_alone_lists_its_programs_and_every_program_says_the_version_of_seqrl(tmp_path):
    listed = run_program(tmp_path, "-m", "seqrl")
    for name in NAMES:
        assert f"python -m {name.removesuffix('.__main__')} " in listed.stdout
    for name in ("seqrl", *(name.removesuffix(".__main__") for name in NAMES)):
        assert run_program(tmp_path, "-m", name, "--version").stdout == f"seqrl {seqrl.__version__}\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("network=g", {"network=gru", "network=gtrxl"}),
        ("sequence_learning.bp", {"sequence_learning.bptt_length="}),
        ("env=tm", {"env=tmaze"}),
    ],
)
def test_a_shell_completes_groups_choices_and_keys(tmp_path, typed, offered):
    line = f"seqrl-train {typed}"
    env = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": "1"}
    assert set(run_program(tmp_path, "-m", "seqrl.train", "-sc", "query=bash", env=env).stdout.split()) == offered


def test_a_word_that_is_no_option_is_refused_with_the_program_that_was_meant(tmp_path):
    refused = run_program(tmp_path, "-m", "seqrl", "trian")
    assert refused.returncode == 2
    assert refused.stderr == (
        "seqrl: error: trian: is not an option of seqrl. Did you mean train? python -m seqrl lists the programs.\n"
    )


@pytest.mark.slow
@pytest.mark.thin(9)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "words", [["runs", "."], ["evaluate", "--help"], ["runs", "--version"], ["train", "--help"]], ids=" ".join
)
def test_a_program_whose_output_a_full_disk_does_not_take_says_so(tmp_path, words, unbuffered):
    (tmp_path / "manifest.json").write_text('{"status": "finished"}')
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", f"seqrl.{words[0]}", *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    if words[0] == "train" and not unbuffered:
        # A run is in its files; what it prints may be lost.
        assert (done.returncode, done.stderr) == (0, "")
    else:
        said = "seqrl: error: No space left on device. Free some space, or choose another folder.\n"
        assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.parametrize("option", ["-P", ""])
def test_what_a_program_starts_imports_from_the_folder_only_if_it_does_itself(tmp_path, option):
    main = (
        "import os; from seqrl.config.program import to_the_end as end; end(lambda: print(os.getenv('PYTHONSAFEPATH')))"
    )
    done = subprocess.run(
        [sys.executable, *filter(None, [option]), "-c", main],
        cwd=tmp_path,
        env={name: it for name, it in os.environ.items() if name != "PYTHONSAFEPATH"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == ("1\n" if option else "None\n"), done.stderr


@pytest.mark.slow
@pytest.mark.thin(1)
@pytest.mark.parametrize("program", ["verify", "envs", "evaluate", "export", "inspect", "report", "runs", "tune"])
def test_help_is_whole_where_python_takes_docstrings_away(tmp_path, program):
    plain = run_program(tmp_path, "-m", f"seqrl.{program}", "--help").stdout
    stripped = subprocess.run(
        [sys.executable, "-OO", "-P", "-m", f"seqrl.{program}", "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (stripped.stdout, stripped.stderr) == (plain, "")
    assert f"python -m seqrl.{program}" in plain


def test_a_terminal_of_no_width_is_written_to(tmp_path):
    (tmp_path / "manifest.json").write_text('{"status": "finished"}')
    done = run_program(tmp_path, "-m", "seqrl.runs", ".", env={**os.environ, "COLUMNS": "0"})
    assert [line.split() for line in done.stdout.splitlines()][1][0] == "finished"


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_reader_that_has_gone_gets_no_traceback(tmp_path, unbuffered):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "seqrl.evaluate", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
