"""Weights & Biases, without prompts and without waiting for an unreachable network."""

import configparser
import os
import secrets
from os.path import relpath
from pathlib import Path
from typing import Any

from seqrl.errors import ConfigError
from seqrl.files import fault, read_text, write
from seqrl.loggers.base import About, Logger, Row

# What W&B may be told by a file of the working folder: seqrl says the first itself.
OF_WORKING_FOLDER = ("project", "mode", "disabled")


class Wandb(Logger):
    """Scalars and configuration in a run of Weights & Biases; its local files are kept in the run folder.

    entity            user or team; None: the user's own
    group             None: the sweep's name
    name              None: the run folder's name
    mode              online, offline or disabled; None: WANDB_MODE, otherwise online. Falls back to offline without
                      login or network
    timeout_seconds   limit for starting a run; three times that for ending it
    """

    def __init__(
        self,
        folder: Path,
        env_steps: int = 0,
        project: str = "seqrl",
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        mode: str | None = None,
        timeout_seconds: float = 20.0,
    ) -> None:
        self._folder, self._mode, self._timeout_seconds = folder, mode, timeout_seconds
        self._named = {"project": project, "entity": entity, "group": group, "name": name}
        self._run: Any = None

    def begin(self, about: About) -> str | None:
        self._insist_on_own_settings()
        import wandb

        session = wandb.setup(settings=wandb.Settings(silent=True))
        mode = self._mode or session.settings.mode
        why = ""
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            mode, why = "offline", "you are not logged in (`wandb login`)"
        try:
            self._run = self._start(about, mode)
        except wandb.Error as error:
            if mode != "online":
                raise
            first = str(error).partition("\n")[0].rstrip(".:")
            mode, why = "offline", f"it could not start a run online ({first})"
            # Its service would keep hold of the run's id.
            wandb.teardown()
            wandb.setup(settings=wandb.Settings(silent=True))
            self._run = self._start(about, mode)
        if mode == "online":
            return f"wandb: {self._run.url}"
        if why:
            folder = relpath(Path(self._run.dir).parent)
            return f"wandb: {why}. Continuing offline. Upload the run later: wandb sync {folder}"
        return None

    def write(self, row: Row, env_steps: int) -> None:
        # Nothing sent can be taken back: when a run resumes, rows that are already there stay. An evaluation has the
        # same steps as the last row, and may not be there yet.
        first = self._run.starting_step - ("evaluation/return_mean" in row)
        if env_steps >= first:
            self._run.log(row, step=max(env_steps, self._run.starting_step))

    def end(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)

    def close(self) -> None:
        self._run.finish()

    def _insist_on_own_settings(self) -> None:
        """Raise ConfigError if a file of the working folder, which may be anybody's, says where keys and curves go.

        W&B obeys it, unless a variable or an argument says otherwise.
        """
        said = {"base_url": os.environ.get("WANDB_BASE_URL"), "entity": self._named["entity"]}
        known = {*OF_WORKING_FOLDER, *(name for name, it in said.items() if it)}
        for path in (Path(folder, "settings") for folder in ("wandb", ".wandb")):
            file = configparser.RawConfigParser(strict=False)
            try:
                file.read_string(read_text(path))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, configparser.Error) as error:
                raise ConfigError([f"{path}: {fault(error)}, and W&B would read it. Remove it."]) from error
            if others := sorted({name for section in file.sections() for name, _ in file.items(section)} - known):
                raise ConfigError(
                    [
                        f"{path}: says {', '.join(others)} to W&B, and may be anybody's. Remove that from it; an "
                        "address goes into WANDB_BASE_URL, and a user or team into logger.wandb.entity."
                    ]
                )

    def _start(self, about: About, mode: str) -> Any:
        import wandb

        return wandb.init(
            **{**self._named, "group": self._named["group"] or about.group, "name": self._named["name"] or about.name},
            id=self._id(),
            resume="allow" if mode == "online" else None,
            mode=mode,
            dir=str(self._folder),
            config=about.config,
            allow_val_change=True,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=self._timeout_seconds,
                finish_timeout=3 * self._timeout_seconds,
            ),
        )

    def _id(self) -> str:
        """The run's id, the same whenever the run resumes."""
        path = self._folder / "wandb_run_id"
        if not path.exists():
            write(path, secrets.token_hex(4).encode())
        return read_text(path).strip()
