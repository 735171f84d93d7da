"""An environment to check, with the plays that several checks look at."""

from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

from seqrl.envs import BatchedEnv
from seqrl.machine import perf_counter
from seqrl.verify.findings import UncheckedError
from seqrl.verify.play import BATCH, Budget, MakeEnv, Play
from seqrl.verify.replay import difference, opened, reference, retold, stopped_early

# What helps where another check has failed, and where no episode ends.
FIRST = "Fix that first."
LIMIT_IT = "Give the environment a time limit, such as +env.kwargs.max_episode_steps=1000."


@dataclass(frozen=True)
class Stage:
    """An environment to check.

    make_env         builds environments from their number and the name of their random stream
    budget           how long to play
    whole_episodes   whether a run waits for episodes to end
    make_drawn       builds those that films show; None: the same
    """

    make_env: MakeEnv
    budget: Budget = field(default_factory=Budget)
    whole_episodes: bool = True
    make_drawn: MakeEnv | None = None

    @cached_property
    def play(self) -> Play:
        return reference(self.make_env, self.budget)

    def new(self, stream: str = "verify") -> "closing[BatchedEnv]":
        return closing(self.make_env(BATCH, stream))

    @cached_property
    def least(self) -> int:
        """Steps of each environment that a check plays at least: of a slow one, as many as the play has."""
        return self.budget.least if self.play.fault else min(self.budget.least, self.play.steps // BATCH)

    @cached_property
    def resets(self) -> Play:
        """Many resets, of other episodes than those that are played."""
        with self.new() as env:
            more, began = opened(env), perf_counter()
            while not (more.outside or more.fault) and more.begun < self.budget.resets:
                took = perf_counter() - began
                if took > self.budget.slow or (more.begun > self.budget.resets / 4 and took > self.budget.seconds):
                    break
                more.begin()
        return more

    @cached_property
    def again(self) -> Play:
        with self.new() as env:
            return retold(env, len(self.play.answers))

    @cached_property
    def longest(self) -> Play:
        """The play, or one that goes on until an episode ends, if none did: alone, and as far as the budget goes."""
        if self.play.ends or self.play.fault:
            return self.play
        with closing(self.make_env(1, "verify")) as env:
            alone, began = opened(env), perf_counter()
            while not (alone.ends or alone.fault) and alone.steps < self.budget.endless:
                if perf_counter() - began > self.budget.wait:
                    break
                alone.step()
            # Where the next step is spent on the reset, it shows the next first observation.
            alone.step()
        return alone

    def without_end(self, play: Play) -> UncheckedError:
        """That no episode ended in a play, and what helps."""
        why = f"no episode ended within {play.steps:,} random steps"
        return UncheckedError(f"{why}: {play.fault}", FIRST) if play.fault else UncheckedError(why, LIMIT_IT)

    def require_no_fault(self) -> None:
        """Raise UncheckedError if the environment has a fault of its own, as then one shows nothing elsewhere."""
        if self.play.fault:
            raise UncheckedError(f"the environment has a fault of its own: {self.play.fault}", FIRST)

    def require_repetition(self) -> None:
        """Raise UncheckedError unless a new environment repeats what was played."""
        if difference(self.play, self.again) is not None or stopped_early(self.play, self.again, ""):
            raise UncheckedError("the environment does not repeat even in this process", FIRST)
