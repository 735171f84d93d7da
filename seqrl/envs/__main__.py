"""List the environments that can be played here: `python -m seqrl.envs [word ...]`.

For each its name, what it shows -> what actions it takes, and where they are known the best mean return and the best
without memory. With words, those whose suite and name hold them all: `python -m seqrl.envs popgym easy`. Large suites
are listed only if a word asks for them, such as `envpool` or `pong`.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from gymnasium import Space, spaces

from seqrl.config.program import errors_in_one_line
from seqrl.envs.suites import KNOWN_RETURNS, SUITES, Suite
from seqrl.errors import ConfigError, described
from seqrl.text import nearest

WIDTH = 100


def listing(words: Sequence[str]) -> Iterator[str]:
    """Lines, each as soon as it is known. Raises ConfigError if there are none."""
    found = False
    for suite in SUITES:
        for line in of_suite(suite, words):
            yield line if found else line.lstrip()
            found = True
    if not found:
        asked = " ".join(words)
        names = [name for suite in SUITES for name in (suite.name, *(suite.ids() if suite.is_installed else []))]
        said = f"nothing here is called {asked!r}.{nearest(asked, names)} Without words, all are listed."
        raise ConfigError([f"seqrl.envs: {said}"])


def of_suite(suite: Suite, words: Sequence[str]) -> Iterator[str]:
    """Lines about environments of one suite, or about how to have it."""
    if not suite.is_installed:
        if holds(suite.name, words):
            yield heading(suite.name, f"not installed: pip install '{suite.install}'")
        return
    if suite.many and not words:
        yield heading(suite.name, f"python -m seqrl.envs {suite.name} lists them")
        return
    try:
        asked = sorted(id for id in suite.ids() if holds(f"{suite.name} {id}", words))
    except Exception as error:
        yield heading(suite.name, f"cannot be imported: {described(error)}")
        return
    if asked:
        yield heading(suite.name, suite.choice)
    for id in asked:
        try:
            yield entry(id, *suite.spaces(id))
        except Exception as error:
            yield clipped(f"  {id:42} cannot be built: {described(error)}", WIDTH)


def holds(name: str, words: Sequence[str]) -> bool:
    return all(word.lower() in name.lower() for word in words)


def heading(name: str, said: str) -> str:
    return f"\n{name:44} {said}"


def entry(name: str, observation: Space[Any], action: Space[Any]) -> str:
    """Name, what is shown, what is done, and the returns that are known."""
    acts = f" -> {clipped(brief(action), 30)}"
    shows = clipped(brief(observation), WIDTH - 45 - len(acts))
    line = f"  {name:42} {shows}{acts}"
    if known := KNOWN_RETURNS.get(name):
        return f"{line:72} best {known.best:g}, memoryless {known.memoryless:g}"
    return clipped(line, WIDTH)


def clipped(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 1]}…"


def brief(space: Space[Any]) -> str:
    """A space in a few words: Box(4), Discrete(2), Dict(image: Box(7, 7, 3), direction: Discrete(4))."""
    match space:
        case spaces.Discrete():
            return f"Discrete({space.n})"
        case spaces.MultiDiscrete() if space.nvec.size > 3 and space.nvec.min() == space.nvec.max():
            return f"MultiDiscrete([{space.nvec.max()}] * {space.nvec.size})"
        case spaces.MultiDiscrete():
            return f"MultiDiscrete({', '.join(map(str, space.nvec.flatten()))})"
        case spaces.Dict():
            return f"Dict({', '.join(f'{key}: {brief(part)}' for key, part in space.spaces.items())})"
        case spaces.Tuple():
            return f"Tuple({', '.join(map(brief, space.spaces))})"
    shape = "" if space.shape is None else f"({', '.join(map(str, space.shape))})"
    return f"{type(space).__name__}{shape}"


def main() -> None:
    """Entry point of `python -m seqrl.envs` and `seqrl-envs`."""
    parser = argparse.ArgumentParser(
        prog="python -m seqrl.envs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="word", help="such as tmaze, popgym, CartPole")
    arguments, unknown = parser.parse_known_args()
    with errors_in_one_line():
        if unknown:
            raise ConfigError([f"seqrl.envs: there is no option {unknown[0]}. Give words, such as popgym, or --help."])
        try:
            for line in listing(arguments.words):
                print(line, flush=True)
        except BrokenPipeError:
            # Nobody reads any more, as in `... | head`; nor what Python writes when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
