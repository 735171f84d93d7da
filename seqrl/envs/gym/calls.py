"""What every call into an environment passes: a time limit, and torch, signals and working folder as before it."""

# As the module signal has them, without a search for names that takes several microseconds.
import ctypes
import logging
import signal
import sys
import threading
import time
from _signal import getitimer, getsignal, pthread_sigmask, setitimer  # type: ignore[import-not-found]
from _signal import signal as set_handler
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from os import chdir, getcwd, getpid
from sys import getrecursionlimit
from traceback import clear_frames
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.modules.module as torch_modules
import torch.utils._device as default_device

from seqrl.envs.gym.watchdog import WATCHDOG
from seqrl.errors import FaultyEnvError, links
from seqrl.files import LogFile
from seqrl.machine import Limits, OwnHandler, end_stray, is_from_signal, lift, limits

# A limit is counted in this many parts: while a process is suspended, as by Ctrl-Z, no more than one of them passes.
PARTS = 10
# Time that whatever follows gets once a limit has passed, such as the close of the next environment.
GRACE_SECONDS = 1.0
# The run's own signals. Its handlers are put back after an environment has set others.
KEPT = (signal.SIGINT, signal.SIGTERM)
# As Python does it, but what it raises can be told from an environment that raises KeyboardInterrupt.
CTRL_C = OwnHandler(signal.default_int_handler)
# Where Python looks for modules, and what it asks for them.
FINDERS = ("path", "meta_path")
# As setitimer has it.
NO_ALARM = (0.0, 0.0)
# Timers that count processor time; the run has none.
OF_PROCESSOR = (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
# Of float64.
TINIEST = 5e-324
# Adding the second to the first, or taking it away, changes nothing unless the processor rounds up, or down.
ONE, LITTLE = 1.0, 1e-30
# Kinds of devices that torch may be told to compute with less precision on.
AUTOCAST = ("cpu", "cuda")

log = logging.getLogger(__name__)


def _folder() -> str | None:
    """The working folder; None if it is gone."""
    try:
        return getcwd()
    except OSError:
        return None


def _enter(folder: str | None) -> None:
    if folder is not None:
        with suppress(OSError):
            chdir(folder)


# Without the search for an index in torch.get_default_device, which takes longer than the rest of a call.
def _default_device() -> Any:
    return default_device.CURRENT_DEVICE


# What a simulator replaces to run faster than real time, or to stop the clock.
CLOCKS = ("sleep", "time", "monotonic", "perf_counter", "process_time")
_clocks = attrgetter(*CLOCKS)


def _set_clocks(functions: tuple[Any, ...]) -> None:
    for name, function in zip(CLOCKS, functions, strict=True):
        setattr(time, name, function)


# Whose products torch computes with less precision if it is told to.
PRECISE: Any = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]


def _products() -> str | tuple[str, ...]:
    """The precision of products by its old name, or by the new ones: torch does not tell it while they disagree."""
    try:
        return str(torch.get_float32_matmul_precision())
    except RuntimeError:
        return tuple(it.fp32_precision for it in PRECISE)


def _set_products(those: str | tuple[str, ...]) -> None:
    if isinstance(those, str):
        torch.set_float32_matmul_precision(those)
        return
    for it, precision in zip(PRECISE, those, strict=True):
        it.fp32_precision = precision


def _detects_anomalies() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _flushes_denormal() -> bool:
    """Whether the processor takes the tiniest numbers for 0, which torch does not tell."""
    return TINIEST * 1.0 == 0


# Handlers of signals that Python or the run relies on: to meet a reader that has gone, and to wait for a process. Those
# of timers may be a profiler's.
RELIED_ON = (signal.SIGPIPE, signal.SIGHUP, signal.SIGCHLD, signal.SIGVTALRM, signal.SIGPROF)


def _handlers() -> list[Any]:
    return list(map(getsignal, RELIED_ON))


def _set_handlers(handlers: list[Any]) -> None:
    for number, handler in zip(RELIED_ON, handlers, strict=True):
        # Other threads cannot set handlers, and nobody those that are not Python's.
        if handler is not None:
            with suppress(ValueError):
                set_handler(number, handler)


def _of_the_processor(name: str) -> Any:
    """A function of the C library, None if there is none."""
    for library in (None, "libm.so.6"):
        with suppress(OSError, AttributeError):
            return getattr(ctypes.CDLL(library), name)
    return None


_get_rounding, _set_rounding = _of_the_processor("fegetround"), _of_the_processor("fesetround")


def _rounds() -> int:
    """How the processor rounds, as the C library numbers it; 0: to the nearest. Seen by computing, which is quicker."""
    if (ONE + LITTLE == ONE and ONE - LITTLE == ONE) or _get_rounding is None:
        return 0
    return int(_get_rounding())


def _round_so(way: int) -> None:
    if _set_rounding is not None:
        _set_rounding(way)


# What is called for every module of torch, of the run too.
HOOKS = [it for name, it in vars(torch_modules).items() if name.startswith("_global_") and isinstance(it, dict)]


def _hooks() -> list[dict[Any, Any]] | None:
    return [dict(hooks) for hooks in HOOKS] if any(HOOKS) else None


def _set_hooks(those: list[dict[Any, Any]] | None) -> None:
    for hooks, own in zip(HOOKS, those or [{} for _ in HOOKS], strict=True):
        hooks.clear()
        hooks.update(own)


def _autocasts() -> list[Any] | None:
    """Whether torch computes with less precision, and with which, on each kind of device; None: on none."""
    if not torch._C._is_any_autocast_enabled():
        return None
    return [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in AUTOCAST]


def _set_autocasts(those: list[Any] | None) -> None:
    for place, kind in enumerate(AUTOCAST):
        torch.set_autocast_enabled(kind, those is not None and those[place][0])
        if those is not None:
            torch.set_autocast_dtype(kind, those[place][1])


def _use_onednn(whether: bool) -> None:
    # A program may have frozen such settings.
    if bool(torch.backends.mkldnn.enabled) is not whether:
        torch.backends.mkldnn.enabled = whether  # type: ignore[assignment]  # a property of the module


# Whose level, handlers and way upwards decide what of the run is logged, and where.
LOGGERS = (logging.root, logging.getLogger("seqrl"))


def _logs() -> tuple[Any, ...]:
    """What a configuration of logging changes for loggers and handlers that are there already."""
    loggers = [(it.level, it.propagate, *[(handler, handler.level) for handler in it.handlers]) for it in LOGGERS]
    return log.disabled, log.manager.disable, loggers, list(LogFile.of_runs)


def _set_logs(those: tuple[Any, ...]) -> None:
    _, level, loggers, runs = those
    # Those of the run speak while an environment plays, too.
    for name, logger in list(log.manager.loggerDict.items()):
        if name.startswith("seqrl") and isinstance(logger, logging.Logger):
            logger.disabled = False
    logging.disable(level)
    for logger, (least, propagates, *handlers) in zip(LOGGERS, loggers, strict=True):
        if logger.level != least:
            logger.setLevel(least)
        # Other runs of this program may have begun or ended meanwhile, in threads of their own.
        kept = [handler for handler, _ in handlers if handler in LogFile.of_runs or handler not in runs]
        begun = [log_file for log_file in LogFile.of_runs if log_file not in kept]
        logger.propagate, logger.handlers[:] = propagates, [*kept, *begun]
        for handler, own in handlers:
            handler.setLevel(own)


HANDLERS = "handlers of signals"
# Settings that hold for the whole process: what each is, how to read it, and how to set it.
SETTINGS: tuple[tuple[str, Callable[[], Any], Callable[[Any], object]], ...] = (
    ("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    ("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    ("torch's determinism", torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    ("torch's precision of products", _products, _set_products),
    ("torch's default device", _default_device, torch.set_default_device),
    ("torch's search for anomalies", _detects_anomalies, lambda both: torch.set_anomaly_enabled(*both)),
    ("what becomes of denormal numbers", _flushes_denormal, torch.set_flush_denormal),
    ("NumPy's reactions to errors", np.geterr, lambda reactions: np.seterr(**reactions)),
    ("the working folder", _folder, _enter),
    ("functions of the module time", lambda: _clocks(time), _set_clocks),
    ("sys.stdout", lambda: sys.stdout, lambda stream: setattr(sys, "stdout", stream)),
    ("sys.stderr", lambda: sys.stderr, lambda stream: setattr(sys, "stderr", stream)),
    (HANDLERS, _handlers, _set_handlers),
    ("how the processor rounds", _rounds, _round_so),
    ("torch's hooks for all modules", _hooks, _set_hooks),
    ("torch's autocast", _autocasts, _set_autocasts),
    ("torch's use of oneDNN", lambda: torch.backends.mkldnn.enabled, _use_onednn),
    ("the loggers of the run", _logs, _set_logs),
)


# Those of torch, and as a new process has them where they change what is computed.
OF_TORCH = tuple(it for it in SETTINGS if it[0].startswith("torch's") or it[1] is _flushes_denormal)
NEW: tuple[tuple[Callable[[Any], object], Any], ...] = (
    (torch.set_default_dtype, torch.float32),
    (torch.set_default_device, None),
    (torch.set_flush_denormal, False),
    (_set_hooks, None),
    (_use_onednn, True),
)


class OverdueError(Exception):
    """Something exceeded its time limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it has not answered for {seconds:g} seconds, the limit set by env.timeout_seconds")


class CpuTimeError(Exception):
    """The process has had the processor time that its limit allows."""

    def __init__(self) -> None:
        super().__init__("the process has used the processor time that RLIMIT_CPU allows")


# Guards that are entered, outermost first.
_entered: list["Guard"] = []


def _cpu_time_is_over(number: int, frame: object) -> None:
    """Raise it in an environment that set the limit; otherwise let the system end the program, as usual."""
    if any(guard.has_lower_limits for guard in _entered):
        raise CpuTimeError
    set_handler(number, signal.SIG_DFL)
    signal.raise_signal(number)


# Processes that an environment forks end by the signal, as usual.
CPU_TIME = OwnHandler(_cpu_time_is_over)


class StrayError(Exception):
    """A process that an environment forked came back from the call, as if it were the run."""

    def __init__(self) -> None:
        super().__init__("a process that it forked went on as if it were the run, and was ended")


class LostError(Exception):
    """Environment `index` is lost; `why` gives the reason and the remedy."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


def is_own_fault(error: BaseException) -> bool:
    """Whether an environment raised it, or did not answer, and not a signal that the run heard meanwhile."""
    for guard in _entered:
        guard.deepen()
    if isinstance(error, KeyboardInterrupt) and getsignal(signal.SIGINT) is signal.default_int_handler:
        return False
    return isinstance(error, OverdueError | CpuTimeError) or not is_from_signal(error)


def let_go(error: BaseException | None) -> None:
    """Keep no environment by the frames of what was raised: one may do much when it is collected, or wait."""
    for link in links(error):
        clear_frames(link.__traceback__)
        if link.__suppress_context__:
            # What was put into plain words is not asked again.
            link.__context__ = None


# Settings that modules of environments changed when they were imported, by place in SETTINGS: no other guard sees that.
_of_modules: dict[int, Any] = {}


class Player(Protocol):
    """An environment that can say what is wrong with it.

    asked   changes with each reset and step that it is asked for
    """

    @property
    def asked(self) -> tuple[int, int]: ...

    def fault_of(self, error: BaseException) -> FaultyEnvError: ...


class Guard:
    """A context for calls into environments. Within another use of the same guard it does nothing.

    seconds   limit, after which OverdueError is raised; None: no limit. It uses SIGALRM, so it works only in the main
              thread, and only once code outside Python returns. Who defeats it, and plays on, ends the program
    playing   the environment that is played, if it is known; it can say what is at fault. The limit counts anew for
              another one, and for what this one is asked next
    turns     the same for environments that are not played, but closed: raised for each

    overdue   whether the limit has passed within this use; whoever swallows what is raised is named all the same, by
              FaultyEnvError at the end, unless something was being closed

    Limits of the process that they lower, by resource.setrlimit or sys.setrecursionlimit, are lifted again, and stay
    so. What they take out of sys.path or sys.meta_path is appended again: the run has modules still to import.
    put_back   names of what environments changed for the whole process, and was put back

    A process that an environment forks, and that comes back from the call, ends there: it would train beside the run.

    Within it, torch computes gradients, torch and NumPy have the settings that the environments left behind, and the
    working folder and what sys.stdout names are theirs; afterwards all are the run's again, and it hears its signals.
    Without a limit an alarm that they set goes on within it alone; with one there is none but that of the limit. Timers
    of processor time that they leave end with it.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self.playing: Player | None = None
        self.entered = 0
        self._depth = 0
        self.turns = 0
        self.overdue = False
        self._process = 0
        self._asked: tuple[Any, ...] = ()
        self._learning = torch.inference_mode(False)
        self._limits: Limits = []
        self._depth_of_calls = 0
        self._finders: list[tuple[str, list[Any]]] = []
        self.put_back: set[str] = set()
        # Settings that environments changed, by place in SETTINGS.
        self._changed: dict[int, Any] = dict(_of_modules)
        # The alarm that environments set, and its handler, if they set one.
        self._alarm = NO_ALARM
        self._rings: Any = None

    def __enter__(self) -> None:
        self._depth += 1
        self.entered += 1
        if self._depth > 1:
            return
        self.playing, self.overdue, self._turns_before = None, False, self.turns
        self._process = getpid()
        self._mask = pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = [getsignal(number) for number in KEPT]
        self._in_main_thread = threading.get_ident() == threading.main_thread().ident
        if self._handlers[0] is signal.default_int_handler and self._in_main_thread:
            set_handler(signal.SIGINT, CTRL_C)
        if self._in_main_thread and getsignal(signal.SIGXCPU) == signal.SIG_DFL:
            set_handler(signal.SIGXCPU, CPU_TIME)
        _entered.append(self)
        self._learning.__enter__()
        self._limits, self._depth_of_calls = limits(), getrecursionlimit()
        self._finders = [(name, list(getattr(sys, name))) for name in FINDERS]
        self._settings = [get() for _, get, _ in SETTINGS]
        for place, setting in self._changed.items():
            SETTINGS[place][2](setting)
        self._start_the_clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:
            self.deepen()
            return
        late = self._stop_timers()
        self._take_over()
        _entered.remove(self)
        self._process = 0
        # First: for the rest, memory may be needed.
        self._lift()
        self._find_again()
        with suppress(OverdueError):
            let_go(error)
        self._stop_the_clock()
        swallowed = self.overdue and error is None and self.turns == self._turns_before
        fault = self.fault() if swallowed else None
        self.playing, self._asked = None, ()
        if self._changed or [get() for _, get, _ in SETTINGS] != self._settings:
            self._put_settings_back()
        self._learning.__exit__(kind, error, traceback)
        for number, handler in zip(KEPT, self._handlers, strict=True):
            # Other threads cannot set handlers, and nobody those that are not Python's.
            left = getsignal(number)
            if self._in_main_thread and handler is not None and left is not handler:
                set_handler(number, handler)
                if left is not CTRL_C:
                    self.put_back.add(HANDLERS)
        # Last: a signal that waited is now heard by the run.
        if pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask:
            pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self.put_back.add("which signals are blocked")
        if (last := fault or late) is not None:
            raise last

    def begin_anew(self) -> None:
        """Count the limit anew for what is asked next."""
        self.turns += 1

    @contextmanager
    def importing(self) -> Iterator[None]:
        """This guard, where a module of environments may be imported: what it sets, those of all guards find."""
        with self:
            before = [get() for _, get, _ in SETTINGS]
            try:
                yield
            finally:
                self.deepen()
                left = [get() for _, get, _ in SETTINGS]
                _of_modules.update({place: it for place, it in enumerate(left) if it != before[place]})

    def lift(self) -> None:
        """Lift limits of the process that were lowered since this guard was entered, before it is left."""
        if self._depth:
            self._take_over()
            self._lift()

    @property
    def has_lower_limits(self) -> bool:
        """Whether limits of the process are others than when this guard was entered."""
        return limits() != self._limits

    def _lift(self) -> None:
        if self.has_lower_limits:
            self.put_back |= {f"{name} (resource.setrlimit)" for name in lift(self._limits)}

    def _find_again(self) -> None:
        for name, before in self._finders:
            now = getattr(sys, name)
            if now != before and (missing := [it for it in before if it not in now]):
                setattr(sys, name, [*now, *missing])
                self.put_back.add(f"where modules are found (sys.{name})")

    def check(self) -> None:
        """Raise OverdueError again if who was asked has swallowed it, and answers all the same."""
        self._take_over()
        if self.overdue:
            assert self.seconds is not None
            raise OverdueError(self.seconds)

    def deepen(self) -> None:
        """Let calls go as deep as when this guard was entered, before anything calls deeper than the environment."""
        if getrecursionlimit() < self._depth_of_calls:
            sys.setrecursionlimit(self._depth_of_calls)
            self.put_back.add("how deep calls go (sys.setrecursionlimit)")

    def _take_over(self) -> None:
        """What comes before all else once an environment has answered: calls may go deep, and a fork of it ends."""
        self.deepen()
        # 0: nobody has entered it.
        if self._process in (0, getpid()):
            return
        # What is at fault is said through this guard, too.
        self._process, stray = 0, StrayError()
        if self.playing is None:
            end_stray(sys.exception(), f"environments: {stray}. End it with os._exit.")
        end_stray(sys.exception(), str(self.playing.fault_of(stray)))

    def fault(self) -> FaultyEnvError:
        """What an environment does wrong that exceeds the limit."""
        assert self.seconds is not None
        overdue = OverdueError(self.seconds)
        if self.playing is not None:
            return self.playing.fault_of(overdue)
        return FaultyEnvError(f"environments: {overdue}. Fix the environment, or raise the limit.")

    def _put_settings_back(self) -> None:
        for place, (name, get, put) in enumerate(SETTINGS):
            left, before = get(), self._settings[place]
            if left != before:
                self.put_back.add(name)
                self._changed[place] = left
                put(before)
            else:
                self._changed.pop(place, None)

    def _start_the_clock(self) -> None:
        if not self._in_main_thread:
            return
        self._parts_left, self._asked = PARTS, (self.turns, None, None)
        self._rang_before = getsignal(signal.SIGALRM)
        handler, alarm = self._rings, self._alarm
        if self.seconds is not None:
            handler, alarm = self._ring, (self.seconds / PARTS, self.seconds / PARTS)
            WATCHDOG.watch(self)
        if handler is not None:
            set_handler(signal.SIGALRM, handler)
        self._alarm_before = setitimer(signal.ITIMER_REAL, *alarm)
        self._timers_before = list(map(getitimer, OF_PROCESSOR))

    def _stop_timers(self) -> BaseException | None:
        """Stop timers that environments left; return what a handler of theirs raises that is due right now."""
        if not self._in_main_thread:
            return None
        left = [it for it, before in zip(OF_PROCESSOR, self._timers_before, strict=True) if before == NO_ALARM]
        try:
            for timer in left:
                setitimer(timer, 0)
        except BaseException as raised:
            for timer in left:
                setitimer(timer, 0)
            return raised
        return None

    def _stop_the_clock(self) -> None:
        if not self._in_main_thread:
            return
        alarm = setitimer(signal.ITIMER_REAL, 0)
        handler = getsignal(signal.SIGALRM)
        if self.seconds is not None:
            WATCHDOG.rest()
        else:
            self._alarm = alarm
            if handler is not self._rang_before:
                self._rings = handler
        if handler is not self._rang_before and self._rang_before is not None:
            set_handler(signal.SIGALRM, self._rang_before)
        if self._alarm_before != NO_ALARM:
            setitimer(signal.ITIMER_REAL, *self._alarm_before)

    def _ring(self, *_: Any) -> None:
        # Seen here, it costs nothing at each step. Once the limit has passed, it holds for all that follows.
        asked = (self.turns, self.playing, None if self.playing is None else self.playing.asked)
        if self._parts_left > 0 and asked != self._asked:
            # Of the part that is over, something else may have had some. The watchdog counts anew, too.
            self._asked, self._parts_left = asked, PARTS + 1
            self.entered += 1
        self._parts_left -= 1
        if self._parts_left <= 0:
            assert self.seconds is not None
            self.overdue = True
            # Repeat, in case the environment swallows the first one.
            signal.setitimer(signal.ITIMER_REAL, min(GRACE_SECONDS, self.seconds), GRACE_SECONDS)
            raise OverdueError(self.seconds)
