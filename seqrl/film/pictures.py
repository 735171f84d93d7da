"""Pictures of whatever an environment's render() returns."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from seqrl.envs.tasks.pictures import WIDTH, Picture

# Of a picture in a film, in pixels: an upright screen, as of an arcade game, has room.
TALLEST = 640
CHANNELS = (1, 3, 4)


class NoPictureError(ValueError):
    """What it is instead, in a few words."""


def picture(drawn: Any, tallest: int = TALLEST) -> Picture:
    """A picture [H, W, 3], WIDTH wide and at most `tallest` high; white beside what is narrower.

    drawn   a picture in colour, with or without transparency, or grey, channels last or first, or a list of pictures,
            of which the last is taken; whole numbers up to 255, or real ones up to 1 or up to 255

    Raises NoPictureError if it is none of these.
    """
    if isinstance(drawn, list | tuple) and drawn and not isinstance(drawn[0], list | tuple | int | float):
        drawn = drawn[-1]
    if isinstance(drawn, Image.Image):
        drawn = drawn.convert("RGB")
    if isinstance(drawn, torch.Tensor):
        drawn = drawn.detach().cpu()
    try:
        pixels = np.asarray(drawn)
    except Exception:
        raise NoPictureError(f"{_with_article(drawn)}, which is no picture") from None
    if pixels.dtype.kind not in "biuf":
        raise NoPictureError(f"{_with_article(drawn)}, which is no picture")
    while pixels.ndim > 3 and len(pixels):
        pixels = pixels[-1]
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim == 3 and pixels.shape[2] not in CHANNELS and pixels.shape[0] in CHANNELS:
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim != 3 or pixels.shape[2] not in CHANNELS or not pixels.size:
        raise NoPictureError(f"an array of shape {np.shape(drawn)}, which is no picture")
    colours = _bytes(_thinned(pixels))[:, :, :3]
    height, width, _ = pixels.shape
    return _fitted(np.broadcast_to(colours, (*colours.shape[:2], 3)), height, width, tallest)


def _with_article(thing: Any) -> str:
    name = type(thing).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _thinned(pixels: Picture) -> Picture:
    """Every n-th pixel of a huge picture, which would take seconds to shrink."""
    rows, columns = (max(1, size // (2 * most)) for size, most in zip(pixels.shape, (TALLEST, WIDTH), strict=False))
    return pixels[::rows, ::columns]


def _bytes(pixels: Any) -> Picture:
    if pixels.dtype == np.uint8:
        return np.asarray(pixels)
    numbers = np.nan_to_num(np.asarray(pixels, np.float64))
    is_share = pixels.dtype.kind in "bf" and numbers.max() <= 1
    return np.clip(255 * numbers if is_share else numbers, 0, 255).round().astype(np.uint8)


def _fitted(pixels: Picture, height: int, width: int, tallest: int) -> Picture:
    """A picture of that height and width, as wide as a film, or as tall as one may be, and white beside it."""
    scale = min(WIDTH / width, tallest / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    if image.width == WIDTH:
        # A copy: an environment may go on drawing on what it returned.
        return np.array(image)
    canvas = Image.new("RGB", (WIDTH, image.height), "white")
    canvas.paste(image, ((WIDTH - image.width) // 2, 0))
    return np.asarray(canvas)
