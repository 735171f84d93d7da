"""POPGym's memory card games as tensor programs."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from gymnasium.spaces import Discrete, MultiDiscrete
from torch import Tensor

from seqrl.envs.tasks.base import TensorEnv
from seqrl.errors import EnvError

CARDS = 52  # in a deck
SUITS = 4
# How cards can be grouped, and the number of groups.
KINDS = {"colors": 2, "suits": SUITS, "ranks": 13}


class CardGame(TensorEnv):
    """Show the cards of shuffled decks one by one, and ask a question about them at each step.

    Reward: 1 / questions for the right answer, -1 / questions for a wrong one, so returns lie between -1 and 1. An
    episode terminates when the last card is shown; no question follows it.
    """

    _names = ("shown", "answer")

    def __init__(
        self, batch_size: int, seed: int, device: torch.device | str, decks: int, questions: int, first: int
    ) -> None:
        super().__init__(batch_size, seed, device, first)
        self.cards = CARDS * decks
        self._worth = 1 / questions
        self._rows = torch.arange(batch_size, device=device)
        self._shown = torch.zeros(
            batch_size, self.cards, *(self.observation_space.shape or ()), dtype=torch.int64, device=device
        )
        self._answer = torch.zeros(batch_size, self.cards, dtype=torch.int64, device=device)

    def _begin(self, where: Tensor) -> None:
        shown, answer = self._deal()
        self._shown = shown.where(where.view(-1, *[1] * (shown.dim() - 1)), self._shown)
        self._answer = answer.where(where.unsqueeze(1), self._answer)

    def _play(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        answer = self._answer[self._rows, self._place(self._age - 1)]
        reward = torch.where(action == answer, self._worth, -self._worth).masked_fill(answer < 0, 0.0)
        terminated = self._age >= self.cards - 1
        return reward, terminated, torch.zeros_like(terminated)

    def info(self) -> dict[str, Tensor]:
        """The right answer, one-hot where it is a suit; NaN where nothing is asked."""
        answer = self._answer[self._rows, self._place(self._age)]
        asked = (answer >= 0).unsqueeze(1)
        number = F.one_hot(answer.clamp(min=0), SUITS) if self.action_space == Discrete(SUITS) else answer.unsqueeze(1)
        return {"answer": number.double().where(asked, torch.nan)}

    def _observation(self) -> Tensor:
        return self._shown[self._rows, self._place(self._age)]

    def _place(self, age: Tensor) -> Tensor:
        # Past the end nobody reads the observation, but the index must be valid.
        return age.clamp_max(self.cards - 1)

    def _shuffled(self, kinds: int, which: int = 0) -> Tensor:
        """Decks [B, cards] in random order, each card given as its kind; all kinds are equally frequent.

        which   of several decks
        """
        return self._uniform(self.cards, which=which).argsort(1) % kinds

    @abstractmethod
    def _deal(self) -> tuple[Tensor, Tensor]:
        """What is shown [B, cards, *O], and the right answers [B, cards]; -1 where nothing is asked."""


class RepeatFirst(CardGame):
    """Name, at every step, the suit of the first card.

    Observation: the suit of the current card. Actions: the four suits. Reward: 1 / (cards - 1) for the first card's
    suit, -1 / (cards - 1) for any other. An episode terminates when all cards have been shown.

    decks    of 52 cards each, shuffled together: 1 in POPGym's RepeatFirstEasy, 8 in Medium, 16 in Hard

    The best mean return is 1. Without memory it is -0.50 (derived), whatever the action: the current card says next to
    nothing about the first.
    Source: Morad et al. (2023), "POPGym: Benchmarking partially observable reinforcement learning", version 1.0.7.
    """

    observation_space = Discrete(SUITS)
    action_space = Discrete(SUITS)

    def __init__(
        self, batch_size: int, seed: int, device: torch.device | str = "cpu", decks: int = 1, first: int = 0
    ) -> None:
        super().__init__(batch_size, seed, device, decks, questions=CARDS * decks - 1, first=first)

    def _deal(self) -> tuple[Tensor, Tensor]:
        suits = self._shuffled(SUITS)
        return suits, suits[:, :1].expand_as(suits)


class RepeatPrevious(CardGame):
    """Name, at every step, the suit of the card shown k - 1 steps ago.

    Observation: the suit of the current card. Actions: the four suits. Reward: 1 / (cards - k) for the right suit,
    -1 / (cards - k) for any other, 0 before k cards have been shown. An episode terminates when all cards have been
    shown.

    decks    of 52 cards each, shuffled together
    k        1: the current card, 2: the one before it. (decks, k) is (1, 4) in POPGym's RepeatPreviousEasy, (2, 32) in
             Medium and (3, 64) in Hard

    The best mean return is 1. Without memory it is -0.490, -0.495 and -0.497 in these three (derived), by naming any
    suit but the current one.
    Source: as for RepeatFirst.
    """

    observation_space = Discrete(SUITS)
    action_space = Discrete(SUITS)

    def __init__(
        self, batch_size: int, seed: int, device: torch.device | str = "cpu", decks: int = 1, k: int = 4, first: int = 0
    ) -> None:
        if k >= CARDS * decks:
            raise EnvError(f"env.k: must be less than the {CARDS * decks} cards of env.decks={decks} (got {k}).")
        super().__init__(batch_size, seed, device, decks, questions=CARDS * decks - k, first=first)
        self.k = k

    def _deal(self) -> tuple[Tensor, Tensor]:
        suits = self._shuffled(SUITS)
        return suits, F.pad(suits[:, : self.cards - self.k + 1], (self.k - 1, 0), value=-1)


class CountRecall(CardGame):
    """Count, at every step, how many cards of a given kind have been shown so far.

    Observation: the kind of the current card, and the kind to count, dealt from other decks. Actions: the number, from
    0. Reward: 1 / (cards - 1) if it is right, -1 / (cards - 1) if not. An episode terminates when all cards have been
    shown.

    decks     of 52 cards each, shuffled together
    counted   the kinds to count: colors, suits or ranks. (decks, counted) is (1, colors) in POPGym's CountRecallEasy,
              (2, suits) in Medium and (4, ranks) in Hard

    The best mean return is 1. Without memory it is -0.923, -0.924 and -0.881 in these three (derived), by always naming
    the same number.
    Source: as for RepeatFirst.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        decks: int = 1,
        counted: str = "colors",
        first: int = 0,
    ) -> None:
        self.kinds = KINDS[counted]
        self.observation_space = MultiDiscrete([self.kinds, self.kinds])
        self.action_space = Discrete(CARDS * decks // self.kinds + 1)
        super().__init__(batch_size, seed, device, decks, questions=CARDS * decks - 1, first=first)

    def _deal(self) -> tuple[Tensor, Tensor]:
        shown, asked = self._shuffled(self.kinds), self._shuffled(self.kinds, which=1)
        count = (shown.unsqueeze(2) == torch.arange(self.kinds, device=shown.device)).cumsum(1)  # [B, cards, kinds]
        return torch.stack([shown, asked], 2), count.gather(2, asked.unsqueeze(2)).squeeze(2)
