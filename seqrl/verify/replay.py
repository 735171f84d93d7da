"""Plays what was played once more: in a new environment, from a saved state, in another process."""

import copy
import multiprocessing
import os
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from seqrl.config.program import forgiving_output
from seqrl.envs import BatchedEnv
from seqrl.envs.gym.processes import ProcessGroup, join_group
from seqrl.errors import described
from seqrl.machine import perf_counter
from seqrl.text import Hidden, hidden, hide
from seqrl.verify.findings import UncheckedError
from seqrl.verify.layers import episodes
from seqrl.verify.play import BATCH, Budget, MakeEnv, Play

# Steps of each that even the slowest environment is played for.
FEWEST = 16
# Seconds to wait for another process.
PATIENCE = 180


def reference(make_env: MakeEnv, budget: Budget) -> Play:
    """The play that others are compared with."""
    with closing(make_env(BATCH, "verify")) as env:
        play, began = opened(env), perf_counter()
        while len(play.answers) < 2 * budget.most and play.steps < BATCH * budget.most:
            took = perf_counter() - began
            enough = play.steps >= BATCH * budget.least and took >= budget.seconds
            slow = play.steps >= BATCH * FEWEST and took >= budget.slow
            if enough or slow or not play.step():
                break
    return play


def opened(env: BatchedEnv) -> Play:
    """A play that begins with the second reset of a new environment: see `rewound`."""
    first = Play(env)
    return first if first.fault else Play(env)


def retold(env: BatchedEnv, answers: int, beside: Callable[[], Any] | None = None) -> Play:
    """Play a new environment up to so many answers, and do something `beside` before each step."""
    return continued(opened(env), answers, beside)


def rewound(env: BatchedEnv, state: dict[str, Any], answers: int) -> Play:
    """Take environments back to their first seed, and play."""
    # A copy: an environment may keep what it is given. Only Gymnasium's states are known to have these names.
    given = copy.deepcopy(state)
    env.load_state_dict(given if episodes(env) is None else _by_seed(given))
    return continued(Play(env), answers)


def _by_seed(state: dict[str, Any]) -> dict[str, Any]:
    """The same without what environments say of themselves: restoring it would take back what a reset must forget."""
    inner = {"env": _by_seed(state["env"])} if isinstance(state.get("env"), dict) else {}
    return state | inner | {name: None for name in ("said", "digest") if name in state}


def resumed(play: Play, env: BatchedEnv) -> Play | None:
    """The same play from here on, in a new environment that restores its state; None if its episodes can't go on."""
    state = play.env.state_dict()
    if state is None or not bool(env.load_state_dict(copy.deepcopy(state)).all()):
        return None
    play.answers, play.clock = [], []
    twin = copy.copy(play)
    twin.env, twin.answers, twin.clock = env, [], []
    return twin


def continued(play: Play, answers: int, beside: Callable[[], Any] | None = None) -> Play:
    """Go on with a play up to so many answers, and do something `beside` before each step."""
    while len(play.answers) < answers:
        if beside:
            beside()
        if not play.step():
            break
    return play


def difference(one: Play | list[bytes], other: Play | list[bytes]) -> int | None:
    """Index of the first answer that differs, as far as both go; None if none does."""
    pair = [it.answers if isinstance(it, Play) else it for it in (one, other)]
    return next((index for index, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), None)


def stopped_early(whole: Play, replayed: Play | list[bytes], fault: str) -> str:
    """Why a play that should be as long as another is not; "" if it is."""
    answers = replayed.answers if isinstance(replayed, Play) else replayed
    if len(answers) >= len(whole.answers):
        return ""
    return f"it went on for {len(answers):,} of {len(whole.answers):,} answers{fault and f': {fault}'}"


def elsewhere(make_env: MakeEnv, answers: int, hash_seed: int) -> tuple[list[bytes], str]:
    """What the same play in a new process answered, and what ended it early; "" if nothing did.

    The process ends with all programs that it starts.

    hash_seed   by which it hashes texts, and so orders sets of them
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    group = ProcessGroup()
    process = context.Process(target=_tell, args=(theirs, make_env, answers, group.number, hidden()))
    try:
        with _variable("PYTHONHASHSEED", str(hash_seed)):
            process.start()
        theirs.close()
        if not ours.poll(PATIENCE):
            why = f"another process has not answered for {PATIENCE} seconds"
            raise UncheckedError(why, "See whether it can be built in two processes at once, and how long that takes.")
        replayed = ours.recv()
        # Its environments are closed.
        process.join(1)
    except (EOFError, ConnectionError) as error:
        raise UncheckedError("another process died before it had played") from error
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UncheckedError(f"it can't be built in another process: {described(error)}") from error
    finally:
        group.end()
        if process.pid is not None:
            process.kill()
            process.join()
    if isinstance(replayed, str):
        raise UncheckedError(f"another process could not play it: {replayed}")
    answered, fault = replayed
    return answered, fault


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Have processes that are started meanwhile find a variable of the system's environment so."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _tell(pipe: Connection, make_env: MakeEnv, answers: int, group: int, masks: Hidden) -> None:
    forgiving_output()
    hide(masks)
    join_group(group)
    torch.set_num_threads(1)
    told: tuple[list[bytes], str] | str
    try:
        with closing(make_env(BATCH, "verify")) as env:
            replayed = retold(env, answers)
            told = replayed.answers, replayed.fault
    except Exception as error:
        told = described(error)
    # Not before all are closed: then this process is ended.
    pipe.send(told)


@contextmanager
def global_streams_seeded() -> Iterator[None]:
    """Seed the random streams that all of a process share."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
