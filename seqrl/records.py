"""What a run leaves behind beside its curves: its configuration, where it came from, and how it ended."""

import json
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import seqrl
from seqrl.configuration import PACKAGE
from seqrl.errors import ConfigError

PACKAGES = ["torch", "numpy", "gymnasium", "hydra-core", "omegaconf", "tensorboard"]


class Manifest:
    """manifest.json of a run folder: always whole, replaced at each change.

    Raises ConfigError if the folder holds a run already.
    """

    def __init__(self, folder: Path, **facts: Any) -> None:
        self.path = folder / "manifest.json"
        if self.path.exists():
            raise ConfigError([f"run folder: {folder} holds a run already. Choose another with hydra.run.dir=…"])
        self._facts = {"status": "running", **facts, **provenance()}
        self.update()

    def update(self, **facts: Any) -> None:
        """Add or replace facts."""
        self._facts |= facts
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._facts, indent=2) + "\n")
        os.replace(temporary, self.path)


def provenance() -> dict[str, Any]:
    """What is needed to do it again: command, git revision of the source, versions, machine."""
    return {
        "command": sys.orig_argv,
        "git": git_revision(),
        "versions": {"seqrl": seqrl.__version__, "python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
    }


def git_revision() -> dict[str, Any] | None:
    """Commit of the checkout that the package runs from, and whether it had uncommitted changes; None outside one."""
    if not (PACKAGE.parent / ".git").exists():
        return None
    try:
        return {
            "commit": _git("rev-parse", "HEAD"),
            "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def forget_peak_memory() -> None:
    """Begin `peak_memory_mb` anew, where the system can: a sweep runs job after job in one process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """Most memory this process has held, in MB of 10^6 bytes."""
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
