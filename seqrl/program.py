"""How a program of seqrl starts and ends: its arguments, and one line for each fault."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NoReturn

from seqrl.complaints import complaint
from seqrl.errors import SeqrlError
from seqrl.resume import arguments

log = logging.getLogger(__name__)

# What keeps Hydra from making a run folder.
LEAVE_NOTHING = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra.job_logging.root.handlers=[]"]


def started(job: Callable[[], Any], leave_nothing: bool = False) -> None:
    """Run a Hydra application on the command line.

    leave_nothing   make no run folder
    """
    # Modules beside the user's work can be named, however the program was started.
    sys.path.insert(0, str(Path.cwd()))
    # A reader that has gone, as in `--info defaults-tree | head`, is no reason for tracebacks.
    logging.raiseExceptions = False
    # Hydra then hands its errors over as they are.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # `env.id=…` alone can only mean a Gymnasium environment.
    if any(a.startswith("env.id=") for a in sys.argv) and not any(a.startswith("env=") for a in sys.argv):
        sys.argv.append("env=gymnasium")
    if leave_nothing:
        sys.argv += LEAVE_NOTHING
    try:
        sys.argv[1:] = arguments(sys.argv[1:])
        job()
    except KeyboardInterrupt:
        print("seqrl: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        fail(error, sys.argv[1:])


def fail(error: Exception, arguments: Sequence[str] = ()) -> NoReturn:
    """End with a line for each fault."""
    sys.exit(report(error, arguments))


def report(error: Exception, arguments: Sequence[str] = ()) -> int:
    """Print a line for each fault, and return the exit code; a traceback goes to a file alone."""
    lines, exit_code = complaint(error, arguments) or ([unexpected(error)], 1)
    if isinstance(error, SeqrlError) and error.__cause__ and log.hasHandlers():
        log.error("%s", lines[0], exc_info=error)
    for line in lines:
        print(f"seqrl: error: {line}", file=sys.stderr)
    return exit_code


def unexpected(error: Exception) -> str:
    """Line about an error that nobody foresaw; its traceback goes to the run's log, or else to a file of its own."""
    logs = [h.baseFilename for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    if logs:
        log.error("unexpected", exc_info=error)
    else:
        with NamedTemporaryFile("w", prefix="seqrl-", suffix=".log", delete=False) as file:
            file.writelines(traceback.format_exception(error))
        logs = [file.name]
    first = (str(error).splitlines() or [""])[0].rstrip(".:")
    return f"unexpected {type(error).__name__}: {first}. The traceback is in {logs[0]}."
