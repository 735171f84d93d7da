"""Program that lists runs. `seqrl.runs` is a function; once this package is imported it stands in its place."""

import sys
from os import PathLike
from types import ModuleType

from seqrl.api.listing import RunInfo, runs
from seqrl.config.begun import OUTPUTS


class _Callable(ModuleType):
    """A package that can be called as the function of its name: Python puts it where the function was."""

    def __call__(self, folder: str | PathLike[str] = OUTPUTS) -> list[RunInfo]:
        return runs(folder)


sys.modules[__name__].__class__ = _Callable
