"""Environments with a process each, which ends with this one, however it ends."""

import errno
import logging
import multiprocessing
import os
import pickle
import queue
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from seqrl.envs.gym.calls import PARTS, LostError, OverdueError
from seqrl.envs.gym.guard import GuardedEnv
from seqrl.envs.gym.watchdog import WATCHDOG
from seqrl.errors import EnvError, FaultyEnvError, described
from seqrl.files import fault as reason
from seqrl.machine import end_with_parent, forget_handlers, hear, keep, let_go, monotonic

log = logging.getLogger(__name__)

# The adapter copies, so Gymnasium does not have to.
VECTOR_OPTIONS: dict[str, Any] = {"copy": False, "autoreset_mode": AutoresetMode.DISABLED}
# Limit for a process to say why it failed.
SAY_SECONDS = 10.0
# Limit for an environment to close where no other is set.
CLOSE_SECONDS = 5.0
# What helps where a limit of the system is met, by the number of its error.
LIMITED = {
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EAGAIN: "raise the limit on processes (ulimit -u)",
}


class ProcessEach(AsyncVectorEnv):
    """Environments with a process each.

    timeout_seconds   limit for one answer of all environments; None: no limit. Each gets it to begin
    check             refuses an environment by its spaces, before memory is shared for them
    streams           tells the global random numbers of these processes from those of others

    All are in one process group, with whatever programs they start, and all of it ends with this process, however it
    ends. Raises LostError if a process dies or does not answer in time, EnvError if the system starts no more of them.
    """

    def __init__(
        self,
        singles: list[Callable[[], GuardedEnv]],
        timeout_seconds: float | None,
        check: Callable[[SimpleNamespace], object] = lambda _: None,
        streams: tuple[int, ...] = (),
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self.parent_pipes, self.processes = [], []
        with _started(len(singles)):
            self._group = ProcessGroup()
            # At the exit of this process too, which would otherwise wait for the others.
            self._end_group = Finalize(self, self._group.end, exitpriority=1)
            try:
                model = _modelled(singles[0], self._group, timeout_seconds)
                check(model)
                super().__init__(
                    [partial(_model_here, os.getpid(), model, single) for single in singles],
                    # An environment may have set another way for this process.
                    context="fork",
                    daemon=False,
                    worker=partial(_work, self._group.number, streams),
                    **VECTOR_OPTIONS,
                )
            except BaseException:
                self._kill()
                raise

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with self._lost_process_named():
            self.reset_async(seed=seed, options=options)
            return self.reset_wait(timeout=self.timeout_seconds)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        with self._lost_process_named():
            self.step_async(actions)
            return self.step_wait(timeout=self.timeout_seconds)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        with self._lost_process_named():
            self.call_async(name, *args, **kwargs)
            return self.call_wait(timeout=self.timeout_seconds)

    def set_attr(self, name: str, values: Any) -> None:
        with self._lost_process_named():
            super().set_attr(name, values)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ask every process to close its environment, and kill it after `timeout` seconds.

        None: `timeout_seconds`, or CLOSE_SECONDS if there is no limit.
        """
        patience = 0.0 if terminate else timeout or self.timeout_seconds or CLOSE_SECONDS
        deadline = monotonic() + patience
        # A process that failed has no pipe, one that died a broken one; Gymnasium would wait for an answer from either.
        for pipe in filter(None, self.parent_pipes):
            with suppress(OSError):
                pipe.send(("close", None))
        for process in self.processes:
            process.join(max(0.0, deadline - monotonic()))
        self._kill()

    def _kill(self) -> None:
        self._end_group()
        for process in self.processes:
            # One that could not be started has no number.
            if process.pid is not None:
                process.kill()
                process.join()
        for pipe in filter(None, self.parent_pipes):
            pipe.close()

    def _check_spaces(self) -> None:
        with self._lost_process_named():
            for pipe in self.parent_pipes:
                pipe.send(("_call", ("index", (), {})))
            # They share the cores while they begin.
            for pipe in self.parent_pipes:
                if not answers([pipe], self.timeout_seconds):
                    raise multiprocessing.TimeoutError
            self._state = AsyncState.WAITING_CALL
            self.call_wait()
            super()._check_spaces()  # type: ignore[no-untyped-call]  # as Gymnasium has it

    def _poll_pipe_envs(self, timeout: float | None = None) -> bool:
        self._assert_is_running()
        return answers(self.parent_pipes, timeout)

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Raise the exception of the first process that failed; tracebacks go to the log only."""
        failing = [index for index, success in enumerate(successes) if not success]
        try:
            failed = sorted((self.error_queue.get(timeout=SAY_SECONDS) for _ in failing), key=lambda error: error[0])
        except queue.Empty as error:
            raise LostError(
                failing[0], "it failed, and its process could not say why. Use env.backend=sync to see it"
            ) from error
        for index, _, _, trace in failed:
            log.error("environment %d\n%s", index, trace)
            self.parent_pipes[index].close()
            self.parent_pipes[index] = None  # type: ignore[call-overload]  # as Gymnasium does
        if failed:
            self._state = AsyncState.DEFAULT
            raise failed[0][2]

    @contextmanager
    def _lost_process_named(self) -> Iterator[None]:
        if not self._group.is_led:
            raise LostError(0, "the process that ends what environments start was killed. Resume the run")
        try:
            yield
        except (EOFError, ConnectionError) as error:
            for process in self.processes:
                process.join(0.1)
            dead = [index for index, process in enumerate(self.processes) if not process.is_alive()]
            raise LostError((dead or [0])[0], _died(self.processes[(dead or [0])[0]].exitcode)) from error
        except multiprocessing.TimeoutError as error:
            assert self.timeout_seconds is not None
            silent = next(index for index, pipe in enumerate(self.parent_pipes) if not pipe.poll(0))
            # It would not answer a request to close, either.
            self.processes[silent].kill()
            raise _silent(silent, self.timeout_seconds) from error


@contextmanager
def _started(number: int) -> Iterator[None]:
    """Say what the system lacks that cannot start so many processes: what an environment raises is no OSError here."""
    try:
        yield
    except OSError as error:
        more = f", or {LIMITED[error.errno]}" if error.errno in LIMITED else ""
        raise EnvError(
            f"env.backend: async cannot start {number} processes ({reason(error)}). Use a smaller parallel or "
            f"env.backend=sync{more}."
        ) from error


def _silent(index: int, seconds: float) -> LostError:
    """An environment that does not answer in time; perhaps it waits for a thread that only its parent has."""
    return LostError(
        index,
        f"{OverdueError(seconds)}. Fix the environment, or raise the limit. If it needs a thread that its module "
        "started when it was imported, use env.backend=sync: other processes lack that thread",
    )


def _died(exit_code: int | None) -> str:
    """What became of a process, and what to do; -n: signal n ended it."""
    if exit_code is not None and exit_code < 0 and -exit_code != signal.SIGKILL:
        return f"its process died ({signal.Signals(-exit_code).name}). Use env.backend=sync to see why"
    return "its process died, perhaps out of memory. Use a smaller parallel, or env.backend=sync to see why"


def answers(pipes: Iterable[Connection], timeout: float | None) -> bool:
    """Whether every process answers within `timeout` seconds in which this process runs; None: wait for ever."""
    parts_left = PARTS
    for pipe in pipes:
        while not pipe.poll(None if timeout is None else timeout / PARTS):
            parts_left -= 1
            if parts_left <= 0:
                return False
    return True


class ProcessGroup:
    """A group of processes that ends with this process, however it ends, and with it all programs that they start.

    number   of the group
    """

    def __init__(self) -> None:
        waiting, self._ours = os.pipe()
        keep(self._ours)
        # This process leads the group: its number stays taken for as long as it is not joined.
        self._leader = multiprocessing.get_context("fork").Process(target=_end_with, args=(waiting,), daemon=True)
        self._leader.start()
        os.close(waiting)
        assert self._leader.pid is not None
        self.number = self._leader.pid
        with suppress(OSError):
            os.setpgid(self.number, self.number)

    @property
    def is_led(self) -> bool:
        """Whether all of it would end with this process: its leader is alive. It costs a microsecond."""
        try:
            # A dead leader is left as it is, so that nobody else gets its number.
            return os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    def end(self) -> None:
        """Kill all processes of the group."""
        with suppress(OSError):
            os.killpg(self.number, signal.SIGKILL)
        self._leader.kill()
        self._leader.join()
        let_go(self._ours)


def join_group(number: int) -> None:
    """Make this process a member of a process group, or with 0 the leader of a new one, in a terminal's background."""
    with suppress(OSError):
        os.setpgid(0, number)
    # It would stop who writes to it (`stty tostop`), sets it or reads from it, as such a group is in its background.
    for stops in (signal.SIGTTOU, signal.SIGTTIN):
        signal.signal(stops, signal.SIG_IGN)


def _end_with(waiting: int) -> None:
    """Lead a process group, and kill it once nobody holds the other end of the pipe `waiting`."""
    _be_deaf()
    join_group(0)
    os.read(waiting, 1)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)


def _be_deaf() -> None:
    """Leave it to the parent to answer the signals that ask a run to stop; programs that are started here hear them."""
    forget_handlers()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        hear(number, lambda *_: None)


def _modelled(single: Callable[[], GuardedEnv], group: ProcessGroup, timeout_seconds: float | None) -> SimpleNamespace:
    """What Gymnasium asks of an environment in the parent, of one that is closed again.

    It is built in a process of its own: threads that it began here would be missing in those that are forked later. If
    it cannot be built there, it is built here, where what it raises keeps its type and its place.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send_model, args=(single, group.number, there))
    process.start()
    there.close()
    try:
        if not answers([here], timeout_seconds):
            assert timeout_seconds is not None
            raise _silent(0, timeout_seconds)
        answer = here.recv()
        # It may take its time to close, and leave threads that never end.
        answers([here], timeout_seconds or CLOSE_SECONDS)
    except (EOFError, ConnectionError) as error:
        process.join(0.1)
        raise LostError(0, _died(process.exitcode)) from error
    finally:
        process.kill()
        process.join()
        here.close()
    if isinstance(answer, tuple):
        fault, trace = answer
        log.error("environment 0\n%s", trace)
        raise fault
    return SimpleNamespace(**answer, close=lambda: None) if answer else _model(single)


def _send_model(single: Callable[[], GuardedEnv], group: int, pipe: Connection) -> None:
    """Send what Gymnasium asks of an environment, or what it does wrong and a traceback, or None; and once closed."""
    _be_of(group)
    try:
        env = single()
    except FaultyEnvError as fault:
        pipe.send((fault, traceback.format_exc()))
        return
    except BaseException:
        pipe.send(None)
        return
    try:
        pipe.send(_asked(env))
    except Exception:
        # What cannot be sent.
        pipe.send(None)
    env.close()
    pipe.send("closed")


def _model(single: Callable[[], GuardedEnv]) -> SimpleNamespace:
    env = single()
    model = SimpleNamespace(**_asked(env), close=lambda: None)
    env.close()
    return model


def _asked(env: GuardedEnv) -> dict[str, Any]:
    asked = ("metadata", "render_mode", "observation_space", "action_space")
    return {name: getattr(env, name) for name in asked}


def _model_here(home: int, model: SimpleNamespace, single: Callable[[], GuardedEnv]) -> Any:
    """The model in the process `home`, an environment everywhere else."""
    return model if os.getpid() == home else single()


def _be_of(group: int) -> None:
    """Make this process a member of a process group, whose parent looks after it."""
    _be_deaf()
    # The parent counts the time.
    WATCHDOG.leave_it()
    end_with_parent(signal.SIGKILL)
    join_group(group)
    # Threads that the parent had do not exist here, and OpenMP would wait for them.
    torch.set_num_threads(1)


def _draw_apart(streams: tuple[int, ...]) -> None:
    """Have NumPy's and torch's global generators draw other numbers than in the other processes, all of them forked.

    What they draw follows from where they were: one that a module has seeded repeats. Python does it for its own.
    """
    inherited = [*np.random.randint(2**32, size=4, dtype=np.uint32), *torch.randint(2**32, (4,), device="cpu")]
    words = np.random.SeedSequence([*streams, *map(int, inherited)]).generate_state(5)
    np.random.seed(words[:4])
    torch.default_generator.manual_seed(int(words[4]))


def _work(
    group: int, streams: tuple[int, ...], index: int, build: Callable[[], GuardedEnv], pipe: Connection, *others: Any
) -> None:
    """Play an environment in this process, as a member of a process group."""
    _be_of(group)
    _draw_apart((*streams, index))
    parent_pipe, memory, errors, *rest = others
    try:
        env = Separate(build())
    except BaseException as error:
        trace = traceback.format_exc()
        # The parent asks when it has begun all processes.
        pipe.recv()
        error = _sendable(error, index)
        errors.put((index, type(error), error, trace))
        pipe.send((None, False))
        return
    # Without its pipe it can say nothing, and the parent says that it is lost.
    with suppress(OSError):
        _async_worker(index, lambda: env, pipe, parent_pipe, memory, errors, *rest)


def _sendable(error: BaseException, index: int) -> BaseException:
    """The exception of a constructor if it reaches another process as it is; otherwise what it says."""
    with suppress(Exception):
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    return FaultyEnvError(f"environment {index}, constructor: it raised {described(error)}. Fix the environment.")


class Separate(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment in a process of its own, where nobody else guards the calls."""

    def __init__(self, env: GuardedEnv) -> None:
        super().__init__(env)
        self._guard = env.guard
        # From now on the parent counts the time.
        self._guard.seconds = None

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        with self._guard:
            return self.env.reset(**arguments)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with self._guard:
            return self.env.step(action)

    def get_wrapper_attr(self, name: str) -> Any:
        def guarded(*arguments: Any) -> Any:
            with self._guard:
                attribute = self.env.get_wrapper_attr(name)
                return attribute(*arguments) if callable(attribute) else attribute

        return guarded
