"""What a logger is, what it may know about the run, and the scalars that it gets."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, float]

# Training episodes that a row tells of, at most, unless there are more environments.
RECENT = 100

# Every scalar that seqrl writes, and what it means. An evaluation's names begin with sampled_ where the policy is
# evaluated both ways and these episodes took sampled actions.
SCALARS: dict[str, str] = {
    # The latest training episodes: 100, or one per environment if there are more environments.
    "rollout/return_mean": "mean return",
    "rollout/return_min": "lowest return",
    "rollout/return_max": "highest return",
    "rollout/length_mean": "mean length, in steps",
    "rollout/episodes": "episodes ended so far",
    # The update: means over its gradient steps, unless stated otherwise.
    "train/policy_loss": "loss of the policy",
    "train/value_loss": "loss of the value function",
    "train/entropy": "entropy of the policy",
    "train/explained_variance": "share of the variance of the returns that the value function explains",
    "train/kl": "approximate KL divergence between the policy that acted and the updated one",
    "train/clip_fraction": "share of steps whose probability ratio PPO clipped",
    "train/learning_rate": "learning rate in use",
    "train/epochs": "epochs done, fewer than algorithm.epochs if target_kl stopped them",
    "train/return_deviation": "number that rewards are divided by, with algorithm.normalize_reward=true",
    "train/gradient_norm": "norm of the gradient before clipping",
    "train/gradient_clipped": "share of gradient steps that were clipped",
    "train/skipped": "share of gradient steps skipped because they were not finite",
    # How the rollout was cut, and what it took.
    "memory/sequences": "sequences the rollout was cut into",
    "memory/sequence_length": "mean length of a sequence, in steps",
    "memory/carried": "share of sequences that begin with memory from before",
    "memory/peak_mb": "most memory the process has held, in MB",
    # What memory does, every `insight.interval` updates; what does not apply is left out.
    "memory/gradient_cut": "share of the gradient that bptt_length cuts off",
    "memory/gradient_horizon": "steps that gradients must reach back, so that a negligible share is cut off",
    "memory/staleness_kl": "KL divergence of the policy with stored memory from that with recomputed memory",
    "memory/staleness_value": "change of the value by that, in standard deviations of the returns",
    "memory/need": "share of the surprise at a step, to who sees the present alone, that the past foretells",
    # Wall time since the run began, evaluations at intervals included.
    "time/elapsed_seconds": "seconds so far",
    "time/steps_per_second": "environment steps per second",
    "time/environment_share": "share spent in the environments",
    "time/inference_share": "share spent choosing actions",
    "time/update_share": "share spent learning",
    "time/insight_share": "share spent measuring what memory does",
    "time/evaluation_share": "share spent on evaluations",
    "time/other_share": "share spent on everything else: logging, checkpoints",
    "time/idle_share": "share in which this process computed nothing",
    # Fresh episodes, without learning.
    "evaluation/return_mean": "mean return",
    "evaluation/return_std": "standard deviation of the return",
    "evaluation/return_min": "lowest return",
    "evaluation/length_mean": "mean length, in steps",
    "evaluation/episodes": "episodes played",
    "evaluation/sampled_return_mean": "mean return",
    "evaluation/sampled_return_std": "standard deviation of the return",
    "evaluation/sampled_return_min": "lowest return",
    "evaluation/sampled_length_mean": "mean length, in steps",
    "evaluation/return_without_memory": "mean return with memory zeroed before every step",
}


@dataclass(frozen=True)
class About:
    """A run's name and configuration.

    name        of the run folder; for a point of a sweep it contains the swept values
    group       name of the sweep that the run is a point of
    config      resolved, in sections; environment variables appear by name, not by value
    overrides   from the command line
    """

    name: str
    group: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)


class Logger(ABC):
    """Where rows of scalars go. Built with the run folder and the environment steps after which the run resumes.

    keeps_rows   whether a row that could not be written is written later
    """

    keeps_rows = False

    def begin(self, about: About) -> str | None:
        """Prepare for the first row; return a line for the user, or None."""
        return None

    @abstractmethod
    def write(self, row: Row, env_steps: int) -> None:
        """Log scalars, by name, as they are after `env_steps` environment steps."""

    def sync(self) -> None:  # noqa: B027  # most loggers need none of these three
        """Wait until everything written is on disk; called before every checkpoint."""

    def end(self, status: str) -> None:  # noqa: B027
        """Called before `close`, with how the run ended: finished, interrupted or failed."""

    def close(self) -> None:  # noqa: B027
        """Flush and release."""


def left_out(name: str, odd: Sequence[int], lines: int) -> list[str]:
    """A line for the user about lines of a file that are no rows, if there are any: nothing keeps them."""
    if not odd:
        return []
    return [f"warning: {name}: line {odd[0]} is not a row of scalars. {len(odd)} of {lines} lines are left out"]


class Adopted(Logger):
    """Wraps a logger that has the methods of a Logger without being one."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        vars(self).update(
            {
                name: getattr(logger, name)
                for name in ("begin", "sync", "end", "close", "keeps_rows")
                if hasattr(logger, name)
            }
        )

    def write(self, row: Row, env_steps: int) -> None:
        self.logger.write(row, env_steps)


def adopted(logger: Any) -> Logger:
    """The logger as a Logger, even if it lacks the optional methods."""
    return logger if isinstance(logger, Logger) else Adopted(logger)
