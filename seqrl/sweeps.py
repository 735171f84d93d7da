"""Sweeps: what is left to do of each point, how many run at once, and how all of them ended."""

import atexit
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from seqrl.errors import ConfigError
from seqrl.extras import is_installed, remedy
from seqrl.records import cores, facts_of, goes_on, is_held, note_command
from seqrl.resume import changes
from seqrl.signals import HEARD, Crew
from seqrl.trust import public

LEARNERS = "algorithm.learners"
# Launchers that come with an extra: where they are, and which.
EXTRAS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "slurm_gpu": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "slurm_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
}
LAUNCHER = "hydra/launcher="
# Launchers as their plugin has them, and what conf/hydra/launcher makes of them.
PRESETS = {f"{LAUNCHER}submitit_slurm": f"{LAUNCHER}slurm", f"{LAUNCHER}submitit_local": f"{LAUNCHER}slurm_local"}
# Folder of a sweep, short for Hydra's name of it.
FOLDER = "sweep="


def for_hydra(words: Sequence[str]) -> list[str]:
    """The command line of a sweep in the words of Hydra."""
    words = [PRESETS.get(word, word) for word in words]
    return [f"hydra.sweep.dir={w.removeprefix(FOLDER)}" if w.startswith(FOLDER) else w for w in words]


def faults_of_launcher(words: Sequence[str]) -> list[str]:
    """Complaint about a launcher on the command line that is not installed."""
    chosen = [word.removeprefix(LAUNCHER) for word in words if word.startswith(LAUNCHER)]
    return [
        f"hydra/launcher: {launcher} is not installed. {remedy(EXTRAS[launcher][1])}"
        for launcher in chosen
        if launcher in EXTRAS and not is_installed(EXTRAS[launcher][0])
    ]


def only_what_is_swept(words: Sequence[str]) -> str:
    """Override that leaves out of the points' names what all of them have in common."""
    given = OverridesParser.create().parse_overrides([w for w in words if "=" in w and not w.startswith("-")])
    common = ",".join(f"'{o.key_or_group}'" for o in given if not o.is_sweep_override())
    return f"hydra.job.config.override_dirname.exclude_keys=[{common}]"


def jobs_at_once(launcher: DictConfig) -> int:
    """Jobs that a launcher of Hydra runs side by side on this machine."""
    jobs = launcher.get("n_jobs") or 1
    # As joblib counts: -1 is all cores, -2 all but one.
    return max(1, jobs if jobs > 0 else cores() + 1 + jobs)


def company() -> Crew | None:
    """The points of this sweep that run at the same time as this one; None where they run one by one."""
    return Crew.joined() if jobs_at_once(HydraConfig.get().launcher) > 1 else None


class Point:
    """A point of a sweep, in a folder where it may have been begun or finished before.

    elsewhere     whether another process is at it
    crew          the points that run at the same time; None where it runs alone
    implied       overrides that nobody wrote

    Raises ConfigError if it was begun with another configuration.
    """

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        self.folder = folder
        self.implied: list[str] = []
        self.crew = company()
        self._facts = facts_of(folder)
        self.elsewhere = bool(self._facts) and is_held(folder)
        before = OmegaConf.load(folder / "config.yaml") if (folder / "config.yaml").exists() else None
        self._share_cores(cfg, before)
        if isinstance(before, DictConfig) and (changed := changes(before, public(cfg))):
            raise ConfigError(
                [f"{folder.name}: was begun with another configuration, {'; '.join(changed)}. Choose another sweep=…"]
            )

    @property
    def finished(self) -> bool:
        return self._facts.get("status") == "finished"

    @property
    def result(self) -> float:
        """Of a point that is finished."""
        return float(self._facts["result"] if self._facts["result"] is not None else "nan")

    @property
    def goes_on(self) -> bool:
        """Whether there is a checkpoint to go on from; if not, it begins anew, and what was said of it is kept."""
        return goes_on(self.folder)

    def _share_cores(self, cfg: DictConfig, before: Any) -> None:
        """Let jobs that run side by side share the cores; one that goes on keeps what it had."""
        learners = OmegaConf.select(cfg, LEARNERS)
        said = any(override.startswith(f"{LEARNERS}=") for override in HydraConfig.get().overrides.task)
        if learners is None or said:
            return
        share = cores() // jobs_at_once(HydraConfig.get().launcher)
        fair = OmegaConf.select(before, LEARNERS) if before is not None else min(learners, max(1, share))
        if fair != learners:
            OmegaConf.update(cfg, LEARNERS, fair)
            self.implied = [f"{LEARNERS}={fair}"]


class Sweep(Callback):
    """Says where a sweep is and how its points ended, whoever ran them.

    worst   exit code of the whole: that of the worst point
    """

    worst = 0

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self._begun = time.time()
        note_command(Path(config.hydra.sweep.dir), self._begun)
        crew = Crew.gathered()
        atexit.register(crew.disperse)

        def end(number: int, frame: object) -> NoReturn:
            # A second signal ends everything at once.
            for heard in HEARD:
                signal.signal(heard, lambda number, _: os._exit(128 + number))
            crew.stop(number)
            self.on_multirun_end(config)
            sys.exit(128 + number)

        for number in HEARD:
            signal.signal(number, end)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        note_command(folder, self._begun, ended=True)
        names = sorted((path.parent.name for path in folder.glob("*/manifest.json")), key=_in_order)
        points = {name: facts_of(folder / name) for name in names}
        ended = Counter(str(facts["status"]) for facts in points.values())
        print(f"sweep: {', '.join(f'{n} {status}' for status, n in ended.items()) or 'nothing begun'}, in {folder}")
        for name, facts in points.items():
            if facts["status"] == "running" and is_held(folder / name):
                print(f"  {name}: goes on elsewhere")
            elif facts["status"] != "finished":
                print(f"  {name}: {facts.get('error', 'was killed')}".splitlines()[0])
                Sweep.worst = max(Sweep.worst, int(facts.get("exit_code", 1)))
        if Sweep.worst:
            print(f"The same command with sweep={folder} goes on with what is not finished.")


def _in_order(name: str) -> tuple[int, str]:
    number = re.match(r"\d+", name)
    return int(number.group()) if number else 0, name
