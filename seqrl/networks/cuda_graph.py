"""Acting with a CUDA graph: one launch per step of the network instead of one per operation."""

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
# Runs before the capture, to let libraries choose their kernels.
WARM_UP = 3


class Capture(Protocol):
    def __call__(self, function: Callable[[], T], /) -> tuple[T, Callable[[], None]]:
        """Return what the function returned, and a replay that computes it again into the same tensors."""
        ...


def captured(function: Callable[[], T]) -> tuple[T, Callable[[], None]]:
    """Capture a function in a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        returned = function()
    return returned, graph.replay


class Graphed:
    """Acts by replaying the first step of a network with its current parameters.

    A batch of another size than the first runs without the graph. If the network cannot be captured, for example
    because it branches on values, or if a replay gives different results, every step runs without the graph and a
    warning says so. A returned policy is valid until the next step.
    """

    def __init__(self, network: Network, capture: Capture = captured) -> None:
        self.network, self._capture = network, capture
        self._graph: Graph | None = None
        self._tried = False

    def initial_state(self, batch_size: int) -> State:
        return self.network.initial_state(batch_size)

    def step(self, observation: Tensor, state: State) -> Answer:
        """Act on observations [B, *O]: policy, value [B] and the memory after the step."""
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
            fault = "a replayed step gives different results"
        logging.getLogger(__name__).warning("acting without a CUDA graph: %s.", fault)
        return None


class Graph:
    """One captured step of a network, for observations [B, *O] and memory of this size only."""

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
