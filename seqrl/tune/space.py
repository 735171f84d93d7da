"""The search space: keys of the configuration, and the values to try for each."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from omegaconf import OmegaConf

from seqrl.config.overrides import quoted
from seqrl.config.paths import CONF
from seqrl.errors import ConfigError
from seqrl.run.manifest import LARGEST, is_number
from seqrl.text import nearest

if TYPE_CHECKING:
    import optuna

# A key of a run, or an argument of its environment; words and lists of words, which need no quotes.
KEY = re.compile(r"(\+env\.kwargs\.)?[A-Za-z]\w*(\.[A-Za-z]\w*)*")
# What decides nothing of what is learned, or must not come from a file, such as where curves go.
NOT_SEARCHED = ("hydra", "trust", "resume", "validate", "sweep", "logger")
PLAIN = re.compile(r"[\w./-]+|\[([\w.-]+(, ?[\w.-]+)*)?\]")
WORDS = ["low", "high", "log", "step", "choices"]
Value = bool | int | float | str | None


@dataclass(frozen=True)
class Dimension:
    """Values to try for one key: a range, or a list of choices.

    low, high   both included; whole numbers if both are whole: see `of`
    log         sample on a log scale
    step        between two values of a range; None: any value, or 1 for whole numbers
    choices     instead of a range
    """

    key: str
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = None
    choices: tuple[Value, ...] = ()

    def suggest(self, trial: "optuna.Trial") -> Value:
        """The value that a trial proposes."""
        if self.choices:
            chosen: Value = trial.suggest_categorical(self.key, self.choices)
            return chosen
        assert self.low is not None
        assert self.high is not None
        if self.is_whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def proposed(self, trial: "optuna.trial.FrozenTrial") -> bool:
        """Whether it proposed the value that a trial has of this key, which a journal only says."""
        value, choices = trial.params[self.key], getattr(trial.distributions[self.key], "choices", ())
        if choices or self.choices:
            return choices == self.choices and any(type(it) is type(value) and it == value for it in choices)
        assert self.low is not None
        assert self.high is not None
        return type(value) is (int if self.is_whole else float) and self.low <= value <= self.high

    def of(self, kind: type[int] | type[float] | None) -> Self:
        """The same for a key that takes whole numbers or real ones, however the range is written; None: as written."""
        if kind is float:
            return self._converted(float)
        numbers = [it for it in (self.low, self.high, self.step) if it is not None]
        return self._converted(int) if kind is int and all(it == int(it) for it in numbers) else self

    def _converted(self, kind: type[int] | type[float]) -> Self:
        low, high, step = (None if it is None else kind(it) for it in (self.low, self.high, self.step))
        return replace(self, low=low, high=high, step=step)

    @property
    def is_whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def extremes(self) -> list[Value]:
        """Values that represent all the others when a configuration is checked."""
        return list(self.choices) or [self.low, self.high]

    def faults(self) -> Iterator[str]:
        if self.choices and (self.low is not None or self.high is not None):
            yield "has choices and a range. Give low and high, or choices"
        elif not self.choices and (self.low is None or self.high is None):
            yield "needs choices, or low and high"
        elif any(not isinstance(value, bool | int | float | str | None) for value in self.choices):
            yield f"a choice must be a single value (got {list(self.choices)})"
        elif not all(is_number(it) for it in self.choices if type(it) in (int, float)):
            yield f"a choice must be finite, and {LARGEST:g} at most (got {list(self.choices)})"
        elif not self.choices:
            yield from self._faults_of_range()

    def _faults_of_range(self) -> Iterator[str]:
        numbers = [x for x in (self.low, self.high, self.step) if x is not None]
        if any(isinstance(x, bool) or not isinstance(x, int | float) for x in numbers):
            yield f"low, high and step must be numbers (got {numbers}). Write 1.0e-4, with a decimal point"
            return
        # Beyond, Optuna could not compute with it, nor would its journal be read again.
        if not all(map(is_number, numbers)):
            yield f"low, high and step must be finite, and {LARGEST:g} at most (got {numbers})"
            return
        assert self.low is not None
        assert self.high is not None
        if self.low >= self.high:
            yield f"low must be below high (got {self.low} and {self.high})"
        if self.log and self.low <= 0:
            yield f"log: true needs low above 0 (got {self.low})"
        if self.log and self.step is not None:
            yield "log: true cannot have a step"
        if not isinstance(self.log, bool):
            yield f"log must be true or false (got {self.log})"
        if self.step is not None and self.step <= 0:
            yield f"step must be above 0 (got {self.step})"

    def faults_of_kind(self, kind: type[int] | type[float] | None) -> Iterator[str]:
        """What is wrong with it for a key that takes whole numbers or real ones."""
        if self.choices:
            return
        if kind is int and not self.is_whole:
            yield f"low and high must be whole numbers (got {self.low} and {self.high})"
        elif self.is_whole and self.step is not None and self.step != int(self.step):
            yield f"step must be a whole number (got {self.step})"


def override(key: str, value: Value) -> str:
    """A value in the form of the command line, where it can be nothing but a value of a run's own key.

    Raises ConfigError if the key is none: the space, or the journal that it comes from, may be anybody's.
    """
    if not KEY.fullmatch(key) or key.partition(".")[0] in NOT_SEARCHED:
        raise ConfigError([f"search: {key}: cannot be searched. Name a key of a run, such as algorithm.gamma."])
    match value:
        case None:
            return f"{key}=null"
        case str() if not PLAIN.fullmatch(value):
            return f"{key}={quoted(value)}"
    return f"{key}={value}"


def read(name: str, config_dirs: Sequence[Path]) -> list[Dimension]:
    """The space `name` of group `search`, from one of the user's folders or from those shipped with seqrl.

    Raises ConfigError with all of its faults.
    """
    folders = [*config_dirs, CONF]
    files = [folder / "search" / f"{name}.yaml" for folder in folders]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        known = sorted({path.stem for folder in folders for path in (folder / "search").glob("*.yaml")})
        raise ConfigError([f"search: there is no {name}.{nearest(name, known)} Choose from {', '.join(known)}."])
    # Those of the user's own were looked through before, as all that --config-dir names.
    space: Any = OmegaConf.to_container(OmegaConf.load(file))
    if not isinstance(space, dict) or not space:
        raise ConfigError([f"search: {file} has no keys. Write algorithm.epochs: {{choices: [2, 4]}}."])
    dimensions: list[Dimension] = []
    wrong: list[str] = []
    for key, values in space.items():
        try:
            dimension = _dimension(str(key), values)
        except ValueError as error:
            wrong.append(f"search {name}: {key}: {error}.")
            continue
        wrong += [f"search {name}: {key}: {fault}." for fault in dimension.faults()]
        dimensions.append(dimension)
    if wrong:
        raise ConfigError(wrong)
    return dimensions


def _dimension(key: str, values: Any) -> Dimension:
    if not isinstance(values, dict):
        raise ValueError(f"must be a range or choices (got {values!r}), such as {{low: 0.1, high: 1.0}}")
    if unknown := [word for word in values if word not in WORDS]:
        raise ValueError(f"there is no {unknown[0]}.{nearest(str(unknown[0]), WORDS)} Choose from {', '.join(WORDS)}")
    choices = values.get("choices", [])
    if not isinstance(choices, list):
        raise ValueError(f"choices must be a list (got {choices!r})")
    return Dimension(key, **{**values, "choices": tuple(choices)})
