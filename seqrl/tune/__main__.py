"""Search for good values: `python -m seqrl.tune [search=ppo] [trials=40] [any arguments of seqrl.train]`.

Every trial is a run of seqrl.train with values that Optuna proposes from what the trials before have reached; one that
lags behind is stopped early. The search may be stopped, killed, gone on with by the same command, and helped by that
command in another terminal or on another node that shares the disk.

  search=ppo       what may be tried: a file in conf/search, or in search/ of your own --config-dir
  trials=40        trials in all, whoever does them
  workers=1        trials at once; they share the cores
  seeds=1          runs of each trial, whose mean return counts
  pruner=median    median, halving or none: when a trial is stopped early
  seed=0           decides what is proposed, and is the first seed of each trial
  study=<folder>   where it all goes, or what to go on with; otherwise outputs/studies/<date_time>
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from seqrl.complaints import config_dirs, faults_of_run, searchpath
from seqrl.configuration import nearest
from seqrl.errors import ConfigError
from seqrl.extras import is_installed, remedy
from seqrl.program import completed, fail, is_override
from seqrl.tune.search import PRUNERS, Plan, Search
from seqrl.tune.space import Dimension, override, read


def planned(given: Sequence[str]) -> Plan:
    """The plan that a command line means.

    Raises ConfigError with everything that is wrong with it.
    """
    own: dict[str, Any] = {}
    arguments, wrong = [], []
    for word in _joined(given):
        key, _, value = word.partition("=")
        if key in ("trials", "workers", "seeds", "seed"):
            if value.isdigit() and int(value) >= (key != "seed"):
                own[key] = int(value)
            else:
                wrong.append(f"{key}: must be a whole number of at least {int(key != 'seed')} (got {value!r}).")
        elif key == "study":
            own[key] = Path(value)
        elif key in ("search", "pruner"):
            own[key] = value
        elif key in ("resume", "validate", "sweep") or word in ("-m", "--multirun") or key == "hydra.run.dir":
            wrong.append(f"{key}: is not for a search. Leave it out; study=<folder> goes on with one.")
        elif not (is_override(word) or key == "--config-dir"):
            wrong.append(f"{word}: cannot be meant. Write key=value; python -m seqrl.tune --help says which.")
        else:
            arguments.append(word)
    if own.get("pruner", "median") not in PRUNERS:
        wrong.append(
            f"pruner: must be one of {', '.join(PRUNERS)} (got {own['pruner']!r}).{nearest(own['pruner'], PRUNERS)}"
        )
    if wrong:
        raise ConfigError(wrong)
    return Plan(**own, arguments=tuple(completed(arguments, leave_nothing=False)))


def _joined(given: Sequence[str]) -> list[str]:
    """The same words, with an option's folder in one word with it."""
    words: list[str] = []
    for word in given:
        if words and words[-1] in ("--config-dir", "-cd"):
            words[-1] = f"--config-dir={word}"
        else:
            words.append(word)
    return words


def checked(plan: Plan) -> list[Dimension]:
    """The space of a plan. Raises ConfigError with all that is wrong with it, or with the runs that it makes."""
    if not is_installed("optuna"):
        raise ConfigError([f"seqrl.tune: Optuna is not installed. {remedy('tune')}"])
    space = read(plan.search, config_dirs(plan.arguments))
    own = [*searchpath(plan.arguments), *(a for a in plan.arguments if is_override(a))]
    wrong = faults_of_run(own)
    if not wrong:
        for dimension in space:
            for value in dimension.extremes:
                wrong += [
                    f"search {plan.search}: {fault}" for fault in faults_of_run([*own, override(dimension.key, value)])
                ]
    if wrong:
        raise ConfigError(list(dict.fromkeys(wrong)))
    return space


def main() -> None:
    """Entry point of `python -m seqrl.tune` and `seqrl-tune`."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    try:
        plan = planned(sys.argv[1:])
        search = Search(plan, checked(plan))
    except Exception as error:
        fail(error, sys.argv[1:])

    def end(number: int, frame: object) -> NoReturn:
        for heard in (signal.SIGINT, signal.SIGTERM):
            signal.signal(heard, lambda number, _: os._exit(128 + number))
        search.stop()
        print(f"seqrl: stopped; the same command with study={plan.study} goes on with the search", file=sys.stderr)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        search.run()
        print(search.best())
    except Exception as error:
        search.stop()
        fail(error, sys.argv[1:])


if __name__ == "__main__":
    main()
