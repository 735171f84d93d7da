"""Whether a network computes the same on a device as on the CPU, tested in a child process.

A faulty device may abort the process, which no exception handler survives: only another process can find out.

The child gets the means to build the network, not the network itself: constructor and spaces are pickled by reference,
so any class that the configuration can name works, whatever its instances hold. They are sent through the child's
standard input; no file is written.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor

from seqrl.networks import Network
from seqrl.types import SequenceBatch

Build = Callable[[Space[Any], Space[Any]], Network]
PASSED = "passed"
# TF32, in which cuDNN's LSTM multiplies by default, rounds to 2^-11 and was seen to shift results by up to half a
# percent here; a wrong gradient is off by far more than this.
TOLERANCE = 2e-2
# A gradient that all but cancels is rounding noise: below this share of the whole gradient, it counts as that large.
# Not larger, because a policy head that starts small leaves the memory beneath it a thousandth of the whole.
NOISE = 1e-5


def probe(
    build: Build,
    observation_space: Space[Any],
    action_space: Space[Any],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    timeout_seconds: float = 120,
) -> str | None:
    """Compare a small forward and backward pass on `device` with the CPU; return what is wrong, or None.

    build   makes the network from the observation and action spaces; everything it names must be importable

    A network that also fails on the CPU passes: the device is not at fault, and training will show the error.
    """
    try:
        parts = pickle.dumps((build, observation_space, action_space, dtype))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return f"the network cannot be tested on {device}, because a child process cannot build it: {first_line(error)}"
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "seqrl.devices.probe", str(device)],
            input=parts,
            capture_output=True,
            timeout=timeout_seconds,
            # The child can import whatever this process can.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except subprocess.TimeoutExpired:
        return f"the network did not finish a small step on {device} within {timeout_seconds:g} seconds"
    answer = child.stdout.decode(errors="replace").strip()
    if child.returncode or not answer:
        return f"a small step of the network on {device} {death(child.returncode, child.stderr)}"
    return None if answer == PASSED else answer


def death(code: int, stderr: bytes) -> str:
    """How a child that gave no answer ended, with the most telling line of its error output."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "assert" in line.lower()] or lines[-1:]
    how = f"kills the process with {signal.Signals(-code).name}" if code < 0 else f"ends the process with code {code}"
    return ": ".join([how, *(line[:200].rstrip(".") for line in telling[:1])])


def fault(
    build: Build, observation_space: Space[Any], action_space: Space[Any], device: torch.device, dtype: torch.dtype
) -> str | None:
    """What the child finds wrong; does not return if the device kills the process."""
    try:
        torch.manual_seed(0)
        network = build(observation_space, action_space).to(dtype=dtype)
        data = samples(observation_space, 0), samples(action_space, 1)
        expected = numbers(network, *data)
        # With dropout, for instance, all we can ask is that it runs.
        random = disagreement(expected, numbers(network, *data))
    except Exception:
        return None
    try:
        computed = numbers(network.to(device), *(part.to(device) for part in data))
    except Exception as error:
        return f"the network fails on {device}: {type(error).__name__}: {first_line(error)}"
    differs = None if random else disagreement(expected, computed)
    return differs and f"{differs} on {device}, not what the CPU computes"


def disagreement(expected: dict[str, Tensor], computed: dict[str, Tensor]) -> str | None:
    """The first result that is not as expected, and how far off it is relative to its size (L2)."""
    whole = sum(float(tensor.norm()) for name, tensor in expected.items() if name.startswith("the gradient"))
    for name, reference in expected.items():
        least = NOISE * whole if name.startswith("the gradient") else 1e-6
        difference = float((computed[name] - reference).norm()) / max(float(reference.norm()), least)
        # NaN disagrees, too.
        if not difference <= TOLERANCE:
            return f"{name} is off by {difference:.2g} times its size"
    return None


LENGTH, ROWS = 7, 3
# Unreal steps: between two sequences of a row, and after the last.
REAL = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1], [1, 1, 0], [1, 1, 0]], dtype=torch.bool)


def numbers(network: Network, observation: Tensor, action: Tensor) -> dict[str, Tensor]:
    """Everything that the network computes from M observations and actions, by name, moved to the CPU in float64."""
    device = observation.device
    network.zero_grad()
    state = network.initial_state(ROWS)
    # As in a rollout, with memory that is not empty.
    with torch.no_grad():
        for x in observation[: 2 * ROWS].split(ROWS):
            policy, step_value, state = network.step(x, state)
            policy.sample(torch.Generator(device).manual_seed(0))
    # As in an update.
    zero = torch.zeros(len(action), device=device)
    place = REAL.flatten().nonzero().squeeze(-1).to(device)
    policy, value = network.unroll(
        SequenceBatch(observation, action, zero, zero, zero, grid_index=place, mask=REAL.to(device), state=state)
    )
    log_prob = policy.log_prob(action)
    (log_prob + value + policy.entropy()).sum().backward()
    computed = {"the value of a step": step_value, "the value": value, "the log-probability": log_prob} | {
        f"the gradient of {name}": parameter.grad
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    return {name: tensor.detach().cpu().double() for name, tensor in computed.items()}


def samples(space: Space[Any], seed: int) -> Tensor:
    """M random elements of a space, [M, *shape]; for a Box, normal numbers, as its bounds may lie anywhere."""
    steps = int(REAL.sum())
    if type(space) is spaces.Box and space.dtype == np.float32:
        return torch.randn(steps, *space.shape, generator=torch.Generator().manual_seed(seed))
    space.seed(seed)
    return torch.from_numpy(np.stack([space.sample() for _ in range(steps)]))


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200].rstrip(".")


def main() -> None:
    """The child: read the parts, write the answer."""
    build, observation_space, action_space, dtype = pickle.load(sys.stdin.buffer)
    # Whatever libraries print goes to stderr, so that stdout holds only the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with answer:
        answer.write(fault(build, observation_space, action_space, torch.device(sys.argv[1]), dtype) or PASSED)


if __name__ == "__main__":
    main()
