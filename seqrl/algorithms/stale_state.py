"""Memory computed anew: what is stored with a rollout ages while the network learns from it.

Each way answers with leaves [K, ...] that take the place of `rollout.state`, row by row.
"""

import torch
from torch import Tensor

from seqrl.networks import Network
from seqrl.types import Rollout, State


def zero(rollout: Rollout) -> State:
    """No memory: every sequence begins like an episode."""
    return {name: torch.zeros_like(leaf) for name, leaf in rollout.state.items()}


@torch.no_grad()
def refreshed(network: Network, rollout: Rollout) -> State:
    """Memory as the present network would have it, from the rollout's start on.

    What an episode brought along into the rollout stays as stored: its earlier steps are gone.
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
        # A step that was not played leaves memory alone.
        memory = {name: _where(rollout.valid[t], leaf, memory[name]) for name, leaf in after.items()}
    return stored


@torch.no_grad()
def burned_in(network: Network, rollout: Rollout, steps: int) -> State:
    """Memory that has taken in the last `steps` steps with the present network, before that the stored one.

    Where the episode, or its part in this rollout, begins nearer, it is taken in from there.
    Needs memory stored `steps` before each step at which a sequence may begin: the runner's `state_lead`.

    Source: Kapturowski et al. (2019), "Recurrent experience replay in distributed reinforcement learning".
    """
    end, env = (rollout.state_index >= 0).nonzero(as_tuple=True)  # [K]
    begin = torch.maximum(
        end - torch.minimum(rollout.age[end, env], torch.full_like(end, steps)), torch.zeros_like(end)
    )
    first = rollout.state_index[begin, env]
    memory = _rows(rollout.state, first.clamp_min(0))
    memory = {name: _where(first >= 0, leaf, torch.zeros_like(leaf)) for name, leaf in memory.items()}
    for ahead in range(steps):
        now = begin + ahead
        going = now < end
        _, _, after = network.step(rollout.observation[now.clamp_max(len(rollout.valid) - 1), env], memory)
        memory = {name: _where(going, leaf, memory[name]) for name, leaf in after.items()}
    return _replaced(rollout.state, rollout.state_index[end, env], memory)


def _rows(state: State, index: Tensor) -> State:
    return {name: leaf[index] for name, leaf in state.items()}


def _replaced(state: State, where: Tensor, rows: State) -> State:
    """The same state with other rows where said; a copy."""
    copies = {name: leaf.clone() for name, leaf in state.items()}
    for name, leaf in copies.items():
        leaf[where] = rows[name]
    return copies


def _where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Rows of `yes` where `condition` [B] is true, else of `no`."""
    return torch.where(condition.view(-1, *[1] * (yes.dim() - 1)), yes, no)
