"""Cores and RAM, what this process may use and has used, its clocks, signal handlers and locks. Imports no torch."""

import ctypes
import math
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from traceback import walk_tb
from types import FrameType, TracebackType
from typing import Any, NoReturn

from seqrl.errors import ConfigError, SeqrlError
from seqrl.text import printable

Handler = Callable[[int, FrameType | None], Any]

# As Python has them, where an environment replaces those of the module time, as simulators do that run faster than real
# time. Wrapped: freezegun replaces the functions themselves wherever a module names them.
wall_time = partial(time.time)
monotonic = partial(time.monotonic)
perf_counter = partial(time.perf_counter)
process_time = partial(time.process_time)
sleep = partial(time.sleep)

_descriptors: set[int] = set()


def processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """As many of them as it may keep busy: a container may have less of their time."""
    return min(processors(), _share_of_processors() or processors())


# What torchrun tells a process that is one of several of a run, and submitit in its name under Slurm.
RANKS_STARTED = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
NUMBERS_OF_RANKS = ("MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
LAST_PORT = 65535
LET_TORCHRUN = "Let torchrun set these variables, or unset WORLD_SIZE."


def ranks_started() -> dict[str, str]:
    """What torchrun or Slurm says of the processes that it has started together, by name; {} if it has not.

    One that it has started alone is as any other, and may start more. Raises ConfigError if it says what cannot be.
    """
    told = {name: os.environ.get(name, "") for name in RANKS_STARTED}
    if not all(told.values()) or told["WORLD_SIZE"] == "1":
        return {}
    for name in NUMBERS_OF_RANKS:
        if not (text := os.environ.get(name, "0")).isdecimal():
            raise ConfigError([f"{name}: must be a whole number (got {text}). {LET_TORCHRUN}"])
    if not 0 < int(told["MASTER_PORT"]) <= LAST_PORT:
        raise ConfigError([f"MASTER_PORT: must be 1 to {LAST_PORT} (got {told['MASTER_PORT']}). {LET_TORCHRUN}"])
    if int(told["RANK"]) >= int(told["WORLD_SIZE"]):
        raise ConfigError([f"RANK: must be below WORLD_SIZE={told['WORLD_SIZE']} (got {told['RANK']}). {LET_TORCHRUN}"])
    return told


def processes_started() -> int:
    """How many there are; 1 if this one is alone."""
    return int(ranks_started().get("WORLD_SIZE", 1))


def processor() -> dict[str, str]:
    """What Linux says of the first processor, such as its `vendor_id`; {} elsewhere."""
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
        fields = (line.partition(":") for line in first.splitlines())
        return {name.strip(): value.strip() for name, _, value in fields}
    return {}


def this_machine() -> str:
    """What tells this machine from others, as far as it sees processes: two may have one name."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def is_at_work(process: int) -> bool:
    """Whether a process of this machine is there, and nobody has stopped it; False if the system does not tell."""
    with suppress(OSError):
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "TtZX"
    return False


def core_seconds() -> tuple[float, float]:
    """Seconds that threads of this process have computed, and have waited for a core; zeros if the system is silent."""
    computed = waited = 0
    with suppress(OSError, ValueError):
        for thread in Path("/proc/self/task").iterdir():
            # One may have ended meanwhile.
            with suppress(OSError):
                on_core, for_core, _ = map(int, (thread / "schedstat").read_text().split())
                computed, waited = computed + on_core, waited + for_core
    return computed / 1e9, waited / 1e9


def forget_peak_memory() -> bool:
    """Reset `peak_memory_mb` to what is held now, where the system can: a sweep runs job after job in one process.

    Returns whether it could.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def give_memory_back() -> None:
    """Give memory that was freed back to the system, where the C library can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory_mb() -> float:
    """Most memory this process has held, in MB of 10^6 bytes."""
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


# From Linux's prctl.
PR_SET_PDEATHSIG = 1


def end_with_parent(number: int) -> None:
    """Have the system send this process a signal when its parent ends, however it ends; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def all_memory() -> int:
    """Bytes of memory that the machine has, whoever uses them."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory() -> int | None:
    """Bytes of memory that this process can still use; None if the system does not tell."""
    available = _of_machine("MemAvailable")
    return None if available is None else min([available, *_limits()])


def free_swap() -> int:
    """Bytes that the system can still move from this process's memory to a disk."""
    return min([_of_machine("SwapFree") or 0, *_swap_left()])


def _of_machine(name: str) -> int | None:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024
    return None


def _limits() -> list[int]:
    """Bytes left under the limits of this process and of its control groups."""
    room: list[int] = []
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room.append(int(limit - pages * resource.getpagesize()))
    left = _memory_left()
    return room if left is None else [*room, left]


# Linux's control groups, and where it says which ones this process is in. Containers, Slurm's jobs and systemd's units
# are such groups.
GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
# Files of version 2 and of version 1: the limit, what is used of it, and the parts of `memory.stat` that are given up
# when something else needs them.
MEMORY = (
    ("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


def _memory_left() -> int | None:
    """Bytes of memory that are left to this process; None if no group has a limit."""
    rooms = []
    for group in _groups("memory"):
        for limit, usage, kept in MEMORY:
            with suppress(OSError, ValueError):
                most, used = (int((group / name).read_text()) for name in (limit, usage))
                facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                rooms.append(most - used + sum(int(facts.get(name, 0)) for name in kept))
    return min(rooms, default=None)


def _swap_left() -> Iterator[int]:
    """Bytes of swap that each group leaves which has a limit of it."""
    for group in _groups("memory"):
        with suppress(OSError, ValueError):
            most, used = (int((group / f"memory.swap.{name}").read_text()) for name in ("max", "current"))
            yield max(0, most - used)
        with suppress(OSError, ValueError):
            # In version 1 it has one limit together with memory.
            most, used = (
                int((group / f"memory.memsw.{name}_in_bytes").read_text())
                - int((group / f"memory.{name}_in_bytes").read_text())
                for name in ("limit", "usage")
            )
            yield max(0, most - used)


def _share_of_processors() -> int | None:
    """How many processors' time this process may use, rounded up; None if no group has a limit."""
    shares = []
    for group in _groups("cpu"):
        with suppress(OSError, ValueError):
            quota, period = map(int, (group / "cpu.max").read_text().split())
            shares.append(quota / period)
        with suppress(OSError, ValueError):
            quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            # -1: no limit.
            shares += [quota / period] if quota > 0 else []
    return max(1, math.ceil(min(shares))) if shares else None


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the groups that limit this process, each one's parents among them."""
    # A container may see its own group as the uppermost, whatever it is called outside.
    inside = {GROUPS, GROUPS / "unified", GROUPS / controller}
    with suppress(OSError, ValueError):
        for line in OWN.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            # Those of version 2 have no controllers there.
            for top in (GROUPS / controller,) if controllers else (GROUPS, GROUPS / "unified"):
                if not controllers or controller in controllers.split(","):
                    group = top / path.strip("/")
                    inside |= {it for it in (group, *group.parents) if it.is_relative_to(top)}
    return (it for it in inside if it.is_dir())


# Limits of a process that its work may run into, and their names.
LIMITS = {
    getattr(resource, name): name
    for name in [f"RLIMIT_{it}" for it in ("AS", "DATA", "STACK", "CPU", "FSIZE", "NOFILE", "NPROC")]
    if hasattr(resource, name)
}
Limits = list[tuple[int, int]]
"""The soft and the hard limit of each of LIMITS."""


def limits() -> Limits:
    """The limits of this process; it costs a microsecond."""
    return list(map(resource.getrlimit, LIMITS))


def lift(before: Limits) -> list[str]:
    """Have no limit of this process lower than it was before, as far as the system allows; one that was raised stays.

    Does without what may be lacking, such as memory. Returns the names of those that were lower.
    """
    lifted = []
    for (number, name), (soft, hard) in zip(LIMITS.items(), before, strict=True):
        now, now_hard = resource.getrlimit(number)
        if not _is_lower(now, soft):
            continue
        lifted.append(name)
        highest = hard if _is_lower(now_hard, hard) else now_hard
        try:
            resource.setrlimit(number, (soft, highest))
        except (ValueError, OSError):
            # Only some may raise one that was lowered for good.
            with suppress(ValueError, OSError):
                resource.setrlimit(number, (now_hard if _is_lower(now_hard, soft) else soft, now_hard))
    return lifted


def _is_lower(limit: int, other: int) -> bool:
    return limit != other and limit != resource.RLIM_INFINITY and (other == resource.RLIM_INFINITY or limit < other)


class OwnHandler:
    """Handler of a signal for this process alone: in a forked child the signal does what it does by default."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.handler(number, frame)


def begin_quietly() -> None:
    """Have signals end a program of seqrl with a line, and no traceback, while it still imports what it needs.

    Both Ctrl-C and SIGTERM end it where it is: within an import, some libraries take an exception for one of theirs.
    Ctrl-C raises one again as soon as `all_is_imported`; SIGTERM ends it until a run begins, which saves itself first.
    Without a working folder it ends here: the libraries beneath torch would end the process in words of theirs.
    """
    module = next((word for option, word in pairwise(sys.orig_argv) if option == "-m"), "")
    if module.partition(".")[0] == "seqrl" or Path(*sys.argv[:1]).name.startswith("seqrl-"):
        sys.excepthook = _ended_by
        if "WORLD_SIZE" in os.environ:
            # Of torch's errors between processes each is said; it would add a page of its own to each.
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
        for number, usual in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            if signal.getsignal(number) is usual:
                hear(number, _end_at_once)
        try:
            os.getcwd()
        except OSError as error:
            print(f"seqrl: error: the working folder is not there ({error.strerror}). Go to another.", file=sys.stderr)
            sys.exit(2)


def all_is_imported() -> None:
    """Have Ctrl-C raise an exception, as usual."""
    before = signal.getsignal(signal.SIGINT)
    if isinstance(before, OwnHandler) and before.handler is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    with suppress(OSError):
        # Past the stream, which may be in the midst of a line.
        os.write(2, f"seqrl: {how}\n".encode())
    if number == signal.SIGINT:
        # As Python ends then: a shell sees by that what ended it, and does not go on with its script.
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    os._exit(128 + number)


def _ended_by(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("seqrl: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def hear(number: int, handler: Handler) -> Any:
    """Set the handler of a signal for this process alone; return the one before."""
    return signal.signal(number, OwnHandler(handler))


def is_from_signal(error: BaseException) -> bool:
    """Whether the handler of a signal raised it, and not the code that the signal interrupted.

    Timers do not count: environments set them for themselves.
    """
    of_timers = {signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF}
    handlers = (signal.getsignal(number) for number in signal.valid_signals() - of_timers)
    codes = {OwnHandler.__call__.__code__, *(getattr(handler, "__code__", None) for handler in handlers)}
    return any(frame.f_code in codes for frame, _ in walk_tb(error.__traceback__))


def forget_handlers() -> None:
    """Let every signal do what it does by default."""
    for number in signal.valid_signals():
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            # Some cannot be changed.
            with suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)


def keep(descriptor: int) -> int:
    """Close a descriptor in every child that is forked from now on: a lock lasts as long as any process has it open."""
    _descriptors.add(descriptor)
    return descriptor


def let_go(descriptor: int) -> None:
    """Close a descriptor that was given to `keep`."""
    _descriptors.discard(descriptor)
    os.close(descriptor)


_last_words: list[Callable[[BaseException], object]] = []


@contextmanager
def last_words(say: Callable[[BaseException], object]) -> Iterator[None]:
    """Meanwhile have `say` called with what ends this process at once; not in a forked child."""
    _last_words.append(say)
    try:
        yield
    finally:
        with suppress(ValueError):
            _last_words.remove(say)


def end_at_once(error: SeqrlError) -> NoReturn:
    """End this process with an error, from any thread, whatever the main thread is at."""
    try:
        for say in reversed(_last_words[:]):
            with suppress(Exception):
                say(error)
        with suppress(Exception):
            print(printable(f"seqrl: error: {error}"), file=sys.stderr, flush=True)
    finally:
        os._exit(error.exit_code)


def end_stray(error: BaseException | None, words: str) -> NoReturn:
    """End a forked process that goes on where its parent does, and touch nothing that both have.

    error   that it raised; one that ends a program is how it was meant to end, and needs no words
    """
    code = 1
    try:
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        else:
            with suppress(OSError):
                # Past the stream, which may hold what the parent prints, too.
                os.write(2, f"seqrl: warning: {printable(words)}\n".encode(errors="replace"))
    finally:
        os._exit(code)


_masks: list[Any] = []


def _before_a_fork() -> None:
    # Python drops what reaches a child before it runs: it must wait for the default that is set there.
    own = [number for number in signal.valid_signals() if isinstance(signal.getsignal(number), OwnHandler)]
    _masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, own))


def _in_the_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def _in_a_child() -> None:
    for number in signal.valid_signals():
        if isinstance(signal.getsignal(number), OwnHandler):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()
    _last_words.clear()


os.register_at_fork(before=_before_a_fork, after_in_parent=_in_the_parent, after_in_child=_in_a_child)
