"""Return against the number of observations that memory may be built from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from seqrl.run.results import ends
from seqrl.statistics import Array, mean

# Share of what memory is worth that a window may lose.
TOLERATED = 0.05
# Steps of memories that are played for one window, beyond which fewer episodes are; and beyond which none is.
MOST_STEPS, TOO_MANY_STEPS = 1_000_000, 2_000_000


@dataclass
class Windows:
    """Returns of the same episodes, played with memory rebuilt at every step from the last k observations alone.

    k counts the present observation: with 1, memory is zeroed before every step.

    play      returns [episodes] by k and the number of episodes, of which the first are played
    whole     returns [episodes] with the whole of memory
    lengths   [episodes] steps of each
    batch     episodes side by side, which are played together
    reason    why there is no window, if it was not found
    """

    play: Callable[[int, int], Array]
    whole: Array
    lengths: Array
    batch: int = 1
    returns: dict[int, Array] = field(default_factory=dict)
    reason: str = ""

    @property
    def longest(self) -> int:
        """With as many observations, nothing is lost."""
        return int(self.lengths.max())

    def measure(self, advance: Callable[[], None] = lambda: None) -> int | None:
        """Play, and return the smallest k that loses less than a twentieth of what memory is worth.

        1 if memory is worth nothing: then there is nothing to lose. None if it takes too long to find: `reason` says
        so. The loss is taken to fall with k.
        """
        for k in self._powers():
            if self._is_too_long(k):
                break
            self._play(k)
            advance()
        if not self.is_used:
            return 1
        enough = self._first_enough()
        below = max((k for k in self.returns if k < enough), default=0)
        while enough - below > 1:
            middle = (below + enough) // 2
            if self._is_too_long(middle):
                self.reason = f"it is more than {below}, and longer windows would take too long to play"
                return None
            self._play(middle)
            advance()
            enough, below = (middle, below) if self.is_enough(middle) else (enough, middle)
        # With as many as the longest episode has, nothing is lost.
        self.returns.setdefault(enough, self.whole)
        return enough

    @property
    def is_used(self) -> bool:
        """Whether zeroing memory costs return beyond doubt."""
        interval = ends(mean(self.whole - self.returns[1]))
        # All episodes may lose the same.
        return interval is not None and interval[0] > 0

    def is_enough(self, k: int) -> bool:
        """Whether a window loses little enough, over the episodes that were played with it."""
        played = self.returns[k]
        whole, zeroed = self.whole[: len(played)], self.returns[1][: len(played)]
        return bool((whole - played).mean() < TOLERATED * (whole - zeroed).mean())

    def table(self) -> dict[str, list[float | None]]:
        """Mean return and its 95 % interval by k, `all` last."""
        found = {str(k): summary(self.returns[k]) for k in sorted(self.returns)}
        return {**found, "all": summary(self.whole)}

    def _powers(self) -> Iterator[int]:
        """1, 2, 4, … below the longest episode, until two in a row are enough."""
        k = 1
        while k < self.longest or k == 1:
            yield k
            if k > 2 and (not self.is_used or (self.is_enough(k) and self.is_enough(k // 2))):
                return
            k *= 2

    def _first_enough(self) -> int:
        """The smallest of the powers that is enough, as are all above it."""
        first = self.longest
        for k in sorted(self.returns, reverse=True):
            if not self.is_enough(k):
                break
            first = k
        return first

    def _play(self, k: int) -> None:
        if k not in self.returns:
            self.returns[k] = self.play(k, self._episodes(k))

    def _is_too_long(self, k: int) -> bool:
        return k > 1 and k * self._steps(1) > TOO_MANY_STEPS

    def _episodes(self, k: int) -> int:
        """How many are played with a window: as many as a limit on the work allows, but those side by side."""
        rounds = 1
        while rounds * self.batch < len(self.whole) and k * self._steps(rounds + 1) <= MOST_STEPS:
            rounds += 1
        return min(rounds * self.batch, len(self.whole))

    def _steps(self, rounds: int) -> int:
        """Steps of so many rounds of episodes side by side."""
        return int(self.lengths[: rounds * self.batch].sum())


def summary(returns: Array) -> list[float | None]:
    """Mean, and the ends of its 95 % interval, which a single episode does not have."""
    low, high = ends(mean(returns)) or (None, None)
    return [float(np.mean(returns)), low, high]
