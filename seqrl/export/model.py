"""Makes an ONNX model of one step of a policy."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch

from seqrl.errors import ConfigError, described
from seqrl.export.step import OneStep

# Steps that are traced together; with one, the batch would be taken for a constant.
TRACED = 3
# Beyond it, protobuf cannot write one file.
MOST_BYTES = 2**31 - 1
# Begins names of inputs and outputs until they are told from what torch calls its own numbers, such as `mean`.
PORT, INNER = "port/", "inner/"


def model(step: OneStep, facts: Mapping[str, Any]) -> bytes:
    """An ONNX model of a step, for any number of observations at once.

    facts   what else it says of itself, by name, as plain data

    Raises ConfigError if the network's step cannot be exported.
    """
    batch = torch.export.Dim("batch", min=1, max=2**20)
    given = step.examples(TRACED)
    shapes = {"given": tuple({0: batch} for _ in given)}
    with _quiet(), _one_precision(), torch.no_grad():
        try:
            traced = torch.export.export(step.eval(), given, dynamic_shapes=shapes, strict=False)
            program = torch.onnx.export(
                traced,
                input_names=[f"{PORT}{port.name}" for port in step.inputs],
                output_names=[f"{PORT}{port.name}" for port in step.outputs],
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            proto = program.model_proto
            _name_ports(proto.graph, {port.name for port in (*step.inputs, *step.outputs)})
            _forget_source(proto.graph)
        except Exception as error:
            raise refusal(error) from error
    for name, value in facts.items():
        proto.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    if proto.ByteSize() > MOST_BYTES:
        raise ConfigError(
            [f"network: its {proto.ByteSize() / 1e9:.1f} GB do not fit into one ONNX file. Use a smaller one."]
        )
    data: bytes = proto.SerializeToString()
    return data


def refusal(error: Exception) -> ConfigError:
    """What to say of a step that torch cannot export, or onnxruntime not run."""
    return ConfigError(
        [
            f"network: its step cannot be exported ({described(error)}). Compute it with tensors of torch alone, alike "
            "for any batch, and without questions to what they hold."
        ]
    )


def _name_ports(graph: Any, names: Set[str]) -> None:
    """Give the inputs and outputs of a graph their names, and others to numbers within it that are called alike."""

    def renamed(name: str) -> str:
        return f"{INNER}{name}" if name in names else name.removeprefix(PORT)

    for node in graph.node:
        node.input[:], node.output[:] = map(renamed, node.input), map(renamed, node.output)
        for inner in _graphs_of(node):
            _name_ports(inner, names)
    for it in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        it.name = renamed(it.name)


def _forget_source(graph: Any) -> None:
    """Leave out where each node comes from: lines of files of this machine, which are nobody's who gets the model."""
    for node in graph.node:
        del node.metadata_props[:]
        for inner in _graphs_of(node):
            _forget_source(inner)


def _graphs_of(node: Any) -> Iterator[Any]:
    """Graphs within a node, such as the two sides of a condition."""
    for attribute in node.attribute:
        yield from (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch and its exporter say of themselves, and the graphs that they print of a step they refuse."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _one_precision() -> Iterator[None]:
    """Have cuDNN's two settings of one precision agree, of which torch asks for the older name."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.rnn.fp32_precision
    cudnn.rnn.fp32_precision = cudnn.conv.fp32_precision
    try:
        yield
    finally:
        cudnn.rnn.fp32_precision = before
