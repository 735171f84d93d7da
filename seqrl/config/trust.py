"""What a configuration may import, and what may be saved of it.

Only the command line can widen the first: a file, an old run or a checkpoint can not.
"""

import re
from collections.abc import Iterator
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

# What each section of the configuration may build, beside the modules that are trusted.
ROOMS = {
    "algorithm": ["seqrl.algorithms"],
    "device": ["seqrl.devices"],
    "env": ["seqrl.envs"],
    "logger": ["seqrl.loggers"],
    "network": ["seqrl.networks"],
    "runner": ["seqrl.runner"],
}
# What does nothing but compute may stand anywhere.
HARMLESS = ["torch.nn", "torch.optim", "gymnasium.spaces"]
# Wrappers of environments that do nothing but compute; others write videos, or open windows.
WRAPPERS = [
    f"gymnasium.wrappers.{name}"
    for name in (
        "AtariPreprocessing", "ClipAction", "ClipReward", "DelayObservation", "DiscretizeAction", "DtypeObservation",
        "FilterObservation", "FlattenObservation", "FrameStackObservation", "GrayscaleObservation",
        "MaxAndSkipObservation", "RepeatAction", "RescaleAction", "RescaleObservation", "ReshapeObservation",
        "ResizeObservation", "StickyAction", "TimeAwareObservation", "TimeLimit",
    )
]  # fmt: skip
# Modules that register environments.
SUITES = ["gymnasium", "popgym", "minigrid", "ale_py"]
SECRET = re.compile(r"(^|[_.])(password|passwd|secret|token|api_?key|credentials?)$", re.IGNORECASE)


def shipped(section: str, target: str) -> bool:
    """Whether what a section of the configuration builds is seqrl's own."""
    return _is_under(target, ROOMS.get(section, []))


def distrusted(cfg: DictConfig) -> Iterator[str]:
    """Complaints about all that a composed configuration would import and nobody has named in `trust`."""
    trusted = [str(module) for module in cfg.trust]
    complaints = list(_strangers(cfg, trusted))
    # One list for all of them, as the last one given counts alone.
    modules = dict.fromkeys([*trusted, *(module.split(".")[0] for _, module in complaints)])
    for complaint, _ in complaints:
        yield f"{complaint}. If you trust it, add trust=[{','.join(modules)}]."


def _strangers(cfg: DictConfig, trusted: list[str]) -> Iterator[tuple[str, str]]:
    """What would be imported and is neither seqrl's nor trusted: a complaint and the module."""
    sections = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(sections, dict)
    for key, section in sections.items():
        allowed = [*trusted, *HARMLESS, *ROOMS.get(str(key), [])]
        for where, node in _nodes(section, str(key)):
            if "_target_" in node and not (key == "env" and node["_target_"] in WRAPPERS):
                yield from _target(where, str(node["_target_"]), allowed)
                yield from _module(where, str(node.get("id", "")), [*trusted, *SUITES])


def _target(where: str, target: str, allowed: list[str]) -> Iterator[tuple[str, str]]:
    if not _is_under(target, allowed):
        yield f"{where}._target_: {target} is not of seqrl", target
        return
    try:
        found = get_object(target)
    except Exception:
        # Whoever builds it says why it cannot be had.
        return
    home = str(getattr(found, "__module__", None) or type(found).__module__)
    if not _is_under(home, allowed):
        yield f"{where}._target_: {target} is of the module {home}", home


def _module(where: str, id: str, trusted: list[str]) -> Iterator[tuple[str, str]]:
    """An environment's id may name a module to import, module:Env-v0."""
    module, colon, _ = id.rpartition(":")
    if colon and not _is_under(module, trusted):
        yield f"{where}.id: would import {module} (got {id})", module


def _is_under(name: str, modules: list[str]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def _nodes(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All mappings inside, each with its place."""
    if isinstance(node, dict):
        yield where, node
        for key, child in node.items():
            yield from _nodes(child, f"{where}.{key}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _nodes(child, f"{where}[{index}]")


def hydra_distrusted(hydra: DictConfig) -> Iterator[str]:
    """Complaints about what Hydra itself would import before any run begins."""
    for where, node in _nodes(OmegaConf.to_container(hydra), "hydra"):
        part = where.split(".")[1] if "." in where else ""
        target = node.get("_target_")
        if part in ("callbacks", "job_logging", "hydra_logging"):
            target = target or node.get("()") or node.get("class")
            if target and not _is_under(str(target), ["logging", "seqrl.sweeps"]):
                yield f"{where}: would import {target}. Leave it out, or give it on the command line."


def secrets(cfg: DictConfig) -> Iterator[str]:
    """Complaints about what looks like a secret and would be saved with the run."""
    own = {key: value for key, value in OmegaConf.to_container(cfg).items() if key != "hydra"}  # type: ignore[union-attr]
    for where, node in _nodes(own, ""):
        for key, value in node.items():
            if isinstance(value, str) and SECRET.search(str(key)) and not value.startswith("${"):
                name = f"{where}.{key}".strip(".")
                yield (
                    f"{name}: looks like a secret, and is saved with the run. Export it as a variable, and write "
                    f"'{name}=${{oc.env:{str(key).upper()}}}'."
                )


def public(cfg: DictConfig) -> DictConfig:
    """A configuration resolved but for variables of the system's environment, which keep their names."""
    real = OmegaConf.to_container(cfg, resolve=True)
    OmegaConf.register_new_resolver("oc.env", _name_of_variable, replace=True)
    try:
        named = OmegaConf.create(_resolved(cfg, real))
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    assert isinstance(named, DictConfig)
    return named


def _name_of_variable(name: str, *default: Any) -> str:
    return f"${{oc.env:{name}}}"


def _resolved(node: Any, real: Any) -> Any:
    """A node as plain data, with the value from `real` where it cannot be text."""
    if isinstance(node, DictConfig):
        return {key: _resolved(_child(node, key, value), value) for key, value in real.items()}
    if isinstance(node, ListConfig):
        return [_resolved(_child(node, index, value), value) for index, value in enumerate(real)]
    return node


def _child(node: DictConfig | ListConfig, key: Any, otherwise: Any) -> Any:
    try:
        return node[key]
    except OmegaConfBaseException:
        return otherwise
