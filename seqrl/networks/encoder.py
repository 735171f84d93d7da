"""The encoder: from one observation, of any composition, to features of one width."""

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from seqrl.errors import ConfigError
from seqrl.networks.layers import deviation, insist_on_memory, linear, tanh_
from seqrl.spaces import Packed, alternatives, numbers, parts

# Images with fewer rows or columns keep their full resolution in the first convolution.
SMALLEST_PICTURE = 36
# Dimensions of a stack of images.
STACKED = 4
# An observation of several dimensions with more numbers than this may be an image that is not read as one.
MANY = 4000
# Numbers to add to the statistics at once.
PIECE = 2**20
# Normalised numbers are clipped at this many standard deviations from the mean.
OUTLIER = 10.0


class Encoder(nn.Module):
    """One layer from an observation [..., *O] to features [..., hidden_size].

    Numbers enter unchanged, choices one-hot, and images (bytes in two to four dimensions) through convolutions. The
    mask of allowed choices is not read unless there is nothing else; `allowed` returns it.

    normalize   standardise numbers other than bytes by the running mean and deviation that `adapt` collects

    Raises ConfigError for a space that is neither Box, MultiBinary, Discrete, MultiDiscrete nor Packed, and for one
    with nothing to see, or with far more than the machine can hold.
    """

    def __init__(self, observation_space: spaces.Space[Any], hidden_size: int, normalize: bool = False) -> None:
        super().__init__()
        self.space, self.output_size = observation_space, hidden_size
        packed = observation_space if isinstance(observation_space, Packed) else None
        spaces_read = packed.parts if packed else {"": observation_space}
        self.mask = packed.mask if packed else None
        # A mask that is all there is to see is read, too.
        self.read = [name for name in spaces_read if name != self.mask] or list(spaces_read)
        # A list, because names of modules cannot contain dots.
        self.readers = nn.ModuleList(reader(spaces_read[name], normalize) for name in self.read)
        size = sum(part.output_size for part in self.readers)  # type: ignore[misc]
        if not size:
            raise ConfigError(
                [
                    f"env: the observation {observation_space} has no numbers, so that there is nothing to see. "
                    "Use another environment, or network.inputs."
                ]
            )
        self._insist_on_memory(hidden_size)
        self.layer = linear(size, hidden_size, gain=2**0.5)

    def forward(self, observation: Tensor) -> Tensor:
        values = parts(self.space, observation)
        dtype = self.layer.weight.dtype
        read = [reader(values[name], dtype) for name, reader in zip(self.read, self.readers, strict=True)]
        return tanh_(self.layer(read[0] if len(read) == 1 else torch.cat(read, -1)))

    def adapt(self, observation: Tensor) -> None:
        """Update the normalisation statistics with observations [M, *O]."""
        values = parts(self.space, observation)
        for name, reader in zip(self.read, self.readers, strict=True):
            if isinstance(reader, Numbers):
                reader.adapt(values[name])

    def allowed(self, observation: Tensor) -> Tensor | None:
        """Which alternatives [..., n] are allowed; None: all."""
        if not isinstance(self.space, Packed) or self.mask is None:
            return None
        return self.space.part(observation, self.mask) != 0

    def _insist_on_memory(self, hidden_size: int) -> None:
        """Raise ConfigError if a part of the observation needs far more memory than there is."""
        for name, part in zip(self.read, self.readers, strict=True):
            what = f"part {name!r} of the observation" if name else "the observation"
            hide = f", or hide it with env.hidden=[{name}]" if name else ""
            read = "one-hot " if isinstance(part, Choices) else ""
            size = int(part.output_size)  # type: ignore[arg-type]
            remedy = f"Show less, for example a choice by its digits in a MultiDiscrete{hide}."
            insist_on_memory(size, hidden_size, f"{what} is read as {size:,} {read}numbers", remedy)


class Normalizer(nn.Module):
    """Standardises numbers by the mean and deviation of all seen so far, and clips outliers.

    Source: Welford (1962); in batches: Chan, Golub & LeVeque (1979).
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / deviation(self.mean, self.variance)).clamp(-OUTLIER, OUTLIER)

    @torch.no_grad()
    def adapt(self, x: Tensor) -> None:
        """Update the statistics with x [M, size]."""
        # Few at once, because each is copied.
        for piece in x.split(max(1, PIECE // max(1, x.shape[1]))):
            # Squares of numbers that float32 holds may be more than it holds, or less.
            self._add(piece if piece.device.type == "mps" else piece.double())

    def _add(self, x: Tensor) -> None:
        mean, variance = x.mean(0), x.var(0, correction=0)
        # In place, so that a captured CUDA graph sees the update.
        self.count += len(x)
        share = len(x) / self.count.to(x.dtype)
        between = (mean - self.mean).square() * share * (1 - share)
        largest = torch.finfo(self.variance.dtype).max
        self.variance.copy_((self.variance.to(x.dtype).lerp(variance, share) + between).clamp(max=largest))
        self.mean.copy_(self.mean.to(x.dtype).lerp(mean, share))


class Bytes(nn.Module):
    """Scales bytes so that the bounds of their space are 0 and 1.

    flatten   for bytes in one dimension, in the order of the space's
    """

    low: Tensor
    width: Tensor

    def __init__(self, space: spaces.Box, flatten: bool = False) -> None:
        super().__init__()
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        # Without a width, nothing varies, and the distance from the bound is as good as any.
        width = np.where(high > low, high - low, 1)
        self.is_plain = bool((low == 0).all() and (width == 255).all())
        for name, bound in {} if self.is_plain else {"low": low, "width": width}.items():
            self.register_buffer(name, torch.from_numpy(bound.flatten() if flatten else bound), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x / 255 if self.is_plain else (x - self.low) / self.width


class Numbers(nn.Module):
    """Reads numbers unchanged or standardised; bytes so that the bounds of their space are 0 and 1."""

    def __init__(self, space: spaces.Space[Any], normalize: bool = False) -> None:
        super().__init__()
        self.dimensions = len(space.shape or ())
        self.output_size = numbers(space)
        self.are_bytes = space.dtype == np.uint8
        has_units = isinstance(space, spaces.Box) and not self.are_bytes
        self.normalizer = Normalizer(self.output_size) if normalize and has_units else None
        self.bytes = Bytes(space, flatten=True) if isinstance(space, spaces.Box) and self.are_bytes else None

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        x = flat(x, self.dimensions).to(dtype)
        if self.normalizer is not None:
            return self.normalizer(x)  # type: ignore[no-any-return]
        return x if self.bytes is None else self.bytes(x)

    def adapt(self, x: Tensor) -> None:
        """Update the statistics, if there are any, with x [M, *part]."""
        if self.normalizer is not None:
            self.normalizer.adapt(flat(x, self.dimensions).to(self.normalizer.mean.dtype))


class Choices(nn.Module):
    """Reads each choice one-hot: 1 at its own index, 0 elsewhere."""

    first: Tensor
    last: Tensor

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self.dimensions = len(space.shape or ())
        sizes = alternatives(space)
        self.output_size = sum(sizes)
        self.register_buffer("first", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        self.register_buffer("last", torch.tensor(sizes) - 1, persistent=False)

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        x = flat(x, self.dimensions)
        if x.device.type != "cpu":
            # What is no choice would end the process here, before the runner has asked whether all are.
            x = torch.minimum(x.clamp_min(0), self.last)
        index = x + self.first  # [..., K]
        read = torch.zeros(*index.shape[:-1], self.output_size, dtype=dtype, device=x.device)
        return read.scatter_(-1, index, 1)


class Image(nn.Module):
    """Reads an image of bytes with convolutions; frames of a stack are further channels.

    space   whose bounds scale the bytes; None: 0 and 255

    Source: for large images, Mnih et al. (2015), "Human-level control through deep reinforcement learning".
    """

    def __init__(self, shape: tuple[int, ...], space: spaces.Box | None = None) -> None:
        super().__init__()
        self.dimensions = len(shape)
        self.bytes = Bytes(space or spaces.Box(0, 255, shape, np.uint8))
        channels, *size = shape[-3:] if self.dimensions > 2 else (1, *shape)
        self.channels_last = self.dimensions > 2 and are_channels_last(shape[-3:])
        if self.channels_last:
            *size, channels = shape[-3:]
        if self.dimensions == STACKED:
            channels *= shape[0]
        if min(size) >= SMALLEST_PICTURE:
            shapes = [(32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0)]
        else:
            shapes = [(32, 3, 1, 1), (64, 3, 2, 1)]
        layers = []
        for outputs, kernel, stride, padding in shapes:
            layers.append(convolution(channels, outputs, kernel, stride, padding))
            channels, size = outputs, [(pixels + 2 * padding - kernel) // stride + 1 for pixels in size]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        # Computed: to see it where tensors have sizes alone, torch would import its compiler, for seconds.
        self.output_size = channels * math.prod(size)

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        ahead = x.shape[: x.dim() - self.dimensions]
        x = x.reshape(-1, *x.shape[len(ahead) :])
        x = self.bytes(x.to(dtype))
        if self.dimensions == 2:
            x = x.unsqueeze(1)
        elif self.channels_last:
            x = x.movedim(-1, -3)
        if self.dimensions == STACKED:
            x = x.flatten(1, 2)
        read: Tensor = self.layers(x)
        return read.view(*ahead, -1)


def are_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether the last of three dimensions of an image holds the channels, and not the first.

    It is the one that differs from two that are alike, or else the shorter.
    """
    first, middle, last = shape
    if (first == middle) != (middle == last):
        return first == middle
    return last <= first


def convolution(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
    """Convolution with orthogonal weights, then ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding)
    nn.init.orthogonal_(layer.weight, 2**0.5)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(layer, nn.ReLU())


def flattened(space: spaces.Space[Any]) -> list[str]:
    """Parts that may be images and are read as numbers, a few words about each."""
    leaves = space.parts if isinstance(space, Packed) else {"": space}
    return [
        f"{f'part {name!r} of the observation' if name else 'the observation'} {part.shape} is read as "
        f"{numbers(part):,} numbers, by one layer. If it is an image, show it in bytes (uint8)."
        for name, part in leaves.items()
        if isinstance(part, spaces.Box) and len(part.shape) > 1 and numbers(part) > MANY
        if isinstance(reader(part, False), Numbers)
    ]


def flat(x: Tensor, dimensions: int) -> Tensor:
    """Flatten the last `dimensions` of x into one; x may have no rows."""
    return x.flatten(-dimensions) if dimensions else x.unsqueeze(-1)


def reader(space: spaces.Space[Any], normalize: bool) -> "Numbers | Choices | Image":
    """The module that reads one part of an observation."""
    match space:
        case spaces.Box(shape=(_, _) | (_, _, _) | (_, _, _, _) as shape, dtype=np.uint8) if numbers(space):
            return Image(shape, space)
        case spaces.Box() | spaces.MultiBinary():
            return Numbers(space, normalize)
        case spaces.Discrete() | spaces.MultiDiscrete():
            return Choices(space)
    raise ConfigError(
        [f"env: no encoder for the observation space {space}. Use Box, Discrete, MultiDiscrete or MultiBinary."]
    )
