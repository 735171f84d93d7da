"""Makes many environments out of one: its own vector form, one process, or a process each."""

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from seqrl.envs.autoreset import OWN_EPISODES, Episodes, SeededEpisodes
from seqrl.envs.errors import EnvError, FaultyEnvError
from seqrl.envs.lookup import MISSING_PACKAGE, explained
from seqrl.envs.single import Single

log = logging.getLogger(__name__)


class OneProcess(SyncVectorEnv):
    """Environments of this process, one after another."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        # Gymnasium refuses a step after an end; environments that rest need no such guard.
        self._autoreset_envs[:] = False
        return super().step(actions)


class ProcessEach(AsyncVectorEnv):
    """Environments that have a process each."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        with self._lost_process_named():
            return super().reset(**kwargs)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        with self._lost_process_named():
            return super().step(actions)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ask every process to close its environment; after `timeout` seconds, 5 if None, end it."""
        patience = 0.0 if terminate else 5.0 if timeout is None else timeout
        deadline = time.monotonic() + patience
        # A process that failed has no pipe any more, one that died a broken one; Gymnasium would wait for its answer.
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
        """Raise what the first process raised; tracebacks go to the log alone."""
        failed = sorted((self.error_queue.get() for success in successes if not success), key=lambda it: it[0])
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
            which = f"environment {dead[0]}" if dead else "an environment"
            raise FaultyEnvError(
                f"{which}: its process died, perhaps for want of memory. "
                "Use a smaller parallel, or env.backend=sync to see what happens."
            ) from error


def episodes(spec: EnvSpec, batch_size: int, seed: int, kwargs: Mapping[str, Any], backend: str) -> Episodes:
    """Episodes of `batch_size` environments, played by `backend`: auto, vector, sync or async."""
    if backend not in BACKENDS:
        raise EnvError(f"env.backend: there is no backend {backend!r}. Use one of {', '.join(BACKENDS)}.")
    with explained(spec.id, kwargs):
        return BACKENDS[backend](spec, batch_size, seed, kwargs)


def _auto(spec: EnvSpec, batch_size: int, seed: int, kwargs: Mapping[str, Any]) -> Episodes:
    """Its own vector form where that can be had, else one process."""
    if spec.vector_entry_point is None or (spec.additional_wrappers and spec.entry_point):
        return _sync(spec, batch_size, seed, kwargs)
    try:
        return _vector(spec, batch_size, seed, kwargs)
    except MISSING_PACKAGE:
        if spec.entry_point is None:
            raise
        return _sync(spec, batch_size, seed, kwargs)


def _vector(spec: EnvSpec, batch_size: int, seed: int, kwargs: Mapping[str, Any]) -> Episodes:
    if spec.vector_entry_point is None:
        raise EnvError(f"env.backend: {spec.id} has no vector form of its own. Use env.backend=sync or async.")
    envs = gymnasium.make_vec(spec, batch_size, vectorization_mode="vector_entry_point", **kwargs)
    mode = AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
    return OWN_EPISODES[mode](envs, seed)


def _sync(spec: EnvSpec, batch_size: int, seed: int, kwargs: Mapping[str, Any]) -> Episodes:
    return SeededEpisodes(OneProcess(_singles(spec, batch_size, kwargs), **PLAIN), seed)


def _async(spec: EnvSpec, batch_size: int, seed: int, kwargs: Mapping[str, Any]) -> Episodes:
    try:
        return SeededEpisodes(ProcessEach(_singles(spec, batch_size, kwargs), **PLAIN), seed)
    except (EOFError, ConnectionError) as error:
        raise EnvError(
            f"env.backend: a process of {spec.id} died before it could play. "
            "Use a smaller parallel, or env.backend=sync to see what happens."
        ) from error


def _singles(spec: EnvSpec, batch_size: int, kwargs: Mapping[str, Any]) -> list[Callable[[], Single]]:
    if spec.entry_point is None:
        raise EnvError(f"env.backend: {spec.id} has only a vector form of its own. Use env.backend=vector.")
    return [partial(_single, spec, dict(kwargs), index) for index in range(batch_size)]


def _single(spec: EnvSpec, kwargs: dict[str, Any], index: int) -> Single:
    if multiprocessing.parent_process() is not None:
        # Ctrl-C goes to every process of a terminal; the parent finishes its iteration and then ends this one.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Single(gymnasium.make(spec, **kwargs), index)


# The adapter copies, so Gymnasium need not.
PLAIN: dict[str, Any] = {"copy": False, "autoreset_mode": AutoresetMode.DISABLED}
BACKENDS = {"auto": _auto, "vector": _vector, "sync": _sync, "async": _async}
