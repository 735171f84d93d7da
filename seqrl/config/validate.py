"""All that can be wrong with a composed configuration, a line each."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import AnyNode, BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seqrl.config.naming import elsewhere
from seqrl.config.paths import choices
from seqrl.config.schema import CELLS, LARGEST, SHARE, NetworkConfig, RunConfig, keys_of
from seqrl.config.synonyms import meant
from seqrl.config.trust import distrusted, shipped
from seqrl.machine import all_memory, processes_started
from seqrl.packages import how_to_install, is_installed
from seqrl.text import masked, nearest

GROUPS = ["env", "network", "sequence_learning", "algorithm", "device"]
# Packages that loggers need, which are named as their extras are.
PACKAGES = {"seqrl.loggers.Wandb": "wandb", "seqrl.loggers.Mlflow": "mlflow"}


def faults(cfg: DictConfig) -> list[str]:
    """Everything that is wrong with a composed configuration, a line each: key, fault, value, remedy."""
    return (
        [*_empty(cfg)]
        or [*_unknown_keys(cfg), *_removed(cfg), *_unresolved(cfg)]
        or [*_misfits(cfg)]
        or [
            *_values(cfg),
            *_wrappers(cfg),
            *_contradictions(cfg),
            *_endless(cfg),
            *distrusted(cfg),
            *_not_installed(cfg),
        ]
        or [*_too_large(cfg)]
    )


def faults_of_policy(cfg: DictConfig) -> list[str]:
    """The same of those parts that it takes to play: environment, network, device, evaluation."""
    return (
        [*_unknown_keys(cfg), *_unresolved(cfg)]
        or [*_values(cfg, RunConfig), *_wrappers(cfg), *_contradictions(cfg), *distrusted(cfg)]
        or [*_too_large(cfg)]
    )


def keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every key of a configuration, dotted."""
    for key in map(str, cfg):
        yield f"{prefix}{key}"
        if (node := _section(cfg, key)) is not None:
            yield from keys(node, f"{prefix}{key}.")


def numbers(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, type[int] | type[float]]]:
    """Every key that takes numbers, dotted, and whether real ones or whole ones alone.

    A key without a schema takes real ones if it has one.
    """
    for key in map(str, cfg):
        node = cfg._get_node(key)
        if isinstance(node, FloatNode) or (isinstance(node, AnyNode) and isinstance(node._value(), float)):
            yield f"{prefix}{key}", float
        elif isinstance(node, IntegerNode):
            yield f"{prefix}{key}", int
        elif (section := _section(cfg, key)) is not None:
            yield from numbers(section, f"{prefix}{key}.")


def _section(cfg: DictConfig, key: str) -> DictConfig | None:
    node = cfg._get_node(key)
    return node if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing() else None


def _typed_sections(
    cfg: DictConfig, prefix: str = "", whole: type[Any] | None = None
) -> Iterator[tuple[str, DictConfig, type[Any]]]:
    """Every section that has a schema: what its keys begin with, the section, and the schema.

    whole   schema of a configuration that has parts of it alone, and has lost it
    """
    schema = whole or cfg._metadata.object_type
    if isinstance(schema, type) and is_dataclass(schema):
        yield prefix, cfg, schema
    for key in map(str, cfg):
        if (node := _section(cfg, key)) is not None:
            yield from _typed_sections(node, f"{prefix}{key}.")


def _empty(cfg: DictConfig) -> Iterator[str]:
    for group in GROUPS:
        if not isinstance(cfg[group], DictConfig) or not cfg[group]:
            held = "holds no keys" if cfg[group] else "is empty"
            yield f"{group}: {held}. Choose one, {group.removesuffix('_learning')}=… ({', '.join(choices(group))})."
    for name, logger in cfg.logger.items():
        if not isinstance(logger, DictConfig) or "_target_" not in logger:
            yield f"logger.{name}: must name a class (got {logger}). Write +logger.{name}._target_=module.Class."


def _unknown_keys(cfg: DictConfig) -> Iterator[str]:
    """Keys that were added to a section whose keys are all known."""
    for prefix, section, schema in _typed_sections(cfg):
        # A class of the user's own says itself what it takes.
        if "_target_" in section and not shipped(prefix.partition(".")[0], section._target_):
            continue
        known = list(keys_of(schema))
        for key in map(str, section):
            if key not in known and key != "_target_":
                there = elsewhere(prefix.removesuffix("."), key) or nearest(key, known)
                remedy = meant(key) or f"{there} Keys here: {', '.join(known)}."
                yield f"{prefix}{key}: there is no such key.{remedy}"


def _removed(cfg: DictConfig) -> Iterator[str]:
    """Keys that somebody took away, as with ~seed."""
    for prefix, section, schema in _typed_sections(cfg):
        for name in keys_of(schema):
            if name not in section:
                yield f"{prefix}{name}: was removed, and is needed. Give it a value, {prefix}{name}=…"


def _unresolved(cfg: DictConfig) -> Iterator[str]:
    for key in keys(cfg):
        try:
            if OmegaConf.is_missing(cfg, key):
                yield f"{key}: is missing. Give it a value, {key}=…"
            OmegaConf.select(cfg, key, throw_on_resolution_failure=True)
        except OmegaConfBaseException as error:
            yield f"{key}: {masked(str(error)).splitlines()[0]}."


# What a key of each type holds: a test, and the rest of `must be …`.
KINDS: dict[type[Any], tuple[Callable[[Any], bool], str]] = {
    ListConfig: (lambda x: isinstance(x, ListConfig), "a list, such as [a,b]"),
    IntegerNode: (lambda x: isinstance(x, int) and not isinstance(x, bool), "a whole number"),
    FloatNode: (lambda x: isinstance(x, int | float) and not isinstance(x, bool), "a number"),
    BooleanNode: (lambda x: isinstance(x, bool), "true or false"),
}


@cache
def _declared(schema: type[Any]) -> dict[str, tuple[type[Any], Any]]:
    """What holds each key of a schema, and of what type it is."""
    nodes, hints = OmegaConf.structured(schema), get_type_hints(schema)
    return {name: (type(nodes._get_node(name)), hints[name]) for name in keys_of(schema)}


def _misfits(cfg: DictConfig) -> Iterator[str]:
    """Values of a wrong type. OmegaConf refuses them, unless a key was removed and given anew: `~seed +seed=[1]`."""
    for prefix, section, schema in _typed_sections(cfg):
        for name, field in keys_of(schema).items():
            node, hint = _declared(schema)[name]  # type: ignore[arg-type]  # a type is hashable
            kind = KINDS.get(node)
            if kind and name in section and (value := section[name]) is not None and not kind[0](value):
                rule = field.metadata.get("rule")
                yield f"{prefix}{name}: must be {rule.meaning if rule else kind[1]} (got {masked(repr(value))})."
            elif hint == list[str] and not all(isinstance(it, str) for it in section.get(name) or []):
                yield f"{prefix}{name}: must be a list of names, such as [a,b] (got {masked(str(section[name]))})."


def _values(cfg: DictConfig, whole: type[Any] | None = None) -> Iterator[str]:
    for prefix, section, schema in _typed_sections(cfg, whole=whole):
        for name, field in keys_of(schema).items():
            if name in section:
                yield from _value(f"{prefix}{name}", section[name], field.metadata, list(map(str, section)))


def _value(key: str, value: Any, about: Mapping[str, Any], siblings: list[str]) -> Iterator[str]:
    """What is wrong with a value; `about` it, its schema says what it must be."""
    rule, allowed = about.get("rule"), about.get("choices")
    if value is None:
        return
    if rule and isinstance(value, int) and value > LARGEST and key != "seed":
        yield f"{key}: is larger than seqrl can count (got {value}). Use a smaller number."
        return
    if rule and not rule.holds(value):
        share = f" Did you mean {value / 100:g}?" if rule is SHARE and 50 <= value <= 100 else ""
        yield f"{key}: must be {rule.meaning} (got {value}).{share}"
    if allowed and value not in allowed:
        names = [str(choice).lower() for choice in allowed]
        yield f"{key}: must be one of {', '.join(names)} (got {value!r}).{nearest(str(value), names)}"
    if listed := about.get("names"):
        # A coefficient that this algorithm has not cannot be named.
        known = [name for name in listed if key != "algorithm.anneal" or name in siblings]
        for name in value if OmegaConf.is_list(value) else [value]:
            if name not in known:
                yield f"{key}: can name {', '.join(known)} (got {name!r}).{nearest(str(name), known)}"


def _wrappers(cfg: DictConfig) -> Iterator[str]:
    for index, wrapper in enumerate(cfg.env.get("wrappers") or []):
        if not isinstance(wrapper, DictConfig) or "_target_" not in wrapper:
            yield f"env.wrappers[{index}]: must name a class (got {wrapper}). Write [{{_target_: module.Class}}]."


def _not_installed(cfg: DictConfig) -> Iterator[str]:
    for name, logger in cfg.logger.items():
        # Package and extra have one name.
        package = PACKAGES.get(str(logger._target_))
        if package and not is_installed(package):
            yield f"logger: {name} needs the package {package}, which is not installed. {how_to_install(package)}"


def _too_large(cfg: DictConfig) -> Iterator[str]:
    """What could not fit by far, however little each part takes; the rest is found when it happens."""
    network = cfg.network
    widths = [network.get(name) for name in ("hidden_size", "lstm_hidden_size")]
    # A network of the user's own may say it otherwise.
    width = max([it for it in widths if isinstance(it, int)], default=0)
    # A step holds a dozen numbers, an environment its memory and a stream of random numbers, which takes a kilobyte; a
    # weight has a gradient and two moments.
    steps = 12 * max(1, cfg.get("rollout_length", 1))
    needs = {
        "parallel and rollout_length": cfg.parallel * (4 * (steps + 2 * width) + 1000),
        "rollout_steps": 4 * 12 * (0 if cfg.get("rollout_length") else cfg.get("rollout_steps", 1)),
        "network.hidden_size and lstm_hidden_size": 4 * 4 * 4 * width**2,
    }
    there = all_memory()
    for key, need in needs.items():
        if need > there:
            yield (
                f"{key}: need at least {need / 1e9:,.0f} GB of memory, and this machine has {there / 1e9:,.0f}. "
                "Reduce them."
            )


def _endless(cfg: DictConfig) -> Iterator[str]:
    if cfg.episodes is None and cfg.total_steps is None:
        yield "episodes: without total_steps, this run would never end (got null for both). Use total_steps=100000."


# Keys that take their values from others, which are the ones to set.
FOLLOWS = {
    f"algorithm.{name}": f"sequence_learning.{name}"
    for name in ("bptt_length", "grad_clip_norm", "stale_state", "burn_in", "max_tokens_per_batch")
}


def _contradictions(cfg: DictConfig) -> Iterator[str]:
    # What only plays has no algorithm, and what learns from a saved one no other source.
    if {"algorithm", "sequence_learning"} <= {*cfg}:
        yield from _followers(cfg)
    if cfg.device.name == "mps" and cfg.device.precision == "float64":
        yield "device.precision: mps has no float64 (got float64). Use device.precision=float32 or device=cpu."
    if cfg.device.name in ("cpu", "mps") and cfg.device.precision == "tf32":
        yield f"device.precision: {cfg.device.name} has no tf32 (got tf32). Use float32 or device=cuda."
    if "processes" in cfg:
        yield from _processes(cfg)
    if cfg.evaluation.interval and not cfg.evaluation.episodes:
        yield (
            f"evaluation.interval: evaluations need episodes (got evaluation.episodes={cfg.evaluation.episodes}). "
            "Use evaluation.episodes=50, or evaluation.interval=0."
        )
    if cfg.network._metadata.object_type is NetworkConfig:
        yield from _network(cfg.network)


def _processes(cfg: DictConfig) -> Iterator[str]:
    started = processes_started()
    if 1 < started != cfg.processes:
        yield f"processes: {started} were started together (got {cfg.processes}). Leave it out."
    elif 1 < cfg.processes > cfg.parallel:
        yield (
            f"processes: each plays at least one environment (got {cfg.processes}, and parallel={cfg.parallel}). "
            f"Use processes={cfg.parallel}, or a larger parallel."
        )


def _followers(cfg: DictConfig) -> Iterator[str]:
    """Keys that are set apart from those that they follow, where sequences are learned."""
    if not str(cfg.algorithm.get("_target_")).startswith("seqrl.algorithms.Sequence"):
        return
    for key, source in FOLLOWS.items():
        value = OmegaConf.select(cfg, key)
        if key.partition(".")[2] in cfg.algorithm and str(value) != str(OmegaConf.select(cfg, source)):
            yield f"{key}: follows {source}. Set that one (got {value})."


def _network(network: DictConfig) -> Iterator[str]:
    """What contradicts itself in a network of seqrl's own."""
    if not isinstance(network.memory.get("_target_"), str):
        yield f"network.memory: must name a class (got {network.memory}). Write network.memory._target_=module.Cell."
        return
    meant = _types(network)
    if network.type not in meant and network.type in keys_of(NetworkConfig)["type"].metadata["choices"]:
        yield (
            f"network.type: {network.type} contradicts use_lstm={str(network.use_lstm).lower()}, "
            f"use_attention={str(network.use_attention).lower()} and memory={network.memory._target_}, which make it "
            f"{' or '.join(meant)}. Use network={meant[0]}."
        )
    width = network.lstm_hidden_size if network.use_lstm else network.hidden_size
    if network.use_attention and network.heads >= 1 and width >= 1 and width % network.heads:
        dividing = [n for n in range(1, min(width, 64) + 1) if width % n == 0]
        yield (
            f"network.heads: must divide the width that attention sees, {width} (got {network.heads}). "
            f"These do: {', '.join(map(str, dividing))}."
        )


def _types(network: DictConfig) -> list[str]:
    """What `type` may be."""
    if not network.use_lstm:
        return ["attention" if network.use_attention else "mlp"]
    named = [name for name, target in CELLS.items() if target == network.memory._target_]
    if not network.use_attention:
        # A cell of the user's own is what that of a file was replaced by.
        return named or [*CELLS]
    return ["attention", *(name for name in named or CELLS if name != "lstm")]
