"""Peak memory of an update, from torch's own log of every allocation."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from seqrl.networks import recurrent_network
from seqrl.runner import Runner
from tests.parts import ppo
from tests.worlds import Script


def peak(lengths, rollout_length, bptt_length=0, **changes):
    """Peak bytes that an update of one minibatch adds, and its real steps."""
    env = Script(lengths)
    network = recurrent_network(
        env.observation_space,
        env.action_space,
        use_lstm=True,
        use_attention=False,
        hidden_size=64,
        lstm_hidden_size=64,
        window=1,
        heads=1,
        separate_critic=False,
    )
    rollout = Runner(env, network, rollout_length, bptt_length, torch.Generator().manual_seed(0)).collect()
    algorithm = ppo(network, epochs=1, minibatches=1, bptt_length=bptt_length, **changes)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        algorithm.update(rollout, 0.0)
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most, int(rollout.valid.sum())


def test_memory_grows_no_faster_than_the_steps():
    (few, steps), (many, four_times) = (peak([[64]] * n, 64) for n in (32, 128))
    assert four_times == 4 * steps
    assert 3 * few < many < 4.2 * few


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize(
    "lengths",
    [[[64]] * 32 + [[4]] * 32, [[5, 50, 2, 30, 11]] * 64, [[1, 100]] * 64],
    ids=["long ones and short ones", "of many lengths", "single steps among long ones"],
)
def test_memory_does_not_grow_with_the_number_of_episodes(lengths):
    one_each, steps = peak([[64]] * 64, 64)
    many_each, as_many = peak(lengths, 64)
    assert as_many == steps
    # One unreal step after each episode, and the ends of rows: a fifth if episodes have four steps.
    assert many_each < 1.2 * one_each


def test_memory_falls_with_bptt_length_down_to_a_thousand_steps():
    whole, steps = peak([[128]] * 64, 128)
    for bptt_length, at_once in ((32, 2048), (8, 1024)):
        cut, as_many = peak([[128]] * 64, 128, bptt_length)
        assert as_many == steps == 8192
        # The reordered minibatch takes memory too, however small the chunks are.
        assert cut < (at_once / steps + 0.1) * whole
