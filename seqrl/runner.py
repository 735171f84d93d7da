"""Plays rollouts: steps B environments with a network, carries its memory, fills a Rollout."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, partial
from operator import itemgetter
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from seqrl.envs.base import BatchedEnv
from seqrl.errors import ActionNotFiniteError, ConfigError, FaultyEnvError, OutsideEnvError
from seqrl.machine import perf_counter
from seqrl.networks import Distribution, insist_on_rows
from seqrl.ranks import ALONE, Ranks
from seqrl.seeds import Generator
from seqrl.spaces import Packed, alternatives, parts, tensor_dtype
from seqrl.types import Rollout, State, Step, change_of_form

LIMIT_EPISODES = "Set a limit, such as +env.kwargs.max_episode_steps=1000"
# A rollout may have so many times the steps that it should, if it has too few rewards.
LONGER = 8


class Player(Protocol):
    """The part of a network that the runner needs to act."""

    def initial_state(self, batch_size: int) -> State: ...

    def step(self, observation: Tensor, state: State) -> tuple[Distribution, Tensor, State]:
        """Policy, value and the memory after this step."""
        ...


def waits(answer: Tensor) -> bool:
    """Whether reading these numbers would wait for an accelerator. Computing too much is then cheaper than asking."""
    return not answer.is_cpu


def rounds(rollout_steps: int, rollout_rewards: int, steps: float, rewards: float, episodes: int) -> int:
    """How often each environment plays a whole episode in a rollout that should have so many steps, and rewards.

    A rollout gets more steps than it should have for want of rewards, up to `LONGER` times as many. An episode without
    a reward tells something, too: it counts as one.

    steps, rewards, episodes   of a round, in which each environment plays one episode
    """
    rewarding = min(math.ceil(rollout_rewards / max(rewards, episodes)), int(LONGER * rollout_steps / steps))
    return max(1, round(rollout_steps / steps), rewarding)


class Runner:
    """Plays rollouts, one after another.

    If the environments live on an accelerator, rollouts of k steps never wait for it, unless memory is stored within
    them. Whole episodes wait after every step, to learn which of them continue.

    env              B environments, or this process's share of them
    network          acts and remembers
    rollout_length   0: whole episodes, as many of every environment, so that short ones are not favoured; the network
                     no longer sees those that have finished. k: k steps of every environment; episodes and memory
                     carry over from rollout to rollout
    rollout_steps    environment steps of a rollout of whole episodes, roughly: each environment plays one episode, or
                     as many as that takes if they are as long as those of the rollout before
    rollout_rewards  rewards other than 0 of such a rollout, if up to `LONGER` times as many steps are enough for that
    state_interval   store memory every so many steps of an episode; 0: only where the rollout begins
    state_lead       store it also this many steps before each of those
    generator        draws the actions; None: take the most likely action
    episode_limit    steps after which a whole episode counts as endless
    ranks            the processes that share the environments; each of them gets the whole rollout
    batch_size       B; None: as many as `env` has
    if_endless       a sentence: what to do about an endless episode

    `collect` raises NotFiniteError if the policy's action is NaN or infinite, and FaultyEnvError if an episode is
    endless, or if an environment returns NaN, an infinite number or a choice that its space does not have.
    """

    def __init__(
        self,
        env: BatchedEnv,
        network: Player,
        rollout_length: int,
        state_interval: int,
        generator: torch.Generator | None,
        state_lead: int = 0,
        rollout_steps: int = 1,
        rollout_rewards: int = 0,
        episode_limit: int = 100_000,
        ranks: Ranks = ALONE,
        batch_size: int | None = None,
        if_endless: str = f"{LIMIT_EPISODES}, or use rollout_length=128.",
    ) -> None:
        self.env, self.network, self.ranks = env, network, ranks
        self.batch_size = env.batch_size if batch_size is None else batch_size
        # Index of the first environment here.
        self._first = ranks.share(self.batch_size).start
        self.rollout_length, self.rollout_steps = rollout_length, rollout_steps
        self.rollout_rewards = rollout_rewards
        self.state_interval, self.state_lead = state_interval, state_lead
        self.generator, self.episode_limit, self._if_endless = generator, episode_limit, if_endless
        # Seconds spent in the environment so far.
        self.environment_seconds = 0.0
        # Of episodes that have ended since it was last taken: place in the rollout, and numbers to log by name.
        self._ended_info: list[tuple[int, dict[str, float]]] = []
        self._unfinished: Episodes | None = None
        # The latest one: what it draws is drawn for all environments.
        self._policy: Distribution | None = None
        # Whole episodes that each environment plays in the next rollout.
        self._rounds = 1
        # What shows whether an answer is wrong, and what says where.
        self._unchecked: list[tuple[Evidence, Callable[[], None]]] = []
        space = env.observation_space
        leaves = space.parts if isinstance(space, Packed) else {"": space}
        self._choices = {name: limits for name, leaf in leaves.items() if (limits := alternatives(leaf))}
        self._floats = [name for name, leaf in leaves.items() if tensor_dtype(leaf).is_floating_point]

    def collect(self) -> Rollout:
        """Play one rollout [T, B]; T is `rollout_length`, or the length of the longest episodes, one after another."""
        recorder = Recorder(self.batch_size, self.state_interval, self.state_lead, self._first)
        with torch.inference_mode():
            if self.rollout_length:
                last_value = self._play_steps(recorder)
            else:
                for _ in range(self._rounds):
                    last_value = self._play_whole_episodes(recorder)
            self._check_finite()
        # Outside inference mode, because learning computes gradients from these tensors.
        rollout = recorder.rollout(last_value, self.ranks)
        if not self.rollout_length:
            steps = recorder.steps / self._rounds
            rewards = int(((rollout.reward != 0) & rollout.valid).sum()) / self._rounds
            # Known before the rollout begins: to stop when it is long enough would favour short episodes.
            self._rounds = rounds(self.rollout_steps, self.rollout_rewards, steps, rewards, self.batch_size)
        self._gather_info()
        return rollout

    def play(self) -> tuple[Tensor, Tensor]:
        """Play one whole episode in every environment, and keep nothing of them but this.

        Returns their rewards [T, B], and which of these steps were played [T, B].
        """
        recorder = Recorder(self.batch_size, 0, 0, self._first, scores_alone=True)
        with torch.inference_mode():
            self._play_whole_episodes(recorder)
            self._check_finite()
        columns, _ = recorder.grids(self.ranks)
        self._gather_info()
        return columns["reward"], columns["valid"]

    def _gather_info(self) -> None:
        """What all ranks were told of the episodes that have ended, in the order in which they did."""
        if self.env.logs_info:
            told = [told for those in self.ranks.objects(self._ended_info) for told in those]
            self._ended_info = sorted(told, key=itemgetter(0))

    def state_dict(self) -> dict[str, Any]:
        """State of the action generator and of the episodes in progress, those of all ranks."""
        mine = {
            "environment": self.env.state_dict(),
            "episodes": None if self._unfinished is None else self._unfinished.state_dict(),
        }
        played = mine if self.ranks.size == 1 else {"ranks": self.ranks.objects(mine)}
        generator = None if self.generator is None else self.generator.get_state()
        return {"generator": generator, **played, "rounds": self._rounds}

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        """Restore the state, as `of_rank` has it; return [B] bool, true where an episode was lost and a new one begins.

        If there is no state of the environment, all episodes in progress are lost, and the environment must be fresh.
        """
        lost = self._restored(state)
        return self.ranks.joined([lost])[0]

    def _restored(self, state: dict[str, Any]) -> Tensor:
        if self.generator is not None:
            self.generator.set_state(state["generator"])
        continues = torch.zeros(self.env.batch_size, dtype=torch.bool)
        if state["environment"] is not None:
            continues = self.env.load_state_dict(state["environment"])
        self._unfinished = None
        # Runs of 0.1.0 had one. Each has at least a step; a file may say anything.
        self._rounds = min(max(1, state.get("rounds", 1)), LONGER * self.rollout_steps)
        if state["episodes"] is None:
            return torch.zeros_like(continues)
        if continues.any():
            # The precision of a resumed run may be another.
            like = self.network.initial_state(1)
            episodes = Episodes.of(state["episodes"], self.env, continues.device, like)
            if not self.rollout_length:
                # Whole episodes begin with each rollout; those in progress are of rollouts of fixed length.
                return torch.ones_like(continues)
            self._unfinished = episodes
            if not continues.all():
                self._unfinished.replace(~continues, self._reset(~continues))
        return ~continues

    def _play_whole_episodes(self, recorder: "Recorder") -> Tensor:
        """Play one episode each; return the value of what follows the last step [B]: zeros, as nothing does."""
        episodes = self._begin()
        begun = len(recorder.places)
        while len(episodes):
            step = self._play(episodes, recorder)
            ended = step.terminated | step.truncated
            if ended.any():
                episodes = episodes.only(~ended)
            if len(recorder.places) - begun == self.episode_limit and len(episodes):
                raise FaultyEnvError(
                    f"environment {self._first + int(episodes.rows[0])}: its episode has not ended after "
                    f"{self.episode_limit:,} steps. {self._if_endless}"
                )
        self._await_others(recorder)
        return recorder.values[0].new_zeros(self.env.batch_size)

    def _await_others(self, recorder: "Recorder") -> None:
        """Be where all ranks are, once each has played its episodes: at the same step, and with the same numbers."""
        here = len(recorder.places)
        (there,) = self.ranks.largest(here)
        recorder.skip(there - here)
        if self.generator is not None and self._policy is not None:
            for _ in range(there - here):
                self._policy.sample(self.generator)
        self._policy = None

    def _play_steps(self, recorder: "Recorder") -> Tensor:
        """Play `rollout_length` steps; return the value [B] of the observation after the last one."""
        episodes = self._begin() if self._unfinished is None else self._unfinished
        for _ in range(self.rollout_length):
            step = self._play(episodes, recorder)
            ended = step.terminated | step.truncated
            if waits(ended) or ended.any():
                episodes.observation = self._reset(ended)
            # If the environment spent the step on its reset, the episode begins after the step, not before.
            episodes.forget(ended | ~step.valid)
        self._unfinished = episodes
        return self._value(episodes.observation, episodes.state)

    def _begin(self) -> "Episodes":
        observation = self._reset()
        rows = torch.arange(self.env.batch_size, device=observation.device)
        return Episodes(rows, observation, self.network.initial_state(len(rows)), torch.zeros_like(rows))

    def _play(self, episodes: "Episodes", recorder: "Recorder") -> Step:
        """Take one step in every episode in progress."""
        policy, value, state = self.network.step(episodes.observation, episodes.state)
        insist_on_rows("the value that step returns", value, len(episodes))
        # The network may write the next one over it.
        value = value.clone()
        if change := change_of_form(episodes.state, state):
            # Nothing could go on from what would be saved.
            raise ConfigError([f"network: its memory must keep its form, but {change}."])
        action = policy.mode() if self.generator is None else self._sampled(policy, episodes.rows)
        self._check_action(episodes, action)
        began = perf_counter()
        # Whoever plays may write to what it is given.
        step = episodes.step(self.env, action.clone())
        self.environment_seconds += perf_counter() - began
        self._note_ended(episodes.rows, step, len(recorder.places))
        self._check_later(step.observation, step.reward, partial(self._check_step, episodes.rows, episodes.age, step))
        log_prob = policy.log_prob(action)
        insist_on_rows("log_prob", log_prob, len(episodes))
        final_value = self._final_value(step, value, state)
        recorder.record(episodes, action, log_prob, value, step, final_value)
        episodes.observation, episodes.state, episodes.age = step.observation, state, episodes.age + step.valid
        return step

    def _sampled(self, policy: Distribution, rows: Tensor) -> Tensor:
        """An action of each of these environments. The numbers that it takes depend on no other environment."""
        generator = self.generator
        assert generator is not None
        if isinstance(generator, Generator):
            everywhere = rows.shape[0] == self.batch_size
            generator.rows, generator.total = None if everywhere else self._first + rows, self.batch_size
            generator.used = False
        self._policy = policy
        action = policy.sample(generator)
        if self.ranks.size > 1 and not getattr(generator, "used", False):
            raise ConfigError(
                [
                    "processes: the policy of this network draws its actions itself, so that processes would draw the "
                    "same ones. Draw the numbers with seqrl.seeds.drawn, or use processes=1."
                ]
            )
        return action

    def take_ended_info(self) -> list[tuple[int, dict[str, float]]]:
        """What the environments told of the episodes that have ended since the last call: row, and numbers by name."""
        taken, self._ended_info = self._ended_info, []
        return [(place % self.batch_size, told) for place, told in taken]

    def _note_ended(self, rows: Tensor, step: Step, time: int) -> None:
        if not self.env.logs_info or not (ended := step.ended & step.valid).any():
            return
        told = {name: numbers.tolist() for name, numbers in self.env.ended_info(rows[ended]).items()}
        for index, row in enumerate(rows[ended].tolist()):
            place = time * self.batch_size + self._first + row
            self._ended_info.append((place, {name: numbers[index] for name, numbers in told.items()}))

    def _final_value(self, step: Step, value: Tensor, state: State) -> Tensor:
        """Value [n] of the final observation of truncated episodes, 0 elsewhere; memory is not yet reset."""
        truncated = step.truncated & ~step.terminated
        final_value = torch.zeros_like(value)
        if waits(truncated):
            return self._value(step.observation, state).where(truncated, final_value)
        if truncated.any():
            memory = {name: leaf[truncated] for name, leaf in state.items()}
            final_value[truncated] = self._value(step.observation[truncated], memory)
        return final_value

    def _check_action(self, episodes: "Episodes", action: Tensor) -> None:
        """Raise NotFiniteError if an action is NaN or infinite, before an environment answers alike and is blamed."""
        # An adapter that has to wait for an accelerator asks for itself.
        if not action.is_floating_point() or waits(action) or math.isfinite(action.sum()):
            return
        if (faulty := ~action.isfinite().reshape(len(action), -1).all(1)).any():
            first = int(faulty.nonzero()[0])
            where = f"environment {self._first + int(episodes.rows[first])}, {moment(int(episodes.age[first]) + 1)}"
            number = float(action[first][~action[first].isfinite()].flatten()[0])
            evidence = {"observation": episodes.observation, "action": action}
            raise ActionNotFiniteError(where, number, evidence)

    def _check_later(self, observation: Tensor, reward: Tensor | None, check: Callable[[], None]) -> None:
        """Have `check` called if a number is wrong: now, or when that no longer waits for an accelerator.

        NaN and infinite numbers are, and choices that the space does not have.
        """
        shown = parts(self.env.observation_space, observation)
        floats = [*(shown[name] for name in self._floats), *([] if reward is None else [reward])]
        evidence = Evidence.of(floats, [(shown[name], limits) for name, limits in self._choices.items()])
        self._unchecked.append((evidence, check))
        if not waits(observation):
            self._check_finite()

    def _check_finite(self) -> None:
        """Raise FaultyEnvError if any number not checked yet is wrong; say where."""
        if self._unchecked and is_suspicious([evidence for evidence, _ in self._unchecked]):
            for _, check in self._unchecked:
                check()
        self._unchecked.clear()

    def _check_step(self, rows: Tensor, age: Tensor, step: Step) -> None:
        rows = self._first + rows
        check_finite(rows, {"reward": step.reward}, step.valid, age + 1)
        # A step that an environment spends on its reset shows the first observation of the next episode.
        observations = self._named(step.observation)
        steps = (age + 1) * step.valid
        check_finite(rows, observations, torch.ones_like(step.valid), steps)
        self._check_choices(rows, step.observation, torch.ones_like(step.valid), steps)

    def _check_reset(self, observation: Tensor, where: Tensor) -> None:
        rows = self._first + torch.arange(len(observation), device=observation.device)
        check_finite(rows, self._named(observation), where, torch.zeros_like(rows))
        self._check_choices(rows, observation, where, torch.zeros_like(rows))

    def _check_choices(self, rows: Tensor, observation: Tensor, where: Tensor, steps: Tensor) -> None:
        by_name = parts(self.env.observation_space, observation)
        for name, limits in self._choices.items():
            numbers = by_name[name].reshape(len(rows), -1)
            outside = where.unsqueeze(1) & ((numbers < 0) | (numbers >= numbers.new_tensor(limits)))
            if outside.any():
                first, column = outside.nonzero()[0].tolist()
                where_shown = f"its observation{f' {name!r}' if name else ''} is outside its space"
                raise OutsideEnvError(
                    f"environment {int(rows[first])}, {moment(int(steps[first]))}: {where_shown}: "
                    f"{int(numbers[first, column])} is not within 0 to {limits[column] - 1}. Fix the environment."
                )

    def _named(self, observation: Tensor) -> dict[str, Tensor]:
        by_name = parts(self.env.observation_space, observation)
        return {f"observation {name!r}" if name else "observation": numbers for name, numbers in by_name.items()}

    def _reset(self, where: Tensor | None = None) -> Tensor:
        began = perf_counter()
        observation = self.env.reset(where)
        self.environment_seconds += perf_counter() - began
        begun = torch.ones(len(observation), dtype=torch.bool, device=observation.device) if where is None else where
        self._check_later(observation, None, partial(self._check_reset, observation, begun))
        return observation

    def _value(self, observation: Tensor, state: State) -> Tensor:
        return self.network.step(observation, state)[1]


def check_finite(rows: Tensor, answers: dict[str, Tensor], where: Tensor, steps: Tensor) -> None:
    """Raise FaultyEnvError for the first environment that returned NaN or an infinite number.

    rows      [n]  index of the environment of each answer
    answers   [n, ...]  by name
    where     [n] bool  the answers that count
    steps     [n]  steps of the episode, with the one that was answered; 0: its reset
    """
    for name, numbers in answers.items():
        faulty = where & ~numbers.isfinite().reshape(len(numbers), -1).all(1)
        if faulty.any():
            first = int(faulty.nonzero()[0])
            number = numbers[first][~numbers[first].isfinite()].flatten()[0]
            where_shown = f"environment {int(rows[first])}, {moment(int(steps[first]))}"
            raise FaultyEnvError(f"{where_shown}: its {name} is {number:g}. Fix the environment.")


def moment(step: int) -> str:
    return f"step {step} of its episode" if step else "reset"


@dataclass(slots=True)
class Evidence:
    """A few numbers that show whether an answer of all environments is wrong.

    sums     of numbers, which are finite only if all of them are; they may be too large though all are finite
    ranges   least and greatest of choices, and how many there are
    """

    sums: list[Tensor]
    ranges: list[tuple[Tensor, Tensor, int]]

    @classmethod
    def of(cls, floats: list[Tensor], choices: list[tuple[Tensor, list[int]]]) -> Self:
        """From numbers, and from choices with the number of alternatives of each."""
        ranges = []
        for numbers, limits in choices:
            if min(limits) == max(limits):
                ranges.append((*numbers.aminmax(), limits[0]))
            else:
                beyond = numbers.reshape(len(numbers), -1) - _on(numbers.device, tuple(limits))
                ranges.append((numbers.amin(), beyond.amax(), 0))
        return cls([numbers.sum() for numbers in floats], ranges)


@cache
def _on(device: torch.device, limits: tuple[int, ...]) -> Tensor:
    """Copied once: a copy would make the accelerator wait."""
    return torch.tensor(limits, device=device)


def is_suspicious(evidence: list[Evidence]) -> bool:
    """Whether there may be something wrong; waits for an accelerator once."""
    sums = [each for one in evidence for each in one.sums]
    ranges = [each for one in evidence for each in one.ranges]
    if any(map(waits, sums)):
        sums = [sum(sums, start=torch.zeros_like(sums[0]))]
    if ranges and waits(ranges[0][0]):
        outside = torch.stack([(low < 0) | (high >= size) for low, high, size in ranges]).any()
        sums, ranges = [torch.where(outside, torch.inf, sum(sums))], []
    return any(low < 0 or high >= size for low, high, size in ranges) or not all(map(math.isfinite, sums))


@dataclass(slots=True)
class Episodes:
    """n episodes in progress.

    rows          [n]      index of the environment of each
    observation   [n, *O]  what the policy sees next
    state         leaves [n, ...]  memory before it sees that observation
    age           [n]      steps played so far
    """

    rows: Tensor
    observation: Tensor
    state: State
    age: Tensor

    @classmethod
    def of(cls, state: dict[str, Any], env: BatchedEnv, device: torch.device, like: State) -> Self:
        """Episodes of all environments, restored from a `state_dict`, with a memory of the same dtypes as `like`.

        Raises ValueError if they are not as many, or not of such environments or such a memory.
        """
        one = {"age": (), "observation": env.observation_space.shape or (), **{it: like[it].shape[1:] for it in like}}
        for name, tensor in {"age": state["age"], "observation": state["observation"], **state["state"]}.items():
            if tensor.shape != (env.batch_size, *one.pop(name)):
                raise ValueError(f"{name} of its episodes is {list(tensor.shape)}")
        if one:
            raise ValueError(f"its episodes have no {next(iter(one))}")
        memory = {name: leaf.to(device, like[name].dtype, copy=True) for name, leaf in state["state"].items()}
        age = state["age"].to(device, torch.int64, copy=True)
        return cls(torch.arange(len(age), device=device), state["observation"].to(device), memory, age)

    def __len__(self) -> int:
        # A tensor's own length takes torch several times as long.
        return self.rows.shape[0]

    def state_dict(self) -> dict[str, Any]:
        return {"observation": self.observation, "state": self.state, "age": self.age}

    def step(self, env: BatchedEnv, action: Tensor) -> Step:
        """Play `action` [n, *A]; return the step of these episodes only."""
        if len(self) == env.batch_size:
            return env.step(action)
        # Finished environments ignore their action.
        everywhere = action.new_zeros(env.batch_size, *action.shape[1:])
        everywhere[self.rows] = action
        step = env.step(everywhere)
        return Step(*(getattr(step, field.name)[self.rows] for field in fields(Step)))

    def only(self, these: Tensor) -> "Episodes":
        """The episodes where `these` [n] is true."""
        state = {name: leaf[these] for name, leaf in self.state.items()}
        return Episodes(self.rows[these], self.observation[these], state, self.age[these])

    def replace(self, where: Tensor, observation: Tensor) -> None:
        """Where `where` [n] is true, start an episode from that row of `observation` [n, *O]."""
        self.observation = observation.where(where.view(-1, *[1] * (observation.dim() - 1)), self.observation)
        self.forget(where)

    def forget(self, where: Tensor) -> None:
        """Set memory and age to zero where `where` [n] is true.

        Not in place: memory may be the very observation that was recorded.
        """
        if not waits(where) and not where.any():
            return
        self.age = self.age.masked_fill(where, 0)
        if waits(where):
            self.state = {
                name: leaf.masked_fill(where.view(-1, *[1] * (leaf.dim() - 1)), 0) for name, leaf in self.state.items()
            }
        else:
            rows = where.nonzero().squeeze(1)
            self.state = {name: leaf.index_fill(0, rows, 0) for name, leaf in self.state.items()}


def of_rank(state: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """What a rank needs of a runner's state.

    There is no state of the environment if another number of processes played: an episode cannot move to another one.
    """
    played = state.get("ranks", [{"environment": state.get("environment"), "episodes": state.get("episodes")}])
    none = {"environment": None, "episodes": played[0]["episodes"]}
    mine = played[ranks.rank] if len(played) == ranks.size else none
    return {"generator": state["generator"], "rounds": state.get("rounds", 1), **mine}


class Recorder:
    """Records a rollout step by step, for the environments that are still playing.

    batch_size     B, of all ranks
    first          index of the first environment here
    scores_alone   keep rewards alone: all that was seen, in all episodes of an evaluation, may not fit into memory
    """

    def __init__(
        self, batch_size: int, state_interval: int, state_lead: int, first: int = 0, scores_alone: bool = False
    ) -> None:
        self.batch_size, self.state_interval, self.state_lead = batch_size, state_interval, state_lead
        self.first, self.scores_alone = first, scores_alone
        # Of all ranks, once they are gathered.
        self.steps = 0
        self.places: list[Tensor] = []
        self.values: list[Tensor] = []
        self._columns: dict[str, list[Tensor]] = {}
        self._state_places: list[Tensor] = []
        self._states: list[State] = []

    def record(
        self, episodes: Episodes, action: Tensor, log_prob: Tensor, value: Tensor, step: Step, final_value: Tensor
    ) -> None:
        """Add one step of `episodes`: what the policy saw and did, and the result; all [n, ...]."""
        place = len(self.places) * self.batch_size + self.first + episodes.rows
        if not self.scores_alone:
            self._store_state(episodes, place)
        self.places.append(place)
        self.values.append(value)
        columns = {
            "observation": episodes.observation,
            "action": action,
            "log_prob": log_prob,
            "final_value": final_value,
            "reward": step.reward,
            "terminated": step.terminated,
            "truncated": step.truncated,
            "valid": step.valid,
            "age": episodes.age,
        }
        for name in ("reward", "valid") if self.scores_alone else columns:
            self._columns.setdefault(name, []).append(columns[name])

    def _store_state(self, episodes: Episodes, place: Tensor) -> None:
        """Store memory where a sequence may begin with it; at an episode's start there is none."""
        needed = episodes.age > 0
        if self.places:
            if not self.state_interval:
                return
            here, ahead = episodes.age % self.state_interval, (episodes.age + self.state_lead) % self.state_interval
            needed &= (here == 0) | (ahead == 0)
            if not needed.any():
                return
        # At the first step, store all memory rather than wait for an accelerator to say where there is none.
        chosen = slice(None) if not self.places and waits(needed) else needed
        self._state_places.append(place[chosen])
        self._states.append({name: leaf[chosen] for name, leaf in episodes.state.items()})

    def skip(self, steps: int) -> None:
        """Let so many steps pass in which nothing is played here."""
        self.places += [self.places[-1][:0]] * steps

    def rollout(self, last_value: Tensor, ranks: Ranks = ALONE) -> Rollout:
        """The recorded rollout, of all ranks.

        last_value   value of the observation after the last step, of the environments here
        """
        columns, (last_value,) = self.grids(ranks, last_value)
        following = torch.cat([columns["value"][1:], last_value.unsqueeze(0)])
        next_value = columns.pop("final_value").where(columns["terminated"] | columns["truncated"], following)
        state, state_index = self._stored(columns["age"], ranks)
        return Rollout(**columns, next_value=next_value, state=state, state_index=state_index)

    def grids(self, ranks: Ranks, *also: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """What was recorded, of all ranks, by name, all [T, B, ...]; and other tensors, those of all ranks together."""
        length = len(self.places)
        flats = {"value": self.values, **self._columns}
        place, *joined = ranks.joined([torch.cat(self.places), *map(torch.cat, flats.values()), *also])
        self.steps = len(place)

        def grid(flat: Tensor) -> Tensor:
            whole = flat.new_zeros(length * self.batch_size, *flat.shape[1:])
            return whole.index_copy_(0, place, flat).view(length, self.batch_size, *flat.shape[1:])

        return {name: grid(flat) for name, flat in zip(flats, joined, strict=False)}, joined[len(flats) :]

    def _stored(self, age: Tensor, ranks: Ranks) -> tuple[State, Tensor]:
        """Stored memory, and its row before each step [T, B]; -1 where none is stored."""
        names = list(self._states[0])
        mine = [torch.cat(self._state_places), *(torch.cat([state[name] for state in self._states]) for name in names)]
        place, *leaves = ranks.joined(mine)
        if ranks.size > 1:
            # As one process stores it, step by step.
            order = place.argsort()
            place, leaves = place[order], [leaf[order] for leaf in leaves]
        index = torch.full_like(age, -1)
        index.view(-1)[place] = torch.arange(len(place), device=age.device)
        return dict(zip(names, leaves, strict=True)), index.masked_fill_(age == 0, -1)
