"""Actions of the episodes in progress, to replay them in another process."""

from typing import Any

import numpy as np

from seqrl.spaces import Array

# Bounds the memory for actions when episodes are very long or never end.
REMEMBERED_BYTES = 32e6


class History:
    """The actions of the episode in progress of each of B environments, up to REMEMBERED_BYTES in all.

    playing   [B] bool  where an episode is in progress and all of its actions are remembered
    """

    def __init__(self, batch_size: int) -> None:
        self._actions: list[Array] = []
        # Index of the first action of the episode in progress; -1 if there is no episode, or the action is forgotten.
        self._first = np.full(batch_size, -1)

    @property
    def playing(self) -> Array:
        return self._first >= 0

    def begin(self, where: Array) -> None:
        self._first[where] = len(self._actions)

    def end(self, where: Array) -> None:
        self._first[where] = -1

    def add(self, action: Array) -> None:
        """Remember the actions of all environments [B, *A]."""
        if (len(self._actions) + 1) * action.nbytes > REMEMBERED_BYTES:
            self._forget(self._needed() or (len(self._actions) + 1) // 2)
        # An environment may write into its action.
        self._actions.append(action.copy())

    def episodes(self) -> list[Array | None]:
        """Actions of the episode in progress [n, *A] of each environment; None where they are not remembered."""
        return [
            None if first < 0 else np.array([actions[index] for actions in self._actions[first:]])
            for index, first in enumerate(self._first.tolist())
        ]

    def state_dict(self) -> dict[str, Any]:
        self._forget(self._needed())
        # The keys' names are part of the checkpoint format.
        return {"first": self._first, "told": np.array(self._actions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._first, self._actions = state["first"], list(state["told"])

    def _needed(self) -> int:
        """Index of the oldest action that an episode in progress needs."""
        return int(min(self._first[self.playing], default=len(self._actions)))

    def _forget(self, count: int) -> None:
        del self._actions[:count]
        self._first = np.maximum(self._first - count, -1)
