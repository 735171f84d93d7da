import pytest
import torch

from seqrl.envs import TMaze
from seqrl.envs.tasks.tmaze import BACK, DOWN, FORWARD, UP


def returns(policy, batch_size=2000, corridor_length=5):
    """Mean return over whole episodes of a policy of (observation, first observation)."""
    env = TMaze(batch_size, seed=0, corridor_length=corridor_length)
    observation = first = env.reset()
    total, playing = torch.zeros(batch_size), torch.ones(batch_size, dtype=torch.bool)
    for _ in range(corridor_length + 1):
        step = env.step(policy(observation, first))
        total += step.reward * playing
        playing &= ~step.terminated
        observation = step.observation
    assert not playing.any()
    return total.mean().item()


def test_remembering_the_sign_earns_the_full_return():
    def remembering(observation, first):
        turn = torch.where(first[:, 0] > 0, UP, DOWN)
        return torch.where(observation[:, 1] > 0, turn, FORWARD)

    assert returns(remembering) == 1


@pytest.mark.parametrize("turn", [UP, DOWN])
def test_without_memory_the_best_return_is_one_half(turn):
    assert returns(lambda o, first: torch.where(o[:, 1] > 0, turn, FORWARD)) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("action", [BACK, UP])
def test_never_walking_costs_one_in_total(action):
    assert returns(lambda o, first: torch.full((len(o),), action)) == pytest.approx(-1)


def test_one_lost_step_puts_the_junction_out_of_reach():
    env = TMaze(1, seed=0, corridor_length=3)
    env.reset()
    rewards = [env.step(torch.tensor([a])).reward.item() for a in (FORWARD, BACK, FORWARD)]
    last = env.step(torch.tensor([FORWARD]))
    assert rewards == pytest.approx([0, -1 / 3, 0])
    assert (last.reward.item(), last.terminated.item(), last.truncated.item()) == (0, True, False)


def test_the_sign_shows_once_and_the_junction_shows_when_reached():
    env = TMaze(2, seed=0, corridor_length=2)
    first = env.reset()
    assert first[:, 0].abs().tolist() == [1, 1]
    seen = [env.step(torch.full((2,), FORWARD)).observation for _ in range(2)]
    assert [observation.tolist() for observation in seen] == [[[0, 0], [0, 0]], [[0, 1], [0, 1]]]


def test_signs_repeat_with_the_seed_and_point_both_ways():
    signs = [TMaze(100, seed=seed).reset()[:, 0] for seed in (0, 0, 1)]
    assert torch.equal(signs[0], signs[1])
    assert not torch.equal(signs[0], signs[2])
    assert set(signs[0].tolist()) == {-1.0, 1.0}
