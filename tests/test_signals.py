import os
import signal
import time
from pathlib import Path

import pytest

from seqrl.run.stop import ONE_REQUEST_SECONDS, STOPPING, Stop
from tests.programs import Program

DEAF = """
import os, signal, time
from seqrl.run.stop import Stop
with Stop() as stop:
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
        if stop.wanted:
            print("heard", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_ends_the_process_at_once(number):
    with Program(Path.cwd(), "-c", DEAF) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "heard\n"
        time.sleep(1.2 * ONE_REQUEST_SECONDS)
        process.send_signal(number)
        process.stdout.read()
    assert process.returncode == 128 + number


ASKED = """
import signal, time
from seqrl.run.stop import Stop
with Stop() as stop:
    stop.ask(signal.SIGTERM)
    print(stop.wanted.name, flush=True)
    while time.sleep(0.05) is None:
        if stop._heard_at:
            print("heard", flush=True)
"""


def test_a_first_signal_after_another_ranks_ends_nothing_and_the_second_does():
    with Program(Path.cwd(), "-c", ASKED) as process:
        assert process.stdout.readline() == "SIGTERM\n"
        time.sleep(1.2 * ONE_REQUEST_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "heard\n"
        time.sleep(1.2 * ONE_REQUEST_SECONDS)
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert process.returncode == 143


def test_signals_mean_what_they_did_before_when_the_run_is_over():
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.wanted is signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_was_stopped_says_by_what_and_how_to_go_on():
    stop = Stop()
    stop._hear(signal.SIGTERM, None)
    error = stop.error("Continue with resume=x")
    assert str(error) == "stopped by SIGTERM. Continue with resume=x"
    assert error.exit_code == 143


@pytest.mark.parametrize(
    ("number", "terminal", "said"),
    [(signal.SIGINT, True, STOPPING), (signal.SIGINT, False, b""), (signal.SIGTERM, True, b"")],
)
def test_who_presses_ctrl_c_at_a_terminal_hears_that_the_run_is_saved_first(monkeypatch, number, terminal, said):
    written = []
    monkeypatch.setattr("os.isatty", lambda descriptor: terminal)
    monkeypatch.setattr("os.write", lambda descriptor, data: written.append((descriptor, data)))
    with Stop() as stop:
        signal.raise_signal(number)
        assert stop.wanted is number
        monkeypatch.undo()
    assert written == ([(2, said)] if said else [])


def test_one_of_several_runs_leaves_that_to_the_command(monkeypatch):
    monkeypatch.setattr("os.isatty", lambda descriptor: True)
    written = []
    monkeypatch.setattr("os.write", lambda descriptor, data: written.append(data))
    with Stop(lambda: None) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.wanted is signal.SIGINT
        monkeypatch.undo()
    assert not written
