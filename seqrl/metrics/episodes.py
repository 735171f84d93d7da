"""Return and length of finished episodes."""

from collections import deque
from typing import Any

import torch

from seqrl.loggers import Row
from seqrl.types import Rollout


class EpisodeStatistics:
    """Return and length of finished episodes, across rollouts.

    recent   deque of (return, length) of the last 100 episodes, or one per environment if there are more environments:
             the last 100 of 1000 episodes played side by side would be the longest
    ended    episodes ended so far
    """

    def __init__(self, batch_size: int) -> None:
        self.recent: deque[tuple[float, int]] = deque(maxlen=max(100, batch_size))
        self.ended = 0
        self._batch_size = batch_size
        self._open: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, rollout: Rollout) -> list[tuple[float, int]]:
        """Add a rollout; return (return, length) of the episodes that ended in it, in the order in which they ended."""
        reward = rollout.reward.where(rollout.valid, 0).cpu().double()
        length = rollout.valid.cpu().long()
        ended = (rollout.ended & rollout.valid).cpu()
        # An episode's sum is the running sum at its end minus that at the previous episode's end.
        sums = [reward.cumsum(0), length.cumsum(0)]
        if self._open is not None:
            sums = [s + carried for s, carried in zip(sums, self._open, strict=True)]
        step, env = ended.nonzero(as_tuple=True)
        finished: list[tuple[float, int]] = []
        base = [torch.zeros_like(s[0]).tolist() for s in sums]
        for b, *at_end in zip(env.tolist(), *(s[step, env].tolist() for s in sums), strict=True):
            finished.append((at_end[0] - base[0][b], at_end[1] - base[1][b]))
            base[0][b], base[1][b] = at_end
        self._open = (sums[0][-1] - torch.tensor(base[0], dtype=torch.float64), sums[1][-1] - torch.tensor(base[1]))
        self.recent.extend(finished)
        self.ended += len(finished)
        return finished

    def row(self) -> Row:
        """Scalars over the recent episodes."""
        if not self.recent:
            return {}
        returns = torch.tensor([r for r, _ in self.recent], dtype=torch.float64)
        lengths = torch.tensor([length for _, length in self.recent], dtype=torch.float64)
        return {
            "rollout/return_mean": float(returns.mean()),
            "rollout/return_min": float(returns.min()),
            "rollout/return_max": float(returns.max()),
            "rollout/length_mean": float(lengths.mean()),
            "rollout/episodes": self.ended,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"recent": list(self.recent), "ended": self.ended, "open": self._open}

    def load_state_dict(self, state: dict[str, Any], lost: torch.Tensor) -> None:
        """Continue from a saved state, but forget the episodes in progress where `lost` [B] is true."""
        self.recent.extend(state["recent"])
        self.ended = state["ended"]
        if state["open"] is not None and not lost.all():
            self._open = tuple(s.masked_fill(lost.cpu(), 0) for s in state["open"])
