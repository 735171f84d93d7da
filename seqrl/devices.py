"""Where tensors live: cpu, cuda or mps; threads and precision."""

from dataclasses import dataclass

import torch

from seqrl.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """Device of a run.

    name        cpu, cuda, cuda:1, mps, or auto for the first of cuda, mps and cpu that is there
    threads     of torch on the processor
    precision   float32 or float64, of parameters and memory

    Raises ConfigError if the device is not there.
    """

    name: str
    threads: int
    precision: str

    def __post_init__(self) -> None:
        self._check()

    @property
    def torch_device(self) -> torch.device:
        if self.name != "auto":
            return torch.device(self.name)
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "float64": torch.float64}[self.precision]

    def prepare(self) -> None:
        """Set what holds for the whole process."""
        torch.set_num_threads(self.threads)

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
