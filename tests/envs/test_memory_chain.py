import pytest
import torch

from seqrl.envs import MemoryChain


def chain(context, query, length):
    env = MemoryChain(1, seed=0, length=length, bits=len(context))
    env.reset()
    env._context, env._query = torch.tensor([context]), torch.tensor([[query]])
    return env


@pytest.mark.parametrize("answer", [0, 1])
def test_bits_show_twice_the_query_shows_before_the_answer_and_only_the_answer_counts(answer):
    # As in bsuite: time left, query, bits; reward; terminated.
    env = chain([1, 0], query=1, length=3)
    steps = [env.step(torch.tensor([action])) for action in (1 - answer, 1, 0, answer)]
    table = [
        ([1, 0, 1, -1], 0, False),
        ([2 / 3, 0, 0, 0], 0, False),
        ([1 / 3, 1, 0, 0], 0, False),
        ([0, 0, 0, 0], 1 - 2 * answer, True),
    ]
    for step, (observation, reward, terminated) in zip(steps, table, strict=True):
        assert step.observation[0].tolist() == pytest.approx(observation)
        assert (step.reward.item(), step.terminated.item(), step.truncated.item()) == (reward, terminated, False)


def test_a_chain_of_one_shows_everything_before_the_answer():
    env = chain([0, 1], query=1, length=1)
    first, last = env.step(torch.tensor([0])), env.step(torch.tensor([1]))
    assert first.observation[0].tolist() == [1, 1, -1, 1]
    assert (last.reward.item(), last.terminated.item()) == (1, True)


def test_bits_and_queries_are_fair():
    env = MemoryChain(10_000, seed=0, bits=3)
    assert (env.reset()[:, 2:] > 0).float().mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.02)
    assert env._query.flatten().bincount().div(10_000).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
