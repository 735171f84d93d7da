"""TensorBoard: the curves, and a row in the table of its HParams tab."""

import io
import os
import platform
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from threading import get_ident
from types import SimpleNamespace
from typing import Any

from seqrl.files import foreign, insist_on_folder, write
from seqrl.loggers.base import About, Logger, Row
from seqrl.machine import wall_time
from seqrl.text import dotted

# What runs are compared by: these sections and keys, and the overrides of their command lines.
SECTIONS = ["algorithm", "env", "network", "sequence_learning"]
KEYS = ["parallel", "rollout_length", "seed"]
NO_HYPERPARAMETERS = ["hydra", "logger", "resume", "trust", "validate"]
METRICS = ["rollout/return_mean", "evaluation/return_mean", "time/steps_per_second"]

# How event files are called, and the last moment that their names can tell.
NAMED, LATEST = re.compile(r"events\.out\.tfevents\.(\d{10})\."), 9_999_999_999
# What an event file begins with.
MARK = "brain.Event:2"

Hyperparameters = dict[str, bool | float | str | None]


class TensorBoard(Logger):
    """Scalars in an event file, and the HParams tab's data in a file beside it: `tensorboard --logdir outputs`."""

    def __init__(self, folder: Path, env_steps: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and not always needed
        from torch.utils.tensorboard.writer import FileWriter

        self._folder = folder
        self._open = partial(_opened, SummaryWriter, folder)
        self._open_hparams = partial(_opened, FileWriter, folder, filename_suffix=".hparams")
        # The run will write again whatever it wrote after the checkpoint that it resumes from.
        self._writer: SummaryWriter | None = self._open(purge_step=env_steps + 1 if env_steps else None)
        # A writer opens its file by name for every event, and a new one makes a folder that is not there.
        self._held: int | None = os.open(folder, os.O_RDONLY)
        self._hparams: FileWriter | None = None

    def begin(self, about: About) -> None:
        # If a run has several such files, TensorBoard believes the first it reads: the old ones must go.
        for old in _written(self._folder, "hparams"):
            old.unlink(missing_ok=True)
        self._hparams = self._open_hparams()
        for summary in _began(hyperparameters(about), about):
            self._hparams.add_summary(summary)
        self._hparams.flush()

    def write(self, row: Row, env_steps: int) -> None:
        self._insist_on_folder()
        self._writer = self._writer or self._open()
        try:
            for name, value in row.items():
                self._writer.add_scalar(name, value, env_steps)
        except Exception:
            # A writer that has failed once never writes again: the next row opens a new one.
            self._writer = None
            raise

    def end(self, status: str) -> None:
        self._insist_on_folder()
        if self._hparams:
            self._hparams.add_summary(_ended(status))

    def close(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None
        for writer in (self._writer, self._hparams):
            if writer:
                writer.close()

    def _insist_on_folder(self) -> None:
        """Raise OSError if the folder was moved away or removed, so that none is made in its place."""
        if self._held is not None:
            insist_on_folder(self._held, self._folder)


def _opened(kind: Callable[..., Any], folder: Path, **more: Any) -> Any:
    """A writer, whose event file is called after the moment at which it comes."""
    from tensorboard.summary.writer import event_file_writer

    clock, moment, opener = event_file_writer.time, _moment(folder), get_ident()
    # The writer's own thread asks for the time, too.
    event_file_writer.time = SimpleNamespace(time=lambda: moment if get_ident() == opener else wall_time())
    try:
        return kind(str(folder), **more)
    finally:
        event_file_writer.time = clock


def _moment(folder: Path) -> float:
    """The time, or one behind all event files: TensorBoard reads them by their names, and the clock may be behind."""
    there = [int(found[1]) for path in folder.glob("events.*") if (found := NAMED.match(path.name))]
    return max([wall_time(), *(moment + 1 for moment in there if moment < LATEST)])


def _written(folder: Path, kind: str) -> list[Path]:
    """Event files of a kind in a folder; what only has such a name is somebody else's."""
    return [path for path in folder.glob(f"events.out.tfevents.*.{kind}") if not foreign(path, MARK)]


def show(folder: Path, name: str, gif: bytes, env_steps: int) -> None:
    """Put an animation into a new event file of a folder, replacing that of an earlier one.

    Raises OSError if it cannot be written; the earlier one then stays.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    # A GIF's size follows its signature.
    width, height = (int.from_bytes(gif[offset : offset + 2], "little") for offset in (6, 8))
    image = Summary.Image(encoded_image_string=gif, width=width, height=height, colorspace=3)
    summary, now = Summary(value=[Summary.Value(tag=name, image=image)]), _moment(folder)
    # TensorBoard's own writer writes in a thread, where a full disk is nobody's error.
    data = io.BytesIO()
    records = RecordWriter(data)
    for event in (Event(file_version=MARK), Event(step=env_steps, summary=summary)):
        event.wall_time = now
        records.write(event.SerializeToString())
    before = _written(folder, "film")
    path = folder / f"events.out.tfevents.{int(now):010d}.{platform.node()}.{secrets.token_hex(4)}.film"
    write(path, data.getvalue())
    for old in before:
        old.unlink(missing_ok=True)


def hyperparameters(about: About) -> Hyperparameters:
    """Values to compare runs by, by dotted key: single values only, None where a key is null."""
    settings = dict(dotted(about.config))
    overrides = dict(override.lstrip("+~").partition("=")[::2] for override in about.overrides)
    compared = {
        key: settings.get(key, text)
        for key, text in overrides.items()
        if key.partition(".")[0].partition("/")[0] not in NO_HYPERPARAMETERS
    }
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if name == "_target_" and section in ("algorithm", "env"):
            compared[section] = str(value).rpartition(".")[2]
        elif key in KEYS or (section in SECTIONS and not key.endswith("_target_") and not isinstance(value, list)):
            compared[key] = value
    return {
        key: value if isinstance(value, bool | float | int | None) else str(value) for key, value in compared.items()
    }


def is_swept(key: str, about: About) -> bool:
    """Whether the sweep varies a key, as the name of its point says."""
    return about.group is not None and f"{key}-" in about.name


def _began(hparams: Hyperparameters, about: About) -> Iterator[Any]:
    """The columns of the table, and this run's cells."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    start = plugin_data_pb2.SessionStartInfo(start_time_secs=wall_time())
    columns = []
    for name, value in sorted(hparams.items()):
        # What differs is shown first.
        column = api_pb2.HParamInfo(name=name, type=api_pb2.DATA_TYPE_FLOAT64, differs=is_swept(name, about))
        if isinstance(value, bool):
            column.type = api_pb2.DATA_TYPE_BOOL
            column.domain_discrete.extend([False, True])
            start.hparams[name].bool_value = value
        elif isinstance(value, str):
            column.type = api_pb2.DATA_TYPE_STRING
            start.hparams[name].string_value = value
        elif value is not None:
            start.hparams[name].number_value = value
        # A null value keeps its column: TensorBoard takes the columns of all runs from one of them.
        columns.append(column)
    shown = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in METRICS]
    experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=shown)
    yield _summary(metadata.EXPERIMENT_TAG, {"experiment": experiment})
    yield _summary(metadata.SESSION_START_INFO_TAG, {"session_start_info": start})


def _ended(status: str) -> Any:
    """How this run ended; unknown if it was interrupted, as it may be resumed."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    names = {"finished": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE}
    end = plugin_data_pb2.SessionEndInfo(status=names.get(status, api_pb2.STATUS_UNKNOWN), end_time_secs=wall_time())
    return _summary(metadata.SESSION_END_INFO_TAG, {"session_end_info": end})


def _summary(tag: str, content: Mapping[str, Any]) -> Any:
    """A summary for the HParams plugin, which reads the metadata of an empty tensor."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    data = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    return Summary(value=[Summary.Value(tag=tag, metadata=data, tensor=metadata.NULL_TENSOR)])
