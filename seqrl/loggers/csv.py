"""metrics.csv: one row a line, for spreadsheets and pandas."""

import csv
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from seqrl.files import Lines, lines, write
from seqrl.loggers.base import About, Logger, Row, left_out

log = logging.getLogger(__name__)

STEPS = "env_steps"
# Far more than any run writes. Numbers take some fifty times as much memory as they have digits.
MOST_BYTES, MOST_VALUES = 2**29, 2 * 10**7


class Csv(Logger):
    """Scalars in metrics.csv, one column each; empty where a row has no value.

    A new name becomes a new column, and the file is rewritten atomically.
    """

    keeps_rows = True

    def __init__(self, folder: Path, env_steps: int = 0) -> None:
        self._path = folder / "metrics.csv"
        self._columns = [STEPS]
        rows, self._said = self._read()
        self._columns = list(dict.fromkeys([STEPS, *(name for row in rows for name in row)]))
        kept = [row for row in rows if int(row[STEPS]) <= env_steps]
        write(self._path, table(self._columns, kept))
        # Evaluated once more, a run that is finished already gives the row that is there.
        self._end = line_of(self._columns, kept[-1]) if kept else ""
        self._lines = Lines(self._path)
        # Rows that wait for columns of theirs, and those after them.
        self._waiting: list[dict[str, float]] = []

    def begin(self, about: About) -> str | None:
        return "\n".join(self._said) or None

    def write(self, row: Row, env_steps: int) -> None:
        self._waiting.append({STEPS: env_steps, **row})
        del self._waiting[: -Lines.MOST]
        self._write()

    def sync(self) -> None:
        self._write()
        self._lines.sync()

    def close(self) -> None:
        try:
            self._write()
        finally:
            self._lines.close()

    def _write(self) -> None:
        while self._waiting:
            self._add_columns(self._waiting[0])
            added = line_of(self._columns, self._waiting.pop(0))
            before, self._end = self._end, added
            if added != before:
                # One that has to wait for the disk waits there.
                self._lines.add(added)

    def _add_columns(self, names: Iterable[str]) -> None:
        if new := [name for name in names if name not in self._columns]:
            # Pending lines must reach the file before it is rewritten, if it is still the one.
            self._lines.sync()
            self._lines.insist_on_path()
            columns = [*self._columns, *new]
            rows, said = self._read()
            self._lines.replace(table(columns, rows))
            self._columns = columns
            for line in said:
                log.warning(line)

    def _read(self) -> tuple[list[dict[str, str]], list[str]]:
        """Rows in the file, except a last line cut off when a run was killed; and what is to be said of other lines."""
        if not self._path.exists():
            return [], []
        whole = (line for line in lines(self._path, MOST_BYTES) if line.endswith("\n"))
        columns = next(csv.reader(whole), [])
        rows, odd, number = [], [], 1
        most_rows = MOST_VALUES // max(1, len(columns))
        # Each by itself: a quote that is damage would take all that follow for its own.
        for number, line in enumerate(whole, 2):
            values: list[str] = []
            with suppress(csv.Error):
                values = next(csv.reader([line]), [])
            row = dict(zip(columns, values, strict=False))
            if len(values) == len(columns) and row.get(STEPS, "").isdecimal():
                rows.append(row)
                if len(rows) > most_rows:
                    raise OSError(f"{self._path.name} has more than {most_rows:,} rows")
            else:
                odd.append(number)
        return rows, left_out(self._path.name, odd, number)


def table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bytes:
    """A file with these rows, under the names of their columns."""
    return "".join(line_of(columns, row) for row in [dict(zip(columns, columns, strict=True)), *rows]).encode()


def line_of(columns: Sequence[str], row: Mapping[str, object]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerow(row)
    return text.getvalue()
