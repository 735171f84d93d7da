"""Every logger writes what its tool can read, and continues when a run is resumed."""

import csv
import json
import math
import os
import struct
import subprocess
import sys
import tracemalloc
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

from seqrl.config.paths import CONF
from seqrl.config.settle import changes
from seqrl.config.validate import faults
from seqrl.errors import ConfigError, StoppedError
from seqrl.loggers import About, Csv, Jsonl, Logger, Mlflow, TensorBoard, Wandb
from seqrl.loggers.tensorboard import hyperparameters, show
from seqrl.run.outputs import Outputs, open_loggers
from tests.parts import room
from tests.programs import run_program

TINY = ["network.hidden_size=8", "network.lstm_hidden_size=8", "evaluation.episodes=4", "parallel=2"]
TINY += ["env.max_episode_steps=20", "episodes=2"]
ABOUT = About(
    name="0_seed-3",
    group="how_far_back",
    config={"seed": 3, "algorithm": {"gamma": 0.9, "anneal": ["learning_rate"]}, "env": {"key": "${oc.env:MY_KEY}"}},
    overrides=["seed=3"],
)


def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", list(overrides))


def train(folder: Path, *arguments: str, program: str = "") -> subprocess.CompletedProcess[str]:
    start = ["-c", f"{program}\nimport runpy; runpy.run_module('seqrl.train', run_name='__main__', alter_sys=True)"]
    return run_program(folder, *(start if program else ["-m", "seqrl.train"]), *TINY, *arguments)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_jsonl_writes_null_for_values_that_are_not_finite(tmp_path):
    logger = Jsonl(tmp_path)
    logger.write({"a": 1.5, "b": math.nan}, 7)
    logger.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"env_steps": 7, "a": 1.5, "b": None}


def test_csv_adds_a_column_for_a_new_name(tmp_path):
    logger = Csv(tmp_path)
    logger.write({"a": 1.5}, 10)
    assert (tmp_path / "metrics.csv").read_text() == "env_steps,a\n10,1.5\n"
    logger.write({"a": math.nan, "b, quoted": 2.0}, 20)
    logger.write({"b, quoted": 3.0}, 30)
    logger.close()
    assert (tmp_path / "metrics.csv").read_text() == 'env_steps,a,"b, quoted"\n10,1.5,\n20,nan,2.0\n30,,3.0\n'


def test_csv_resumes_after_the_checkpoint_and_drops_a_line_that_was_cut_off(tmp_path):
    logger = Csv(tmp_path)
    for step in (10, 20, 30):
        logger.write({"a": step / 10}, step)
    logger.close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("15,4")
    logger = Csv(tmp_path, 20)
    logger.write({"b": 5.0}, 30)
    logger.close()
    assert table(tmp_path / "metrics.csv") == [
        {"env_steps": "10", "a": "1.0", "b": ""},
        {"env_steps": "20", "a": "2.0", "b": ""},
        {"env_steps": "30", "a": "", "b": "5.0"},
    ]


def rows_of(logger: type[Jsonl] | type[Csv], folder: Path) -> Path:
    """A file of five rows, after 10 to 50 steps."""
    first = logger(folder)
    for step in (10, 20, 30, 40, 50):
        first.write({"a": step / 10, "b": 0.5}, step)
    first.close()
    return folder / ("metrics.jsonl" if logger is Jsonl else "metrics.csv")


DAMAGES = {
    "a name": ("env_steps", "env_stepz"),
    "a word": (None, "garbage"),
    "nothing": (None, ""),
    "half": (None, '{"env_steps": 20, "a'),
    "zeros": (None, "\0" * 20),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_of_metrics_jsonl_are_named_when_they_are_left_out(tmp_path, damage):
    path = rows_of(Jsonl, tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    old, new = DAMAGES[damage]
    lines[1] = lines[1].replace(old, new) if old else f"{new}\n"
    path.write_text("".join(lines))
    resumed = Jsonl(tmp_path, 40)
    assert resumed.begin(ABOUT) == "warning: metrics.jsonl: line 2 is not a row of scalars. 1 of 5 lines are left out"
    resumed.close()
    assert [json.loads(line)["env_steps"] for line in path.read_text().splitlines()] == [10, 30, 40]


@pytest.mark.parametrize(
    "line", ["garbage", "", "20,2.0", "20,2.0,0.5,1.0", "2o,2.0,0.5", '20,"2.0,0.5', "2" * 200_000]
)
def test_damaged_rows_of_metrics_csv_are_named_when_they_are_left_out(tmp_path, line):
    path = rows_of(Csv, tmp_path)
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text("\n".join([*lines, "garbage\n"]))
    resumed = Csv(tmp_path, 40)
    assert resumed.begin(ABOUT) == "warning: metrics.csv: line 3 is not a row of scalars. 2 of 7 lines are left out"
    resumed.close()
    assert [row["env_steps"] for row in table(path)] == ["10", "30", "40"]
    assert list(table(path)[0]) == ["env_steps", "a", "b"]


def test_damaged_rows_of_metrics_csv_are_named_when_a_new_column_leaves_them_out(tmp_path, caplog):
    logger = Csv(tmp_path)
    logger.write({"a": 1.0}, 10)
    with (tmp_path / "metrics.csv").open("r+") as file:
        file.write("env_steps,a\n1o")
    logger.write({"b": 2.0}, 20)
    logger.close()
    assert table(tmp_path / "metrics.csv") == [{"env_steps": "20", "a": "", "b": "2.0"}]
    assert caplog.messages == ["warning: metrics.csv: line 2 is not a row of scalars. 1 of 2 lines are left out"]


def test_damage_and_a_hole_are_both_said(tmp_path):
    path = rows_of(Jsonl, tmp_path)
    with path.open("a") as file:
        file.write("garbage\n")
    resumed = Jsonl(tmp_path, 60)
    assert resumed.begin(ABOUT) == (
        "warning: metrics.jsonl: line 6 is not a row of scalars. 1 of 6 lines are left out\n"
        "warning: metrics.jsonl ends at 50 steps and the run resumes at 60: the rows between are lost"
    )
    resumed.close()


@pytest.mark.parametrize("logger", [Jsonl, Csv])
@pytest.mark.parametrize("bytes_left", [1, 5])
def test_half_a_line_at_the_end_is_no_damage(tmp_path, logger, bytes_left):
    path = rows_of(logger, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:bytes_left])
    resumed = logger(tmp_path, 50)
    resumed.close()
    assert path.read_bytes() == whole
    assert resumed.begin(ABOUT) is None


def test_a_last_row_of_metrics_jsonl_that_nothing_ends_is_kept(tmp_path):
    path = rows_of(Jsonl, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    resumed = Jsonl(tmp_path, 50)
    resumed.close()
    assert path.read_bytes() == whole
    assert resumed.begin(ABOUT) is None


@pytest.mark.parametrize(("logger", "name"), [(Jsonl, "metrics.jsonl"), (Csv, "metrics.csv")])
def test_a_row_that_the_file_ends_with_already_is_not_written_once_more(tmp_path, logger, name):
    first = logger(tmp_path)
    first.write({"rollout/return_mean": 1.5}, 10)
    first.write({"evaluation/return_mean": 2.5}, 10)
    first.close()
    before = (tmp_path / name).read_text()
    for _ in range(2):
        # As a run that is finished does when it is resumed.
        again = logger(tmp_path, 10)
        again.write({"evaluation/return_mean": 2.5}, 10)
        again.close()
    assert (tmp_path / name).read_text() == before
    other = logger(tmp_path, 10)
    other.write({"evaluation/return_mean": 3.5}, 10)
    other.close()
    assert len((tmp_path / name).read_text().splitlines()) == len(before.splitlines()) + 1


def test_a_table_that_was_replaced_by_another_runs_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    logger = Csv(tmp_path / "run")
    logger.write({"a": 1.0}, 1)
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text("env_steps,a\n7,7.0\n")
    with pytest.raises(OSError, match="was moved away, or replaced by another"):
        logger.write({"b": 1.0}, 2)
    assert (tmp_path / "run" / "metrics.csv").read_text() == "env_steps,a\n7,7.0\n"


def as_an_editor_does(path):
    copy = path.with_suffix(".edited")
    copy.write_text(path.read_text().replace("1", "2"))
    copy.replace(path)


def as_a_link(path):
    as_an_editor_does(path)
    path.with_suffix(".real").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(path.with_suffix(".real"))


@pytest.mark.parametrize("lose", [as_an_editor_does, as_a_link, Path.unlink])
@pytest.mark.parametrize("kind", [Csv, Jsonl])
def test_a_file_that_is_replaced_or_removed_meanwhile_loses_no_row(tmp_path, kind, lose):
    texts = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        logger = kind(folder)
        path = folder / f"metrics.{kind.__name__.lower()}"
        for step, name in enumerate("aabbb"):
            logger.write({name: 1.0}, step)
            if folder.name == "b" and step in (0, 1, 3):
                lose(path)
        if folder.name == "b":
            lose(path)
        logger.close()
        texts.append(path.read_text())
        assert not path.is_symlink()
    assert texts[0] == texts[1]
    assert len(texts[0].splitlines()) >= 5


@pytest.mark.parametrize("kind", [Csv, Jsonl])
def test_rows_that_a_full_disk_does_not_take_come_later_whatever_columns_they_bring(tmp_path, kind):
    rows = [{"a": 1.0}, {"b": 2.0}, {"a": 3.0}, {"c": 4.0, "b": 4.5}, {"a": 5.0}]
    texts = []
    for folder, full in ((tmp_path / "a", ()), (tmp_path / "b", (1, 2, 3))):
        folder.mkdir()
        logger = kind(folder)
        for step, row in enumerate(rows):
            with room(10) if step in full else nullcontext():
                with pytest.raises(OSError, match="large") if step in full else nullcontext():
                    logger.write(row, step)
                with pytest.raises(OSError, match="large") if step in full else nullcontext():
                    logger.sync()
        logger.close()
        texts.append((folder / f"metrics.{kind.__name__.lower()}").read_text())
    assert texts[0] == texts[1]
    if kind is Csv:
        assert texts[0] == "env_steps,a,b,c\n0,1.0,,\n1,,2.0,\n2,3.0,,\n3,,4.5,4.0\n4,5.0,,\n"


def test_lines_wait_while_a_folder_stands_in_their_way(tmp_path):
    logger = Jsonl(tmp_path)
    path = tmp_path / "metrics.jsonl"
    logger.write({"a": 1.0}, 1)
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match=str(path)):
        logger.write({"a": 2.0}, 2)
    path.rmdir()
    logger.sync()
    assert [json.loads(line)["env_steps"] for line in path.read_text().splitlines()] == [1, 2]
    logger.close()


@pytest.mark.parametrize("kind", [TensorBoard, Csv, Jsonl])
@pytest.mark.parametrize("replaced", [False, True])
def test_no_logger_makes_a_folder_in_place_of_one_that_was_moved_or_writes_into_it(tmp_path, kind, replaced):
    folder = tmp_path / "run"
    folder.mkdir()
    logger = kind(folder)
    logger.begin(About("run"))
    logger.write({"a": 1.0}, 1)
    if kind is TensorBoard:
        logger._writer.flush()
    folder.rename(tmp_path / "moved")
    if replaced:
        folder.mkdir()
    # What has its file open goes on there; what would have to open it by name says so, however often it tries.
    for step in (2, 3):
        with pytest.raises(OSError, match="was moved away") if kind is not Jsonl else nullcontext():
            logger.write({"b": 1.0}, step)
    for last in (lambda: logger.end("failed"), logger.close):
        with suppress(OSError):
            last()
    assert not replaced or not list(folder.iterdir())
    assert replaced or not folder.exists()


def test_tensorboard_goes_on_in_a_folder_that_was_moved_back(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    logger = TensorBoard(folder)
    folder.rename(tmp_path / "moved")
    with pytest.raises(OSError, match="was moved away"):
        logger.write({"a": 1.0}, 1)
    (tmp_path / "moved").rename(folder)
    logger.write({"a": 2.0}, 2)
    logger.close()
    events = EventAccumulator(str(folder)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("a")] == [(2, 2.0)]


def test_csv_keeps_its_rows_if_a_column_cannot_be_added(tmp_path, monkeypatch):
    logger = Csv(tmp_path)
    logger.write({"a": 1.0}, 1)
    with monkeypatch.context() as patch:
        patch.setattr("seqrl.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            logger.write({"a": 2.0, "b": 2.0}, 2)
    logger.write({"a": 3.0, "b": 3.0}, 3)
    logger.close()
    found = [(row["env_steps"], row["b"]) for row in table(tmp_path / "metrics.csv")]
    assert found == [("1", ""), ("2", "2.0"), ("3", "3.0")]


def test_tensorboard_removes_no_file_that_only_has_the_name_of_its_own(tmp_path):
    names = [tmp_path / f"events.out.tfevents.mine.{kind}" for kind in ("hparams", "film")]
    for name in names:
        name.write_text("precious")
    for _ in range(2):
        logger = TensorBoard(tmp_path)
        logger.begin(ABOUT)
        logger.close()
        show(tmp_path, "film", b"GIF89a" + bytes(10), 1)
    assert [name.read_text() for name in names] == ["precious"] * 2
    assert len(list(tmp_path.glob("*.hparams"))) == len(list(tmp_path.glob("*.film"))) == 2


def hparams_tab(logdir: Path):
    """Columns of hyperparameters and of metrics, and sessions by name, as the HParams plugin reads them."""
    runs = EventMultiplexer()
    runs.AddRunsFromDirectory(str(logdir))
    runs.Reload()
    request, provider = RequestContext(), MultiplexerDataProvider(runs, str(logdir))
    backend = Context(TBContext(data_provider=provider))
    known = backend.hparams_metadata(request, "")
    hyperparameters = backend.hparams_from_data_provider(request, "", 0)
    experiment = backend.experiment_from_metadata(request, "", True, known, hyperparameters)
    query = api_pb2.ListSessionGroupsRequest(slice_size=100, allowed_statuses=[0, 1, 2, 3], include_metrics=True)
    query.col_params.extend(api_pb2.ColParams(hparam=column.name) for column in experiment.hparam_infos)
    query.col_params.extend(api_pb2.ColParams(metric=column.name) for column in experiment.metric_infos)
    groups = Handler(request, backend, "", query).run().session_groups
    sessions = {session.name: (session, group.hparams) for group in groups for session in group.sessions}
    assert sum(len(group.sessions) for group in groups) == len(sessions) == len(runs.Runs())
    return [c.name for c in experiment.hparam_infos], [c.name.tag for c in experiment.metric_infos], sessions


@pytest.mark.slow
def test_tensorboard_compares_the_points_of_a_sweep(tmp_path):
    swept = ["algorithm.gamma=0.9,0.99", "sequence_learning.grad_clip_norm=5,null"]
    done = train(tmp_path, "-m", *swept, "logger=tensorboard", "sweep=s")
    assert done.returncode == 0, done.stderr
    columns, metrics, sessions = hparams_tab(tmp_path / "s")
    assert metrics == ["rollout/return_mean", "evaluation/return_mean", "time/steps_per_second"]
    # What the sweep varies comes first.
    assert columns[:2] == ["algorithm.gamma", "sequence_learning.grad_clip_norm"]
    assert {"algorithm", "env", "seed", "episodes"} <= set(columns)
    assert len(sessions) == 4
    for name, (session, hparams) in sessions.items():
        folder = tmp_path / "s" / name
        facts = json.loads((folder / "manifest.json").read_text())
        assert session.status == api_pb2.STATUS_SUCCESS
        shown = {value.name.tag: value.value for value in session.metric_values}
        assert shown["evaluation/return_mean"] == pytest.approx(facts["result"])
        assert set(shown) == set(metrics)
        assert f"algorithm.gamma-{hparams['algorithm.gamma'].number_value:g}" in name
        clipped = "sequence_learning.grad_clip_norm" in hparams
        assert clipped == name.endswith("grad_clip_norm-5")
        assert hparams["algorithm"].string_value == "SequencePPOAlgorithm"
        assert facts["sweep"] == "s"
        # Whatever you choose, reports find their file.
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("first", "then", "shown"),
    [
        ("failed", "finished", api_pb2.STATUS_SUCCESS),
        ("interrupted", None, api_pb2.STATUS_UNKNOWN),
        ("failed", None, api_pb2.STATUS_FAILURE),
        ("failed", "", api_pb2.STATUS_UNKNOWN),
    ],
)
def test_a_resumed_run_is_one_session_with_its_final_status(tmp_path, first, then, shown):
    for step, status in enumerate([first, then]):
        if status is not None:
            logger = TensorBoard(tmp_path / "run", step)
            logger.begin(ABOUT)
            logger.write({"rollout/return_mean": float(step)}, step + 1)
            if status:
                logger.end(status)
            logger.close()
    _, _, sessions = hparams_tab(tmp_path)
    ((session, _),) = sessions.values()
    assert session.status == shown


def test_hyperparameters_are_the_single_values_that_runs_are_compared_by():
    config = {
        "seed": 1,
        "checkpoint_keep": 2,
        "total_steps": None,
        "algorithm": {"_target_": "seqrl.algorithms.PPOAlgorithm", "gamma": 0.9, "anneal": ["a"]},
        "env": {"_target_": "seqrl.envs.TMaze", "hidden": [1, 3], "kwargs": {"size": 3, "key": "${oc.env:KEY}"}},
        "logger": {"jsonl": {"_target_": "seqrl.loggers.Jsonl"}},
    }
    overrides = ["network=mlp", "total_steps=null", "env.hidden=[1,3]", "logger=csv", "trust=[a]", "hydra.run.dir=x"]
    assert hyperparameters(About("", None, config, overrides)) == {
        "network": "mlp",
        "total_steps": None,
        "env.hidden": "[1, 3]",
        "seed": 1,
        "algorithm": "PPOAlgorithm",
        "algorithm.gamma": 0.9,
        "env": "TMaze",
        "env.kwargs.size": 3,
        "env.kwargs.key": "${oc.env:KEY}",
    }


class Recorder(Logger):
    """Keeps every call."""

    def __init__(self, folder=None, env_steps=0):
        self.calls = []

    def begin(self, about):
        self.calls.append(about.name)
        return "hello"

    def write(self, row, env_steps):
        self.calls.append(env_steps)

    def end(self, status):
        self.calls.append(status)

    def close(self):
        self.calls.append("closed")


class Plain:
    """A logger without the optional methods."""

    def __init__(self, folder, env_steps): ...

    def write(self, row, env_steps): ...

    def close(self): ...


@pytest.mark.parametrize(
    ("error", "status"), [(None, "finished"), (StoppedError("", 143), "interrupted"), (OSError(), "failed")]
)
def test_loggers_learn_how_a_run_begins_and_ends(tmp_path, error, status):
    printed = []
    loggers = open_loggers({"recorder": Recorder, "plain": lambda: Plain(tmp_path, 0)}, ABOUT, printed.append)
    outputs = Outputs(tmp_path, printed.append)
    outputs.loggers = loggers
    with suppress(OSError, StoppedError), outputs:
        outputs.write({}, 5)
        if error:
            raise error
    assert loggers["recorder"].calls == ["0_seed-3", 5, status, "closed"]
    assert printed == ["hello"]


@pytest.mark.slow
def test_a_logger_that_cannot_be_opened_is_reported_once_and_the_run_continues(tmp_path):
    (tmp_path / "mine.py").write_text(
        "class NoFolder:\n"
        "    def __init__(self, folder, env_steps): raise OSError('no room\\nat all')\n"
        "class NoServer:\n"
        "    def __init__(self, folder, env_steps): ...\n"
        "    def begin(self, about): raise RuntimeError('no answer')\n"
    )
    own = ["+logger.a._target_=mine.NoFolder", "+logger.b._target_=mine.NoServer", "trust=[mine]", "logger=csv"]
    done = train(tmp_path, *own, "hydra.run.dir=run")
    assert (done.returncode, done.stderr) == (0, "")
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning:")]
    assert warnings == [
        "warning: logger a: OSError: no room (mine.py:2). Training continues without it.",
        "warning: logger b: RuntimeError: no answer (mine.py:5). Training continues without it.",
    ]
    assert f"curves        {Path('run') / 'metrics.jsonl'}" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    written = [{k: float(v) for k, v in row.items() if v} for row in table(tmp_path / "run" / "metrics.csv")]
    assert len(written) == 3
    assert written == rows


@pytest.mark.parametrize("logger", ["Wandb", "Mlflow"])
def test_a_logger_whose_package_is_missing_is_named_with_its_extra(monkeypatch, logger):
    package = logger.lower()
    monkeypatch.setitem(sys.modules, package, None)
    assert faults(composed(f"logger=[tensorboard,{package}]")) == [
        f"logger: {package} needs the package {package}, which is not installed. "
        f"Install it: pip install 'seqrl[{package}]'."
    ]


def test_a_run_does_not_start_if_its_loggers_package_is_missing(tmp_path):
    done = train(tmp_path, "logger=wandb", program="import sys; sys.modules['wandb'] = None")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("seqrl: error: logger: wandb needs the package wandb")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("choice", ["tensorboard", "jsonl", "csv", "[csv,jsonl]", "[]"])
def test_metrics_jsonl_is_written_whatever_you_choose(choice):
    assert composed(f"logger={choice}").logger.jsonl._target_ == "seqrl.loggers.Jsonl"


def test_a_run_with_other_loggers_is_the_same_run():
    before = OmegaConf.create({"logger": {"jsonl": {"_target_": "seqrl.loggers.Jsonl"}}, "seed": 0, "loggers": 1})
    now = OmegaConf.create({"logger": {"csv": {"_target_": "seqrl.loggers.Csv"}}, "seed": 0, "loggers": 2})
    assert changes(before, now) == ["loggers: 1 -> 2"]


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """The library, on a machine where nobody is logged in."""
    library = pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    library.teardown()
    yield library
    library.teardown()


def records(path: Path):
    """Records of an offline run: protocol buffers in a log of LevelDB's format. One block of 32 KB is enough here."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, offset = path.read_bytes(), 7
    assert len(data) < 32768
    while offset < len(data):
        _, length, kind = struct.unpack_from("<IHB", data, offset)
        assert kind == 1
        record = Record()
        record.ParseFromString(data[offset + 7 : offset + 7 + length])
        yield record
        offset += 7 + length


def test_wandb_keeps_an_offline_run_without_a_prompt(tmp_path, wandb):
    logger = Wandb(tmp_path, project="memory", mode="offline")
    assert logger.begin(ABOUT) is None
    logger.write({"rollout/return_mean": 1.0}, 10)
    logger.write({"rollout/return_mean": 2.0}, 20)
    logger.write({"evaluation/return_mean": 3.0}, 20)
    logger.end("finished")
    logger.close()
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    kept = list(records(path))
    (run,) = [r.run for r in kept if r.WhichOneof("record_type") == "run"]
    assert (run.project, run.run_group, run.display_name) == ("memory", "how_far_back", "0_seed-3")
    assert run.run_id == (tmp_path / "wandb_run_id").read_text()
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["algorithm"]["gamma"] == 0.9
    assert config["env"]["key"] == "${oc.env:MY_KEY}"
    rows = [
        {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in r.history.item}
        for r in kept
        if r.WhichOneof("record_type") == "history"
    ]
    assert [(r["_step"], r["rollout/return_mean"], r.get("evaluation/return_mean")) for r in rows] == [
        (10, 1.0, None),
        (20, 2.0, 3.0),
    ]
    assert [r.exit.exit_code for r in kept if r.WhichOneof("record_type") == "exit"] == [0]


@pytest.mark.parametrize(
    ("key", "why"),
    [("", "you are not logged in"), ("0" * 40, "it could not start a run online")],
    ids=["login", "network"],
)
def test_wandb_continues_offline_without_login_or_network_and_says_so(tmp_path, wandb, monkeypatch, key, why):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    logger = Wandb(tmp_path, timeout_seconds=1.0)
    line = logger.begin(ABOUT)
    logger.write({"x": 1.0}, 1)
    logger.end("failed")
    logger.close()
    (path,) = tmp_path.glob("wandb/offline-run-*")
    assert line.startswith(f"wandb: {why}")
    assert line.endswith(f"/wandb/{path.name}")


@pytest.mark.parametrize("folder", ["wandb", ".wandb"])
@pytest.mark.parametrize(
    ("settings", "others"),
    [
        ("base_url = http://elsewhere\napi_key = x\nproject = y", "api_key, base_url"),
        ("entity = somebody", "entity"),
        ("project = y\nmode = offline", None),
    ],
)
def test_wandb_is_told_nothing_by_a_file_of_the_working_folder(tmp_path, monkeypatch, folder, settings, others):
    """The address could be anybody's, with a key in what is sent there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    Path(folder).mkdir()
    Path(folder, "settings").write_text(f"[default]\n{settings}\n")
    if others:
        with pytest.raises(ConfigError, match=rf"^{folder}/settings: says {others} to W&B, and may be anybody's"):
            Wandb(tmp_path).begin(ABOUT)
    else:
        Wandb(tmp_path)._insist_on_own_settings()
    monkeypatch.setenv("WANDB_BASE_URL", "http://mine")
    if others != "api_key, base_url":
        Wandb(tmp_path, entity="me")._insist_on_own_settings()


@pytest.mark.parametrize("content", [b"base_url", b"\xff\xfe", None])
def test_what_wandb_could_read_there_and_seqrl_cannot_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    Path("wandb").mkdir()
    if content is None:
        os.mkfifo("wandb/settings")
    else:
        Path("wandb/settings").write_bytes(content)
    with pytest.raises(ConfigError, match=r"wandb/settings: .*, and W&B would read it\. Remove it\."):
        Wandb(tmp_path)._insist_on_own_settings()


def test_wandb_sends_only_new_rows(tmp_path):
    class Run:
        starting_step, sent = 21, []

        def log(self, row, step):
            self.sent.append((row, step))

    logger = Wandb(tmp_path)
    logger._run = Run()
    evaluation = {"evaluation/return_mean": 1.0}
    for step in (10, 20, 30):
        logger.write({"x": step}, step)
        logger.write(evaluation, step)
    # The last evaluation may not be there, of which nobody tells.
    assert Run.sent == [(evaluation, 21), ({"x": 30}, 30), (evaluation, 30)]


def test_mlflow_keeps_a_run_and_resumes_it(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}"
    for start, status in ((0, "interrupted"), (1, "finished")):
        logger = Mlflow(tmp_path, start, tracking_uri=uri)
        logger.begin(ABOUT)
        for step in range(start, start + 4):
            logger.write({"time/elapsed_seconds": float(step), "x": math.nan}, step)
            logger.write({"evaluation/return_mean": float(step)}, step)
        logger.end(status)
        logger.close()
        client = mlflow.MlflowClient(uri)
        (run,) = client.search_runs([client.get_experiment_by_name("seqrl").experiment_id])
        assert run.info.status == {"interrupted": "KILLED", "finished": "FINISHED"}[status]
    assert run.info.run_name == "0_seed-3"
    assert run.data.params == {
        "seed": "3",
        "algorithm.gamma": "0.9",
        "algorithm.anneal": "['learning_rate']",
        "env.key": "${oc.env:MY_KEY}",
    }
    assert run.data.tags["sweep"] == "how_far_back"
    for name in ("time/elapsed_seconds", "evaluation/return_mean"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [(metric.step, metric.value) for metric in history] == [(step, step) for step in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Jsonl, Csv])
def test_a_sparse_file_of_rows_takes_no_memory(tmp_path, kind):
    path = tmp_path / ("metrics.jsonl" if kind is Jsonl else "metrics.csv")
    row = '{"env_steps": 1}' if kind is Jsonl else "env_steps\n1"
    path.write_text(f"{row}\n")
    os.truncate(path, 10**8)
    tracemalloc.start()
    try:
        kind(tmp_path, env_steps=1).close()
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert path.read_text().splitlines() == row.splitlines()


def test_curves_of_a_run_that_goes_on_where_the_clock_is_behind_stay_in_order(tmp_path, monkeypatch):
    for now, step in ((2e9, 1), (1e9, 2), (1e9, 3)):
        clock = SimpleNamespace(time=lambda now=now: now)
        monkeypatch.setattr("tensorboard.summary.writer.event_file_writer.time", clock)
        monkeypatch.setattr("seqrl.loggers.tensorboard.wall_time", clock.time)
        logger = TensorBoard(tmp_path, step - 1)
        logger.begin(About("run"))
        logger.write({"train/loss": 0.0}, step)
        logger.close()
    assert [event.step for event in EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")] == [1, 2, 3]
    show(tmp_path, "film", b"GIF89a" + bytes(4), 3)
    assert max(path.name for path in tmp_path.glob("events.*")).endswith(".film")
