"""Picks the backend for env.backend=auto by a short measurement."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import numpy as np

from seqrl.envs.gym.autoreset import VectorEpisodes
from seqrl.envs.gym.backends import BACKENDS, EnvRequest
from seqrl.envs.gym.processes import ProcessEach
from seqrl.envs.gym.registry import explained
from seqrl.envs.gym.resets import UnfitError
from seqrl.errors import EnvError, MissingPackageError, RaisedError, described
from seqrl.machine import perf_counter

# A measurement ends at whichever comes first.
SECONDS, STEPS = 0.1, 500
# Approximate round trip to another process: an environment with faster steps gains nothing from one.
MESSAGE_SECONDS = 1e-4
# Bounds on the processes to try: more take longer to start and, if a step is slow, add no information.
FEW, MANY = 4, 16


@dataclass(frozen=True)
class Choice:
    """A backend and the reason for it.

    backend   vector, sync, async or envpool
    why       the reason, if it was chosen here; otherwise empty
    """

    backend: str
    why: str = ""


def episodes(request: EnvRequest, backend: str) -> tuple[VectorEpisodes, Choice]:
    """Episodes of the requested environments on the given `backend`, or on the one that auto picks, and that choice."""
    if backend not in ("auto", *BACKENDS):
        raise EnvError(f"env.backend: there is no backend {backend!r}. Use one of auto, {', '.join(BACKENDS)}.")
    with explained(request.id if backend == "envpool" else request.spec.id, request.kwargs):
        if backend != "auto":
            return BACKENDS[backend](request), Choice(backend)
        own = _own_form(request)
        if not isinstance(own, str):
            return own, Choice("vector", f"{request.spec.id} has its own vector form")
        choice = fastest(request, vector=own)
        return BACKENDS[choice.backend](request), choice


def _own_form(request: EnvRequest) -> VectorEpisodes | str:
    """An environment's own vector form, if it can be built and played; otherwise in a few words why it is not used.

    It is used without a measurement: it draws different random numbers, and a run must not depend on timing.
    """
    spec = request.spec
    if spec.vector_entry_point is None or request.is_wrapped or (spec.additional_wrappers and spec.entry_point):
        return "none"
    try:
        return BACKENDS["vector"](request)
    except (MissingPackageError, UnfitError) as error:
        if spec.entry_point is None:
            raise
        return error.why if isinstance(error, UnfitError) else "it needs a package that is missing"


def alone(request: EnvRequest) -> float:
    """Steps per second of one environment in this process."""
    with request.guard, closing(request.singles()[0]()) as single:
        single.action_space.seed(0)
        actions = cycle([single.action_space.sample() for _ in range(100)])
        single.reset(seed=0)

        def play() -> int:
            _, _, terminated, truncated, _ = single.step(next(actions))
            if terminated or truncated:
                single.reset()
            return 1

        return rate(play, single.reset)


def side_by_side(request: EnvRequest) -> float:
    """Steps per second of all environments together, one process each."""
    with closing(ProcessEach(request.singles(), request.timeout_seconds)) as envs:
        envs.action_space.seed(0)
        actions = cycle([envs.action_space.sample() for _ in range(100)])
        envs.reset(seed=0)

        def play() -> int:
            _, _, terminated, truncated, _ = envs.step(next(actions))
            ended = np.asarray(terminated | truncated)
            if ended.any():
                envs.reset(options={"reset_mask": ended})
            return request.batch_size

        return rate(play, envs.reset)


def rate(play: Callable[[], int], reset: Callable[[], Any], clock: Callable[[], float] = perf_counter) -> float:
    """Steps per second of `play`, which plays each environment once and returns how many steps that were.

    reset   is timed, too, and counts once in as many steps of an environment as are played at most: long episodes do
            not end while they are measured, and their resets may take far longer than a step
    """
    # The first step includes one-time work.
    play()
    began, steps, rounds, elapsed = clock(), 0, 0, 0.0
    while steps < STEPS and elapsed < SECONDS:
        steps, rounds = steps + play(), rounds + 1
        elapsed = clock() - began
    reset()
    resets = (clock() - began - elapsed) * rounds / STEPS
    return steps / (elapsed + resets)


def fastest(
    request: EnvRequest,
    alone: Callable[[EnvRequest], float] = alone,
    side_by_side: Callable[[EnvRequest], float] = side_by_side,
    vector: str = "none",
) -> Choice:
    """sync or async, whichever plays more steps per second; sync if the measurement fails.

    vector   why that is not used

    Both play the same episodes. Episodes played here are discarded: the run starts with fresh environments.
    """
    besides = f" (vector: {vector})" if vector != "none" else ""
    if request.batch_size == 1:
        return Choice("sync", f"there is only one{besides}")
    try:
        sync = alone(request)
        if sync * MESSAGE_SECONDS > 1:
            why = "not tried, a message to a process takes longer than a step"
            return Choice("sync", f"{_figure(sync)} steps/s (vector: {vector}; async: {why})")
        # As many as one process could step, in turn, during one measurement.
        number = min(request.batch_size, max(FEW, min(MANY, int(sync * SECONDS))))
        processes = side_by_side(replace(request, batch_size=number))
    except Exception as error:
        # If the environment raised it, the run itself will say which one it was, and when.
        raised = error.__cause__ if isinstance(error.__cause__, RaisedError) else error
        return Choice("sync", f"speed could not be measured: {described(raised)}{besides}")
    speed = f"{_figure(processes)} steps/s with {number} processes"
    if processes > sync:
        return Choice("async", f"{speed} (vector: {vector}; sync: {_figure(sync)})")
    return Choice("sync", f"{_figure(sync)} steps/s (vector: {vector}; async: {speed})")


def _figure(rate: float) -> str:
    """Two significant digits, all that a short measurement supports: 41,000."""
    return f"{float(f'{rate:.2g}'):,g}"
