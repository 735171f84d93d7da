"""Which classes a configuration may build, which modules it may import, and what it may set of Hydra's own.

Each section may build what stands in a table, by exact names. Only the command line can add to it, `trust=[module]`: a
file, an old run or a checkpoint can not.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from seqrl.config.overrides import parsed
from seqrl.config.paths import PACKAGE
from seqrl.config.schema import CELLS, SCHEMAS, MlflowConfig
from seqrl.machine import is_from_signal
from seqrl.packages import without_arguments
from seqrl.text import dotted

TASKS = [it._target_ for it in SCHEMAS.values() if getattr(it, "_target_", "").startswith("seqrl.envs.")]
# What each section may build, by the place of its `_target_`; `*` is any name.
BUILDABLE: dict[str, list[str]] = {
    "algorithm": [
        f"seqrl.algorithms.{name}"
        for name in ("PPOAlgorithm", "ReinforceAlgorithm", "SequencePPOAlgorithm", "SequenceReinforceAlgorithm")
    ],
    "device": ["seqrl.devices.Device"],
    "env": TASKS,
    # They do nothing but compute; others write videos, or open windows.
    "env.wrappers[*]": [
        "seqrl.envs.minigrid.Symbols",
        *(
            f"gymnasium.wrappers.{name}"
            for name in (
                "AtariPreprocessing", "ClipAction", "ClipReward", "DelayObservation", "DiscretizeAction",
                "DtypeObservation", "FilterObservation", "FlattenObservation", "FrameStackObservation",
                "GrayscaleObservation", "MaxAndSkipObservation", "RepeatAction", "RescaleAction", "RescaleObservation",
                "ReshapeObservation", "ResizeObservation", "StickyAction", "TimeAwareObservation", "TimeLimit",
            )
        ),
    ],
    "logger.*": [f"seqrl.loggers.{name}" for name in ("Csv", "Jsonl", "Mlflow", "TensorBoard", "Wandb")],
    "network": ["seqrl.networks.recurrent_network"],
    "network.memory": [*CELLS.values()],
    "runner": ["seqrl.runner.Runner"],
}  # fmt: skip
# Classes that only compute may stand anywhere beneath a section.
COMPUTING = re.compile(r"(torch\.nn|torch\.optim|gymnasium\.spaces)\.[A-Z][A-Za-z0-9]*")
# Keys that change how Hydra builds what `_target_` names.
SPECIAL = ("_args_", "_partial_", "_recursive_", "_convert_")
# Modules that register environments: as they are installed, never from the working folder.
SUITES = ["gymnasium", "popgym", "minigrid", "ale_py"]
# Of Hydra's own section, what files of the user's own may set.
HYDRA_OPEN = re.compile(
    r"hydra\.(run\.dir|sweep\.(dir|subdir)|job\.(config_name|override_dirname)|searchpath"
    # Hydra replaces them with what it knows, or adds to them; `hydra_distrusted` looks at the rest of `overrides`.
    r"|runtime\.(choices|config_sources)|overrides)\b"
)

# What says in a section of a logger where its rows go.
ADDRESSES = ("tracking_uri", "entity")
CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def shipped(section: str, target: str) -> bool:
    """Whether what a section of the configuration builds is seqrl's own."""
    return any(target in names for place, names in BUILDABLE.items() if place.partition(".")[0] == section)


def distrusted(cfg: DictConfig) -> Iterator[str]:
    """Complaints about all that a composed configuration would build or import, and nobody has named in `trust`."""
    sections = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(sections, dict)
    # Whoever builds it resolves it once more, and could make anything of that.
    for where in _unresolved(sections):
        yield f"{where}: still holds ${{ once it is resolved. Neither a value nor its variable may hold that."
    if odd := [*_unnamed(sections)]:
        yield from odd
        return
    trusted = [str(module) for module in cfg.trust]
    complaints = list(_strangers(cfg, sections, trusted))
    # One list for all of them, as the last one given counts alone.
    modules = dict.fromkeys([*trusted, *(module.split(".")[0] for _, module in complaints)])
    for complaint, _ in complaints:
        yield f"{complaint}. If you trust it, add trust=[{','.join(modules)}]."


def _unresolved(node: Any, where: str = "") -> Iterator[str]:
    """Places of texts that would be resolved, or resolved again."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _unresolved(child, f"{where}.{key}".removeprefix("."))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _unresolved(child, f"{where}[{index}]")
    elif isinstance(node, str) and "${" in node:
        yield where


def _unnamed(sections: dict[Any, Any]) -> Iterator[str]:
    """Complaints about what should name a class, and cannot."""
    for key, section in sections.items():
        for where, node in nodes(section, str(key)):
            if not CLASS.fullmatch(target := str(node.get("_target_", "module.Class"))):
                yield f"{where}._target_: must be a class and its module, my_module.MyClass (got {target!r})."


def _strangers(cfg: DictConfig, sections: dict[Any, Any], trusted: list[str]) -> Iterator[tuple[str, str]]:
    """What is neither seqrl's nor trusted: a complaint, and the module.

    sections   of the configuration, resolved
    """
    yield from _module(str(OmegaConf.select(cfg, "env.id") or ""), trusted)
    for key, section in sections.items():
        for where, node in nodes(section, str(key)):
            target = str(node.get("_target_", ""))
            if target and _is_under(target, trusted):
                # A class of the user's own, whose keys it knows itself.
                yield from _home(where, target, trusted)
                continue
            if target:
                yield from _target(where, target, trusted)
            for special in (name for name in SPECIAL if name in node):
                yield f"{where}.{special}: only classes of your own may have it (got {node[special]})", "my_module"


def _target(where: str, target: str, trusted: list[str]) -> Iterator[tuple[str, str]]:
    place = re.sub(r"\[\d+\]", "[*]", where)
    place = re.sub(r"^logger\.[^.]+$", "logger.*", place)
    if target in BUILDABLE.get(place, []):
        return
    if COMPUTING.fullmatch(target) and "." in where:
        yield from _home(where, target, [*trusted, "torch.nn", "torch.optim", "gymnasium.spaces"])
        return
    yield f"{where}._target_: {target} is not of seqrl", target


def _home(where: str, target: str, allowed: list[str]) -> Iterator[tuple[str, str]]:
    """Complaint about a name that leads into another module: my_module.os.system, for instance."""
    try:
        with without_arguments():
            found = get_object(target)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or is_from_signal(error):
            raise
        # Whoever builds it says what is wrong with it.
        return
    home = str(getattr(found, "__module__", None) or type(found).__module__)
    if not _is_under(home, allowed):
        yield f"{where}._target_: {target} is of the module {home}", home


def _module(id: str, trusted: list[str]) -> Iterator[tuple[str, str]]:
    """An environment's id may name a module to import, module:Env-v0."""
    module, colon, _ = id.rpartition(":")
    if not colon or _is_under(module, trusted):
        return
    if not _is_under(module, SUITES):
        yield f"env.id: would import {module} (got {id})", module
    elif local := _beside_the_work(module):
        yield f"env.id: would import {local}, which is not the package {module}", module


def _beside_the_work(module: str) -> Path | None:
    """Where a module would be imported from, if that is the working folder."""
    with contextlib.suppress(ImportError, ValueError):
        spec = find_spec(module.partition(".")[0])
        for place in [spec.origin, *(spec.submodule_search_locations or [])] if spec else []:
            if place and Path.cwd() in (Path(place).parent, Path(place).parent.parent):
                return Path(place)
    return None


def restrict_imports(trusted: bool) -> None:
    """Import nothing from the working folder, unless the command line trusts modules of the user's own.

    Then what is installed still comes first. What PYTHONPATH names, and the checkout that seqrl runs from, stay.
    """
    here = Path.cwd()
    named = {str(Path(entry).resolve()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here or str(here) in named]
    if (trusted or PACKAGE.parent == here) and str(here) not in sys.path:
        sys.path.append(str(here))


def builds_of_own(section: DictConfig, trusted: Sequence[str]) -> bool:
    """Whether a section of the configuration builds what a module of the user's own has."""
    parts = OmegaConf.to_container(section, resolve=True)
    return any(_is_under(str(node.get("_target_", "")), list(trusted)) for _, node in nodes(parts, ""))


def _is_under(name: str, modules: list[str]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def nodes(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All mappings inside, each with its place."""
    if isinstance(node, dict):
        yield where, node
        for key, child in node.items():
            yield from nodes(child, f"{where}.{key}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from nodes(child, f"{where}[{index}]")


def trusted_modules(overrides: Sequence[str]) -> list[str]:
    """Modules that a command line trusts; what files say of it does not count."""
    found = [it for it in parsed(overrides) if it.key_or_group == "trust"]
    value = found[-1].value() if found else []
    return [str(it) for it in value] if isinstance(value, list) else []


def set_by_files(cfg: DictConfig, overrides: Sequence[str]) -> Iterator[str]:
    """Complaints about keys that only a command line may set.

    cfg         as it is composed
    overrides   of the command line
    """
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    remedies = {"trust": "Add it there, trust=[…].", "resume": "Remove it.", "validate": "Remove it."}
    for key, remedy in remedies.items():
        if cfg.get(key) and key not in given:
            yield f"{key}: works only on the command line, not in a file (got {cfg[key]}). {remedy}"


def hydra_distrusted(hydra: DictConfig, plain: DictConfig, overrides: Sequence[str]) -> Iterator[str]:
    """Complaints about what files of the user's own set in Hydra's own section, which could run anything.

    hydra       as it is composed
    plain       as it would be without those files
    overrides   of the command line
    """
    if "hydra" in trusted_modules(overrides):
        return
    # Hydra adds the command line to what files have put there.
    known = _plain(hydra.overrides)
    if sorted([*known["task"], *known["hydra"]]) != sorted(overrides):
        yield "hydra.overrides: a file sets it, and could pass for the command line. Remove it, or add trust=[hydra]."
    now, before = (dict(dotted(_plain(it), "hydra.")) for it in (hydra, plain))
    for key in sorted({*now, *before}):
        if now.get(key) != before.get(key) and not HYDRA_OPEN.match(key):
            yield (
                f"{key}: a file sets it (got {now.get(key)}), and could run anything with it. Set it on the command "
                "line, or add trust=[hydra]."
            )


def loggers_distrusted(cfg: DictConfig, overrides: Sequence[str]) -> Iterator[str]:
    """Complaints about loggers that would send their rows where a file of the user's own says.

    cfg         as it is composed
    overrides   of the command line
    """
    if "logger" in trusted_modules(overrides):
        return
    given = parsed(overrides)
    for key, value in dotted({"logger": _plain(cfg).get("logger")}):
        is_address = key.rpartition(".")[2] in ADDRESSES and value not in (None, MlflowConfig.tracking_uri)
        # A section that is computed could be any logger.
        is_computed = key.count(".") < 2 and isinstance(value, str)
        if (is_address or is_computed) and not any(_gives(it, key) for it in given):
            yield (
                f"{key}: a file sets it (got {value}), and curves would go there. Set it on the command line, or add "
                "trust=[logger]."
            )


def _gives(override: Override, key: str) -> bool:
    """Whether an override sets a key, alone or with others."""
    outer, value = override.key_or_group, override.value()
    if not f"{key}.".startswith(f"{outer}."):
        return False
    for name in filter(None, key.removeprefix(outer).split(".")):
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True


def _plain(cfg: DictConfig) -> dict[str, Any]:
    sections = OmegaConf.to_container(cfg)
    assert isinstance(sections, dict)
    return {str(key): value for key, value in sections.items()}
