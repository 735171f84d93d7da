"""What is known of an exported policy: where it comes from, how it was trained, and what it reached."""

import hashlib
import json
import math
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import seqrl
from seqrl.export.step import OneStep
from seqrl.files import json_of, read, read_text
from seqrl.run.manifest import is_number, read_facts
from seqrl.text import masked_data

# Says of a model, and of its weights, that they are seqrl's, and of which version.
VERSION = "seqrl_version"


def facts(run: Path, cfg: DictConfig, progress: dict[str, int], step: OneStep, weights: bytes) -> dict[str, Any]:
    """What a model says of itself, by name, as plain data.

    cfg        of the run, in its words
    progress   how far the run was
    weights    the bytes of policy.safetensors
    """
    told = {
        VERSION: seqrl.__version__,
        "torch_version": torch.__version__,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "run_digest": hashlib.sha256(read(run / "config.yaml") + weights).hexdigest(),
        **{name: str(count) for name, count in progress.items()},
        "inputs": [port.described() for port in step.inputs],
        "outputs": [port.described() for port in step.outputs],
        "initial": "zeros" + (", but first = 1" if "first" in step.more else ""),
        "environment": environment(cfg),
        "left_to_you": left_to_you(cfg),
    }
    return masked_data(told)  # type: ignore[no-any-return]


def environment(cfg: DictConfig) -> dict[str, Any]:
    """The environment's section of the configuration, with references to variables as they are."""
    section = OmegaConf.to_container(cfg.env, resolve=False)
    assert isinstance(section, dict)
    return {str(key): value for key, value in section.items() if value not in (None, [], {})}


def left_to_you(cfg: DictConfig) -> list[str]:
    """What happens between the environment and the policy that no exported step does."""
    given: Any = OmegaConf.to_container(cfg.env, resolve=False)
    wrappers = [_call(wrapper) for wrapper in given.get("wrappers") or []]
    tasks = [f"the environment's wrapper {wrapper}, in this order, innermost first" for wrapper in wrappers]
    if given.get("kwargs"):
        tasks.append(f"what the environment was built with: {json.dumps(given['kwargs'], default=str)}")
    return tasks


def trained(run: Path) -> list[str]:
    """How a run was trained, a line each: its command, and what its manifest says."""
    manifest = _manifest(run)
    lines = []
    command, began = manifest.get("command"), manifest.get("overrides")
    if isinstance(began, list):
        # Its latest command may only have gone on with it.
        own = [f"--config-dir={manifest['config_dir']}"] if manifest.get("config_dir") else []
        command = ["python", "-m", "seqrl.train", *own, *began]
    if isinstance(command, list) and command:
        # Where Python lies on this machine is of no use elsewhere.
        lines.append("command: `" + shlex.join(["python", *map(str, command[1:])]).replace("`", "'") + "`")
    for key, name in {"env_steps": "environment steps of the whole run", "seconds": "seconds"}.items():
        if is_number(manifest.get(key)):
            lines.append(f"{name}: {manifest[key]:,.0f}")
    return lines


def evaluated(run: Path, progress: dict[str, int]) -> str:
    """The evaluated return of this very policy, in the environment of its run, in a sentence."""
    found = _read(run / "evaluation.json")
    is_its_own = found.get("iterations") == progress["iterations"] and not found.get("changed")
    for how, words in {"greedy": "likeliest", "sampled": "sampled"}.items():
        measured = found.get(how)
        if not isinstance(measured, dict) or not is_its_own:
            continue
        # Anybody may have written it.
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            low, high = measured["return_interval"] or (math.nan, math.nan)
            return (
                f"Mean return {float(measured['return_mean']):.4g} (95 % interval {float(low):.4g} to "
                f"{float(high):.4g}) over {len(measured['returns']):,} episodes with the {words} actions, by "
                "`python -m seqrl.evaluate`."
            )
    manifest = _manifest(run)
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        mean, episodes = float(manifest["evaluation_return_mean"]), int(manifest["evaluation_episodes"])
        # That was the policy that the run ended with.
        if manifest["status"] == "finished" and manifest["env_steps"] == progress["env_steps"]:
            return f"Mean return {mean:.4g} over {episodes:,} episodes, in the final evaluation of the run itself."
    return "Not evaluated. `python -m seqrl.evaluate` measures the return."


def _manifest(run: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return read_facts(run)
    return {}


def _read(path: Path) -> dict[str, Any]:
    """What a file of the run says; {} if it is not there, or not sound."""
    with suppress(OSError, ValueError):
        found = json_of(read_text(path))
        if isinstance(found, dict):
            return found
    return {}


def _call(wrapper: dict[str, Any]) -> str:
    given = ", ".join(f"{key}={value!r}" for key, value in wrapper.items() if not str(key).startswith("_"))
    return f"{wrapper.get('_target_')}({given})"
