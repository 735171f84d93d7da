"""Uploads an exported policy to the Hugging Face Hub."""

from pathlib import Path
from typing import Any

from seqrl.errors import ConfigError, SeqrlError, described
from seqrl.packages import how_to_install, is_installed


class UploadError(SeqrlError):
    """The files are written, and could not be uploaded."""


def insist_on_package() -> None:
    """Raise ConfigError if nothing can be uploaded from here."""
    if not is_installed("huggingface_hub"):
        raise ConfigError([f"hub: huggingface_hub is not installed. {how_to_install('hub')}"])


def api() -> Any:
    """What talks to the Hub; a token comes from `hf auth login`, or the variable HF_TOKEN."""
    from huggingface_hub import HfApi

    return HfApi()


def upload(folder: Path, names: list[str], repository: str) -> str:
    """Upload files of a folder, and return their address. Raises UploadError if that fails.

    repository   user/name; it is made if it is not there, and private then
    """
    try:
        it = api()
        it.create_repo(repository, private=True, exist_ok=True)
        told = it.upload_folder(
            repo_id=repository, folder_path=str(folder), allow_patterns=names, commit_message="Add an exported policy"
        )
        return str(getattr(told, "commit_url", told))
    except Exception as error:
        raise UploadError(
            f"hub: the files are in {folder}, and could not be uploaded to {repository} ({described(error)}). Log in "
            "with hf auth login, and try again."
        ) from error
