"""metrics.jsonl: one JSON object per line, which reports read."""

import json
import math
from contextlib import suppress
from pathlib import Path

from seqrl.files import Lines, json_of, lines, write
from seqrl.loggers.base import About, Logger, Row, left_out

# Far more than any run writes, and no more than a machine can hold twice.
MOST_BYTES = 2**30


class Jsonl(Logger):
    """Scalars in metrics.jsonl, one JSON object per line; values that are not finite become null."""

    keeps_rows = True

    def __init__(self, folder: Path, env_steps: int = 0) -> None:
        path = folder / "metrics.jsonl"
        kept, end = bytearray(), ""
        self._said: list[str] = []
        if path.exists() or path.is_symlink():
            odd, number = list[int](), 0
            for number, line in enumerate(lines(path, MOST_BYTES), 1):
                at = _steps(line)
                if 0 <= at <= env_steps:
                    end = line.rstrip("\n")
                    kept += f"{end}\n".encode()
                # One that nothing ends was cut off when the run was killed.
                elif at < 0 and line.endswith("\n"):
                    odd.append(number)
            self._said = left_out(path.name, odd, number)
            write(path, bytes(kept))
        # Evaluated once more, a run that is finished already gives the row that is there.
        self._end = end
        self._last, self._now = (_steps(end) if end else 0), env_steps
        self._lines = Lines(path)

    def begin(self, about: About) -> str | None:
        if self._last != self._now:
            gap = f"ends at {self._last:,} steps and the run resumes at {self._now:,}"
            self._said.append(f"warning: metrics.jsonl {gap}: the rows between are lost")
        return "\n".join(self._said) or None

    def write(self, row: Row, env_steps: int) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        line = json.dumps({"env_steps": env_steps, **finite})
        if line != self._end:
            self._lines.add(f"{line}\n")
        self._end = line

    def sync(self) -> None:
        self._lines.sync()

    def close(self) -> None:
        self._lines.close()


def _steps(line: str) -> int:
    """Environment steps of a line; -1 if it is no row."""
    with suppress(ValueError, KeyError, TypeError, OverflowError):
        return int(json_of(line)["env_steps"])
    return -1
