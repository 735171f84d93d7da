"""An LSTM learns what a memoryless policy cannot: a positive and a negative control."""

from functools import partial

import pytest
import torch

from seqrl.networks import GTrXL, recurrent_network
from seqrl.runner import Runner
from tests.parts import NETWORKS, ppo
from tests.worlds import Cue

# As far as attention looks back here.
LONG_WINDOW = partial(GTrXL, window=8, heads=2)


def mean_return_after_training(kind, rollout_length, bptt_length, iterations, seed=0):
    torch.manual_seed(seed)
    env = Cue(batch_size=64, seed=seed)
    network = recurrent_network(
        env.observation_space,
        env.action_space,
        **{"separate_critic": False, **NETWORKS[kind], **({"memory": LONG_WINDOW} if kind == "gtrxl" else {})},
        hidden_size=32,
        lstm_hidden_size=32,
        window=8,
        heads=2,
    )
    algorithm = ppo(network, learning_rate=1e-3, epochs=4, minibatches=4, bptt_length=bptt_length, seed=seed)
    runner = Runner(env, network, rollout_length, bptt_length, torch.Generator().manual_seed(seed))
    for _ in range(iterations):
        algorithm.update(runner.collect(), 0.0)
    fresh = Runner(Cue(batch_size=200, seed=seed + 1000), network, 0, 0, generator=None)
    return fresh.collect().reward.sum(0).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("rollout_length", [0, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", ["lstm", *(pytest.param(it, marks=pytest.mark.slow) for it in NETWORKS if it not in ("lstm", "memoryless"))]
)
def test_a_network_with_memory_learns_to_remember_a_cue(kind, rollout_length):
    # The median of three seeds, as in the exam: a policy may settle before it discovers the use of the cue. Where two
    # have learned, the third need not be trained.
    learned = (
        mean_return_after_training(kind, rollout_length, 0, seed=seed, iterations=40) > 0.95 for seed in range(3)
    )
    assert [any(learned), any(learned)] == [True, True]


@pytest.mark.slow
def test_a_memoryless_network_cannot_learn_to_remember():
    assert abs(mean_return_after_training("memoryless", 0, bptt_length=1, iterations=40)) < 0.3
