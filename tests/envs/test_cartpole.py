import gymnasium
import numpy as np
import pytest
import torch

from seqrl.envs import CartPole, EnvError
from seqrl.envs.tasks.cartpole import FORCE, START, moved


def random_actions(observation: torch.Tensor, t: int) -> torch.Tensor:
    return torch.randint(0, 2, (len(observation),), generator=torch.Generator().manual_seed(t))


def balancing(observation: torch.Tensor, t: int) -> torch.Tensor:
    return (observation[:, 2] + 0.5 * observation[:, 3] + 0.01 * observation[:, 0] > 0).long()


def alternating(observation: torch.Tensor, t: int) -> torch.Tensor:
    return torch.full((len(observation),), t % 2)


@pytest.mark.parametrize("policy", [random_actions, balancing, alternating])
def test_cartpole_plays_as_gymnasium_does(policy):
    env, twins = CartPole(5, seed=3), [gymnasium.make("CartPole-v1").unwrapped for _ in range(5)]

    def synchronise(where: torch.Tensor) -> None:
        for b in where.nonzero().flatten().tolist():
            twins[b].reset()
            twins[b].state = env._state[b].numpy().copy()

    observation = env.reset()
    synchronise(torch.ones(5, dtype=torch.bool))
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
        synchronise(step.terminated)
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
        ([4], "env.hidden: an observation of size 4 has no index 4. Use 0 to 3."),
        ([0, -1], "env.hidden: an observation of size 4 has no index -1. Use 0 to 3."),
        ([0, 1, 2, 3], "env.hidden: all 4 indices are hidden (got [0, 1, 2, 3]). Leave at least one."),
    ],
)
def test_an_index_that_cannot_be_hidden_is_refused(hidden, message):
    with pytest.raises(EnvError) as error:
        CartPole(1, seed=0, hidden=hidden)
    assert str(error.value) == message


def test_starts_are_uniform_repeat_with_the_seed_and_differ_otherwise():
    start = CartPole(1000, seed=1).reset()
    assert -0.05 <= start.min() < -0.0499
    assert 0.0499 < start.max() <= 0.05
    assert start.mean(0).abs().max() < 0.005
    assert torch.equal(start, CartPole(1000, seed=1).reset())
    assert (start == CartPole(1000, seed=2).reset()).float().mean() < 0.001
    env = CartPole(1000, seed=1)
    env.reset()
    assert not torch.equal(start, env.reset())


def observed_noise(env, observation):
    return observation.double() - env._state[:, [0, 2]]


def test_every_observation_has_fresh_noise_with_the_given_standard_deviation():
    env = CartPole(5000, seed=0, hidden=[1, 3], noise=0.02)
    first = observed_noise(env, env.reset())
    second = observed_noise(env, env.step(torch.zeros(5000).long()).observation)
    for noise in (first, second):
        assert noise.mean(0).abs().max() < 0.001
        assert noise.std(0).tolist() == pytest.approx([0.02, 0.02], rel=0.05)
    assert torch.corrcoef(torch.cat([first, second], 1).T).fill_diagonal_(0).abs().max() < 0.05


def test_noisy_observations_stay_within_their_bounds():
    env = CartPole(1000, seed=0, hidden=[1, 3], noise=5.0)
    observation, high = env.reset(), torch.from_numpy(env.observation_space.high)
    assert (observation.abs().max(0).values == high).all()


@pytest.mark.slow
def test_reaching_the_time_limit_earns_the_best_return():
    env = CartPole(2, seed=0, max_episode_steps=50, best_return=3.0)
    observation, total = env.reset(), torch.zeros(2)
    for t in range(50):
        step = env.step(balancing(observation, t))
        observation, total = step.observation, total + step.reward
    assert step.truncated.all()
    torch.testing.assert_close(total, torch.full((2,), 3.0))


def mean_return(env, policy):
    """Mean return of one episode per environment under a policy of the observation."""
    observation, total, playing = env.reset(), torch.zeros(env.batch_size), torch.ones(env.batch_size)
    for _ in range(env.max_episode_steps):
        step = env.step(policy(observation))
        total += step.reward * playing
        playing *= ~step.terminated
        observation = step.observation
    return total.mean().item()


class Kalman:
    """A policy with memory: a Kalman filter linearised about upright, and linear control of its estimate."""

    control = torch.tensor([1.0, 2.0, 30.0, 8.0]).double()
    seen = torch.eye(4).double()[[0, 2]]

    def __init__(self, batch_size, noise):
        self.noise_covariance = noise**2 * torch.eye(2).double()
        upright, still = torch.zeros(1, 4).double(), torch.zeros(1).double()
        self.change = torch.func.jacrev(lambda state: moved(state, still))(upright)[0, :, 0]
        self.belief = torch.zeros(batch_size, 4).double()
        self.covariance = START**2 / 3 * torch.eye(4).double()

    def __call__(self, observation):
        seen, covariance = self.seen, self.covariance
        gain = covariance @ seen.T @ torch.linalg.inv(seen @ covariance @ seen.T + self.noise_covariance)
        belief = self.belief + (observation - self.belief @ seen.T) @ gain.T
        action = (belief @ self.control > 0).long()
        self.belief = moved(belief, (2 * action - 1) * FORCE)
        self.covariance = self.change @ (covariance - gain @ seen @ covariance) @ self.change.T
        return action


def popgym_cartpole(noise, batch_size=1000):
    return CartPole(batch_size, seed=0, hidden=[1, 3], max_episode_steps=200, noise=noise, best_return=1.0)


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize(("noise", "reached"), [(0.0, 1.0), (0.1, 0.99), (0.2, 0.61), (0.3, 0.37)])
def test_a_kalman_filter_reaches_the_documented_return(noise, reached):
    filter = Kalman(1000, max(noise, 1e-6))
    assert mean_return(popgym_cartpole(noise), filter) == pytest.approx(reached, abs=0.02)


@pytest.mark.thin(4)
@pytest.mark.parametrize(("noise", "reached"), [(0.0, 0.22), (0.1, 0.25), (0.2, 0.20), (0.3, 0.17)])
def test_a_memoryless_push_towards_the_lean_reaches_the_documented_return(noise, reached):
    shares = [
        mean_return(popgym_cartpole(noise), lambda seen, weight=weight: (seen[:, 1] + weight * seen[:, 0] > 0).long())
        for weight in (-0.2, -0.1, -0.05, 0.0, 0.1)
    ]
    assert max(shares) == pytest.approx(reached, abs=0.02)
