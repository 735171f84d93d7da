"""List the environments you can train on here: `python -m seqrl.envs [word ...]`.

Each line shows the name, observations -> actions, and, where known, the best mean return with and without memory.
Words narrow the list to suites and names that contain all of them: `python -m seqrl.envs popgym easy`. Large suites
appear only if a word matches them, such as `envpool` or `pong`.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from gymnasium import Space, spaces

from seqrl.config.program import errors_in_one_line, to_the_end
from seqrl.envs.suites import KNOWN_RETURNS, SUITES, Suite
from seqrl.errors import ConfigError, described
from seqrl.machine import is_from_signal
from seqrl.text import docstring, nearest

WIDTH = 100


def listing(words: Sequence[str]) -> Iterator[str]:
    """Yield lines as they become available. Raises ConfigError if there are none."""
    listed = False
    for suite in SUITES:
        for line in of_suite(suite, words):
            yield line if listed else line.lstrip()
            listed = True
    if not listed:
        asked = " ".join(words)
        names = [name for suite in SUITES for name in (suite.name, *_ids(suite))]
        hint = f"{nearest(asked, names)} Leave the words out to list all."
        raise ConfigError([f"seqrl.envs: no environment matches {asked!r}.{hint}"])


def of_suite(suite: Suite, words: Sequence[str]) -> Iterator[str]:
    """Lines for the environments of one suite, or how to install it."""
    if not suite.is_installed:
        if holds(suite.name, words):
            yield heading(suite.name, f"not installed: pip install '{suite.install}'")
        return
    if suite.many and not words:
        yield heading(suite.name, f"python -m seqrl.envs {suite.name} lists them")
        return
    try:
        asked = sorted(id for id in suite.ids() if holds(f"{suite.name} {id}", words))
    except BaseException as error:
        _insist_on_its_fault(error)
        yield heading(suite.name, f"cannot be imported: {described(error)}")
        return
    if asked:
        yield heading(suite.name, suite.choice)
    for id in asked:
        try:
            line = entry(id, *suite.spaces(id))
        except BaseException as error:
            _insist_on_its_fault(error)
            line = clipped(f"  {id:42} cannot be built: {described(error)}", WIDTH)
        yield line


def _ids(suite: Suite) -> list[str]:
    """The environments of a suite, as far as they can be known."""
    try:
        return suite.ids() if suite.is_installed else []
    except BaseException as error:
        _insist_on_its_fault(error)
        return []


def _insist_on_its_fault(error: BaseException) -> None:
    """Raise an error again that is the user's interruption, and none of a suite, which may exit when it is imported."""
    if isinstance(error, KeyboardInterrupt | GeneratorExit) or is_from_signal(error):
        raise error


def holds(name: str, words: Sequence[str]) -> bool:
    return all(word.lower() in name.lower() for word in words)


def heading(name: str, text: str) -> str:
    return f"\n{name:44} {text}"


def entry(name: str, observation: Space[Any], action: Space[Any]) -> str:
    """Name, observations, actions, and the known returns."""
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
    """What `python -m seqrl.envs` does; `program` ends the process, too."""
    parser = argparse.ArgumentParser(
        prog="python -m seqrl.envs",
        description=docstring(__name__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="word", help="such as tmaze, popgym, CartPole")
    arguments, unknown = parser.parse_known_args()
    with errors_in_one_line():
        if unknown:
            raise ConfigError([f"seqrl.envs: unknown option {unknown[0]}. Use words, such as popgym, or --help."])
        try:
            for line in listing(arguments.words):
                print(line, flush=True)
        except BrokenPipeError:
            # The reader has gone, as in `... | head`. Python's final flush must not fail either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


program = partial(to_the_end, main)

if __name__ == "__main__":
    program()
