"""Brings the ranks of a run together: started by this process, by torchrun, or by Slurm."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from seqrl.errors import ConfigError, LostRankError, SeqrlError, described
from seqrl.machine import LET_TORCHRUN, RANKS_STARTED, end_at_once, end_with_parent, monotonic, ranks_started, sleep
from seqrl.ranks.base import ALONE, LAST_WORDS, PATIENCE, Ranks

# For ranks to meet once all are there.
SOON = timedelta(seconds=60)
# What a rank waits for another one to answer is for the watch to say; torch waits longer.
FOR_EVER = timedelta(days=365)
# Seconds for followers to end, once the run is over.
FAREWELL = 10.0
LOOPBACK = "127.0.0.1"
# Seconds for the first rank to be met where the others look for it.
REACH = 10.0


@dataclass(frozen=True)
class Place:
    """Where the ranks of a run meet, and which of them this process is.

    host, port   of the store
    here         ranks on this machine
    name         of the run, among those that the store serves
    leader       the process that has started this one; 0: torchrun or Slurm has
    """

    host: str
    port: int
    rank: int
    size: int
    here: int
    name: str = "0"
    leader: int = 0

    @classmethod
    def of_environment(cls) -> "Place | None":
        """As whoever started this process says it; None where nobody did."""
        if not (told := ranks_started()):
            return None
        host, port, rank, size = (told[name] for name in RANKS_STARTED)
        return cls(host, int(port), int(rank), int(size), int(os.environ.get("LOCAL_WORLD_SIZE", size)))


def join(place: Place, is_cuda: bool, lost: Callable[[LostRankError], None], died: Any = None) -> Ranks:
    """Meet the other ranks; returns when all are there.

    is_cuda   whether tensors on GPUs are exchanged; what the first rank says counts for all
    """
    import torch.distributed as dist

    from seqrl.ranks.group import Group
    from seqrl.ranks.watch import Watch, client

    known = {} if died is None else {"died": died}
    # Those that the first rank has started end with it, and have nothing to say.
    speaks = place.leader == 0
    watch = Watch(place.host, place.port, place.name, place.rank, place.size, lost, **known, speaks=speaks)
    try:
        store = client(place.host, place.port)
        store.set_timeout(SOON)
        with watch.explained():
            if place.rank == 0:
                store.set(f"{place.name}/backends", "cpu:gloo,cuda:nccl" if is_cuda else "gloo")
            watch.await_all()
            dist.init_process_group(
                store.get(f"{place.name}/backends").decode(),
                store=dist.PrefixStore(f"{place.name}/torch", store),  # type: ignore[attr-defined]
                rank=place.rank,
                world_size=place.size,
                timeout=FOR_EVER,
            )
    except BaseException as error:
        watch.close(error)
        raise
    return Group(watch, place.here)


@contextmanager
def assembled(size: int, is_cuda: bool, follow: Callable[[Place], None]) -> Iterator[Ranks]:
    """The ranks of a run, whose first one this process is.

    size     how many there are to be
    follow   what the others do, if this process is to start them; it can be pickled

    An error that ends the context is told to all.
    """
    if size == 1:
        yield ALONE
        return
    with ExitStack() as stack:
        place = Place.of_environment()
        if place is not None and not _have_followers:
            raise ConfigError(
                [
                    "processes: of what torchrun or Slurm starts, only python -m seqrl.train is one run over all of "
                    "them, and no sweep with hydra/launcher=joblib. Start this without it, with processes=4."
                ]
            )
        if place is None:
            ranks = stack.enter_context(_with_followers(size, is_cuda, follow))
        else:
            ranks = join(_next_run(place), is_cuda, end_at_once)
        try:
            yield ranks
        except BaseException as error:
            ranks.close(error)
            raise
        # All is written: one that dies as it leaves, or in an evaluation of the others, takes nothing along.
        with suppress(LostRankError):
            ranks.close()


@contextmanager
def _with_followers(size: int, is_cuda: bool, follow: Callable[[Place], None]) -> Iterator[Ranks]:
    """Start the other ranks on this machine; none of them outlives the context."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    if multiprocessing.current_process().daemon:
        raise ConfigError(
            [
                "processes: a worker of multiprocessing.Pool may not start others. Use processes=1, or "
                "concurrent.futures.ProcessPoolExecutor."
            ]
        )
    main = sys.modules["__main__"]
    script = getattr(main, "__file__", None)
    if getattr(main, "__spec__", None) is None and script and not Path(script).exists():
        raise ConfigError([f"processes: others cannot read this script, {script}. Put it into a file."])
    listening = socket.create_server((LOOPBACK, 0))
    port = listening.getsockname()[1]
    try:
        _call_oneself(LOOPBACK, port, listening)
    except OSError as error:
        listening.close()
        raise ConfigError(
            [
                f"processes: they meet at {LOOPBACK}, which cannot be reached here ({error.strerror or error}). Have "
                "its interface up, as `ip link set lo up` does, or use processes=1."
            ]
        ) from error
    listening.settimeout(None)
    store = TCPStore(LOOPBACK, port, None, True, FOR_EVER, wait_for_workers=False, master_listen_fd=listening.detach())
    spawn = multiprocessing.get_context("spawn")
    followers: list[BaseProcess] = []

    def died(rank: int) -> str | None:
        code = followers[rank - 1].exitcode if rank else None
        if code is None:
            return None
        if code == ANEW:
            return 'ran your script anew. Put what the script does below `if __name__ == "__main__":`'
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def end_followers(_: object = None) -> None:
        # Then whoever waits for them in the middle of torch hears of it.
        for follower in followers:
            with suppress(ValueError, AttributeError):
                follower.kill()

    try:
        with _in_environment(QUIETLY):
            for rank in range(1, size):
                place = Place(LOOPBACK, port, rank, size, size, leader=os.getpid())
                followers.append(spawn.Process(target=follow, args=(place,), name=f"{RANK}{rank}", daemon=False))
            with _quietly_interrupted():
                for follower in followers:
                    follower.start()
            ranks = join(Place(LOOPBACK, port, 0, size, size), is_cuda, end_followers, died)
        yield ranks
        for follower in followers:
            follower.join(FAREWELL)
    finally:
        end_followers()
        for follower in followers:
            if follower.pid is not None:
                follower.join()
        del store


# How processes that follow are named, and what one ends with that runs a script from its beginning.
RANK, ANEW = "rank ", 97


def refuse_to_begin_anew() -> None:
    """End a process that is to follow a script's run, and begins that script once more as it imports it."""
    process = multiprocessing.current_process()
    if process.name.startswith(RANK) and getattr(process, "_inheriting", False):
        sys.exit(ANEW)


# For gloo, over this machine's own interface, which nobody else can reach; and for torch, of whose errors each is said.
QUIETLY = {"GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "FATAL"}


@contextmanager
def _in_environment(values: dict[str, str]) -> Iterator[None]:
    """Have these variables meanwhile, for other processes too, unless there are others."""
    if values.get("GLOO_SOCKET_IFNAME") not in [name for _, name in socket.if_nameindex()]:
        values = {name: it for name, it in values.items() if name != "GLOO_SOCKET_IFNAME"}
    mine = {name: it for name, it in values.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


@contextmanager
def _quietly_interrupted() -> Iterator[None]:
    """Start processes that leave it to this one what Ctrl-C means, as they begin."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:
        # Not the main thread.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_have_followers = False


def expect_followers() -> None:
    """Say that the other processes which torchrun or Slurm has started follow this one."""
    global _have_followers
    _have_followers = True


_runs = 0


def _next_run(place: Place) -> Place:
    """The place of the next run of a command that has several: all ranks count them alike."""
    global _runs
    found = replace(place, name=_named(f"run {_runs}"))
    _runs += 1
    if place.rank == 0:
        _own_store(place).set(found.name, "begins")
    return found


def _named(key: str) -> str:
    """A key of the store as it is now: torchrun may start all processes again, and its store has what was before."""
    return f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{key}"


_store: Any = None


def begin_to_serve(place: Place) -> None:
    """Have the store that others look for; raises ConfigError if they would not find it here."""
    with suppress(RuntimeError):
        _own_store(place)


def _own_store(place: Place) -> Any:
    """This process's connection to the store; the first rank serves it, unless torchrun does."""
    global _store
    if _store is None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        if place.rank == 0 and _serves():
            listening = _listening(place).detach()
            _store = _awaited(
                lambda: TCPStore(
                    place.host, place.port, None, True, SOON, wait_for_workers=False, master_listen_fd=listening
                )
            )
            _store.set_timeout(FOR_EVER)
        else:
            _store = _patient_client(place)
    return _store


def _listening(place: Place) -> socket.socket:
    """A socket where others look for the first rank, this process; raises ConfigError if they would not find it."""
    dual = socket.has_dualstack_ipv6()
    try:
        listening = socket.create_server(
            ("", place.port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual
        )
    except OSError as error:
        # The error's own words say where, too.
        why = os.strerror(error.errno or 0)
        raise ConfigError([f"MASTER_PORT: {place.port} cannot be listened at here ({why}). {LET_TORCHRUN}"]) from error
    try:
        _call_oneself(place.host, place.port, listening)
    except (OSError, UnicodeError) as error:
        # Who knows the host may not answer for a while, which torch waits for.
        if getattr(error, "errno", None) != socket.EAI_AGAIN:
            listening.close()
            is_unknown = isinstance(error, socket.gaierror | UnicodeError)
            what = "is not known" if is_unknown else f"is not this process, at port {place.port}"
            told = (error.strerror if isinstance(error, OSError) else None) or error
            raise ConfigError([f"MASTER_ADDR: {place.host} {what} ({told}). {LET_TORCHRUN}"]) from error
    listening.settimeout(None)
    return listening


def _call_oneself(host: str, port: int, listening: socket.socket) -> None:
    """Raise OSError or UnicodeError unless this process is met where others look for it."""
    word, until = os.urandom(16), monotonic() + REACH
    listening.settimeout(REACH)
    with socket.create_connection((host, port), REACH) as calling:
        calling.sendall(word)
        while monotonic() < until:
            # Others may call meanwhile, and try again; or say nothing, or hang up.
            with listening.accept()[0] as called, suppress(OSError):
                called.settimeout(REACH / 10)
                if called.recv(len(word)) == word:
                    return
    raise TimeoutError("timed out")


def _awaited(make: Callable[[], Any]) -> Any:
    """What `make` makes, in a thread of its own: torch waits without hearing a signal."""
    made: Future[Any] = Future()

    def begin() -> None:
        try:
            made.set_result(make())
        except BaseException as error:
            made.set_exception(error)

    threading.Thread(target=begin, daemon=True).start()
    while not made.done():
        sleep(0.01)
    return made.result()


def _serves() -> bool:
    """Whether the first rank serves the store: torchrun may do so."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _patient_client(place: Place) -> Any:
    """A connection to the store, once it is there: the first rank may begin later, on another machine."""
    from seqrl.ranks.watch import client

    until = monotonic() + PATIENCE
    while True:
        try:
            return _awaited(lambda: client(place.host, place.port))
        except RuntimeError as error:
            if monotonic() > until:
                raise LostRankError(
                    f"processes: the first rank did not begin within {PATIENCE:.0f} seconds."
                ) from error


@contextmanager
def over_for_all() -> Iterator[None]:
    """In the end tell the ranks that torchrun or Slurm has started that the first one is done, whatever it did."""
    exit_code: Any = 0
    expect_followers()
    place = Place.of_environment()
    if place is not None:
        # Others look for it already; what is wrong with it is said once a run needs it.
        with suppress(ConfigError):
            begin_to_serve(place)
    try:
        yield
    except SystemExit as end:
        exit_code = end.code
        raise
    except BaseException:
        exit_code = 1
        raise
    finally:
        if place is not None:
            with suppress(RuntimeError, ConfigError):
                _say_that_it_is_over(place, exit_code if isinstance(exit_code, int) else int(bool(exit_code)))


def _say_that_it_is_over(place: Place, exit_code: int) -> None:
    """Tell all ranks, and serve the store until they have heard it: they may begin later than this one ends."""
    store = _own_store(place)
    store.set(_named("over"), str(exit_code))
    if _serves():
        for what, seconds in ("here", SOON.total_seconds()), ("heard", LAST_WORDS):
            until = monotonic() + seconds
            words = [_named(f"{what}/{rank}") for rank in range(1, place.size)]
            # One that a fault has ended hears nothing more.
            while not store.check(words) and monotonic() < until:
                sleep(0.05)


def follow_runs(follow: Callable[[Place], None]) -> None:
    """What ranks do that torchrun has started: follow the first one from run to run, until it is done."""
    while (exit_code := follow_run(follow)) is None:
        pass
    sys.exit(exit_code)


def follow_run(follow: Callable[[Place], None]) -> int | None:
    """Follow the first rank through its next run; return its exit code if there is none."""
    place = Place.of_environment()
    assert place is not None
    try:
        store = _own_store(place)
        store.set(_named(f"here/{place.rank}"), "")
        while not store.check([_named(f"run {_runs}")]):
            if store.check([_named("over")]):
                exit_code = int(store.get(_named("over")))
                store.set(_named(f"heard/{place.rank}"), "")
                return exit_code
            sleep(0.1)
    except RuntimeError as error:
        raise LostRankError(f"processes: the first rank is gone ({described(error)}).") from error
    follow(_next_run(place))
    return None


def follow_apart(follow: Callable[[Place], None]) -> None:
    """The same in a process of its own, which a fault may end: submitit waits until each task has returned."""
    process = multiprocessing.get_context("spawn").Process(target=_follow_runs, args=(follow,), daemon=False)
    process.start()
    process.join()


def _follow_runs(follow: Callable[[Place], None]) -> None:
    end_with_parent(signal.SIGKILL)
    try:
        follow_runs(follow)
    except SeqrlError as error:
        sys.exit(f"seqrl: error: {error}")


def be_quiet(place: Place) -> None:
    """Leave it to the first rank what signals mean, and end with the process that started this one."""
    end_with_parent(signal.SIGKILL)
    if place.leader not in (0, os.getppid()):
        # It is gone already.
        os._exit(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def joined(place: Place) -> Iterator[Ranks]:
    """The ranks of a run that this process follows the first one of; an error that ends the context is told to all."""
    ranks = join(place, False, lambda fault: os._exit(fault.exit_code))
    try:
        yield ranks
    except SeqrlError as error:
        ranks.close(error)
        raise
    ranks.close()
