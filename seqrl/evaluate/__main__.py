"""Evaluate the policy of a run: `python -m seqrl.evaluate run=<folder> [key=value ...]`.

Plays fresh episodes, the same number in every environment, and prints their return and length; then plays them again
with memory zeroed before every step, and says whether that makes a difference. The results, with the return of each
episode, are written to evaluation.json in the run's folder. The run may be finished, interrupted or still running; it
is not changed.

{usage}
  env.<key>=<value>          change the environment: env.corridor_length=40

Example:

  python -m seqrl.evaluate run=outputs/runs/<date>/<run> checkpoint=best seed=1 env.corridor_length=40
"""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from seqrl.config.program import run_on_words, to_the_end
from seqrl.config.settle import with_values
from seqrl.config.words import usage
from seqrl.devices.device import Device
from seqrl.errors import ConfigError, SeqrlError, UnsavedError, described
from seqrl.evaluate.request import Request, Words, requested
from seqrl.files import cure, fault, foreign, make_folder, write
from seqrl.film.film import MARK, Limits, gif
from seqrl.film.making import filmed
from seqrl.loggers.tensorboard import show
from seqrl.metrics.display import Bar, QuietConsole
from seqrl.networks import Network
from seqrl.run import policy
from seqrl.run.build import make_device, make_evaluator, prepare_device
from seqrl.run.evaluator import means
from seqrl.run.results import counted, results, table, verdict
from seqrl.text import docstring, masked_data, printable

# What is written to the run's folder, by which seqrl knows its own.
RESULTS, FILM = "evaluation.json", "policy.gif"
MARKS = {RESULTS: '"return_interval": ', FILM: MARK}


def say(text: str) -> None:
    QuietConsole().print(printable(text), soft_wrap=True)


def evaluate(request: Request) -> None:
    """Play, print the results, and write them to the run's folder.

    Raises ConfigError if a file that is not seqrl's stands there, UnsavedError if they cannot be written.
    """
    for name in (RESULTS, FILM) if request.video else (RESULTS,):
        if why := foreign(request.run / name, MARKS[name]):
            raise ConfigError([f"evaluate: {request.run / name} {why}. Move it away."])
    # An environment may change the working folder.
    run = request.run.absolute()
    cfg, changed = policy.chosen(
        request.run,
        trust=request.trust,
        seed=request.seed,
        episodes=request.episodes,
        greedy=request.greedy,
        device=request.device,
        values=request.env,
    )
    state, passed_over = policy.checkpoint(request.run, request.checkpoint)
    about: dict[str, Any] = {**policy.progress(state), "seed": cfg.seed, "changed": changed}
    device = prepare_device(make_device(cfg), cfg, say)
    network = policy.network(cfg, device, state)
    for why in passed_over:
        say(f"warning: checkpoint {why}; using an older one.")
    say(f"{request.run}, after {about['iterations']} iterations, {about['env_steps']:,} steps")
    for change in changed:
        say(f"changed: {change}")
    say(f"{counted(cfg.evaluation.episodes)}, seed {cfg.seed}, on {device.torch_device}\n")

    has_memory = bool(network.initial_state(1))
    control = {"evaluation": {"memoryless_control": request.memoryless_control and has_memory}}
    with closing(make_evaluator(with_values(cfg, control), device)) as evaluator, Bar() as bar:
        measured = results(evaluator.play(network, bar.show))
        notes = evaluator.notes
        for how, infos in evaluator.infos.items():
            if told := means(infos):
                measured[how]["info"] = told
    say(table(measured))
    for note in notes:
        say(f"note: {note}")
    if request.memoryless_control:
        say(verdict(**measured["memory"]) if "memory" in measured else "The network has no memory.")
    if request.checkpoint == "best" and cfg.evaluation.interval and request.seed is None and not changed:
        say("This checkpoint was chosen as the best on these very episodes, which favours it; seed=1 plays others.")
    data = json.dumps(masked_data(about | measured), allow_nan=False).encode()
    unsaved = None
    try:
        write(run / RESULTS, data)
    except OSError as error:
        unsaved = error
    if request.video:
        add_film(cfg, device, network, run, about["env_steps"], request.run)
    if unsaved:
        shown = request.run / RESULTS
        raise UnsavedError(f"{shown}: could not be written: {fault(unsaved)}. {cure(unsaved)}.") from unsaved


@contextmanager
def unwritten_named(run: Path, shown: Path) -> Iterator[None]:
    """Go on if a file cannot be written to the folder of a run, and print which.

    shown   the folder as the user gave it
    """
    try:
        yield
    except OSError as error:
        name = Path(error.filename or run)
        place = shown / name.relative_to(run) if name.is_relative_to(run) else name
        say(f"Could not write {place}: {error.strerror}.")


def add_film(cfg: DictConfig, device: Device, network: Network, run: Path, env_steps: int, shown: Path) -> None:
    """Put a film into the folder of a run, and one for TensorBoard; print why, if there can't be one.

    shown   the folder as the user gave it
    """
    with unwritten_named(run, shown):
        try:
            data = gif(filmed(cfg, device, network, Limits(), say_undrawn))
        except Exception as error:
            say(f"No film: {error if isinstance(error, SeqrlError) else described(error)}")
            return
        write(run / FILM, data)
        # In a folder of its own, because TensorBoard reads only the newest event file of a folder.
        make_folder(run / "video")
        show(run / "video", "policy", data, env_steps)
        say(f"Film: {shown / FILM}, and in TensorBoard")


def say_undrawn(why: str) -> None:
    say(f"warning: the film has no pictures of the environment: {why}")


def main() -> None:
    """What `python -m seqrl.evaluate` does; `program` ends the process, too."""
    run_on_words(lambda: docstring(__name__).format(usage=usage(Words)), lambda words: evaluate(requested(words)))


program = partial(to_the_end, main)

if __name__ == "__main__":
    program()
