"""A moving picture of a policy: what its environment looks like, and under it what memory does.

The value, and the probability of the action that was taken, are drawn as the policy had them, and as it would have them
at that step if its memory were zeroed. Where the two part, memory decides.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from gymnasium.spaces import Discrete
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from seqrl.envs.base import BatchedEnv
from seqrl.envs.tasks.pictures import INK, PALE, SIGN, WIDTH, WOOD, Drawing, Picture
from seqrl.runner import Player, Runner
from seqrl.runs.evaluator import Forgetful
from seqrl.spaces import Packed
from seqrl.types import Rollout, Step

Array = NDArray[np.float64]
# Steps that are played before it is looked whether enough episodes have ended.
PIECE = 50
# An episode lasts ten seconds, if its steps are then neither faster nor slower than this in a second.
SECONDS, FASTEST, SLOWEST = 10, 50, 5
# Of what is drawn over time: steps seen at once, height of a row, and its margins.
PAGE, ROW, LEFT, RIGHT, TOP, BOTTOM = 100, 84, 48, 12, 24, 10
WITH, ZEROED = SIGN, (222, 128, 46)
# Of the numbers of an observation; more of them would be a tangle.
OBSERVED = [INK, WOOD, (76, 153, 90), (176, 80, 132), (120, 110, 190), (140, 140, 146), (60, 160, 170), (214, 96, 77)]


@dataclass(frozen=True)
class Film:
    """Steps of one episode.

    pictures   of the environment before each step; None where it has none
    reward     [T]
    curves     what is drawn over time, [T, lines] each: with memory and with memory zeroed, or an observation's numbers
    """

    pictures: Sequence[Picture | None]
    reward: Array
    curves: dict[str, Array]


class Filmed(BatchedEnv):
    """Environments that are looked at before every step."""

    def __init__(self, env: BatchedEnv) -> None:
        self.env, self.batch_size = env, env.batch_size
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.pictures: list[Picture | None] = []

    def reset(self, where: Tensor | None = None) -> Tensor:
        return self.env.reset(where)

    def step(self, action: Tensor) -> Step:
        picture = self.env.render()
        self.pictures.append(None if picture is None else _as_wide_as_all(picture))
        return self.env.step(action)

    def close(self) -> None:
        self.env.close()


def film(
    env: BatchedEnv, network: Player, generator: torch.Generator | None, episodes: int = 3, steps: int = 500
) -> list[Film]:
    """Play in one environment and look at it, for so many episodes, or about so many steps.

    generator   draws the actions; None takes the likeliest one
    """
    filmed = Filmed(env)
    runner = Runner(filmed, network, PIECE, 0, generator)
    pieces: list[Rollout] = []
    ended = 0
    while ended < episodes and PIECE * len(pieces) < steps:
        pieces.append(runner.collect())
        ended += int((pieces[-1].ended & pieces[-1].valid).sum())
    played = {
        name: torch.cat([getattr(piece, name)[:, 0] for piece in pieces])  # [T, ...]
        for name in ("observation", "action", "log_prob", "value", "reward", "ended", "valid")
    }
    real = played["valid"].nonzero().squeeze(1)
    played = {name: column[real] for name, column in played.items()}
    pictures = [filmed.pictures[place] for place in real.tolist()]
    # Parts of an observation are bytes side by side: nothing to look at.
    shown = pictures[0] is None and not isinstance(env.observation_space, Packed)
    curves = _curves(played, network, isinstance(env.action_space, Discrete), shown)
    ends = [0, *(played["ended"].nonzero().squeeze(1)[:episodes] + 1).tolist()]
    if ended < episodes:
        ends.append(len(pictures))
    return [
        Film(
            pictures[a:b], played["reward"][a:b].double().cpu().numpy(), {name: it[a:b] for name, it in curves.items()}
        )
        for a, b in pairwise(ends)
        if a < b
    ]


def _curves(played: dict[str, Tensor], network: Player, choices: bool, observation: bool) -> dict[str, Array]:
    """What is drawn over time, [T, lines] each."""
    with torch.inference_mode():
        policy, value, _ = Forgetful(network).step(played["observation"], {})
        log_prob = policy.log_prob(played["action"])
    lines = [played["log_prob"], log_prob]
    found = {"value": [played["value"], value]}
    if choices:
        found["probability of the action"] = [line.exp() for line in lines]
    else:
        found["log-density of the action"] = lines
    known = 2 if network.initial_state(1) else 1
    curves = {name: torch.stack(lines[:known], 1) for name, lines in found.items()}
    observed = played["observation"].reshape(len(value), -1)
    if observation and observed.shape[1] <= len(OBSERVED):
        curves = {"observation": observed, **curves}
    return {name: it.double().cpu().numpy() for name, it in curves.items()}


def gif(films: Sequence[Film]) -> bytes:
    """The episodes one after another, again and again."""
    steps = [(number, step) for number, it in enumerate(films) for step in range(len(it.reward))]
    pages = [_pages(it.curves) for it in films]

    def frame(number: int, step: int) -> Image.Image:
        of, (page, place) = films[number], divmod(step, PAGE)
        said = f"episode {number + 1}   step {step + 1}   return {of.reward[: step + 1].sum():.4g}"
        return _frame(of.pictures[step], pages[number][page], said, _place(place, min(PAGE, len(of.reward))))

    # One palette for all of them, from some throughout: what does not change then costs nothing.
    some = [np.asarray(frame(*place)) for place in steps[:: max(1, len(steps) // 8)]]
    palette = Image.fromarray(np.concatenate(some)).quantize(dither=Image.Dither.NONE)
    first, *others = steps
    frames = (frame(*place).quantize(palette=palette, dither=Image.Dither.NONE) for place in others)
    pace = round(1000 / min(FASTEST, max(SLOWEST, max(len(it.reward) for it in films) / SECONDS)))
    # The last step is there to be looked at.
    milliseconds = [1000 if step + 1 == len(films[number].reward) else pace for number, step in steps]
    data = io.BytesIO()
    begin = frame(*first).quantize(palette=palette, dither=Image.Dither.NONE)
    begin.save(data, "GIF", save_all=True, append_images=frames, duration=milliseconds, loop=0)
    return data.getvalue()


def _as_wide_as_all(picture: Picture) -> Picture:
    height, width, _ = picture.shape
    if width == WIDTH:
        return picture
    return np.asarray(Image.fromarray(picture).resize((WIDTH, round(height * WIDTH / width)), Image.Resampling.LANCZOS))


def _frame(picture: Picture | None, drawn: Image.Image, said: str, place: float) -> Image.Image:
    """A picture above what is drawn over time, with a mark at the place of this step."""
    height = 0 if picture is None else len(picture)
    frame = Image.new("RGB", (WIDTH, height + TOP + drawn.height), "white")
    if picture is not None:
        frame.paste(Image.fromarray(picture), (0, 0))
    frame.paste(drawn, (0, height + TOP))
    draw = ImageDraw.Draw(frame)
    draw.line([(place, height + TOP), (place, frame.height)], PALE)
    draw.text((LEFT, height + 6), said, INK, _font())
    return frame


def _pages(curves: dict[str, Array]) -> list[Image.Image]:
    """Rows of lines over the steps of an episode, some steps on each page."""
    ranges = {name: (float(lines.min()), float(lines.max())) for name, lines in curves.items()}
    ranges |= {name: (0.0, 1.0) for name in curves if name.startswith("probability")}
    steps = len(next(iter(curves.values())))
    starts = range(0, steps, PAGE)
    return [_page({name: it[a : a + PAGE] for name, it in curves.items()}, ranges, min(PAGE, steps)) for a in starts]


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
            points = [(_place(step, steps), y) for step, y in enumerate(ys.tolist())]
            # One step alone is a dot.
            drawing.line(points if len(points) > 1 else [points[0], (points[0][0] + 2, points[0][1])], colour)
        texts += [(LEFT, top - 17, name, INK), (4, top - 7, f"{high:.3g}", INK), (4, bottom - 7, f"{low:.3g}", INK)]
        if name == "value" and lines.shape[1] == 2:
            texts += [(WIDTH - 190, top - 17, "with memory", WITH), (WIDTH - 100, top - 17, "memory zeroed", ZEROED)]
    image = Image.fromarray(drawing.picture())
    for x, y, text, colour in texts:
        ImageDraw.Draw(image).text((x, y), text, colour, _font())
    return image


def _place(step: int, steps: int) -> float:
    """Of a step, from left to right."""
    return LEFT + (WIDTH - RIGHT - LEFT) * step / max(1, steps - 1)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)
