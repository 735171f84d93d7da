import copy
import dataclasses
import random
import statistics

import pytest
import torch

from seqrl.algorithms.reward_scale import RewardScale
from seqrl.runner import Runner
from tests.parts import ppo, reinforce, small_network
from tests.worlds import Script


def played(env, rollout_length, rollouts, seed=0):
    """Rollouts with random rewards, in float64; NaN where nothing was played."""
    runner = Runner(env, small_network(env, "memoryless"), rollout_length, 0, torch.Generator().manual_seed(seed))
    noise = torch.Generator().manual_seed(seed)
    for _ in range(rollouts):
        rollout = runner.collect()
        reward = torch.randn(rollout.reward.shape, generator=noise, dtype=torch.float64)
        yield dataclasses.replace(rollout, reward=reward.masked_fill(~rollout.valid, torch.nan))


class Plain:
    """A plain loop over environments and steps, which looks only at rewards and ends."""

    def __init__(self, environments, gamma):
        self.gamma, self.every, self.now = gamma, [], [0.0] * environments

    def deviation(self, rollout):
        for b in range(len(self.now)):
            for t in range(len(rollout.valid)):
                if not rollout.valid[t, b]:
                    continue
                self.now[b] = self.gamma * self.now[b] + rollout.reward[t, b].item()
                self.every.append(self.now[b])
                if rollout.terminated[t, b] or rollout.truncated[t, b]:
                    self.now[b] = 0.0
        return statistics.pstdev(self.every)


@pytest.mark.thin(5)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rollout_length", [0, 1, 7])
@pytest.mark.parametrize("ghosts", [False, True])
@pytest.mark.parametrize("ends", ["terminated", "truncated", "both", "mixed"])
def test_rewards_are_divided_as_in_a_plain_loop(ends, ghosts, rollout_length, seed):
    draw = random.Random(seed)
    lengths = [[draw.randint(1, 12) for _ in range(5)] for _ in range(4)]
    scale, plain = RewardScale(0.9), Plain(4, 0.9)
    for rollout in played(Script(lengths, ends, ghosts), rollout_length, 6, seed):
        deviation = plain.deviation(rollout)
        divided = scale.divided(rollout)
        assert scale.deviation == pytest.approx(deviation, rel=1e-12)
        valid = rollout.valid
        assert torch.allclose(divided.reward[valid], rollout.reward[valid] / deviation, rtol=1e-12, atol=0)
    assert scale.steps == len(plain.every)
    assert scale.mean == pytest.approx(statistics.fmean(plain.every), rel=1e-9)


@pytest.mark.parametrize("reward", [0.0, 0.1, -7e9])
def test_equal_returns_leave_rewards_unchanged(reward):
    scale = RewardScale(0.9)
    for rollout in played(Script([[1], [1], [1]]), 5, 3):
        rollout = dataclasses.replace(rollout, reward=torch.full_like(rollout.reward, reward, dtype=torch.float32))
        assert torch.equal(scale.divided(rollout).reward, rollout.reward)


@pytest.mark.slow
def test_a_deviation_far_smaller_than_the_mean_is_not_lost():
    scale, plain = RewardScale(0.0), Plain(2, 0.0)
    for rollout in played(Script([[9], [4, 7]]), 20, 40):
        rollout = dataclasses.replace(rollout, reward=1e6 + rollout.reward)
        plain.deviation(rollout)
        scale.divided(rollout)
    assert scale.deviation == pytest.approx(statistics.pstdev(plain.every), rel=1e-6)


@pytest.mark.parametrize("environments", [3, 5])
def test_a_lost_episode_drops_its_return(environments):
    """A resumed run begins new episodes instead, perhaps with another number of environments."""
    (before, _), (other, _) = (list(played(Script([[20]] * b), 7, 2)) for b in (3, environments))
    scale, plain = RewardScale(0.9), Plain(3, 0.9)
    plain.deviation(before)
    scale.divided(before)
    plain.now = [0.0] * environments
    scale.divided(other)
    assert scale.deviation == pytest.approx(plain.deviation(other), rel=1e-12)


def updated(factor, **changes):
    """Parameters after some updates from rewards scaled by `factor`, and the norm of their change."""
    env = Script([[3, 5, 1], [20], [2, 9], [1]])
    network = small_network(env, "lstm", torch.float64)
    runner = Runner(env, network, 11, 0, torch.Generator().manual_seed(0))
    algorithm = changes.pop("build", ppo)(network, **changes)
    before = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    for _ in range(4):
        rollout = runner.collect()
        algorithm.update(dataclasses.replace(rollout, reward=factor * rollout.reward.double()), 0.0)
    after = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    return after, float((after - before).norm())


@pytest.mark.thin(4)
@pytest.mark.parametrize("normalize_value", [False, True])
@pytest.mark.parametrize("build", [ppo, reinforce])
def test_the_unit_of_the_reward_changes_no_update(build, normalize_value):
    changes = {
        "build": build,
        "normalize_value": normalize_value,
        "normalize_advantage": "none",
        "grad_clip_norm": None,
    }
    once, moved = updated(1, normalize_reward=True, **changes)
    thousandfold, _ = updated(1000, normalize_reward=True, **changes)
    assert (once - thousandfold).norm() < 1e-9 * moved
    without = [updated(factor, normalize_reward=False, **changes)[0] for factor in (1, 1000)]
    assert (without[0] - without[1]).norm() > 1e-2 * moved


def test_only_learning_sees_divided_rewards():
    env = Script([[3, 5, 1], [20]])
    network = small_network(env, "lstm")
    rollout = Runner(env, network, 11, 0, torch.Generator().manual_seed(0)).collect()
    before = copy.deepcopy(rollout)
    row = ppo(network, normalize_reward=True).update(rollout, 0.0)
    assert torch.equal(rollout.reward, before.reward)
    assert row["train/return_deviation"] > 1
    assert "train/return_deviation" not in ppo(network).update(rollout, 0.0)


def test_a_scale_added_to_a_saved_run_counts_from_there():
    env = Script([[20], [20]])
    network = small_network(env, "lstm")
    rollout = list(played(env, 7, 2))[1]
    saved = ppo(network).state_dict()
    resumed = ppo(network, normalize_reward=True)
    resumed.load_state_dict(saved)
    assert resumed.reward_scale.divided(rollout).reward.isfinite().all()
    assert resumed.reward_scale.steps == 14
