"""Refreshes stored memory, which becomes stale as the network learns from its rollout.

Every function returns leaves [K, ...] that replace `rollout.state` row by row.
"""

import torch
from torch import Tensor

from seqrl.networks import Network
from seqrl.types import Rollout, State


def zero(rollout: Rollout) -> State:
    """Zero memory: every sequence begins like an episode."""
    return {name: torch.zeros_like(leaf) for name, leaf in rollout.state.items()}


@torch.no_grad()
def refreshed(network: Network, rollout: Rollout) -> State:
    """Memory recomputed by the current network from the start of the rollout.

    Memory that an episode carried into the rollout stays as stored, because its earlier steps are gone.
    """
    if not (rollout.state_index[1:] >= 0).any():
        return rollout.state
    stored = dict(rollout.state)
    memory = network.initial_state(rollout.valid.shape[1])
    for t in range(len(rollout.valid)):
        memory = {name: _where(rollout.age[t] > 0, leaf, torch.zeros_like(leaf)) for name, leaf in memory.items()}
        index = rollout.state_index[t]
        kept = index >= 0
        if t == 0:
            memory = _replaced(memory, kept, _rows(rollout.state, index[kept]))
        elif kept.any():
            stored = _replaced(stored, index[kept], _rows(memory, kept))
        _, _, after = network.step(rollout.observation[t], memory)
        # A step that was not played leaves memory unchanged.
        memory = {name: _where(rollout.valid[t], leaf, memory[name]) for name, leaf in after.items()}
    return stored


@torch.no_grad()
def burned_in(network: Network, rollout: Rollout, steps: int) -> State:
    """Memory after running the current network over the last `steps` steps, from the memory stored before them.

    If the episode, or its part in this rollout, begins later than that, start there.
    Needs memory stored `steps` before each step at which a sequence may begin: the runner's `state_lead`.

    Source: Kapturowski et al. (2019), "Recurrent experience replay in distributed reinforcement learning".
    """
    end, env = (rollout.state_index >= 0).nonzero(as_tuple=True)  # [K]
    if not len(end):
        return rollout.state
    begin = torch.maximum(
        end - torch.minimum(rollout.age[end, env], torch.full_like(end, steps)), torch.zeros_like(end)
    )
    first = rollout.state_index[begin, env]
    memory = _rows(rollout.state, first.clamp_min(0))
    memory = {name: _where(first >= 0, leaf, torch.zeros_like(leaf)) for name, leaf in memory.items()}
    for offset in range(steps):
        now = begin + offset
        running = now < end
        _, _, after = network.step(rollout.observation[now.clamp_max(len(rollout.valid) - 1), env], memory)
        memory = {name: _where(running, leaf, memory[name]) for name, leaf in after.items()}
    return _replaced(rollout.state, rollout.state_index[end, env], memory)


def _rows(state: State, index: Tensor) -> State:
    return {name: leaf[index] for name, leaf in state.items()}


def _replaced(state: State, where: Tensor, rows: State) -> State:
    """A copy of the state with `rows` at `where`."""
    copies = {name: leaf.clone() for name, leaf in state.items()}
    for name, leaf in copies.items():
        leaf[where] = rows[name]
    return copies


def _where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Rows of `yes` where `condition` [B] is true, else of `no`."""
    return torch.where(condition.view(-1, *[1] * (yes.dim() - 1)), yes, no)
