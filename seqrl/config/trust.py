"""Which classes a configuration may build and which modules it may import, and what may be saved of it.

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

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seqrl.config.paths import PACKAGE
from seqrl.config.schema import SCHEMAS
from seqrl.text import dotted, environment_read

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
    "runner": ["seqrl.runner.Runner"],
}  # fmt: skip
# Classes that only compute may stand anywhere beneath a section.
COMPUTING = re.compile(r"(torch\.nn|torch\.optim|gymnasium\.spaces)\.[A-Z][A-Za-z0-9]*")
# Keys that change how Hydra builds what `_target_` names.
SPECIAL = ("_args_", "_partial_", "_recursive_", "_convert_")
# Nodes of seqrl's own keys; those that are added take any value.
NUMBERS = (IntegerNode, FloatNode, BooleanNode)
# Modules that register environments: as they are installed, never from the working folder.
SUITES = ["gymnasium", "popgym", "minigrid", "ale_py"]
# Of Hydra's own section, what files of the user's own may set.
HYDRA_OPEN = re.compile(
    r"hydra\.(run\.dir|sweep\.(dir|subdir)|job\.(config_name|override_dirname)|searchpath"
    # Hydra replaces them with what it knows, or adds to them; `hydra_distrusted` looks at the rest of `overrides`.
    r"|runtime\.(choices|config_sources)|overrides)\b"
)
# What the last words of a key's name say of its value. Tokens are also what a network reads: a number of them is none.
SECRET = re.compile(
    r"(^|_)(password|passwd|pwd|passphrase|secret|token|credential|authorization|cookie|"
    r"(api|access|private|secret|auth|signing|encryption|ssh|account|license)_?key)s?$"
)
NO_SECRET = re.compile(r"(^|_)(pad|eos|bos|unk|mask|sep|cls|start|stop|end|special|input|output|vocab)_tokens?$")
# http://me:hush@host, and what git takes, https://hush@host.
USERINFO = re.compile(r"://[^/\s@:]*:[^/\s@]+@|\bhttps?://[^/\s@]+@", re.IGNORECASE)
# Of a command line: whether a look at what it composes is worth its time.
SECRET_SOMEWHERE = re.compile(r"pass|pwd|secret|token|key|credential|authorization|cookie|://[^/\s]*@", re.IGNORECASE)


def shipped(section: str, target: str) -> bool:
    """Whether what a section of the configuration builds is seqrl's own."""
    return any(target in names for place, names in BUILDABLE.items() if place.partition(".")[0] == section)


def distrusted(cfg: DictConfig) -> Iterator[str]:
    """Complaints about all that a composed configuration would build or import, and nobody has named in `trust`."""
    trusted = [str(module) for module in cfg.trust]
    complaints = list(_strangers(cfg, trusted))
    # One list for all of them, as the last one given counts alone.
    modules = dict.fromkeys([*trusted, *(module.split(".")[0] for _, module in complaints)])
    for complaint, _ in complaints:
        yield f"{complaint}. If you trust it, add trust=[{','.join(modules)}]."


def _strangers(cfg: DictConfig, trusted: list[str]) -> Iterator[tuple[str, str]]:
    """What is neither seqrl's nor trusted: a complaint, and the module."""
    sections = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(sections, dict)
    yield from _module(str(OmegaConf.select(cfg, "env.id") or ""), trusted)
    for key, section in sections.items():
        for where, node in _nodes(section, str(key)):
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
        found = get_object(target)
    except Exception:
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


def trusted_modules(words: Sequence[str]) -> list[str]:
    """Modules that a command line trusts; what files say of it does not count."""
    found = [it for it in OverridesParser.create().parse_overrides(list(words)) if it.key_or_group == "trust"]
    value = found[-1].value() if found else []
    return [str(it) for it in value] if isinstance(value, list) else []


def hydra_distrusted(hydra: DictConfig, plain: DictConfig, words: Sequence[str]) -> Iterator[str]:
    """Complaints about what files of the user's own set in Hydra's own section, which could run anything.

    hydra   as it is composed
    plain   as it would be without those files
    words   overrides of the command line
    """
    if "hydra" in trusted_modules(words):
        return
    # Hydra adds the command line to what files have put there.
    if sorted([*hydra.overrides.task, *hydra.overrides.hydra]) != sorted(words):
        yield "hydra.overrides: a file sets it, and could pass for the command line. Remove it, or add trust=[hydra]."
    now, before = (dict(dotted(_plain(it), "hydra.")) for it in (hydra, plain))
    for key in sorted({*now, *before}):
        if now.get(key) != before.get(key) and not HYDRA_OPEN.match(key):
            yield (
                f"{key}: a file sets it (got {now.get(key)}), and could run anything with it. Set it on the command "
                "line, or add trust=[hydra]."
            )


def _plain(cfg: DictConfig) -> dict[str, Any]:
    sections = OmegaConf.to_container(cfg)
    assert isinstance(sections, dict)
    return {str(key): value for key, value in sections.items()}


def secrets(cfg: DictConfig) -> Iterator[str]:
    """Complaints about what looks like a secret and would be saved with the run.

    Only what comes from a variable passes, and what is empty or a switch.
    """
    for key in map(str, cfg):
        if key != "hydra":
            yield from _secrets(cfg, key, key, cfg)


def _secrets(node: Any, key: Any, where: str, root: DictConfig) -> Iterator[str]:
    child = node._get_node(key)
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", str(key)).lower()
    is_secret = isinstance(key, str) and bool(SECRET.search(name)) and not NO_SECRET.search(name)
    typed = [*_typed(child, root)]
    if is_secret and any(not (name.endswith("tokens") and isinstance(it, int | float)) for it in typed):
        yield (
            f"{where}: looks like a secret, and would be saved with the run. Export it as a variable, and write "
            f"'{where}=${{oc.env:{name.upper().replace('PWD', 'PASSWORD')}}}'."
        )
    elif isinstance(child, DictConfig | ListConfig) and not child._is_none() and not child._is_interpolation():
        for inner in child if isinstance(child, DictConfig) else range(len(child)):
            place = f"{where}.{inner!s}" if isinstance(child, DictConfig) else f"{where}[{inner!s}]"
            yield from _secrets(child, inner, place, root)
    elif any(isinstance(it, str) and USERINFO.search(it) for it in typed):
        yield (
            f"{where}: holds a password or a key in an address, and would be saved with the run. Export the address as "
            f"a variable, and write '{where}=${{oc.env:ADDRESS}}'."
        )


def _typed(node: Any, root: DictConfig) -> Iterator[Any]:
    """What is typed out in a value, and not taken from a variable: numbers, and texts that are not empty."""
    if node is None or node._is_none() or node._is_missing():
        return
    if not node._is_interpolation() and isinstance(node, DictConfig | ListConfig):
        children: Any = node
        for key in children if isinstance(node, DictConfig) else range(len(node)):
            yield from _typed(children._get_node(key), root)
        return
    value = node._value()
    if node._is_interpolation():
        try:
            if "oc.env" in _as_written(str(value), root):
                return
        except (OmegaConfBaseException, RecursionError):
            # Whoever resolves it says what is wrong with it.
            return
    if value not in ("", b"") and not isinstance(value, bool):
        yield value


def numbers_from_environment(cfg: DictConfig) -> set[str]:
    """Variables that give numbers to seqrl's own keys, such as the seed, and nothing to any other: no secrets."""
    numbers: set[str] = set()
    others: set[str] = set()
    todo: list[Any] = [cfg]
    while todo:
        section = todo.pop()
        for key in section if isinstance(section, DictConfig) else range(len(section)):
            child = section._get_node(key)
            if child is None or not child._is_interpolation():
                todo += [child] if OmegaConf.is_config(child) and not child._is_none() else []
                continue
            with environment_read() as names, contextlib.suppress(OmegaConfBaseException):
                OmegaConf.to_container(section[key], resolve=True) if OmegaConf.is_config(section[key]) else section[
                    key
                ]
            (numbers if isinstance(child, NUMBERS) else others).update(names)
    return numbers - others


def public(cfg: DictConfig) -> DictConfig:
    """A configuration resolved but for what comes from the system's environment, which keeps its words.

    It plays the same: what decodes a variable, or gives it a default, stays as it was written.
    """
    named = OmegaConf.create(_public(cfg, cfg))
    assert isinstance(named, DictConfig)
    return named


def _public(node: Any, root: DictConfig) -> Any:
    if isinstance(node, DictConfig):
        return {key: _public_child(node, key, root) for key in node}
    if isinstance(node, ListConfig):
        return [_public_child(node, index, root) for index in range(len(node))]
    return node


def _public_child(node: DictConfig | ListConfig, key: Any, root: DictConfig) -> Any:
    child = node._get_node(key)
    if child is None or not child._is_interpolation():  # type: ignore[union-attr]
        return _public(node[key], root)
    with environment_read() as names:
        value = OmegaConf.to_container(node[key], resolve=True) if OmegaConf.is_config(node[key]) else node[key]
    # A number of seqrl's own, such as the seed, tells nothing and is needed to read the run.
    if not names or isinstance(child, NUMBERS):
        return value
    return _as_written(str(child._value()), root)  # type: ignore[union-attr]


def _as_written(text: str, root: DictConfig) -> str:
    """An interpolation with the words of those that it refers to in their place: alone it still means the same."""

    def written(reference: re.Match[str]) -> str:
        node = OmegaConf.select(root, reference[1].rpartition(".")[0]) if "." in reference[1] else root
        child = node._get_node(reference[1].rpartition(".")[2]) if isinstance(node, DictConfig) else None
        if child is not None and child._is_interpolation():
            return _as_written(str(child._value()), root)
        return str(OmegaConf.select(root, reference[1]))

    return re.sub(r"\$\{([A-Za-z_][\w.]*)\}", written, text)
