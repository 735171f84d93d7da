"""Sweeps: what is left to do of each point, how many run at once, and how all of them ended."""

import atexit
import fcntl
import json
import multiprocessing
import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from math import nan
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NoReturn, Self

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from seqrl.config.begun import can_go_on
from seqrl.config.hydra_errors import MULTIRUN, is_hydra, points_of_sweep
from seqrl.config.program import FAILURES, fail, report
from seqrl.config.resolvers import point_folder
from seqrl.config.settle import Settled, settle
from seqrl.errors import ConfigError, SeqrlError, StoppedError, TakenError, described, last_line
from seqrl.files import Lines, detach, fault, insist_on_own, links, refuse_link
from seqrl.machine import cores, hear, keep, let_go, monotonic, ranks_started, wall_time
from seqrl.packages import insist_on_temporary_files
from seqrl.run.hold import is_held
from seqrl.run.manifest import ending, facts_of, standing, words_of
from seqrl.run.refusal import note_folder, remove_if_empty, was_there
from seqrl.run.stop import HEARD, say_stopping
from seqrl.text import duration, figure, masked, say, show_path


class Failed(float):
    """The result of a point that failed: not a number, and how it ended.

    The command may be another process than the point's, and the point may have no manifest that says it: what Hydra
    hands back of a job is all that certainly arrives.

    facts   as a manifest has them: status, error, exit code
    """

    def __new__(cls, folder: str, facts: dict[str, Any]) -> Self:
        failed = super().__new__(cls, nan)
        failed.folder, failed.facts = folder, facts
        return failed

    folder: str
    facts: dict[str, Any]

    def __reduce__(self) -> tuple[type[Self], tuple[str, dict[str, Any]]]:
        return type(self), (self.folder, self.facts)


# How a point ended whose folder holds another.
REFUSED = "refused"
# Points that failed in this command, by their folders.
FAILED: dict[str, Failed] = {}


def note_result(result: object) -> None:
    """Remember a point that failed; the end of the sweep names it, and so does its exit code."""
    if isinstance(result, Failed):
        FAILED[result.folder] = result
        FAILURES.add(result.facts["exit_code"])


class SweepWorkers:
    """Runs that one command began in other processes: it tells them to stop, and knows when they have.

    They share a small file. The command writes the number of a signal into it; each run holds a lock on it while it is
    at work, which the system takes back however its process ends.
    """

    VARIABLE = "SEQRL_SWEEP_WORKERS"

    def __init__(self, command: int, path: Path) -> None:
        self._command, self._path = command, path

    @classmethod
    def create(cls) -> Self:
        """The workers that this process starts from now on."""
        handle, name = tempfile.mkstemp(prefix="seqrl-sweep-")
        os.write(handle, b" 0")
        os.close(handle)
        os.environ[cls.VARIABLE] = f"{os.getpid()}:{name}"
        return cls(os.getpid(), Path(name))

    @classmethod
    def attach(cls) -> Self:
        """The workers that this process is one of."""
        command, _, path = os.environ[cls.VARIABLE].partition(":")
        return cls(int(command), Path(path))

    @classmethod
    def of_this_sweep(cls) -> Self | None:
        """The same; None where the points of the sweep run one by one."""
        return cls.attach() if jobs_at_once(HydraConfig.get().launcher) > 1 else None

    def stop(self, number: int) -> None:
        """Tell all to stop, and wait until nobody is at work."""
        with self._path.open("r+") as file:
            # Into the room that it has: the disk may be full.
            file.write(f"{number:2}")
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Take the file away."""
        self._path.unlink(missing_ok=True)

    @property
    def abandoned(self) -> bool:
        """Whether the command has gone."""
        return os.getppid() != self._command

    def stop_signal(self) -> signal.Signals | None:
        """The signal that the command passed on; SIGHUP if it has gone."""
        try:
            number = int(self._path.read_text())
        except FileNotFoundError:
            return signal.SIGHUP
        if self.abandoned:
            return signal.SIGHUP
        return signal.Signals(number) if number else None

    @contextmanager
    def working(self) -> Iterator[None]:
        """What the command waits for; a signal to this process raises StoppedError."""

        def end(number: int, frame: FrameType | None) -> NoReturn:
            raise StoppedError(f"stopped by {signal.Signals(number).name}.", 128 + number)

        try:
            at_work = keep(os.open(self._path, os.O_RDONLY))
        except FileNotFoundError:
            raise SeqrlError(
                f"sweep: {self._path} is gone, by which the command tells its points to stop. Keep what is in the "
                "folder of temporary files, or name another folder for them with TMPDIR=…"
            ) from None
        try:
            fcntl.flock(at_work, fcntl.LOCK_SH)
            for number in HEARD:
                hear(number, end)
            yield
        finally:
            # Between two runs the command's word is enough; a signal would tear down what hands out the next.
            for number in HEARD:
                hear(number, lambda *_: None)
            let_go(at_work)


def jobs_at_once(launcher: DictConfig) -> int:
    """Jobs that a launcher of Hydra runs side by side on this machine.

    Raises ConfigError if it is to run none.
    """
    jobs = launcher.get("n_jobs")
    if jobs == 0:
        raise ConfigError(["hydra.launcher.n_jobs: must be 1 or more, or -1 for as many as there are cores (got 0)."])
    jobs = jobs or 1
    # As joblib counts: -1 is all cores, -2 all but one.
    return max(1, jobs if jobs > 0 else cores() + 1 + jobs)


class Progress:
    """Says how many points of a sweep are done, at every tenth of them, and how long the others will take."""

    def __init__(self, points: int) -> None:
        self._points, self._done, self._tenths = points, 0, 0
        self._begun, self._lock = monotonic(), threading.Lock()

    def count(self) -> None:
        """One more is done."""
        with self._lock:
            self._done += 1
            tenths = 10 * self._done // self._points
            if tenths > self._tenths and self._done < self._points:
                left = (monotonic() - self._begun) / self._done * (self._points - self._done)
                say(f"{self._done} of {self._points} points, {duration(left)} left")
            self._tenths = tenths


class Pool:
    """Runs points side by side, in place of joblib's pool, which ends the sweep if one of its processes is killed.

    Here each process is a pool of its own: a point whose process is killed, perhaps because memory ran out, goes on
    in a new one, and the other points do not notice. After three attempts it is left to the next command.

    n_jobs   points at once, as joblib counts; one alone runs in this process
    """

    # Of this command: whether it was told to stop, and the processes that it began.
    stopped = threading.Event()
    begun: ClassVar[list[Any]] = []
    ATTEMPTS = 3
    LIBRARIES = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "NUMBA")

    def __init__(self, n_jobs: int | None = None, **_: Any) -> None:
        self._jobs = jobs_at_once(OmegaConf.create({"n_jobs": n_jobs}))
        self._idle: list[Any] = []

    @classmethod
    def install(cls) -> None:
        """Have Hydra's launcher take it; Hydra takes no launcher from outside its own packages.

        Raises ConfigError if the system has no locks that processes share.
        """
        with _started():
            multiprocessing.get_context("fork").Lock()
        from hydra_plugins.hydra_joblib_launcher import _core

        _core.Parallel = cls
        # It says how it would start joblib's own.
        _core.log.addFilter(lambda record: not record.getMessage().startswith("Joblib.Parallel"))

    def __call__(self, points: Iterable[tuple[Callable[..., JobReturn], Any, Any]]) -> list[JobReturn]:
        """Run points, each a function with its arguments; what they return, in their order."""
        if self._jobs == 1:
            return [run(*given, **named) for run, given, named in points]
        points = list(points)
        progress = Progress(len(points))

        def run_one(point: tuple[Callable[..., JobReturn], Any, Any]) -> JobReturn:
            done = self._run(point)
            if not self.stopped.is_set():
                progress.count()
            return done

        try:
            with ThreadPoolExecutor(self._jobs) as threads:
                return list(threads.map(run_one, points))
        finally:
            self.end()

    @classmethod
    def end(cls) -> None:
        """End all processes, none of which is at work."""
        while cls.begun:
            cls.begun.pop().shutdown(kill_workers=True)

    def _run(self, point: tuple[Callable[..., JobReturn], Any, Any]) -> JobReturn:
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        run, given, named = point
        for attempt in range(self.ATTEMPTS):
            if self.stopped.is_set():
                raise CancelledError
            with _started():
                process = self._process()
                promise = process.submit(run, *given, **named)
            try:
                done: JobReturn = promise.result()
            except TerminatedWorkerError:
                if self.stopped.is_set():
                    continue
                then = "It goes on in a new one." if attempt < self.ATTEMPTS - 1 else "Giving it up."
                say(f"seqrl: warning: point {given[0]} of the sweep: its process was killed. {then}", sys.stderr)
                continue
            self._idle.append(process)
            break
        else:
            done = JobReturn(_return_value=_killed(*given), status=JobStatus.COMPLETED)
        # Now, as a signal may end the sweep before the others have returned.
        note_result(done._return_value)
        return done

    def _process(self) -> Any:
        with suppress(IndexError):
            return self._idle.pop()
        from joblib.externals.loky.process_executor import ProcessPoolExecutor

        threads = {f"{name}_NUM_THREADS": str(max(1, cores() // self._jobs)) for name in self.LIBRARIES}
        env = {name: os.environ.get(name, count) for name, count in threads.items()}
        process = ProcessPoolExecutor(1, timeout=60, env=env, initializer=_start_processes_as_python_does)
        self.begun.append(process)
        return process


@contextmanager
def _started() -> Iterator[None]:
    """Raise ConfigError if the system starts no process for points."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            [
                f"hydra/launcher: joblib cannot start processes ({fault(error)}). They need /dev/shm, mounted for "
                "writing, and what ulimit allows. Give them that, or leave hydra/launcher=joblib out."
            ]
        ) from error


def _killed(
    number: int, overrides: Sequence[str], _: Any, config: DictConfig, *others: Any, why: str = "its process was killed"
) -> Failed:
    """The result of a point whose process was killed, from what Hydra gives to a job."""
    task = [override for override in overrides if not is_hydra(override)]
    folder = point_folder(str(config.hydra.sweep.dir), number, "", task)
    return Failed(folder, {"status": "killed", "error": why, "exit_code": 1})


def meet_in_queue() -> None:
    """Where Slurm runs several tasks for this point, have them told who they are, as torchrun tells it."""
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and not ranks_started():
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


def listen_to_queue() -> None:
    """Have what jobs of a queue return noted: Hydra gets it from its launcher, and keeps it to itself.

    A job that leaves no result, as it was killed or cancelled, would end the sweep; or be waited for for ever where
    Slurm keeps no accounts of jobs, which submitit asks. Here a job has ended once it is not in the queue any more.
    """
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
    from submitit.core.core import Job
    from submitit.core.utils import UncompletedJobError
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    class Queue(SlurmInfoWatcher):
        def _make_command(self) -> list[str]:
            # Users may have made squeue show them only some jobs.
            others = [f"--unset={name}" for name in os.environ if name.startswith("SQUEUE_")]
            return ["env", *others, "squeue", f"--user={os.getuid()}", "--array", "--noheader", "--format=%i"]

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            queued = {*(string if isinstance(string, str) else string.decode()).split()}
            return {job: {"State": "RUNNING" if job in queued else "COMPLETED"} for job in self._registered}

    launch, results = BaseSubmititLauncher.launch, Job.results

    def noted(self: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        points = [*enumerate(job_overrides, initial_job_idx)]
        try:
            tasks = launch(self, job_overrides, initial_job_idx)
        except Exception as error:
            # An argument that submitit does not know, no Slurm, or what sbatch said, at the end of it.
            refused = f"jobs could not be submitted: {last_line(error)}"
            if not initial_job_idx:
                _leave_as_found(Path(self.config.hydra.sweep.dir), Path(self.params["submitit_folder"]))
                fail(ConfigError([f"hydra/launcher: {refused}."]))
            # Those that the queue took before have results, which count.
            return [ended(lost(self.config, *point, refused)) for point in points]
        for task in tasks:
            task.wait()
        # A slow disk is waited for once, not once for each.
        until = monotonic() + Job._results_timeout_s
        jobs: list[JobReturn] = []
        for point, task in zip(points, tasks, strict=True):
            task._results_timeout_s = max(0, until - monotonic())
            try:
                result = results(task)[0].return_value
            except Exception as error:
                how = "without a result" if isinstance(error, UncompletedJobError) else f"with {described(error)}"
                why = f"its job ended {how}. What it printed is in {task.paths.folder}"
                result = lost(self.config, *point, why)
            jobs.append(ended(result))
        return jobs

    def lost(config: DictConfig, number: int, overrides: Sequence[str], why: str) -> Failed | float:
        """The result of a point whose job has none."""
        point = _killed(number, overrides, None, config, why=why)
        return nan if _is_done_or_at_work(Path(config.hydra.sweep.dir, point.folder)) else point

    def ended(result: Any) -> JobReturn:
        note_result(result)
        return JobReturn(_return_value=result, status=JobStatus.COMPLETED)

    def first_task(self: Any) -> list[Any]:
        # Which alone has a result: the others follow it.
        return [self.task(0)]

    SlurmJob.watcher = Queue()
    BaseSubmititLauncher.launch = noted
    Job.results = first_task  # type: ignore[method-assign]


def _leave_as_found(folder: Path, jobs: Path) -> None:
    """Remove what a sweep has written of which no job was taken: all of its folder, if that is new.

    jobs   folder of each job, in one that this command has made for them
    """
    shutil.rmtree(jobs.parent, ignore_errors=True)
    with suppress(OSError):
        (folder / ".submitit").rmdir()
    mine = [folder / name for name in (MULTIRUN, "commands.jsonl")]
    # An equal command may have begun meanwhile.
    with suppress(OSError):
        if not was_there(folder) and {*folder.iterdir()} <= {*mine}:
            for path in mine:
                path.unlink(missing_ok=True)
            remove_if_empty(folder)


def _is_done_or_at_work(folder: Path) -> bool:
    """Whether a point needs nothing more, for now, whatever became of the job that was to do it."""
    with suppress(OSError, ValueError):
        return standing(folder).get("status") in ("finished", "running")
    return False


def _start_processes_as_python_does() -> None:
    # joblib's own way, which its processes take over, cannot start those of environments.
    multiprocessing.set_start_method(None, force=True)


class OtherPointError(ConfigError):
    """In the folder of a point there is another, which is left as it is."""


class Point:
    """A point of a sweep, in a folder where it may have been begun or finished before.

    workers     the points that run at the same time; None where it runs alone
    elsewhere   whether another process is at it
    """

    def __init__(self, folder: Path, workers: SweepWorkers | None) -> None:
        self.folder, self.workers = folder, workers
        self.elsewhere = is_held(folder)
        self._facts = facts_of(folder)

    @property
    def finished(self) -> bool:
        return self._facts.get("status") == "finished"

    @property
    def result(self) -> float:
        """Of a point that is finished."""
        result = self._facts.get("result")
        return nan if result is None else float(result)

    @property
    def can_go_on(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return can_go_on(self.folder)

    @property
    def first(self) -> Path | None:
        """The first point of the sweep that has been begun."""
        begun = [path.parent for path in self.folder.parent.glob("*/config.yaml")]
        return min(begun, key=lambda it: _in_order(it.name), default=None)

    @property
    def share_of_cores(self) -> int:
        """Cores for each of the jobs that run side by side."""
        return cores() // jobs_at_once(HydraConfig.get().launcher)

    def refuse_another(self, settled: Settled) -> None:
        """Raise OtherPointError if it was begun with another configuration."""
        if settled.changes:
            changed = f"was started with another configuration: {'; '.join(settled.changes)}"
            raise OtherPointError([f"{self.folder.name}: {changed}. Choose another folder, sweep=…"])


Train = Callable[[Settled, Path, Point], float]


def run_point(cfg: DictConfig, folder: Path, train: Train) -> float:
    """One point of a sweep, or what is left of it; its result, NaN if it has none.

    train   does a run of settled configuration in a folder, and returns its result
    """
    workers = SweepWorkers.of_this_sweep()
    show_path(Path(HydraConfig.get().sweep.dir))
    try:
        # The points that follow begin in the same folder, whatever the parts of this one do.
        with same_folder(), workers.working() if workers else nullcontext():
            return nan if workers and workers.stop_signal() else _finish_point(cfg, Point(folder, workers), train)
    except Exception as error:
        context = HydraConfig.get()
        exit_code = report(error, where=f"point {context.job.num} of the sweep: ")
        if isinstance(error, StoppedError) and workers is None:
            say(
                f"seqrl: run the same command with sweep={shlex.quote(context.sweep.dir)} to continue the sweep",
                sys.stderr,
            )
            # Without a result in a queue, too: there it may be requeued, and its result is yet to come.
            sys.exit(exit_code)
        if workers and workers.abandoned:
            # Nobody waits for the result, and nobody would end this process.
            workers.remove()
            os._exit(exit_code)
        # The other points go on. This process may be another one than the command's, which hears of the result.
        facts = {"status": ending(error), "error": words_of(error), "exit_code": exit_code}
        if isinstance(error, OtherPointError):
            facts |= {"status": REFUSED, "error": str(error)}
        failed = Failed(folder.name, facts)
        note_result(failed)
        return failed


@contextmanager
def same_folder() -> Iterator[None]:
    """Return to the working folder, if it is still there."""
    here = Path.cwd()
    try:
        yield
    finally:
        with suppress(OSError):
            os.chdir(here)


def _finish_point(cfg: DictConfig, point: Point, train: Train) -> float:
    """Do what is left of a point; its result, NaN if another process is at it."""
    for _ in range(3):
        settled = settle(
            cfg, begun_in=point.folder, beside=point.first, resume=point.can_go_on, cores=point.share_of_cores
        )
        point.refuse_another(settled)
        if point.elsewhere:
            break
        if point.finished:
            say(f"{point.folder.name}: already finished, {figure(point.result)}")
            return point.result
        with suppress(TakenError):
            return train(settled, point.folder, point)
        # Another process came first: look again.
        point = Point(point.folder, point.workers)
    say(f"{point.folder.name}: is running in another process, skipped")
    return nan


class Sweep(Callback):
    """Says where a sweep is and how its points ended, whoever ran them; and what a single run found of its folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        # Its name may hold what Hydra knows, and what cannot be resolved, or made, is said when Hydra makes the folder.
        HydraConfig.instance().set_config(config)
        with suppress(OmegaConfBaseException, OSError):
            note_folder(Path(str(config.hydra.run.dir)))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        self._command = Command(folder)
        note_folder(folder)
        try:
            insist_on_own_files(folder)
            insist_on_temporary_files()
            if jobs_at_once(config.hydra.launcher) > 1 and "joblib" in config.hydra.launcher._target_:
                Pool.install()
        except ConfigError as error:
            fail(error)
        show_path(folder)
        self._command.note()
        if "submitit" in config.hydra.launcher._target_:
            listen_to_queue()
            # submitit unpickles the results that it finds there, and who gave the folder may have left some.
            with read_write(config.hydra.launcher):
                place = Path(config.hydra.launcher.submitit_folder)
                config.hydra.launcher.submitit_folder = str(place.parent / secrets.token_hex(4) / place.name)
        workers = SweepWorkers.create()
        atexit.register(workers.remove)

        def end(number: int, frame: object) -> NoReturn:
            # A second signal ends everything at once.
            for heard in HEARD:
                hear(heard, lambda number, _: os._exit(128 + number))
            say_stopping(number)
            Pool.stopped.set()
            workers.stop(number)
            Pool.end()
            self.on_multirun_end(config)
            sys.exit(128 + number)

        for number in HEARD:
            hear(number, end)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        self._command.note(ended=True)
        points: dict[str, dict[str, Any]] = {}
        for name in sorted({path.parent.name for path in folder.glob("*/manifest.json")} | {*FAILED}, key=_in_order):
            try:
                # What this command found is newer than a manifest which it could not write, or left alone.
                points[name] = (
                    FAILED[name].facts if name in FAILED else {"status": "unknown", **standing(folder / name)}
                )
            except (OSError, ValueError) as error:
                say(f"  {name}: its manifest.json {fault(error)}. It is left out.")
        ended = Counter(facts["status"] for facts in points.values())
        say(f"sweep: {', '.join(f'{n} {status}' for status, n in ended.items()) or 'nothing begun'}, in {folder}")
        asked = {tuple(sorted(point)) for point in points_of_sweep(sys.argv[1:])}
        can_go_on = False
        for name, facts in points.items():
            if facts["status"] == "running":
                say(f"  {name}: still running in another process")
            elif facts["status"] != "finished":
                # Of a point that ran in this terminal, the error stands above.
                said = name in FAILED and "submitit" not in config.hydra.launcher._target_
                reason = str(facts["status"] if said else facts.get("error", "was killed")).splitlines()[0]
                # An earlier command of this sweep may have begun others.
                mine = name in FAILED or "overrides" not in facts or tuple(sorted(facts["overrides"])) in asked
                say(f"  {name}: {reason}" if mine else f"  {name}, of another command: {reason}")
                if mine:
                    FAILURES.add(facts.get("exit_code", 1))
                    can_go_on = can_go_on or facts["status"] != REFUSED
        if FAILURES.worst and can_go_on:
            say(f"Run the same command with sweep={shlex.quote(str(folder))} to finish the rest.")


def insist_on_own_files(folder: Path) -> None:
    """Raise ConfigError if a folder, which may be anybody's, holds links, or something else that Hydra would replace.

    Hydra writes wherever a link leads, and through a hard link, which is detached.
    """
    try:
        for link in links(folder):
            refuse_link(link)
        insist_on_own(folder, {MULTIRUN: "_target_: seqrl."})
        detach(folder / MULTIRUN)
    except OSError as error:
        raise ConfigError(
            [f"sweep: {error.filename} {fault(error)}. Remove it, or choose another folder with sweep=…"]
        ) from error


def _in_order(name: str) -> tuple[int, str]:
    number = re.match(r"\d+", name)
    return int(number.group()) if number else 0, name


class Command:
    """This command in commands.jsonl of a folder of many runs: what was asked for, when, and at its end the seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._when = folder, wall_time()
        # The other clock may be set meanwhile.
        self._began = monotonic()

    def note(self, ended: bool = False) -> None:
        """Add a line."""
        took = {"seconds": monotonic() - self._began} if ended else {}
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self._when))
        command = shlex.join(["python", *map(masked, sys.orig_argv[1:])])
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with closing(Lines(self._folder / "commands.jsonl")) as lines:
                lines.add(json.dumps({"command": command, "begun": when, "cores": cores(), **took}) + "\n")
