"""Who plays the environments if that is left open."""

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

# Processes are forked from one that has run OpenMP threads; they only play.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def request(id="test/Clock-v0", batch_size=16):
    return EnvRequest(id, {}, batch_size, seed=0, timeout_seconds=60.0)


def chosen(batch_size, one, processes):
    """The choice, if one environment plays `one` steps a second, and processes `processes` together."""
    return fastest(request(batch_size=batch_size), lambda request: one, lambda request: processes)


@pytest.mark.parametrize(
    ("batch_size", "one", "processes", "expected"),
    [
        (64, 190.4, 384.2, Choice("async", "380 steps/s with 16 processes (vector: none; sync: 190)")),
        (3, 0.25, 0.5, Choice("async", "0.5 steps/s with 3 processes (vector: none; sync: 0.25)")),
        (9, 5012, 2345, Choice("sync", "5,000 steps/s (vector: none; async: 2,300 steps/s with 9 processes)")),
        (16, 19, 19, Choice("sync", "19 steps/s (vector: none; async: 19 steps/s with 4 processes)")),
        (1, 0.25, 0.5, Choice("sync", "as there is only one")),
    ],
)
def test_the_faster_one_plays(batch_size, one, processes, expected):
    assert chosen(batch_size, one, processes) == expected


def test_no_process_is_started_where_a_message_takes_longer_than_a_step():
    def never(request):
        raise AssertionError("started")

    why = "41,000 steps/s (vector: none; async: not tried, a message to a process takes longer than a step)"
    assert fastest(request(), lambda request: 41_234, never) == Choice("sync", why)


def test_what_fails_while_it_is_measured_plays_in_one_process_and_is_said():
    def fails(request):
        raise RuntimeError("no more memory.\nTraceback")

    for it in (fastest(request(), fails, fails), fastest(request(), lambda request: 1, fails)):
        assert it.backend == "sync"
        assert it.why.startswith("as speed could not be measured: RuntimeError: no more memory (")


def ticking(*seconds):
    """A player whose first steps take so long, and the others as long as the last; and its clock."""
    now, left = [0.0], list(seconds)

    def play():
        now[0] += left.pop(0) if len(left) > 1 else left[0]
        return 2

    return play, lambda: now[0]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        # The first step counts for nothing.
        ((9.0, 0.01), 200.0),
        # Slow ones are played once more, quick ones until they are enough.
        ((5.0,), 0.4),
        ((1e-6,), 2e6),
    ],
)
def test_the_rate_is_that_of_steps_after_the_first(seconds, expected):
    play, clock = ticking(*seconds)
    assert rate(play, clock) == pytest.approx(expected)


def test_a_measurement_is_short():
    for seconds, limit in ((1e-6, 1e-3), (1e-3, choice.SECONDS), (1.0, 1.0)):
        play, clock = ticking(seconds)
        rate(play, clock)
        assert clock() <= 2 * seconds + limit


@pytest.mark.parametrize("measured", [alone, side_by_side])
def test_episodes_that_end_begin_anew_while_it_is_measured(measured, monkeypatch):
    # Two of three random actions end the episode of a clock, which minds a step after its end.
    monkeypatch.setattr(choice, "STEPS", 40)
    Clock.steps.clear()
    assert measured(request(batch_size=2)) > 0
    # Others play in processes of their own.
    assert (sum(Clock.steps.values()) > 20) == (measured is alone)


def test_the_run_begins_with_environments_that_nobody_has_played():
    with closing(GymnasiumEnv("test/Clock-v0", 2, seed=0)) as env:
        assert env.backend_reason
        assert env.reset().tolist() == [[0, 0], [0, 0]]


def test_an_own_vector_form_is_preferred_unmeasured(monkeypatch):
    monkeypatch.setattr(choice, "fastest", None)
    env = GymnasiumEnv("CartPole-v1", 2, seed=0)
    assert (env.backend, env.backend_reason) == ("vector", "CartPole-v1 has a form of its own")


def test_what_is_asked_for_is_not_measured(monkeypatch):
    monkeypatch.setattr(choice, "fastest", None)
    env = GymnasiumEnv("Acrobot-v1", 2, seed=0, backend="sync")
    assert (env.backend, env.backend_reason) == ("sync", "")


def test_a_choice_is_made_once_for_all_environments_of_a_run(monkeypatch):
    monkeypatch.setattr(choice, "fastest", lambda request: Choice("async", "so that it can be told from the usual"))
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", ["env=gymnasium", "env.id=Acrobot-v1"])
    device = replace(constructor(cfg.device)(), name="cpu")
    with closing(make_env(cfg, device, 2, "training")) as env:
        assert (env.backend, env.backend_reason) == ("async", "so that it can be told from the usual")
    monkeypatch.setattr(choice, "fastest", None)
    with closing(make_env(cfg, device, 2, "evaluation", backend=env.backend)) as env:
        assert (env.backend, env.backend_reason) == ("async", "")


def test_built_in_environments_have_no_choice():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", ["env=tmaze"])
    assert make_env(cfg, constructor(cfg.device)(), 2, "training", backend="async").backend == ""
