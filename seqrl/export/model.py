"""Makes an ONNX model of one step of a policy."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from seqrl.errors import ConfigError, described
from seqrl.export.step import OneStep

# Steps that are traced together; with one, the batch would be taken for a constant.
TRACED = 3
# Beyond it, protobuf cannot write one file.
MOST_BYTES = 2**31 - 1


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
                input_names=[port.name for port in step.inputs],
                output_names=[port.name for port in step.outputs],
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            proto = program.model_proto
        except Exception as error:
            raise ConfigError(
                [
                    f"network: its step cannot be exported ({described(error)}). Compute it with tensors of torch "
                    "alone, alike for any batch, and without questions to what they hold."
                ]
            ) from error
    for name, value in facts.items():
        proto.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    if proto.ByteSize() > MOST_BYTES:
        raise ConfigError(
            [f"network: its {proto.ByteSize() / 1e9:.1f} GB do not fit into one ONNX file. Use a smaller one."]
        )
    data: bytes = proto.SerializeToString()
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch and its exporter say of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
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
