"""What a program has set in torch for itself, and what the command computes with."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import torch

from seqrl.config.program import masked_warnings
from seqrl.envs.gym.calls import NEW, OF_TORCH


@contextmanager
def put_back() -> Iterator[None]:
    """Have the settings of torch afterwards that there were before."""
    before = [get() for _, get, _ in OF_TORCH]
    try:
        yield
    finally:
        for (_, get, put), was in zip(OF_TORCH, before, strict=True):
            if get() != was:
                put(was)


# Runs may go on side by side in threads. The first to begin finds the program's own settings, the last puts them back.
_SETTINGS, _LOCK, _RUNNING = ExitStack(), threading.Lock(), [0]


@contextmanager
def settings_of_a_command() -> Iterator[None]:
    """Compute as the command does, whatever the program has set in torch for itself, which it has again afterwards.

    Warnings are masked meanwhile, as the command masks them.
    """
    with _LOCK:
        if not _RUNNING[0]:
            _SETTINGS.enter_context(put_back())
            _SETTINGS.enter_context(masked_warnings())
            for put, value in NEW:
                put(value)
        _RUNNING[0] += 1
    try:
        # These are the thread's own. A context of torch's devices costs time in every call: only where there is one.
        on_cpu = nullcontext() if torch.get_default_device() == torch.device("cpu") else torch.device("cpu")
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False), on_cpu:
            yield
    finally:
        with _LOCK:
            _RUNNING[0] -= 1
            if not _RUNNING[0]:
                _SETTINGS.close()
