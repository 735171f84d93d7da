"""Where tensors live: cpu, cuda or mps; threads and precision."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from seqrl.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """Device of a run.

    name        cpu, cuda, cuda:1, mps, or auto for the first of cuda, mps and cpu that `choose` finds fit
    threads     of torch on the processor
    precision   float32 or float64, of parameters and memory; float32 but for matrix products: bf16, in bfloat16; tf32,
                of factors rounded to 10 bits, on an NVIDIA GPU

    Raises ConfigError if the device is not there.
    """

    name: str
    threads: int
    precision: str

    def __post_init__(self) -> None:
        self._check()

    @property
    def candidates(self) -> list[torch.device]:
        """Devices that are there and meant, the preferred one first."""
        if self.name != "auto":
            return [torch.device(self.name)]
        there = {"cuda": torch.cuda.is_available(), "mps": torch.mps.is_available(), "cpu": True}
        return [torch.device(name) for name in there if there[name]]

    @property
    def torch_device(self) -> torch.device:
        return self.candidates[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and memory."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Of matrix products, where it is another than that of what they multiply."""
        return torch.bfloat16 if self.precision == "bf16" else None

    @property
    def graphs(self) -> bool:
        """Whether the network acts in a CUDA graph."""
        return self.torch_device.type == "cuda"

    def prepare(self) -> None:
        """Set what holds for the whole process."""
        torch.set_num_threads(self.threads)
        # Where nothing is said, cuDNN's LSTM multiplies in TF32.
        precision = "tf32" if self.precision == "tf32" else "ieee"
        torch.backends.cudnn.rnn.fp32_precision = torch.backends.cuda.matmul.fp32_precision = precision  # type: ignore[attr-defined]

    def _check(self) -> None:
        kind, _, index = self.name.partition(":")
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        remedy = "Use device=cpu."
        if kind not in ("cpu", "cuda", "mps", "auto") or (index and not (kind == "cuda" and index.isdigit())):
            fault = f"there is no such device (got {self.name!r}). Use device=cpu, cuda, mps or auto."
        elif kind == "cuda" and not there:
            reason = (
                "this build of torch has no CUDA" if not torch.backends.cuda.is_built() else "no NVIDIA GPU is visible"
            )
            fault = f"{reason} (got {self.name!r}). {remedy}"
        elif kind == "cuda" and int(index or 0) >= there:
            fault = f"there are {there} GPUs, from cuda:0 on (got {self.name!r}). Use one of them or device=cpu."
        elif kind == "mps" and not torch.mps.is_available():
            fault = f"this machine has no Apple GPU that torch can use (got 'mps'). {remedy}"
        else:
            return
        raise ConfigError([f"device.name: {fault}"])


def choose(device: Device, probe: Callable[[torch.device], str | None], say: Callable[[str], None]) -> Device:
    """The same settings on the first candidate that is fit to train on; the CPU always is, and is not probed.

    probe   what is wrong with a device, without a full stop, or None
    say     is told why a device was passed over, and what to know of the chosen one

    Raises ConfigError if the one device that is meant is not fit.
    """
    for candidate in device.candidates:
        if candidate.type == "cpu":
            return replace(device, name="cpu")
        fault = probe(candidate)
        if fault is None:
            say(HINTS[candidate.type])
            return replace(device, name=str(candidate))
        if device.name == "auto":
            say(f"device=auto passes over {candidate}: {fault}.")
    raise ConfigError([f"device.name: {fault} (got {device.name!r}). Use device=cpu."])


HINTS = {
    "cuda": "cuda computes this network as the CPU does; a small recurrent network is often faster with device=cpu.",
    "mps": "mps computes this network as the CPU does, but torch's LSTM has been wrong there: device=cpu is safer.",
}
