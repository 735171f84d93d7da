"""Networks whose memory is tampered with, as players of whole episodes.

Each keeps what it needs in leaves of its own, one row for each episode, so that the runner carries them as it carries
memory.
"""

import torch
from torch import Tensor

from seqrl.networks import Distribution
from seqrl.runner import Player
from seqrl.types import State

Answer = tuple[Distribution, Tensor, State]
AGE, ROW = "inspect.age", "inspect.row"


class Tampered:
    """A network, and the number of observations that each episode has shown so far."""

    def __init__(self, network: Player) -> None:
        self.network = network

    def initial_state(self, batch_size: int) -> State:
        memory = self.network.initial_state(batch_size)
        device = next(iter(memory.values())).device
        return {**memory, AGE: torch.zeros(batch_size, dtype=torch.int64, device=device)}


class Windowed(Tampered):
    """Memory is rebuilt, at every step, from the last k observations alone, the present one included.

    k memories, each begun at another step, see all observations. The one that has seen k is asked, and begins anew with
    the next observation: the same numbers as k steps from the initial state, in a k-th of the calls.

    observations   k; with 1, memory is zeroed before every step
    """

    def __init__(self, network: Player, observations: int) -> None:
        super().__init__(network)
        self.observations = observations

    def initial_state(self, batch_size: int) -> State:
        state = super().initial_state(batch_size)
        return {
            name: leaf if name == AGE else torch.stack([leaf] * self.observations, 1) for name, leaf in state.items()
        }

    def step(self, observation: Tensor, state: State) -> Answer:
        """Act on observations [n, *O] from memories with leaves [n, k, ...]."""
        age = state[AGE]
        memories = {name: leaf for name, leaf in state.items() if name != AGE}
        rows = torch.arange(len(age), device=age.device)
        fresh = self.network.initial_state(1)
        # Those that begin at a later step need not be computed yet.
        begun = min(self.observations, int(age.max()) + 1)
        memories = {
            name: leaf.index_put((rows, age % self.observations), fresh[name]) for name, leaf in memories.items()
        }
        oldest = torch.where(age < self.observations, 0, (age + 1) % self.observations)
        asked = {name: leaf[rows, oldest] for name, leaf in memories.items()}
        policy, value, _ = self.network.step(observation, asked)
        after = self._advanced(observation, {name: leaf[:, :begun] for name, leaf in memories.items()}, begun)
        for name, leaf in memories.items():
            memories[name] = torch.cat([after[name], leaf[:, begun:]], 1) if begun < self.observations else after[name]
        return policy, value, {**memories, AGE: age + 1}

    def _advanced(self, observation: Tensor, memories: State, copies: int) -> State:
        """Memories [n, copies, ...] after one more observation."""
        seen = observation.repeat_interleave(copies, 0)
        _, _, after = self.network.step(seen, {name: leaf.flatten(0, 1) for name, leaf in memories.items()})
        return {name: leaf.unflatten(0, (-1, copies)) for name, leaf in after.items()}


class Halted(Tampered):
    """Memory no longer changes after the first observations of an episode.

    observations   so many
    """

    def __init__(self, network: Player, observations: int) -> None:
        super().__init__(network)
        self.observations = observations

    def step(self, observation: Tensor, state: State) -> Answer:
        age = state[AGE]
        before = {name: leaf for name, leaf in state.items() if name != AGE}
        policy, value, after = self.network.step(observation, before)
        memory = chosen(age < self.observations, after, before)
        return policy, value, {**memory, AGE: age + 1}


class Swapped(Tampered):
    """Before every step, memory is that of another episode at the same step; if that one is over, its last.

    Each memory goes on seeing the observations of its own episode.
    """

    def __init__(self, network: Player) -> None:
        super().__init__(network)
        self._kept: State = {}

    def initial_state(self, batch_size: int) -> State:
        state = super().initial_state(batch_size)
        self._kept = {name: leaf.clone() for name, leaf in state.items() if name != AGE}
        return {**state, ROW: torch.arange(batch_size, device=state[AGE].device)}

    def step(self, observation: Tensor, state: State) -> Answer:
        rows = state[ROW]
        own = {name: leaf for name, leaf in state.items() if name not in (AGE, ROW)}
        self._keep(rows, own)
        others = {name: leaf[(rows + 1) % len(leaf)] for name, leaf in self._kept.items()}
        policy, value, _ = self.network.step(observation, others)
        _, _, after = self.network.step(observation, own)
        self._keep(rows, after)
        return policy, value, {**after, AGE: state[AGE] + 1, ROW: rows}

    def _keep(self, rows: Tensor, memory: State) -> None:
        self._kept = {name: leaf.index_copy(0, rows, memory[name]) for name, leaf in self._kept.items()}


def chosen(where: Tensor, yes: State, no: State) -> State:
    """Rows of `yes` where `where` [n] is true, else of `no`."""
    return {name: torch.where(where.view(-1, *[1] * (leaf.dim() - 1)), leaf, no[name]) for name, leaf in yes.items()}
