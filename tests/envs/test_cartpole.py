import gymnasium
import numpy as np
import pytest
import torch

from seqrl.envs import CartPole, EnvError


def random_actions(observation: torch.Tensor, t: int) -> torch.Tensor:
    return torch.randint(0, 2, (len(observation),), generator=torch.Generator().manual_seed(t))


def balancing(observation: torch.Tensor, t: int) -> torch.Tensor:
    return (observation[:, 2] + 0.5 * observation[:, 3] + 0.01 * observation[:, 0] > 0).long()


def alternating(observation: torch.Tensor, t: int) -> torch.Tensor:
    return torch.full((len(observation),), t % 2)


@pytest.mark.parametrize("policy", [random_actions, balancing, alternating])
def test_plays_as_gymnasium_does(policy):
    env, twins = CartPole(5, seed=3), [gymnasium.make("CartPole-v1").unwrapped for _ in range(5)]

    def meet(where: torch.Tensor) -> None:
        for b in where.nonzero().flatten().tolist():
            twins[b].reset()
            twins[b].state = env._state[b].numpy().copy()

    observation = env.reset()
    meet(torch.ones(5, dtype=torch.bool))
    played = 0
    for t in range(400):
        action = policy(observation, t)
        step = env.step(action)
        for b, twin in enumerate(twins):
            seen, reward, terminated, _, _ = twin.step(int(action[b]))
            assert seen.tolist() == step.observation[b].tolist(), (t, b)
            assert (reward, terminated) == (step.reward[b].item(), step.terminated[b].item())
            played += 1
        assert step.valid.all()
        assert not step.truncated.any()
        observation = env.reset(step.terminated)
        meet(step.terminated)
    assert played == 2000


@pytest.mark.parametrize("limit", [7, 500])
def test_time_limit_truncates_at_exactly_its_step(limit):
    env = CartPole(3, seed=0, max_episode_steps=limit)
    observation = env.reset()
    for t in range(1, limit + 1):
        step = env.step(balancing(observation, t))
        observation = step.observation
        assert step.truncated.tolist() == [t == limit] * 3
        assert not step.terminated.any()


def test_reset_touches_only_those_rows():
    env = CartPole(3, seed=0, max_episode_steps=4)
    env.reset()
    for _ in range(2):
        before = env.step(torch.tensor([0, 1, 0])).observation
    after = env.reset(torch.tensor([False, True, False]))
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert after[1].abs().max() <= 0.05
    ends = [env.step(torch.tensor([1, 0, 1])).truncated.tolist() for _ in range(4)]
    assert ends == [[False] * 3, [True, False, True], [True, False, True], [True, True, True]]


def test_nothing_returned_changes_later():
    env = CartPole(2, seed=0)
    first = env.reset()
    copy = first.clone()
    env.step(torch.tensor([0, 1]))
    env.reset(torch.tensor([True, False]))
    assert torch.equal(first, copy)


def test_hidden_numbers_leave_the_observation_and_its_space():
    whole, masked = CartPole(4, seed=0), CartPole(4, seed=0, hidden=[1, 3])
    assert torch.equal(whole.reset()[:, [0, 2]], masked.reset())
    action = torch.tensor([0, 1, 1, 0])
    observation = masked.step(action).observation
    assert torch.equal(whole.step(action).observation[:, [0, 2]], observation)
    assert masked.observation_space.shape == (2,)
    np.testing.assert_allclose(masked.observation_space.high, [4.8, 24 * np.pi / 180], rtol=1e-6)
    assert whole.observation_space == gymnasium.make("CartPole-v1").observation_space
    assert observation.dtype == torch.float32


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        ([4], "env.hidden: there is no index 4 in an observation of 4. Use 0 to 3."),
        ([0, -1], "env.hidden: there is no index -1 in an observation of 4. Use 0 to 3."),
        ([0, 1, 2, 3], "env.hidden: [0, 1, 2, 3] hides the whole observation of 4. Leave at least one index."),
    ],
)
def test_hiding_what_cannot_be_hidden_is_refused(hidden, message):
    with pytest.raises(EnvError) as error:
        CartPole(1, seed=0, hidden=hidden)
    assert str(error.value) == message


def test_starts_are_uniform_repeat_with_the_seed_and_differ_without_it():
    start = CartPole(1000, seed=1).reset()
    assert -0.05 <= start.min() < -0.0499
    assert 0.0499 < start.max() <= 0.05
    assert start.mean(0).abs().max() < 0.005
    assert torch.equal(start, CartPole(1000, seed=1).reset())
    assert (start == CartPole(1000, seed=2).reset()).float().mean() < 0.001
    env = CartPole(1000, seed=1)
    env.reset()
    assert not torch.equal(start, env.reset())
