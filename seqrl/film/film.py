"""An animation of a policy: what its environment looks like, and below it what memory does.

The value, and the probability of the action taken, are drawn as the policy had them, and as it would have them at that
step with its memory zeroed. Where the two lines part, memory decides.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete, Space
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from seqrl.envs.base import BatchedEnv
from seqrl.envs.tasks.pictures import INK, PALE, SIGN, WIDTH, WOOD, Drawing, Picture
from seqrl.errors import SeqrlError, described
from seqrl.film.pictures import TALLEST, NoPictureError, picture
from seqrl.machine import perf_counter
from seqrl.run.evaluator import Forgetful
from seqrl.runner import Player, Runner
from seqrl.spaces import Packed
from seqrl.types import Rollout, Step

Array = NDArray[np.float64]
# Steps played before checking whether it is enough.
PIECE = 10
# An episode lasts ten seconds, within these limits of steps per second.
SECONDS, FASTEST, SLOWEST = 10, 50, 5
# Of the curves: steps on a page, height of a row, and its margins.
PAGE, ROW, LEFT, RIGHT, TOP, BOTTOM = 100, 84, 48, 12, 24, 10
# Of what is drawn, so that its range is a number, too.
LARGEST = 1e300
# A comment near the beginning of a film's file, by which seqrl knows its own.
MARK = "a film by seqrl"
WITH, ZEROED = SIGN, (222, 128, 46)
# Why there are no pictures, if nothing failed.
UNDRAWN = "it draws none, as Gymnasium's do with the render mode rgb_array."
# One colour for each number of an observation; more lines would be a tangle.
OBSERVED = [INK, WOOD, (76, 153, 90), (176, 80, 132), (120, 110, 190), (140, 140, 146), (60, 160, 170), (214, 96, 77)]


@dataclass(frozen=True)
class Limits:
    """How much is filmed: whatever is reached first.

    steps     of all episodes together
    seconds   that playing and drawing them may take
    tallest   height of a picture of the environment, in pixels
    """

    episodes: int = 3
    steps: int = 500
    seconds: float = math.inf
    tallest: int = TALLEST


@dataclass(frozen=True)
class Film:
    """Steps of one episode.

    pictures   of the environment before each step; None if it cannot draw itself
    reward     [T]
    curves     by name, [T, lines] each: with memory and with memory zeroed, or the numbers of an observation
    """

    pictures: Sequence[Picture | None]
    reward: Array
    curves: dict[str, Array]


class Filmed(BatchedEnv):
    """Environments that are rendered before every step, until that fails.

    tallest   height of a picture, in pixels
    fault     why they can't be drawn
    """

    def __init__(self, env: BatchedEnv, tallest: int) -> None:
        self.env, self.batch_size, self.tallest = env, env.batch_size, tallest
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.pictures: list[Picture | None] = []
        self.fault = ""

    def reset(self, where: Tensor | None = None) -> Tensor:
        return self.env.reset(where)

    def step(self, action: Tensor) -> Step:
        self.pictures.append(None if self.fault else self._drawn())
        return self.env.step(action)

    def _drawn(self) -> Picture | None:
        try:
            drawn = self.env.render()
            return None if drawn is None else picture(drawn, self.tallest)
        except SeqrlError as error:
            self.fault = str(error)
        except NoPictureError as error:
            self.fault = f"its render returned {error}."
        except (Exception, SystemExit) as error:
            self.fault = f"its render raised {described(error)}."
        return None

    def close(self) -> None:
        self.env.close()


def film(
    env: BatchedEnv,
    network: Player,
    generator: torch.Generator | None,
    limits: Limits = Limits(),
    undrawn: Callable[[str], None] = lambda why: None,
) -> list[Film]:
    """Play in one environment and film it.

    generator   draws the actions; None takes the likeliest one
    undrawn     is told why there are no pictures of the environment, if there are none
    """
    filmed = Filmed(env, limits.tallest)
    played, real = _played(Runner(filmed, network, PIECE, 0, generator), limits)
    pictures = [None if filmed.fault else filmed.pictures[step] for step in real]
    curves = _curves(played, network, isinstance(env.action_space, Discrete))
    if all(picture is None for picture in pictures):
        undrawn(filmed.fault or UNDRAWN)
        curves = _observed(played["observation"], env.observation_space) | curves
    ends = [0, *(played["ended"].nonzero().squeeze(1)[: limits.episodes] + 1).tolist()]
    if len(ends) <= limits.episodes:
        ends.append(len(pictures))
    return [
        Film(
            pictures[a:b],
            played["reward"][a:b].double().cpu().numpy(),
            {name: lines[a:b] for name, lines in curves.items()},
        )
        for a, b in pairwise(ends)
        if a < b
    ]


def _played(runner: Runner, limits: Limits) -> tuple[dict[str, Tensor], list[int]]:
    """Columns [T, ...] of the real steps, by name, and which steps they are of all that were taken."""
    pieces: list[Rollout] = []
    ended, until = 0, perf_counter() + limits.seconds
    while not pieces or (ended < limits.episodes and PIECE * len(pieces) < limits.steps and perf_counter() < until):
        pieces.append(runner.collect())
        ended += int((pieces[-1].ended & pieces[-1].valid).sum())
    names = ("observation", "action", "log_prob", "value", "reward", "ended", "valid")
    columns = {name: torch.cat([getattr(piece, name)[:, 0] for piece in pieces]) for name in names}
    real = columns["valid"].nonzero().squeeze(1)
    return {name: column[real] for name, column in columns.items()}, real.tolist()


def _observed(observation: Tensor, space: Space[Any]) -> dict[str, Array]:
    """The numbers of observations [T, ...] as curves [T, lines]; none if they are too many."""
    parts = space.split(observation) if isinstance(space, Packed) else {"": observation}
    if sum(it[0].numel() for it in parts.values()) > len(OBSERVED):
        return {}
    lines = torch.cat([it.reshape(len(observation), -1).double() for it in parts.values()], 1)
    return {"observation": lines.cpu().numpy()}


def _curves(played: dict[str, Tensor], network: Player, choices: bool) -> dict[str, Array]:
    """Curves by name, [T, lines] each."""
    with torch.inference_mode():
        policy, value, _ = Forgetful(network).step(played["observation"], {})
        log_prob = policy.log_prob(played["action"])
    lines = [played["log_prob"], log_prob]
    pairs = {"value": [played["value"], value]}
    if choices:
        pairs["probability of the action"] = [line.exp() for line in lines]
    else:
        pairs["log-density of the action"] = lines
    # Without memory, both lines would be the same.
    count = 2 if network.initial_state(1) else 1
    return {name: torch.stack(pair[:count], 1).double().cpu().numpy() for name, pair in pairs.items()}


def gif(films: Sequence[Film], every: int = 1) -> bytes:
    """The episodes one after another, in an endless loop.

    every   shows each so many-th step alone, and the last of an episode, for as long as they take together
    """
    lengths = [len(episode.reward) for episode in films]
    steps = [
        (number, step)
        for number, length in enumerate(lengths)
        for step in range(length)
        if step % every == 0 or step + 1 == length
    ]
    pages = [_pages(episode.curves) for episode in films]
    height = max((len(picture) for episode in films for picture in episode.pictures if picture is not None), default=0)

    def frame(number: int, step: int) -> Image.Image:
        episode, (page, column) = films[number], divmod(step, PAGE)
        title = f"episode {number + 1}   step {step + 1}   return {episode.reward[: step + 1].sum():.4g}"
        mark = _x(column, min(PAGE, lengths[number]))
        return _frame(episode.pictures[step], height, pages[number][page], title, mark)

    # One palette for all frames, made from a few of them: areas that do not change then cost nothing.
    few = [np.asarray(frame(*step)) for step in steps[:: max(1, len(steps) // 8)]]
    palette = Image.fromarray(np.concatenate(few)).quantize(dither=Image.Dither.NONE)
    first, *others = steps
    frames = (frame(*step).quantize(palette=palette, dither=Image.Dither.NONE) for step in others)
    pace = round(1000 * every / min(FASTEST, max(SLOWEST, max(lengths) / SECONDS)))
    # Pause on the last step of an episode.
    milliseconds = [1000 if step + 1 == lengths[number] else pace for number, step in steps]
    data = io.BytesIO()
    begin = frame(*first).quantize(palette=palette, dither=Image.Dither.NONE)
    begin.save(data, "GIF", save_all=True, append_images=frames, duration=milliseconds, loop=0, comment=MARK)
    return data.getvalue()


def still(data: bytes) -> bytes:
    """The first frame of a GIF, as a PNG."""
    frame = io.BytesIO()
    Image.open(io.BytesIO(data)).save(frame, "PNG")
    return frame.getvalue()


def _frame(picture: Picture | None, height: int, curves: Image.Image, title: str, x: float) -> Image.Image:
    """A picture above the curves, with a mark at this step; all frames have the height of the tallest."""
    frame = Image.new("RGB", (WIDTH, height + TOP + curves.height), "white")
    if picture is not None:
        frame.paste(Image.fromarray(picture), (0, 0))
    frame.paste(curves, (0, height + TOP))
    draw = ImageDraw.Draw(frame)
    draw.line([(x, height + TOP), (x, frame.height)], PALE)
    draw.text((LEFT, height + 6), title, INK, _font())
    return frame


def _pages(curves: dict[str, Array]) -> list[Image.Image]:
    """Curves over the steps of an episode, PAGE steps on each page."""
    curves = {name: np.clip(np.nan_to_num(lines), -LARGEST, LARGEST) for name, lines in curves.items()}
    ranges = {name: (float(lines.min()), float(lines.max())) for name, lines in curves.items()}
    ranges |= {name: (0.0, 1.0) for name in curves if name.startswith("probability")}
    steps = len(next(iter(curves.values())))
    starts = range(0, steps, PAGE)
    return [
        _page({name: lines[a : a + PAGE] for name, lines in curves.items()}, ranges, min(PAGE, steps)) for a in starts
    ]


def _page(curves: dict[str, Array], ranges: dict[str, tuple[float, float]], steps: int) -> Image.Image:
    drawing = Drawing(WIDTH, ROW * len(curves))
    texts = []
    for row, (name, lines) in enumerate(curves.items()):
        top, bottom = ROW * row + TOP, ROW * (row + 1) - BOTTOM
        low, high = ranges[name]
        for y in (top, bottom):
            drawing.line([(LEFT, y), (WIDTH - RIGHT, y)], PALE, 1)
        colours = OBSERVED if name == "observation" else [WITH, ZEROED]
        for line, colour in reversed(list(zip(lines.T, colours, strict=False))):
            ys = bottom - (bottom - top) * (line - low) / (high - low or 1)
            points = [(_x(step, steps), y) for step, y in enumerate(ys.tolist())]
            # A single step is a dot.
            drawing.line(points if len(points) > 1 else [points[0], (points[0][0] + 2, points[0][1])], colour)
        texts += [(LEFT, top - 17, name, INK), (4, top - 7, f"{high:.3g}", INK), (4, bottom - 7, f"{low:.3g}", INK)]
        if name == "value" and lines.shape[1] == 2:
            texts += [(WIDTH - 190, top - 17, "with memory", WITH), (WIDTH - 100, top - 17, "memory zeroed", ZEROED)]
    image = Image.fromarray(drawing.picture())
    for x, y, text, colour in texts:
        ImageDraw.Draw(image).text((x, y), text, colour, _font())
    return image


def _x(step: int, steps: int) -> float:
    """Where a step is drawn, from left to right."""
    return LEFT + (WIDTH - RIGHT - LEFT) * step / max(1, steps - 1)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)
