import logging

import pytest
import torch

from seqrl.envs import CartPole
from seqrl.networks import Graphed
from seqrl.runner import Runner
from tests.parts import NETWORKS, small_network


def again(function):
    """Stands in for a CUDA graph on the CPU: a replay computes again into the same tensors."""
    policy, value, after = function()

    def replay():
        new_policy, new_value, new_after = function()
        for name, tensor in vars(policy).items():
            tensor.copy_(getattr(new_policy, name))
        value.copy_(new_value)
        for name, leaf in after.items():
            leaf.copy_(new_after[name])

    return (policy, value, after), replay


def rollouts(play, network):
    yield play.collect()
    for parameter in network.parameters():  # in place, as learning does
        parameter.detach().add_(0.01)
    yield play.collect()


@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("rollout_length", [0, 40])
def test_a_captured_network_acts_as_without_a_graph(kind, rollout_length):
    sides = []
    for wrap in (lambda network: network, lambda network: Graphed(network, again)):
        env = CartPole(4, 0, max_episode_steps=15)
        network = small_network(env, kind)
        play = Runner(env, wrap(network), rollout_length, 3, torch.Generator().manual_seed(0))
        sides.append(list(rollouts(play, network)))
    for one, other in zip(*sides, strict=True):
        for name in ("observation", "action", "log_prob", "value", "next_value", "state_index"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        for name, leaf in one.state.items():
            assert torch.equal(leaf, other.state[name])


def refuses(function):
    raise RuntimeError("operation not permitted when stream is capturing")


def stands_still(function):
    return function(), lambda: None


@pytest.mark.parametrize(
    ("capture", "why"), [(refuses, "not permitted when stream is capturing"), (stands_still, "gives different results")]
)
def test_a_network_that_cannot_be_captured_acts_without_a_graph_and_says_why(caplog, capture, why):
    env = CartPole(4, 0)
    network = small_network(env)
    # A capture alone computes nothing, so the tensors hold garbage until the first replay.
    graphed = Graphed(network, lambda function: spoiled(*capture(function)))
    state = {name: leaf + 0.1 if leaf.is_floating_point() else leaf for name, leaf in graphed.initial_state(4).items()}
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        _, value, _ = graphed.step(env.reset(), state)
        assert torch.equal(value, network.step(env._observation(), state)[1])
    assert why in caplog.text


def spoiled(answer, replay):
    _, value, after = answer
    for tensor in (value, *after.values()):
        tensor.zero_()
    return answer, replay
