from contextlib import closing
from zlib import crc32

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.envs import EnvError, FaultyEnvError, GymnasiumEnv
from seqrl.envs.inputs import WithInputs
from seqrl.runner import Runner
from seqrl.verify.environment import env_checks
from seqrl.verify.findings import Status
from seqrl.verify.network import network_checks
from seqrl.verify.play import Budget
from seqrl.verify.subject import Subject
from tests.envs import everything
from tests.parts import ppo, small_network
from tests.worlds import Script

HIDDEN = ["mission"]


def make(batch_size=2, seed="", backend="sync", hidden=HIDDEN, **more):
    return GymnasiumEnv(everything.ID, batch_size, crc32(seed.encode()), backend=backend, hidden=hidden, **more)


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_every_part_of_observations_and_actions_arrives_unchanged(backend):
    with closing(make(backend=backend)) as env:
        seen = env.observation_space.split(env.reset())
        assert {name: (tuple(x.shape[1:]), x.dtype) for name, x in seen.items()} == {
            "body.0": ((2,), torch.float32),
            "body.1": ((), torch.int64),
            "cards": ((2,), torch.int64),
            "image": ((3, 4, 3), torch.uint8),
            "lamps": ((3,), torch.int8),
            "action_mask": ((9,), torch.int8),
        }
        assert list(env.action_space.parts) == ["arm", "keys", "lamps", "move"]
        # Numbers side by side: two of the arm, two keys, three lamps, a move.
        step = env.step(torch.tensor([[-1.0, 7, 2, 1, 1, 0, 1, 3], [0.5, -7, 0, 0, 0, 0, 0, 1]]))
        seen = env.observation_space.split(step.observation)
        assert seen["body.0"].tolist() == [[1, 0], [1, 7.5]]
        assert seen["body.1"].tolist() == [1, 1]
        assert seen["cards"].tolist() == [[1, 3], [1, 1]]
        assert seen["lamps"].tolist() == [[1, 0, 1], [0, 0, 0]]
        assert seen["action_mask"][:, 5:].tolist() == [[1, 1, 1, 0], [1, 0, 1, 1]]
        assert step.reward.tolist() == pytest.approx([4, 2.75])


def test_image_bytes_equal_the_environments_own():
    with closing(make(batch_size=1)) as env:
        shown = env.observation_space.split(env.reset())["image"][0].numpy()
        seeded = everything.Everything()
        seeded.reset(seed=env._episodes._seed(0))
        seeded.np_random.bit_generator.state = env._episodes.envs.envs[0].unwrapped.np_random.bit_generator.state
        after = env.observation_space.split(env.step(torch.tensor([[0.0, 0, 0, 0, 0, 0, 0, 1]])).observation)["image"][
            0
        ]
        assert np.array_equal(after.numpy(), seeded.np_random.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        assert not np.array_equal(shown, after.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "bptt_length"), [("lstm", 0), ("separate critic", 3), ("memoryless", 1)])
def test_learning_is_exact_with_every_kind_of_space(kind, bptt_length):
    with closing(make()) as env:
        network = small_network(env, kind)
    findings = list(network_checks(Subject(make, network, bptt_length)))
    assert not [finding for finding in findings if finding.status is not Status.PASS]


def test_an_update_moves_every_parameter_and_masked_actions_never_occur():
    """The environment itself asserts that every action is allowed."""
    with closing(make(batch_size=8)) as env:
        network = small_network(env, "lstm")
        runner = Runner(env, network, 0, 0, torch.Generator().manual_seed(0))
        before = {name: parameter.clone() for name, parameter in network.named_parameters()}
        for _ in range(3):
            assert (
                ppo(network, bptt_length=4, entropy_coefficient=0.1).update(runner.collect(), 0)["train/skipped"] == 0
            )
        assert not [name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])]


def test_a_mask_in_info_is_obeyed():
    with closing(GymnasiumEnv("test/MaskInInfo-v0", 4, 0, action_mask="info")) as env:
        network = small_network(env, "lstm")
        rollout = Runner(env, network, 0, 0, torch.Generator().manual_seed(0)).collect()
        assert rollout.reward.sum(0).tolist() == [7] * 4
        # The mask always leaves exactly one action.
        assert rollout.log_prob.abs().max() == 0


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        ("none", "its info has no action_mask"),
        ("size", "its action_mask has 4 numbers for 5 choices"),
        ("nothing", "its action_mask allows nothing"),
    ],
)
def test_an_unusable_mask_is_named(faulty, message):
    env = GymnasiumEnv("test/MaskInInfo-v0", 1, 0, action_mask="info", kwargs={"faulty": faulty})
    with closing(env), pytest.raises(FaultyEnvError, match=message):
        env.reset()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"hidden": []},
            "env.id: part 'mission' of the observation is Text, which is not supported. Hide it with "
            "env.hidden=[mission], or wrap the environment to return Box, Discrete, MultiDiscrete, MultiBinary, or a "
            "Dict or Tuple of these.",
        ),
        (
            {"hidden": ["misson"]},
            "env.hidden: the observation has no part 'misson'. Use one or more of action_mask.keys, action_mask.move, "
            "body.0, body.1, cards, image, lamps, mission.",
        ),
        (
            {"hidden": ["mission", "body", "cards", "image", "lamps"]},
            "env.hidden: every part of the observation is hidden (got ['mission', 'body', 'cards', 'image', 'lamps']). "
            "Leave one.",
        ),
        (
            {"action_mask": "mask"},
            "env.action_mask: the observation has no part 'mask'. Use info, or one of action_mask.keys, "
            "action_mask.move, body.0, body.1, cards, image, lamps, mission.",
        ),
        (
            {"action_mask": "lamps"},
            "env.action_mask: the mask lamps has 3 numbers for 9 choices. Fix the environment, or name another part.",
        ),
    ],
)
def test_a_setting_that_does_not_match_the_observation_is_refused_in_one_line(more, message):
    with pytest.raises(EnvError) as error:
        make(**more)
    assert str(error.value) == message


TWO, BOX = spaces.Discrete(2), spaces.Box(-1, 1, (2,))


class Composed(gymnasium.Env):
    """Has any spaces, and shows and asserts their elements."""

    def __init__(self, observation_space=TWO, action_space=TWO):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.sample(), 0.0, False, False, {}


gymnasium.register("test/EveryKind-v0", Composed, disable_env_checker=True)


def composed(**kwargs):
    return GymnasiumEnv("test/EveryKind-v0", 2, 0, backend="sync", kwargs=kwargs)


@pytest.mark.parametrize(
    ("space", "name", "places"),
    [
        (spaces.Dict({"a.b": TWO, "a": spaces.Dict({"b": BOX})}), "a.b", ("['a']['b']", "['a.b']")),
        (spaces.Dict({"a.0": TWO, "a": spaces.Tuple([BOX])}), "a.0", ("['a'][0]", "['a.0']")),
        (spaces.Dict({1: TWO, "1": BOX}), "1", ("[1]", "['1']")),
        (spaces.Dict({"": spaces.Dict({"a": TWO}), "a": BOX}), "a", ("['']['a']", "['a']")),
    ],
)
@pytest.mark.parametrize("what", ["observation", "action"])
def test_two_parts_with_one_name_are_refused_and_both_are_named(space, name, places, what):
    with pytest.raises(EnvError, match=rf"^env\.id: two parts of the {what} have one name, '{name}' ") as it:
        composed(**{f"{what}_space": space})
    assert all(f"{what}{place}" in str(it.value) for place in places)


def test_a_part_without_a_name_is_one_like_others():
    parts = spaces.Dict({"": TWO, "b": BOX})
    with closing(composed(observation_space=parts, action_space=parts)) as env:
        assert env.observation_space.split(env.reset())["b"].shape == (2, 2)
        runner = Runner(env, small_network(env), 4, 0, torch.Generator().manual_seed(0))
        assert runner.collect().action.shape == (4, 2, 3)


def test_a_part_that_is_not_finite_is_named(monkeypatch):
    def broken(self):
        broken = np.array([np.nan if self.clock else 0, 0], np.float32)
        return {**seen(self), "body": (broken, np.int64(5))}

    seen = everything.Everything.observation
    monkeypatch.setattr(everything.Everything, "observation", broken)
    with closing(make()) as env, pytest.raises(FaultyEnvError, match=r"its observation 'body.0' is nan\. Fix"):
        Runner(env, small_network(env, "lstm"), 4, 0, torch.Generator().manual_seed(0)).collect()


@pytest.mark.parametrize("ghosts", [False, True])
def test_inputs_come_from_the_step_before_and_are_empty_at_a_start(ghosts):
    env = WithInputs(Script([[2, 3]], ghosts=ghosts), ["previous_action", "previous_reward", "first"])
    env.reset()
    inputs = []

    def note(observation):
        parts = env.observation_space.split(observation)
        inputs.append([int(parts[name]) for name in ("previous_action", "previous_reward", "first")])

    note(env.reset())
    for action in (2, 0, 1, 2, 0):
        step = env.step(torch.tensor([action]))
        note(step.observation)
        if (step.terminated | step.truncated).any():
            ended = env.reset(step.terminated | step.truncated)
            if ghosts:
                step = env.step(torch.tensor([1]))
                assert not step.valid.any()
                ended = step.observation
            note(ended)
    # Episodes of 3 and 2 steps: choices count from 1, rewards are 1, 2, 3.
    assert inputs == [[0, 0, 1], [3, 1, 0], [1, 2, 0], [2, 3, 0], [0, 0, 1], [3, 1, 0], [1, 2, 0], [0, 0, 1]]


@pytest.mark.slow
def test_inputs_work_with_every_kind_of_action_and_learning_stays_exact():
    def with_inputs(batch_size, seed):
        return WithInputs(make(batch_size, seed), ["previous_action", "previous_reward", "first"])

    with closing(with_inputs(2, "")) as env:
        network = small_network(env, "lstm+attention")
        parts = env.observation_space.parts
    assert parts["previous_action.move"] == spaces.Discrete(5)
    assert parts["previous_action.lamps"] == spaces.MultiDiscrete([3, 3, 3])
    findings = list(network_checks(Subject(with_inputs, network, 3)))
    assert not [finding for finding in findings if finding.status is not Status.PASS]


@pytest.mark.slow
def test_environment_checks_play_only_allowed_actions():
    assert not [
        finding
        for finding in env_checks(make, Budget(seconds=0, least=100, resets=50))
        if finding.status is not Status.PASS
    ]


def with_inputs(batch_size, seed):
    return WithInputs(GymnasiumEnv("Blackjack-v1", batch_size, crc32(seed.encode())), ["previous_action", "first"])


@pytest.mark.slow
def test_an_environment_with_inputs_repeats_and_stays_within_its_space():
    findings = env_checks(with_inputs, Budget(seconds=0, least=100, resets=50))
    assert not [finding for finding in findings if finding.status is not Status.PASS]
