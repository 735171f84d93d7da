"""Environments of EnvPool, where it is installed: pip install -e ".[envpool]"."""

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


def told(observation):
    """Environment 0 falls soon, 1 balances until its time is up, the others do either, by the side they begin on."""
    angle, speed = observation[:, 2], observation[:, 3]
    balance = (angle + 0.3 * speed > 0).long()
    sides = torch.arange(len(observation))
    return balance.where(sides == 1, (sides == 0).long()).where(sides < 2, balance * (angle.abs() < 0.1))


class Twin:
    """Gymnasium's CartPole, put where EnvPool's begins."""

    def __init__(self, start):
        self.env = gymnasium.make("CartPole-v1", max_episode_steps=LIMIT)
        self.env.reset()
        self.env.unwrapped.state = np.array(start.tolist())

    def step(self, action):
        observation, reward, terminated, truncated, _ = self.env.step(action)
        # EnvPool gives one reason.
        return observation, reward, terminated and not truncated, truncated


def test_it_plays_as_gymnasium_does_to_the_final_observation_and_spends_a_step_on_each_reset():
    with closing(cartpoles()) as env:
        observation = env.reset()
        twins = [Twin(start) for start in observation]
        ended = torch.zeros(B, dtype=torch.bool)
        lengths, ends = [[0] for _ in range(B)], set()
        for _ in range(200):
            action = told(observation)
            step = env.step(action)
            # The step after an end is not played, and no other.
            assert torch.equal(step.valid, ~ended)
            for b in range(B):
                if ended[b]:
                    # It shows where the next episode begins, and nothing has ended.
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


def test_what_is_told_while_it_resets_is_ignored():
    with closing(cartpoles()) as one, closing(cartpoles()) as other:
        observation, same = one.reset(), other.reset()
        ghosts, ended = 0, torch.zeros(B, dtype=torch.bool)
        for _ in range(100):
            assert torch.equal(observation, same)
            action = told(observation)
            step, twin = one.step(action), other.step((1 - action).where(ended, action))
            ghosts += int(ended.sum())
            ended = step.terminated | step.truncated
            assert torch.equal(ended, twin.terminated | twin.truncated)
            observation, same = step.observation, twin.observation
    assert ghosts > 10


def test_a_full_reset_in_the_middle_begins_all_episodes():
    with closing(cartpoles()) as env:
        for _ in range(3):
            observation = env.reset()
            assert observation.abs().max() <= 0.05
            for played in range(1, 13):
                step = env.step(told(observation))
                observation = step.observation
                # Environment 0 has fallen by then; nobody asks for what it does.
                assert step.valid[1:].all() or played > 8


def test_whole_episodes_are_played_once_each():
    with closing(cartpoles()) as env:
        runner = Runner(env, small_network(env), 0, 0, torch.Generator().manual_seed(0))
        for _ in range(2):
            rollout = runner.collect()
            assert (rollout.ended & rollout.valid).sum(0).tolist() == [1] * B
            assert rollout.reward.where(rollout.valid, 0).sum(0).tolist() == rollout.valid.sum(0).tolist()


def first_observations(seed, **kwargs):
    with closing(cartpoles(seed=seed, **kwargs)) as env:
        return [env.reset(), env.step(told(env.reset())).observation]


def test_every_environment_and_every_full_reset_has_a_seed_of_its_own():
    one, again, other = first_observations(0), first_observations(0), first_observations(1)
    threads = first_observations(0, num_threads=2)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(one, again, threads, strict=True))
    with closing(cartpoles(seed=0)) as env:
        starts = torch.cat([env.reset(), env.reset(), other[0]])
    assert len(starts.unique(dim=0)) == 3 * B


def test_whole_episodes_go_on_when_a_run_is_resumed(tmp_path):
    assert_same(tmp_path, "env=gymnasium", "env.id=CartPole-v1", "env.backend=envpool", "+env.kwargs.num_threads=1")


@pytest.mark.parametrize(
    ("id", "kwargs", "said"),
    [
        ("CartPol-v1", {}, r"^env\.id: EnvPool has no environment 'CartPol-v1'\. Did you mean CartPole-v1 or Cart"),
        ("test/Clock-v0", {}, r"EnvPool has no environment 'test/Clock-v0'\. python -m seqrl\.envs envpool lists them"),
        (
            "CartPole-v1",
            {"stack": 4},
            r"^env\.kwargs: \{'stack': 4\} does not suit CartPole-v1: TypeError, .* argument 'stack'",
        ),
        ("IntersectionMultiAgent-v0", {}, r"^env\.id: several players share 'IntersectionMultiAgent-v0'\. Use an"),
    ],
)
def test_what_cannot_be_played_is_said_in_one_line(id, kwargs, said):
    with pytest.raises(EnvError, match=said):
        GymnasiumEnv(id, 2, seed=0, backend="envpool", kwargs=kwargs)
