"""Environments that do what no environment should: the run names it or goes on, and nothing is left behind."""

import contextlib
import fcntl
import gc
import inspect
import json
import logging
import logging.config
import multiprocessing
import os
import platform
import pty
import re
import resource
import signal
import subprocess
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.api.playing import Policy
from seqrl.devices import Device
from seqrl.envs import EnvError, FaultyEnvError, GymnasiumEnv
from seqrl.envs.adopted import adopted
from seqrl.envs.gym import calls, watchdog
from seqrl.envs.gym.calls import Guard, _round_so, _rounds
from seqrl.errors import CheckpointError, StoppedError, TakenError, links
from seqrl.machine import LIMITS as LIMITS_OF_PROCESS
from seqrl.machine import hear, keep, last_words, let_go, lift, limits
from seqrl.run.stop import Stop
from seqrl.runner import Runner
from seqrl.spaces import Joint, Packed
from seqrl.types import Step
from tests.envs import oddities
from tests.parts import small_network
from tests.programs import Program
from tests.worlds import Script

# The parent of the forked processes has run OpenMP threads; the processes only play.
pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning", "ignore::UserWarning:gymnasium"
)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Plain(gymnasium.Env):
    """Episodes of 5 steps; shows its clock and the last action."""

    observation_space = spaces.Box(-9.0, 9.0, (2,))
    action_space = spaces.Box(-1.0, 1.0, (2,))
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  # as Gymnasium has it

    def __init__(self, odd="", render_mode=None):
        self.odd, self.render_mode, self.episode = odd, render_mode, 0
        self.do("init")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.clock = self.episode + 1, 0
        self.do("reset")
        return self.seen(), {}

    def step(self, action):
        self.clock += 1
        self.do("step")
        self.action = np.array(action)
        return self.seen(), 1.0, self.clock == 5, False, {}

    def seen(self):
        return np.array([self.clock, 0], np.float32)

    def render(self):
        self.do("render")
        return np.zeros((2, 2, 3), np.uint8)

    def close(self):
        self.do("close")

    def do(self, where):
        """Be odd: `odd` is a deed of DEEDS and where it is done."""
        deed, _, place = self.odd.partition(" at ")
        if place == where:
            DEEDS[deed](self)


def raises(kind):
    def deed(env):
        if env.episode == 2:
            raise kind("the window was closed")

    return deed


def raises_this(error):
    def deed(*given):
        raise error

    return deed


def hang(env):
    time.sleep(60)


def hang_in_a_process(env):
    """Only where it has a process of its own: the constructor of the first must succeed in the parent."""
    if multiprocessing.parent_process() is not None:
        time.sleep(60)


def swallow(env):
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(0.05)


def stop_the_clock(env):
    signal.alarm(0)
    time.sleep(60)


def block_signals(env):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM, signal.SIGINT})


def block_and_hang(env):
    block_signals(env)
    time.sleep(60)


# Its threads begin with its first use.
POOL = ThreadPoolExecutor(2)


class UnpicklableError(Exception):
    def __init__(self):
        super().__init__("no licence")
        self.lock = threading.Lock()


class TwoArgumentsError(Exception):
    def __init__(self, code, message):
        super().__init__(message)


def raise_in_a_process(error):
    def deed(env):
        if multiprocessing.parent_process() is not None:
            raise error

    return deed


def learn(env):
    weight = torch.ones(2, requires_grad=True)
    (weight * 3).sum().backward()
    assert weight.grad.tolist() == [3, 3]


def set_torch(env):
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    torch.set_default_device("meta")
    torch.set_anomaly_enabled(True, False)
    torch.set_flush_denormal(True)
    np.seterr(all="raise")


def set_more(env):
    for number in (signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGPIPE else signal.SIG_IGN)
    _round_so(0x800)
    torch.nn.modules.module.register_module_forward_hook(lambda module, given, made: made * 2)
    torch.autocast("cpu", dtype=torch.bfloat16).__enter__()
    logging.config.dictConfig({"version": 1})


def more_settings():
    return [
        signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGCHLD), _rounds(),
        bool(torch.nn.modules.module._global_forward_hooks), torch.is_autocast_enabled("cpu"),
    ]  # fmt: skip


def settings():
    return [
        torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
        torch.get_default_device(), torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled(),
        float(np.float64(5e-324) * 1.0) == 0, np.geterr(),
    ]  # fmt: skip


def help_itself(env):
    helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    helper.start()
    helper.terminate()
    helper.join()


def handle_signals(env):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))


def silence(env):
    sys.stdout = sys.stderr = None


def move(env):
    os.chdir(Path(__file__).parent)


def hurry(env):
    time.sleep = lambda seconds: None


def freeze(env):
    for name in ("time", "monotonic", "perf_counter", "process_time"):
        setattr(time, name, lambda: 1.7e9)


def use_a_pool(env):
    assert POOL.submit(sum, [1, 2]).result() == 3


def spawn(env):
    multiprocessing.set_start_method("spawn", force=True)


def fork_and(child):
    """Fork, from the second episode on; the child does what it is told, and then goes on."""

    def deed(env):
        if env.episode >= 2 and os.fork() == 0:
            child()

    return deed


def late(*_):
    raise TimeoutError("the simulator is late")


def set_an_alarm(env, seconds=0.02):
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)


TIMERS = [(signal.ITIMER_VIRTUAL, signal.SIGVTALRM), (signal.ITIMER_PROF, signal.SIGPROF)]


def leave_timer(timer, number, every=0.0):
    signal.signal(number, late)
    signal.setitimer(timer, 0.02, every)


def leave_timers(env):
    """As a profiler does, or a limit of time that nobody lifts."""
    for timer, number in TIMERS:
        leave_timer(timer, number, every=0.02)


def wait_when_collected(env):
    env.lock = Undying()


class Undying:
    def __init__(self):
        self.process = os.getpid()

    def __del__(self):
        if os.getpid() == self.process:
            time.sleep(60)


def compute(env):
    torch.ones(400, 400) @ torch.ones(400, 400)
    torch.ones(1_000_000).exp().sum()


LOWER = {"AS": 2**20, "DATA": 2**20, "STACK": 2**16, "CPU": 10**6, "FSIZE": 1, "NOFILE": 3, "NPROC": 1}


def set_limit(name, value):
    number = getattr(resource, f"RLIMIT_{name}")
    resource.setrlimit(number, (value, resource.getrlimit(number)[1]))


def set_limits(env):
    for name, value in LOWER.items():
        set_limit(name, value)


def lower_depth(env):
    """Let functions call one another a little deeper than they do here, which Gymnasium needs, but not the run."""
    sys.setrecursionlimit(len(inspect.stack(0)) + 30)


def lose_modules(env):
    sys.path, sys.meta_path[:] = [], []


def quieten(env):
    logging.getLogger("seqrl").propagate = False
    for logger in (logging.root, logging.getLogger("seqrl")):
        logger.setLevel(60)
        for handler in logger.handlers:
            handler.setLevel(60)


def run_out_of_memory(env):
    set_limit("AS", 2**20)
    bytearray(10**8)


def run_out_of_data(env):
    set_limit("DATA", 2**20)
    bytearray(10**8)


def run_out_of_time(env):
    set_limit("CPU", 1)
    while True:
        pass


DEEDS = {
    "exit": raises(SystemExit),
    "interrupt": raises(KeyboardInterrupt),
    "generator exit": raises(GeneratorExit),
    "hang": hang,
    "hang in a process": hang_in_a_process,
    "swallow": swallow,
    "stop the clock": stop_the_clock,
    "block signals": block_signals,
    "block and hang": block_and_hang,
    "raise what is not pickled": raise_in_a_process(UnpicklableError()),
    "raise what is not unpickled": raise_in_a_process(TwoArgumentsError(3, "no licence")),
    "go on in a fork": fork_and(lambda: None),
    "fail in a fork": fork_and(lambda: 1 // 0),
    "exit in a fork": fork_and(lambda: sys.exit(7)),
    "learn": learn,
    "set torch": set_torch,
    "set more": set_more,
    "help itself": help_itself,
    "handle signals": handle_signals,
    "compute": compute,
    "move": move,
    "silence": silence,
    "hurry": hurry,
    "freeze": freeze,
    "spawn": spawn,
    "use a pool": use_a_pool,
    "die": lambda env: os._exit(0),
    "set an alarm": set_an_alarm,
    "leave timers": leave_timers,
    "wait when collected": wait_when_collected,
    "set limits": set_limits,
    "lower depth": lower_depth,
    "lose modules": lose_modules,
    "quieten": quieten,
    "run out of memory": run_out_of_memory,
    "run out of data": run_out_of_data,
    "run out of time": run_out_of_time,
}


class Unfinite(Plain):
    def seen(self):
        first = np.nan if (self.episode, self.clock) == (2, 0) else self.clock
        return np.array([first, 0], np.float32)


class Composed(Unfinite):
    observation_space = spaces.Dict({"place": Plain.observation_space, "choice": spaces.Discrete(3)})

    def seen(self):
        return {"place": super().seen(), "choice": 1}


class Mute(Plain):
    """Never says where it is."""

    def state_dict(self):
        time.sleep(60)

    def load_state_dict(self, state):
        pass


class Hoarder(Plain):
    """Keeps many small arrays."""

    kept = ()

    def state_dict(self):
        return {"clock": self.clock, "kept": [np.zeros(3) for _ in range(300)], "tensor": torch.ones(2)}

    def load_state_dict(self, state):
        self.clock, self.kept = state["clock"], state["kept"]


for cls in (Plain, Unfinite, Composed, Mute, Hoarder):
    gymnasium.register(f"test/{cls.__name__}-v0", cls, disable_env_checker=True, order_enforce=False)


def made(backend, odd="", id="test/Plain-v0", timeout_seconds=None, batch_size=2, **kwargs):
    settings = {"backend": backend, "kwargs": {"odd": odd, **kwargs}, "timeout_seconds": timeout_seconds}
    return GymnasiumEnv(id, batch_size=batch_size, seed=0, **settings)


def played(env, steps=12):
    return Runner(env, small_network(env), steps, 0, torch.Generator().manual_seed(0)).collect()


def fault(env):
    with closing(env), pytest.raises(FaultyEnvError) as caught:
        played(env)
    assert not multiprocessing.active_children()
    return str(caught.value)


BOTH = pytest.mark.parametrize("backend", ["sync", "async"])
WHERE = r"^environment 0, episode 2 \(seed \d+\), "


@BOTH
@pytest.mark.parametrize(
    ("deed", "name"),
    [("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt"), ("generator exit", "GeneratorExit")],
)
def test_an_environment_that_ends_the_program_is_named(backend, deed, name):
    said = fault(made(backend, f"{deed} at step"))
    assert re.search(WHERE + rf"step 1: it raised {name}: the window was closed \(test_misbehaviour\.py:\d+\)\. ", said)


def test_an_environment_that_ends_the_program_is_named_where_its_speed_is_measured():
    env = made("auto", "exit at step")
    assert env.backend == "sync"
    assert re.search(WHERE + "step 1: it raised SystemExit", fault(env))


@pytest.mark.parametrize("backend", ["sync", "async", "auto"])
def test_a_constructor_that_ends_the_program_is_named(backend, monkeypatch):
    monkeypatch.setattr(Plain, "episode", 2, raising=False)
    monkeypatch.setitem(DEEDS, "exit", lambda env: sys.exit("no licence"))
    with pytest.raises(FaultyEnvError, match=r"^environment 0, constructor: it raised SystemExit: no licence"):
        made(backend, "exit at init")


# An environment may load a policy of seqrl, an opponent perhaps, or learn one.
ERRORS_OF_SEQRL = [
    CheckpointError("resume: mine"),
    StoppedError("stopped by SIGTERM.", 143),
    TakenError(["mine"]),
    EnvError("env.k: must be 3."),
    FaultyEnvError("environment 0, episode 1 (seed 2), step 3: mine."),
]


@pytest.mark.parametrize("error", ERRORS_OF_SEQRL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("backend", ["sync", "async", "auto"])
def test_an_error_of_seqrl_in_a_constructor_does_not_pass_as_the_run_s_own(backend, error, monkeypatch):
    monkeypatch.setitem(DEEDS, "mine", raises_this(error))
    said = (
        rf"^env\.id: test/Plain-v0 cannot be built: {type(error).__name__}: \S+.* \(test_misbehaviour\.py:\d+\)\. Fix"
    )
    with pytest.raises(EnvError, match=said):
        made(backend, "mine at init")


@pytest.mark.parametrize("error", ERRORS_OF_SEQRL, ids=lambda error: type(error).__name__)
@BOTH
def test_an_error_of_seqrl_in_a_step_does_not_pass_as_the_run_s_own(backend, error, monkeypatch):
    monkeypatch.setitem(DEEDS, "mine", raises_this(error))
    said = rf"it raised {type(error).__name__}: \S+.* \(test_misbehaviour\.py:\d+\)\. Fix the environment\.$"
    assert re.match(rf"environment 0, episode 1 \(seed \d+\), step 1: {said}", fault(made(backend, "mine at step")))


@pytest.mark.parametrize("error", [*ERRORS_OF_SEQRL, ValueError("oh"), SystemExit(0)], ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("place", ["reset", "step", "state_dict", "close"])
def test_whatever_an_own_batch_of_environments_raises_names_it(place, error, monkeypatch, caplog):
    monkeypatch.setattr(Script, place, raises_this(error))
    env = adopted(Script([[3]]))
    words = rf"env: tests\.worlds\.Script raised {type(error).__name__}: \S+.* \(test_misbehaviour\.py:\d+\)\. Fix"
    if place == "close":
        env.close()
        assert re.search(words, caplog.text)
        return
    with pytest.raises(FaultyEnvError, match=words):
        env.state_dict() if place == "state_dict" else played(env)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"reward": torch.ones(2, 1)}, r"reward as shape \(2, 1\) and torch\.float32, not as a tensor of shape \(2,\)"),
        ({"reward": [0.0, 1.0]}, "reward as list, not as a tensor"),
        (
            {"reward": torch.ones(2, dtype=torch.complex64)},
            r"reward as .*torch\.complex64, not as .* and torch\.float32",
        ),
        (
            {"reward": torch.full((2,), 1e39, dtype=torch.float64)},
            r"reward with 1e\+39, which torch\.float32 cannot hold\. Scale it",
        ),
        ({"reward": torch.tensor([0, 2**24 + 1])}, r"reward with 16777217, which torch\.float32 cannot hold"),
        ({"observation": torch.zeros(1, 4)}, r"observation as shape \(1, 4\) .*, not as a tensor of shape \(2, 4\)"),
        ({"terminated": torch.zeros(2)}, r"terminated as shape \(2,\) and torch\.float32, not as .* and torch\.bool"),
        ({"valid": None}, "valid as NoneType, not as a tensor"),
        (None, r"its answer as NoneType, not as a seqrl\.types\.Step"),
    ],
)
def test_an_own_batch_of_environments_that_answers_in_another_form_is_named(changed, said, monkeypatch):
    step, env = Script.step, adopted(Script([[3], [3]]))
    monkeypatch.setattr(Script, "step", lambda *given: changed and replace(step(*given), **changed))
    words = rf"^env: tests\.worlds\.Script\.step returned {said}.*[Ff]ix the environment\.$"
    with pytest.raises(FaultyEnvError, match=words):
        played(env)
    monkeypatch.setattr(Script, "reset", lambda *_: torch.zeros(2, 4, 1))
    with pytest.raises(FaultyEnvError, match=r"^env: tests\.worlds\.Script\.reset returned an observation as shape "):
        played(env)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_numbers_of_an_own_batch_of_environments_may_have_another_dtype(dtype, monkeypatch):
    expected = played(adopted(Script([[3], [3]])))
    step, reset = Script.step, Script.reset

    def converted(*given):
        made = step(*given)
        return replace(made, observation=made.observation.to(dtype), reward=made.reward.to(dtype))

    monkeypatch.setattr(Script, "step", converted)
    monkeypatch.setattr(Script, "reset", lambda *given: reset(*given).to(dtype))
    rollout = played(adopted(Script([[3], [3]])))
    for name in ("observation", "reward", "value"):
        found, known = getattr(rollout, name), getattr(expected, name)
        assert found.dtype == known.dtype
        assert torch.equal(found, known)


@pytest.mark.parametrize(("shown", "is_whole"), [(2.0, True), (1.5, False)])
def test_a_choice_of_an_own_batch_of_environments_may_be_shown_as_a_number_if_it_is_whole(shown, is_whole):
    env = Script([[3], [3]])
    env.observation_space, env.reset = spaces.Discrete(3), lambda *_: torch.tensor([shown, 0.0])
    if is_whole:
        assert adopted(env).reset().tolist() == [2, 0]
        return
    with pytest.raises(FaultyEnvError, match=r"observation with 1\.5, which torch\.int64 cannot hold"):
        adopted(env).reset()


@pytest.mark.parametrize(
    ("space", "action", "taken"),
    [
        (spaces.Discrete(3, start=5), 2, 7),
        (spaces.MultiDiscrete([2, 3], start=[1, -1]), [1, 0], [2, -1]),
        (spaces.MultiBinary((2, 2)), [0, 1, 1, 0], [[0, 1], [1, 0]]),
        (spaces.Box(-2.0, 4.0, (1,)), [0.5], [2.5]),
        (spaces.Box(np.float32([0, -np.inf]), np.float32([np.inf, np.inf])), [-3.0, -3.0], [0.0, -3.0]),
        (spaces.Box(-1.0, 1.0, (2,)), [0.5, -1.0], [0.5, -1.0]),
    ],
    ids=str,
)
def test_an_own_batch_of_environments_is_given_actions_of_its_space(space, action, taken, monkeypatch):
    env, given, step = Script([[3], [3]]), [], Script.step
    env.action_space = space
    monkeypatch.setattr(env, "step", lambda action: given.append(action) or step(env, action))
    batch = adopted(env)
    batch.reset()
    batch.step(torch.tensor([action, action]))
    assert given[0].tolist() == [taken, taken]
    assert space.contains(given[0][0].numpy().astype(space.dtype))
    policy = Policy(small_network(batch), batch.codec(), torch.Generator())
    assert space.contains(policy(np.zeros(4, np.float32), policy.initial_state())[0])


@pytest.mark.parametrize("space", [spaces.Box(0, 1, (3,), bool), spaces.MultiBinary(3)], ids=str)
def test_an_own_batch_of_environments_may_show_truths(space):
    env = Script([[3], [3]])
    env.observation_space, env.reset = space, lambda *_: torch.tensor([[True, False, True]] * 2)
    assert adopted(env).reset().tolist() == [[1, 0, 1]] * 2


def test_choices_that_an_own_batch_of_environments_shows_are_counted_from_0():
    env = Script([[3], [3]])
    env.observation_space, env.reset = spaces.Discrete(3, start=5), lambda *_: torch.tensor([7, 5])
    batch = adopted(env)
    assert (batch.observation_space, batch.reset().tolist()) == (spaces.Discrete(3), [2, 0])
    assert batch.codec().encode(7) == 2


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("action_space", Joint({"aim": spaces.Box(-2.0, 4.0, (1,)), "pick": spaces.Discrete(3)})),
        ("action_space", Joint({"pick": spaces.Discrete(3, start=5)})),
        ("observation_space", Packed({"n": spaces.Discrete(3, start=5)})),
    ],
)
def test_parts_of_an_own_batch_of_environments_are_in_the_terms_of_the_policy(name, space):
    env = Script([[3], [3]])
    setattr(env, name, space)
    said = rf"Script\.{name}: part '\w+' is .* In parts, let choices count from 0"
    with pytest.raises(EnvError, match=said):
        adopted(env)


@pytest.mark.parametrize("part", [spaces.Box(-1, 1, (1,), np.float64), spaces.Box(-1e38, 1e38, (1,), np.float32)])
def test_numbers_of_a_part_may_have_another_dtype_or_bounds_as_good_as_none(part):
    env = Script([[3], [3]])
    env.action_space = Joint({"pick": spaces.Discrete(2), "aim": part})
    assert adopted(env).action_space == env.action_space


def test_an_own_batch_of_environments_is_told_to_join_its_parts():
    env = Script([[3], [3]])
    env.observation_space = spaces.Dict({"a": spaces.Discrete(2)})
    with pytest.raises(EnvError, match=r"Script\.observation_space has parts\. Join them: see seqrl\.spaces\.Packed"):
        adopted(env)


class Overwrites(Script):
    """Writes each answer over the one before, and answers with gradients."""

    def __init__(self, lengths):
        super().__init__(lengths)
        self.given = {}

    def same(self, name, answer):
        with torch.no_grad():
            given = self.given.setdefault(name, torch.empty_like(answer)).copy_(answer)
        return given.requires_grad_() if given.is_floating_point() else given

    def reset(self, where=None):
        observation = super().reset(where)
        if where is not None:
            where.zero_()
        return self.same("observation", observation)

    def step(self, action):
        step = super().step(action)
        return Step(*(self.same(it.name, getattr(step, it.name)) for it in fields(Step)))


def test_an_own_batch_of_environments_may_write_over_what_it_has_returned():
    lengths = [[3, 5], [4]]
    expected = played(adopted(Script(lengths)))
    rollout = played(adopted(Overwrites(lengths)))
    for it in fields(rollout):
        found, known = getattr(rollout, it.name), getattr(expected, it.name)
        if isinstance(known, torch.Tensor):
            assert torch.equal(found, known), it.name
            assert not found.requires_grad


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()], ids=lambda error: type(error).__name__)
def test_an_own_batch_of_environments_is_not_blamed_for_too_little_memory_or_for_ctrl_c(error, monkeypatch):
    monkeypatch.setattr(Script, "step", raises_this(error))
    with pytest.raises(type(error)):
        played(adopted(Script([[3]])))


@BOTH
def test_an_error_of_seqrl_in_a_space_does_not_pass_as_the_run_s_own(backend, monkeypatch):
    monkeypatch.setattr(Plain, "observation_space", property(raises_this(CheckpointError("resume: mine"))))
    with pytest.raises(EnvError, match=r"^env\.id: test/Plain-v0 cannot be built: CheckpointError: resume: mine \("):
        made(backend)


@pytest.mark.parametrize(
    ("place", "kind", "said"),
    [
        ("init", EnvError, r"^env\.id: test/OwnForm-v0 cannot be built: CheckpointError: resume: mine \("),
        ("reset", FaultyEnvError, r"^environments: raised CheckpointError: resume: mine \("),
        ("step", FaultyEnvError, r"^environments: raised CheckpointError: resume: mine \("),
    ],
)
def test_an_error_of_seqrl_in_an_own_vector_form_does_not_pass_as_the_run_s_own(place, kind, said, monkeypatch):
    monkeypatch.setitem(DEEDS, "mine", raises_this(CheckpointError("resume: mine")))
    with pytest.raises(kind, match=said):
        played(made("vector", f"mine at {place}", id="test/OwnForm-v0"))


def test_an_error_of_seqrl_in_the_close_of_an_own_vector_form_is_said_and_the_run_goes_on(monkeypatch, caplog):
    monkeypatch.setitem(DEEDS, "mine", raises_this(CheckpointError("resume: mine")))
    with closing(made("vector", "mine at close", id="test/OwnForm-v0")) as env:
        played(env)
    assert "closing: environments: raised CheckpointError: resume: mine" in caplog.text


@pytest.mark.parametrize("id", ["test/Plain-v0", "test/OwnForm-v0"])
def test_what_a_signal_raises_in_a_constructor_is_no_fault_of_the_environment(id, monkeypatch):
    def stopped(number, frame):
        raise StoppedError("stopped by SIGTERM.", 143)

    monkeypatch.setitem(DEEDS, "mine", lambda env: signal.raise_signal(signal.SIGTERM))
    before = hear(signal.SIGTERM, stopped)
    try:
        with pytest.raises(StoppedError):
            made("vector" if "Own" in id else "sync", "mine at init", id=id)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_is_no_fault_of_the_environment(monkeypatch):
    monkeypatch.setitem(DEEDS, "hang", lambda env: os.kill(os.getpid(), signal.SIGINT))
    with closing(made("sync", "hang at step")) as env, pytest.raises(KeyboardInterrupt):
        played(env)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@BOTH
def test_an_environment_may_end_a_process_that_it_forked(backend):
    with Stop(), closing(made(backend, "help itself at reset", timeout_seconds=20)) as env:
        played(env)


def ends(backend, odd, file):
    """Play, and note the end of that and what became of processes that were forked here: twice if one of them plays."""
    with closing(made(backend, odd, timeout_seconds=20)) as env:
        played(env)
    codes = []
    with contextlib.suppress(ChildProcessError):
        while True:
            codes.append(os.waitstatus_to_exitcode(os.wait()[1]))
    with file.open("a") as lines:
        lines.write(f"played to the end, {codes}\n")


@pytest.mark.thin(8)
@pytest.mark.parametrize("place", ["reset", "step", "close"])
@pytest.mark.parametrize(("deed", "code"), [("go on", 1), ("fail", 1), ("exit", 7)])
def test_a_process_that_an_environment_forked_does_not_go_on_as_the_run(deed, code, place, tmp_path, capfd):
    file = tmp_path / "ends"
    process = multiprocessing.get_context("fork").Process(
        target=ends, args=("sync", f"{deed} in a fork at {place}", file)
    )
    process.start()
    process.join(60)
    (said,) = file.read_text().splitlines()
    codes = set(re.findall(r"\d+", said))
    assert process.exitcode == 0
    assert codes == {str(code)}
    words = capfd.readouterr().err
    if deed == "exit":
        assert "warning" not in words
    elif place != "close":
        assert re.search(
            WHERE.replace("^", "warning: ") + ".*a process that it forked went on as if it were the", words
        )


@pytest.mark.parametrize("deed", ["go on", "fail"])
def test_a_process_that_an_environment_forked_answers_nobody(deed, capfd):
    with closing(made("async", f"{deed} in a fork at step", timeout_seconds=20)) as env:
        played(env)
    assert "a process that it forked went on as if it were the run" in capfd.readouterr().err


@BOTH
def test_an_environment_may_learn(backend):
    with closing(made(backend, "learn at step")) as env, torch.inference_mode():
        env.reset()
        env.step(torch.zeros(2, 2))


@pytest.mark.parametrize("place", ["init", "reset", "step", "close"])
def test_torch_is_for_the_run_as_it_was_and_for_the_environment_as_it_left_it(place):
    before = settings()
    with closing(made("sync", f"set torch at {place}")) as env:
        played(env)
        assert settings() == before
        with env._episodes.guard:
            unchanged = [now == then for now, then in zip(settings(), before, strict=True)]
            assert not any(unchanged) if place != "close" else all(unchanged)
    assert settings() == before
    assert torch.is_grad_enabled()


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="has other numbers for rounding")
@pytest.mark.parametrize("id", ["test/Plain-v0", "test/OwnForm-v0"])
@pytest.mark.parametrize("place", ["init", "reset", "step", "close"])
def test_handlers_rounding_hooks_and_precision_are_for_the_run_as_they_were(id, place):
    before = more_settings()
    with closing(made("vector" if "Own" in id else "sync", f"set more at {place}", id=id)) as env:
        played(env)
        assert more_settings() == before
        with env._episodes.guard:
            assert (more_settings() == before) == (place == "close")
    assert more_settings() == before


@LINUX
@pytest.mark.parametrize("id", ["test/Plain-v0", "test/OwnForm-v0"])
@pytest.mark.parametrize("place", ["init", "reset", "step", "close"])
def test_limits_of_the_process_that_an_environment_lowers_are_as_before(id, place):
    before = limits()
    with closing(made("vector" if "Own" in id else "sync", f"set limits at {place}", id=id)) as env:
        played(env)
        assert limits() == before
    assert limits() == before


@pytest.mark.thin(5)
@pytest.mark.parametrize(("id", "backend"), [("Plain", "sync"), ("Plain", "async"), ("OwnForm", "vector")])
@pytest.mark.parametrize("place", ["init", "reset", "step", "close"])
@pytest.mark.parametrize("deed", ["lower depth", "lose modules"])
def test_calls_go_as_deep_and_modules_are_found_as_before(deed, id, backend, place):
    def there():
        return sys.getrecursionlimit(), sys.path, sys.meta_path

    before = sys.getrecursionlimit(), list(sys.path), list(sys.meta_path)
    with closing(made(backend, f"{deed} at {place}", id=f"test/{id}-v0")) as env:
        played(env)
        assert there() == before
    assert there() == before


@BOTH
def test_an_environment_that_calls_deeper_than_it_allows_is_named(backend, monkeypatch):
    def deeper():
        deeper()

    def fall(env):
        lower_depth(env)
        deeper()

    monkeypatch.setitem(DEEDS, "fall", fall)
    with closing(made(backend, "fall at step")) as env:
        assert re.search(r"^environment 0, episode 1 .*, step 1: it raised RecursionError", fault(env))


def test_what_an_environment_adds_to_where_modules_are_found_stays_where_it_is(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(DEEDS, "add", lambda env: sys.path.insert(0, "/of/the/simulator"))
    with closing(made("sync", "add at init", batch_size=1)) as env:
        played(env)
        assert sys.path[0] == "/of/the/simulator"


@pytest.mark.thin(4)
@LINUX
@BOTH
@pytest.mark.parametrize(
    ("deed", "error"),
    [
        ("run out of memory", "MemoryError"),
        ("run out of data", "MemoryError"),
        ("run out of time", "CpuTimeError: the process has used"),
    ],
)
def test_an_environment_that_meets_a_limit_of_its_own_is_named(backend, deed, error):
    before = limits()
    with closing(made(backend, f"{deed} at step")) as env:
        assert re.search(rf"^environment 0, episode 1 .*, step 1: it raised {error}", fault(env))
    assert limits() == before


@pytest.mark.slow
@LINUX
def test_where_no_more_processes_can_be_started_no_environment_is_blamed():
    """Each takes two files. A number of them stays: others are opened on the way."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = (
        r"^env\.backend: async cannot start 40 processes \(Too many open files\)\. Use .* or raise .*\(ulimit -n\)\.$"
    )
    gc.collect()
    set_limit("NOFILE", len(os.listdir("/proc/self/fd")) + 40)
    try:
        with pytest.raises(EnvError, match=said):
            made("async", batch_size=40)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not multiprocessing.active_children()


@LINUX
def test_limits_that_cannot_be_as_before_are_as_high_as_they_can_be(monkeypatch):
    now = dict.fromkeys(LIMITS_OF_PROCESS, (10, 50))

    def put(number, pair):
        if pair[1] == resource.RLIM_INFINITY or pair[1] > now[number][1]:
            raise ValueError("not allowed to raise maximum limit")
        now[number] = pair

    monkeypatch.setattr(resource, "getrlimit", now.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", put)
    endless = resource.RLIM_INFINITY
    lift([(20, endless), (endless, endless), (5, 50), (40, 40), (10, 60), (10, 50), (10, 50)])
    assert list(now.values()) == [(20, 50), (50, 50), (10, 50), (40, 50), *[(10, 50)] * 3]


@pytest.mark.parametrize("of_the_run", ["ieee", "tf32"])
def test_an_environment_is_not_blamed_for_the_precision_of_the_run_nor_changes_it(of_the_run, monkeypatch):
    # torch tells the precision by its old name only while nobody has set it by the new ones.
    def rough(env):
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"

    monkeypatch.setitem(DEEDS, "rough", rough)
    Device("cpu", 1, "tf32" if of_the_run == "tf32" else "float32").prepare()
    try:
        with closing(made("sync", "rough at step")) as env:
            played(env)
        assert torch.backends.cuda.matmul.fp32_precision == of_the_run
        assert torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee")
    finally:
        Device("cpu", 1, "float32").prepare()


@pytest.mark.parametrize("place", ["init", "reset", "step", "close"])
@pytest.mark.parametrize("deed", ["set more", "quieten"])
def test_an_environment_that_configures_logging_silences_no_logger_of_the_run(deed, place, caplog):
    with closing(made("sync", f"{deed} at {place}")) as env:
        played(env)
        logging.getLogger("seqrl.run").warning("heard before the end")
    logging.getLogger("seqrl.run").warning("heard after it")
    assert caplog.messages == ["heard before the end", "heard after it"]


@pytest.mark.parametrize("id", ["test/Plain-v0", "test/OwnForm-v0"])
@pytest.mark.parametrize("place", ["init", "reset", "step", "close"])
def test_an_environment_has_a_working_folder_of_its_own(id, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closing(made("vector" if "Own" in id else "sync", f"move at {place}", id=id)) as env:
        played(env)
        with env._episodes.guard:
            assert (Path.cwd() == Path(__file__).parent) == (place != "close")
        assert Path.cwd() == tmp_path
    assert Path.cwd() == tmp_path


IMPORTED = """
import os, signal, sys
import gymnasium, numpy, torch
from tests.envs.test_misbehaviour import Plain

torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
numpy.seterr(all="raise")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.chdir("/")
sys.setrecursionlimit(300)


class Env(Plain):
    pass


gymnasium.register("test/{name}-v0", {entry_point}, disable_env_checker=True)
"""


@pytest.mark.parametrize("where", ["its module", "the module of its entry point"])
def test_what_a_module_sets_when_it_is_imported_is_for_its_environments_and_not_for_the_run(
    where, tmp_path, monkeypatch, request
):
    def here():
        return (
            *settings(),
            torch.is_grad_enabled(),
            signal.getsignal(signal.SIGTERM),
            Path.cwd(),
            sys.getrecursionlimit(),
        )

    name = f"imported_{hash(request.node.name) % 10**9}"
    (tmp_path / f"{name}.py").write_text(IMPORTED.format(name=name, entry_point="Env"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calls, "_of_modules", {})
    id = f"test/{name}-v0"
    if where == "its module":
        id = f"{name}:{id}"
    else:
        gymnasium.register(id, f"{name}:Env", disable_env_checker=True)
    before = here()
    # Only the first imports it.
    for _ in range(2):
        with closing(GymnasiumEnv(id, 2, 0, backend="sync")) as env:
            played(env)
            assert here() == before
            with env._episodes.guard:
                assert torch.get_default_dtype() == torch.float64
                assert np.geterr()["over"] == "raise"
                assert Path.cwd() == Path("/")
    assert here() == before


def test_a_module_that_hangs_when_it_is_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "hangs_when_imported.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        FaultyEnvError, match=r"^env.id: the module 'hangs_when_imported': it has not answered for 0.2 s"
    ):
        GymnasiumEnv("hangs_when_imported:Env-v0", 1, 0, timeout_seconds=0.2)


def test_an_environment_that_takes_the_streams_away_silences_itself_alone(capsys):
    with closing(made("sync", "silence at step")) as env:
        played(env)
        with env._episodes.guard:
            assert sys.stdout is None
        print("heard")
    assert capsys.readouterr().out == "heard\n"


@BOTH
@pytest.mark.parametrize("place", ["init", "reset", "step"])
def test_the_run_hears_signals_after_an_environment_set_a_handler_of_its_own(backend, place):
    with Stop() as stop, closing(made(backend, f"handle signals at {place}")) as env:
        played(env)
        if backend == "async":
            for process in env._episodes.envs.processes:
                os.kill(process.pid, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wanted is signal.SIGTERM
        played(env)


@BOTH
@pytest.mark.parametrize("place", ["init", "reset", "step"])
def test_the_run_hears_signals_after_an_environment_blocked_them(backend, place):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with Stop() as stop, closing(made(backend, f"block signals at {place}", timeout_seconds=20)) as env:
        played(env)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wanted is signal.SIGTERM


def defied(odd, last_words_in):
    """What a process of its own does that plays an environment which cannot be interrupted."""
    watchdog.LAST_SECONDS = 0.3
    with last_words(lambda error: last_words_in.write_text(str(error))):
        played(made("sync", odd, timeout_seconds=0.3))


@pytest.mark.parametrize(
    ("odd", "place"),
    [
        ("swallow at step", "environment 0, episode 1 (seed 1139743562), step 1"),
        ("stop the clock at reset", "environment 0, episode 1 (seed 1139743562), reset"),
        ("block and hang at init", "environments"),
    ],
)
def test_an_environment_that_defeats_the_clock_ends_the_program_and_is_named(odd, place, tmp_path, capfd):
    process = multiprocessing.get_context("fork").Process(target=defied, args=(odd, tmp_path / "said"))
    process.start()
    process.join(30)
    assert process.exitcode == 5
    said = (tmp_path / "said").read_text()
    assert said.startswith(f"{place}: it has not answered for 0.3 seconds")
    assert capfd.readouterr().err.splitlines()[-1] == f"seqrl: error: {said}"


@BOTH
def test_an_environment_that_waits_when_it_is_collected_does_not_hang_the_run(backend, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda it: None)
    began = time.monotonic()
    env = made(backend, "wait when collected at init", timeout_seconds=0.3, batch_size=1)
    played(env)
    env.close()
    del env
    gc.collect()
    assert time.monotonic() - began < 20


def test_an_environment_that_fails_and_waits_when_it_is_collected_does_not_hang_the_run(monkeypatch):
    def lock_and_exit(env):
        env.lock = Undying()
        sys.exit("no licence")

    monkeypatch.setattr(sys, "unraisablehook", lambda it: None)
    monkeypatch.setitem(DEEDS, "exit", lock_and_exit)
    began = time.monotonic()
    assert "no licence" in fault(made("sync", "exit at step", timeout_seconds=0.3, batch_size=1))
    with pytest.raises(FaultyEnvError, match="no licence"):
        made("sync", "exit at init", timeout_seconds=0.3, batch_size=1)
    gc.collect()
    assert time.monotonic() - began < 20


def test_an_environment_may_have_a_pool_of_threads_for_all_of_its_process():
    with closing(made("async", "use a pool at init", timeout_seconds=5)) as env:
        played(env)
    assert not POOL._threads


def test_an_environment_that_leaves_a_thread_does_not_hold_up_its_processes(monkeypatch):
    monkeypatch.setitem(DEEDS, "leave", lambda env: threading.Thread(target=time.sleep, args=(60,)).start())
    began = time.monotonic()
    env = made("async", "leave at init", batch_size=1, timeout_seconds=40)
    assert time.monotonic() - began < 20
    env._episodes.envs.close(terminate=True)
    env.close()


def test_a_constructor_that_ends_its_process_is_named():
    with pytest.raises(FaultyEnvError, match=r"^environment 0, constructor: its process died"):
        made("async", "die at init")
    assert not multiprocessing.active_children()


def test_an_environment_whose_metadata_cannot_be_sent_is_played(monkeypatch):
    monkeypatch.setattr(Plain, "metadata", {"render_modes": [], "lock": threading.Lock()})
    with closing(made("async", timeout_seconds=20)) as env:
        played(env)


def test_an_environment_may_choose_how_processes_start():
    before = multiprocessing.get_start_method()
    try:
        multiprocessing.set_start_method("spawn", force=True)
        with closing(made("async", "spawn at init", timeout_seconds=20)) as env, torch.inference_mode():
            played(env)
    finally:
        multiprocessing.set_start_method(before, force=True)


@BOTH
def test_an_alarm_of_an_environment_does_not_ring_outside_its_calls(backend):
    with closing(made(backend, "set an alarm at step")) as env:
        env.reset()
        for _ in range(2):
            env.step(torch.zeros(2, 2))
            time.sleep(0.05)
    assert (signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM)) == ((0, 0), signal.SIG_DFL)


def busy(seconds):
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [None, 20])
@BOTH
def test_a_timer_of_processor_time_that_an_environment_leaves_ends_with_its_call(backend, seconds):
    numbers = (signal.SIGVTALRM, signal.SIGPROF)
    with closing(made(backend, "leave timers at step", timeout_seconds=seconds)) as env:
        env.reset()
        for _ in range(2):
            env.step(torch.zeros(2, 2))
            busy(0.1)
            assert [signal.getsignal(number) for number in numbers] == [signal.SIG_DFL] * 2


def test_a_timer_of_processor_time_rings_within_a_call_and_one_of_the_run_outlives_it(monkeypatch):
    said = "episode 1 (seed 1139743562), step 1: it raised TimeoutError: the simulator is late"
    for timer in TIMERS:
        # One at a time: of two, one might ring while it is said that the other did.
        monkeypatch.setitem(DEEDS, "work", lambda env, it=timer: (leave_timer(*it), busy(1)))
        assert said in fault(made("sync", "work at step", batch_size=1))
    rings = []
    before = signal.signal(signal.SIGPROF, lambda *_: rings.append(1))
    try:
        with closing(made("sync")) as env:
            env.reset()
            signal.setitimer(signal.ITIMER_PROF, 0.05)
            env.step(torch.zeros(2, 2))
            busy(0.1)
        assert rings == [1]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def test_an_alarm_of_an_environment_rings_within_its_calls(monkeypatch):
    monkeypatch.setitem(DEEDS, "hang", lambda env: env.clock == 2 and time.sleep(60))
    # Long enough for the step before, also on a busy machine.
    monkeypatch.setattr(Plain, "seen", lambda env: (set_an_alarm(env, 0.5), np.zeros(2, np.float32))[1])
    assert "episode 1 (seed 1139743562), step 2: it raised TimeoutError: the simulator is late" in fault(
        made("sync", "hang at step", batch_size=1)
    )


def test_an_alarm_of_the_run_outlives_calls():
    rings = []
    before = signal.signal(signal.SIGALRM, lambda *_: rings.append(1))
    try:
        with closing(made("sync", "set an alarm at step")) as env:
            env.reset()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            env.step(torch.zeros(2, 2))
            time.sleep(0.3)
        assert rings == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def hurried():
    with closing(made("sync", "hurry at reset", timeout_seconds=5)) as env:
        env.reset()
        env.step(torch.zeros(2, 2))


@pytest.mark.slow
def test_an_environment_whose_sleeps_take_no_time_is_not_ended_early(monkeypatch):
    def compute(env):
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            time.sleep(1)

    # The clock of a limit does not depend on it; what looks after that clock would count the pauses.
    monkeypatch.setitem(DEEDS, "hurry", lambda env: (hurry(env), compute(env)))
    process = multiprocessing.get_context("fork").Process(target=hurried)
    process.start()
    process.join(30)
    assert process.exitcode == 0


def test_an_environment_has_clocks_of_its_own():
    real = time.monotonic
    with closing(made("sync", "freeze at init")) as env:
        assert time.monotonic is real
        played(env)
        with env._episodes.guard:
            assert time.monotonic() == time.perf_counter() == 1.7e9
    assert time.monotonic is real


@pytest.mark.parametrize("odd", ["raise what is not pickled", "raise what is not unpickled"])
def test_a_constructor_that_raises_what_no_process_can_hand_over_is_named(odd):
    with pytest.raises(EnvError, match=r"^env\.id: test/Plain-v0 cannot be built: \w+Error: no licence \(test_misb"):
        made("async", f"{odd} at init", timeout_seconds=20)
    assert not multiprocessing.active_children()


@BOTH
def test_a_constructor_that_hangs_is_named(backend):
    deed, index = {"sync": ("hang", 0), "async": ("hang in a process", 0)}[backend]
    began = time.monotonic()
    with pytest.raises(
        FaultyEnvError, match=rf"^environment {index}, constructor: it has not answered for 0\.3 seconds"
    ):
        made(backend, f"{deed} at init", timeout_seconds=0.3)
    assert time.monotonic() - began < 20
    assert not multiprocessing.active_children()


@BOTH
def test_an_environment_that_hangs_when_it_closes_does_not_hang_the_run(backend):
    began = time.monotonic()
    env = made(backend, "hang at close", timeout_seconds=0.3)
    played(env)
    env.close()
    assert time.monotonic() - began < 20
    assert not multiprocessing.active_children()


def test_an_environment_that_hangs_when_it_closes_does_not_hang_the_measurement_of_its_speed():
    began = time.monotonic()
    made("auto", "hang at close", timeout_seconds=0.3).close()
    assert time.monotonic() - began < 20


@BOTH
def test_an_environment_that_hangs_when_it_is_saved_is_named(backend):
    overdue = pytest.raises(FaultyEnvError, match=r"^environment 0, episode 1 .* has not answered for 0\.3 seconds")
    # It is tried before anything is played.
    with closing(made(backend, id="test/Mute-v0", timeout_seconds=0.3)) as env, overdue:
        env.reset()


@BOTH
def test_an_environment_that_hangs_when_it_is_drawn_is_named(backend):
    with closing(made(backend, "hang at render", timeout_seconds=0.3, render_mode="rgb_array")) as env:
        env.reset()
        with pytest.raises(FaultyEnvError, match=r"^environment 0, .* has not answered for 0\.3 seconds"):
            env.render()


def children(pid):
    """A process's children, and theirs."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(stat.parent.name), *children(int(stat.parent.name))]
    return found


def suspended(play):
    """Exit code of a process that plays and is suspended meanwhile, longer than its limit; its children too."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=play, args=(ready,))
    process.start()
    assert ready.wait(20)
    theirs = children(process.pid)
    for pid in (process.pid, *theirs):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGCONT)
    # They answer later still.
    time.sleep(0.2)
    for pid in theirs:
        os.kill(pid, signal.SIGCONT)
    process.join(30)
    return process.exitcode


def play_in_a_guard(ready):
    with Guard(1.0):
        ready.set()
        time.sleep(0.3)


def play_with_a_process_each(ready):
    with closing(made("async", timeout_seconds=1.0)) as env:
        env.reset()
        ready.set()
        until = time.monotonic() + 1.9
        while time.monotonic() < until:
            env.step(torch.zeros(2, 2))


@LINUX
@pytest.mark.parametrize("play", [play_in_a_guard, play_with_a_process_each])
def test_a_limit_counts_no_time_in_which_the_process_was_suspended(play):
    assert suspended(play) == 0


class OwnForm(gymnasium.vector.VectorEnv):
    """All environments in one program; odd as the others."""

    metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}  # noqa: RUF012  # as Gymnasium has it
    single_observation_space, single_action_space = Plain.observation_space, Plain.action_space

    def __init__(self, num_envs, odd=""):
        self.num_envs, self.odd, self.episode = num_envs, odd, 2
        self.observation_space = gymnasium.vector.utils.batch_space(Plain.observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(Plain.action_space, num_envs)
        Plain.do(self, "init")

    def reset(self, *, seed=None, options=None):
        Plain.do(self, "reset")
        return np.zeros((self.num_envs, 2), np.float32), {}

    def step(self, actions):
        Plain.do(self, "step")
        nothing = np.zeros(self.num_envs)
        return np.zeros((self.num_envs, 2), np.float32), nothing, nothing > 0, nothing > 0, {}

    def close_extras(self, **arguments):
        Plain.do(self, "close")


gymnasium.register("test/OwnForm-v0", vector_entry_point=OwnForm)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ("hang at init", r"^environments, constructor: it has not answered for 0\.3 seconds"),
        ("exit at init", r"^environments, constructor: it raised SystemExit"),
        ("hang at reset", r"^environments: it has not answered for 0\.3 seconds"),
        ("exit at step", r"^environments: raised SystemExit: the window was closed"),
    ],
)
def test_an_own_vector_form_is_named_too(odd, message):
    with pytest.raises(FaultyEnvError, match=message):
        played(made("vector", odd, id="test/OwnForm-v0", timeout_seconds=0.3))


# What does not hang may take its time: torch imports much for one of its settings.
LIMITS = {"hang at close": 0.3}


@pytest.mark.parametrize("odd", ["hang at close", "exit at close", "set torch at step", "handle signals at step"])
def test_an_own_vector_form_leaves_the_run_as_it_was(odd):
    before = torch.get_default_dtype(), signal.getsignal(signal.SIGTERM)
    with closing(made("vector", odd, id="test/OwnForm-v0", timeout_seconds=LIMITS.get(odd, 10))) as env:
        played(env)
    assert (torch.get_default_dtype(), signal.getsignal(signal.SIGTERM)) == before


@BOTH
@pytest.mark.parametrize(("id", "name"), [("Unfinite", "observation"), ("Composed", "observation 'place'")])
def test_a_first_observation_that_is_not_finite_is_named(backend, id, name):
    said = fault(made(backend, id=f"test/{id}-v0"))
    assert re.search(WHERE + rf"reset: its {name} is nan\. Fix", said)


@BOTH
def test_a_state_of_many_arrays_opens_no_files(backend):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(made(backend, id="test/Hoarder-v0")) as env:
        env.reset()
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, limits[1]))
        try:
            state = env.state_dict()
            assert env.load_state_dict(state).all()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert [len(said["env"]["kept"]) for said in state["said"]] == [300, 300]


@BOTH
def test_a_first_observation_that_is_not_finite_is_named_on_resume_too(backend):
    with closing(made(backend, id="test/Unfinite-v0")) as env:
        env.reset()
        state = env.state_dict()
    state["number"] += 1
    with closing(made(backend, id="test/Unfinite-v0")) as env:
        env.reset()
        with pytest.raises(FaultyEnvError, match=r"^environment 0, episode 2 .*, reset: its observation is nan"):
            env.load_state_dict(state)


@pytest.mark.parametrize("ghosts", [False, True])
@pytest.mark.parametrize("rollout_length", [0, 12])
def test_a_first_observation_that_is_not_finite_is_found_in_any_environment(ghosts, rollout_length):
    env = Script([[3], [3]], ghosts=ghosts)
    seen = env.observation
    env.observation = lambda: (
        seen().index_put((torch.tensor(1), torch.tensor(3)), torch.tensor(torch.inf))
        if (env.clock[1] == 0 and env.episode[1] == 1)
        else seen()
    )
    runner = Runner(env, small_network(env), rollout_length, 0, torch.Generator().manual_seed(0))
    with pytest.raises(FaultyEnvError, match=r"^environment 1, reset: its observation is inf\. Fix"):
        [runner.collect() for _ in range(2)]


def test_a_reward_at_a_ghost_step_may_be_anything():
    env = Script([[2], [2]], ghosts=True)
    plain = env.step

    def step(action):
        it = plain(action)
        return Step(it.observation, it.reward.where(it.valid, torch.inf), it.terminated, it.truncated, it.valid)

    env.step = step
    played(env)


class Chance(Plain):
    """Shows what the global generators draw."""

    def seen(self):
        return np.array([np.random.rand(), torch.rand(())], np.float32)


gymnasium.register("test/Chance-v0", Chance, disable_env_checker=True, order_enforce=False)


@pytest.fixture
def global_chance():
    """Puts the global random numbers back after a test that seeds them."""
    of_numpy, of_torch = np.random.get_state(), torch.get_rng_state()
    yield
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)


@pytest.mark.slow
def test_environments_with_processes_draw_other_global_random_numbers_each(global_chance):
    def drawn(seed, of_module):
        np.random.seed(of_module)
        torch.manual_seed(of_module)
        with closing(GymnasiumEnv("test/Chance-v0", 2, seed, backend="async")) as env:
            return env.reset().numpy().tolist()

    one, other, another = drawn(0, 0), drawn(1, 0), drawn(0, 1)
    assert len({number for pair in [*one, *other, *another] for number in pair}) == 12
    assert drawn(0, 0) == one


@pytest.mark.skipif(not torch.backends.openmp.is_available(), reason="torch has no OpenMP here")
def test_an_environment_in_its_own_process_may_compute_after_the_run_has_used_several_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        compute(None)
        with closing(made("async", "compute at step", timeout_seconds=20)) as env:
            env.reset()
            env.step(torch.zeros(2, 2))
    finally:
        torch.set_num_threads(before)


def test_a_lock_ends_with_its_process_whatever_it_forked(tmp_path):
    held = keep(os.open(tmp_path, os.O_RDONLY))
    fcntl.flock(held, fcntl.LOCK_EX)
    helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    helper.start()
    let_go(held)
    again = os.open(tmp_path, os.O_RDONLY)
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        assert time.monotonic() < deadline
    os.close(again)
    assert helper.is_alive()
    helper.kill()
    helper.join()


def gone(pids):
    deadline = time.monotonic() + 10
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > deadline:
            return alive
        time.sleep(0.05)
    return []


PROGRAMS = """
import subprocess, time
import tests.envs.test_misbehaviour as it
it.DEEDS["start"] = lambda env: subprocess.Popen(["sleep", "60"])
env = it.made("async", "start at reset")
env.reset()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@LINUX
def test_programs_that_environments_started_end_with_a_killed_run():
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", PROGRAMS], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "ready\n"
        theirs = children(run.pid)
        run.kill()
    # Two environments, two programs, and the leader of their group.
    assert len(theirs) == 5
    assert gone(theirs) == []


@contextmanager
def started_programs(monkeypatch):
    """Environments that have each started a program, and all processes that came with them."""
    monkeypatch.setitem(DEEDS, "start", lambda env: subprocess.Popen(["sleep", "60"]))
    before = children(os.getpid())
    with closing(made("async", "start at reset")) as env:
        env.reset()
        yield env, set(children(os.getpid())) - set(before)


@LINUX
def test_programs_that_environments_started_end_with_them(monkeypatch):
    with started_programs(monkeypatch) as (_, theirs):
        pass
    assert len(theirs) == 5
    assert gone(theirs) == []


@LINUX
def test_a_run_whose_group_has_lost_its_leader_ends_and_so_do_programs(monkeypatch):
    with started_programs(monkeypatch) as (env, theirs):
        # It alone leads a group.
        (leader,) = (pid for pid in theirs if os.getpgid(pid) == pid)
        os.kill(leader, signal.SIGKILL)
        os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
        with pytest.raises(FaultyEnvError, match="the process that ends what environments start was killed"):
            env.step(torch.zeros(2, 2))
    assert gone(theirs) == []


@pytest.mark.thin(2)
@LINUX
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_a_signal_to_all_processes_of_a_run_saves_it(tmp_path, backend):
    arguments = ["env=gymnasium", "env.id=CartPole-v1", f"env.backend={backend}", "parallel=2", "rollout_length=16"]
    arguments += ["network.hidden_size=8", "network.lstm_hidden_size=8", "episodes=1000000", "logger=jsonl"]
    with Program(tmp_path, "-m", "seqrl.train", *arguments, f"hydra.run.dir={tmp_path}/run") as run:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("run/checkpoints/*[1-9].pt")) and time.monotonic() < deadline:
            time.sleep(0.1)
        theirs = children(run.pid)
        for pid in theirs:
            os.kill(pid, signal.SIGUSR1)
        # As `timeout` does: to the process, and at once to all.
        for pid in (run.pid, run.pid, *theirs):
            os.kill(pid, signal.SIGTERM)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 143
    assert said.splitlines()[-1] == f"seqrl: error: stopped by SIGTERM. Continue with resume={tmp_path}/run"
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "interrupted"
    assert len(theirs) == {"sync": 0, "async": 3}[backend]
    assert gone(theirs) == []


@BOTH
@pytest.mark.parametrize("said", [None, "no", np.nan, 2, np.zeros(2, bool)], ids=str)
def test_an_end_that_is_neither_true_nor_false_is_named(said, backend, monkeypatch):
    monkeypatch.setattr(Plain, "step", lambda env, action: (env.seen(), 1.0, said, False, {}))
    with pytest.raises(FaultyEnvError, match=r"^environment 0, episode 1 .*, step 1: it returned .* for terminated\. "):
        played(made(backend))


@BOTH
@pytest.mark.parametrize("name", ["learning", "half", "unreadable"])
def test_an_observation_that_cannot_be_read_is_named(name, backend, monkeypatch):
    spoil = oddities.OBSERVATIONS[name]
    monkeypatch.setattr(oddities.Unreadable, "shape", (2,))
    monkeypatch.setattr(Plain, "seen", lambda env: spoil(np.zeros(2, np.float32)) if env.clock else np.zeros(2))
    with pytest.raises(FaultyEnvError, match=r"^environment 0, episode 1 .*, step 1: it raised \w+Error: "):
        played(made(backend))


def test_an_array_with_rules_of_its_own_is_read_as_numbers(monkeypatch):
    monkeypatch.setattr(Plain, "seen", lambda env: np.ones(2, np.float32).view(oddities.Metres))
    with closing(made("sync")) as env:
        assert env.reset().tolist() == [[1, 1], [1, 1]]


def test_what_an_own_vector_form_answers_is_read_while_its_time_is_limited(monkeypatch):
    class Slow:
        def __array__(self, dtype=None, copy=None):
            time.sleep(60)

    monkeypatch.setattr(OwnForm, "reset", lambda env, **_: (Slow(), {}))
    with pytest.raises(FaultyEnvError, match=r"^environments: it has not answered for 0\.3 seconds"):
        played(made("vector", id="test/OwnForm-v0", timeout_seconds=0.3))


@BOTH
def test_a_space_that_is_not_supported_is_refused_alike(backend, monkeypatch):
    monkeypatch.setattr(Plain, "observation_space", oddities.SPACES["graph"])
    with pytest.raises(EnvError, match=r"^env\.id: the observation is Graph, which is not supported"):
        made(backend)


@pytest.mark.parametrize("said", [1, 0, np.bool_(True), np.array([True]), torch.tensor(False), 1.0], ids=repr)
def test_an_end_may_be_any_true_or_false(said, monkeypatch):
    monkeypatch.setattr(Plain, "step", lambda env, action: (env.seen(), 1.0, said, False, {}))
    with closing(made("sync")) as env:
        env.reset()
        assert env.step(torch.zeros(2, 2)).terminated.tolist() == [bool(said)] * 2


@pytest.mark.parametrize("space", [spaces.Dict({}), spaces.Tuple(()), spaces.Box(-1, 1, (0,))], ids=repr)
def test_where_there_is_nothing_to_choose_the_environment_is_refused(space, monkeypatch):
    monkeypatch.setattr(Plain, "action_space", space)
    with pytest.raises(EnvError, match=r"^env\.id: test/Plain-v0 has nothing to choose"):
        made("sync")


def test_an_error_that_cannot_say_what_is_wrong_is_named_by_its_type(monkeypatch):
    class Wordless(Exception):  # noqa: N818
        def __str__(self):
            raise ValueError

    monkeypatch.setitem(DEEDS, "exit", raises(Wordless))
    said = fault(made("sync", "exit at step"))
    assert "step 1: it raised Wordless: it cannot say what is wrong" in said


# What asks an environment's exception for its words, and what it then says of them.
SAID = {
    "from itself": "ValueError: the map is broken",
    "ring": "RuntimeError: a",
    "words that exit": "Says: it cannot say what is wrong",
    "number": "Says: it cannot say what is wrong",
    "many words": f"ValueError: {'x' * 2000}…",
}


@pytest.mark.parametrize("id", ["test/Plain-v0", "test/OwnForm-v0"])
@pytest.mark.parametrize("place", ["init", "step"])
@pytest.mark.parametrize("deed", SAID)
def test_an_environment_is_named_whatever_its_exception_does_or_comes_from(id, place, deed, monkeypatch, caplog):
    monkeypatch.setitem(DEEDS, "exit", oddities.DEEDS[deed])
    backend = "vector" if "Own" in id else "sync"
    with pytest.raises((FaultyEnvError, EnvError)) as caught, closing(made(backend, f"exit at {place}", id=id)) as env:
        played(env)
    said = SAID[deed].replace(":", "[:,]")
    assert re.search(said, str(caught.value))
    # What is logged is what was taken, and not asked for again.
    assert not any(type(it) in (oddities.Says, ValueError, RuntimeError) for it in links(caught.value))


@pytest.mark.parametrize("deed", SAID)
def test_an_environment_in_its_own_process_is_named_whatever_its_exception_does(deed, monkeypatch):
    monkeypatch.setitem(DEEDS, "exit", oddities.DEEDS[deed])
    assert re.search(rf"step 1: it raised {SAID[deed]}", fault(made("async", "exit at step", timeout_seconds=5)))


@pytest.mark.parametrize("place", ["init", "step", "close"])
def test_an_exception_that_waits_when_it_is_asked_for_words_hangs_nothing(place, monkeypatch, caplog):
    monkeypatch.setitem(DEEDS, "exit", oddities.DEEDS["words that wait"])
    began = time.monotonic()
    ends = contextlib.nullcontext() if place == "close" else pytest.raises((FaultyEnvError, EnvError))
    with ends as caught, closing(made("sync", f"exit at {place}", timeout_seconds=0.3)) as env:
        played(env)
    if place != "close":
        logging.getLogger("seqrl").error("as the program does", exc_info=caught.value)
    assert "Says: it cannot say what is wrong" in caplog.text
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("backend", ["sync", "async", "auto"])
def test_a_constructor_that_runs_out_of_memory_is_named(backend, monkeypatch):
    monkeypatch.setattr(Plain, "__init__", lambda *_, **__: bytearray(10**18))
    with pytest.raises(FaultyEnvError, match=r"^environment 0, constructor: it raised MemoryError"):
        made(backend, "exit at init")


@BOTH
def test_an_interrupt_that_an_environment_raises_when_it_closes_is_none_of_the_user(backend, monkeypatch, caplog):
    def interrupt(env):
        raise KeyboardInterrupt

    monkeypatch.setitem(DEEDS, "interrupt", interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with closing(made(backend, "interrupt at close")) as env:
        played(env)
    # The processes log it themselves.
    assert backend == "async" or "environment 0 failed to close: KeyboardInterrupt" in caplog.text


ON_A_TERMINAL = """
import os, sys, termios
from contextlib import closing
import gymnasium, torch
from seqrl.envs import GymnasiumEnv
from tests.envs.test_misbehaviour import Plain

class Loud(Plain):
    def reset(self, *, seed=None, options=None):
        os.write(1, b"begins\\n")
        termios.tcsetattr(1, termios.TCSANOW, termios.tcgetattr(1))
        return super().reset(seed=seed)

if __name__ == "__main__":
    settings = termios.tcgetattr(1)
    settings[3] |= termios.TOSTOP
    termios.tcsetattr(1, termios.TCSANOW, settings)
    gymnasium.register("test/Loud-v0", Loud)
    with closing(GymnasiumEnv("test/Loud-v0", 2, 0, backend="async", timeout_seconds=5)) as env:
        env.reset()
    print("played")
"""


@pytest.mark.slow
@LINUX
def test_an_environment_that_prints_to_the_terminal_or_sets_it_is_not_stopped_by_it(tmp_path):
    """The terminal stops whoever does so in its background, where a process group of environments is."""
    (tmp_path / "loud.py").write_text(ON_A_TERMINAL)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ours, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "loud.py"],
        cwd=tmp_path,
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    said = b""
    with contextlib.suppress(OSError):
        while more := os.read(ours, 4096):
            said += more
    os.close(ours)
    assert (process.wait(60), said.split()) == (0, [b"begins", b"begins", b"played"])
