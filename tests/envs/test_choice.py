"""env.backend=auto: which backend it picks."""

from contextlib import closing
from dataclasses import replace
from typing import ClassVar

import gymnasium
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from hydra import compose, initialize_config_dir

from seqrl.config.paths import CONF
from seqrl.envs import EnvError, GymnasiumEnv
from seqrl.envs.gym import auto as choice
from seqrl.envs.gym.auto import Choice, alone, fastest, rate, side_by_side
from seqrl.envs.gym.backends import EnvRequest
from seqrl.errors import FaultyEnvError, RaisedError
from seqrl.run.build import constructor, make_env
from tests.envs.clocks import Clock, Echo

# The parent of the forked processes has run OpenMP threads; the processes only play.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def request(id="test/Clock-v0", batch_size=16):
    return EnvRequest(id, {}, batch_size, seed=0, timeout_seconds=60.0)


def chosen(batch_size, one, processes):
    """The choice if one environment plays `one` steps per second, and processes play `processes` together."""
    return fastest(request(batch_size=batch_size), lambda request: one, lambda request: processes)


@pytest.mark.parametrize(
    ("batch_size", "one", "processes", "expected"),
    [
        (64, 190.4, 384.2, Choice("async", "380 steps/s with 16 processes (vector: none; sync: 190)")),
        (3, 0.25, 0.5, Choice("async", "0.5 steps/s with 3 processes (vector: none; sync: 0.25)")),
        (9, 5012, 2345, Choice("sync", "5,000 steps/s (vector: none; async: 2,300 steps/s with 9 processes)")),
        (16, 19, 19, Choice("sync", "19 steps/s (vector: none; async: 19 steps/s with 4 processes)")),
        (1, 0.25, 0.5, Choice("sync", "there is only one")),
    ],
)
def test_the_faster_backend_is_chosen(batch_size, one, processes, expected):
    assert chosen(batch_size, one, processes) == expected


def test_no_process_is_started_where_a_message_takes_longer_than_a_step():
    def never(request):
        raise AssertionError("started")

    why = "41,000 steps/s (vector: none; async: not tried, a message to a process takes longer than a step)"
    assert fastest(request(), lambda request: 41_234, never) == Choice("sync", why)


def test_a_failed_measurement_falls_back_to_one_process_and_says_why():
    def fails(request):
        raise RuntimeError("no more memory.\nTraceback")

    for fallback in (fastest(request(), fails, fails), fastest(request(), lambda request: 1, fails)):
        assert fallback.backend == "sync"
        assert fallback.why.startswith("speed could not be measured: RuntimeError: no more memory (")


def test_of_an_environment_that_fails_while_it_is_measured_the_reason_alone_is_said():
    def raises(request):
        raise FaultyEnvError("environment 0, step 7: it is on fire") from RaisedError("ValueError: on fire", "", "")

    def dies(request):
        raise FaultyEnvError("environment 0: its process died") from EOFError()

    assert fastest(request(), raises, raises).why == "speed could not be measured: ValueError: on fire"
    assert "measured: FaultyEnvError: environment 0: its process died (" in fastest(request(), dies, dies).why


def ticking(*seconds):
    """A player whose steps take `seconds`, the last value repeating; and its clock."""
    now, left = [0.0], list(seconds)

    def play():
        now[0] += left.pop(0) if len(left) > 1 else left[0]
        return 2

    return play, lambda: now[0]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        # The first step does not count.
        ((9.0, 0.01), 200.0),
        # Slow steps are played once more, fast ones up to the maximum.
        ((5.0,), 0.4),
        ((1e-6,), 2e6),
    ],
)
def test_the_rate_ignores_the_first_step(seconds, expected):
    play, clock = ticking(*seconds)
    assert rate(play, lambda: None, clock) == pytest.approx(expected)


@pytest.mark.parametrize("together", [1, 10])
def test_a_reset_counts_though_no_episode_ends_while_it_is_measured(together):
    now = [0.0]

    def take(seconds):
        now[0] += seconds
        return together

    # Once in 500 steps of each.
    expected = together * 500 / (0.05 + 0.45)
    assert rate(lambda: take(1e-4), lambda: take(0.45), lambda: now[0]) == pytest.approx(expected)


def test_a_measurement_is_short():
    for seconds, limit in ((1e-6, 1e-3), (1e-3, choice.SECONDS), (1.0, 1.0)):
        play, clock = ticking(seconds)
        rate(play, lambda: None, clock)
        assert clock() <= 2 * seconds + limit


@pytest.mark.parametrize("measured", [alone, side_by_side])
def test_ended_episodes_restart_during_a_measurement(measured, monkeypatch):
    # Two of three random actions end a clock's episode, and a clock asserts that it is not stepped after its end.
    monkeypatch.setattr(choice, "STEPS", 40)
    Clock.steps.clear()
    assert measured(request(batch_size=2)) > 0
    # The others play in their own processes.
    assert (sum(Clock.steps.values()) > 20) == (measured is alone)


def test_a_run_starts_with_fresh_environments():
    with closing(GymnasiumEnv("test/Clock-v0", 2, seed=0)) as env:
        assert env.backend_reason
        assert env.reset().tolist() == [[0, 0], [0, 0]]


def test_an_own_vector_form_is_chosen_without_a_measurement(monkeypatch):
    monkeypatch.setattr(choice, "fastest", None)
    env = GymnasiumEnv("CartPole-v1", 2, seed=0)
    assert (env.backend, env.backend_reason) == ("vector", "CartPole-v1 has its own vector form")


class Parts(VectorEnv):
    """A vector form with any spaces; notes that it was closed."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.SAME_STEP}
    ended = 0

    def __init__(self, num_envs, observation_space, action_space):
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)

    def close_extras(self, **_):
        Parts.ended += 1


class Sampled(Echo):
    """Shows anything."""

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


gymnasium.register("test/Parts-v0", Sampled, vector_entry_point=Parts, disable_env_checker=True)
gymnasium.register("test/OnlyParts-v0", vector_entry_point=Parts)
ONE, SEVERAL = spaces.Discrete(2), spaces.Dict({"a": spaces.Discrete(2)})


@pytest.mark.parametrize(
    ("seen", "done", "why"),
    [(SEVERAL, ONE, "its observation has several parts"), (ONE, SEVERAL, "its action has several parts")],
)
def test_a_vector_form_with_several_parts_is_closed_and_single_environments_are_played(seen, done, why):
    before = Parts.ended
    with closing(GymnasiumEnv("test/Parts-v0", 2, 0, kwargs={"observation_space": seen, "action_space": done})) as env:
        assert env.backend == "sync"
        assert f"(vector: {why}; async: " in env.backend_reason
        assert len(env.reset()) == 2
    assert Parts.ended == before + 1
    with closing(GymnasiumEnv("test/Parts-v0", 1, 0, kwargs={"observation_space": seen, "action_space": done})) as env:
        assert env.backend_reason == f"there is only one (vector: {why})"


@pytest.mark.parametrize(
    ("id", "backend", "remedy"),
    [
        ("test/Parts-v0", "vector", "Use env.backend=sync or async"),
        ("test/OnlyParts-v0", "vector", "Give it one part"),
        ("test/OnlyParts-v0", "auto", "Give it one part"),
    ],
)
def test_a_vector_form_with_several_parts_that_must_be_played_is_refused(id, backend, remedy):
    said = f"the vector form of {id} cannot be played, as its observation has several parts. {remedy}."
    with pytest.raises(EnvError, match=rf"^env\.backend: {said}$"):
        GymnasiumEnv(id, 2, 0, backend=backend, kwargs={"observation_space": SEVERAL, "action_space": ONE})


def test_an_explicit_backend_is_not_measured(monkeypatch):
    monkeypatch.setattr(choice, "fastest", None)
    env = GymnasiumEnv("Acrobot-v1", 2, seed=0, backend="sync")
    assert (env.backend, env.backend_reason) == ("sync", "")


def test_one_choice_serves_all_environments_of_a_run(monkeypatch):
    monkeypatch.setattr(choice, "fastest", lambda request, vector: Choice("async", "a reason of this test"))
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", ["env=gymnasium", "env.id=Acrobot-v1"])
    device = replace(constructor(cfg.device)(), name="cpu")
    with closing(make_env(cfg, device, 2, "training")) as env:
        assert (env.backend, env.backend_reason) == ("async", "a reason of this test")
    monkeypatch.setattr(choice, "fastest", None)
    with closing(make_env(cfg, device, 2, "evaluation", backend=env.backend)) as env:
        assert (env.backend, env.backend_reason) == ("async", "")


def test_built_in_environments_have_no_backend():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", ["env=tmaze"])
    assert make_env(cfg, constructor(cfg.device)(), 2, "training", backend="async").backend == ""
