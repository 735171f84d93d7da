"""How a program of seqrl starts and ends: one line for each fault, and the exit code."""

import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import NamedTemporaryFile
from types import FrameType
from typing import Any, NoReturn

import seqrl
from seqrl.config.command_line import TRUST, completed, names_modules, trusted_by_shell, with_trust_of_shell
from seqrl.config.hydra_errors import FULL, message_for
from seqrl.config.trust import restrict_imports
from seqrl.errors import RaisedError, SeqrlError, described
from seqrl.machine import all_is_imported, sleep
from seqrl.text import UNSAID, masked, printable, say

log = logging.getLogger(__name__)


class Failures:
    """How the runs of a program ended.

    worst   exit code of the whole: the largest of any
    """

    def __init__(self) -> None:
        self.worst = 0

    def add(self, exit_code: int) -> None:
        self.worst = max(self.worst, exit_code)


# Hydra hands back neither what a job returns nor what its callbacks know.
FAILURES = Failures()


class OneLine(logging.Formatter):
    """A line without a traceback, for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(f"seqrl: {record.levelname.lower()}: {record.getMessage()}").replace("\n", " ")


def thread_failed(it: threading.ExceptHookArgs) -> None:
    """Log what goes wrong in a thread; whoever waits for the thread says it."""
    error = it.exc_value or it.exc_type()
    log.warning("a thread ended: %s", described(error), exc_info=(it.exc_type, error, it.exc_traceback))


def collection_failed(it: Any) -> None:
    """Log what goes wrong where nobody can catch it, such as in an environment's `__del__`."""
    error = it.exc_value or it.exc_type()
    log.warning("ignored: %s", described(error), exc_info=(it.exc_type, error, it.exc_traceback))


def masked_warning(*told: Any, **also: Any) -> str:
    """A warning as Python shows it: an environment may warn of what it was given."""
    return masked(_format_warning(*told, **also))


_format_warning = warnings.formatwarning


@contextmanager
def masked_warnings() -> Iterator[None]:
    """Have warnings masked in a program of one's own, which may show them in its own way, and in several threads."""
    with _LOCK:
        if not _OWN:
            own = warnings.formatwarning
            warnings.formatwarning = lambda *told, **also: masked(own(*told, **also))
        _OWN.append(own if not _OWN else _OWN[0])
    try:
        yield
    finally:
        with _LOCK:
            own = _OWN.pop()
            if not _OWN:
                warnings.formatwarning = own


# The program's own way, once for each that wants them masked.
_OWN: list[Callable[..., str]] = []
_LOCK = threading.Lock()


def hold_standard_descriptors() -> None:
    """Open nothing where the program was started without input or output: a file of the run would take the place."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            # Programs that are started here need it, too.
            os.set_inheritable(descriptor, True)
    for descriptor, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        # Python has none then, and who starts processes may flush it.
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def forgiving_output() -> None:
    """Print `?` for a character that the terminal's encoding has not, no traceback, whoever logs one, and no secret."""
    hold_standard_descriptors()
    warnings.formatwarning = masked_warning
    threading.excepthook = thread_failed
    sys.unraisablehook = collection_failed
    # A reader that has gone, as in `--info defaults-tree | head`, is no reason for tracebacks.
    logging.raiseExceptions = False
    if logging.lastResort:
        logging.lastResort.setFormatter(OneLine())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An environment may have closed it.
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="replace")


def trust_what_the_shell_does() -> None:
    """Add to the command line the modules that the shell's variable SEQRL_TRUST names, unless it names some itself."""
    words = with_trust_of_shell(sys.argv[1:])
    if len(words) > len(sys.argv[1:]):
        sys.argv[1:] = words
        say(f"trusting {', '.join(trusted_by_shell())}, as {TRUST} says")


def started(job: Callable[[], Any], leave_nothing: bool = False) -> None:
    """Run a Hydra application on the command line.

    leave_nothing   make no run folder
    """
    forgiving_output()
    trust_what_the_shell_does()
    restrict_imports(trusted=names_modules(sys.argv[1:]))
    # Hydra then hands its errors over as they are.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.argv[1:] = completed(sys.argv[1:], leave_nothing)
        job()
    except BrokenPipeError:
        # The reader has gone, as in `--help | head`; Python's final flush must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("seqrl: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        fail(error, sys.argv[1:])


def run_on_words(usage: Callable[[], str], run: Callable[[Sequence[str]], None]) -> None:
    """A program that plays the policies of runs: what it may import is settled before it reads its words.

    usage   its help
    """
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(usage())
        return
    on_words(run)


def on_words(run: Callable[[Sequence[str]], None]) -> None:
    """Run a program, once it is settled what it may import."""
    trust_what_the_shell_does()
    restrict_imports(trusted=names_modules(sys.argv[1:]))
    with errors_in_one_line():
        run(sys.argv[1:])


@contextmanager
def errors_in_one_line(arguments: Sequence[str] = ()) -> Iterator[None]:
    """End the program with one line for each fault; exit code 130 after Ctrl-C, with a line that says so.

    arguments   the program's own, where Hydra reads them
    """
    forgiving_output()
    try:
        yield
    except KeyboardInterrupt:
        print("seqrl: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        fail(error, arguments)


# What is left behind gets this long to end by itself, once the program is done.
LAST_SECONDS = 10.0
# As Python has it; an exit handler of others may be what stands in its place.
_exit = os._exit
# Of a program that is done: its process, its exit code, and the frame that lasts until Python ends.
_done: tuple[int, int, FrameType | None] | None = None


def _exit_as_done(code: int) -> NoReturn:
    """`os._exit`, but with the program's own exit code once it is done and Python ends, whoever has the last word."""
    if _done is not None and _done[0] == os.getpid() and _outermost_frame() is not _done[2]:
        code = _done[1]
    _exit(code)


def to_the_end(main: Callable[[], None]) -> None:
    """Run a program, and have Python end soon after it, whatever is left behind.

    An environment may leave threads, processes and exit handlers, for which Python would wait for ever. Processes of
    multiprocessing are killed at once; for the rest there is a limit. While Python runs on, nothing is done to them.
    """
    global _done
    exit_code = 1
    vars(os)["_exit"] = _exit_as_done
    if sys.flags.safe_path:
        # joblib and submitit start Python without this one's options, and so do programs of an environment.
        os.environ["PYTHONSAFEPATH"] = "1"
    try:
        all_is_imported()
        if sys.argv[1:2] == ["--version"]:
            print(f"seqrl {seqrl.__version__}")
        else:
            main()
        insist_on_output()
        exit_code = 0
    except BrokenPipeError:
        # The reader has gone, as in `--help | head`.
        exit_code = 0
    except OSError as error:
        if error.errno not in FULL:
            raise
        exit_code = report(error)
        raise SystemExit(exit_code) from None
    except SystemExit as end:
        exit_code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            # A slow reader may take its time.
            try:
                stream.flush()
            except OSError:
                # Python would try once more, and end with an exit code of its own.
                with suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            except (ValueError, AttributeError):
                pass
        # Python puts handlers of signals back before it ends: an environment's timer would then kill it.
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        _done = os.getpid(), exit_code, _outermost_frame()
        # Without memory for a thread there is no limit of time.
        with suppress(RuntimeError):
            threading.Thread(target=_end, args=_done[1:], daemon=True).start()


def insist_on_output() -> None:
    """Raise OSError if what a program was asked to print could not be written, as on a full disk."""
    with suppress(ValueError, AttributeError):
        sys.stdout.flush()
    if full := [error for error in UNSAID if error.errno in FULL]:
        raise full[0]


def _outermost_frame() -> FrameType | None:
    """The frame of the main thread that lasts until Python ends."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _end(exit_code: int, outermost: FrameType | None) -> None:
    while _outermost_frame() is outermost:
        sleep(0.1)
    for child in multiprocessing.active_children():
        # Python ends the others itself.
        if not child.daemon:
            child.kill()
    sleep(LAST_SECONDS)
    threads = [it.name for it in threading.enumerate() if not it.daemon and it is not threading.main_thread()]
    what = f"thread {', '.join(threads[:3])}{' and more' * (len(threads) > 3)}" if threads else "an exit handler"
    line = f"seqrl: {printable(what)} goes on after {LAST_SECONDS:g} s; the program ends without it\n"
    with suppress(OSError):
        # Past the stream, which the main thread may hold.
        os.write(2, line.encode())
    _exit(exit_code)


def fail(error: Exception, arguments: Sequence[str] = ()) -> NoReturn:
    """End with a line for each fault."""
    sys.exit(report(error, arguments))


def report(error: Exception, arguments: Sequence[str] = (), where: str = "") -> int:
    """Print a line for each fault, and return the exit code; a traceback goes to a file alone.

    where   what failed, if there is more than one run
    """
    lines, exit_code = message_for(error, arguments) or ([unexpected(error)], 1)
    if isinstance(error, SeqrlError) and (error.__cause__ or where) and _log_files():
        # The folder of a refused run is gone, and its log with it.
        with suppress(OSError):
            log.error("%s", lines[0], exc_info=error)
        if isinstance(error.__cause__, RaisedError) and (logs := _written(_log_files())):
            # What a class of the user's own raised.
            lines[-1] += f" The traceback is in {logs[0]}."
    for line in lines:
        say(f"seqrl: error: {where}{line}", sys.stderr)
    return exit_code


def _log_files() -> list[logging.FileHandler]:
    """Logs that are open; what Hydra says of a sweep goes to the terminal."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]


def _written(handlers: Iterable[logging.FileHandler]) -> list[str]:
    """The files of logs; one that cannot be written, as the folder of a refused run is gone, has no stream."""
    return [handler.baseFilename for handler in handlers if handler.stream]


def unexpected(error: Exception) -> str:
    """Line about an error that nobody foresaw; its traceback goes to the run's log, or else to a file of its own."""
    handlers = _log_files()
    if handlers:
        log.error("unexpected", exc_info=error)
    logs = _written(handlers)
    if not logs:
        # The disk may be full.
        with suppress(OSError), NamedTemporaryFile("w", prefix="seqrl-", suffix=".log", delete=False) as file:
            file.write(masked("".join(traceback.format_exception(error))))
            file.flush()
            logs = [file.name]
    return f"unexpected {described(error)}.{f' The traceback is in {logs[0]}.' if logs else ''}"
