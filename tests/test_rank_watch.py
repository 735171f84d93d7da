"""What a rank makes of another one's silence."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

from seqrl.errors import LostRankError
from seqrl.machine import is_at_work, this_machine
from seqrl.ranks import group, watch
from seqrl.ranks.start import Place, join, joined
from seqrl.ranks.watch import Watch, client

# Of a test; a real run waits twelve seconds.
BEAT, SILENCE = 0.02, 0.3


@pytest.fixture
def store(monkeypatch):
    from torch.distributed import TCPStore

    monkeypatch.setattr(watch, "BEAT", BEAT)
    monkeypatch.setattr(watch, "SILENCE", SILENCE)
    return TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)


@contextmanager
def watching(store, rank, silent, machine, process):
    """What a rank of two hears, whose only other one began there and gives no beat; a list of what ends the run."""
    other = client("127.0.0.1", store.port)
    other.set(f"run/where/{silent}", json.dumps(["node", machine, process]))
    other.set(f"run/beat/{silent}", "0")
    lost = []
    it = Watch("127.0.0.1", store.port, "run", rank, 2, lost.append)
    try:
        yield lost
    finally:
        it.close()


@contextmanager
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("speaks", "author", "first_says", "is_said"),
    [(True, 2, False, True), (True, 2, True, False), (True, 1, False, False), (False, 2, False, False)],
)
def test_another_rank_says_what_it_finds_if_the_first_one_does_not(
    store, monkeypatch, capsys, speaks, author, first_says, is_said
):
    monkeypatch.setattr(watch, "LAST_WORDS", 0.2)
    it = Watch("127.0.0.1", store.port, "run", 2, 3, lambda fault: None, speaks=speaks)
    if first_says:
        first = Watch("127.0.0.1", store.port, "run", 0, 3, lambda fault: None)
        first.close(LostRankError("processes: gone."))
    it.close(LostRankError("processes: gone.", author=author))
    it.close(LostRankError("processes: gone.", author=author))
    assert capsys.readouterr().err == ("seqrl: error: processes: gone.\n" if is_said else "")


def test_a_rank_says_what_it_finds_though_the_store_is_gone(monkeypatch, capsys):
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    it = Watch("127.0.0.1", store.port, "run", 1, 2, lambda fault: None, speaks=True)
    del store
    it.close(LostRankError("processes: gone."))
    assert capsys.readouterr().err == "seqrl: error: processes: gone.\n"


def wait_for(lost, seconds=5.0):
    until = time.monotonic() + seconds
    while not lost and time.monotonic() < until:
        time.sleep(BEAT)
    return lost


@pytest.mark.parametrize("rank", [0, 1])
def test_either_of_two_ranks_misses_the_beat_of_the_other(store, rank):
    with watching(store, rank, silent=1 - rank, machine="elsewhere", process=os.getpid()) as lost:
        (fault,) = wait_for(lost)
    assert f"rank {1 - rank} of 2 (process {os.getpid()} on node) has not answered" in str(fault)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process is at")
def test_a_rank_that_is_at_work_on_this_machine_may_hold_its_beat_and_one_that_is_stopped_is_ended(store):
    with sleeper() as other, watching(store, 1, silent=0, machine=this_machine(), process=other.pid) as lost:
        assert wait_for(lost, 4 * SILENCE) == []
        os.kill(other.pid, signal.SIGSTOP)
        assert wait_for(lost)
        assert other.wait(5) == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process is at")
def test_a_process_of_another_machine_is_no_process_of_this_one_though_their_names_are_the_same(store):
    with sleeper() as other, watching(store, 1, silent=0, machine="elsewhere", process=other.pid) as lost:
        assert wait_for(lost)
        assert is_at_work(other.pid)


def test_a_rank_that_never_begins_is_not_awaited_for_ever(store, monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE", 0.2)
    it = Watch("127.0.0.1", store.port, "run", 0, 2, lambda fault: None)
    try:
        with pytest.raises(LostRankError, match=r"processes: rank 1 of 2 did not begin within 0 seconds\."):
            it.await_all()
    finally:
        it.close()


@pytest.mark.parametrize(("is_cuda", "backends"), [(False, "gloo"), (True, "cpu:gloo,cuda:nccl")])
def test_all_ranks_exchange_as_the_first_one_does_though_their_machines_have_gpus(
    store, monkeypatch, is_cuda, backends
):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: chosen.append(backend))
    # The watch alone, which can be closed, too.
    monkeypatch.setattr(group, "Group", lambda watch, here: watch)
    places = [Place("127.0.0.1", store.port, rank, 2, 2) for rank in range(2)]

    def follow():
        with joined(places[1]):
            pass

    with ThreadPoolExecutor(2) as pool:
        follower = pool.submit(follow)
        pool.submit(join, places[0], is_cuda, lambda fault: None).result().close()
        follower.result()
    assert chosen == [backends] * 2
