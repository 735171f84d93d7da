"""Whether the other ranks are alive, and why not: words that they leave in a store, and a beat that each must give."""

import json
import os
import platform
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from seqrl.errors import LostRankError, NotFiniteError, SeqrlError, described
from seqrl.machine import monotonic, sleep
from seqrl.text import masked

# Seconds between two beats, and without one until a rank counts as lost: nothing that holds Python's lock takes longer.
BEAT, SILENCE = 1.0, 12.0
# Seconds that a rank whose connection is gone gets to say why, and the first one to say what all have met.
LAST_WORDS = 3.0
FAULT = "fault"


class Watch:
    """A thread that gives this rank's beat, listens to the next rank's, and acts if the run is lost.

    The main thread may wait for another rank in the middle of torch, where nothing else reaches it.

    host, port   of the store that all ranks reach
    name         of this run among those that the store serves
    died         says how another rank of this machine has ended, if it has; None: nobody knows
    lost         is called from the thread with what ends the run
    """

    def __init__(
        self,
        host: str,
        port: int,
        name: str,
        rank: int,
        size: int,
        lost: Callable[[LostRankError], None],
        died: Callable[[int], str | None] = lambda rank: None,
    ) -> None:
        self.rank, self.size, self.name = rank, size, name
        self._store = client(host, port)
        self._lost, self._died = lost, died
        self._next = (rank + 1) % size
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._set(f"where/{rank}", json.dumps([platform.node(), os.getpid()]))
        self._set(f"beat/{rank}", "0")
        self._thread = threading.Thread(target=self._run, name="ranks", daemon=True)
        self._thread.start()

    def why(self, error: BaseException) -> LostRankError:
        """What has happened, once the connection to another rank is gone."""
        until = monotonic() + LAST_WORDS
        while monotonic() < until:
            if (found := self._fault() or self._dead()) is not None:
                return self._told(found)
            sleep(0.1)
        return self._told(LostRankError(f"processes: the connection to another rank is lost ({described(error)})."))

    def close(self, error: BaseException | None = None) -> None:
        """Stop watching; tell the others of an error that ends the run."""
        if isinstance(error, NotFiniteError) and self.rank:
            # All of them meet what is wrong with a gradient, and the first one keeps the evidence.
            self._await_fault()
        if error is not None and not isinstance(error, LostRankError):
            exit_code = error.exit_code if isinstance(error, SeqrlError) else 1
            words = str(error) if isinstance(error, SeqrlError) else f"unexpected {described(error)}."
            self._told(LostRankError(words, exit_code))
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * BEAT)

    def _run(self) -> None:
        heard, heard_at, beats = b"", monotonic(), 0
        before = monotonic()
        while not self._over.wait(BEAT):
            beats += 1
            try:
                self._set(f"beat/{self.rank}", str(beats))
                found = self._fault() or self._dead()
                beat = self._get(f"beat/{self._next}")
            except RuntimeError as error:
                # The first rank holds the store, or its machine does.
                found, beat = LostRankError(f"processes: the first rank is gone ({described(error)})."), heard
            now = monotonic()
            if beat != heard or now - before > SILENCE / 2:
                # Or this process was stopped itself, with all others.
                heard, heard_at = beat, now
            elif now - heard_at > SILENCE:
                found = found or self._silent()
            before = now
            if found is not None and not self._over.is_set():
                self._lost(self._told(found))
                return

    def _silent(self) -> LostRankError:
        """The next rank does not answer. If it is on this machine, it is ended."""
        machine, process = json.loads(self._get(f"where/{self._next}"))
        if machine == platform.node():
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        return LostRankError(
            f"processes: rank {self._next} of {self.size} (process {process} on {machine}) has not answered for "
            f"{SILENCE:.0f} seconds: it or its machine is stopped."
        )

    def _dead(self) -> LostRankError | None:
        for rank in range(self.size):
            if rank != self.rank and (how := self._died(rank)):
                return LostRankError(f"processes: rank {rank} of {self.size} {how}.")
        return None

    def _await_fault(self) -> None:
        until = monotonic() + 2 * LAST_WORDS
        while monotonic() < until and self._fault() is None:
            sleep(0.1)

    def _fault(self) -> LostRankError | None:
        """What a rank has said before it ended."""
        with suppress(RuntimeError):
            if self._call("check", [f"{self.name}/{FAULT}"]):
                return LostRankError(*json.loads(self._get(FAULT)))
        return None

    def _told(self, fault: LostRankError) -> LostRankError:
        """Leave word for all, unless somebody did so before; what counts."""
        with suppress(RuntimeError):
            word = json.dumps([masked(str(fault)), fault.exit_code])
            first = self._call("compare_set", f"{self.name}/{FAULT}", "", word)
            return LostRankError(*json.loads(first))
        return fault

    def _set(self, key: str, value: str) -> None:
        self._call("set", f"{self.name}/{key}", value)

    def _get(self, key: str) -> bytes:
        found: bytes = self._call("get", f"{self.name}/{key}")
        return found

    def _call(self, method: str, *arguments: Any) -> Any:
        with self._lock:
            return getattr(self._store, method)(*arguments)


def client(host: str, port: int) -> Any:
    """A connection to a store that some other process serves."""
    return TCPStore(host, port, None, False, timedelta(seconds=SILENCE), wait_for_workers=False)
