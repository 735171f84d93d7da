"""Every key of the configuration, each in one place: its type, default, rule, choices and meaning.

A schema is a dataclass that a file of `conf/` names, as in `defaults: [/schema/tmaze@_here_]`. docs/keys.md is written
from here.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig, IntegerNode, OmegaConf

from seqrl.machine import processors

# Of steps and sizes: beyond it, 64 bits and real numbers no longer hold them. A seed may be any number.
LARGEST = 2**53
# Of real numbers: tensors hold it, and its square, as float32.
LARGEST_REAL = 1e15


def as_whole(value: Any) -> Any:
    """A whole number that is written as a real one, such as 1e6; anything else as it is."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST
    return int(value) if is_whole else value


def _taking_whole_ones(convert: Callable[[IntegerNode, Any], int]) -> Callable[[IntegerNode, Any], int]:
    return lambda node, value: convert(node, as_whole(value))


# Where a whole number belongs, OmegaConf refuses 1e6, which command lines, files and sweeps may all say.
IntegerNode._validate_and_convert_impl = _taking_whole_ones(  # type: ignore[assignment, method-assign]
    IntegerNode._validate_and_convert_impl
)


@dataclass(frozen=True)
class Rule:
    """What a value must be where it is not null: a test, and the rest of `must be …`."""

    holds: Callable[[Any], bool]
    meaning: str

    def saying(self, meaning: str) -> "Rule":
        """The same test, in other words."""
        return Rule(self.holds, meaning)


AT_LEAST_1 = Rule(lambda x: x >= 1, "a whole number of at least 1")
AT_LEAST_0 = Rule(lambda x: x >= 0, "0 or more")
POSITIVE = Rule(lambda x: 0 < x <= LARGEST_REAL, "a number above 0, at most 1e15")
NOT_NEGATIVE = Rule(lambda x: 0 <= x <= LARGEST_REAL, "a number from 0 to 1e15")
# Timers of the system know no others.
SECONDS = Rule(lambda x: 0.01 <= x <= 1e6, "0.01 to 1,000,000 seconds")
SHARE = Rule(lambda x: 0 <= x <= 1, "between 0 and 1")
THREADS = Rule(lambda x: 1 <= x <= processors(), f"1 to {processors()}, the processors of this machine")


def key(
    default: Any = MISSING,
    help: str = "",
    rule: Rule | None = None,
    choices: Iterable[Any] = (),
    names: Iterable[str] = (),
    example: str = "",
) -> Any:
    """A field of a schema.

    default   may be an interpolation; MISSING if the files of the group decide
    help      what the key means
    rule      what a value must be
    choices   the only values
    names     the only elements, if the value is a list
    example   a value to show, where the default shows nothing
    """
    about = {"help": help, "rule": rule, "choices": list(choices), "names": list(names), "example": example}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=about)
    return field(default=default, metadata=about)


def default_of(key: Field[Any]) -> Any:
    return key.default if key.default_factory is NO_DEFAULT else key.default_factory()


Schema = TypeVar("Schema", bound=type)
# By the names that files have for them.
SCHEMAS: dict[str, type[Any]] = {}
# Those that a file of the user's own may add keys to.
OPEN: set[str] = set()


def schema(name: str, is_open: bool = False) -> Callable[[Schema], Schema]:
    """Make a dataclass known to files as `/schema/<name>`."""

    def stored(cls: Schema) -> Schema:
        SCHEMAS[name] = cls
        OPEN.update([name] if is_open else [])
        return cls

    return stored


def schema_of(target: str) -> type[Any] | None:
    """The schema of what a `_target_` builds; None if it has none."""
    return next((it for it in SCHEMAS.values() if getattr(it, "_target_", None) == target), None)


def typed(part: DictConfig) -> DictConfig:
    """A saved part of a configuration with its types again. A part of the user's own may have none."""
    schema = schema_of(str(part._target_))
    if schema is None:
        return part
    found = OmegaConf.merge(OmegaConf.structured(schema), part)
    assert isinstance(found, DictConfig)
    return part if OmegaConf.missing_keys(found) else found


# Memory cells, by the names that their files have.
CELLS = {
    "lstm": "seqrl.networks.LSTM",
    "gru": "seqrl.networks.GRU",
    "mingru": "seqrl.networks.MinGRU",
    "matrix": "seqrl.networks.Matrix",
    "gtrxl": "seqrl.networks.GTrXL",
}


@schema("network")
@dataclass
class NetworkConfig:
    """Group `network`: what remembers."""

    _target_: str = "seqrl.networks.recurrent_network"
    type: str = key(
        help="a name for what `use_lstm`, `use_attention` and `memory` say; it must agree with them",
        choices=[*CELLS, "attention", "mlp"],
    )
    use_lstm: bool = key(
        help="a memory that gradients can follow, after the encoder: an LSTM, or the cell that `memory` names"
    )
    use_attention: bool = key(help="attention over the last outputs of the cell, added to them")
    memory: dict[str, Any] = key(
        {"_target_": CELLS["lstm"]},
        "the cell, and what else its class takes. Your own is one class with `step`: "
        "network.memory._target_=my_module.Cell with trust=[my_module]",
    )
    layers: int = key(
        1,
        "cells above one another; from two on, each adds to what it reads",
        # Nobody stacks more, and a million would be built for hours.
        Rule(lambda x: 1 <= x <= 64, "a whole number from 1 to 64"),
    )
    horizon: int | None = key(
        None,
        "begin with gates that keep memories for 1 to so many steps, where a cell has such gates; null: as each has "
        "them",
        Rule(lambda x: x >= 2, "a whole number of at least 2"),
    )
    hidden_size: int = key(128, "width of the encoder and of the hidden layers of the heads", AT_LEAST_1)
    lstm_hidden_size: int = key(128, "width of the LSTM, or of another cell", AT_LEAST_1)
    window: int = key(64, "steps that attention and the gated transformer look back", AT_LEAST_1)
    heads: int = key(4, "heads of attention and of cells that have some; they must divide the width", AT_LEAST_1)
    separate_critic: bool = key(False, "give the value its own encoder and memory")
    normalize_observations: bool = key(
        False,
        "read numbers in units of their own running mean and deviation; saved with the network, frozen in evaluation",
    )
    inputs: list[str] = key(
        [],
        "what the policy sees beside the observation; `first` is 1 in the first step of an episode",
        names=["previous_action", "previous_reward", "first"],
    )


@schema("sequence_learning")
@dataclass
class SequenceLearningConfig:
    """Group `sequence`, keys `sequence_learning.*`: how far back gradients reach."""

    enabled: bool = key(help="learn from sequences; false: from single steps, each starting from its stored memory")
    bptt_length: int = key(
        help="0: back to the start of the episode. k: back to the last multiple of k steps in the episode",
        rule=AT_LEAST_0.saying("0 for whole episodes or a number of steps, such as 50"),
    )
    grad_clip_norm: float | None = key(
        5.0,
        "largest global gradient norm; null: no clipping",
        POSITIVE.saying(f"{POSITIVE.meaning}, such as 5.0, or null for no clipping"),
    )
    stale_state: str = key(
        "keep",
        "what happens to stored memory, which ages while the network learns from a rollout. keep: nothing. "
        "refresh: compute it again before every further epoch. burn_in: replay the last `burn_in` steps into it. "
        "zero: start every sequence without memory",
        choices=["keep", "refresh", "burn_in", "zero"],
    )
    burn_in: int = key(20, "steps to replay where `stale_state` is burn_in", AT_LEAST_1)
    max_tokens_per_batch: int | None = key(
        None,
        "real steps that go through the network at once; a larger minibatch is the sum of several gradients, which "
        "takes less memory. null: `bptt_length` steps of every environment, but at least 1024; with a `bptt_length` "
        "of 0, a whole minibatch",
        AT_LEAST_1,
    )


@dataclass
class AlgorithmConfig:
    """Group `algorithm`: how the network learns."""

    _target_: str = MISSING
    learning_rate: float = key(3e-3, "of Adam", POSITIVE)
    memory_learning_rate: float | None = key(
        None, "of the memory's parameters, annealed like the other; null: the same", POSITIVE
    )
    gamma: float = key(0.99, "discount", SHARE)
    gae_lambda: float = key(0.95, "λ of the advantage; 1 is the Monte Carlo return", SHARE)
    epochs: int = key(4, "passes over each rollout", AT_LEAST_1)
    minibatches: int | None = key(
        None, "gradient steps in each epoch; null: as many as `minibatch_steps` makes", AT_LEAST_1
    )
    minibatch_steps: int = key(512, "environment steps of each gradient step, roughly", AT_LEAST_1)
    exploration: str = key(
        "barrier",
        "bonus for a policy that still tries all actions. barrier: for choices, the mean log-probability of all "
        "alternatives, which keeps rare ones from vanishing; for numbers, the entropy. entropy: for both",
        choices=["barrier", "entropy"],
    )
    entropy_coefficient: float = key(0.05, "weight of that bonus in the loss", NOT_NEGATIVE)
    value_coefficient: float = key(0.5, "weight of the value loss", NOT_NEGATIVE)
    normalize_advantage: str = key(
        "batch",
        "batch: to unit scale over the real steps of a minibatch. returns: in units of the deviation of the returns, "
        "so that entropy still counts where all returns are alike. none: as it is",
        choices=["batch", "returns", "none"],
    )
    normalize_value: bool = key(
        True,
        "learn values in units of the running mean and deviation of the returns; without it, the scale of the reward "
        "decides whether anything is learned",
    )
    normalize_reward: bool = key(
        False, "learn from rewards in units of the deviation of the discounted return; reports keep the real units"
    )
    anneal: list[str] = key(
        ["learning_rate", "entropy_coefficient"],
        "coefficients that fall linearly to 0 over the run",
        names=["learning_rate", "clip_range", "entropy_coefficient"],
    )
    grad_clip_norm: float | None = key("${sequence_learning.grad_clip_norm}")
    bptt_length: int = key("${by_sequences:${sequence_learning.bptt_length},1}")
    stale_state: str = key("${sequence_learning.stale_state}")
    burn_in: int = key("${sequence_learning.burn_in}")
    max_tokens_per_batch: int | None = key("${sequence_learning.max_tokens_per_batch}")
    gradient_parts: int | None = key(
        None,
        "parts that the gradient of a minibatch is the sum of, which cores share; another number gives other bits. "
        "null: 2, or one for each process",
        AT_LEAST_1,
    )
    gradient_threads: int | None = key(
        None,
        "threads that compute those parts, which changes no bit. null: one for each part, if there are as many cores",
        AT_LEAST_1,
    )


@schema("ppo", is_open=True)
@dataclass
class PPOConfig(AlgorithmConfig):
    """Group `algorithm`, choice `ppo`."""

    clip_range: float = key(0.2, "ε of the clipped surrogate", POSITIVE)
    target_kl: float | None = key(
        None,
        "end the update after an epoch that lies farther than this from the collecting policy; null: never",
        POSITIVE,
    )


@schema("reinforce", is_open=True)
@dataclass
class ReinforceConfig(AlgorithmConfig):
    """Group `algorithm`, choice `reinforce`."""

    baseline: str = key("value", "what is subtracted from the return", choices=["value", "batch_mean", "none"])


@schema("cartpole")
@dataclass
class CartPoleConfig:
    """Group `env`, choices `masked_cartpole` and `noisy_cartpole`."""

    _target_: str = "seqrl.envs.CartPole"
    hidden: list[int] = key([], "indices that the observation leaves out; [1,3] hides both velocities")
    max_episode_steps: int = key(500, "steps after which an episode is truncated", AT_LEAST_1)
    noise: float | None = key(None, "standard deviation of the noise on what is seen; null: none", NOT_NEGATIVE)
    best_return: float | None = key(
        None, "return of an episode that reaches its time limit; null: 1 for each step", POSITIVE
    )


@schema("tmaze")
@dataclass
class TMazeConfig:
    """Group `env`, choice `tmaze`."""

    _target_: str = "seqrl.envs.TMaze"
    corridor_length: int = key(20, "steps from the entrance to the junction", AT_LEAST_1)


@schema("repeat_first")
@dataclass
class RepeatFirstConfig:
    """Group `env`, choice `repeat_first`."""

    _target_: str = "seqrl.envs.RepeatFirst"
    decks: int = key(1, "decks of 52 cards, shuffled together", AT_LEAST_1)


@schema("repeat_previous")
@dataclass
class RepeatPreviousConfig:
    """Group `env`, choice `repeat_previous`."""

    _target_: str = "seqrl.envs.RepeatPrevious"
    decks: int = key(1, "decks of 52 cards, shuffled together", AT_LEAST_1)
    k: int = key(4, "which card to name. 1: the one that is shown now, 2: the one before it", AT_LEAST_1)


@schema("count_recall")
@dataclass
class CountRecallConfig:
    """Group `env`, choice `count_recall`."""

    _target_: str = "seqrl.envs.CountRecall"
    decks: int = key(1, "decks of 52 cards, shuffled together", AT_LEAST_1)
    counted: str = key("colors", "what cards are told apart by", choices=["colors", "suits", "ranks"])


@schema("memory_chain")
@dataclass
class MemoryChainConfig:
    """Group `env`, choice `memory_chain`."""

    _target_: str = "seqrl.envs.MemoryChain"
    length: int = key(20, "steps from the first observation to the one that is answered", AT_LEAST_1)
    bits: int = key(1, "bits that are shown, one of which is asked for", AT_LEAST_1)


@schema("gymnasium")
@dataclass
class GymnasiumConfig:
    """Group `env`, choice `gymnasium` and all that build on it."""

    _target_: str = "seqrl.envs.GymnasiumEnv"
    id: str = key(help="such as Acrobot-v1, or my_module:MyEnv-v0 with trust=[my_module]")
    kwargs: dict[str, Any] = key({}, "arguments of the environment's constructor: +env.kwargs.name=value")
    wrappers: list[Any] = key([], "put around each environment, the first one innermost: [{_target_: module.Class}]")
    hidden: list[Any] = key([], "what the policy must not see: indices of a vector, or names of parts")
    action_mask: str | None = key(
        None,
        'where to read which choices are allowed: info, for info["action_mask"], or a part of the observation; null: '
        "the part called action_mask, if there is one",
    )
    log_info: list[str] = key(
        [], "numbers in info at the end of episodes, such as [is_success], whose means are logged; by sync or async"
    )
    backend: str = key(
        "auto",
        "vector: the environment's own vector form. sync: one process. async: one process each. auto: vector where "
        "there is one, else sync or async, whichever is measured to be faster when the run begins. envpool: threads of "
        "EnvPool, which has ids and arguments of its own",
        choices=["auto", "vector", "sync", "async", "envpool"],
    )
    timeout_seconds: float | None = key(
        60.0,
        "seconds that one, or a vector form, may take to begin, reset, step, save, draw or close; null: for ever",
        SECONDS.saying(f"{SECONDS.meaning}, or null for no limit"),
    )


@schema("device")
@dataclass
class DeviceConfig:
    """Group `device`: where the network learns and acts."""

    _target_: str = "seqrl.devices.Device"
    name: str = key(help="cpu, cuda, cuda:1, mps or auto")
    threads: int = key(1, "threads of torch; more than one helps large networks and slows small ones down", THREADS)
    precision: str = key(
        "float32",
        "float32, float64, or float32 with coarser matrix products: bf16, or tf32 on an NVIDIA GPU",
        choices=["float32", "float64", "bf16", "tf32"],
    )


@schema("mlflow")
@dataclass
class MlflowConfig:
    """Group `logger`, choice `mlflow`."""

    _target_: str = "seqrl.loggers.Mlflow"
    tracking_uri: str | None = key(
        "sqlite:///outputs/mlflow.db",
        "a database or a server, such as http://localhost:5000; null: what MLFLOW_TRACKING_URI says",
    )
    experiment: str = key("seqrl", "name of the experiment")
    name: str | None = key(None, "name of the run; null: the name of its folder")


@schema("wandb")
@dataclass
class WandbConfig:
    """Group `logger`, choice `wandb`."""

    _target_: str = "seqrl.loggers.Wandb"
    project: str = key("seqrl", "name of the project")
    entity: str | None = key(None, "user or team; null: your own")
    group: str | None = key(None, "group of runs; null: the name of the sweep's folder")
    name: str | None = key(None, "name of the run; null: the name of its folder")
    mode: str | None = key(
        None,
        "null: what WANDB_MODE says, otherwise online. Without login or network it is offline",
        choices=["online", "offline", "disabled"],
    )
    timeout_seconds: float = key(
        20.0, "seconds that the network may take to begin a run, and three times that to end it", SECONDS
    )


@dataclass
class RunnerConfig:
    """Section `runner`: what plays."""

    _target_: str = "seqrl.runner.Runner"
    rollout_length: int = key("${rollout_length}")
    rollout_steps: int = key("${rollout_steps}")
    rollout_rewards: int = key("${rollout_rewards}")
    episode_limit: int = key(
        100_000,
        "steps after which a whole episode counts as one that never ends: the run stops and says so",
        AT_LEAST_1,
    )


@dataclass
class EvaluationConfig:
    """Section `evaluation`: fresh episodes of the policy, the same ones every time; nothing is learned from them."""

    interval: int = key(
        0,
        "iterations between evaluations; the checkpoint of the best policy among them is kept. 0: evaluate the final "
        "policy alone, and keep the checkpoint of the highest return in training",
        AT_LEAST_0,
    )
    episodes: int = key(200, "fresh episodes, the same number of every environment", AT_LEAST_0)
    greedy: Any = key(
        True,
        "the likeliest action (true), a sampled one (false), or both, one after the other",
        choices=[True, False, "both"],
    )
    memoryless_control: bool = key(
        False, "play the same episodes once more with memory zeroed before every step: does the policy use it?"
    )


@dataclass
class InsightConfig:
    """Section `insight`: what memory does, measured while it learns; nothing that is learned depends on it."""

    interval: int = key(
        100,
        "updates between measurements of gradients and memory, each in the middle of the interval, of a shorter run at "
        "half of its budget. Whether memory is needed is measured at the first update, too. 0: none",
        AT_LEAST_0,
    )


@schema("run")
@dataclass
class RunConfig:
    """A run: keys beside the groups, which files of your own may extend."""

    env: Any = MISSING
    network: Any = MISSING
    sequence_learning: SequenceLearningConfig = MISSING
    algorithm: Any = MISSING
    device: DeviceConfig = MISSING
    logger: dict[str, Any] = field(default_factory=dict)
    runner: RunnerConfig = field(default_factory=RunnerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    insight: InsightConfig = field(default_factory=InsightConfig)
    episodes: int | None = key(
        "${default_episodes:${total_steps}}",
        "training episodes: in each, every one of the `parallel` environments plays one whole episode, and then the "
        "policy is updated on all of them. With a `rollout_length`, the run ends when episodes × parallel have ended. "
        "null: no limit beside `total_steps`. Default: 50 without a `total_steps`, else null",
        AT_LEAST_1,
    )
    parallel: int = key(16, "environments stepped side by side", AT_LEAST_1)
    processes: int = key(
        "${processes:}",
        "processes that share the environments and the gradients of this run, which comes to the same. Default: as "
        "many as torchrun or Slurm has started, else 1",
        AT_LEAST_1,
    )
    rollout_length: int = key(
        0,
        "0: whole episodes. k: k steps of every environment for each update, with memory carried over",
        AT_LEAST_0.saying("0 for whole episodes or a number of steps, such as 128"),
    )
    rollout_steps: int = key(
        "${default_rollout_steps:${total_steps}}",
        "with whole episodes: environment steps that a rollout should have. Every environment plays one episode, or as "
        "many as that takes; 1: always one. Default: 2048 with a `total_steps`, else 1",
        AT_LEAST_1,
    )
    rollout_rewards: int = key(
        "${default_rollout_rewards:${rollout_steps}}",
        "with whole episodes: rewards other than 0 that a rollout should have, or as many episodes. Where rewards are "
        "rarer, rollouts get up to eight times `rollout_steps`; 0: never. Default: 64, or 0 with `rollout_steps=1`",
        AT_LEAST_0,
    )
    total_steps: int | None = key(
        None, "budget in environment steps; with `episodes` too, the first to come ends the run; null: none", AT_LEAST_1
    )
    checkpoint_interval: int = key(
        1, "iterations between checkpoints; 0: only before the first iteration and after the last", AT_LEAST_0
    )
    checkpoint_keep: int = key(2, "newest checkpoints to keep; the best one is kept too", AT_LEAST_1)
    name: str | None = key(None, "in the name of the run's folder; null: its task, what learns, and its seed")
    resume: str | None = key(
        None, "run folder to go on with, or latest; everything else on the command line changes that run"
    )
    validate: bool = key(False, "check and build everything, play a few steps, print sizes, write no files")
    seed: int = key(0, "decides all randomness: the same seed gives the same bits", AT_LEAST_0)
    trust: list[str] = key(
        [], "modules of your own that may be imported; only the command line can say so, never a file"
    )


def keys_of(schema: type[Any]) -> dict[str, Field[Any]]:
    """The keys of a schema, by name."""
    return {it.name: it for it in fields(schema) if not it.name.startswith("_")}
