"""What all built-in tasks share, and the returns they allow with and without memory."""

from functools import partial
from math import comb

import numpy as np
import pytest
import torch

from seqrl.envs import CartPole, CountRecall, MemoryChain, RepeatFirst, RepeatPrevious, TMaze
from seqrl.envs.tasks.draws import Draws
from tests.test_runner import Waits

TASKS = {
    "cart-pole": partial(CartPole, max_episode_steps=20),
    "hidden cart-pole": partial(CartPole, hidden=[1, 3], max_episode_steps=20),
    "noisy cart-pole": partial(CartPole, hidden=[1, 3], noise=0.1, best_return=1.0, max_episode_steps=20),
    "T-maze": partial(TMaze, corridor_length=5),
    "repeat first": RepeatFirst,
    "repeat previous": partial(RepeatPrevious, decks=2, k=32),
    "count recall": partial(CountRecall, counted="ranks"),
    "memory chain": partial(MemoryChain, length=5, bits=3),
}
tasks = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def actions(env, seed=0):
    """Random actions, the same ones for the same seed."""
    random = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randint(int(env.action_space.n), (env.batch_size,), generator=random)


def story(env, policy, steps=120):
    """Everything that `steps` steps and the resets between them return."""
    returned = []
    for _ in range(steps):
        step = env.step(next(policy))
        ended = step.terminated | step.truncated
        returned += [step.observation, step.reward, step.terminated, step.truncated, step.valid]
        if ended.any():
            returned.append(env.reset(ended))
    return returned


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.thin(3)
@tasks
@pytest.mark.parametrize("batch_size", [1, 100])
def test_observations_lie_in_their_space_and_episodes_end(task, batch_size):
    env = task(batch_size, seed=0)
    policy, shown, ends = actions(env), [env.reset()], torch.zeros(batch_size)
    for _ in range(120):
        step = env.step(next(policy))
        for part in (step.reward, step.terminated, step.truncated, step.valid):
            assert part.shape == (batch_size,)
        assert (step.reward.dtype, step.terminated.dtype) == (torch.float32, torch.bool)
        assert step.valid.all()
        ends += step.terminated | step.truncated
        shown += [step.observation, env.reset(step.terminated | step.truncated)]
    assert (ends > 0).all()
    for observation in shown:
        assert observation.shape == (batch_size, *env.observation_space.shape)
        assert observation.dtype == (torch.float32 if env.observation_space.dtype == np.float32 else torch.int64)
        assert all(
            env.observation_space.contains(row) for row in observation.numpy().astype(env.observation_space.dtype)
        )


@tasks
def test_a_reset_touches_only_the_rows_it_names(task):
    env = task(100, seed=0)
    env.reset()
    policy = actions(env)
    for _ in range(3):
        shown = env.step(next(policy)).observation
    before, where = env.state_dict(), torch.arange(100) % 3 == 0
    begun, after = env.reset(where), env.state_dict()
    assert begun[~where].equal(shown[~where])
    for name in before.keys() - {"random"}:
        assert after[name][~where].equal(before[name][~where]), name
    assert (after["age"][where] == 0).all()
    assert not begun[where].equal(shown[where])


@tasks
def test_resetting_nowhere_changes_nothing(task):
    env = task(4, seed=0)
    env.reset()
    shown = env.step(next(actions(env))).observation
    assert env.reset(torch.zeros(4, dtype=torch.bool)).equal(shown)


@tasks
def test_returned_tensors_never_change(task):
    env = task(3, seed=0)
    policy, returned, copies = actions(env), [env.reset()], []
    for _ in range(60):
        step = env.step(next(policy))
        returned += [step.observation, step.reward, step.terminated, step.truncated, step.valid]
        returned.append(env.reset(step.terminated | step.truncated))
        copies += [part.clone() for part in returned[len(copies) :]]
    assert same(returned, copies)


@tasks
def test_episodes_repeat_with_the_seed_and_differ_otherwise(task):
    first, again, other = ([env.reset(), *story(env, actions(env))] for env in (task(5, seed=s) for s in (0, 0, 1)))
    assert same(first, again)
    assert not same(first, other)


@tasks
def test_a_restored_environment_continues_exactly(task):
    env, other = task(5, seed=0), task(5, seed=9)
    env.reset()
    story(env, actions(env), steps=33)
    assert env.state_dict() is not None
    assert other.load_state_dict(env.state_dict()).tolist() == [True] * 5
    assert same(story(env, actions(env, seed=1)), story(other, actions(env, seed=1)))


@tasks
def test_an_environment_plays_the_same_whoever_plays_beside_it(task):
    """And whether those before it are played by another process."""
    together, rest = task(5, seed=0), task(2, seed=0, first=3)
    chosen = actions(together)
    assert torch.equal(together.reset()[3:], rest.reset())
    for _ in range(60):
        action = next(chosen)
        whole, part = together.step(action), rest.step(action[3:])
        assert all(torch.equal(getattr(whole, name)[3:], getattr(part, name)) for name in ("observation", "reward"))
        ended = whole.terminated | whole.truncated
        shown = together.reset(ended)
        if ended[3:].any():
            assert torch.equal(shown[3:], rest.reset(ended[3:]))


def test_numbers_of_environments_are_uniform_or_normal_and_independent():
    moments, each = 400, 1000
    numbers = Draws(0, 0, each, "cpu")
    now = torch.zeros(each, dtype=torch.int64)
    drawn = torch.stack([numbers.normal((4,), now + episode, now, 1) for episode in range(moments)])
    size = drawn.numel() ** 0.5
    # Standardised: beyond 4 lies one of 16,000.
    assert abs(drawn.mean() * size) < 4
    assert abs((drawn.square().mean() - 1) * size / 2**0.5) < 4
    neighbours = [(drawn[1:], drawn[:-1]), (drawn[:, 1:], drawn[:, :-1]), (drawn[..., 1:], drawn[..., :-1])]
    assert all(abs((one * other).mean() * one.numel() ** 0.5) < 4 for one, other in neighbours)
    shares = numbers.uniform((1000,), now, now, 0)
    assert 0 < shares.min() < shares.max() < 1
    counts = torch.histc(shares, 100, 0, 1)
    assert abs((((counts - 1e4) ** 2 / 1e4).sum() - 99) / 198**0.5) < 4


@tasks
def test_an_ended_episode_tolerates_further_actions(task):
    env = task(3, seed=0)
    env.reset()
    policy = actions(env)
    for _ in range(250):
        env.step(next(policy))
    assert all(env.observation_space.contains(row) for row in env.reset().numpy().astype(env.observation_space.dtype))


@tasks
def test_playing_never_waits_for_an_accelerator(task):
    env = task(3, seed=0)
    action = torch.tensor([0, 1, 0])
    with Waits() as waits:
        env.reset()
        step = env.step(action)
        env.reset(step.terminated | step.truncated)
    assert waits.operations == []


def remembers_the_first(seen):
    return seen[0]


def remembers_the_fourth_last(seen):
    return seen[-4] if len(seen) >= 4 else seen[-1]


def counts(seen):
    shown, asked = torch.stack(seen)[..., 0], seen[-1][:, 1]
    return (shown == asked).sum(0)


def remembers_the_bits(seen):
    asked = seen[-1][:, 1].long()
    return (seen[0][:, 2:].gather(1, asked.unsqueeze(1)).squeeze(1) > 0).long()


def count_recall_without_memory(cards, kinds):
    """Return of always naming the same middling number: the count of a kind so far is hypergeometric."""
    each, number = cards // kinds, cards // kinds // 2

    def right(of, among, wanted):
        """Probability, averaged over steps, that `wanted` of the cards shown so far are of the kind."""
        shares = [
            comb(of, wanted) * comb(among - of, shown - wanted) / comb(among, shown)
            for shown in range(wanted, cards - 1)
            if shown - wanted <= among - of
        ]
        return sum(shares) / (cards - 1)

    # The current card is either of the kind asked for, or not.
    same = right(each - 1, cards - 1, number - 1)
    other = right(each, cards - 1, number)
    return 2 * (same / kinds + other * (1 - 1 / kinds)) - 1


# Task, a policy that solves it, and the best mean return of a policy that sees only the current observation.
# The mean of this many returns of ±1 has a standard deviation of 0.016.
EPISODES = 4000
FIGURES = {
    "repeat first": (RepeatFirst, remembers_the_first, -0.50),
    "repeat previous": (RepeatPrevious, remembers_the_fourth_last, -0.490),
    "count recall": (CountRecall, counts, -0.923),
    "memory chain": (partial(MemoryChain, length=6, bits=1), remembers_the_bits, 0.0),
    "memory chain, many bits": (partial(MemoryChain, length=2, bits=3), remembers_the_bits, 0.0),
}
figures = pytest.mark.parametrize(("task", "remembering", "without"), FIGURES.values(), ids=FIGURES)


def episode(env, policy):
    """Observations, T + 1 times [B, *O], and rewards [T, B] of one episode. The policy gets all observations so far."""
    seen, rewards, over = [env.reset()], [], False
    while not over:
        step = env.step(policy(seen))
        seen.append(step.observation)
        rewards.append(step.reward)
        over = bool(step.terminated.any())
        assert over == step.terminated.all()
    return seen, torch.stack(rewards)


@figures
def test_a_policy_that_remembers_earns_the_full_return(task, remembering, without):
    _, rewards = episode(task(100, seed=0), remembering)
    torch.testing.assert_close(rewards.sum(0), torch.ones(100))


@pytest.mark.slow
@pytest.mark.thin(3)
@figures
def test_the_best_memoryless_policy_earns_the_documented_return(task, remembering, without):
    """Observations do not depend on actions, so playing each action everywhere reveals the best one for each."""
    rewards = []
    for action in range(int(task(1, seed=0).action_space.n)):
        seen, reward = episode(task(EPISODES, seed=0), lambda seen, action=action: torch.full((EPISODES,), action))
        rewards.append(reward.flatten())
    observations, which = torch.cat(seen[:-1]).unique(dim=0, return_inverse=True)
    worth = torch.zeros(len(observations), len(rewards)).index_add_(0, which, torch.stack(rewards, 1)) / EPISODES
    best, choice = worth.max(1)
    assert best.sum().item() == pytest.approx(without, abs=0.05)

    def memoryless(seen):
        now = (seen[-1].reshape(EPISODES, 1, -1) == observations.reshape(1, len(observations), -1)).all(2)
        return choice[now.long().argmax(1)]

    _, reward = episode(task(EPISODES, seed=1), memoryless)
    assert reward.sum(0).mean().item() == pytest.approx(without, abs=0.05)


@pytest.mark.parametrize(("decks", "kinds", "without"), [(1, 2, -0.923), (2, 4, -0.924), (4, 13, -0.881)])
def test_the_memoryless_return_of_counting_is_derived(decks, kinds, without):
    assert count_recall_without_memory(52 * decks, kinds) == pytest.approx(without, abs=0.0005)
