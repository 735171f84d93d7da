"""Saves a run and finds its newest sound state again.

`checkpoints/` holds one file for each of the last checkpoints and index.json, which is written last: a file that is not
in it, or is not what it says, was never finished or has been damaged.
"""

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch

from seqrl.errors import CheckpointError
from seqrl.files import write

# The newest, and one to fall back on.
KEEP = 2


class Checkpoints:
    """Checkpoints of one run folder.

    folder   of the run
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoints"

    def save(self, state: dict[str, Any], iteration: int) -> None:
        """Write the state after an iteration; tensors and plain data only. The older ones survive a failure."""
        self.folder.mkdir(exist_ok=True)
        data = io.BytesIO()
        torch.save(state, data)
        name = f"{iteration:08d}.pt"
        write(self.folder / name, data.getvalue())
        entries = {**self._index(), name: hashlib.sha256(data.getvalue()).hexdigest()}
        kept = dict(sorted(entries.items())[-KEEP:])
        write(self.folder / "index.json", json.dumps(kept, indent=2).encode())
        for stray in [*self.folder.glob("*.tmp"), *self.folder.glob("[0-9]*.pt")]:
            if stray.name not in kept:
                stray.unlink()

    def newest(self) -> tuple[dict[str, Any], list[str]]:
        """The newest sound state, and what is to be said of those that were passed over.

        Raises CheckpointError if there is none. Nothing but tensors and plain data is loaded.
        """
        index = self._index()
        damaged = []
        for name, digest in sorted(index.items(), reverse=True):
            try:
                data = (self.folder / name).read_bytes()
            except OSError as error:
                damaged.append(f"{name} cannot be read ({error.strerror})")
                continue
            if hashlib.sha256(data).hexdigest() != digest:
                damaged.append(f"{name} is damaged")
                continue
            try:
                state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
            except pickle.UnpicklingError:
                damaged.append(f"{name} holds more than plain data")
                continue
            return state, damaged
        found = f": {', '.join(damaged)}" if damaged else ""
        raise CheckpointError(f"resume: {self.folder} holds no checkpoint that can be used{found}. Start a new run.")

    def _index(self) -> dict[str, str]:
        try:
            index = json.loads((self.folder / "index.json").read_text())
        except (OSError, ValueError):
            return {}
        return {str(name): str(digest) for name, digest in index.items()} if isinstance(index, dict) else {}
