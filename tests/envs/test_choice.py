"""env.backend=auto: which backend it picks."""

from contextlib import closing
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir

from seqrl.config.paths import CONF
from seqrl.envs import GymnasiumEnv
from seqrl.envs.gym import auto as choice
from seqrl.envs.gym.auto import Choice, alone, fastest, rate, side_by_side
from seqrl.envs.gym.backends import EnvRequest
from seqrl.runs.build import constructor, make_env
from tests.envs.clocks import Clock

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
    assert rate(play, clock) == pytest.approx(expected)


def test_a_measurement_is_short():
    for seconds, limit in ((1e-6, 1e-3), (1e-3, choice.SECONDS), (1.0, 1.0)):
        play, clock = ticking(seconds)
        rate(play, clock)
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


def test_an_explicit_backend_is_not_measured(monkeypatch):
    monkeypatch.setattr(choice, "fastest", None)
    env = GymnasiumEnv("Acrobot-v1", 2, seed=0, backend="sync")
    assert (env.backend, env.backend_reason) == ("sync", "")


def test_one_choice_serves_all_environments_of_a_run(monkeypatch):
    monkeypatch.setattr(choice, "fastest", lambda request: Choice("async", "a reason of this test"))
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
