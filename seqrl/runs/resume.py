"""Going on with a run: the arguments that do, and what has changed since."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from seqrl.text import dotted


def how_to_go_on(folder: Path, trusted: Collection[str], config_dir: str | None) -> str:
    """The arguments that go on with a run."""
    words = [f"resume={folder}"]
    words += [f"trust=[{','.join(trusted)}]"] if trusted else []
    words += [f"--config-dir {config_dir}"] if config_dir else []
    return " ".join(words)


def circumstances(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two manifests and may change the last bits: threads, device, machine, versions."""
    old, new = dict(dotted(before)), dict(dotted(now))
    keys = [key for key in new if key.startswith(("threads", "device", "platform", "versions.", "git."))]
    return [f"{key}: {old[key]} -> {new[key]}" for key in keys if key in old and old[key] != new[key]]
