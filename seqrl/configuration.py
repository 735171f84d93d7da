"""The configuration: where it lies, its types, the rule that selects the algorithm, and what is wrong with it."""

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from seqrl.extras import is_installed, remedy
from seqrl.trust import distrusted, shipped

PACKAGE = Path(__file__).resolve().parent
# Shipped inside the package in a wheel, beside it in a checkout.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
# A network that does not say whether it has an LSTM remembers in another way.
LEARNS_SEQUENCES = "${learns_sequences:${sequence_learning.enabled},${oc.select:network.use_lstm,true}}"


@dataclass
class NetworkConfig:
    """Group `network`."""

    _target_: str = "seqrl.networks.recurrent_network"
    # lstm, attention or mlp: a name for what the two switches below say, and must agree with them.
    type: str = MISSING
    use_lstm: bool = MISSING
    # Attention over the LSTM's last outputs, added to them.
    use_attention: bool = MISSING
    # Width of the encoder and of the heads' hidden layers.
    hidden_size: int = 128
    lstm_hidden_size: int = 128
    # Steps that attention looks back, and its heads.
    window: int = 64
    heads: int = 4
    # Give the value an encoder and a memory of its own.
    separate_critic: bool = False
    # Read numbers in units of their own mean and deviation over all that was played so far; saved with the network, and
    # frozen while it is evaluated.
    normalize_observations: bool = False
    # What is seen beside the observation: previous_action, previous_reward, first (whether an episode begins).
    inputs: list[str] = field(default_factory=list)


@dataclass
class SequenceLearningConfig:
    """Group `sequence`, whose keys are `sequence_learning.*`."""

    enabled: bool = MISSING
    # 0: back to the episode's start. k: back to the last multiple of k steps in the episode.
    bptt_length: int = MISSING
    # Largest global gradient norm; null: no clipping.
    grad_clip_norm: float | None = 5.0
    # What becomes of stored memory, which ages while the network learns from a rollout. keep: nothing. refresh:
    # computed anew before every further epoch. burn_in: taken in anew over the last `burn_in` steps. zero: sequences
    # begin without memory.
    stale_state: str = "keep"
    burn_in: int = 20
    # Real steps that go through the network at once; a minibatch of more is the sum of several gradients. null: all.
    max_tokens_per_batch: int | None = None


@dataclass
class AlgorithmConfig:
    """What the choices of group `algorithm` share. One of the user's own may have more keys."""

    _target_: str = MISSING
    learning_rate: float = 1e-3
    gamma: float = 0.99
    # 1: Monte Carlo returns.
    gae_lambda: float = 0.95
    # Passes over each rollout, and gradient steps in each.
    epochs: int = 10
    minibatches: int = 4
    entropy_coefficient: float = 0.01
    value_coefficient: float = 0.5
    # batch: to unit scale over the real steps of a minibatch. returns: in units of the returns' own deviation, so that
    # exploration by entropy survives where all returns are alike. none: as it is.
    normalize_advantage: str = "batch"
    # Learn values in units of the returns' own mean and deviation: without it, the scale of the reward decides whether
    # anything is learned.
    normalize_value: bool = True
    # Learn from rewards in units of the deviation of discounted returns so far; what is reported keeps its units.
    # Values and advantages have units of their own already, and do not need it.
    normalize_reward: bool = False
    # Coefficients that fall linearly to 0 over the run: learning_rate, clip_range, entropy_coefficient.
    anneal: list[str] = field(default_factory=lambda: ["learning_rate"])
    grad_clip_norm: float | None = "${sequence_learning.grad_clip_norm}"  # type: ignore[assignment]
    # 1, single steps, where sequences are not learned: for algorithms that are not selected by it.
    bptt_length: int = f"${{choose:{LEARNS_SEQUENCES},${{sequence_learning.bptt_length}},1}}"  # type: ignore[assignment]
    stale_state: str = "${sequence_learning.stale_state}"
    burn_in: int = "${sequence_learning.burn_in}"  # type: ignore[assignment]
    max_tokens_per_batch: int | None = "${sequence_learning.max_tokens_per_batch}"  # type: ignore[assignment]
    # Threads that share the gradient of a minibatch, on as many cores. Another number of them gives other bits.
    learners: int = 2


@dataclass
class PPOConfig(AlgorithmConfig):
    """Group `algorithm`, choice ppo."""

    clip_range: float = 0.2
    # An epoch whose minibatches lay farther than this from the collecting policy is the last; null: never.
    target_kl: float | None = None


@dataclass
class ReinforceConfig(AlgorithmConfig):
    """Group `algorithm`, choice reinforce."""

    # Subtracted from the return: value, batch_mean or none.
    baseline: str = "value"


@dataclass
class CartPoleConfig:
    """Group `env`, built-in cart-pole."""

    _target_: str = MISSING
    hidden: list[int] = MISSING
    max_episode_steps: int = 500
    # Standard deviation of what is added to what is seen; null: nothing.
    noise: float | None = None
    # What all steps of an episode that reaches its time limit bring together; null: 1 each.
    best_return: float | None = None


@dataclass
class TMazeConfig:
    """Group `env`, built-in T-maze."""

    _target_: str = MISSING
    corridor_length: int = MISSING


@dataclass
class RepeatFirstConfig:
    """Group `env`, built-in card game."""

    _target_: str = MISSING
    decks: int = MISSING


@dataclass
class RepeatPreviousConfig:
    """Group `env`, built-in card game."""

    _target_: str = MISSING
    decks: int = MISSING
    k: int = MISSING


@dataclass
class CountRecallConfig:
    """Group `env`, built-in card game."""

    _target_: str = MISSING
    decks: int = MISSING
    counted: str = MISSING


@dataclass
class MemoryChainConfig:
    """Group `env`, built-in memory chain."""

    _target_: str = MISSING
    length: int = MISSING
    bits: int = MISSING


@dataclass
class GymnasiumConfig:
    """Group `env`, any Gymnasium environment."""

    _target_: str = MISSING
    id: str = MISSING
    kwargs: dict[str, Any] = MISSING
    # Around each environment, the first one innermost: a class, as _target_, and arguments of its constructor.
    wrappers: list[Any] = field(default_factory=list)
    # Indices of a vector, or names of parts.
    hidden: list[Any] = MISSING
    # info, for info["action_mask"], or a part of the observation; null: the part action_mask, if there is one.
    action_mask: str | None = None
    backend: str = "auto"
    # Seconds that a reset or a step of all environments may take; null: for ever.
    timeout_seconds: float | None = 60.0


@dataclass
class DeviceConfig:
    """Group `device`."""

    _target_: str = "seqrl.devices.Device"
    # cpu, cuda, cuda:1, mps or auto.
    name: str = MISSING
    # Threads of torch. More than one helps large networks and slows small ones down.
    threads: int = 1
    # float32, float64, or float32 with faster matrix products: bf16, or tf32 on an NVIDIA GPU.
    precision: str = "float32"


# Of environments and networks, by what builds them.
SCHEMAS = {
    "seqrl.envs.CartPole": CartPoleConfig,
    "seqrl.envs.CountRecall": CountRecallConfig,
    "seqrl.envs.GymnasiumEnv": GymnasiumConfig,
    "seqrl.envs.MemoryChain": MemoryChainConfig,
    "seqrl.envs.RepeatFirst": RepeatFirstConfig,
    "seqrl.envs.RepeatPrevious": RepeatPreviousConfig,
    "seqrl.envs.TMaze": TMazeConfig,
    "seqrl.networks.recurrent_network": NetworkConfig,
}


@dataclass
class RunnerConfig:
    _target_: str = MISSING
    rollout_length: int = MISSING
    episode_limit: int = MISSING


@dataclass
class EvaluationConfig:
    interval: int = MISSING
    episodes: int = MISSING
    # true, false or both.
    greedy: Any = MISSING
    memoryless_control: bool = MISSING


@dataclass
class RunConfig:
    """The whole; groups of which a user may bring his own are open."""

    env: Any = MISSING
    network: Any = MISSING
    sequence_learning: SequenceLearningConfig = MISSING
    algorithm: Any = MISSING
    device: DeviceConfig = MISSING
    logger: dict[str, Any] = field(default_factory=dict)
    runner: RunnerConfig = field(default_factory=RunnerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    episodes: int = MISSING
    parallel: int = MISSING
    rollout_length: int = MISSING
    total_steps: int | None = MISSING
    checkpoint_interval: int = MISSING
    checkpoint_keep: int = MISSING
    resume: str | None = MISSING
    validate: bool = MISSING
    seed: int = MISSING
    trust: list[str] = MISSING


def learns_sequences(enabled: object, use_lstm: object) -> bool:
    """The rule that selects the algorithm: sequences are learned if that is enabled and the network has an LSTM."""
    for key, value in (("sequence_learning.enabled", enabled), ("network.use_lstm", use_lstm)):
        if not isinstance(value, bool):
            raise ValueError(f"{key}: is neither true nor false (got {value!r})")
    return bool(enabled and use_lstm)


def folder_name(overrides: str) -> str:
    """Overrides as a part of a folder's name: nothing that a shell or a file system minds, 240 characters at most."""
    name = re.sub(r"[^\w.=,+-]+", "-", overrides, flags=re.ASCII).rstrip("-")
    # What is cut off makes the difference between two points.
    return name if len(name) <= 240 else f"{name[:231]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def point_folder(sweep: str, number: int, name: str, overrides: Sequence[str]) -> str:
    """Name of a point's folder: its number and what is swept; the one that it has if this sweep was begun before.

    A sweep may have grown since, and its points may have other numbers.
    """
    mine = sorted(OmegaConf.to_container(overrides, resolve=False) if OmegaConf.is_list(overrides) else overrides)  # type: ignore[arg-type]
    for path in sorted(Path(sweep).glob("*/manifest.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            if sorted(json.loads(path.read_text())["overrides"]) == mine:
                return path.parent.name
    return f"{number}_{folder_name(name)}".rstrip("_")


def own_choices(sources: Sequence[Mapping[str, str]]) -> str:
    """What a folder of the user's own adds to the groups, or how to have one."""
    folders = [Path(source["path"]) for source in sources if source["provider"] == "command-line"]
    files = sorted(file.relative_to(folder) for folder in folders for file in folder.glob("*/**/*.yaml"))
    added = [f"{file.parent.as_posix()}={file.stem}" for file in files]
    return ", ".join(added) or "a file each, in a folder that --config-dir names"


# What lets keys be added to a schema; `faults` finds those that nobody knows.
OPEN = {"struct": False}


def register() -> None:
    """Make the schema and the resolvers known to Hydra and OmegaConf; again does no harm."""
    OmegaConf.register_new_resolver("learns_sequences", learns_sequences, replace=True)
    OmegaConf.register_new_resolver("choose", lambda condition, yes, no: yes if condition else no, replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    OmegaConf.register_new_resolver("point_folder", point_folder, replace=True)
    OmegaConf.register_new_resolver("own_choices", own_choices, replace=True)
    store = ConfigStore.instance()
    for name, schema in {
        "run": RunConfig,
        "network": NetworkConfig,
        "sequence_learning": SequenceLearningConfig,
        "ppo": OmegaConf.structured(PPOConfig, flags=OPEN),
        "reinforce": OmegaConf.structured(ReinforceConfig, flags=OPEN),
        "cartpole": CartPoleConfig,
        "tmaze": TMazeConfig,
        "repeat_first": RepeatFirstConfig,
        "repeat_previous": RepeatPreviousConfig,
        "count_recall": CountRecallConfig,
        "memory_chain": MemoryChainConfig,
        "gymnasium": GymnasiumConfig,
        "device": DeviceConfig,
    }.items():
        store.store(group="schema", name=name, node=schema)


# What a number must be, where it is given: a test, and the rest of "must be ...".
Rule = tuple[Callable[[Any], bool], str]
AT_LEAST_1: Rule = (lambda x: x >= 1, "a whole number of at least 1")
AT_LEAST_0: Rule = (lambda x: x >= 0, "0 or more")
POSITIVE: Rule = (lambda x: math.isfinite(x) and x > 0, "a finite number above 0")
NOT_NEGATIVE: Rule = (lambda x: math.isfinite(x) and x >= 0, "a finite number of at least 0")
SHARE: Rule = (lambda x: 0 <= x <= 1, "between 0 and 1")

PROCESSORS = os.cpu_count() or 1

RULES: dict[str, Rule] = {
    "episodes": AT_LEAST_1,
    "parallel": AT_LEAST_1,
    "rollout_length": (AT_LEAST_0[0], "0 for whole episodes or a number of steps, such as 128"),
    "total_steps": AT_LEAST_1,
    "checkpoint_interval": AT_LEAST_0,
    "checkpoint_keep": AT_LEAST_1,
    "seed": AT_LEAST_0,
    "runner.episode_limit": AT_LEAST_1,
    "evaluation.interval": AT_LEAST_0,
    "evaluation.episodes": AT_LEAST_0,
    "sequence_learning.bptt_length": (AT_LEAST_0[0], "0 for whole episodes or a number of steps, such as 50"),
    "sequence_learning.grad_clip_norm": (POSITIVE[0], "a finite number above 0, such as 5.0, or null for no clipping"),
    "sequence_learning.burn_in": AT_LEAST_1,
    "sequence_learning.max_tokens_per_batch": AT_LEAST_1,
    "network.hidden_size": AT_LEAST_1,
    "network.lstm_hidden_size": AT_LEAST_1,
    "network.window": AT_LEAST_1,
    "network.heads": AT_LEAST_1,
    "algorithm.learning_rate": POSITIVE,
    "algorithm.gamma": SHARE,
    "algorithm.gae_lambda": SHARE,
    "algorithm.epochs": AT_LEAST_1,
    "algorithm.minibatches": AT_LEAST_1,
    "algorithm.learners": AT_LEAST_1,
    "algorithm.clip_range": POSITIVE,
    "algorithm.entropy_coefficient": NOT_NEGATIVE,
    "algorithm.value_coefficient": NOT_NEGATIVE,
    "algorithm.target_kl": POSITIVE,
    "env.max_episode_steps": AT_LEAST_1,
    "env.corridor_length": AT_LEAST_1,
    "env.noise": NOT_NEGATIVE,
    "env.best_return": POSITIVE,
    "env.decks": AT_LEAST_1,
    "env.k": AT_LEAST_1,
    "env.length": AT_LEAST_1,
    "env.bits": AT_LEAST_1,
    "env.timeout_seconds": POSITIVE,
    "logger.wandb.timeout_seconds": POSITIVE,
    "device.threads": (lambda x: 1 <= x <= PROCESSORS, f"1 to {PROCESSORS}, the processors of this machine"),
}
CHOICES: dict[str, list[Any]] = {
    "algorithm.normalize_advantage": ["batch", "returns", "none"],
    "network.type": ["lstm", "attention", "mlp"],
    "sequence_learning.stale_state": ["keep", "refresh", "burn_in", "zero"],
    "env.counted": ["colors", "suits", "ranks"],
    "env.backend": ["auto", "vector", "sync", "async", "envpool"],
    "device.precision": ["float32", "float64", "bf16", "tf32"],
    "evaluation.greedy": [True, False, "both"],
    "algorithm.baseline": ["value", "batch_mean", "none"],
    "logger.wandb.mode": ["online", "offline", "disabled"],
}
# Packages that loggers need.
PACKAGES = {"seqrl.loggers.Wandb": "wandb", "seqrl.loggers.Mlflow": "mlflow"}
INPUTS = ["previous_action", "previous_reward", "first"]
ANNEALED = ["learning_rate", "clip_range", "entropy_coefficient"]
GROUPS = ["env", "network", "sequence_learning", "algorithm", "device"]


def faults(cfg: DictConfig) -> list[str]:
    """Everything that is wrong with a composed configuration, a line each: key, fault, value, remedy."""
    return (
        [*_empty(cfg)]
        or [*_unknown_keys(cfg), *_unresolved(cfg)]
        or [*_values(cfg), *_choices(cfg), *_contradictions(cfg), *distrusted(cfg), *_not_installed(cfg)]
        or [*_too_large(cfg)]
    )


def faults_of_policy(cfg: DictConfig) -> list[str]:
    """The same of those parts that it takes to play: environment, network, device, evaluation."""
    return [*_unknown_keys(cfg), *_unresolved(cfg)] or [
        *_values(cfg), *_choices(cfg), *_contradictions(cfg), *distrusted(cfg)
    ]  # fmt: skip


def typed(part: DictConfig) -> DictConfig:
    """A part of a configuration that was saved, with its types again; a file of a user's own may give it none."""
    schema = SCHEMAS.get(part._target_)
    if schema is None:
        return part
    found = OmegaConf.merge(OmegaConf.structured(schema), part)
    assert isinstance(found, DictConfig)
    return part if OmegaConf.missing_keys(found) else found


def choices(group: str) -> list[str]:
    """Names of the files in a group."""
    return sorted(file.stem for file in (CONF / group.replace("sequence_learning", "sequence")).glob("*.yaml"))


def nearest(word: str, words: list[str]) -> str:
    """`Did you mean …?` where a word is close to one of `words`, otherwise nothing."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every key of a configuration, dotted."""
    for key in map(str, cfg):
        yield f"{prefix}{key}"
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from keys(node, f"{prefix}{key}.")


def _empty(cfg: DictConfig) -> Iterator[str]:
    for group in GROUPS:
        if not isinstance(cfg[group], DictConfig) or not cfg[group]:
            held = "holds no keys" if cfg[group] else "is empty"
            yield f"{group}: {held}. Choose one, {group.removesuffix('_learning')}=… ({', '.join(choices(group))})."
    for name, logger in cfg.logger.items():
        if not isinstance(logger, DictConfig) or "_target_" not in logger:
            yield f"logger.{name}: must name a class (got {logger}). Write +logger.{name}._target_=module.Class."


def _unknown_keys(cfg: DictConfig) -> Iterator[str]:
    """Keys that were added to something whose keys are all known."""
    for prefix, node in [("", cfg), *((f"{name}.", cfg._get_node(name)) for name in map(str, cfg))]:
        schema = node._metadata.object_type if isinstance(node, DictConfig) else None
        if not isinstance(node, DictConfig) or not is_dataclass(schema):
            continue
        # A class of the user's own says itself what it takes.
        if "_target_" in node and not shipped(prefix.rstrip("."), node._target_):
            continue
        known = [f.name for f in fields(schema) if not f.name.startswith("_")]
        for key in map(str, node):
            if key not in known and key != "_target_":
                yield f"{prefix}{key}: there is no such key.{nearest(key, known)} Keys here: {', '.join(known)}."


def _unresolved(cfg: DictConfig) -> Iterator[str]:
    for key in keys(cfg):
        try:
            if OmegaConf.is_missing(cfg, key):
                yield f"{key}: is missing. Give it a value, {key}=…"
            OmegaConf.select(cfg, key, throw_on_resolution_failure=True)
        except OmegaConfBaseException as error:
            yield f"{key}: {str(error).splitlines()[0]}."


def _values(cfg: DictConfig) -> Iterator[str]:
    for key, (holds, meaning) in RULES.items():
        value = _ruled(cfg, key)
        if value is None or isinstance(value, str) or holds(value):
            continue
        share = f" Did you mean {value / 100:g}?" if meaning == SHARE[1] and 1 < value <= 100 else ""
        yield f"{key}: must be {meaning} (got {value}).{share}"


def _ruled(cfg: DictConfig, key: str) -> Any:
    """Value of `key`; None where it is one of the user's own environment, which may mean anything by it."""
    own = key.startswith("env.") and not is_dataclass(cfg.env._metadata.object_type)
    return None if own else OmegaConf.select(cfg, key)


def _choices(cfg: DictConfig) -> Iterator[str]:
    for key, allowed in CHOICES.items():
        value = _ruled(cfg, key)
        if value is not None and value not in allowed:
            names = [str(choice).lower() for choice in allowed]
            yield f"{key}: must be one of {', '.join(names)} (got {value!r}).{nearest(str(value), names)}"
    for index, wrapper in enumerate(cfg.env.get("wrappers") or []):
        if not isinstance(wrapper, DictConfig) or "_target_" not in wrapper:
            yield f"env.wrappers[{index}]: must name a class (got {wrapper}). Write [{{_target_: module.Class}}]."
    for name in OmegaConf.select(cfg, "network.inputs") or []:
        if name not in INPUTS:
            yield f"network.inputs: can name {', '.join(INPUTS)} (got {name!r}).{nearest(str(name), INPUTS)}"
    for name in OmegaConf.select(cfg, "algorithm.anneal") or []:
        can_anneal = [name for name in ANNEALED if name in cfg.algorithm]
        if name not in can_anneal:
            yield f"algorithm.anneal: can name {', '.join(can_anneal)} (got {name!r}).{nearest(name, can_anneal)}"


def _not_installed(cfg: DictConfig) -> Iterator[str]:
    for name, logger in cfg.logger.items():
        # Package and extra have one name.
        package = PACKAGES.get(str(logger._target_))
        if package and not is_installed(package):
            yield f"logger: {name} needs the package {package}, which is not installed. {remedy(package)}"


def _too_large(cfg: DictConfig) -> Iterator[str]:
    """What could not fit by far, however little each part takes; the rest is found when it happens."""
    network = cfg.network
    width = max(int(network.get("hidden_size", 0)), int(network.get("lstm_hidden_size", 0)))
    # A step holds a dozen numbers, an environment its memory; a weight has a gradient and two moments.
    needs = {
        "parallel and rollout_length": 4 * cfg.parallel * (12 * max(1, cfg.rollout_length) + 2 * width),
        "network.hidden_size and lstm_hidden_size": 4 * 4 * 4 * width**2,
    }
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for key, need in needs.items():
        if need > there:
            yield (
                f"{key}: need at least {need / 1e9:,.0f} GB of memory, and this machine has {there / 1e9:,.0f}. "
                "Reduce them."
            )


def _contradictions(cfg: DictConfig) -> Iterator[str]:
    if cfg.device.name == "mps" and cfg.device.precision == "float64":
        yield "device.precision: mps has no float64 (got float64). Use device.precision=float32 or device=cpu."
    if cfg.device.name in ("cpu", "mps") and cfg.device.precision == "tf32":
        yield f"device.precision: {cfg.device.name} has no tf32 (got tf32). Use float32 or device=cuda."
    if cfg.evaluation.interval and not cfg.evaluation.episodes:
        yield (
            f"evaluation.interval: evaluations need episodes (got evaluation.episodes={cfg.evaluation.episodes}). "
            "Use evaluation.episodes=50, or evaluation.interval=0."
        )
    network = cfg.network
    if network._metadata.object_type is not NetworkConfig:
        return
    meant = "attention" if network.use_attention else "lstm" if network.use_lstm else "mlp"
    if network.type != meant and network.type in CHOICES["network.type"]:
        yield (
            f"network.type: {network.type} contradicts use_lstm={str(network.use_lstm).lower()} and "
            f"use_attention={str(network.use_attention).lower()}, which make it {meant}. Use network={meant}."
        )
    width = network.lstm_hidden_size if network.use_lstm else network.hidden_size
    if network.use_attention and network.heads >= 1 and width >= 1 and width % network.heads:
        dividing = [n for n in range(1, min(width, 64) + 1) if width % n == 0]
        yield (
            f"network.heads: must divide the width that attention sees, {width} (got {network.heads}). "
            f"These do: {', '.join(map(str, dividing))}."
        )
