"""Return and length of finished episodes."""

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch

from seqrl.loggers.base import RECENT, Row
from seqrl.types import Rollout


def mean(numbers: Collection[float]) -> float:
    """Mean of finite numbers, also of those whose sum is none: some say `sys.float_info.max` for "nothing yet"."""
    total = sum(numbers)
    return total / len(numbers) if math.isfinite(total) else sum(number / len(numbers) for number in numbers)


class EpisodeStatistics:
    """Return and length of finished episodes, across rollouts.

    recent   deque of (return, length) of the last 100 episodes, or one per environment if there are more environments:
             the last 100 of 1000 episodes played side by side would be the longest
    ended    episodes ended so far
    info     the same of numbers that the environments told at their ends, by name
    """

    def __init__(self, batch_size: int) -> None:
        self.recent: deque[tuple[float, int]] = deque(maxlen=max(RECENT, batch_size))
        self.ended = 0
        self.info: dict[str, deque[float]] = {}
        self._batch_size = batch_size
        self._open: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, rollout: Rollout) -> list[tuple[float, int]]:
        """Add a rollout; return (return, length) of the episodes that ended in it, in the order in which they ended."""
        reward = rollout.reward.where(rollout.valid, 0).cpu().double()
        length = rollout.valid.cpu().long()
        ended = (rollout.ended & rollout.valid).cpu()
        # Which episode of its environment a step belongs to. Each is summed by itself: differences of running sums lose
        # digits to the others.
        episode = ended.cumsum(0) - ended.long()
        step, env = ended.nonzero(as_tuple=True)
        sums = []
        for index, numbers in enumerate((reward, length)):
            total = numbers.new_zeros(int(episode.max()) + 2, ended.shape[1])
            if self._open is not None:
                total[0] = self._open[index]
            sums.append(total.scatter_add_(0, episode, numbers))
        returns, lengths = (total[episode[step, env], env].tolist() for total in sums)
        finished = list(zip(returns, lengths, strict=True))
        after = ended.sum(0, keepdim=True)
        self._open = sums[0].gather(0, after)[0], sums[1].gather(0, after)[0]
        self.recent.extend(finished)
        self.ended += len(finished)
        return finished

    def note(self, told: Iterable[Mapping[str, float]]) -> None:
        """Add numbers that the environments told at the end of episodes; NaN says nothing."""
        for numbers in told:
            for name, number in numbers.items():
                if math.isfinite(number):
                    self.info.setdefault(name, deque(maxlen=self.recent.maxlen)).append(number)

    def row(self) -> Row:
        """Scalars over the recent episodes."""
        if not self.recent:
            return {}
        told = {f"info/{name}": mean(numbers) for name, numbers in self.info.items()}
        returns = torch.tensor([r for r, _ in self.recent], dtype=torch.float64)
        lengths = torch.tensor([length for _, length in self.recent], dtype=torch.float64)
        return {
            "rollout/return_mean": float(returns.mean()),
            "rollout/return_min": float(returns.min()),
            "rollout/return_max": float(returns.max()),
            "rollout/length_mean": float(lengths.mean()),
            "rollout/episodes": self.ended,
            **told,
        }

    def state_dict(self) -> dict[str, Any]:
        info = {name: list(numbers) for name, numbers in self.info.items()}
        return {"recent": list(self.recent), "ended": self.ended, "open": self._open, "info": info}

    def load_state_dict(self, state: dict[str, Any], lost: torch.Tensor) -> None:
        """Continue from a saved state, but forget the episodes in progress where `lost` [B] is true.

        Raises TypeError or ValueError if it is none.
        """
        self.recent.extend((float(episode_return), _count(length)) for episode_return, length in state["recent"])
        # Runs of earlier versions had none.
        for name, numbers in state.get("info", {}).items():
            self.note({name: number} for number in numbers)
        self.ended = _count(state["ended"])
        if state["open"] is None or lost.all():
            return
        returns, lengths = state["open"]
        # Of whole episodes, none is in progress, and there may have been others side by side.
        if lengths.any():
            if not returns.shape == lengths.shape == lost.shape:
                raise ValueError(f"its episodes in progress are {len(returns)}, and not {len(lost)}")
            self._open = returns.masked_fill(lost.cpu(), 0), lengths.masked_fill(lost.cpu(), 0)


def _count(number: Any) -> int:
    """A count of a saved state. Raises TypeError or ValueError if it is none."""
    # Beyond, torch has no whole numbers.
    if not 0 <= number < 2**63:
        raise ValueError("holds a count that no run has")
    return int(number)
