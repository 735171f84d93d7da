"""Files that are whole at any time, and safe in a folder of somebody else: no link is followed, no name guessed."""

import errno
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, ClassVar

import yaml
from omegaconf._utils import get_yaml_loader

from seqrl.text import grows_by_its_keys, masked

log = logging.getLogger(__name__)

# What helps where the system refuses something, by the number of its error.
CURES = {
    (errno.ENOSPC, errno.EDQUOT): "Free some space",
    (errno.EFBIG,): "Raise the limit on the size of a file (ulimit -f)",
    (errno.EACCES, errno.EPERM): "Make it readable and writable for you with chmod or chown",
    (errno.EROFS,): "Have its disk mounted for writing",
    (errno.ENOENT,): "See whether it was moved or removed",
    (errno.EEXIST, errno.ENOTDIR, errno.EISDIR): "Remove what stands in its way",
    (errno.EIO,): "See whether its disk is failing",
    (errno.EMFILE, errno.ENFILE): "Raise the limit on open files (ulimit -n)",
    (errno.ENAMETOOLONG,): "Choose a shorter name",
    (errno.ENOMEM,): "Free some memory",
}
# What a file system says that cannot do something at all: some of those on a network sync no folders, or have no locks.
UNABLE = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)
# Reasons why nothing can be read at a path that lie in what stands there.
OF_THE_FILE = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EFBIG)
# What an interrupted `write` leaves behind.
STRAY = re.compile(r"\.seqrl-[0-9a-f]{16}\.tmp")
# Far more than any text file that seqrl writes into a run folder.
TEXT_BYTES = 16 * 2**20
# The same of a configuration, which takes long to read, and of a line.
YAML_BYTES, LINE_BYTES = 2**20, 2**20
# The same of a file that grows, where it has to be copied.
GROWN_BYTES = 2**30
# At the beginning or the end of a file, where it says that it is seqrl's.
MARKED_BYTES = 2**16
# Far deeper than any configuration.
DEEPEST = 50
# Those that a text of YAML may have: no others are written by seqrl, and PyYAML raises anything for some.
TAGS = (None, "tag:yaml.org,2002:str", "tag:yaml.org,2002:binary")
# What OmegaConf and PyYAML may take for a number or a date, what they call it, and who reads it.
NUMBER, NUMBER_TAGS = re.compile(r"[-+]?[.\d]"), [f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")]
# As fast as there is one.
LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
NUMBER_LOADERS = [yaml.SafeLoader(""), get_yaml_loader()("")]
# Of a whole number; larger ones are no floats.
MOST_BITS = 1000


def write(path: Path, data: bytes) -> None:
    """Write `data` to `path`, completely or not at all, even if the machine crashes meanwhile.

    A link at `path` is replaced, never followed. Raises OSError with the path; a file that was there is then unchanged.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Do the same with several files, which appear in their order: none before all of them are on the disk.

    Raises OSError with the path of the one that cannot be written, or replaced; all that were there are then unchanged.
    Only if the process is killed as they appear, new ones may stand beside old ones.
    """
    waiting: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            waiting[path] = _beside(path)
            with open(waiting[path], "xb", opener=_without_links) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        with _all_or_none(waiting):
            for path, temporary in waiting.items():
                os.replace(temporary, path)
        for folder in {path.parent for path in files}:
            sync_folder(folder)
    except BaseException as error:
        # After Ctrl-C, too.
        for temporary in waiting.values():
            with suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, fault(error), str(path)) from error
        raise


@contextmanager
def _all_or_none(waiting: Mapping[Path, Path]) -> Iterator[None]:
    """Put back what was there unless all files that wait get their names, if the file system has hard links."""
    kept = {path: _beside(path) for path in waiting if len(waiting) > 1 and os.path.lexists(path)}
    try:
        for path, old in kept.items():
            with suppress(OSError):
                os.link(path, old, follow_symlinks=False)
        yield
    except BaseException:
        replaced = [path for path, temporary in waiting.items() if not temporary.exists()]
        for path in replaced if len(replaced) < len(waiting) else ():
            with suppress(OSError):
                if path in kept:
                    os.replace(kept[path], path)
                else:
                    path.unlink()
        raise
    finally:
        for old in kept.values():
            with suppress(OSError):
                old.unlink()


def _beside(path: Path) -> Path:
    """A name in the same folder that nobody can guess."""
    return path.with_name(f".seqrl-{secrets.token_hex(8)}.tmp")


def insist_on_own(folder: Path, marks: Mapping[str, str]) -> None:
    """Raise OSError if something that would be replaced in a folder is not seqrl's.

    marks   what each file holds near its beginning or its end if it is, by name
    """
    if folder.exists() and not folder.is_dir():
        raise OSError(errno.ENOTDIR, "is not a folder", str(folder))
    for name, mark in marks.items():
        path = folder / name
        if os.path.lexists(path) and not _signed(path, mark):
            raise OSError(errno.EEXIST, "was not written by seqrl", str(path))


def foreign(path: Path, mark: str) -> str:
    """Why a file is not seqrl's: it is a link, or can be read and holds no `mark`. "" if it is, or if there is none."""
    try:
        return "" if _signed(path, mark) else "was not written by seqrl"
    except OSError:
        return "is a link" if path.is_symlink() else ""


def _signed(path: Path, mark: str) -> bool:
    """Whether a file holds a mark, or nothing that could be lost."""
    with regular(path) as file:
        ends = [file.read(MARKED_BYTES)]
        file.seek(-min(MARKED_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
        ends.append(file.read())
    return any(mark.encode() in end for end in ends) or not ends[0].strip()


class Lines:
    """A text file that grows by whole lines; half a line that was there is ended.

    A line that cannot be written waits, and those after it behind it, until all can: on a full disk none is lost, and
    no half of one stays. Where the name goes to another file, as `sed -i` has it, or to none, all lines are written
    under it again, as long as the folder is the same; so they are where the file has other names, too. Raises OSError
    if the file is a link, or no regular file.
    """

    # Of lines that wait.
    MOST = 100_000

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._open()
        self._folder = os.open(path.parent, os.O_RDONLY)
        self._size = os.fstat(self._file).st_size
        halved = self._size and os.pread(self._file, 1, self._size - 1) != b"\n"
        self._waiting = [b"\n"] if halved else []

    def add(self, line: str) -> None:
        """Add a line, which ends with a line break. Raises OSError if it has to wait."""
        self._waiting.append(line.encode())
        del self._waiting[: -self.MOST]
        self._write()

    def replace(self, data: bytes) -> None:
        """Have other lines in place of all that are there. Raises OSError if that fails; those then stay."""
        write(self._path, data)
        before, self._file = self._file, self._open()
        os.close(before)
        self._size = os.fstat(self._file).st_size

    def insist_on_path(self) -> None:
        """Raise OSError if it is another file now that has the name."""
        if not self._has_name():
            raise OSError(f"{self._path} was moved away, or replaced by another")

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        self._write()
        os.fsync(self._file)

    def close(self) -> None:
        try:
            self._write()
        finally:
            os.close(self._file)
            os.close(self._folder)

    def _open(self) -> int:
        return regular_only(str(self._path), os.O_RDWR | os.O_APPEND | os.O_CREAT)

    def _has_name(self) -> bool:
        return not self._path.is_symlink() and is_still(self._file, self._path)

    def _keep_name(self) -> None:
        """Have all lines under the name again, and in a file that has no other: a snapshot of it stays as it is."""
        named = self._has_name()
        if (named and os.fstat(self._file).st_nlink == 1) or not is_still(self._folder, self._path.parent):
            return
        with open(self._file, "rb", closefd=False) as mine:
            mine.seek(0)
            self.replace(mine.read())
        if not named:
            log.warning("%s was replaced or removed; all lines of the run are there again.", self._path)

    def _write(self) -> None:
        self._keep_name()
        while self._waiting:
            line = self._waiting[0]
            try:
                if os.write(self._file, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(self._file, self._size)
                raise
            self._size += len(line)
            del self._waiting[0]


def read(path: Path, most: int = TEXT_BYTES) -> bytes:
    """All bytes of a regular file of at most so many. Raises OSError for anything else, such as a link or a pipe."""
    with regular(path, most) as file:
        # Python reserves as much as it is asked for.
        return file.read(os.fstat(file.fileno()).st_size)


def read_text(path: Path, most: int = TEXT_BYTES) -> str:
    """The same as text; what is not UTF-8 is replaced."""
    return read(path, most).decode(errors="replace")


@contextmanager
def regular(path: Path, most: int = 2**40) -> Iterator[IO[bytes]]:
    """A regular file of at most so many bytes, open for reading. Raises OSError for anything else, and never waits."""
    with open(path, "rb", opener=regular_only) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"is larger than {most / 1e6:,.0f} MB", str(path))
        yield file


def appending(path: Path) -> IO[bytes]:
    """A regular file, open for adding to its end; a new one if there is none. Raises OSError for anything else."""
    return open(path, "ab", opener=_with_one_name)


def locking(path: Path) -> IO[bytes]:
    """The same of a file that is only locked: a copy would be another lock."""
    return open(path, "ab", opener=regular_only)


def detach(path: Path) -> None:
    """Copy a file that is to be changed and has other names, too, which may be anybody's, or those of a snapshot that
    was made of hard links: what has them stays as it is.
    """
    with suppress(FileNotFoundError):
        if path.lstat().st_nlink > 1:
            write(path, read(path, GROWN_BYTES))


class LogFile(logging.FileHandler):
    """A log in a folder that may be anybody's: it adds to a regular file, or to none, and never waits.

    A log that cannot be written is no reason to end a run; `stream` is then None.

    No value from the system's environment is written, whatever formatter the handler has.

    of_runs   those of the runs that are at work in threads of this program, which come and go
    """

    of_runs: ClassVar[list["LogFile"]] = []

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", errors="backslashreplace", opener=_with_one_name)

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


def lines(path: Path, most: int) -> Iterator[str]:
    """Lines of a regular file of at most so many bytes; one that is too long for a line comes in pieces."""
    with regular(path, most) as file:
        while line := file.readline(LINE_BYTES):
            yield line.decode(errors="replace")


def json_of(text: str) -> Any:
    """What a text of JSON says. Raises ValueError if it is none, or nested beyond reason."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None


def walk(
    top: Path, onerror: Callable[[OSError], object] | None = None, *, followlinks: bool = False
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """What `os.walk` yields from the top down, in any depth: before Python 3.12 it ends after a thousand folders."""
    left = [top]
    while left:
        place = left.pop()
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else files).append(entry.name)
        except OSError as error:
            if onerror is not None:
                onerror(error)
            continue
        yield place, folders, files
        left += [place / name for name in reversed(folders) if followlinks or not (place / name).is_symlink()]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    with suppress(OSError):
        return entry.is_dir()
    return False


def read_yaml(path: Path) -> str:
    """A text of YAML that may be loaded: not large, not deep, and without aliases, which grow when they are read.

    Raises OSError if it is no such file, ValueError if it is no such text.
    """
    return loadable_yaml(read_text(path, YAML_BYTES))


def loadable_yaml(text: str) -> str:
    """The text, if it is such a one. Raises ValueError if not."""
    if len(text.encode()) > YAML_BYTES:
        raise ValueError(f"is larger than {YAML_BYTES // 2**20} MB")
    try:
        insist_on_modest_yaml(text)
        content = yaml.load(text, LOADER)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"is not YAML ({where}{problem or 'it holds control characters'})") from None
    if grows_by_its_keys(content):
        raise ValueError("is far longer with its keys written out")
    return text


def insist_on_modest_yaml(text: str, most: int = 0) -> None:
    """Raise ValueError if a text of YAML is deep, if its aliases stand for more than so many values, or if one of its
    values cannot be read.

    Raises YAMLError if it is not YAML. Nothing else is raised when what passes is loaded.
    """
    # Values in the text, and in each collection that is open; names of these; values by name.
    sizes, names, known = [0], [], dict[str, int]()
    grown = 0
    for event in yaml.parse(text, Loader=LOADER):
        name = getattr(event, "anchor", None)
        if (tag := getattr(event, "tag", None)) not in TAGS:
            raise ValueError(
                f"line {event.start_mark.line + 1}: holds a tag of YAML that seqrl does not read (got {tag})"
            )
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and NUMBER.match(event.value):
            _insist_on_number(event)
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(0)
            names.append(name)
            if len(names) > DEEPEST:
                raise ValueError("is nested too deeply")
            continue
        size = isinstance(event, yaml.ScalarEvent) + 0
        if isinstance(event, yaml.CollectionEndEvent):
            size, name = sizes.pop() + 1, names.pop()
        if isinstance(event, yaml.AliasEvent):
            # One that stands in what it names has no end.
            size = known.get(event.anchor, most + 1)
            grown += size
            if grown > most:
                limit = f"aliases of more than {most:,} values" if most else "YAML aliases, which no run writes"
                raise ValueError(f"uses {limit}")
        elif name:
            known[name] = size
        sizes[-1] += size


def _insist_on_number(event: yaml.ScalarEvent) -> None:
    """Raise ValueError if a value looks like a number or a date, and is none, or none that Python works with."""
    for loader in NUMBER_LOADERS:
        node = yaml.ScalarNode(loader.resolve(yaml.ScalarNode, event.value, (True, False)), event.value)
        if node.tag not in NUMBER_TAGS:
            continue
        try:
            value = loader.yaml_constructors[node.tag](loader, node)
            if isinstance(value, int) and value.bit_length() > MOST_BITS:
                raise OverflowError
        except Exception:
            short = event.value[:20] + "…" * (len(event.value) > 20)
            where = f"line {event.start_mark.line + 1}"
            raise ValueError(f"{where}: looks like a number or a date, and is none (got {short})") from None


def fault(error: Exception) -> str:
    """Why a file could not be read, in a few words that follow its name."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return reason.splitlines()[0].rstrip(".")


def may_be_intact(error: Exception) -> bool:
    """Whether a file could not be read for a reason that says nothing of it, such as a missing right or a sick disk."""
    return isinstance(error, OSError) and error.errno not in OF_THE_FILE


def cure(error: OSError) -> str:
    """What helps where a file could not be read or written, in words that may go on."""
    return _known_cure(error) or "Mend that"


def remedy(error: OSError) -> str:
    """The same as a sentence, where another folder would do."""
    known = _known_cure(error)
    return f"{known}, or choose another folder." if known else "Choose another folder."


def _known_cure(error: OSError) -> str | None:
    return next((cure for numbers, cure in CURES.items() if error.errno in numbers), None)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, if its file system can say so."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it. Raises OSError if a link is there, which could lead anywhere."""
    path.mkdir(parents=True, exist_ok=True)
    refuse_link(path)


def refuse_link(path: Path) -> None:
    """Raise OSError if a link stands in the place of a folder."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "is a link, and could lead anywhere", str(path))


def is_still(descriptor: int, path: Path) -> bool:
    """Whether a path names what was opened there, and not another thing, or nothing, by now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def insist_on_folder(descriptor: int, folder: Path) -> None:
    """Raise OSError if a folder is not the one that was opened: what is written there would be another run's."""
    if not is_still(descriptor, folder):
        raise OSError(f"{folder} was moved away, and nothing more is written there")


def remove_strays(folder: Path) -> None:
    """Remove what interrupted writes left in a folder, and nothing else; what cannot be removed stays."""
    for entry in folder.iterdir():
        # A folder of that name is none of them.
        if STRAY.fullmatch(entry.name) and (entry.is_symlink() or not entry.is_dir()):
            with suppress(OSError):
                entry.unlink()


def links(folder: Path) -> list[Path]:
    """Links among the entries of a folder."""
    return [entry for entry in sorted(folder.iterdir()) if entry.is_symlink()] if folder.is_dir() else []


def regular_only(name: str, flags: int) -> int:
    """Opener of regular files. Raises OSError for links and all else; does not wait for the other end of a pipe."""
    try:
        descriptor = _without_links(name, flags | os.O_NONBLOCK)
    except OSError as error:
        # A pipe that nobody reads.
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "is not a regular file", name) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", name)
    return descriptor


def _with_one_name(name: str, flags: int) -> int:
    """Opener of regular files that grow."""
    detach(Path(name))
    return regular_only(name, flags)


def _without_links(name: str, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a link", name) from None
        raise
