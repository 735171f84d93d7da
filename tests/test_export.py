"""An exported policy computes, without torch, what the policy computes, or there is none."""

from contextlib import closing
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.envs import CartPole, CountRecall, GymnasiumEnv, RepeatPrevious
from seqrl.envs.inputs import WithInputs
from tests.envs.everything import ID
from tests.parts import NETWORKS, small_network
from tests.worlds import Script

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("onnxscript", reason="the extra export is not installed")

from seqrl.export.model import model  # noqa: E402
from seqrl.export.own import own  # noqa: E402
from seqrl.export.proof import Exported, prove  # noqa: E402
from seqrl.export.step import OneStep, apart  # noqa: E402

# Steps that are compared here; the program compares more.
STEPS = 300


def exported(env, kind="lstm", hidden=(), **more):
    """A network of random numbers, the same as a step that can be exported, and its model."""
    network = small_network(env, kind, **more).eval()
    space = SimpleNamespace(observation_space=apart(env.observation_space), action_space=env.action_space)
    copy = small_network(space, kind, **more).requires_grad_(False).eval()
    copy.load_state_dict(network.state_dict())
    step = OneStep(copy, env, own(env, hidden))
    return network, step, model(step, {})


def proven(env, kind="lstm", hidden=(), **more):
    with closing(env):
        network, step, data = exported(env, kind, hidden, **more)
        proof = prove(data, step, env, network, torch.Generator().manual_seed(0), STEPS)
    assert proof.steps >= STEPS
    return proof


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("continuous", [False, True])
def test_every_network_is_exported_as_it_acts(kind, continuous):
    proof = proven(Script([[3, 5], [4], [7]], continuous=continuous), kind)
    assert proof.holds, (proof.wrong, proof.largest)
    assert proof.begun > 30
    assert proof.cleared > 0


class Asks(gymnasium.Env):
    """Shows samples of one space, and takes actions of another; insists that they are in it."""

    def __init__(self, seen, acts):
        self.observation_space, self.action_space = seen, acts

    def reset(self, *, seed=None, options=None):
        self.clock = 0
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.clock += 1
        return self.observation_space.sample(), float(self.clock), self.clock == 6, False, {}


gymnasium.register("test/Shows-v0", Asks, disable_env_checker=True)

PLACE, TWO = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
SEEN = {
    "float64": spaces.Box(-1e6, 1e6, (3,), np.float64),
    "float16": spaces.Box(-1, 1, (2,), np.float16),
    "int16": spaces.Box(-100, 100, (2, 2), np.int16),
    "a number": spaces.Box(-1, 1, ()),
    "image": spaces.Box(0, 255, (12, 10, 3), np.uint8),
    "large image": spaces.Box(0, 255, (36, 36), np.uint8),
    "bytes": spaces.Box(3, 9, (4,), np.uint8),
    "stack of images": spaces.Box(0, 255, (2, 8, 8, 1), np.uint8),
    "choice": spaces.Discrete(4, start=-2),
    "choices": spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, -1], [0, 5]]),
    "switches": spaces.MultiBinary([2, 2]),
    "dict": spaces.Dict({"b c": PLACE, "a": spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(0, 255, (5, 5), np.uint8)])}),
    "tuple": spaces.Tuple([PLACE, spaces.MultiBinary(2)]),
}
ACTS = {
    "choice": spaces.Discrete(3, start=-1),
    "choices": spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, -1], [0, 5]]),
    "switches": spaces.MultiBinary([2, 2]),
    "bounded": spaces.Box(np.array([-2, 100], np.float32), np.array([2, 101], np.float32)),
    "unbounded": spaces.Box(-np.inf, np.inf, (2, 2)),
    "half bounded": spaces.Box(np.array([0, -np.inf]), np.array([np.inf, 0.1]), dtype=np.float64),
    "float16": spaces.Box(-3, 3, (2,), np.float16),
    "dict": spaces.Dict({"arm": spaces.Box(-2, 5, (2,), np.float64), "keys": spaces.MultiDiscrete([3, 2]), "to": spaces.Discrete(4, start=1)}),
}  # fmt: skip


def shows(seen=PLACE, acts=TWO, **more):
    return GymnasiumEnv("test/Shows-v0", 3, 0, backend="sync", kwargs={"seen": seen, "acts": acts}, **more)


@pytest.mark.parametrize("seen", SEEN)
def test_every_observation_goes_in_as_the_environment_shows_it(seen):
    proof = proven(shows(SEEN[seen]), normalize_observations=True)
    assert proof.holds, (proof.wrong, proof.largest)


@pytest.mark.parametrize("acts", ACTS)
@pytest.mark.parametrize("inputs", [(), ("previous_action", "previous_reward", "first")])
def test_every_action_comes_out_as_the_environment_is_given_it(acts, inputs):
    env = shows(acts=ACTS[acts])
    proof = proven(WithInputs(env, inputs) if inputs else env)
    assert proof.holds, (proof.wrong, proof.largest)


@pytest.mark.filterwarnings("ignore::UserWarning:gymnasium")
@pytest.mark.parametrize(
    "env",
    [
        lambda: GymnasiumEnv(ID, 3, 0, backend="sync", hidden=["mission"]),
        lambda: GymnasiumEnv(ID, 3, 0, backend="sync", hidden=["mission", "body.0"]),
        lambda: WithInputs(GymnasiumEnv(ID, 3, 0, backend="sync", hidden=["mission"]), ["previous_action", "first"]),
        lambda: CountRecall(3, 0),
        lambda: WithInputs(RepeatPrevious(3, 0), ["previous_action"]),
        lambda: GymnasiumEnv("CartPole-v1", 3, 0),
        lambda: GymnasiumEnv("Pendulum-v1", 3, 0, backend="sync"),
    ],
)
def test_masks_parts_inputs_and_vector_forms_are_exported(env):
    proof = proven(env(), "lstm+attention")
    assert proof.holds, (proof.wrong, proof.largest)


def test_hidden_numbers_are_not_read():
    proof = proven(shows(hidden=[1]), hidden=[1])
    assert proof.holds, (proof.wrong, proof.largest)
