import functools
import os
import signal
import sys
import time
import warnings
from contextlib import closing
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.envs import EnvError, FaultyEnvError, GymnasiumEnv
from seqrl.envs.gym import backends
from seqrl.envs.gym import envpool as pool
from seqrl.envs.gym.registry import draws_itself
from tests.envs.clocks import Clock

# The parent of the forked processes has run OpenMP threads; the processes only play.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

B = 3
# Actions of every clock in its first episodes: random lengths, both kinds of end.
RANDOM = np.random.default_rng(0)
ACTION = torch.from_numpy(RANDOM.choice(3, (B, 40, 40), p=[0.7, 0.2, 0.1]))

FORMS = {
    "one process": partial(GymnasiumEnv, "test/Clock-v0", backend="sync"),
    "a process each": partial(GymnasiumEnv, "test/Clock-v0", backend="async"),
    "auto without own form": partial(GymnasiumEnv, "test/Clock-v0"),
    "auto with a form that lacks a package": partial(GymnasiumEnv, "test/Fallback-v0"),
    "disabled": partial(GymnasiumEnv, "test/Disabled-v0"),
    "same step": partial(GymnasiumEnv, "test/SameStep-v0"),
    "same step, finals in a batch": partial(GymnasiumEnv, "test/BatchedFinal-v0", backend="vector"),
    "next step": partial(GymnasiumEnv, "test/NextStep-v0", backend="vector"),
}
GHOSTS = {"next step", "mode unsaid"}


def policy(observation):
    """Action of each clock, given its observation (episode, step)."""
    episode, clock = observation.long().unbind(1)
    return ACTION[torch.arange(B), episode, clock]


def stories(env, steps=120):
    """Every step of each clock (before, after, reward, terminated, truncated) without ghosts; valid and ended flags."""
    story, valid, ended = [[] for _ in range(B)], [], []
    observation = env.reset()
    for _ in range(steps):
        step = env.step(policy(observation))
        for b in step.valid.nonzero().flatten().tolist():
            story[b].append(
                (
                    observation[b].tolist(),
                    step.observation[b].tolist(),
                    step.reward[b].item(),
                    step.terminated[b].item(),
                    step.truncated[b].item(),
                )
            )
        ends = step.terminated | step.truncated
        valid.append(step.valid)
        ended.append(ends)
        observation = env.reset(ends) if ends.any() else step.observation
    return story, torch.stack(valid), torch.stack(ended)


def expected(b, length):
    """The same story, derived from the rules."""
    story, episode, clock = [], 0, 0
    while len(story) < length:
        action = int(ACTION[b, episode, clock])
        story.append(([episode, clock], [episode, clock + 1], clock + 1, action == 1, action == 2))
        episode, clock = (episode + 1, 0) if action else (episode, clock + 1)
    return story


@pytest.mark.parametrize("form", FORMS)
def test_every_form_tells_the_same_story(form):
    with closing(FORMS[form](batch_size=B, seed=0)) as env:
        story, valid, ended = stories(env)
    for b in range(B):
        assert story[b] == expected(b, len(story[b]))
        assert len(story[b]) > 80
    if form not in GHOSTS:
        assert valid.all()
    else:
        # Only the step after an end.
        assert torch.equal(~valid[1:], ended[:-1])
        assert valid[0].all()


def test_an_own_form_without_an_autoreset_mode_is_treated_as_next_step():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*missing AutoresetMode metadata", UserWarning)
        env = GymnasiumEnv("test/Unsaid-v0", B, seed=0)
    _, valid, ended = stories(env)
    assert torch.equal(~valid[1:], ended[:-1])


@pytest.mark.parametrize("form", FORMS)
def test_whole_episodes_play_on_when_some_end_early(form):
    with closing(FORMS[form](batch_size=B, seed=0)) as env:
        for _ in range(3):
            observation = env.reset()
            assert observation[:, 1].tolist() == [0, 0, 0]
            for t in range(1, 8):
                # Environments end at steps 2, 4 and 7; nobody reads their answers after that.
                step = env.step(torch.tensor([int(t == 2), 2 * int(t == 4), int(t == 7)]))
                playing = torch.tensor([t <= 2, t <= 4, True])
                assert step.observation[playing, 1].tolist() == [t] * int(playing.sum())
                assert step.reward[playing].tolist() == [t] * int(playing.sum())
                assert step.valid[playing].all()
                assert step.terminated[playing].tolist() == [t == 2, False, t == 7][3 - int(playing.sum()) :]
                assert step.truncated[playing].tolist() == [False, t == 4, False][3 - int(playing.sum()) :]


@pytest.mark.parametrize("form", FORMS)
def test_returned_tensors_never_change(form):
    with closing(FORMS[form](batch_size=B, seed=0)) as env:
        returned = [env.reset()]
        copies = [returned[0].clone()]
        for t in range(6):
            step = env.step(torch.tensor([int(t == 2), 0, 2 * int(t == 3)]))
            parts = [step.observation, step.reward, step.terminated, step.truncated, step.valid]
            ended = step.terminated | step.truncated
            if ended.any():
                parts.append(env.reset(ended))
            returned += parts
            copies += [part.clone() for part in parts]
    assert all(torch.equal(part, copy) for part, copy in zip(returned, copies, strict=True))


def test_resetting_nowhere_changes_nothing():
    for form in FORMS.values():
        with closing(form(batch_size=B, seed=0)) as env:
            env.reset()
            before = env.step(torch.tensor([0, 0, 0])).observation
            assert torch.equal(env.reset(torch.zeros(B, dtype=torch.bool)), before)


def test_finished_environments_are_not_stepped():
    Clock.steps.clear()
    with closing(GymnasiumEnv("test/Clock-v0", 2, seed=0, backend="sync")) as env:
        env.reset()
        for t in range(10):
            env.step(torch.tensor([int(t == 3), 0]))
    assert sorted(Clock.steps.values()) == [4, 10]


def seeds(backend, seed):
    """Seeds of the first episodes of three environments, one of which once resets alone."""
    with closing(GymnasiumEnv("test/Seeded-v0", B, seed, backend=backend)) as env:
        shown = [env.reset()]
        for where in ([True] * 3, [True, False, False], [False, True, True]):
            step = env.step(torch.tensor([0, 1, 0]))
            assert torch.equal(step.observation, shown[-1])
            shown.append(env.reset(torch.tensor(where)))
    assert shown[2][1:].tolist() == shown[1][1:].tolist()
    assert shown[3][0].item() == shown[2][0].item()
    return [*shown[0].tolist(), *shown[1].tolist(), shown[2][0].item(), *shown[3][1:].tolist()]


def test_every_episode_has_its_own_seed():
    first, again, other = seeds("sync", 0), seeds("sync", 0), seeds("sync", 1)
    assert first == again == seeds("async", 0)
    assert len(set(first + other)) == 2 * len(first)
    assert all(0 <= seed < 2**31 for seed in first)


@pytest.mark.parametrize("id", ["test/NextStep-v0", "test/SameStep-v0", "test/Disabled-v0"])
def test_an_own_form_gets_a_new_seed_at_every_full_reset(id):
    def given(seed):
        env = GymnasiumEnv(id, 2, seed)
        for _ in range(3):
            env.reset()
            env.reset(env.step(torch.tensor([0, 1])).terminated)
        return [seed for seed in env._episodes.envs.seeds if seed is not None]

    assert given(0) == given(0)
    assert len(set(given(0) + given(1))) == 6


class Goal(gymnasium.Env):
    """Shows its goal, which it draws where options name none, and whether it was given options at all."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.given, options = options is not None, {} if options is None else options
        self.goal = options.setdefault("goal", self.np_random.uniform(-1, 1))
        return np.array([self.goal, self.given], np.float32), {}

    def step(self, action):
        return np.array([self.goal, self.given], np.float32), 0.0, True, False, {}


gymnasium.register("test/Goal-v0", Goal, disable_env_checker=True)


def test_an_environment_that_writes_to_its_options_does_not_reach_another():
    def goals(backend):
        with closing(GymnasiumEnv("test/Goal-v0", B, 0, backend=backend)) as env:
            return torch.stack([env.reset(), env.reset()])

    sync = goals("sync")
    assert torch.equal(sync, goals("async"))
    assert len(sync[..., 0].unique()) == 2 * B
    assert not sync[..., 1].any()


class Takes(gymnasium.Env):
    """Takes actions of a space, and ends its episode unless they are such as samples of it."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, space):
        self.action_space = space

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        sample = self.action_space.sample()
        if isinstance(sample, tuple):
            same = [type(it) for it in action] == [type(it) for it in sample]
        else:
            same = type(action) is type(sample)
        return np.zeros(2, np.float32), 0.0, not same, False, {}


gymnasium.register("test/Takes-v0", Takes, disable_env_checker=True)


@pytest.mark.parametrize(
    "space",
    [spaces.Box(-2, 3, ()), spaces.Discrete(3), spaces.Tuple([spaces.Box(-2, 3, ()), spaces.Discrete(3)])],
    ids=["a number", "a choice", "both"],
)
@pytest.mark.parametrize("backend", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_an_environment_takes_what_its_space_samples(backend, space):
    with closing(GymnasiumEnv("test/Takes-v0", B, 0, backend=backend, kwargs={"space": space})) as env:
        env.reset()
        action = torch.zeros(B, *env.action_space.shape, dtype=torch.float32 if env.action_space.shape else torch.int64)
        assert not env.step(action).terminated.any()
        (one,) = action[:1].numpy()
        plain, taken = space.sample(), env.codec().decode(np.asarray(one))
        assert type(taken) is type(plain)
        if isinstance(plain, tuple):
            assert [type(it) for it in taken] == [type(it) for it in plain]


class Completes(gymnasium.Env):
    """Completes what it is given in place, and shows how often that was done; episodes of one step."""

    observation_space, action_space = gymnasium.spaces.Box(0, 99, (3,)), gymnasium.spaces.Discrete(2)

    def __init__(self, layers, world):
        layers.append(1)
        world["bodies"]["floor"] = world["bodies"].get("floor", 0) + 1
        self.seen = np.array([len(layers), world["bodies"]["floor"], 0], np.float32)

    def reset(self, *, seed=None, options=None):
        return self.seen, {}

    def step(self, action):
        return self.seen, 0.0, True, False, {}


class CompletesToo(gymnasium.Wrapper):
    def __init__(self, env, layers):
        super().__init__(env)
        layers.append(1)
        env.unwrapped.seen[2] = len(layers)


class CompletesAll(gymnasium.vector.VectorEnv):
    """The same in a vector form, which is built again to see when it begins episodes."""

    single_observation_space, single_action_space = Completes.observation_space, Completes.action_space

    def __init__(self, num_envs, layers, world):
        Completes.__init__(self, layers, world)
        self.num_envs = num_envs
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.ended = np.zeros(num_envs, bool)

    def reset(self, *, seed=None, options=None):
        self.ended[:] = False
        return np.repeat(self.seen[None], self.num_envs, 0), {}

    def step(self, actions):
        self.ended = ~self.ended
        return np.repeat(self.seen[None], self.num_envs, 0), np.zeros(self.num_envs), self.ended, self.ended & False, {}


gymnasium.register("test/Completes-v0", Completes, vector_entry_point=CompletesAll)


@pytest.mark.filterwarnings("ignore::UserWarning:gymnasium")
@pytest.mark.parametrize("backend", ["sync", "async", "vector"])
def test_an_environment_that_completes_what_it_is_given_does_not_reach_another(backend):
    shared = object()
    given = {"layers": [1, 2], "world": {"bodies": {}, "server": shared}}
    wrappers = [] if backend == "vector" else [functools.partial(CompletesToo, layers=[1])]
    with closing(GymnasiumEnv("test/Completes-v0", 3, 0, kwargs=given, wrappers=wrappers, backend=backend)) as env:
        assert env.reset().tolist() == [[3, 1, 2 * len(wrappers)]] * 3
    assert given == {"layers": [1, 2], "world": {"bodies": {}, "server": shared}}


def test_async_equals_sync_in_a_real_environment():
    def play(backend):
        with closing(GymnasiumEnv("Acrobot-v1", 2, 7, backend=backend, kwargs={"max_episode_steps": 15})) as env:
            random, seen = torch.Generator().manual_seed(0), [env.reset()]
            for _ in range(40):
                step = env.step(torch.randint(0, 3, (2,), generator=random))
                seen += [step.observation, step.reward, step.truncated]
                if step.truncated.any():
                    seen.append(env.reset(step.truncated))
        return seen

    assert all(torch.equal(a, b) for a, b in zip(play("sync"), play("async"), strict=True))


@pytest.mark.parametrize(
    ("id", "own_form", "observation", "dtype"),
    [
        ("CartPole-v1", True, (2, 4), torch.float32),
        ("Acrobot-v1", False, (2, 6), torch.float32),
        ("Pendulum-v1", False, (2, 3), torch.float32),
        ("FrozenLake-v1", False, (2,), torch.int64),
        ("gymnasium.envs:MountainCarContinuous-v0", False, (2, 2), torch.float32),
    ],
)
def test_gymnasiums_environments_play(id, own_form, observation, dtype):
    with closing(GymnasiumEnv(id, 2, seed=0)) as env:
        assert (type(env._episodes).__name__ == "NextStepEpisodes") == own_form
        shown = env.reset()
        env.action_space.seed(0)
        ends = 0
        for _ in range(220):
            assert (shown.shape, shown.dtype) == (observation, dtype)
            assert all(env.observation_space.contains(row.numpy()) for row in shown if shown.is_floating_point())
            step = env.step(torch.from_numpy(np.stack([env.action_space.sample() for _ in range(2)])))
            assert (step.reward.shape, step.reward.dtype) == ((2,), torch.float32)
            ended = step.terminated | step.truncated
            ends += int(ended.sum())
            shown = env.reset(ended) if ended.any() else step.observation
        assert ends or "Mountain" in id or id == "Acrobot-v1"


def echo(observation_space, action_space, batch_size=2, seed=0, **more):
    kwargs = {"observation_space": observation_space, "action_space": action_space, **more}
    return GymnasiumEnv("test/Echo-v0", batch_size, seed, kwargs=kwargs)


def test_bounded_actions_run_over_minus_one_to_one_and_are_clipped():
    low, high = np.array([0, -2, -np.inf, 1], np.float32), np.array([10, 2, np.inf, np.inf], np.float32)
    space = spaces.Box(low, high)
    env = echo(spaces.Box(-np.inf, np.inf, (4,)), space)
    env.reset()
    received = env.step(torch.tensor([[-1.0, 0.5, 7.0, 3.0], [1.5, -9.0, -7.0, 0.0]])).observation
    assert received.tolist() == [[0, 1, 7, 3], [10, -2, -7, 1]]
    assert env.action_space == spaces.Box(
        np.array([-1, -1, -np.inf, 1], np.float32), np.array([1, 1, np.inf, np.inf], np.float32)
    )


def test_discrete_spaces_count_from_zero():
    env = echo(spaces.Discrete(4, start=-2), spaces.Discrete(4, start=-2))
    assert env.observation_space == spaces.Discrete(4)
    assert env.action_space == spaces.Discrete(4)
    env.reset()
    observation = env.step(torch.tensor([0, 3])).observation
    assert (observation.tolist(), observation.dtype) == ([0, 3], torch.int64)


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (spaces.Box(0, 255, (2, 3), np.uint8), (2, 2, 3), torch.uint8),
        (spaces.Box(-1e30, np.inf, (2,), np.float64), (2, 2), torch.float32),
        (spaces.MultiBinary(3), (2, 3), torch.int8),
    ],
)
def test_observations_become_tensors(space, shape, dtype):
    observation = echo(space, spaces.Discrete(2)).reset()
    assert (observation.shape, observation.dtype) == (shape, dtype)


def test_hidden_numbers_leave_the_observation_and_its_space():
    whole, masked = GymnasiumEnv("Acrobot-v1", 2, 0), GymnasiumEnv("Acrobot-v1", 2, 0, hidden=[4, 5])
    assert torch.equal(whole.reset()[:, :4], masked.reset())
    action = torch.tensor([0, 2])
    assert torch.equal(whole.step(action).observation[:, :4], masked.step(action).observation)
    assert masked.observation_space == spaces.Box(-1.0, 1.0, (4,))


@pytest.mark.parametrize("backend", ["vector", "sync", "async"])
def test_close_may_be_called_twice(backend):
    env = GymnasiumEnv("CartPole-v1", 2, seed=0, backend=backend)
    env.reset()
    env.close()
    env.close()


def test_a_dead_process_is_named_and_close_does_not_hang():
    env = GymnasiumEnv("CartPole-v1", 2, seed=0, backend="async")
    env.reset()
    processes = env._episodes.envs.processes
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].join()
    with pytest.raises(FaultyEnvError, match=r"^environment 0, episode 1 \(seed \d+\), step 1: its process died"):
        env.step(torch.tensor([0, 1]))
    began = time.monotonic()
    env.close()
    env.close()
    assert time.monotonic() - began < 4
    assert not any(process.is_alive() for process in processes)


BOX, CHOICE = spaces.Box(-1, 1, (4,)), spaces.Discrete(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            partial(GymnasiumEnv, "CartPol-v1"),
            "env.id: no environment is registered as 'CartPol-v1'. Did you mean CartPole-v1 or CartPole-v0? "
            "If a package registers it, name its module: env.id=module:CartPol-v1.",
        ),
        (
            partial(GymnasiumEnv, "Acrobot-v9"),
            "env.id: no environment is registered as 'Acrobot-v9'. Did you mean Acrobot-v1? "
            "If a package registers it, name its module: env.id=module:Acrobot-v9.",
        ),
        (
            partial(GymnasiumEnv, "Acrobot"),
            "env.id: no environment is registered as 'Acrobot'. Did you mean Acrobot-v1? "
            "If a package registers it, name its module: env.id=module:Acrobot.",
        ),
        (
            partial(GymnasiumEnv, "ALE/Zaxxon-v5"),
            "env.id: no environment is registered as 'ALE/Zaxxon-v5'. "
            "If a package registers it, name its module: env.id=module:ALE/Zaxxon-v5.",
        ),
        (
            partial(GymnasiumEnv, "tests.envs.clocks:test/Clok-v0"),
            "env.id: no environment is registered as 'test/Clok-v0'. Did you mean tests.envs.clocks:test/Clock-v0?",
        ),
        (
            partial(GymnasiumEnv, "tests.broken:Thing"),
            "env.id: no environment is registered as 'Thing'. tests.broken registers broken/Walk-v0, "
            "broken/Unseeded-v0, broken/Endless-v0, broken/OutOfBounds-v0, broken/FirstForFinal-v0 and more.",
        ),
        (
            partial(GymnasiumEnv, "tests.worlds:Thing"),
            "env.id: no environment is registered as 'Thing'. tests.worlds registers no "
            "environments: call gymnasium.register(id, entry_point=…) in it.",
        ),
        (
            partial(GymnasiumEnv, "no_such_module.py:Env-v0"),
            "env.id: there is no module 'no_such_module.py'. Name it without .py.",
        ),
        (
            partial(GymnasiumEnv, "no_such_module:Env-v0"),
            "env.id: there is no module 'no_such_module'. Install it, or check the spelling and PYTHONPATH.",
        ),
        (
            partial(GymnasiumEnv, "test/NoPackage-v0"),
            "env.id: test/NoPackage-v0 needs a package that is missing: "
            'Wheels are missing, run `pip install "gymnasium[wheels]"`.',
        ),
        (
            partial(GymnasiumEnv, "test/NoModule-v0"),
            "env.id: test/NoModule-v0 needs a package that is missing: No module named 'wheels'. Install it.",
        ),
        (
            partial(GymnasiumEnv, "Acrobot-v1", kwargs={"color": "red"}),
            "env.kwargs: Acrobot-v1 does not accept {'color': 'red'}: TypeError, AcrobotEnv.__init__() got an "
            "unexpected keyword argument 'color'. Pass what its constructor takes: +env.kwargs.name=value.",
        ),
        (
            partial(GymnasiumEnv, "test/Echo-v0"),
            "env.kwargs: test/Echo-v0 does not accept {}: TypeError, Echo.__init__() missing 2 required positional "
            "arguments: 'observation_space' and 'action_space'. "
            "Pass what its constructor takes: +env.kwargs.name=value.",
        ),
        (
            partial(echo, CHOICE, CHOICE, size=0),
            "env.kwargs: test/Echo-v0 does not accept {'observation_space': Discrete(2), 'action_space': Discrete(2), "
            "'size': 0}: ValueError, size is 0. Pass what its constructor takes: +env.kwargs.name=value.",
        ),
        (
            partial(GymnasiumEnv, "FrozenLake-v1", kwargs={"map_name": "9x9"}),
            "env.kwargs: FrozenLake-v1 does not accept {'map_name': '9x9'}: KeyError, '9x9'. "
            "Pass what its constructor takes: +env.kwargs.name=value.",
        ),
        (
            partial(GymnasiumEnv, "CartPole-v1", hidden=[1, 7]),
            "env.hidden: an observation of size 4 has no index 7. Use 0 to 3.",
        ),
        (
            partial(GymnasiumEnv, "CartPole-v1", hidden=[True]),
            "env.hidden: an observation of size 4 has no index True. Use 0 to 3.",
        ),
        (
            partial(GymnasiumEnv, "CartPole-v1", hidden=[1, 3, 1]),
            "env.hidden: index 1 is listed twice (got [1, 3, 1]). List each index once.",
        ),
        (
            partial(GymnasiumEnv, "FrozenLake-v1", hidden=[0]),
            "env.hidden: indices need a vector observation, and this one is Discrete of shape () "
            "(got [0]). Use env.hidden=[].",
        ),
        (
            partial(echo, spaces.Text(5), CHOICE),
            "env.id: the observation is Text, which is not supported. Wrap the environment to return Box, Discrete, "
            "MultiDiscrete, MultiBinary, or a Dict or Tuple of these.",
        ),
        (
            partial(echo, BOX, spaces.Box(0, 255, (2,), np.uint8)),
            "env.id: the action is Box of shape (2,), which is not supported. Wrap the environment to take Discrete, "
            "MultiDiscrete, MultiBinary, a Box of floats, or a Dict or Tuple of these.",
        ),
        (
            partial(GymnasiumEnv, "CartPole-v1", backend="threads"),
            "env.backend: there is no backend 'threads'. Use one of auto, vector, sync, async, envpool.",
        ),
        (
            partial(GymnasiumEnv, "Acrobot-v1", backend="vector"),
            "env.backend: Acrobot-v1 has no vector form of its own. Use env.backend=sync or async.",
        ),
        (
            partial(GymnasiumEnv, "test/NextStep-v0", backend="sync"),
            "env.backend: test/NextStep-v0 has only a vector form of its own. Use env.backend=vector.",
        ),
    ],
)
def test_an_environment_that_cannot_be_played_is_refused_in_one_line(make, message):
    with pytest.raises(EnvError) as error:
        make(batch_size=2, seed=0)
    assert str(error.value) == message


class Adds(gymnasium.Env):
    def __init__(self):
        self.sum = 1 + "1"


class CallsWrongly(gymnasium.Env):
    def __init__(self):
        self.helped(1, 2)

    def helped(self):
        pass


class NoEnv:
    pass


@pytest.mark.parametrize("backend", ["auto", "sync", "async"])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        (Adds, r"TypeError: unsupported operand type\(s\) for \+: 'int' and 'str' \(test_adapter\.py:\d+\)\. Fix"),
        (CallsWrongly, r"TypeError: .*helped\(\) takes 1 positional argument .* \(test_adapter\.py:\d+\)\. Fix"),
        (NoEnv, r"TypeError: The environment must inherit from the gymnasium.Env class"),
    ],
)
def test_a_constructor_that_fails_without_arguments_is_named_with_its_line(backend, what, message, monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Fails-v0", entry_point=what)
    monkeypatch.setitem(gymnasium.registry, "Fails-v0", spec)
    with pytest.raises(EnvError, match=rf"^env\.id: Fails-v0 cannot be built: {message}"):
        GymnasiumEnv("Fails-v0", 2, 0, backend=backend)


HUGE, HALF = np.finfo(np.float32).max, np.finfo(np.float16).max


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-HUGE, HUGE, np.float32),
        (-1e38, 1e38, np.float32),
        (-1e10, 1e10, np.float32),
        (-np.finfo(np.float64).max, np.finfo(np.float64).max, np.float64),
        (-HALF, HALF, np.float16),
    ],
)
def test_huge_bounds_of_actions_are_none(low, high, dtype):
    env = echo(spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(low, high, (2,), dtype))
    assert env.action_space == spaces.Box(-np.inf, np.inf, (2,))
    env.reset()
    assert env.step(torch.tensor([[1.5, -3.0], [0.0, 7.0]])).observation.tolist() == [[1.5, -3], [0, 7]]


def test_one_huge_bound_leaves_the_other():
    low, high = np.array([0, -HUGE, -1, 3, 1e11]), np.array([HUGE, 0, 1, 3, 3e11])
    env = echo(spaces.Box(-np.inf, np.inf, (5,)), spaces.Box(low, high, dtype=np.float64))
    assert env.action_space.low.tolist() == [0, -np.inf, -1, -1, -1]
    assert env.action_space.high.tolist() == [np.inf, 0, 1, 1, 1]
    env.reset()
    received = env.step(torch.tensor([[2.0, 2.0, 0.5, 0.5, 0.0], [-2.0, -2.0, -0.5, -0.5, 1.0]])).observation
    assert received.tolist() == torch.tensor([[2, 0, 0.5, 3, 2e11], [0, -2, -0.5, 3, 3e11]]).tolist()


def test_bounds_whose_sum_is_too_large_for_their_dtype_are_scaled_to():
    env = echo(spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(49984, 60000, (1,), np.float16))
    env.reset()
    assert env.step(torch.tensor([[-1.0], [1.0]])).observation.tolist() == [[49984.0], [60000.0]]


def test_a_missing_envpool_names_the_extra_to_install(monkeypatch):
    monkeypatch.setattr(pool, "is_installed", lambda package: False)
    with pytest.raises(EnvError) as error:
        GymnasiumEnv("CartPole-v1", 2, seed=0, backend="envpool")
    message = "env.backend: envpool is not installed. Install it: pip install 'seqrl[envpool]'."
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("seen", "acts", "why"),
    [
        (spaces.Dict({"a": spaces.Discrete(2)}), spaces.Discrete(2), "its observation has several parts"),
        (spaces.Discrete(2), spaces.Tuple([spaces.Discrete(2)]), "its action has several parts"),
        (spaces.Text(3), spaces.Discrete(2), "the observation is Text, which is not supported"),
    ],
)
def test_an_environment_of_envpool_that_cannot_be_played_is_not_to_be_wrapped(monkeypatch, seen, acts, why):
    class Fake(gymnasium.vector.VectorEnv):
        def __init__(self, *_):
            self.num_envs, self.single_observation_space, self.single_action_space = 2, seen, acts

    monkeypatch.setattr(backends, "Pool", Fake)
    with pytest.raises(EnvError) as error:
        GymnasiumEnv("Walker-v1", 2, seed=0, backend="envpool")
    assert str(error.value) == (
        f"env.backend: Walker-v1 cannot be played by EnvPool, as {why}, and it cannot be wrapped. Use env.backend=sync "
        "or async, with Gymnasium's environment of that kind if there is one."
    )


def test_a_module_that_lacks_a_package_is_distinguished_from_a_missing_module(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvError) as error:
        GymnasiumEnv("half_installed:Env-v0", 1, seed=0)
    assert str(error.value) == (
        "env.id: the module 'half_installed' cannot be imported: No module named 'no_such_package'. "
        "Install what it needs."
    )


@pytest.mark.parametrize(
    "text", ["import sys; sys.exit()", "import sys; sys.exit('no licence')", "raise GeneratorExit"]
)
def test_a_module_that_exits_when_it_is_imported_is_named(text, tmp_path, monkeypatch):
    (tmp_path / "exiting.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvError) as error:
        GymnasiumEnv("exiting:Env-v0", 1, seed=0)
    said = "cannot be imported: GeneratorExit" if "Gen" in text else "exits when it is imported (SystemExit"
    assert str(error.value).startswith(f"env.id: the module 'exiting' {said}")
    assert "no licence" in str(error.value) or "licence" not in text


READS_ARGUMENTS = """
import argparse, gymnasium
from tests.envs.clocks import Clock
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=5)
assert parser.parse_args().port == 5
class Later(Clock):
    pass
"""


@pytest.mark.parametrize("is_lazy", [False, True])
def test_a_module_that_reads_arguments_when_it_is_imported_sees_none_of_the_run(is_lazy, tmp_path, monkeypatch):
    (tmp_path / "reading.py").write_text(READS_ARGUMENTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["seqrl", "env=gymnasium"])
    monkeypatch.delitem(sys.modules, "reading", raising=False)
    gymnasium.register("test/Reading-v0", "reading:Later", disable_env_checker=True)
    id = "test/Reading-v0"
    try:
        if is_lazy:
            assert not draws_itself(id)
            monkeypatch.delitem(sys.modules, "reading")
        with closing(GymnasiumEnv(id if is_lazy else f"reading:{id}", 1, seed=0)):
            assert sys.argv == ["seqrl", "env=gymnasium"]
    finally:
        del gymnasium.registry[id]


def test_an_entry_point_whose_module_exits_is_named(tmp_path, monkeypatch):
    (tmp_path / "exits_late.py").write_text("import sys; sys.exit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    gymnasium.register("test/ExitsLate-v0", "exits_late:Env", disable_env_checker=True)
    try:
        assert not draws_itself("test/ExitsLate-v0")
        with pytest.raises(FaultyEnvError, match=r"constructor: it raised SystemExit: 0"):
            GymnasiumEnv("test/ExitsLate-v0", 1, seed=0, backend="sync")
    finally:
        del gymnasium.registry["test/ExitsLate-v0"]


def test_a_same_step_form_without_final_observations_is_refused(monkeypatch):
    env = GymnasiumEnv("test/SameStep-v0", 2, seed=0)
    monkeypatch.setattr(env._episodes.envs, "final", dict)
    env.reset()
    said = r"^environments: the vector form is taken for SAME_STEP, but .* without info\['final_obs'\]\. Declare it in "
    with pytest.raises(FaultyEnvError, match=said):
        env.step(torch.tensor([1, 0]))
