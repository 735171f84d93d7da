"""Train an agent: `python -m seqrl.train [group=choice ...] [key=value ...]`.

Settles the configuration, builds the parts, runs the loop. No other module imports it.
"""

import os
import sys
from contextlib import suppress
from functools import partial
from math import nan
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from seqrl.config.command_line import is_true, names_modules
from seqrl.config.paths import CONF
from seqrl.config.program import FAILURES, errors_in_one_line, fail, forgiving_output, on_words, started, to_the_end
from seqrl.config.settle import settle
from seqrl.config.trust import restrict_imports
from seqrl.ranks.start import Place, begin_to_serve, follow_apart, follow_runs, over_for_all
from seqrl.run.refusal import remove_if_empty
from seqrl.run.rehearsal import rehearse
from seqrl.run.training import follow, train
from seqrl.sweeps import meet_in_queue, run_point
from seqrl.text import show_path


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float:
    """One run, alone or as a point of a sweep."""
    context = HydraConfig.get()
    # A launcher calls this in processes of its own, which have nothing of what the command's has.
    forgiving_output()
    # As they were written: what they refer to may not be there.
    words = OmegaConf.to_container(context.overrides.task, resolve=False)
    assert isinstance(words, list)
    restrict_imports(trusted=names_modules([str(word) for word in words]))
    folder = Path(context.runtime.output_dir)
    show_path(folder)
    if context.mode is RunMode.MULTIRUN:
        if "submitit" in context.launcher._target_:
            meet_in_queue()
            if (place := Place.of_environment()) and place.rank:
                follow_apart(follow)
                return nan
            with over_for_all():
                return run_point(cfg, folder, train)
        return run_point(cfg, folder, train)
    try:
        settled = settle(cfg)
        if cfg.validate:
            rehearse(settled.cfg, settled.asked)
            return nan
        return train(settled, folder)
    except Exception as error:
        # With hydra.job.chdir=true, the run is in its folder.
        with suppress(OSError):
            os.chdir(context.runtime.cwd)
        remove_if_empty(folder)
        fail(error)


def main() -> None:
    """What `python -m seqrl.train` does; `program` ends the process, too.

    Of several processes that were started together the first one does it, and the others follow.
    """
    with errors_in_one_line():
        place = Place.of_environment()
        if place is not None and not place.rank:
            begin_to_serve(place)
    if place is not None and place.rank:
        on_words(lambda words: follow_runs(follow))
        return
    with over_for_all():
        started(job, leave_nothing=is_true("validate", sys.argv))
        sys.exit(FAILURES.worst)


program = partial(to_the_end, main)

if __name__ == "__main__":
    program()
