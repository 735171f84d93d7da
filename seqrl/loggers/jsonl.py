"""metrics.jsonl: one JSON object a line, what reports read."""

import json
import math
from contextlib import suppress
from pathlib import Path

from seqrl.files import write
from seqrl.loggers.base import Logger, Row


class Jsonl(Logger):
    """Scalars in metrics.jsonl, one JSON object a line; what is not finite is null."""

    def __init__(self, folder: Path, env_steps: int = 0) -> None:
        path = folder / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if self._precedes(line, env_steps)]
            write(path, "".join(f"{line}\n" for line in kept).encode())
        self._file = path.open("a", buffering=1)

    def write(self, row: Row, env_steps: int) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._file.write(json.dumps({"env_steps": env_steps, **finite}) + "\n")

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def _precedes(line: str, env_steps: int) -> bool:
        """Whether a line is whole, and holds until `env_steps`."""
        with suppress(ValueError, KeyError):
            return bool(json.loads(line)["env_steps"] <= env_steps)
        return False
