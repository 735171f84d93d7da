"""Saves a run and finds its newest sound state again.

`checkpoints/` holds a file of tensors for each checkpoint, 00000120.pt after 120 iterations, and beside it, in
00000120.json, its sha256 and its return, in training and in an evaluation if it had one. These are written last: a
checkpoint without them was never finished, and one that is not what they say has been damaged.
"""

import hashlib
import io
import json
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from seqrl.errors import CheckpointError, ConfigError
from seqrl.files import write

# Returns that are known of a checkpoint, by their names in its facts.
TRAINING, EVALUATION = "return_mean", "evaluation_return_mean"


class Checkpoints:
    """Checkpoints of one run folder: the newest ones, and the best.

    The best is the one with the highest return in its evaluation, or in training where none was evaluated; of equal
    ones the newest, which has learned more.

    folder   of the run
    keep     how many of the newest to keep; more than one, lest a damaged one is the only one
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder / "checkpoints", keep

    def save(
        self,
        state: dict[str, Any],
        iteration: int,
        return_mean: float = math.nan,
        evaluation_return_mean: float = math.nan,
    ) -> None:
        """Write the state after an iteration; tensors and plain data only.

        What was known of its returns stays known where they are NaN now. Older checkpoints survive a failure. Those of
        later iterations, which the run has left behind by going on from an older one, are removed.
        """
        self.folder.mkdir(exist_ok=True)
        data = io.BytesIO()
        torch.save(state, data)
        path = self.folder / f"{iteration:08d}.pt"
        write(path, data.getvalue())
        returns = {TRAINING: return_mean, EVALUATION: evaluation_return_mean}
        facts = {
            **self._facts(path.stem),
            "sha256": hashlib.sha256(data.getvalue()).hexdigest(),
            **{name: mean for name, mean in returns.items() if math.isfinite(mean)},
        }
        write(path.with_suffix(".json"), json.dumps(facts).encode())
        kept = self._worth_keeping(path.stem)
        for file in [*self.folder.glob("*.tmp"), *self.folder.glob("[0-9]*.json"), *self.folder.glob("[0-9]*.pt")]:
            if file.suffix == ".tmp" or file.stem not in kept:
                file.unlink()

    def begin(self, state: dict[str, Any], iteration: int) -> None:
        """Save what a run begins with, so that what is wrong with the folder is noticed before anything is learned.

        Raises OSError if it cannot be written, ConfigError if there is no room for those to come.
        """
        self.save(state, iteration)
        size = (self.folder / f"{iteration:08d}.pt").stat().st_size
        # The newest and the best, and one more while it is written; logs grow beside them.
        need, free = (self.keep + 1) * size, shutil.disk_usage(self.folder).free
        if free < need:
            raise ConfigError(
                [
                    f"run folder: {free / 1e6:.1f} MB are free in {self.folder.parent}, and its checkpoints need "
                    f"{need / 1e6:.1f} MB. Free some space, or choose another folder with hydra.run.dir=…"
                ]
            )

    def newest(self) -> tuple[dict[str, Any], list[str]]:
        """The newest sound state, and what is to be said of those that were passed over.

        Raises CheckpointError if there is none. Nothing but tensors and plain data is loaded.
        """
        damaged: list[str] = []
        for name in reversed(self._names()):
            try:
                return self._load(name), damaged
            except OSError as error:
                damaged.append(f"{name}.pt cannot be read ({error.strerror})")
            except ValueError as error:
                damaged.append(f"{name}.pt {error}")
        found = f": {', '.join(damaged)}" if damaged else ""
        raise CheckpointError(f"{self.folder}: holds no checkpoint that can be used{found}. Start a new run.")

    def load(self, iteration: int) -> dict[str, Any]:
        """The state after so many iterations. Raises CheckpointError if it is not there, or not sound."""
        name = f"{iteration:08d}"
        if iteration not in self.iterations:
            known = ", ".join(map(str, self.iterations)) or "nothing"
            raise CheckpointError(
                f"{self.folder}: holds none after {iteration} iterations (got {known}). Use another one."
            )
        try:
            return self._load(name)
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        except ValueError as error:
            fault = str(error)
        raise CheckpointError(f"{self.folder}: {name}.pt {fault}. Use another one.")

    @property
    def iterations(self) -> list[int]:
        """Those after which there is a checkpoint."""
        return [int(name) for name in self._names()]

    @property
    def best(self) -> tuple[int, float] | None:
        """Iterations of the best one, and the return that makes it so; None if no return is known."""
        best = self._best(self._names())
        return best and (int(best[0]), best[1])

    def _load(self, name: str) -> dict[str, Any]:
        """Raises OSError or ValueError if it cannot be used."""
        facts = self._facts(name)
        data = (self.folder / f"{name}.pt").read_bytes()
        if hashlib.sha256(data).hexdigest() != facts.get("sha256"):
            raise ValueError("is damaged")
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        except pickle.UnpicklingError as error:
            raise ValueError("holds more than plain data") from error
        return state

    def _worth_keeping(self, now: str) -> set[str]:
        names = [name for name in self._names() if name <= now]
        best = self._best(names)
        return {*names[-self.keep :], *(best[:1] if best else [])}

    def _best(self, names: list[str]) -> tuple[str, float] | None:
        facts = {name: self._facts(name) for name in names}
        for kind in (EVALUATION, TRAINING):
            known = {name: it[kind] for name, it in facts.items() if isinstance(it.get(kind), float)}
            if known:
                return max(known.items(), key=lambda item: (item[1], item[0]))
        return None

    def _names(self) -> list[str]:
        """All that were finished, in the order of their iterations."""
        return sorted(file.stem for file in self.folder.glob("[0-9]*.json") if file.stem.isdecimal())

    def _facts(self, name: str) -> dict[str, Any]:
        try:
            facts = json.loads((self.folder / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}
