"""MLflow: a database in the outputs folder, or a server."""

import fcntl
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqrl.files import locking, read_text, write
from seqrl.loggers.base import About, Logger, Row
from seqrl.machine import wall_time
from seqrl.text import dotted

# How a run ended, in MLflow's terms.
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
# Parameters that MLflow accepts per call.
BATCH = 100
# Scalars that every row of training has, and every evaluation.
KINDS = ("time/elapsed_seconds", "evaluation/return_mean")
# Prefix of the URI of a database in a file.
FILE = "sqlite:///"


@contextmanager
def _alone(uri: str | None) -> Iterator[None]:
    """Keep other runs from creating the same database at the same time, which would fail for all but one."""
    if uri is None or not uri.startswith(FILE):
        yield
        return
    path = Path(uri.removeprefix(FILE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with locking(path.with_name(f"{path.name}.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Mlflow(Logger):
    """Scalars and configuration in a run of MLflow.

    tracking_uri   a database or a server; None: MLFLOW_TRACKING_URI
    experiment     the experiment that the run belongs to
    name           of the run; None: the run folder's name
    """

    def __init__(
        self,
        folder: Path,
        env_steps: int = 0,
        tracking_uri: str | None = None,
        experiment: str = "seqrl",
        name: str | None = None,
    ) -> None:
        self._folder, self._uri, self._experiment, self._name = folder, tracking_uri, experiment, name
        self._client: Any = None
        self._run_id = ""
        # Up to which step rows of each kind are already there, by a scalar that tells the kind.
        self._sent = dict.fromkeys(KINDS, -1)

    def begin(self, about: About) -> None:
        # A server that is down must not delay every update by minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Creating a new database prints a lot.
        with warnings.catch_warnings(action="ignore"), _alone(self._uri):
            self._client = MlflowClient(self._uri)
            if not self._resumes():
                self._create(about)

    def write(self, row: Row, env_steps: int) -> None:
        from mlflow.entities import Metric

        # Nothing sent can be replaced. An evaluation has the same steps as the last row.
        if env_steps > max((self._sent[kind] for kind in KINDS if kind in row), default=-1):
            now = int(1000 * wall_time())
            self._client.log_batch(self._run_id, [Metric(name, value, now, env_steps) for name, value in row.items()])

    def end(self, status: str) -> None:
        self._client.set_terminated(self._run_id, STATUS[status])

    def close(self) -> None:
        """Nothing stays open between two rows."""

    def _resumes(self) -> bool:
        """Reopen the run if MLflow knows it; return whether it does."""
        from mlflow import MlflowException

        path = self._folder / "mlflow_run_id"
        if not path.exists():
            return False
        self._run_id = read_text(path).strip()
        try:
            self._client.update_run(self._run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        for kind in KINDS:
            history = self._client.get_metric_history(self._run_id, kind)
            self._sent[kind] = max((metric.step for metric in history), default=-1)
        return True

    def _create(self, about: About) -> None:
        from mlflow.entities import Param

        tags = {"sweep": about.group} if about.group else {}
        run = self._client.create_run(self._experiment_id(), tags=tags, run_name=self._name or about.name)
        self._run_id = run.info.run_id
        write(self._folder / "mlflow_run_id", self._run_id.encode())
        params = [Param(key, str(value)) for key, value in dotted(about.config)]
        for first in range(0, len(params), BATCH):
            self._client.log_batch(self._run_id, params=params[first : first + BATCH])

    def _experiment_id(self) -> Any:
        from mlflow import MlflowException

        if experiment := self._client.get_experiment_by_name(self._experiment):
            return experiment.experiment_id
        try:
            return self._client.create_experiment(self._experiment)
        except MlflowException:
            # Another run, on another machine, has created it in the meantime.
            return self._client.get_experiment_by_name(self._experiment).experiment_id
