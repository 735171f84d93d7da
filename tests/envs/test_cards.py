from collections import Counter
from functools import partial

import pytest
import torch

from seqrl.envs import CountRecall, EnvError, RepeatFirst, RepeatPrevious


def played(env):
    """Observations of one episode under random actions, and its (action, reward) pairs."""
    random = torch.Generator().manual_seed(0)
    shown, outcomes, over = [env.reset()[0].tolist()], [], False
    while not over:
        action = torch.randint(int(env.action_space.n), (1,), generator=random)
        step = env.step(action)
        outcomes.append((action.item(), step.reward.item()))
        shown.append(step.observation[0].tolist())
        over = bool(step.terminated)
        assert not step.truncated
    return shown, outcomes


GAMES = {
    "repeat first": (RepeatFirst, 52, lambda shown: shown[0], 51),
    "repeat first, 8 decks": (partial(RepeatFirst, decks=8), 416, lambda shown: shown[0], 415),
    "repeat previous": (RepeatPrevious, 52, lambda shown: shown[-4] if len(shown) >= 4 else None, 48),
    "this very card": (partial(RepeatPrevious, k=1), 52, lambda shown: shown[-1], 51),
    "only one question": (partial(RepeatPrevious, k=51), 52, lambda shown: shown[0] if len(shown) == 51 else None, 1),
    "count recall": (CountRecall, 52, lambda shown: sum(card == shown[-1][1] for card, _ in shown), 51),
}


@pytest.mark.parametrize(("game", "cards", "answer", "questions"), GAMES.values(), ids=GAMES)
def test_every_card_shows_once_and_every_answer_is_rewarded_by_the_rule(game, cards, answer, questions):
    shown, outcomes = played(game(1, seed=3))
    assert len(shown) == cards
    rule = [answer(shown[: t + 1]) for t in range(cards - 1)]
    assert sum(right is not None for right in rule) == questions
    for (action, reward), right in zip(outcomes, rule, strict=True):
        assert reward == pytest.approx(0 if right is None else (1 if action == right else -1) / questions)


@pytest.mark.parametrize(("decks", "counted", "kinds"), [(1, "colors", 2), (2, "suits", 4), (4, "ranks", 13)])
def test_decks_hold_equal_numbers_of_each_kind_in_random_order(decks, counted, kinds):
    env = CountRecall(2, seed=0, decks=decks, counted=counted)
    env.reset()
    each = 52 * decks // kinds
    for deck in env._shown.unbind(2):
        assert all(Counter(row.tolist()) == dict.fromkeys(range(kinds), each) for row in deck)
    assert env.action_space.n == each + 1
    one, other = env._shown.unbind(2)
    assert not one.equal(other)
    assert not one[0].equal(one[1])


def test_every_order_of_a_deck_is_equally_likely():
    env = RepeatFirst(20_000, seed=0)
    env.reset()
    # Drawn without replacement, the same suit comes twice with probability 12/51.
    for place in (1, 25, 51):
        assert (env._shown[:, 0] == env._shown[:, place]).float().mean().item() == pytest.approx(12 / 51, abs=0.012)


def test_asking_for_a_card_before_the_first_is_refused():
    with pytest.raises(EnvError) as error:
        RepeatPrevious(1, seed=0, decks=2, k=104)
    assert str(error.value) == "env.k: must be less than the 104 cards of env.decks=2 (got 104)."
