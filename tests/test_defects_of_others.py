"""Defects found in published libraries, each with a test that would catch it here."""

import copy

import numpy as np
import pytest
import torch

from seqrl.algorithms.returns import gae
from seqrl.algorithms.reward_scale import RewardScale
from seqrl.algorithms.sequences import split
from seqrl.errors import CheckpointError
from seqrl.networks import LSTM
from seqrl.run.checkpoint import Checkpoints
from seqrl.runner import Runner
from tests.parts import ppo, small_network
from tests.worlds import Script

MANY = [[3, 5, 1], [20], [2, 9], [1]]


def played(lengths, rollout_length, bptt_length, ends="mixed", kind="lstm"):
    env = Script(lengths, ends)
    network = small_network(env, kind, torch.float64)
    runner = Runner(env, network, rollout_length, bptt_length, torch.Generator().manual_seed(0))
    runner.collect()
    return network, runner, runner.collect()


def sequences_of(rollout, bptt_length):
    return split(rollout, rollout.reward, rollout.value, bptt_length)


def test_the_whole_episode_branch_cannot_run():
    network, _, rollout = played(MANY, 0, 0)
    row = ppo(network, bptt_length=0).update(rollout, 0.0)
    assert row["memory/sequence_length"] == rollout.valid.sum() / 4


def test_chunks_shorter_than_the_rollout_interleave_time():
    _, _, rollout = played([[12], [12]], 12, 4)
    sequences = sequences_of(rollout, 4)
    clocks = sequences.observation[:, 2].tolist()
    assert [clocks[b : b + 4] for b in sequences.begin] == 2 * [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_the_stored_state_is_the_one_after_the_step():
    network, _, rollout = played([[20]], 6, 3)
    (place,) = (rollout.state_index[:, 0] >= 0).nonzero()[1:2]
    row = rollout.state_index[place, 0]
    stored = {name: leaf[row] for name, leaf in rollout.state.items()}
    _, value, _ = network.step(rollout.observation[place, 0], stored)
    assert torch.allclose(value, rollout.value[place, 0], atol=1e-12)


def test_the_discount_uses_the_end_of_the_step_before():
    _, _, rollout = played([[1, 4]], 5, 0, ends="terminated")
    advantage = gae(rollout, 0.5, 1.0)
    for t in rollout.terminated[:, 0].nonzero().flatten().tolist():
        assert advantage[t, 0] == pytest.approx((rollout.reward - rollout.value)[t, 0].item())


@pytest.mark.slow
def test_chunks_are_padded_to_the_longest_episode():
    _, _, rollout = played([[500], [2], [2], [2]], 0, 4)
    (batch,) = sequences_of(rollout, 4).batches(max_steps=None)
    assert len(batch.mask) == 4
    assert batch.mask.numel() <= 1.1 * batch.mask.sum()


def test_memory_is_zeroed_at_each_rollout():
    _, _, rollout = played([[50]], 8, 0)
    assert rollout.age[0, 0] == 8
    assert rollout.state["actor.lstm.hidden"][rollout.state_index[0, 0]].abs().min() > 0


def test_learning_sees_no_ends():
    _, _, rollout = played(MANY, 11, 0)
    assert len(sequences_of(rollout, 0).length) > 4


@pytest.mark.parametrize("kind", ["lstm", "separate critic"])
def test_a_time_limit_counts_as_termination(kind):
    _, _, rollout = played([[5]], 0, 0, ends="truncated", kind=kind)
    assert rollout.next_value[4, 0] != 0
    _, _, rollout = played([[5]], 0, 0, ends="terminated", kind=kind)
    assert rollout.next_value[4, 0] == 0


@pytest.mark.parametrize("lengths", [[[40]], MANY])
def test_one_episode_start_sends_the_batch_through_a_loop_over_time(lengths, monkeypatch):
    network, _, rollout = played(lengths, 40, 0)
    (batch,) = sequences_of(rollout, 0).batches(max_steps=None)
    calls = []
    plain = torch.lstm
    monkeypatch.setattr(torch, "lstm", lambda *args, **kwargs: calls.append("all steps") or plain(*args, **kwargs))
    monkeypatch.setattr(LSTM, "step", lambda *args: calls.append("one step"))
    network.unroll(batch)
    assert calls == ["all steps"]


def test_bptt_length_is_read_and_then_ignored():
    gradients = []
    for bptt_length in (0, 3):
        network, _, rollout = played([[20]], 0, bptt_length)
        (batch,) = sequences_of(rollout, bptt_length).batches(max_steps=None)
        value = network.unroll(batch)[1]
        observed = torch.autograd.grad(value[-1], network.actor.encoder.layer.weight)[0]
        gradients.append(observed)
    assert (gradients[0] - gradients[1]).norm() > 1e-3 * gradients[0].norm()


def test_sequences_begin_with_no_stored_memory():
    _, _, rollout = played([[20]], 0, 4)
    sequences = sequences_of(rollout, 4)
    assert (sequences.state_index[1:] >= 0).all()
    (batch,) = sequences.select(np.array([2])).batches(max_steps=None)
    assert batch.state["actor.lstm.cell"].abs().min() > 0


def test_a_time_limit_bootstraps_from_the_wrong_observation():
    network, _, rollout = played([[5]], 0, 0, ends="truncated")
    # The world's clock shows 5 in the final observation, and 0 in the first one of the next episode.
    final = torch.tensor([[0.0, float(rollout.observation[4, 0, 1]), 5.0, 1.0]])
    state = network.initial_state(1)
    for t in range(5):
        _, _, state = network.step(rollout.observation[t], state)
    assert rollout.next_value[4, 0] == pytest.approx(network.step(final, state)[1].item())


def test_the_return_that_scales_rewards_runs_on_through_a_time_limit():
    # Rewards 1, 2, 3, then the time limit, twice. With γ = 1 the returns are plain sums.
    _, _, rollout = played([[3]], 6, 0, ends="truncated")
    scale = RewardScale(1.0)
    scale.divided(rollout)
    assert scale.mean == pytest.approx(np.mean([1, 3, 6, 1, 3, 6]))
    assert scale.deviation == pytest.approx(np.std([1, 3, 6, 1, 3, 6]))
    assert abs(scale.deviation - np.std([1, 3, 6, 7, 9, 12])) > 1


def test_the_return_that_scales_rewards_drops_its_past_at_the_last_step():
    _, _, rollout = played([[3]], 6, 0, ends="terminated")
    scale = RewardScale(1.0)
    scale.divided(rollout)
    assert scale.deviation == pytest.approx(np.std([1, 3, 6, 1, 3, 6]))
    assert abs(scale.deviation - np.std([1, 3, 3, 4, 6, 3])) > 0.3


def test_a_stray_temporary_file_becomes_the_newest_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"iterations": 1}, 1)
    for stray in ("00000002.pt.tmp", "00000003.pt"):
        (tmp_path / "checkpoints" / stray).write_bytes(b"half of it")
    assert checkpoints.newest()[0]["iterations"] == 1


def test_training_starts_from_scratch_where_no_checkpoint_is_sound(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"iterations": 1}, 1)
    (tmp_path / "checkpoints" / "00000001.pt").write_bytes(b"")
    with pytest.raises(CheckpointError):
        checkpoints.newest()


def test_saving_and_loading_changes_what_is_learned_next(tmp_path):
    network, _, rollout = played(MANY, 11, 4)
    whole = ppo(network, bptt_length=4)
    whole.update(rollout, 0.0)
    Checkpoints(tmp_path).save({"algorithm": whole.state_dict()}, 1)
    fresh = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    resumed = ppo(fresh, bptt_length=4, seed=99)
    resumed.load_state_dict(Checkpoints(tmp_path).newest()[0]["algorithm"])
    for algorithm in (whole, resumed):
        algorithm.update(rollout, 0.5)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name]), name
    assert network.value.weight > 0
