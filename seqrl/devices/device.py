"""The device of a run: cpu, cuda or mps, its threads and its precision."""

import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from seqrl.errors import ConfigError
from seqrl.machine import processor

# The process in which a run had several threads for the first time. A fork knows it too, and has none of them.
_had_threads: dict[str, int] = {}


@dataclass(frozen=True)
class Device:
    """Device of a run.

    name        cpu, cuda, cuda:1, mps, or auto: the first of cuda, mps and cpu that passes `choose`
    threads     CPU threads of torch
    precision   of parameters and memory: float32 or float64. bf16 and tf32 keep float32 except in matrix products:
                bf16 computes them in bfloat16, tf32 rounds their factors to 10 bits (NVIDIA GPUs only)

    Raises ConfigError if the device is not available.
    """

    name: str
    threads: int
    precision: str

    def __post_init__(self) -> None:
        self._check()

    @property
    def candidates(self) -> list[torch.device]:
        """Available devices that `name` allows, the preferred one first."""
        if self.name != "auto":
            return [torch.device(self.name)]
        available = {"cuda": torch.cuda.is_available(), "mps": torch.mps.is_available(), "cpu": True}
        return [torch.device(name) for name in available if available[name]]

    @property
    def processor(self) -> str:
        """The processor, and which of its instructions torch uses: both decide how sums are rounded."""
        said = processor()
        kind = [said[name] for name in ("vendor_id", "cpu family", "model") if name in said] or [platform.machine()]
        return f"{' '.join(kind)}, {torch.backends.cpu.get_cpu_capability()}"

    @property
    def torch_device(self) -> torch.device:
        return self.candidates[0]

    @property
    def dtype(self) -> torch.dtype:
        """Type of parameters and memory."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Type of matrix products, where it differs from that of their factors."""
        return torch.bfloat16 if self.precision == "bf16" else None

    @property
    def is_cuda(self) -> bool:
        """Whether it is an NVIDIA GPU."""
        return self.torch_device.type == "cuda"

    @property
    def graphs(self) -> bool:
        """Whether the network acts in a CUDA graph."""
        return self.is_cuda

    def prepare(self) -> None:
        """Apply the settings that hold for the whole process."""
        self._insist_on_threads()
        torch.set_num_threads(self.threads)
        # By default, cuDNN's LSTM multiplies in TF32.
        precision = "tf32" if self.precision == "tf32" else "ieee"
        torch.backends.cudnn.rnn.fp32_precision = torch.backends.cuda.matmul.fp32_precision = precision  # type: ignore[attr-defined]

    def _insist_on_threads(self) -> None:
        """Raise ConfigError in a fork of a process that has had several threads: torch would wait for them for ever."""
        if self.threads == 1:
            return
        if _had_threads.setdefault("in", os.getpid()) != os.getpid():
            raise ConfigError(
                [
                    "device.threads: a run before this one had several threads, and a forked process has none of them "
                    f"(got {self.threads}). Start processes with multiprocessing.get_context('spawn'), or use "
                    "device.threads=1."
                ]
            )

    def _check(self) -> None:
        kind, _, index = self.name.partition(":")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        remedy = "Use device=cpu."
        if not re.fullmatch("cpu|cuda(:[0-9]{1,4})?|mps|auto", self.name):
            fault = f"there is no such device (got {self.name!r}). Use device=cpu, cuda, mps or auto."
        elif kind == "cuda" and not gpus:
            reason = (
                "this build of torch has no CUDA" if not torch.backends.cuda.is_built() else "no NVIDIA GPU is visible"
            )
            fault = f"{reason} (got {self.name!r}). {remedy}"
        elif kind == "cuda" and int(index or 0) >= gpus:
            fault = f"there are {gpus} GPUs, numbered from cuda:0 (got {self.name!r}). Use one of them or device=cpu."
        elif kind == "mps" and not torch.mps.is_available():
            fault = f"this machine has no Apple GPU that torch can use (got 'mps'). {remedy}"
        else:
            return
        raise ConfigError([f"device.name: {fault}"])


def choose(device: Device, probe: Callable[[torch.device], str | None], say: Callable[[str], None]) -> Device:
    """The same settings on the first candidate that passes the probe; the CPU always does, and is not probed.

    probe   returns what is wrong with a device, without a full stop, or None
    say     prints why a device was skipped, and a hint about the chosen one

    Raises ConfigError if the only device allowed fails the probe.
    """
    for candidate in device.candidates:
        if candidate.type == "cpu":
            return replace(device, name="cpu")
        fault = probe(candidate)
        if fault is None:
            say(HINTS[candidate.type])
            return replace(device, name=str(candidate))
        if device.name == "auto":
            say(f"device=auto skips {candidate}: {fault}.")
    raise ConfigError([f"device.name: {fault} (got {device.name!r}). Use device=cpu."])


HINTS = {
    "cuda": "cuda computes this network as the CPU does; a small recurrent network is often faster with device=cpu.",
    "mps": "mps computes this network as the CPU does, but torch's LSTM has been wrong there: device=cpu is safer.",
}
