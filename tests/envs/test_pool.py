"""EnvPool's environments. Needs pip install -e ".[envpool]"; skipped otherwise."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch

from seqrl.envs import EnvError, GymnasiumEnv
from seqrl.runner import Runner
from tests.parts import small_network
from tests.test_exact_resume import assert_same

pytest.importorskip("envpool")
LIMIT = 30
B = 4


def cartpoles(batch_size=B, seed=0, **kwargs):
    kwargs = {"max_episode_steps": LIMIT, "num_threads": 1, **kwargs}
    return GymnasiumEnv("CartPole-v1", batch_size, seed, backend="envpool", kwargs=kwargs)


def policy(observation):
    """Environment 0 falls soon, 1 balances until its time limit, the others do one or the other."""
    angle, speed = observation[:, 2], observation[:, 3]
    balance = (angle + 0.3 * speed > 0).long()
    sides = torch.arange(len(observation))
    return balance.where(sides == 1, (sides == 0).long()).where(sides < 2, balance * (angle.abs() < 0.1))


class Twin:
    """Gymnasium's CartPole, started in the state of EnvPool's."""

    def __init__(self, start):
        self.env = gymnasium.make("CartPole-v1", max_episode_steps=LIMIT)
        self.env.reset()
        self.env.unwrapped.state = np.array(start.tolist())

    def step(self, action):
        observation, reward, terminated, truncated, _ = self.env.step(action)
        # EnvPool gives only one reason.
        return observation, reward, terminated and not truncated, truncated


def test_it_plays_as_gymnasium_does_up_to_the_final_observation_and_spends_a_step_on_each_reset():
    with closing(cartpoles()) as env:
        observation = env.reset()
        twins = [Twin(start) for start in observation]
        ended = torch.zeros(B, dtype=torch.bool)
        lengths, ends = [[0] for _ in range(B)], set()
        for _ in range(200):
            action = policy(observation)
            step = env.step(action)
            # Only the step after an end is not played.
            assert torch.equal(step.valid, ~ended)
            for b in range(B):
                if ended[b]:
                    # It shows the start of the next episode, which has not ended.
                    assert step.observation[b].abs().max() <= 0.05
                    assert not step.terminated[b] | step.truncated[b]
                    twins[b] = Twin(step.observation[b])
                    lengths[b].append(0)
                    continue
                shown, reward, terminated, truncated = twins[b].step(int(action[b]))
                np.testing.assert_allclose(step.observation[b], shown, rtol=0, atol=1e-5)
                assert (step.reward[b], step.terminated[b], step.truncated[b]) == (reward, terminated, truncated)
                lengths[b][-1] += 1
                ends |= {(b, terminated, truncated)} if terminated or truncated else set()
            ended = step.terminated | step.truncated
            observation = env.reset(ended) if ended.any() else step.observation
    assert {(0, True, False), (1, False, True)} <= ends
    assert set(lengths[1][:-1]) == {LIMIT}
    assert max(lengths[0]) < 15


def test_actions_during_a_reset_are_ignored():
    with closing(cartpoles()) as one, closing(cartpoles()) as other:
        observation, same = one.reset(), other.reset()
        ghosts, ended = 0, torch.zeros(B, dtype=torch.bool)
        for _ in range(100):
            assert torch.equal(observation, same)
            action = policy(observation)
            step, twin = one.step(action), other.step((1 - action).where(ended, action))
            ghosts += int(ended.sum())
            ended = step.terminated | step.truncated
            assert torch.equal(ended, twin.terminated | twin.truncated)
            observation, same = step.observation, twin.observation
    assert ghosts > 10


def test_a_full_reset_in_mid_episode_begins_all_episodes_again():
    with closing(cartpoles()) as env:
        for _ in range(3):
            observation = env.reset()
            assert observation.abs().max() <= 0.05
            for played in range(1, 13):
                step = env.step(policy(observation))
                observation = step.observation
                # Environment 0 may have fallen by then; it does not matter here.
                assert step.valid[1:].all() or played > 8


def test_each_environment_plays_one_whole_episode():
    with closing(cartpoles()) as env:
        runner = Runner(env, small_network(env), 0, 0, torch.Generator().manual_seed(0))
        for _ in range(2):
            rollout = runner.collect()
            assert (rollout.ended & rollout.valid).sum(0).tolist() == [1] * B
            assert rollout.reward.where(rollout.valid, 0).sum(0).tolist() == rollout.valid.sum(0).tolist()


def first_observations(seed, **kwargs):
    with closing(cartpoles(seed=seed, **kwargs)) as env:
        return [env.reset(), env.step(policy(env.reset())).observation]


def test_every_environment_and_every_full_reset_has_its_own_seed():
    one, again, other = first_observations(0), first_observations(0), first_observations(1)
    threads = first_observations(0, num_threads=2)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(one, again, threads, strict=True))
    with closing(cartpoles(seed=0)) as env:
        starts = torch.cat([env.reset(), env.reset(), other[0]])
    assert len(starts.unique(dim=0)) == 3 * B


def test_a_resumed_run_continues_exactly_with_whole_episodes(tmp_path):
    assert_same(tmp_path, "env=gymnasium", "env.id=CartPole-v1", "env.backend=envpool", "+env.kwargs.num_threads=1")


@pytest.mark.parametrize(
    ("id", "kwargs", "message"),
    [
        ("CartPol-v1", {}, r"^env\.id: EnvPool has no environment 'CartPol-v1'\. Did you mean CartPole-v1 or Cart"),
        ("test/Clock-v0", {}, r"EnvPool has no environment 'test/Clock-v0'\. python -m seqrl\.envs envpool lists them"),
        (
            "CartPole-v1",
            {"stack": 4},
            r"^env\.kwargs: CartPole-v1 does not accept \{'stack': 4\}: TypeError, .* argument 'stack'",
        ),
        ("IntersectionMultiAgent-v0", {}, r"^env\.id: 'IntersectionMultiAgent-v0' has several players\. Use an"),
    ],
)
def test_an_environment_that_cannot_be_played_is_refused_in_one_line(id, kwargs, message):
    with pytest.raises(EnvError, match=message):
        GymnasiumEnv(id, 2, seed=0, backend="envpool", kwargs=kwargs)
