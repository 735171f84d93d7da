"""The backends: an own vector form, one process, a process per environment, or EnvPool."""

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from seqrl.envs.gym.autoreset import OWN_EPISODES, NextStepEpisodes, SeededEpisodes, VectorEpisodes
from seqrl.envs.gym.envpool import Pool
from seqrl.envs.gym.flatten import FlattenedEnv, is_composed
from seqrl.envs.gym.guard import GuardedEnv
from seqrl.envs.gym.registry import find
from seqrl.envs.gym.timeouts import LostError, OverdueError
from seqrl.errors import EnvError, described
from seqrl.machine import end_with_parent

log = logging.getLogger(__name__)

Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]


class OneProcess(SyncVectorEnv):
    """Environments in this process, stepped one after another."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        # Gymnasium refuses to step an ended episode; a GuardedEnv rests instead.
        self._autoreset_envs[:] = False
        return super().step(actions)


class ProcessEach(AsyncVectorEnv):
    """Environments with a process each.

    timeout_seconds   limit for one reset or step of all environments; None: no limit
    """

    def __init__(self, singles: list[Callable[[], GuardedEnv]], timeout_seconds: float | None) -> None:
        super().__init__(singles, **VECTOR_OPTIONS)
        self.timeout_seconds = timeout_seconds

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with self._lost_process_named():
            self.reset_async(seed=seed, options=options)
            return self.reset_wait(timeout=self.timeout_seconds)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        with self._lost_process_named():
            self.step_async(actions)
            return self.step_wait(timeout=self.timeout_seconds)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ask every process to close its environment, and kill it after `timeout` seconds; None: 5."""
        patience = 0.0 if terminate else 5.0 if timeout is None else timeout
        deadline = time.monotonic() + patience
        # A process that failed has no pipe, one that died a broken one; Gymnasium would wait for an answer from either.
        pipes = [pipe for pipe in self.parent_pipes if pipe is not None]
        for pipe in pipes:
            with suppress(OSError):
                pipe.send(("close", None))
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()
        for pipe in pipes:
            pipe.close()

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Raise the exception of the first process that failed; tracebacks go to the log only."""
        failed = sorted((self.error_queue.get() for success in successes if not success), key=lambda error: error[0])
        for index, _, _, trace in failed:
            log.error("environment %d\n%s", index, trace)
            self.parent_pipes[index].close()
            self.parent_pipes[index] = None  # type: ignore[call-overload]  # as Gymnasium does
        if failed:
            self._state = AsyncState.DEFAULT
            raise failed[0][2]

    @contextmanager
    def _lost_process_named(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            for process in self.processes:
                process.join(0.1)
            dead = [index for index, process in enumerate(self.processes) if not process.is_alive()]
            raise LostError(
                (dead or [0])[0],
                "its process died, perhaps out of memory. Use a smaller parallel, or env.backend=sync to see why",
            ) from error
        except multiprocessing.TimeoutError as error:
            assert self.timeout_seconds is not None
            silent = next(index for index, pipe in enumerate(self.parent_pipes) if not pipe.poll(0))
            # It would not answer a request to close, either.
            self.processes[silent].kill()
            raise LostError(
                silent, f"{OverdueError(self.timeout_seconds)}. Fix the environment, or raise the limit"
            ) from error


@dataclass(frozen=True)
class EnvRequest:
    """The environments to build.

    id                such as Acrobot-v1, or module:Env-v0
    timeout_seconds   limit for one reset or step of all of them; None: no limit
    wrappers          applied to each, the first one innermost
    hidden, action_mask   as in `FlattenedEnv`
    """

    id: str
    kwargs: Mapping[str, Any]
    batch_size: int
    seed: int
    timeout_seconds: float | None
    wrappers: Sequence[Wrap] = ()
    hidden: Sequence[Any] = ()
    action_mask: str | None = None

    @cached_property
    def spec(self) -> EnvSpec:
        """Gymnasium's spec of the environment; raises EnvError if there is none."""
        return find(self.id)

    def singles(self) -> list[Callable[[], GuardedEnv]]:
        """One builder per environment."""
        if self.spec.entry_point is None:
            raise EnvError(f"env.backend: {self.spec.id} has only a vector form of its own. Use env.backend=vector.")
        home = os.getpid()
        return [partial(_single, self, index, home) for index in range(self.batch_size)]

    @property
    def is_wrapped(self) -> bool:
        return bool(self.wrappers) or self.action_mask is not None

    def environment(self) -> gymnasium.Env[Any, Any]:
        """One environment, wrapped, with its observations and actions flattened to one part each."""
        env = gymnasium.make(self.spec, **self.kwargs)
        for index, wrap in enumerate(self.wrappers):
            try:
                env = wrap(env)
            except (TypeError, ValueError, AssertionError) as error:
                raise EnvError(
                    f"env.wrappers[{index}]: cannot wrap {self.spec.id}: {described(error)}. "
                    "Check the arguments of its constructor and the order of the wrappers."
                ) from error
        if is_composed(env) or self.action_mask is not None:
            env = FlattenedEnv(env, self.hidden, self.action_mask)
        return env


def _vector(request: EnvRequest) -> VectorEpisodes:
    spec = request.spec
    if spec.vector_entry_point is None:
        raise EnvError(f"env.backend: {spec.id} has no vector form of its own. Use env.backend=sync or async.")
    _refuse_wrapped(request, "vector")
    envs = gymnasium.make_vec(spec, request.batch_size, vectorization_mode="vector_entry_point", **request.kwargs)
    mode = AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
    return OWN_EPISODES[mode](envs, request.seed)


def _sync(request: EnvRequest) -> VectorEpisodes:
    return SeededEpisodes(OneProcess(request.singles(), **VECTOR_OPTIONS), request.seed)


def _async(request: EnvRequest) -> VectorEpisodes:
    try:
        return SeededEpisodes(ProcessEach(request.singles(), request.timeout_seconds), request.seed)
    except (EOFError, ConnectionError) as error:
        raise EnvError(
            f"env.backend: a process of {request.spec.id} died while starting. "
            "Use a smaller parallel, or env.backend=sync to see why."
        ) from error


def _envpool(request: EnvRequest) -> VectorEpisodes:
    _refuse_wrapped(request, "envpool")
    return NextStepEpisodes(Pool(request.id, request.batch_size, request.kwargs), request.seed)


def _refuse_wrapped(request: EnvRequest, backend: str) -> None:
    if request.is_wrapped:
        raise EnvError(
            f"env.backend: env.wrappers and env.action_mask need single environments (got {backend}). "
            "Use env.backend=sync or async."
        )


def _single(request: EnvRequest, index: int, home: int) -> GuardedEnv:
    if os.getpid() != home:
        # Ctrl-C reaches every process of a terminal; the parent finishes its iteration and then ends this process.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with_parent(signal.SIGKILL)
    return GuardedEnv(request.environment(), index)


# The adapter copies, so Gymnasium does not have to.
VECTOR_OPTIONS: dict[str, Any] = {"copy": False, "autoreset_mode": AutoresetMode.DISABLED}
BACKENDS: dict[str, Callable[[EnvRequest], VectorEpisodes]] = {
    "vector": _vector,
    "sync": _sync,
    "async": _async,
    "envpool": _envpool,
}
