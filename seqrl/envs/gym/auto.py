"""Chooses who plays the environments where that is left open, env.backend=auto, by playing a little."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np

from seqrl.envs.gym.autoreset import VectorEpisodes
from seqrl.envs.gym.backends import BACKENDS, EnvRequest, ProcessEach
from seqrl.envs.gym.registry import MISSING_PACKAGE, explained
from seqrl.envs.gym.timeouts import time_limit
from seqrl.errors import EnvError, described

# A measurement ends when either is over.
SECONDS, STEPS = 0.1, 500
# A message to another process and its answer take about this long: an environment that is faster gains nothing.
MESSAGE_SECONDS = 1e-4
# Processes that are tried: more take longer to start, and where a step is slow tell no more.
FEW, MANY = 4, 16


@dataclass(frozen=True)
class Choice:
    """Who plays.

    backend   vector, sync, async or envpool
    why       what speaks for it, if it was chosen here; otherwise nothing
    """

    backend: str
    why: str = ""


def episodes(request: EnvRequest, backend: str) -> tuple[VectorEpisodes, Choice]:
    """Episodes of environments, and who plays them: the `backend` that is asked for, or what auto chooses."""
    if backend not in ("auto", *BACKENDS):
        raise EnvError(f"env.backend: there is no backend {backend!r}. Use one of auto, {', '.join(BACKENDS)}.")
    with explained(request.id if backend == "envpool" else request.spec.id, request.kwargs):
        if backend == "auto" and (own := _own_form(request)):
            return own, Choice("vector", f"{request.spec.id} has a form of its own")
        choice = fastest(request) if backend == "auto" else Choice(backend)
        return BACKENDS[choice.backend](request), choice


def _own_form(request: EnvRequest) -> VectorEpisodes | None:
    """An environment's own vector form, if it can be had.

    It is taken unmeasured: it draws other random numbers, and which ones a run sees must not depend on the time of day.
    """
    spec = request.spec
    if spec.vector_entry_point is None or request.is_wrapped or (spec.additional_wrappers and spec.entry_point):
        return None
    try:
        return BACKENDS["vector"](request)
    except MISSING_PACKAGE:
        if spec.entry_point is None:
            raise
        return None


def alone(request: EnvRequest) -> float:
    """Steps a second of one environment in this process."""
    with closing(request.singles()[0]()) as single, time_limit(request.timeout_seconds):
        single.action_space.seed(0)
        actions = cycle([single.action_space.sample() for _ in range(100)])
        single.reset(seed=0)

        def play() -> int:
            _, _, terminated, truncated, _ = single.step(next(actions))
            if terminated or truncated:
                single.reset()
            return 1

        return rate(play)


def side_by_side(request: EnvRequest) -> float:
    """Steps a second of all environments together, with a process each."""
    with time_limit(request.timeout_seconds):
        envs = ProcessEach(request.singles(), request.timeout_seconds)
    with closing(envs):
        envs.action_space.seed(0)
        actions = cycle([envs.action_space.sample() for _ in range(100)])
        envs.reset(seed=0)

        def play() -> int:
            _, _, terminated, truncated, _ = envs.step(next(actions))
            ended = np.asarray(terminated | truncated)
            if ended.any():
                envs.reset(options={"reset_mask": ended})
            return request.batch_size

        return rate(play)


def rate(play: Callable[[], int], clock: Callable[[], float] = time.perf_counter) -> float:
    """Steps a second of `play`, which returns how many it has played."""
    # What is done once, at the first step, says nothing of the others.
    play()
    began, steps = clock(), 0
    while True:
        steps += play()
        elapsed = clock() - began
        if elapsed >= SECONDS or steps >= STEPS:
            return steps / elapsed


def fastest(
    request: EnvRequest,
    alone: Callable[[EnvRequest], float] = alone,
    side_by_side: Callable[[EnvRequest], float] = side_by_side,
) -> Choice:
    """sync or async, whichever plays more steps a second; what cannot be measured is sync.

    Both play the same episodes. What is played here is thrown away: the run begins with environments of its own.
    """
    if request.batch_size == 1:
        return Choice("sync", "as there is only one")
    try:
        sync = alone(request)
        if sync * MESSAGE_SECONDS > 1:
            why = "not tried, a message to a process takes longer than a step"
            return Choice("sync", f"{_figure(sync)} steps/s (vector: none; async: {why})")
        # As many as one process plays in turn while it is measured.
        number = min(request.batch_size, max(FEW, min(MANY, int(sync * SECONDS))))
        processes = side_by_side(replace(request, batch_size=number))
    except Exception as error:
        return Choice("sync", f"as speed could not be measured: {described(error)}")
    said = f"{_figure(processes)} steps/s with {number} processes"
    if processes > sync:
        return Choice("async", f"{said} (vector: none; sync: {_figure(sync)})")
    return Choice("sync", f"{_figure(sync)} steps/s (vector: none; async: {said})")


def _figure(rate: float) -> str:
    """Two digits, as a short measurement has no more: 41,000."""
    return f"{float(f'{rate:.2g}'):,g}"
