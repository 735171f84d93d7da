"""Saves a run and finds its newest sound state again.

A checkpoint is one file, `checkpoints/00000120.pt` after 120 iterations, written once and never replaced:

    seqrl checkpoint 1 <sha256 of the version and of all that follows>
    {"iteration": 120, "run": "…", "seed": 0, "return_mean": 31.5, "evaluation_return_mean": 42.0}
    <the state, as torch.save writes it>

It appears whole, by one rename. What it presumes, the curves and the configuration, is on the disk before it.

Version 0.1.0 wrote two files, the state in 00000120.pt and its sha256 and returns in 00000120.json. Those still load.
"""

import errno
import hashlib
import io
import itertools
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

import torch

from seqrl.config.begun import DIGITS, saved_iterations
from seqrl.errors import CheckpointError, ConfigError
from seqrl.files import cure, json_of, make_folder, may_be_intact, read, refuse_link, regular, remove_strays, write
from seqrl.machine import all_memory, free_memory
from seqrl.plain import with_each, with_marks, without_marks
from seqrl.run.safe_load import FaultError, Weight, loaded, program
from seqrl.text import free, grows_by_its_keys, is_anything_masked, masked, unmasked

log = logging.getLogger(__name__)

# Returns that are known of a checkpoint, by their names in its facts.
TRAINING, EVALUATION = "return_mean", "evaluation_return_mean"
YARDSTICK = "yardstick"
MAGIC, VERSION = b"seqrl checkpoint ", 1
# What a run saves, as far as programs read it by name.
KINDS: dict[str, type] = {
    **dict.fromkeys(["iterations", "anew_after", "steps", "ended_episodes"], int),
    **dict.fromkeys(["config", "algorithm", "runner", "episodes", "clock"], dict),
}
# The first two lines are far shorter.
HEADER_BYTES = 65536
# Of a checkpoint that is only looked through, at once.
BLOCK_BYTES = 2**22
# A state is loaded before it is saved once what is not in tensors has grown so much; that it is not too large, and that
# its keys are such as may be loaded, is known before every save.
GROWTH = 1.05
# So it is if it names something new, as a pickle does; few have so many names.
NAMED, MOST_NAMES = re.compile(rb"c(\w[\w.]{0,60}\n\w{1,60})\n"), 1000


class Checkpoints:
    """Checkpoints of one run folder: the newest ones, and the best.

    The best is the one with the highest return in its evaluation, or in training where none was evaluated; of equal
    ones the newest, which has learned more. Those that were measured by another yardstick than the newest one, before
    the run went on with another task for example, do not count; the best of them is kept.

    folder      of the run
    keep        how many of the newest to keep; more than one, so that a damaged one is never the only one
    run         what tells this run from others; None: any run's checkpoints will do
    seed        of the run, for the record
    yardstick   what tells returns that can be compared from others; None, as in earlier versions: unknown
    """

    yardstick: str | None = None

    def __init__(self, folder: Path, keep: int = 2, run: str | None = None, seed: int | None = None) -> None:
        self.folder, self.keep = folder / "checkpoints", keep
        self.run, self.seed = run, seed
        # Bytes of the largest state, but for tensors' numbers, that could be loaded again.
        self._looked_through, self._names = 0, frozenset[bytes]()
        self._leaves_out_environment = False
        # Of files whose digest is that of their bytes: when they were looked at, and what they say.
        self._sound: dict[int, tuple[tuple[int, ...], dict[str, Any]]] = {}

    def save(
        self,
        state: dict[str, Any],
        iteration: int,
        return_mean: float = math.nan,
        evaluation_return_mean: float = math.nan,
    ) -> OSError | None:
        """Write the state after an iteration, as tensors and plain data, unless it is there already.

        Older checkpoints survive a failure. Those of later iterations, which the run has left behind by resuming from
        an older one, are removed; what is not of this run is left alone.

        An environment whose own state has become what could not be loaded again is saved without, and begins anew.

        Returns what kept older ones from being removed, if something did: it costs space, and nothing that was learned.
        Raises OSError if the state is not saved.
        """
        make_folder(self.folder)
        path = self._path(iteration)
        if path.exists() and not self._is_own(iteration):
            self._put_aside(path)
        if not path.exists():
            returns = {TRAINING: return_mean, EVALUATION: evaluation_return_mean}
            known = {name: mean for name, mean in returns.items() if math.isfinite(mean)}
            facts = {"iteration": iteration, "run": self.run, "seed": self.seed, YARDSTICK: self.yardstick, **known}
            write(path, _sealed(self._loadable(state, path), facts))
            # These are the bytes that were written, and need not be read.
            self._sound[iteration] = _identity(path), facts
        for later in [it for it in self.iterations if it > iteration and self._is_own(it)]:
            self._remove(later)
        try:
            self._clean()
        except OSError as error:
            return error
        return None

    def begin(self, state: dict[str, Any], iteration: int) -> None:
        """Save what a run starts with, so that what is wrong with the folder is noticed before anything is learned.

        Raises OSError if it cannot be written; ConfigError, before it is, if there is no room for those to come.
        """
        state = with_marks(state)
        try:
            data = self._bytes_of(state)
        except FaultError as fault:
            raise ConfigError(
                [
                    f"checkpoint: what this run saves could not be loaded again: it {fault}. A state_dict of your own "
                    "may hold numbers, text, lists, dicts, arrays and tensors alone."
                ]
            ) from fault
        # The newest and the best, and one more while it is written; logs grow beside them.
        more = self.keep + (1 if self._path(iteration).exists() else 2)
        need, free = more * len(data), shutil.disk_usage(self.folder.parent).free
        if free < need:
            raise ConfigError(
                [
                    f"run folder: {free / 1e6:.1f} MB are free in {self.folder.parent}, and its checkpoints need "
                    f"{need / 1e6:.1f} MB. Free some space, or choose another folder with hydra.run.dir=…"
                ]
            )
        self.save(state, iteration)
        # Of a run that goes on, this one is there already, and nothing was written.
        if not os.access(self.folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.folder))

    def _loadable(self, state: dict[str, Any], path: Path) -> bytes:
        """A state as bytes that can be loaded again. Raises OSError if it is the algorithm's that cannot."""
        if self._leaves_out_environment:
            state = _without_environment(state)
        with suppress(FaultError):
            return self._bytes_of(state)
        state = with_marks(state)
        try:
            return self._bytes_of(state)
        except FaultError as fault:
            why = fault
        try:
            data = self._bytes_of(_without_environment(state))
        except FaultError as fault:
            raise OSError(errno.EINVAL, f"it could not be loaded again: it {fault}", str(path)) from fault
        self._leaves_out_environment = True
        log.warning(
            "checkpoint: from here on, the environment's own state is left out: it %s. Where the run is resumed, its "
            "environments begin anew.",
            why,
        )
        return data

    def _bytes_of(self, state: dict[str, Any]) -> bytes:
        """A state as it is written, with variables' names for values. Raises FaultError if it would be refused."""
        weight = Weight(state)
        # What has no end cannot be gone through.
        if why := weight.fault():
            raise FaultError(why)
        data = _as_bytes(_of_users(state, _by_name))
        if why := weight.fault(len(data)):
            raise FaultError(why)
        pickled = program(data)
        size, names = len(pickled), frozenset(NAMED.findall(pickled))
        if size > GROWTH * self._looked_through or not names <= self._names:
            # Where memory is short, it is tried the next time.
            with suppress(MemoryError):
                try:
                    without_marks(_of_run(unpacked(data)))
                except ValueError as error:
                    raise FaultError(*error.args) from error
                self._looked_through = max(self._looked_through, size)
                self._names = names | (self._names if len(self._names) < MOST_NAMES else frozenset())
        return data

    def newest(self) -> tuple[dict[str, Any], list[str]]:
        """The newest sound state, and what is wrong with the newer ones.

        Raises CheckpointError if there is none, or if a newer one cannot be read and may be intact: a right that is
        missing for a while must cost nothing of what was learned. Only tensors and plain data are loaded.
        """
        damaged: list[str] = []
        for iteration in reversed(self.iterations):
            try:
                return self._load(iteration), damaged
            except (OSError, ValueError) as error:
                self._insist_on_fault(iteration, error)
                damaged.append(f"{self._path(iteration).name} {_reason(error)}")
        if not damaged:
            why = "holds no checkpoint: nothing of this run was saved. Start it again with the same command."
            raise CheckpointError(f"{self.folder}: {why}")
        reasons = ", ".join(damaged)
        raise CheckpointError(
            f"{self.folder}: holds no checkpoint that can be used: {reasons}. Start a new run; a point of a sweep "
            "begins anew once its folder is removed."
        )

    def load(self, iteration: int) -> dict[str, Any]:
        """The state after so many iterations. Raises CheckpointError if it is not there, or not sound."""
        if iteration not in self.iterations:
            known = ", ".join(map(str, self.iterations)) or "none at all"
            raise CheckpointError(
                f"{self.folder}: there is none after {iteration} iterations; there are {known}. Use one of those."
            )
        try:
            return self._load(iteration)
        except (OSError, ValueError) as error:
            self._insist_on_fault(iteration, error)
            name = self._path(iteration).name
            raise CheckpointError(f"{self.folder}: {name} {_reason(error)}. Use another one.") from None

    @property
    def iterations(self) -> list[int]:
        """Those after which there is a checkpoint."""
        return saved_iterations(self.folder.parent)

    @property
    def best(self) -> tuple[int, float] | None:
        """Iterations of the best one, and the return that makes it so; None if no return is known."""
        return self._best(self.iterations, self._present_yardstick)

    @property
    def unreadable(self) -> list[str]:
        """Checkpoints that do not say what they are, or whose words may not be true: one may have been the best."""
        silent = [it for it in self.iterations if not self._facts(it) and it not in self.gone]
        claims = (iteration for iteration, _ in self._ranked(self.iterations, self._present_yardstick))
        better = itertools.takewhile(lambda iteration: not self._is_sound(iteration), claims)
        return [self._path(iteration).name for iteration in [*silent, *better]]

    @property
    def gone(self) -> list[int]:
        """Iterations of those that are listed, and not there any more."""
        return [it for it in self.iterations if not os.path.lexists(self._path(it))]

    @property
    def foreign(self) -> list[str]:
        """Those that may not be of this run, and are left alone: of another, of a newer version, or unreadable."""
        return [self._path(iteration).name for iteration in self.iterations if not self._is_own(iteration)]

    @property
    def owner(self) -> str | None:
        """What tells the run of the newest from others; None if that is not known."""
        return self._text(self._newest_sound, "run")

    @property
    def _newest_sound(self) -> int | None:
        return next((iteration for iteration in reversed(self.iterations) if self._is_sound(iteration)), None)

    @property
    def _present_yardstick(self) -> str | None:
        return self._text(self._newest_sound, YARDSTICK)

    def _text(self, iteration: int | None, name: str) -> str | None:
        """A text among the facts of a checkpoint, which may be anybody's; None if there is none."""
        said = None if iteration is None else self._facts(iteration).get(name)
        return said if isinstance(said, str) else None

    def insist_on_access(self) -> None:
        """Raise CheckpointError if one of them cannot be read and may be intact."""
        for iteration in self.iterations:
            try:
                _try_to_read(self._path(iteration))
            except OSError as error:
                self._insist_on_fault(iteration, error)

    def _insist_on_fault(self, iteration: int, error: Exception) -> None:
        """Raise CheckpointError if an error in reading one says nothing of the checkpoint itself."""
        if may_be_intact(error):
            assert isinstance(error, OSError)
            raise CheckpointError(
                f"{self._path(iteration)}: cannot be read ({error.strerror}), and may be intact. {cure(error)}. If it "
                "is lost, move it away, and the one before is used."
            ) from error

    def _load(self, iteration: int) -> dict[str, Any]:
        """Raises OSError or ValueError if it cannot be used."""
        path = self._path(iteration)
        try:
            state_bytes, _ = self._checked(iteration, keep=True)
            state: dict[str, Any] = without_marks(_of_users(_of_run(unpacked(state_bytes)), unmasked))
            return state
        except MemoryError as error:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(path)) from error

    def _checked(self, iteration: int, *, keep: bool) -> tuple[bytes, dict[str, Any]]:
        """The state as it was written, and the facts; raises OSError or ValueError if it cannot be used.

        keep   the state, once it is known to be what was written; otherwise b"" is returned
        """
        refuse_link(self.folder)
        path = self._path(iteration)
        with regular(path, all_memory()) as file:
            first = file.readline(HEADER_BYTES)
            if not first.startswith(MAGIC):
                facts, start = _facts_of_pair(path), 0
                # No digest is that of anything.
                written, content = facts.get("sha256"), hashlib.sha256()
            else:
                version, _, digest = first.rstrip(b"\n").removeprefix(MAGIC).partition(b" ")
                written, content, start = digest.decode(errors="replace"), _digest(version), file.tell()
            file.seek(start)
            for block in iter(partial(file.read, BLOCK_BYTES), b""):
                content.update(block)
            if content.hexdigest() != written:
                raise ValueError("is damaged")
            file.seek(start)
            if start:
                if version != str(VERSION).encode():
                    raise ValueError("is of a newer version of seqrl")
                facts = _facts_of_line(file.readline(HEADER_BYTES))
                if self.run is not None and facts.get("run") != self.run:
                    raise ValueError("belongs to another run")
            return _read_if_it_fits(file, path) if keep else b"", facts

    def _clean(self) -> None:
        """Remove checkpoints that are not worth keeping, and what interrupted writes left behind.

        Raises OSError if one cannot be removed, once all others are.
        """
        remove_strays(self.folder)
        there = [iteration for iteration in self.iterations if self._is_own(iteration)]
        yardsticks = {self._text(iteration, YARDSTICK) for iteration in there}
        each_best = [self._best(there, yardstick) for yardstick in yardsticks]
        kept = {*there[-self.keep :], *(best[0] for best in each_best if best)}
        with ExitStack() as each:
            for iteration in set(there) - kept:
                each.callback(self._remove, iteration)

    def _remove(self, iteration: int) -> None:
        for suffix in (".json", ".pt"):
            self._path(iteration).with_suffix(suffix).unlink(missing_ok=True)
        self._sound.pop(iteration, None)

    def _best(self, iterations: list[int], yardstick: str | None) -> tuple[int, float] | None:
        # A flipped bit in a return must not make one the best.
        return next((it for it in self._ranked(iterations, yardstick) if self._is_sound(it[0])), None)

    def _ranked(self, iterations: list[int], yardstick: str | None) -> list[tuple[int, float]]:
        """Iterations and the returns that they are compared by, the best first."""
        facts = {iteration: self._facts(iteration) for iteration in iterations}
        if yardstick is not None:
            # Earlier versions named none.
            facts = {iteration: it for iteration, it in facts.items() if it.get(YARDSTICK, yardstick) == yardstick}
        for kind in (EVALUATION, TRAINING):
            known = [(iteration, it[kind]) for iteration, it in facts.items() if _is_return(it.get(kind))]
            if known:
                return sorted(known, key=lambda item: (item[1], item[0]), reverse=True)
        return []

    def _is_own(self, iteration: int) -> bool:
        """Whether it says that it is of this run, in a version that is known; those of 0.1.0 do not name their run."""
        if self._unchanged(iteration):
            return True
        path = self._path(iteration)
        try:
            with regular(path) as file:
                first, line = file.readline(HEADER_BYTES), file.readline(HEADER_BYTES)
            if not first.startswith(MAGIC):
                return "sha256" in _facts_of_pair(path)
        except OSError:
            return False
        known, facts = first.startswith(b"%b%d " % (MAGIC, VERSION)), _facts_of_line(line)
        return known and "run" in facts and (self.run is None or facts["run"] == self.run)

    def _is_sound(self, iteration: int) -> bool:
        """Whether its bytes are those that were written. A file that has not changed is not read again."""
        if self._unchanged(iteration):
            return True
        try:
            identity = _identity(self._path(iteration))
            _, facts = self._checked(iteration, keep=False)
        except (OSError, ValueError) as error:
            # What cannot be read for now may be the best, and must not be removed for another.
            return may_be_intact(error)
        self._sound[iteration] = identity, facts
        return True

    def _unchanged(self, iteration: int) -> bool:
        """Whether it is known to be sound, and still the same file."""
        with suppress(OSError):
            if iteration in self._sound and self._sound[iteration][0] == _identity(self._path(iteration)):
                return True
        self._sound.pop(iteration, None)
        return False

    def _put_aside(self, path: Path) -> None:
        """Give a file that stands in the way another name. Raises OSError if it may be one of this run after all."""
        try:
            _try_to_read(path)
        except OSError as error:
            if may_be_intact(error):
                raise
        for old in (path, path.with_suffix(".json")):
            if os.path.lexists(old):
                old.rename(old.with_name(free(f"{old.name}.aside", os.listdir(self.folder), "{}{}")))

    def _facts(self, iteration: int) -> dict[str, Any]:
        """What the second line of a checkpoint says; {} if that cannot be read."""
        if self._unchanged(iteration):
            return self._sound[iteration][1]
        path = self._path(iteration)
        try:
            with regular(path) as file:
                first, line = file.readline(HEADER_BYTES), file.readline(HEADER_BYTES)
            return _facts_of_line(line) if first.startswith(MAGIC) else _facts_of_pair(path)
        except OSError:
            return {}

    def _path(self, iteration: int) -> Path:
        return self.folder / f"{iteration:0{DIGITS}d}.pt"


def _read_if_it_fits(file: IO[bytes], path: Path) -> bytes:
    """The rest of a file. Raises OSError where too little memory is free now, which says nothing of the file."""
    size, free = os.fstat(file.fileno()).st_size, free_memory()
    if free is not None and free < size:
        lack = f"needs {size / 1e6:,.0f} MB of memory, and {free / 1e6:,.0f} are free"
        raise OSError(errno.ENOMEM, lack, str(path))
    return file.read()


def _of_users(state: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A run's state in which each text is as `change` has it, where classes of the user's own may have put it."""
    if not is_anything_masked():
        return state
    in_text = partial(_with_text, change=change)
    return state | {name: with_each(state[name], in_text) for name in ("algorithm", "runner") if name in state}


def _with_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, bytes):
        text = value.decode(errors="surrogateescape")
        return value if (changed := change(text)) == text else changed.encode(errors="surrogateescape")
    return value


def _by_name(text: str) -> str:
    """A text with variables' names for the values that came from the system's environment."""
    named = masked(text)
    if unmasked(named) != text:
        _say_what_changes(named[:60])
    return named


@cache
def _say_what_changes(named: str) -> None:
    log.warning("checkpoint: where the run goes on, its state has another text in the place of %s", named)


def _try_to_read(path: Path) -> None:
    """Raise OSError if nothing can be read there."""
    with regular(path) as file:
        file.read(1)


def _without_environment(state: dict[str, Any]) -> dict[str, Any]:
    """A run's state without that of its environments, on any rank."""
    runner = state.get("runner", {})
    ranks = {"ranks": [it | {"environment": None} for it in runner["ranks"]]} if "ranks" in runner else {}
    return state | {"runner": runner | {"environment": None} | ranks}


def packed(state: dict[str, Any], facts: dict[str, Any]) -> bytes:
    """A checkpoint as bytes."""
    return _sealed(_as_bytes(state), facts)


def _sealed(state: bytes, facts: dict[str, Any]) -> bytes:
    """The same of a state as torch.save writes it."""
    rest = json.dumps(facts).encode() + b"\n" + state
    version = str(VERSION).encode()
    digest = _digest(version)
    digest.update(rest)
    return MAGIC + version + b" " + digest.hexdigest().encode() + b"\n" + rest


def _as_bytes(state: dict[str, Any]) -> bytes:
    data = io.BytesIO()
    torch.save(state, data)
    return data.getvalue()


def _digest(version: bytes) -> "hashlib._Hash":
    """Of a checkpoint of a version, to be updated with all that follows its first line."""
    return hashlib.sha256(version + b"\n")


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or written to."""
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def unpacked(data: bytes) -> dict[str, Any]:
    """The state from what torch.save wrote; raises ValueError if it is not that.

    A file that grows when it is unpacked is refused before it does.
    """
    state = loaded(data)
    if not isinstance(state, dict):
        raise ValueError("holds no state of a run")
    return state


def _of_run(state: dict[str, Any]) -> dict[str, Any]:
    """The same, if what it has of a run is of the kind that a run saves. Raises ValueError if not."""
    for name, kind in KINDS.items():
        value = state.get(name, kind())
        if not isinstance(value, kind) or (isinstance(value, int) and not 0 <= value < 2**63):
            raise ValueError(f"holds no state of a run: {name} is odd")
    if grows_by_its_keys(state.get("config", {})):
        raise ValueError("holds a configuration that is far longer with its keys written out")
    network = state.get("algorithm", {}).get("network", {})
    if not isinstance(network, dict) or not all(isinstance(name, str) for name in network):
        raise ValueError("holds no state of a run: its network has no named parameters")
    return state


def _reason(error: OSError | ValueError) -> str:
    """Why a checkpoint cannot be used, in words that follow its name."""
    return f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)


def _is_return(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _facts_of_pair(path: Path) -> dict[str, Any]:
    """What 0.1.0 wrote beside a state; {} if there is nothing of the kind.

    Raises OSError if it cannot be read and may be intact.
    """
    try:
        return _facts_of_line(read(path.with_suffix(".json"), HEADER_BYTES))
    except OSError as error:
        if may_be_intact(error):
            raise
        return {}


def _facts_of_line(line: bytes) -> dict[str, Any]:
    """Facts as they are written, whoever wrote them; {} if they are none."""
    try:
        facts = json_of(line.decode()) if len(line) <= HEADER_BYTES else {}
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}
