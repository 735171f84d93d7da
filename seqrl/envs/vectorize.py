"""Makes many environments out of one: its own vector form, one process, or a process each."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from seqrl.envs.autoreset import OWN_EPISODES, Episodes, SeededEpisodes
from seqrl.envs.errors import EnvError
from seqrl.envs.lookup import MISSING_PACKAGE, explained


class Resting(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Rests after an episode's end: `step` costs nothing and changes nothing until `reset`."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._final: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._final = None
        return self.env.reset(seed=seed, options=options)[0], {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._final is not None:
            return self._final, 0.0, False, False, {}
        observation, reward, terminated, truncated, _ = self.env.step(action)
        if terminated or truncated:
            self._final = observation
        # Nobody reads the info, and gathering it takes time.
        return observation, reward, terminated, truncated, {}


class OneProcess(SyncVectorEnv):
    """Environments of this process, one after another."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        # Gymnasium refuses a step after an end; environments that rest need no such guard.
        self._autoreset_envs[:] = False
        return super().step(actions)


class ProcessEach(AsyncVectorEnv):
    """Environments that have a process each."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        with _lost_process_explained():
            return super().reset(**kwargs)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        with _lost_process_explained():
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


@contextmanager
def _lost_process_explained() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise EnvError(
            "env.backend: a process of env.backend=async died, perhaps for want of memory. "
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
    with _lost_process_explained():
        return SeededEpisodes(ProcessEach(_singles(spec, batch_size, kwargs), **PLAIN), seed)


def _singles(spec: EnvSpec, batch_size: int, kwargs: Mapping[str, Any]) -> list[Callable[[], Resting]]:
    if spec.entry_point is None:
        raise EnvError(f"env.backend: {spec.id} has only a vector form of its own. Use env.backend=vector.")
    return [partial(_single, spec, dict(kwargs))] * batch_size


def _single(spec: EnvSpec, kwargs: dict[str, Any]) -> Resting:
    return Resting(gymnasium.make(spec, **kwargs))


# The adapter copies, so Gymnasium need not.
PLAIN: dict[str, Any] = {"copy": False, "autoreset_mode": AutoresetMode.DISABLED}
BACKENDS = {"auto": _auto, "vector": _vector, "sync": _sync, "async": _async}
