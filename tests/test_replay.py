import pytest
import torch

from seqrl.algorithms import stale_state as replay
from seqrl.runner import Runner
from tests.parts import ppo, small_network
from tests.worlds import Script


def played(kind, rollout_length, state_lead=0, ghosts=False):
    """Network and its second rollout, with memory stored every 4 steps."""
    env = Script([[3, 5, 1], [20], [2, 9], [6]], ghosts=ghosts)
    network = small_network(env, kind, torch.float64)
    runner = Runner(env, network, rollout_length, 4, torch.Generator().manual_seed(0), state_lead)
    runner.collect()
    return network, runner.collect()


def changed(network):
    for parameter in network.parameters():
        parameter.detach().add_(0.1)
    return network


def by_hand(network, rollout, index, back):
    """Memory for one stored row, recomputed step by step.

    It starts from the memory stored `back` steps earlier, or from the start of the episode or the rollout if later.
    """
    (t, b) = (rollout.state_index == index).nonzero()[0].tolist()
    begin = max(0, t - min(back, int(rollout.age[t, b])))
    first = int(rollout.state_index[begin, b])
    if rollout.age[begin, b] == 0:
        state = network.initial_state(1)
    else:
        state = {name: leaf[first : first + 1] for name, leaf in rollout.state.items()}
    with torch.no_grad():
        for s in range(begin, t):
            state = network.step(rollout.observation[s, b : b + 1], state)[2]
    return state


def starts(rollout):
    """Stored rows at which a sequence with bptt_length 4 may begin."""
    at_start = (rollout.age % 4 == 0) | (torch.arange(len(rollout.age)).unsqueeze(1) == 0)
    return rollout.state_index[at_start & (rollout.state_index >= 0)].tolist()


@pytest.mark.parametrize("kind", ["lstm", "lstm+attention"])
@pytest.mark.parametrize(("rollout_length", "ghosts"), [(0, False), (15, False), (15, True)])
def test_recomputing_memory_that_is_not_stale_changes_nothing(kind, rollout_length, ghosts):
    network, rollout = played(kind, rollout_length, state_lead=3, ghosts=ghosts)
    rows = starts(rollout)
    assert len(rows) > 3
    for renewed in (replay.refreshed(network, rollout), replay.burned_in(network, rollout, 3)):
        assert all(
            torch.allclose(renewed[name][rows].double(), leaf[rows].double(), atol=1e-12)
            for name, leaf in rollout.state.items()
        )


@pytest.mark.parametrize("kind", ["lstm", "lstm+attention"])
@pytest.mark.parametrize("rollout_length", [0, 15])
@pytest.mark.parametrize("way", ["refresh", "burn_in"])
def test_stale_memory_is_recomputed_with_the_current_network(kind, rollout_length, way):
    network, rollout = played(kind, rollout_length, state_lead=3)
    network = changed(network)
    if way == "refresh":
        renewed, back = replay.refreshed(network, rollout), 1000
    else:
        renewed, back = replay.burned_in(network, rollout, 3), 3
    for row in starts(rollout):
        expected = by_hand(network, rollout, row, back)
        for name, leaf in expected.items():
            assert torch.allclose(renewed[name][row : row + 1].double(), leaf.double(), atol=1e-12), name


def test_where_no_sequence_begins_with_stored_memory_nothing_is_burned_in():
    env = Script([[3, 5, 1], [6]])
    network = small_network(env, "lstm", torch.float64)
    rollout = Runner(env, network, 0, 100, torch.Generator().manual_seed(0), 3).collect()
    assert not (rollout.state_index >= 0).any()
    network.step = None
    assert replay.burned_in(network, rollout, 3) is rollout.state


def test_zero_memory_makes_every_sequence_begin_like_an_episode():
    _, rollout = played("lstm", 15)
    assert any(leaf.any() for leaf in rollout.state.values())
    assert not any(leaf.any() for leaf in replay.zero(rollout).values())


@pytest.mark.parametrize("stale_state", ["keep", "refresh", "burn_in", "zero"])
def test_every_way_learns_and_leaves_the_rollout_unchanged(stale_state):
    network, rollout = played("lstm+attention", 15, state_lead=3)
    before = {name: leaf.clone() for name, leaf in rollout.state.items()}
    algorithm = ppo(network, bptt_length=4, stale_state=stale_state, epochs=3, learning_rate=0.01)
    row = algorithm.update(rollout, 0.0)
    assert row["train/skipped"] == 0
    assert all(torch.equal(leaf, rollout.state[name]) for name, leaf in before.items())


def test_every_way_learns_something_different():
    learned = {}
    for stale_state in ("keep", "refresh", "burn_in", "zero"):
        network, rollout = played("lstm", 15, state_lead=6)
        algorithm = ppo(network, bptt_length=4, stale_state=stale_state, burn_in=6, epochs=3, learning_rate=0.01)
        algorithm.update(rollout, 0.0)
        learned[stale_state] = torch.cat([p.detach().flatten() for p in network.parameters()]).tolist()
    assert len({tuple(parameters) for parameters in learned.values()}) == 4
