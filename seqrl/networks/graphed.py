"""Acting in a CUDA graph: one launch for a step of the network instead of one for each of its operations."""

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from seqrl.networks.heads import Distribution
from seqrl.networks.network import Network
from seqrl.types import State

T = TypeVar("T")
Answer = tuple[Distribution, Tensor, State]
# Runs before a capture, in which libraries choose their kernels.
WARM_UP = 3


class Capture(Protocol):
    def __call__(self, function: Callable[[], T], /) -> tuple[T, Callable[[], None]]:
        """What a function returned, and what does the same again, into the same tensors."""
        ...


def captured(function: Callable[[], T]) -> tuple[T, Callable[[], None]]:
    """The Capture of a CUDA graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        returned = function()
    return returned, graph.replay


class Graphed:
    """A network that acts by doing again what it did at its first step, with the parameters it has by then.

    Batches of another size than the first one are played as they come. A network that cannot be captured, because it
    looks at its numbers for instance, or that says something else when it is replayed, acts as it would without, and a
    warning says so. A policy holds until the next step.
    """

    def __init__(self, network: Network, capture: Capture = captured) -> None:
        self.network, self._capture = network, capture
        self._graph: Graph | None = None
        self._tried = False

    def initial_state(self, batch_size: int) -> State:
        return self.network.initial_state(batch_size)

    def step(self, observation: Tensor, state: State) -> Answer:
        """Act on one observation [B, *O] each: policy, value [B] and the memory after it."""
        if not self._tried:
            self._tried = True
            self._graph = self._first(observation, state)
        if self._graph is None or len(observation) != len(self._graph.observation):
            return self.network.step(observation, state)
        return self._graph.step(observation, state)

    def _first(self, observation: Tensor, state: State) -> "Graph | None":
        try:
            graph = Graph(self.network, observation, state, self._capture)
            _, value, after = graph.step(observation, state)
        except RuntimeError as error:
            fault = str(error).partition("\n")[0].rstrip(".")
        else:
            _, expected, expected_after = self.network.step(observation, state)
            pairs = [(value, expected), *((after[name], leaf) for name, leaf in expected_after.items())]
            if all(torch.allclose(a.float(), b.float(), rtol=1e-2, atol=1e-3) for a, b in pairs):
                return graph
            fault = "a replayed step says something else"
        logging.getLogger(__name__).warning("acting without a CUDA graph: %s.", fault)
        return None


class Graph:
    """One step of a network, captured: for observations [B, *O] and memory of this size alone."""

    def __init__(self, network: Network, observation: Tensor, state: State, capture: Capture) -> None:
        self.observation = observation.clone()
        self.state = {name: leaf.clone() for name, leaf in state.items()}
        self._answer, self._replay = capture(lambda: network.step(self.observation, self.state))

    def step(self, observation: Tensor, state: State) -> Answer:
        self.observation.copy_(observation)
        for name, leaf in self.state.items():
            leaf.copy_(state[name])
        self._replay()
        policy, value, after = self._answer
        return policy, value.clone(), {name: leaf.clone() for name, leaf in after.items()}
