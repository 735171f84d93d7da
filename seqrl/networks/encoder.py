"""The encoder: from one observation, of any composition, to features of one width."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from seqrl.errors import ConfigError
from seqrl.networks.layers import linear, tanh_
from seqrl.spaces import ACTION_MASK, Packed, alternatives, numbers, parts

# Images with fewer rows or columns keep their full resolution in the first convolution.
SMALLEST_PICTURE = 36
# Normalised numbers are clipped at this many standard deviations from the mean.
OUTLIER = 10.0


class Encoder(nn.Module):
    """One layer from an observation [..., *O] to features [..., hidden_size].

    Numbers enter unchanged, choices one-hot, and images (bytes in two or three dimensions) through convolutions. The
    part called action_mask is not read; `allowed` returns it.

    normalize   standardise numbers other than bytes by the running mean and deviation that `adapt` collects

    Raises ConfigError for a space that is neither Box, MultiBinary, Discrete, MultiDiscrete nor Packed.
    """

    def __init__(self, observation_space: spaces.Space[Any], hidden_size: int, normalize: bool = False) -> None:
        super().__init__()
        self.space, self.output_size = observation_space, hidden_size
        spaces_read = observation_space.parts if isinstance(observation_space, Packed) else {"": observation_space}
        self.read = [name for name in spaces_read if name != ACTION_MASK]
        # A list, because names of modules cannot contain dots.
        self.readers = nn.ModuleList(reader(spaces_read[name], normalize) for name in self.read)
        self.layer = linear(sum(part.output_size for part in self.readers), hidden_size, gain=2**0.5)  # type: ignore[misc]

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
        if not isinstance(self.space, Packed) or ACTION_MASK not in self.space.parts:
            return None
        return self.space.part(observation, ACTION_MASK) != 0


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
        return ((x - self.mean) / (self.variance + 1e-8).sqrt()).clamp(-OUTLIER, OUTLIER)

    @torch.no_grad()
    def adapt(self, x: Tensor) -> None:
        """Update the statistics with x [M, size]."""
        mean, variance = x.mean(0), x.var(0, correction=0)
        # In place, so that a captured CUDA graph sees the update.
        self.count += len(x)
        share = len(x) / self.count
        between = (mean - self.mean).square() * share * (1 - share)
        self.variance.lerp_(variance, share).add_(between)
        self.mean.lerp_(mean, share)


class Numbers(nn.Module):
    """Reads numbers unchanged or standardised; bytes divided by 255."""

    def __init__(self, space: spaces.Space[Any], normalize: bool = False) -> None:
        super().__init__()
        self.dimensions = len(space.shape or ())
        self.output_size = numbers(space)
        self.are_bytes = space.dtype == np.uint8
        has_units = isinstance(space, spaces.Box) and not self.are_bytes
        self.normalizer = Normalizer(self.output_size) if normalize and has_units else None

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        x = flat(x, self.dimensions).to(dtype)
        if self.normalizer is not None:
            return self.normalizer(x)  # type: ignore[no-any-return]
        return x / 255 if self.are_bytes else x

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
    """Reads an image of bytes with convolutions; the shorter of its first and last dimension holds the channels.

    Source: for large images, Mnih et al. (2015), "Human-level control through deep reinforcement learning".
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.dimensions = len(shape)
        self.channels_last = len(shape) == 3 and shape[2] <= shape[0]
        channels, *size = shape if len(shape) == 3 else (1, *shape)
        if self.channels_last:
            *size, channels = shape
        if min(size) >= SMALLEST_PICTURE:
            layers = [convolution(channels, 32, 8, 4), convolution(32, 64, 4, 2), convolution(64, 64, 3, 1)]
        else:
            layers = [convolution(channels, 32, 3, 1, padding=1), convolution(32, 64, 3, 2, padding=1)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            self.output_size = self.layers(torch.zeros(1, channels, *size)).shape[1]

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        ahead = x.shape[: x.dim() - self.dimensions]
        x = x.reshape(-1, *x.shape[len(ahead) :])
        if self.dimensions == 2:
            x = x.unsqueeze(1)
        elif self.channels_last:
            x = x.movedim(-1, 1)
        read: Tensor = self.layers(x.to(dtype) / 255)
        return read.view(*ahead, -1)


def convolution(inputs: int, outputs: int, kernel: int, stride: int, padding: int = 0) -> nn.Sequential:
    """Convolution with orthogonal weights, then ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding)
    nn.init.orthogonal_(layer.weight, 2**0.5)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(layer, nn.ReLU())


def flat(x: Tensor, dimensions: int) -> Tensor:
    """Flatten the last `dimensions` of x into one."""
    return x if dimensions == 1 else x.reshape(*x.shape[: x.dim() - dimensions], -1)


def reader(space: spaces.Space[Any], normalize: bool) -> "Numbers | Choices | Image":
    """The module that reads one part of an observation."""
    match space:
        case spaces.Box(shape=(_, _) | (_, _, _) as shape, dtype=np.uint8):
            return Image(shape)
        case spaces.Box() | spaces.MultiBinary():
            return Numbers(space, normalize)
        case spaces.Discrete() | spaces.MultiDiscrete():
            return Choices(space)
    raise ConfigError(
        [f"env: no encoder for the observation space {space}. Use Box, Discrete, MultiDiscrete or MultiBinary."]
    )
