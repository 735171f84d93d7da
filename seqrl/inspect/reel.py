"""The film on the page: a few episodes, small enough to be part of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from seqrl.devices.device import Device
from seqrl.film.film import Film, Limits, gif, still
from seqrl.film.making import filmed
from seqrl.networks import Network
from seqrl.text import printable

LIMITS = Limits(episodes=3, steps=300, seconds=15.0, tallest=240)
# Of the GIF; text makes it a third larger on the page.
MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Reel:
    """A film with its words.

    images    by kind: the animation as gif, its first frame as png
    shows     what is to be seen, for those who don't see it
    caption   how to read it
    """

    images: dict[str, bytes]
    shows: str
    caption: str


def reel(cfg: DictConfig, device: Device, network: Network) -> Reel:
    """A film of the first episodes that are played. Raises whatever the environment or the network raises."""
    faults: list[str] = []
    films = filmed(cfg, device, network, LIMITS, faults.append)
    animation, every = small(films)
    shows = shown(films)
    words = [shows, *parts(films), *thinned(every), *(f"It has no pictures of the environment: {it}" for it in faults)]
    return Reel({"gif": animation, "png": still(animation)}, shows, printable(" ".join(words)))


def small(films: Sequence[Film]) -> tuple[bytes, int]:
    """A film of at most MOST_BYTES, if it can be one, and that it shows each so many-th step alone."""
    every, longest = 1, max(len(film.reward) for film in films)
    while len(data := gif(films, every)) > MOST_BYTES and every < longest:
        every = min(longest, 1 + every * len(data) // MOST_BYTES)
    return data, every


def shown(films: Sequence[Film]) -> str:
    """What is to be seen, in a sentence."""
    drawn = any(picture is not None for film in films for picture in film.pictures)
    *names, last = films[0].curves
    curves = f"the {', the '.join(names)} and the {last}"
    count = f"{len(films)} episode{'s' * (len(films) > 1)}, {sum(len(film.reward) for film in films)} steps"
    return f"{count}: {f'the environment, and below it {curves}' if drawn else curves}, step by step."


def parts(films: Sequence[Film]) -> list[str]:
    """What the two lines of a curve mean, where memory makes two of them."""
    if films[0].curves["value"].shape[1] < 2:
        return []
    return [
        "The value and the action are in blue as the policy has them, in orange as they would be with its memory "
        "zeroed. Where the two part, memory decides."
    ]


def thinned(every: int) -> list[str]:
    return [f"One step in {every} is shown."] if every > 1 else []
