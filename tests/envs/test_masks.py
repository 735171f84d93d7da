"""Masks where there is nothing to choose, where nothing else is seen, and where nobody looks for them."""

import re
from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.envs import GymnasiumEnv
from seqrl.envs.inputs import WithInputs
from seqrl.errors import ConfigError, EnvError, FaultyEnvError, OutsideEnvError
from seqrl.runner import Runner
from seqrl.spaces import Packed
from tests.parts import ppo, small_network

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning", "ignore::UserWarning:gymnasium"
)
ALLOWED = np.array([0, 1], np.int8)
MASK = spaces.MultiBinary(2)
PLACE = spaces.Box(-1, 1, (3,))
BOX = spaces.Box(-1, 1, (2,))


class Asks(gymnasium.Env):
    """Allows the second of two; pays 1 for it if it is a choice."""

    def __init__(self, seen, acts, info=None):
        self.observation_space, self.action_space, self.info = seen, acts, info or {}

    def reset(self, *, seed=None, options=None):
        self.clock = 0
        return self.seen(self.observation_space), self.info

    def step(self, action):
        self.clock += 1
        paid = float(action) if isinstance(self.action_space, spaces.Discrete) else 0.0
        return self.seen(self.observation_space), paid, self.clock == 4, False, self.info

    def seen(self, space):
        if isinstance(space, spaces.Dict):
            return {name: self.seen(part) for name, part in space.spaces.items()}
        return ALLOWED if space is MASK else np.zeros(space.shape, space.dtype)


gymnasium.register("test/Asks-v0", Asks, disable_env_checker=True)


def asks(seen, acts=None, backend="sync", action_mask=None, info=None):
    kwargs = {"seen": seen, "acts": spaces.Discrete(2) if acts is None else acts, "info": info}
    return GymnasiumEnv("test/Asks-v0", 2, 0, backend=backend, kwargs=kwargs, action_mask=action_mask)


def learned(env, inputs=()):
    """A rollout of an untrained network, which then learns from it."""
    with closing(WithInputs(env, inputs) if inputs else env) as env:
        network = small_network(env)
        rollout = Runner(env, network, 8, 0, torch.Generator().manual_seed(0)).collect()
        assert ppo(network).update(rollout, 0)["train/skipped"] == 0
    return rollout, network


@pytest.mark.parametrize("acts", [BOX, spaces.Tuple([BOX, BOX]), spaces.MultiBinary(2), spaces.Tuple([MASK, BOX])])
@pytest.mark.parametrize("seen", [{"action_mask": MASK, "place": PLACE}, {"action_mask": MASK}])
def test_where_there_is_nothing_to_choose_a_mask_is_an_ordinary_part(acts, seen):
    env = asks(spaces.Dict(seen), acts)
    assert env.observation_space.mask is None
    _, network = learned(env)
    assert network.actor.encoder.read == list(seen)
    assert not env.notes


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_a_mask_that_is_all_there_is_to_see_is_obeyed_and_read(backend):
    rollout, network = learned(asks(spaces.Dict({"action_mask": MASK}), backend=backend))
    assert rollout.reward.unique().tolist() == [1]
    assert network.actor.encoder.read == ["action_mask"]


def test_further_inputs_are_read_instead_of_a_mask():
    rollout, network = learned(asks(spaces.Dict({"action_mask": MASK})), ["previous_reward", "first"])
    assert rollout.reward.unique().tolist() == [1]
    assert network.actor.encoder.read == ["previous_reward", "first"]


def test_a_mask_in_info_is_obeyed_beside_a_part_of_that_name():
    seen = spaces.Dict({"action_mask": PLACE, "place": PLACE})
    rollout, network = learned(asks(seen, action_mask="info", info={"action_mask": ALLOWED}))
    assert rollout.reward.unique().tolist() == [1]
    assert network.actor.encoder.read == ["action_mask", "place"]


class Forgets(Asks):
    """Has no mask in its info at step `at`."""

    def __init__(self, at, acts):
        super().__init__(PLACE, acts)
        self.at = at
        one = acts.spaces if isinstance(acts, spaces.Dict) else None
        self.mask = {"action_mask": ALLOWED if one is None else dict.fromkeys(one, ALLOWED)}

    def reset(self, *, seed=None, options=None):
        shown, _ = super().reset(seed=seed)
        return shown, {} if self.at == 0 else self.mask

    def step(self, action):
        *answer, _ = super().step(action)
        return *answer, {} if self.clock == self.at else self.mask


gymnasium.register("test/Forgets-v0", Forgets, disable_env_checker=True)
CHOICES = [spaces.Discrete(2), spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(2)})]


def forgets(at, acts=CHOICES[0], backend="sync"):
    return GymnasiumEnv("test/Forgets-v0", 2, 0, backend=backend, kwargs={"at": at, "acts": acts}, action_mask="info")


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("acts", CHOICES, ids=str)
def test_at_an_episodes_end_no_mask_is_needed(acts, backend):
    rollout, _ = learned(forgets(4, acts, backend))
    assert rollout.terminated.any()


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(("at", "when"), [(0, "reset"), (2, "step 2")])
def test_a_mask_that_is_missing_from_info_is_named(at, when, backend):
    with pytest.raises(FaultyEnvError, match=rf"^environment 0, episode 1 .*, {when}: its info has no action_mask\. "):
        learned(forgets(at, backend=backend))


TWO, THREE = np.ones(2, np.int8), np.ones(3, np.int8)
SEVERAL = spaces.MultiDiscrete([2, 3])
PARTS = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(3), "c": BOX})
PAIR = spaces.Tuple([spaces.Discrete(2), BOX, spaces.Discrete(3)])


@pytest.mark.parametrize(
    ("acts", "mask", "said"),
    [
        (spaces.Discrete(2), THREE, "has 3 numbers for 2 choices"),
        (spaces.Discrete(3), TWO, "has 2 numbers for 3 choices"),
        (spaces.Discrete(2), None, "is [None]: neither allowed nor not"),
        (SEVERAL, TWO, "has 2 numbers for 5 choices"),
        (SEVERAL, (THREE, TWO), "has 3 + 2 numbers for 2 + 3 choices"),
        (PARTS, {"a": TWO, "b": TWO}, "has 2 numbers for 3 choices"),
        (PARTS, {"a": TWO}, "has no part 'b', as the action has"),
        (PAIR, (THREE, None, TWO), "has 3 numbers for 2 choices"),
        (PAIR, (TWO, THREE), "is no tuple of 3 parts, as the action is"),
    ],
)
def test_a_mask_in_info_that_does_not_fit_the_choices_is_named(acts, mask, said):
    when = r"^environment 0, episode 1 \(seed \d+\), reset: its action_mask "
    with pytest.raises(OutsideEnvError, match=when + re.escape(said)):
        learned(asks(PLACE, acts, action_mask="info", info={"action_mask": mask}))


@pytest.mark.parametrize(
    ("acts", "mask"),
    [
        (SEVERAL, (np.array([0, 1]), np.array([0, 0, 1]))),
        (SEVERAL, np.array([0, 1, 0, 0, 1])),
        (SEVERAL, [0, 1, 0, 0, 1]),
        (PARTS, {"a": np.array([0, 1]), "b": [0, 0, 1]}),
        (PAIR, (np.array([0, 1]), None, np.array([[0, 0, 1]]))),
    ],
)
def test_a_mask_in_info_may_have_any_form_that_fits_the_choices(acts, mask):
    with closing(asks(PLACE, acts, action_mask="info", info={"action_mask": mask})) as env:
        shown = env.observation_space.split(env.reset())["action_mask"]
    assert shown.tolist() == [[0, 1, 0, 0, 1]] * 2


@pytest.mark.parametrize("named", ["info", "mask"])
def test_a_mask_that_is_asked_for_where_there_is_nothing_to_choose_is_refused(named):
    with pytest.raises(EnvError, match=rf"^env.action_mask: the action has no choice to mask \(got {named}\)"):
        asks(spaces.Dict({"mask": MASK}), BOX, action_mask=named)


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_a_mask_in_info_that_is_not_used_is_said_once(backend):
    with closing(asks(PLACE, backend=backend, info={"action_mask": ALLOWED})) as env:
        inputs = WithInputs(env, ["first"])
        assert not env.notes
        for _ in range(2):
            inputs.reset()
        assert inputs.notes == ["info['action_mask'] is not used; env.action_mask=info lets it forbid actions."]


def test_a_mask_within_a_part_that_is_not_used_is_said():
    with closing(asks(spaces.Dict({"state": spaces.Dict({"action_mask": MASK, "place": PLACE})}))) as env:
        (note,) = env.notes
    assert note.startswith("part 'state.action_mask' of the observation looks like a mask of actions")
    assert "env.action_mask=state.action_mask" in note


def test_nothing_is_said_of_masks_that_are_used_or_have_nothing_to_mask():
    for env in (
        asks(spaces.Dict({"action_mask": MASK, "place": PLACE}), action_mask=None),
        asks(spaces.Dict({"state": spaces.Dict({"action_mask": MASK})}), BOX),
        asks(spaces.Dict({"mask": MASK, "place": PLACE}), action_mask="mask"),
    ):
        with closing(env):
            env.reset()
            assert not env.notes


def test_a_tensor_program_whose_mask_does_not_fit_its_choices_is_refused():
    class Program:
        observation_space = Packed({"place": PLACE, "action_mask": MASK})
        action_space = BOX

    with pytest.raises(ConfigError, match="the mask action_mask has 2 numbers for 0 choices"):
        small_network(Program)


def test_an_observation_without_parts_and_an_action_without_numbers_are_refused():
    with pytest.raises(EnvError, match="the observation has no parts"):
        asks(spaces.Dict())
    for nothing in (spaces.Box(-1, 1, (0,)), spaces.Tuple([])):
        with pytest.raises(EnvError, match="has nothing to choose"):
            asks(PLACE, nothing)
