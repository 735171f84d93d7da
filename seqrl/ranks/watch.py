"""Whether the other ranks are alive, and why not: words that they leave in a store, and a beat that each must give."""

import json
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from seqrl.errors import LostRankError, NotFiniteError, SeqrlError, described
from seqrl.machine import is_at_work, monotonic, sleep, this_machine
from seqrl.ranks.base import LAST_WORDS, PATIENCE
from seqrl.text import masked, printable

# Seconds between two beats, and without one until a rank counts as lost. One of this machine that holds Python's lock
# for longer is seen to be at work.
BEAT, SILENCE = 1.0, 12.0
# Words in the store: what has ended the run, and that the first rank says so.
FAULT, SAID = "fault", "said"
# The place of a rank that has not said it: name and identity of its machine, and its process.
NOWHERE = ["an unknown machine", "", 0]


class Watch:
    """Gives this rank's beat, listens to the next rank's, and acts if the run is lost, in threads of its own.

    The main thread may wait for another rank in the middle of torch, where nothing else reaches it.

    host, port   of the store that all ranks reach
    name         of this run among those that the store serves
    died         says how another rank of this machine has ended, if it has; None: nobody knows
    speaks       whether this rank says what it finds, if the first one is not there to say it
    lost         is called from one of them with what ends the run
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
        speaks: bool = False,
    ) -> None:
        self.rank, self.size, self.name = rank, size, name
        self._store = client(host, port)
        self._lost, self._died, self._speaks = lost, died, speaks
        self._is_spokesman = rank == 1 or os.environ.get("LOCAL_RANK") == "0"
        self._next = (rank + 1) % size
        self._over = threading.Event()
        self._lock, self._speaking = threading.Lock(), threading.Lock()
        self._set(f"where/{rank}", json.dumps([platform.node(), this_machine(), os.getpid()]))
        self._set(f"beat/{rank}", "0")
        # What the one thread has heard, and the other one judges: a store that is stopped may never answer.
        self._found: LostRankError | None = None
        self._beat, self._answers = b"", 0
        self._places: dict[int, list[Any]] = {}
        self._threads = [threading.Thread(target=it, name="ranks", daemon=True) for it in (self._exchange, self._judge)]
        for thread in self._threads:
            thread.start()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Where torch fails meanwhile, as the connection to another rank is gone, raise what has happened to that."""
        try:
            yield
        except RuntimeError as error:
            raise self._why(error) from error

    def _why(self, error: BaseException) -> LostRankError:
        until = monotonic() + LAST_WORDS
        while monotonic() < until:
            if (found := self._fault() or self._dead()) is not None:
                return found
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
        if isinstance(error, LostRankError):
            self._speak(error)
        for thread in self._threads:
            thread.join(2 * BEAT)

    def await_all(self) -> None:
        """Return when all ranks are there. Raises LostRankError if one has ended before, or does not come."""
        until = monotonic() + PATIENCE
        for rank in range(self.size):
            while not self._call("check", [f"{self.name}/where/{rank}"]):
                if (found := self._fault() or self._dead()) is not None:
                    raise found
                if monotonic() > until:
                    late = f"processes: rank {rank} of {self.size} did not begin within {PATIENCE:.0f} seconds."
                    raise self._told(LostRankError(late))
                sleep(0.05)
        self._look()

    def _exchange(self) -> None:
        """Give this rank's beat and hear the next one's, and what anybody says of the end."""
        try:
            while not self._over.wait(BEAT):
                self._answers += 1
                self._set(f"beat/{self.rank}", str(self._answers))
                self._look()
                if self._next in self._places:
                    self._beat = self._get(f"beat/{self._next}")
                self._found = self._found or self._fault()
        except RuntimeError as error:
            self._found = LostRankError(f"processes: the first rank is gone ({described(error)}).")
            self._end(0)

    def _look(self) -> None:
        """Note where those are that this rank listens to, once they have begun."""
        for rank in {0, self._next} - {*self._places}:
            if self._call("check", [f"{self.name}/where/{rank}"]):
                self._places[rank] = json.loads(self._get(f"where/{rank}"))

    def _judge(self) -> None:
        """Act if the run is lost: somebody says so, or has died, or the next rank or the store is silent."""
        heard: dict[str, tuple[Any, float]] = {}
        before = monotonic()
        while not self._over.wait(BEAT):
            now = monotonic()
            if now - before > SILENCE / 2:
                # This process was stopped itself, perhaps with all others.
                heard.clear()
            before = now
            found = self._found or self._dead()
            # The first rank holds the store, through which the next one is heard. That may be the first one, too.
            signs = [("store", 0, self._answers, SILENCE), ("beat", self._next, self._beat, SILENCE + 2 * BEAT)]
            for name, rank, sign, limit in signs:
                was, when = heard.get(name, (None, now))
                if sign != was or (name == "beat" and rank not in self._places):
                    heard[name] = sign, now
                elif now - when > limit and not self._is_at_work(rank):
                    found = found or self._silent(rank)
            if found is not None and not self._over.is_set():
                self._speak(found)
                self._lost(found)
                return

    def _speak(self, fault: LostRankError) -> None:
        """Say what ends this rank: the first one does it later, and whoever has found it if the first one does not."""
        if self.rank == 0:
            if self._lock.acquire(timeout=1):
                with suppress(RuntimeError):
                    self._store.set(f"{self.name}/{SAID}", "")
                self._lock.release()
            return
        # If the store is gone, all have found that: then one on each machine says it.
        is_mine = self.rank == fault.author if fault.author is not None else self._is_spokesman
        # Whoever comes later waits until it is said, and ends this process.
        with self._speaking:
            if self._speaks and is_mine and not self._is_said():
                print(printable(f"seqrl: error: {fault}"), file=sys.stderr, flush=True)
            self._speaks = False

    def _is_said(self) -> bool:
        """Whether the first rank says it, within a few seconds."""
        until = monotonic() + LAST_WORDS
        # A store that is stopped may keep another thread waiting.
        while monotonic() < until and self._lock.acquire(timeout=LAST_WORDS):
            try:
                if self._store.check([f"{self.name}/{SAID}"]):
                    return True
            except RuntimeError:
                break
            finally:
                self._lock.release()
            sleep(0.1)
        return False

    def _is_at_work(self, rank: int) -> bool:
        """Whether a rank is seen to be so, on this machine: what it plays may hold Python's lock, and so its beat."""
        _, machine, process = self._places.get(rank, NOWHERE)
        return machine == this_machine() and is_at_work(process)

    def _silent(self, rank: int) -> LostRankError:
        """What is wrong with a rank that does not answer."""
        self._end(rank)
        name, _, process = self._places.get(rank, NOWHERE)
        fault = LostRankError(
            f"processes: rank {rank} of {self.size} (process {process} on {name}) has not answered for "
            f"{SILENCE:.0f} seconds: it or its machine is stopped."
        )
        # The first one takes no word any more.
        return self._told(fault) if rank else fault

    def _end(self, rank: int) -> None:
        """End a rank that does not answer, if it is on this machine."""
        _, machine, process = self._places.get(rank, NOWHERE)
        if machine == this_machine() and rank != self.rank:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)

    def _dead(self) -> LostRankError | None:
        for rank in range(self.size):
            if rank != self.rank and (how := self._died(rank)):
                return self._told(LostRankError(f"processes: rank {rank} of {self.size} {how}."))
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
            word = json.dumps([masked(str(fault)), fault.exit_code, self.rank])
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
    return TCPStore(host, port, None, False, timedelta(seconds=2 * SILENCE), wait_for_workers=False)
