"""Faulty environments: one line says which, when and what, and no process is left behind."""

import multiprocessing
import os
import re
import signal
import sys
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.envs import FaultyEnvError, GymnasiumEnv
from seqrl.envs.gym.calls import Guard, OverdueError
from seqrl.runner import Runner
from seqrl.types import Step
from tests.parts import small_network
from tests.programs import Program
from tests.worlds import Script

# The parent of the forked processes has run OpenMP threads; the processes only play.
pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning", "ignore::UserWarning:gymnasium"
)


class Faulty(gymnasium.Env):
    """Episodes of 10 steps; commits `fault` at step `at` of its second episode."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, fault="none", at=3):
        self.fault, self.at = fault, at
        self.episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.clock = self.episode + 1, 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.clock += 1
        answer = [np.zeros(2, np.float32), 1.0, self.clock == 10, False, {}]
        if (self.episode, self.clock) == (2, self.at):
            return FAULTS[self.fault](answer)
        return tuple(answer)


class Unclosing(Faulty):
    def close(self):
        raise RuntimeError("the window is gone")


class OldReset(Faulty):
    def reset(self, **kwargs):
        return super().reset(**kwargs)[0]


class Unseeded(Faulty):
    def reset(self):
        return super().reset()


def raises(answer):
    raise ZeroDivisionError("division by zero\nand more")


def burns(answer):
    raise ValueError("the motor is on fire")


def replaced(index, value):
    return lambda answer: (*answer[:index], value, *answer[index + 1 :])


def hangs(answer):
    time.sleep(60)
    return tuple(answer)


def hangs_and_swallows(answer):
    with suppress(Exception):
        time.sleep(60)
    return hangs(answer)


def swallows_once(answer):
    """As a client that goes on with a default when its server fails."""
    with suppress(Exception):
        time.sleep(60)
    return (answer[0], -100.0, *answer[2:])


FAULTS = {
    "burns": burns,
    "swallows once": swallows_once,
    "hangs": hangs,
    "hangs and swallows": hangs_and_swallows,
    "raises": raises,
    "nan reward": replaced(1, float("nan")),
    "huge reward": replaced(1, -1e300),
    "text reward": replaced(1, "a lot"),
    "reward in text": replaced(1, "5"),
    "no reward": replaced(1, None),
    "wrong shape": replaced(0, np.zeros(3, np.float32)),
    "nan observation": replaced(0, np.array([0.0, np.nan], np.float32)),
    "four values": lambda answer: tuple(answer[:4]),
    "dies": lambda answer: os._exit(1),
}
gymnasium.register("test/Faulty-v0", Faulty, disable_env_checker=True, order_enforce=False)
gymnasium.register("test/Unclosing-v0", Unclosing, disable_env_checker=True, order_enforce=False)
gymnasium.register("test/OldReset-v0", OldReset, disable_env_checker=True, order_enforce=False)
gymnasium.register("test/Unseeded-v0", Unseeded, disable_env_checker=True, order_enforce=False)


def played(backend, id="test/Faulty-v0", timeout_seconds=None, **kwargs):
    """Play until the fault; return the error message."""
    settings = {"backend": backend, "kwargs": kwargs, "timeout_seconds": timeout_seconds}
    with closing(GymnasiumEnv(id, batch_size=2, seed=0, **settings)) as env:
        runner = Runner(env, small_network(env), 40, 0, torch.Generator().manual_seed(0))
        with pytest.raises(FaultyEnvError) as caught:
            runner.collect()
    assert not multiprocessing.active_children()
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)
    return str(caught.value)


WHERE = r"^environment 0, episode 2 \(seed \d+\), step 3: "


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "raises",
            WHERE + r"it raised ZeroDivisionError: division by zero \(test_faults\.py:72\)\. Fix the environment\.$",
        ),
        (
            "burns",
            WHERE + r"it raised ValueError: the motor is on fire \(test_faults\.py:\d+\)\. Fix the env",
        ),
        ("nan reward", WHERE + r"its reward is nan\. Fix"),
        ("huge reward", WHERE + r"its reward is -1e\+300, which is beyond float32\. Scale it, for example with env\."),
        ("text reward", WHERE + r"its reward is 'a lot', which is no number\. Fix"),
        ("reward in text", WHERE + r"its reward is '5', which is no number\. Fix"),
        ("no reward", WHERE + r"its reward is None, which is no number\. Fix"),
        ("wrong shape", WHERE + r"its observation has shape \(3,\), not \(2,\)\. Fix"),
        ("four values", WHERE + r"it raised ValueError: not enough values .*five values: observation, reward"),
        ("nan observation", r"^environment 0, step 3 of its episode: its observation is nan\. Fix"),
    ],
)
def test_a_fault_is_named_with_environment_episode_seed_and_step(backend, fault, message):
    assert re.search(message, played(backend, fault=fault))


def test_a_process_that_dies_is_named_and_no_other_is_left_behind():
    assert re.search(WHERE + r"its process died.*Use a smaller parallel, or", played("async", fault="dies"))


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("fault", ["hangs", "hangs and swallows", "swallows once"])
def test_an_environment_that_hangs_is_named_and_ended(backend, fault):
    began = time.monotonic()
    message = (
        r"it has not answered for 0\.5 seconds, the limit set by env\.timeout_seconds\. "
        r"Fix the environment, or raise the limit\."
    )
    assert re.search(WHERE + message, played(backend, timeout_seconds=0.5, fault=fault))
    # It would sleep for a minute.
    assert time.monotonic() - began < 20


SERVED = """
import queue, threading
import gymnasium
from gymnasium import spaces

asked, answered = queue.Queue(), queue.Queue()
threading.Thread(target=lambda: [answered.put(it) for it in iter(asked.get, None)], daemon=True).start()

class Served(gymnasium.Env):
    observation_space, action_space = spaces.Discrete(9), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        asked.put(1)
        return answered.get(), 1.0, False, False, {}

gymnasium.register("Served-v0", Served, disable_env_checker=True)
"""


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_an_environment_that_waits_for_a_thread_of_its_module_is_told_where_there_is_one(
    tmp_path, monkeypatch, backend
):
    (tmp_path / "served.py").write_text(SERVED)
    monkeypatch.syspath_prepend(tmp_path)
    # Its thread ends with it.
    monkeypatch.delitem(sys.modules, "served", raising=False)
    made = partial(GymnasiumEnv, "served:Served-v0", batch_size=2, seed=0, timeout_seconds=0.5, backend=backend)
    with closing(made()) as env:
        env.reset()
        if backend == "async":
            with pytest.raises(FaultyEnvError, match=r"started when it was imported, use env\.backend=sync: other"):
                env.step(torch.zeros(2, dtype=torch.int64))
        else:
            assert env.step(torch.zeros(2, dtype=torch.int64)).observation.tolist() == [1, 1]
    sys.modules["served"].asked.put(None)


ORPHANS = """
import time, torch
from seqrl.envs import GymnasiumEnv
import tests.envs.test_faults
env = GymnasiumEnv("test/Faulty-v0", batch_size=2, seed=0, backend="async", kwargs={"fault": "hangs", "at": 1})
print(*(process.pid for process in env._episodes.envs.processes), flush=True)
for _ in range(2):
    env.reset()
    env.step(torch.zeros(2, dtype=torch.int64))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a process with its parent")
@pytest.mark.slow
def test_environments_that_hang_end_with_a_killed_run():
    with Program(Path.cwd(), "-c", ORPHANS) as run:
        pids = [int(pid) for pid in run.stdout.readline().split()]
        time.sleep(0.5)
        run.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)
    assert len(pids) == 2


class Slow(Faulty):
    """Takes .2 seconds for what is asked for in `slow`."""

    def __init__(self, slow, hang=""):
        super().__init__()
        self.slow, self.hang = slow, hang
        self.take("init")

    def take(self, place):
        time.sleep(60 if place == self.hang else 0.2 if place in self.slow else 0)

    def reset(self, *, seed=None, options=None):
        self.take("reset")
        return super().reset(seed=seed)

    def step(self, action):
        self.take("step")
        return super().step(action)

    def close(self):
        self.take("close")


gymnasium.register("test/TakesItsTime-v0", Slow, disable_env_checker=True, order_enforce=False)


def test_environments_of_one_process_have_the_limit_each(caplog):
    settings = {"backend": "sync", "timeout_seconds": 0.5, "kwargs": {"slow": ["init", "reset", "step", "close"]}}
    with closing(GymnasiumEnv("test/TakesItsTime-v0", batch_size=4, seed=0, **settings)) as env:
        env.reset()
        env.step(torch.zeros(4, dtype=torch.int64))
    assert not caplog.records
    assert multiprocessing.active_children() == []


def test_the_one_that_hangs_after_slow_ones_is_named():
    settings = {"backend": "sync", "timeout_seconds": 0.5, "kwargs": {"slow": ["step"]}}
    began = time.monotonic()
    with closing(GymnasiumEnv("test/TakesItsTime-v0", batch_size=4, seed=0, **settings)) as env:
        env.reset()
        env._episodes.envs.envs[3].unwrapped.hang = "step"
        with pytest.raises(FaultyEnvError, match=r"^environment 3, episode 1 .* has not answered for 0\.5 seconds"):
            env.step(torch.zeros(4, dtype=torch.int64))
    assert time.monotonic() - began < 20


def test_the_limit_counts_anew_for_the_next_environment_unless_it_has_passed():
    guard = Guard(0.2)
    with guard:
        counted = guard.entered
        for _ in range(3):
            time.sleep(0.1)
            guard.turns += 1
        # For the watchdog, too.
        assert guard.entered > counted
        # What is raised is swallowed, and comes again.
        for _ in range(2):
            with pytest.raises(OverdueError):
                time.sleep(60)
            guard.turns, counted = guard.turns + 1, guard.entered
        assert guard.entered == counted


@pytest.mark.parametrize("backend", ["sync", "vector"])
def test_an_environment_that_swallows_the_limit_and_answers_is_named_at_once(backend):
    def late(*_, **__):
        with suppress(Exception):
            time.sleep(60)
        return answer

    settings = {"backend": backend, "timeout_seconds": 0.2}
    with closing(GymnasiumEnv("CartPole-v1", batch_size=2, seed=0, **settings)) as env:
        env.reset()
        envs = env._episodes.envs
        one = envs.envs[1].unwrapped if backend == "sync" else envs
        answer = one.step(np.ones(2, np.int64) if backend == "vector" else 1)
        one.step = late
        who = "environment 1, episode 1 .*" if backend == "sync" else "environments"
        with pytest.raises(FaultyEnvError, match=rf"^{who}: it has not answered for 0\.2 seconds"):
            env.step(torch.zeros(2, dtype=torch.int64))
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_a_constructor_that_swallows_the_limit_is_named(monkeypatch):
    def late(env):
        with suppress(Exception):
            time.sleep(60)

    monkeypatch.setattr(Slow, "__init__", late)
    with pytest.raises(FaultyEnvError, match=r"^environment 0, constructor: it has not answered for 0\.2 seconds"):
        GymnasiumEnv("test/TakesItsTime-v0", 2, seed=0, backend="sync", timeout_seconds=0.2)


def test_a_close_that_swallows_the_limit_ends_no_run(monkeypatch):
    def late(env):
        with suppress(Exception):
            time.sleep(60)

    monkeypatch.setattr(Slow, "close", late)
    settings = {"backend": "sync", "timeout_seconds": 0.2, "kwargs": {"slow": []}}
    with closing(GymnasiumEnv("test/TakesItsTime-v0", batch_size=2, seed=0, **settings)) as env:
        env.reset()


def test_an_own_vector_form_that_hangs_is_named():
    env = GymnasiumEnv("CartPole-v1", batch_size=2, seed=0, backend="vector", timeout_seconds=0.2)
    env.reset()
    env._episodes.envs.step = lambda actions: time.sleep(60)
    with pytest.raises(FaultyEnvError, match=r"^environments: it has not answered for 0\.2 seconds"):
        env.step(torch.zeros(2, dtype=torch.int64))


def test_the_alarm_is_off_after_a_step():
    with closing(GymnasiumEnv("test/Faulty-v0", batch_size=2, seed=0, backend="sync", timeout_seconds=5)) as env:
        env.reset()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("test/OldReset-v0", r"^environment 0, episode 1 \(seed \d+\), reset: .*must return observation and info"),
        ("test/Unseeded-v0", r"unexpected keyword argument 'seed'\. reset\(seed=\.\.\., options=\.\.\.\) must"),
    ],
)
def test_an_outdated_interface_is_named(id, message):
    assert re.search(message, played("sync", id))


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_an_environment_that_fails_to_close_loses_no_data(backend):
    env = GymnasiumEnv("test/Unclosing-v0", batch_size=2, seed=0, backend=backend)
    Runner(env, small_network(env), 5, 0, torch.Generator().manual_seed(0)).collect()
    env.close()
    assert not multiprocessing.active_children()


class Spoilt(Script):
    """A native environment with one number that is not finite at one step."""

    def __init__(self, number, name, ghosts=False):
        super().__init__([[5], [4, 9], [7]], ghosts=ghosts)
        self.number, self.name, self.calls = number, name, 0

    def step(self, action):
        step = super().step(action)
        self.calls += 1
        wrong = {"reward": step.reward, "observation": step.observation}
        where = 1 if self.calls == 7 else slice(0, 0)
        wrong[self.name][where] = self.number
        return Step(wrong["observation"], wrong["reward"], step.terminated, step.truncated, step.valid)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["reward", "observation"])
def test_a_number_that_is_not_finite_is_caught_before_learning(name, number):
    env = Spoilt(number, name)
    runner = Runner(env, small_network(env), 40, 0, torch.Generator().manual_seed(0))
    with pytest.raises(FaultyEnvError, match=rf"^environment 1, step 3 of its episode: its {name} is {number:g}\."):
        runner.collect()


def test_nan_at_a_ghost_step_is_not_a_fault():
    env = Script([[2], [2]], ghosts=True)
    plain = env.step

    def ghostly(action):
        step = plain(action)
        return Step(step.observation, step.reward.where(step.valid, torch.nan), *ends(step), step.valid)

    def ends(step):
        return step.terminated, step.truncated

    env.step = ghostly
    rollout = Runner(env, small_network(env), 12, 0, torch.Generator().manual_seed(0)).collect()
    assert not rollout.valid.all()


def test_an_endless_episode_ends_in_an_error():
    env = Script([[5], [10**9]])
    runner = Runner(env, small_network(env), 0, 0, torch.Generator().manual_seed(0), episode_limit=50)
    with pytest.raises(FaultyEnvError, match=r"^environment 1: its episode has not ended after 50 steps\..*128"):
        runner.collect()


def test_any_environment_accepts_a_time_limit():
    kwargs = {"max_episode_steps": 6}
    with closing(GymnasiumEnv("test/Faulty-v0", batch_size=2, seed=0, backend="sync", kwargs=kwargs)) as env:
        rollout = Runner(env, small_network(env), 0, 0, torch.Generator().manual_seed(0)).collect()
    assert rollout.valid.sum(0).tolist() == [6, 6]
    assert rollout.truncated[5].all()
