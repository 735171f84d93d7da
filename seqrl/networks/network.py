"""The actor-critic: encoder -> memory blocks -> heads."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from seqrl.errors import ConfigError
from seqrl.networks.encoder import Encoder
from seqrl.networks.heads import Distribution, ValueHead, policy_head
from seqrl.networks.memory.attention import Attention
from seqrl.networks.memory.base import Block
from seqrl.networks.memory.lstm import LSTM
from seqrl.networks.memory.stack import Stack
from seqrl.spaces import Packed, masked_alternatives, numbers
from seqrl.types import SequenceBatch, State


class Trunk(nn.Module):
    """Encoder and memory: applies an ordered dict of blocks in turn. Leaves of its State are named `block.leaf`.

    output_size   width of the features that `step` and `unroll` return
    """

    def __init__(self, encoder: Encoder, memory: dict[str, Block]) -> None:
        super().__init__()
        self.encoder = encoder
        self.memory = nn.ModuleDict(memory)
        self.output_size = [encoder.output_size, *(block.output_size for block in memory.values())][-1]

    def initial_state(self, batch_size: int) -> State:
        return {
            f"{name}.{leaf}": zeros
            for name, block in self._blocks()
            for leaf, zeros in block.initial_state(batch_size).items()
        }

    def step(self, observation: Tensor, state: State) -> tuple[Tensor, State]:
        """Features [B, H] of one step, and the memory after it."""
        x: Tensor = self.encoder(observation)
        after: State = {}
        for name, block in self._blocks():
            x, block_state = block.step(x, leaves_under(state, name))
            after.update({f"{name}.{leaf}": tensor for leaf, tensor in block_state.items()})
        return x, after

    def unroll(self, batch: SequenceBatch, state: State) -> Tensor:
        """Features [M, H] of the real steps of sequences."""
        x: Tensor = self.encoder(batch.observation)  # [M, H]
        if not self.memory:
            return x
        length, rows = batch.mask.shape
        x = x.new_zeros(length * rows, x.shape[-1]).index_copy_(0, batch.grid_index, x).view(length, rows, -1)
        for name, block in self._blocks():
            x = block.unroll(x, leaves_under(state, name), batch.mask)
        return x.flatten(0, 1).index_select(0, batch.grid_index)

    def _blocks(self) -> list[tuple[str, Block]]:
        return list(self.memory.items())  # type: ignore[arg-type]  # ModuleDict forgets what it holds


class Network(nn.Module):
    """Policy and value of an agent that remembers.

    actor         trunk the policy reads; the value too, unless it has one of its own
    critic        trunk the value reads, or None to share the actor's
    hidden_size   width of the heads' hidden layers

    autocast_dtype      precision of matrix products where it is not that of the parameters: torch.bfloat16, or None
    """

    autocast_dtype: torch.dtype | None = None

    def __init__(self, actor: Trunk, critic: Trunk | None, hidden_size: int, action_space: spaces.Space[Any]) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic
        _check_mask(actor.encoder, action_space)
        self.policy = policy_head(actor.output_size, hidden_size, action_space)
        self.value = ValueHead((critic or actor).output_size, hidden_size)

    def initial_state(self, batch_size: int) -> State:
        """Memory of `batch_size` new episodes."""
        state = prefixed("actor", self.actor.initial_state(batch_size))
        if self.critic is not None:
            state |= prefixed("critic", self.critic.initial_state(batch_size))
        return state

    def step(self, observation: Tensor, state: State) -> tuple[Distribution, Tensor, State]:
        """Act on observations [B, *O]: policy, value [B] and the memory after the step."""
        with self._autocast(observation.device):
            features, actor_state = self.actor.step(observation, leaves_under(state, "actor"))
            after = prefixed("actor", actor_state)
            policy = self.policy(features, self.actor.encoder.allowed(observation))
            if self.critic is not None:
                features, critic_state = self.critic.step(observation, leaves_under(state, "critic"))
                after |= prefixed("critic", critic_state)
            value = self.value(features)
        if self.autocast_dtype is not None:
            after = {name: leaf.to(state[name].dtype) for name, leaf in after.items()}
        return policy, value, after

    def unroll(self, batch: SequenceBatch) -> tuple[Distribution, Tensor]:
        """Policy and value [M] at every real step of a batch of sequences: the same numbers as repeated `step`."""
        with self._autocast(batch.mask.device):
            features = self.actor.unroll(batch, leaves_under(batch.state, "actor"))
            policy = self.policy(features, self.actor.encoder.allowed(batch.observation))
            if self.critic is not None:
                features = self.critic.unroll(batch, leaves_under(batch.state, "critic"))
            return policy, self.value(features)

    def adapt(self, observation: Tensor) -> None:
        """Update the normalisation statistics, if there are any, with observations [M, *O]."""
        for trunk in filter(None, (self.actor, self.critic)):
            trunk.encoder.adapt(observation)

    def _autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """torch's, without its cache of rounded weights.

        That is one for the whole process: each gradient thread would empty it while the others add up gradients in it,
        and in an autocast of a program's or environment's own, weights that were learned since would stay rounded.
        """
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(device.type, self.autocast_dtype, cache_enabled=False)


def insist_on_rows(said: str, numbers: Tensor, rows: int) -> None:
    """Raise ConfigError unless a network returned one number for each row: others would be broadcast, and learned."""
    if numbers.shape != (rows,):
        raise ConfigError(
            [f"network: {said} must have shape [{rows}] (got {[*numbers.shape]}): another one would be broadcast."]
        )


def _check_mask(encoder: Encoder, action_space: spaces.Space[Any]) -> None:
    space, choices = getattr(encoder, "space", None), sum(masked_alternatives(action_space))
    if isinstance(space, Packed) and space.mask and (size := numbers(space.parts[space.mask])) != choices:
        raise ConfigError(
            [
                f"env: the mask {space.mask} has {size} numbers for {choices} choices. Show one for each, or build the "
                "observation space with Packed(parts, mask=None)."
            ]
        )


def leaves_under(state: State, name: str) -> State:
    """The leaves under `name`, without that prefix."""
    prefix = f"{name}."
    return {leaf.removeprefix(prefix): tensor for leaf, tensor in state.items() if leaf.startswith(prefix)}


def prefixed(name: str, state: State) -> State:
    """The same leaves, named `name.leaf`."""
    return {f"{name}.{leaf}": tensor for leaf, tensor in state.items()}


def recurrent_network(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    use_lstm: bool,
    use_attention: bool,
    hidden_size: int,
    lstm_hidden_size: int,
    window: int,
    heads: int,
    separate_critic: bool,
    normalize_observations: bool = False,
    memory: Callable[[int, int], Block] = LSTM,
    layers: int = 1,
    horizon: int | None = None,
) -> Network:
    """Network of one encoder layer, an optional memory cell, and optional attention over its outputs.

    use_lstm           with the cell that `memory` makes, an LSTM by default
    hidden_size        width of the encoder and of the heads' hidden layers
    lstm_hidden_size   width of the cell
    window             steps that attention looks back
    heads              attention heads; must divide the width of the attention's input
    separate_critic    give the value its own encoder and memory
    normalize_observations   standardise numbers by their running mean and deviation
    memory             makes the cell, of the width of its inputs and its own
    layers             cells above one another
    horizon            steps that memories should last for; None: gates begin as the cell has them

    Raises ConfigError if what `memory` makes is no block.
    """

    def trunk() -> Trunk:
        blocks: dict[str, Block] = {}
        width = hidden_size
        if use_lstm:
            cell = memory_cell(memory, hidden_size, lstm_hidden_size, layers)
            if horizon is not None:
                cell.expect(horizon)
            # As it was named when there was no other: saved networks have that name.
            blocks["lstm" if isinstance(cell, LSTM) else "cell"] = cell
            width = cell.output_size
        if use_attention:
            blocks["attention"] = Attention(width, window, heads)
        return Trunk(Encoder(observation_space, hidden_size, normalize_observations), blocks)

    return Network(trunk(), trunk() if separate_critic else None, hidden_size, action_space)


def memory_cell(make: Callable[[int, int], Block], input_size: int, size: int, layers: int) -> Block:
    """A cell, or several above one another."""
    cell = make(input_size, size) if layers == 1 else Stack(make, input_size, size, layers)
    for it in cell.cells if isinstance(cell, Stack) else [cell]:
        if not isinstance(it, Block):
            raise ConfigError(
                [f"network.memory._target_: must make a block (got {type(it).__name__}). See seqrl.networks.Block."]
            )
    return cell
