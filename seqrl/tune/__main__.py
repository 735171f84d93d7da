"""Search for good hyperparameters: `python -m seqrl.tune [search=ppo] [trials=40] [any arguments of seqrl.train]`.

Every trial is a run of seqrl.train with values that Optuna proposes from the results of earlier trials; a trial that
lags behind is stopped early. You may stop or kill the search: the same command with study=<its folder> continues it.
Run that command in another terminal, or on another node that shares the disk, to speed the search up.

{usage}
"""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from seqrl.config.command_line import completed, is_override, names_modules
from seqrl.config.hydra_errors import faults_of_run, numbers_of_run
from seqrl.config.overrides import faults_of_form
from seqrl.config.own_files import config_dirs, joined, searchpath
from seqrl.config.program import errors_in_one_line, to_the_end, trust_what_the_shell_does
from seqrl.config.schema import keys_of
from seqrl.config.trust import restrict_imports
from seqrl.config.words import read as read_words
from seqrl.config.words import usage
from seqrl.errors import ConfigError
from seqrl.machine import hear
from seqrl.packages import how_to_install, is_installed
from seqrl.text import docstring, nearest, say
from seqrl.tune.search import Plan, Search, Words
from seqrl.tune.space import Dimension, override, read

SEE_HELP = "Run python -m seqrl.tune --help for the keys."


def planned(given: Sequence[str]) -> Plan:
    """Read a command line.

    Raises ConfigError with all of its faults.
    """
    values, others, wrong = read_words(Words, joined(given))
    for word in others:
        key = word.lstrip("+").partition("=")[0]
        if key in ("resume", "validate", "sweep", "hydra.run.dir") or word in ("-m", "--multirun"):
            wrong.append(f"{key}: does not apply to a search. Remove it; study=<folder> continues a search.")
        elif word.startswith("-") and key != "--config-dir":
            wrong.append(f"{word}: is not key=value. {SEE_HELP}")
    wrong += faults_of_form([word for word in others if not word.startswith("-")], SEE_HELP)
    if wrong:
        raise ConfigError(wrong)
    return Plan(**values, arguments=tuple(completed(others, leave_nothing=False)))


def checked(plan: Plan) -> list[Dimension]:
    """The search space of a plan. Raises ConfigError with all faults of the space and of the runs it would start."""
    if not is_installed("optuna"):
        raise ConfigError([f"seqrl.tune: Optuna is not installed. {how_to_install('tune')}"])
    space = read(plan.search, config_dirs(plan.arguments))
    own = [*searchpath(plan.arguments), *(a for a in plan.arguments if is_override(a))]
    wrong = [_of_search(line) for line in faults_of_run(own)]
    if not wrong:
        kinds = numbers_of_run(own)
        space = [dimension.of(kinds.get(dimension.key)) for dimension in space]
        for dimension in space:
            if unfit := list(dimension.faults_of_kind(kinds.get(dimension.key))):
                wrong += [f"search {plan.search}: {dimension.key}: {fault}." for fault in unfit]
                continue
            for value in dimension.extremes:
                wrong += [
                    f"search {plan.search}: {fault}" for fault in faults_of_run([*own, override(dimension.key, value)])
                ]
    if wrong:
        raise ConfigError(list(dict.fromkeys(wrong)))
    return space


def _of_search(line: str) -> str:
    """What is wrong with a run; of a key that it has not, the key of the search that was meant, if one is."""
    key, unknown, _ = line.partition(": there is no such key.")
    near = nearest(key, [*keys_of(Words)])
    return f"{key}{unknown}{near} {SEE_HELP}" if unknown and near else line


def main() -> None:
    """What `python -m seqrl.tune` does; `program` ends the process, too."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(docstring(__name__).format(usage=usage(Words)))
        return
    trust_what_the_shell_does()
    restrict_imports(trusted=names_modules(sys.argv[1:]))
    with errors_in_one_line(sys.argv[1:]):
        plan = planned(sys.argv[1:])
        search = Search(plan, checked(plan))

    def end(number: int, frame: object) -> NoReturn:
        # A second signal ends the program at once.
        for ending in (signal.SIGINT, signal.SIGTERM):
            hear(ending, lambda number, _: os._exit(128 + number))
        search.stop()
        study = shlex.quote(str(plan.study))
        say(f"seqrl: stopped; run the same command with study={study} to continue the search", sys.stderr)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        hear(number, end)
    with errors_in_one_line(sys.argv[1:]):
        try:
            search.run()
            say(search.best())
            search.keep_best()
        except Exception:
            search.stop()
            raise


program = partial(to_the_end, main)

if __name__ == "__main__":
    program()
