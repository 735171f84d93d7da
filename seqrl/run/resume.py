"""Going on with a run: the arguments that do, and what has changed since."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from omegaconf import DictConfig

from seqrl.config.naming import HOW_IT_IS_PLAYED
from seqrl.run.run import Budget
from seqrl.text import dotted


def how_to_go_on(folder: Path, trusted: Collection[str], config_dir: str | None) -> str:
    """The arguments that go on with a run, as a shell takes them."""
    words = [f"resume={quote(str(folder))}"]
    words += [quote(f"trust=[{','.join(trusted)}]")] if trusted else []
    words += [f"--config-dir {quote(config_dir)}"] if config_dir else []
    return " ".join(words)


def nothing_left(cfg: DictConfig, changes: Collection[str], budget: Budget) -> str | None:
    """A line for a run that goes on and has nothing to train, as one of its limits was reached; None if it has."""
    spent = [key for key, share in budget.shares.items() if share >= 1]
    if not spent:
        return None
    limits = " and ".join(f"{key}={cfg[key]}" for key in spent)
    was, it = ("were", "them") if len(spent) > 1 else ("was", "it")
    if changed := {key for change in changes if (key := change.partition(":")[0]) in ("episodes", "total_steps")}:
        too = "" if changed >= {*spent} else ", too"
        return f"warning: nothing was left to train: {limits} {was} spent before. To train further, raise {it}{too}."
    return f"note: nothing was left to train: {limits} {was} spent before. To train further, raise {it}."


def changes_task(change: str) -> bool:
    """Whether `key: before -> now` makes it another task, so that returns of before say nothing of it."""
    group, _, key = change.partition(":")[0].partition(".")
    return group == "env" and key.partition(".")[0] not in HOW_IT_IS_PLAYED


def yardstick(config: Mapping[str, Any]) -> str:
    """A digest of the task, the seed, and how evaluations play: returns can be compared only where it is equal."""
    task = {key: value for key, value in config["env"].items() if key not in HOW_IT_IS_PLAYED}
    episodes, greedy = (config["evaluation"][key] for key in ("episodes", "greedy"))
    # As many environments play side by side, which decides the episodes.
    play = [episodes, min(episodes, config["parallel"]), greedy]
    text = json.dumps([task, config["seed"], play], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def circumstances(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two manifests and may change the last bits: threads, machine, versions."""
    old, new = dict(dotted(before)), dict(dotted(now))
    keys = [key for key in new if key.startswith(("threads", "processor", "device", "platform", "versions.", "git."))]
    return [f"{key}: {old[key]} -> {new[key]}" for key in keys if key in old and old[key] != new[key]]
