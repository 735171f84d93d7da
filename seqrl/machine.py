"""Cores and RAM: what this process may use, and what it has used. Does not import torch."""

import ctypes
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def forget_peak_memory() -> None:
    """Reset `peak_memory_mb`, where the system can: a sweep runs job after job in one process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


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


def free_memory() -> int | None:
    """Bytes of memory that this process can still use; None if the system does not tell."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable"))
        return min([int(available.split()[1]) * 1024, *_limits()])
    return None


def _limits() -> list[int]:
    """Bytes left under the limits of this process and of its control group."""
    room: list[int] = []
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room.append(int(limit - pages * resource.getpagesize()))
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        room.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return room
