"""Drawings of the built-in tasks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Picture = NDArray[np.uint8]
"""Red, green and blue [H, W, 3]."""
WIDTH, HEIGHT = 480, 200
INK, PALE, WOOD, SIGN = (40, 40, 48), (208, 211, 217), (196, 140, 92), (47, 109, 176)
# Draw larger, then shrink, for smooth edges.
SCALE = 2


class Drawing:
    """A white canvas, in pixels from its top left corner."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT) -> None:
        self.image = Image.new("RGB", (SCALE * width, SCALE * height), "white")
        self._draw = ImageDraw.Draw(self.image)

    def line(self, points: Sequence[tuple[float, float]], colour: tuple[int, int, int], width: int = 2) -> None:
        scaled = [(SCALE * x, SCALE * y) for x, y in points]
        self._draw.line(scaled, colour, SCALE * width, joint="curve")

    def box(self, x: float, y: float, width: float, height: float, colour: tuple[int, int, int]) -> None:
        """A filled box centred at (x, y)."""
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        self._draw.rectangle([SCALE * corner for corner in corners], colour)

    def disc(self, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        self._draw.ellipse([SCALE * edge for edge in (x - radius, y - radius, x + radius, y + radius)], colour)

    def picture(self) -> Picture:
        width, height = self.image.size
        return np.asarray(self.image.resize((width // SCALE, height // SCALE), Image.Resampling.LANCZOS))


def cart_pole(position: float, angle: float, end: float, pole: float) -> Picture:
    """A cart on a track that ends `end` from the centre, its pole of length `pole` at `angle` radians from upright."""
    drawing = Drawing()
    unit = WIDTH / (2 * end)
    x, y = WIDTH / 2 + position * unit, 0.75 * HEIGHT
    drawing.line([(0, y), (WIDTH, y)], PALE)
    drawing.box(x, y, 52, 26, INK)
    drawing.line([(x, y - 13), (x + unit * pole * np.sin(angle), y - 13 - unit * pole * np.cos(angle))], WOOD, 8)
    drawing.disc(x, y - 13, 5, PALE)
    return drawing.picture()


def t_maze(place: int, corridor_length: int, sign: float, is_shown: bool) -> Picture:
    """The agent in the corridor, the junction, and the sign at the entrance: 1 points up, pale once out of sight."""
    drawing = Drawing()
    middle, left, right = HEIGHT / 2, 60, WIDTH - 60
    drawing.line([(left, middle), (right, middle)], PALE, 30)
    drawing.box(right, middle, 30, 150, PALE)
    x, reach = left - 34, 16 * sign
    colour = SIGN if is_shown else PALE
    drawing.line([(x, middle + reach), (x, middle - reach)], colour, 4)
    drawing.line([(x - 8, middle - reach / 2), (x, middle - reach), (x + 8, middle - reach / 2)], colour, 4)
    drawing.disc(left + (right - left) * place / corridor_length, middle, 9, INK)
    return drawing.picture()
