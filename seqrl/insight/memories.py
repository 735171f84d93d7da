"""Memory before every step of a rollout, as the network computes it now."""

from dataclasses import replace

import torch
from torch import Tensor

from seqrl.networks import Network
from seqrl.types import Rollout, State


@torch.no_grad()
def recomputed(network: Network, rollout: Rollout) -> Rollout:
    """The rollout with the memory before each of its steps, computed by the network from the rollout's start.

    A sequence may then begin anywhere, and no memory is stale. What an episode carried into the rollout stays as it was
    stored, because its earlier steps are gone.
    """
    length, rows = rollout.valid.shape
    memory = {name: leaf.clone() for name, leaf in network.initial_state(rows).items()}
    carried = rollout.state_index[0] >= 0
    for name, leaf in memory.items():
        leaf[carried] = rollout.state[name][rollout.state_index[0, carried]]
    before: dict[str, list[Tensor]] = {name: [] for name in memory}
    for t in range(length):
        memory = _where(rollout.age[t] > 0, memory, {name: torch.zeros_like(leaf) for name, leaf in memory.items()})
        for name, leaf in memory.items():
            before[name].append(leaf)
        _, _, after = network.step(rollout.observation[t], memory)
        # A step that was not played leaves memory unchanged.
        memory = _where(rollout.valid[t], after, memory)
    index = torch.arange(length * rows, device=rollout.age.device).view(length, rows)
    state = {name: torch.stack(leaves).flatten(0, 1) for name, leaves in before.items()}
    return replace(rollout, state=state, state_index=index.masked_fill(rollout.age == 0, -1))


def _where(condition: Tensor, yes: State, no: State) -> State:
    """Rows of `yes` where `condition` [B] is true, else of `no`."""
    return {
        name: torch.where(condition.view(-1, *[1] * (leaf.dim() - 1)), leaf, no[name]) for name, leaf in yes.items()
    }
