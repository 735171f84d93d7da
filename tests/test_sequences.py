import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqrl.algorithms.sequences import balanced, pack, split, starts
from seqrl.runner import Runner
from tests.parts import small_network
from tests.worlds import Script

lengths = st.lists(st.integers(1, 30), min_size=1, max_size=60).map(np.array)


def column(*ages):
    return torch.tensor(ages).unsqueeze(1)  # [T, B=1]


def test_sequences_start_where_episodes_do_and_after_every_bptt_length_steps():
    age = column(0, 1, 2, 0, 1)
    assert starts(age, 0).flatten().tolist() == [1, 0, 0, 1, 0]
    assert starts(age, 2).flatten().tolist() == [1, 0, 1, 1, 0]
    assert starts(age, 1).flatten().tolist() == [1, 1, 1, 1, 1]


def test_multiples_count_from_the_start_of_the_episode_not_of_the_rollout():
    assert starts(column(3, 4, 5, 6, 7), 4).flatten().tolist() == [1, 1, 0, 0, 0]


def test_negative_bptt_length_is_refused():
    with pytest.raises(ValueError, match="bptt_length is -1"):
        starts(column(0, 1), -1)


@given(lengths, st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_minibatches_hold_every_sequence_once_and_differ_by_at_most_the_longest(length, count, seed):
    groups = list(balanced(length, count, np.random.default_rng(seed)))
    assert sorted(np.concatenate(groups)) == list(range(len(length)))
    assert len(groups) == min(count, len(length))
    assert all(len(group) for group in groups)
    loads = [length[group].sum() for group in groups]
    assert max(loads) - min(loads) <= length.max()


def test_minibatches_differ_from_epoch_to_epoch():
    random = np.random.default_rng(0)
    length = np.arange(1, 20)
    first, second = (next(balanced(length, 4, random)).tolist() for _ in range(2))
    assert sorted(first) != sorted(second)


@given(st.data(), lengths)
def test_packed_sequences_stay_apart_and_carried_ones_begin_rows(data, length):
    carried = np.array(data.draw(st.lists(st.booleans(), min_size=len(length), max_size=len(length))))
    row, offset, (steps, rows) = pack(length, carried)
    longest = length.max()
    assert steps == longest if (length == longest).mean() > 0.5 else longest <= steps <= 1.125 * longest
    assert set(row) == set(range(rows))
    assert (offset[carried] == 0).all()
    grid = np.full((steps + 1, rows), -1)
    for i in range(len(length)):
        place = slice(offset[i], offset[i] + length[i])
        assert offset[i] + length[i] <= steps
        assert (grid[place, row[i]] == -1).all()
        grid[place, row[i]] = i
        # An unreal step separates every sequence from the one before.
        assert offset[i] == 0 or grid[offset[i] - 1, row[i]] == -1
    following = [(grid[t, r], grid[t + 1, r]) for t in range(steps) for r in range(rows)]
    assert all(a == b or -1 in (a, b) for a, b in following)


def test_packing_short_sequences_wastes_little_space():
    random = np.random.default_rng(0)
    length = np.concatenate([random.geometric(1 / 20, 300), [128]]).clip(max=128)
    _, _, (steps, rows) = pack(length, np.zeros(len(length), dtype=bool))
    assert length.sum() / (steps * rows) > 0.9


def played(rollouts=2, rollout_length=11, bptt_length=4, **world):
    env = Script([[3, 5, 1], [20], [2, 9], [1]], **world)
    runner = Runner(env, small_network(env), rollout_length, bptt_length, torch.Generator().manual_seed(0))
    return [runner.collect() for _ in range(rollouts)][-1]


@pytest.mark.parametrize("bptt_length", [0, 1, 4, 100])
@pytest.mark.parametrize(("rollout_length", "ghosts"), [(0, False), (11, False), (11, True)])
def test_every_played_step_appears_once_in_time_order_and_no_sequence_crosses_an_episode(
    bptt_length, rollout_length, ghosts
):
    rollout = played(rollout_length=rollout_length, bptt_length=bptt_length, ghosts=ghosts)
    sequences = split(rollout, rollout.reward, rollout.value, bptt_length)
    expected = sorted(map(tuple, rollout.observation[rollout.valid].tolist()))
    seen = []
    for minibatch in sequences.minibatches(3, np.random.default_rng(0)):
        (batch,) = minibatch.batches(max_steps=None)
        seen += map(tuple, batch.observation.tolist())
        rows = batch.mask.shape[1]
        step = dict(zip(batch.grid_index.tolist(), batch.observation.tolist(), strict=True))
        assert sorted(step) == batch.mask.flatten().nonzero().flatten().tolist()
        for place, (env, episode, clock, _) in step.items():
            if place - rows in step:  # contiguous in the grid: the same episode, one step earlier
                assert step[place - rows][:3] == [env, episode, clock - 1]
                assert not bptt_length or clock % bptt_length
    assert sorted(seen) == expected


def test_ghost_steps_are_left_out():
    rollout = played(ghosts=True)
    assert not rollout.valid.all()
    sequences = split(rollout, rollout.reward, rollout.value, 0)
    assert sequences.length.sum() == rollout.valid.sum()
