"""How a program of seqrl starts and ends: its arguments, and one line for each fault."""

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from seqrl.complaints import complaint, faults_of_files, faults_of_sweep
from seqrl.configuration import faults
from seqrl.errors import ConfigError, SeqrlError, described
from seqrl.resume import arguments
from seqrl.sweeps import FOLDER, faults_of_launcher, for_hydra, only_what_is_swept

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
    # What goes wrong in a thread is for the log; whoever waits for the thread says it.
    threading.excepthook = lambda it: log.error("in a thread", exc_info=(it.exc_type, it.exc_value, it.exc_traceback))  # type: ignore[arg-type]
    # Hydra then hands its errors over as they are.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.argv[1:] = completed(sys.argv[1:], leave_nothing)
        job()
    except KeyboardInterrupt:
        print("seqrl: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        fail(error, sys.argv[1:])


def completed(given: list[str], leave_nothing: bool) -> list[str]:
    """The command line with what it implies, options first: argparse takes overrides only in one piece.

    Raises ConfigError or CheckpointError if it cannot be meant.
    """
    words = arguments(given)
    # `env.id=…` alone can only mean a Gymnasium environment.
    if any(w.startswith("env.id=") for w in words) and not any(w.startswith("env=") for w in words):
        words.append("env=gymnasium")
    if leave_nothing:
        words += LEAVE_NOTHING
    many = {"-m", "--multirun"} & set(given)
    for key in ("resume", "validate"):
        if many and any(w.startswith(f"{key}=") for w in given):
            raise ConfigError([f"{key}: is for one run. Leave out {key}=… or -m."])
    if not many and any(w.startswith(FOLDER) for w in given):
        raise ConfigError(["sweep: names the folder of many runs. Add -m, or use hydra.run.dir=… for one."])
    words = for_hydra(words)
    if found := faults_of_launcher(words) or (faults_of_sweep(words) if many else faults_of_files(words)):
        raise ConfigError(found)
    if many:
        words.append(only_what_is_swept(words))
    return [w for w in words if not is_override(w)] + [w for w in words if is_override(w)]


def check(cfg: DictConfig) -> None:
    """Raise ConfigError with all that is wrong with the configuration of a job."""
    if cfg.trust and not any(override.lstrip("+").startswith("trust=") for override in overrides()):
        modules = ",".join(map(str, cfg.trust))
        raise ConfigError(
            [f"trust: is heard on the command line alone, not from a file. Write trust=[{modules}] there."]
        )
    if found := faults(cfg):
        raise ConfigError(found)


def overrides() -> list[str]:
    """Those of a job, as they were written: a variable of the system's environment keeps its name."""
    task = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(task, list)
    return [str(override) for override in task]


def is_override(word: str) -> bool:
    return not word.startswith("-") and ("=" in word or word.startswith("~"))


def is_true(key: str, words: Sequence[str]) -> bool:
    """Whether a switch is set on the command line, however it is spelt."""
    return any(w.lower() in (f"{key}=true", f"{key}=yes", f"{key}=on", f"{key}=1") for w in words)


def fail(error: Exception, arguments: Sequence[str] = ()) -> NoReturn:
    """End with a line for each fault."""
    sys.exit(report(error, arguments))


def report(error: Exception, arguments: Sequence[str] = (), where: str = "") -> int:
    """Print a line for each fault, and return the exit code; a traceback goes to a file alone.

    where   what failed, if there is more than one run
    """
    lines, exit_code = complaint(error, arguments) or ([unexpected(error)], 1)
    if isinstance(error, SeqrlError) and (error.__cause__ or where) and log.hasHandlers():
        log.error("%s", lines[0], exc_info=error)
    for line in lines:
        print(f"seqrl: error: {where}{line}", file=sys.stderr)
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
    return f"unexpected {described(error)}. The traceback is in {logs[0]}."
