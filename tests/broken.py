"""Environments and networks with one defect each, which `seqrl.verify` must find."""

import ast
import multiprocessing
import os
import resource
import subprocess
import time
from dataclasses import replace
from typing import ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from seqrl.envs import BatchedEnv, GymnasiumEnv
from seqrl.envs.adopted import adopted
from seqrl.envs.gym import calls
from seqrl.networks import GRU, LSTM, Attention, Block, Encoder, GTrXL, Matrix, MinGRU, Network, Stack, Trunk
from seqrl.seeds import stream
from seqrl.types import Step


class Walk(gymnasium.Env):
    """A random walk over eight places, five to twelve steps long: sound."""

    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.clock = int(self.random().integers(5, 13)), 0
        return self.seen(), {}

    def step(self, action):
        self.clock += 1
        return self.seen(), float(action), False, self.clock >= self.length, {}

    def random(self):
        return self.np_random

    def seen(self):
        return self.random().uniform(-1, 1, 3).astype(np.float32)


class Drawn(Walk):
    """Can be drawn: sound."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  # as Gymnasium has it

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


class DrawnByChance(Drawn):
    """Draws a flickering picture."""

    def render(self):
        return self.np_random.integers(0, 255, (4, 4, 3), np.uint8)


class DrawsColours(Drawn):
    """Draws the colours of its pictures when it begins, if it is to be drawn."""

    def reset(self, *, seed=None, options=None):
        first = super().reset(seed=seed)
        return first if self.render_mode is None else (self.seen(), {})


class Undrawable(Drawn):
    """Says that it can be drawn, and cannot."""

    def render(self):
        raise RuntimeError("no display")


class Unseeded(Walk):
    """Draws from a stream that no seed reaches."""

    stream = np.random.default_rng()

    def random(self):
        return self.stream


class Endless(Walk):
    """Never ends."""

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, False, info


class OutOfBounds(Walk):
    """Shows what is not in its space."""

    def seen(self):
        return 3 * super().seen()


class FirstForFinal(Walk):
    """Ends with an observation that the next episode begins with."""

    def seen(self):
        return np.full(3, 0.5 if self.clock in (0, self.length) else 0.1, np.float32)


class StaleFinal(Walk):
    """Ends with what the step before had shown."""

    def seen(self):
        return np.array([min(self.clock, self.length - 1) / 20, self.length / 20, 0], np.float32)


class BlankFinal(Walk):
    """Shows zeros where a time limit ends it."""

    def seen(self):
        told = [self.clock / 20, self.length / 20, self.random().random() / 2]
        return np.array(told if self.clock < self.length else [0, 0, 0], np.float32)


class KnowsTwoSeeds(Walk):
    """Is seeded with one of two numbers, whatever the seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed and seed % 2, options=options)


class OrdersASet(Walk):
    """Its reward is the order of a set."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float([*{"a", "b", "c", "d"}].index("a")), *rest


class Blind(Walk):
    """Shows the same always: sound."""

    def seen(self):
        return np.zeros(3, np.float32)


class Mixed(Walk):
    """Terminates if its length is even, else is truncated; shows how far it went: sound."""

    place = 0.0

    def reset(self, *, seed=None, options=None):
        self.forget()
        return super().reset(seed=seed, options=options)

    def forget(self):
        self.place = 0.0

    def step(self, action):
        self.place += 0.01
        observation, reward, _, ended, info = super().step(action)
        return observation, reward, ended and self.length % 2 == 0, ended and self.length % 2 == 1, info

    def seen(self):
        return (0.1 * super().seen() + min(self.place, 0.9)).astype(np.float32)


class LeaksOverTruncations(Mixed):
    """Forgets where it was after a termination, but not after a truncation."""

    def forget(self):
        if getattr(self, "terminated", True):
            self.place = 0.0

    def step(self, action):
        answer = super().step(action)
        self.terminated = not answer[3]
        return answer


class LeaksOverTerminations(LeaksOverTruncations):
    """The other way round."""

    def step(self, action):
        answer = super().step(action)
        self.terminated = not answer[2]
        return answer


class Saves:
    """Saves all numbers and the random stream of an environment: sound."""

    def state_dict(self):
        numbers = {name: it for name, it in vars(self).items() if isinstance(it, int | float)}
        return {"numbers": numbers, "random": repr(self.np_random.bit_generator.state)}

    def load_state_dict(self, state):
        vars(self).update(state["numbers"])
        self.np_random.bit_generator.state = ast.literal_eval(state["random"])


class SavesAll(Saves, Mixed):
    """Sound."""


class SavesItsLeak(Saves, LeaksOverTruncations):
    """Forgets where it was after a termination, but not after a truncation; restores all of its state."""


class SavesNoRandom(Walk):
    """Leaves the random stream out of its state."""

    def state_dict(self):
        return {"length": self.length, "clock": self.clock}

    def load_state_dict(self, state):
        vars(self).update(state)


class SavesAtFirst(SavesAll):
    """Can say where it is at the first reset alone."""

    def state_dict(self):
        return {**super().state_dict(), "self": self if self.clock else None}


class LoadsItsOwn(SavesAll):
    """Takes back what it saved itself, and nothing that another one did."""

    def state_dict(self):
        return {**super().state_dict(), "id": id(self)}

    def load_state_dict(self, state):
        if state.pop("id") != id(self):
            raise RuntimeError("no such handle")
        super().load_state_dict(state)


class Rounds(Walk):
    """Has the processor round up, and allows few open files."""

    def step(self, action):
        calls._round_so(0x800)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return super().step(action)


class SavesNothing(Walk):
    """Has a state_dict without its state."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class SharesItsArray(Walk):
    """Shows all copies in one array."""

    shown = np.zeros(3, np.float32)

    def seen(self):
        self.shown[:] = super().seen()
        return self.shown


class ChangesItsSpace(Walk):
    """Has fewer actions after the first reset."""

    def __init__(self):
        self.action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        self.action_space = spaces.Discrete(2)
        return super().reset(seed=seed, options=options)


class NoisyLater(Walk):
    """Draws from a stream that no seed reaches, once it has played 300 steps."""

    stream = np.random.default_rng()
    steps = 0

    def step(self, action):
        self.steps += 1
        return super().step(action)

    def random(self):
        return self.np_random if self.steps < 300 else self.stream


class Curriculum(Walk):
    """Gets harder with the episodes that it has played."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed, options=options)

    def seen(self):
        return super().seen() * np.float32(1 - 0.1 * min(self.episodes // 10, 5))


class EndlessCurriculum(Curriculum, Endless):
    """Gets harder with the episodes that were begun, and ends none."""


class LeaksAfterLong(Walk):
    """Pays more after an episode that ended at its twelfth step, and for that episode alone."""

    clock, bonus = 0, 0.0

    def reset(self, *, seed=None, options=None):
        self.bonus = float(self.clock == 12)
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, reward, *others = super().step(action)
        return observation, reward + self.bonus, *others


class HeedsOneSeed(Walk):
    """Heeds the first seed only."""

    seeded = False

    def reset(self, *, seed=None, options=None):
        seed, self.seeded = None if self.seeded else seed, True
        return super().reset(seed=seed, options=options)


class Steered(Walk):
    """Is steered by numbers: sound."""

    action_space = spaces.Box(-1.0, 1.0, (2,))

    def step(self, action):
        return super().step(float(action.sum()))


class ChangesActions(Steered):
    """Writes to its actions."""

    def step(self, action):
        action *= 0.5
        return super().step(action)


class NotANumber(Walk):
    """Begins one episode in 40 with NaN."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return np.where(self.np_random.random() < 1 / 40, np.nan, observation).astype(np.float32), info


class EarnsNotANumber(Walk):
    """Gives a reward that is no number before any episode ends."""

    def step(self, action):
        seen, reward, *ends = super().step(action)
        return seen, np.nan if self.clock == 4 else reward, *ends


class OutOfBoundsLater(Walk):
    """Leaves its space once it has played 500 steps."""

    steps = 0

    def step(self, action):
        self.steps += 1
        return super().step(action)

    def seen(self):
        return super().seen() + np.float32(3 * (self.steps > 500))


class GlobalStream(Walk):
    """Draws from NumPy's global stream."""

    def seen(self):
        return np.random.uniform(-1, 1, 3).astype(np.float32)


class SeedsGlobalStream(Walk):
    """Seeds NumPy's global stream, and draws from it."""

    def reset(self, *, seed=None, options=None):
        np.random.seed(seed)
        return super().reset(seed=seed, options=options)

    def seen(self):
        return np.random.uniform(-1, 1, 3).astype(np.float32)


class SharedByCopies(Walk):
    """Keeps its place in its class, where all copies find it."""

    place = 0

    def reset(self, *, seed=None, options=None):
        SharedByCopies.place = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        SharedByCopies.place += 1
        return super().step(action)

    def seen(self):
        return (0.1 * super().seen() + 0.01 * min(self.place, 80)).astype(np.float32)


class OfThisProcess(Walk):
    """Shows something that another process does not have."""

    def seen(self):
        return super().seen() / (1 + os.getpid() % 1000)


class FailsWithCompany(Walk):
    """Cannot be played where another one was: only the first pair can."""

    made = 0

    def __init__(self):
        FailsWithCompany.made += 1
        self.number = FailsWithCompany.made

    def step(self, action):
        if self.number > 2:
            raise RuntimeError("the port is taken")
        return super().step(action)


class FailsElsewhere(Walk):
    """Can be played in the first process alone."""

    def step(self, action):
        if multiprocessing.parent_process() is not None:
            raise RuntimeError("no licence for another process")
        return super().step(action)


class OutOfChoices(Walk):
    """Shows the fourth of three."""

    observation_space = spaces.Discrete(3)

    def seen(self):
        return int(self.random().integers(4))


class OutOfSeveralChoices(Walk):
    """Shows an alternative that the second choice does not have."""

    observation_space = spaces.MultiDiscrete([4, 3])

    def seen(self):
        return self.random().integers(4, size=2)


class Asks(Walk):
    """Has a mask of allowed actions where it is found: sound."""

    observation_space = spaces.Dict({"place": Walk.observation_space, "action_mask": spaces.MultiBinary(2)})

    def seen(self):
        return {"place": super().seen(), "action_mask": np.array([1, 0], np.int8)}


class NestedMask(Walk):
    """Has a mask of allowed actions within a part."""

    observation_space = spaces.Dict({"state": Asks.observation_space})

    def seen(self):
        return {"state": {"place": super().seen(), "action_mask": np.array([1, 0], np.int8)}}


class InfoMask(Walk):
    """Has a mask of allowed actions in info."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0], {"action_mask": np.array([1, 0], np.int8)}

    def step(self, action):
        return *super().step(action)[:4], {"action_mask": np.array([1, 0], np.int8)}


class DimBits(Walk):
    """Shows bits as bytes from 0 to 255."""

    observation_space = spaces.Box(0, 255, (3, 3, 20), np.uint8)

    def seen(self):
        return self.random().integers(2, size=(3, 3, 20), dtype=np.uint8)


class Bits(DimBits):
    """Shows bits as what they are: sound."""

    observation_space = spaces.Box(0, 1, (3, 3, 20), np.uint8)


class Exits(Walk):
    """Ends the program in its third episode."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        if self.episodes == 3:
            raise SystemExit
        return super().reset(seed=seed, options=options)


class Raises(Walk):
    """Can't be played."""

    def step(self, action):
        return 1 / 0


class Lasts(Walk):
    """Lasts as long as it is told: sound."""

    def __init__(self, steps):
        self.steps = steps

    def reset(self, *, seed=None, options=None):
        answer = super().reset(seed=seed, options=options)
        self.length = self.steps
        return answer


class Normalizes(gymnasium.wrappers.NormalizeReward):
    """Keeps the scale of rewards from episode to episode."""

    def __init__(self):
        super().__init__(Walk())


class Simulates(Walk):
    """Plays beside two programs: close() takes its time to end the first, and forgets the second."""

    def __init__(self, ids):
        self.programs = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
        with open(ids, "a") as file:
            file.writelines(f"{program.pid}\n" for program in self.programs)

    def close(self):
        time.sleep(0.2)
        self.programs[0].terminate()
        self.programs[0].wait()


class SameStep(gymnasium.vector.VectorEnv):
    """Begins the next episode within the step that ends one, and says so: sound. Rewards are 1, 10 and 100."""

    metadata: ClassVar = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}

    def __init__(self, num_envs):
        self.num_envs, self.clock = num_envs, np.zeros(num_envs, int)
        self.single_observation_space, self.single_action_space = spaces.Box(0, 3, (1,)), spaces.Discrete(2)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

    def seen(self):
        return self.clock[:, None].astype(np.float32)

    def reset(self, *, seed=None, options=None):
        self.clock[:] = 0
        return self.seen(), {}

    def step(self, actions):
        reward = 10.0**self.clock
        self.clock += 1
        final, ended = self.seen(), self.clock == 3
        self.clock[ended] = 0
        return self.seen(), reward, ended, np.zeros_like(ended), {"final_obs": final}


class SaysNothingOfSameStep(SameStep):
    """Does not say that it begins the next episode within the step that ends one."""

    metadata: ClassVar = {}


class SaysNextStep(SameStep):
    """Says that the step after an end begins the next episode."""

    metadata: ClassVar = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}


class SaysNextStepAndPays(SaysNextStep):
    """Gives no final observation, either."""

    def step(self, actions):
        return *super().step(actions)[:4], {}


class SaysNothingAndPaysLate(SaysNothingOfSameStep):
    """Its first step in an episode pays nothing."""

    def step(self, actions):
        observation, reward, *others = super().step(actions)
        return observation, reward - 1, *others


class SaysNextStepAndShowsNoFinal(SaysNextStep):
    """Gives no final observation, either, and pays at the end alone."""

    def step(self, actions):
        observation, _, ended, truncated, _ = super().step(actions)
        return observation, ended.astype(float), ended, truncated, {}


class SaysNextStepAndBeginsAnywhere(SaysNextStepAndShowsNoFinal):
    """Begins anywhere, too; the action decides where it is seen."""

    def reset(self, *, seed=None, options=None):
        self.begun = np.random.default_rng(seed).random((self.num_envs, 1))
        return super().reset(seed=seed)

    def step(self, actions):
        observation, *others = super().step(actions)
        return (observation + 0.1 * actions[:, None]).astype(np.float32), *others

    def seen(self):
        return (super().seen() / 2 + self.begun).astype(np.float32)


class SaysNothingAndShowsNoFinal(SaysNextStepAndShowsNoFinal):
    metadata: ClassVar = {}


class SaysNothingAndBeginsAnywhere(SaysNextStepAndBeginsAnywhere):
    metadata: ClassVar = {}


class NeverEndsTogether(SameStep):
    """Spends a step on a reset, it says, and never ends."""

    metadata: ClassVar = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}

    def step(self, actions):
        never = np.zeros(self.num_envs, bool)
        return self.seen(), np.zeros(self.num_envs), never, never, {}


class NextStep(gymnasium.vector.VectorEnv):
    """Spends the step after an end on the reset, and says so: sound. An action moves its copy, from a random place."""

    metadata: ClassVar = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = spaces.Box(-20, 20, (2,)), spaces.Discrete(2)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.clock, self.length, self.place = (np.zeros(num_envs, kind) for kind in (int, int, float))

    def begin(self, where):
        self.place[where] = self.np_random.random(where.sum())
        self.length[where] = self.np_random.integers(3, 8, where.sum())
        self.clock[where] = 0

    def seen(self):
        return np.stack([self.clock, self.place], 1).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.begin(np.ones(self.num_envs, bool))
        self.ended = np.zeros(self.num_envs, bool)
        return self.seen(), {}

    def step(self, actions):
        resets = self.ended
        self.clock += ~resets
        self.place += np.where(resets, 0, 0.1 * actions)
        if resets.any():
            self.begin(resets)
        self.ended = (self.clock >= self.length) & ~resets
        return self.seen(), np.where(resets, 0.0, 1.0), self.ended.copy(), np.zeros(self.num_envs, bool), {}


class KeepsItsLimit(NextStep):
    """Truncates episodes after as many steps as it is told: sound."""

    def __init__(self, num_envs, max_episode_steps):
        super().__init__(num_envs)
        self.limit = max_episode_steps

    def step(self, actions):
        observation, reward, terminated, _, info = super().step(actions)
        truncated = self.clock >= self.limit
        self.ended |= truncated
        return observation, reward, terminated, truncated, info


class IgnoresItsLimit(NextStep):
    """Truncates nothing."""

    def __init__(self, num_envs, max_episode_steps):
        super().__init__(num_envs)

    def begin(self, where):
        super().begin(where)
        self.length[where] += 3


class TerminatesAtItsLimit(KeepsItsLimit):
    """Says that an episode which is too long has failed."""

    def step(self, actions):
        observation, reward, terminated, truncated, info = super().step(actions)
        return observation, reward, terminated | truncated, np.zeros_like(truncated), info


class LimitsEarlier(KeepsItsLimit):
    """Truncates a step too early."""

    def __init__(self, num_envs, max_episode_steps):
        super().__init__(num_envs, max_episode_steps - 1)


class TakesLongLimits(KeepsItsLimit):
    """Refuses a time limit of a few steps."""

    def __init__(self, num_envs, max_episode_steps):
        if max_episode_steps < 5:
            raise ValueError("too short")
        super().__init__(num_envs, max_episode_steps)


class TakesNoLimit(NextStep):
    """Is registered with a time limit, and takes none."""


class BeginsAllAlike(NextStep):
    """Draws one number for all copies."""

    def begin(self, where):
        self.place[where], self.length[where] = self.np_random.random(), self.np_random.integers(3, 8)
        self.clock[where] = 0


class BeginsAllAtOnce(NextStep):
    """Begins all copies anew where one has ended."""

    def begin(self, where):
        super().begin(np.ones_like(where))


SINGLE = (
    Walk, Unseeded, Endless, OutOfBounds, FirstForFinal, Blind, Mixed, LeaksOverTruncations, LeaksOverTerminations,
    NoisyLater, Curriculum, HeedsOneSeed, Steered, ChangesActions, NotANumber, OutOfBoundsLater, GlobalStream,
    LeaksAfterLong, EndlessCurriculum, EarnsNotANumber,
    SeedsGlobalStream, SharedByCopies, OfThisProcess, OutOfChoices, OutOfSeveralChoices, Asks, NestedMask, InfoMask,
    DimBits, Bits, StaleFinal, BlankFinal, KnowsTwoSeeds, OrdersASet,
    Exits, Raises, Lasts, Normalizes, Simulates, SavesAll, Drawn, DrawnByChance, DrawsColours, Undrawable,
    FailsWithCompany, FailsElsewhere,
    SavesItsLeak, SavesNoRandom, SavesNothing, SavesAtFirst, LoadsItsOwn, Rounds, SharesItsArray, ChangesItsSpace,
)  # fmt: skip
for one in SINGLE:
    # Gymnasium's own checker would warn of some of them first.
    gymnasium.register(f"broken/{one.__name__}-v0", one, disable_env_checker=True)
VECTOR = (
    NextStep,
    BeginsAllAlike,
    BeginsAllAtOnce,
    SameStep,
    NeverEndsTogether,
    SaysNextStep,
    SaysNextStepAndPays,
    SaysNextStepAndShowsNoFinal,
    SaysNextStepAndBeginsAnywhere,
    SaysNothingOfSameStep,
    SaysNothingAndPaysLate,
    SaysNothingAndShowsNoFinal,
    SaysNothingAndBeginsAnywhere,
)
for several in VECTOR:
    gymnasium.register(f"broken/{several.__name__}-v0", vector_entry_point=several)
LIMITED = (KeepsItsLimit, IgnoresItsLimit, TerminatesAtItsLimit, LimitsEarlier, TakesLongLimits, TakesNoLimit)
for several in LIMITED:
    gymnasium.register(f"broken/{several.__name__}-v0", Walk, vector_entry_point=several, max_episode_steps=6)


def make(name, batch_size, purpose, **kwargs):
    """Copies of the environment of that name, seeded by their purpose."""
    backend = "vector" if name in [it.__name__ for it in (*VECTOR, *LIMITED)] else "sync"
    return GymnasiumEnv(f"broken/{name}-v0", batch_size, stream(0, purpose), backend=backend, kwargs=kwargs)


class Rows(BatchedEnv):
    """A tensor program of one's own: walks whose steps are random, and which end by chance."""

    def __init__(self, batch_size, purpose):
        self.batch_size = batch_size
        self.observation_space, self.action_space = spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(3)
        self.random = torch.Generator().manual_seed(self.seed(purpose))
        self.place = torch.zeros(batch_size, 2)

    def seed(self, purpose):
        return stream(0, purpose)

    def normal(self):
        return torch.randn(self.batch_size, 2, generator=self.random)

    def reset(self, where=None):
        where = torch.ones(self.batch_size, dtype=torch.bool) if where is None else where
        self.place = self.normal().where(where.unsqueeze(1), self.place)
        return self.place

    def step(self, action):
        self.place = self.place + self.normal() + action.unsqueeze(1)
        over = torch.rand(self.batch_size, generator=self.random) < 0.1
        return Step(self.place, self.place[:, 0], over, torch.zeros_like(over), torch.ones_like(over))

    def state_dict(self):
        return {"random": self.random.get_state(), "said": self.place, "digest": 3}

    def load_state_dict(self, state):
        self.random.set_state(state["random"])
        self.place = state["said"]
        assert state["digest"] == 3
        return torch.ones(self.batch_size, dtype=torch.bool)


class BeginsAllRows(Rows):
    def reset(self, where=None):
        return super().reset()


class RollsRewards(Rows):
    def step(self, action):
        step = super().step(action)
        return replace(step, reward=step.reward.roll(1))


class SharesActions(Rows):
    def step(self, action):
        return super().step(torch.full_like(action, int(action.sum())))


class DrawsWhatItNeeds(Rows):
    """Draws as many numbers as actions ask for, one row after another: an action moves what others draw."""

    def step(self, action):
        step = super().step(action)
        drawn = torch.randn(int(action.sum()), generator=self.random).tolist()
        pays = [sum(drawn.pop(0) for _ in range(n)) for n in action.tolist()]
        return replace(step, reward=torch.tensor(pays, dtype=torch.float32))


class ShowsLate(Rows):
    """An action shows in the step after it."""

    before = 0

    def step(self, action):
        action, self.before = torch.zeros_like(action) + self.before, action
        return super().step(action)

    def reset(self, where=None):
        if where is None:
            self.before = 0
        return super().reset(where)


class OneSeed(Rows):
    def seed(self, purpose):
        return 0


def rows(name, batch_size, purpose):
    """A batch of that class."""
    return adopted(globals()[name](batch_size, purpose))


class Leaky:
    """Does not forget where an episode ends."""

    def unroll(self, x, state, mask):
        return super().unroll(x, state, torch.ones_like(mask))


class Centred:
    """Learns from what differs from the batch's mean."""

    def unroll(self, x, state, mask):
        output = super().unroll(x, state, mask)
        return output - 0.1 * output.mean(1, keepdim=True)


class StopsGradient:
    """Lets no gradient pass through time."""

    def unroll(self, x, state, mask):
        outputs = []
        for step, is_real in zip(x, mask, strict=True):
            output, state = self.step(step, {name: leaf.detach() for name, leaf in state.items()})
            state = {
                name: leaf.masked_fill(~is_real.view(-1, *[1] * (leaf.dim() - 1)), 0) for name, leaf in state.items()
            }
            outputs.append(output)
        return torch.stack(outputs)


class Detaches:
    """Lets no gradient pass through its memory, acting or learning."""

    def step(self, x, state):
        return super().step(x, {name: leaf.detach() for name, leaf in state.items()})

    def unroll(self, x, state, mask):
        return Block.unroll(self, x, state, mask)


class BeginsWithOnes:
    """Begins its very first episode with a memory that later ones do not have."""

    def initial_state(self, batch_size):
        return {name: torch.ones_like(leaf) for name, leaf in super().initial_state(batch_size).items()}


class ForgetsWhenActing(Attention):
    """Acts without the oldest of the inputs that it learns from."""

    def step(self, x, state):
        real = state["real"].clone()
        real[:, 0] = False
        output, _ = super().step(x, {"inputs": state["inputs"], "real": real})
        return output, super().step(x, state)[1]


class DropsOut:
    """Is never the same twice."""

    def unroll(self, x, state, mask):
        return torch.nn.functional.dropout(super().unroll(x, state, mask), 0.1)


class Crowded:
    """Mixes the rows of a batch if there are more than 40."""

    def step(self, x, state):
        return super().step(self.mixed(x), state)

    def unroll(self, x, state, mask):
        return super().unroll(self.mixed(x), state, mask)

    def mixed(self, x):
        return x + 0.1 * x.mean(-2, keepdim=True) if x.shape[-2] > 40 else x


class CrowdedWhenLearning(Crowded):
    """Does so only when it learns."""

    def step(self, x, state):
        return super(Crowded, self).step(x, state)


class CrowdedWhenLearningMuch:
    """Mixes the rows that it learns from, if there are more than 200."""

    def unroll(self, x, state, mask):
        return super().unroll(x + 0.1 * x.mean(1, keepdim=True) if x.shape[1] > 200 else x, state, mask)


class Chunked:
    """Learns in chunks of 256 steps, and loses its memory where one begins."""

    def unroll(self, x, state, mask):
        outputs = []
        for chunk, real in zip(x.split(256), mask.split(256), strict=True):
            outputs.append(super().unroll(chunk, state, real))
            state = {name: torch.zeros_like(leaf) for name, leaf in state.items()}
        return torch.cat(outputs)


class Limited:
    """Learns nothing from what comes after 100 steps."""

    def unroll(self, x, state, mask):
        output = super().unroll(x, state, mask)
        return torch.cat([output[:100], output[100:].detach()])


class ForgetsInEvaluation:
    """Halves its memory when it is evaluated."""

    def step(self, x, state):
        half = {name: 0.5 * leaf if leaf.is_floating_point() else leaf for name, leaf in state.items()}
        return super().step(x, state if self.training else half)


class Normed:
    """Standardises by the statistics of the batch."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.norm = torch.nn.BatchNorm1d(sizes[0])

    def step(self, x, state):
        return super().step(self.norm(x), state)


class DropsOutWhenActing:
    """Acts with dropout while it is in training mode."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.dropout = torch.nn.Dropout(0.1)

    def step(self, x, state):
        return super().step(self.dropout(x), state)


class Single:
    """Computes in float32 only: sound."""

    def step(self, x, state):
        return super().step(x @ torch.eye(x.shape[-1], dtype=torch.float32), state)

    def unroll(self, x, state, mask):
        return super().unroll(x @ torch.eye(x.shape[-1], dtype=torch.float32), state, mask)


class Chaotic(Block):
    """Forgets nothing and magnifies everything; learning projects all inputs at once, which rounds otherwise: sound."""

    def __init__(self, input_size, size):
        super().__init__()
        self.output_size = size
        self.read, self.keep = torch.nn.Linear(input_size, size), torch.nn.Linear(size, size, bias=False)
        torch.nn.init.orthogonal_(self.keep.weight, gain=3)

    def initial_state(self, batch_size):
        return {"h": self.keep.weight.new_zeros(batch_size, self.output_size)}

    def step(self, x, state):
        h = torch.tanh(self.read(x) + self.keep(state["h"]))
        return h, {"h": h}

    def unroll(self, x, state, mask):
        outputs, h = [], state["h"]
        for t, read in enumerate(self.read(x.flatten(0, 1)).view(*x.shape[:2], -1)):
            h = torch.tanh(self.keep(h) + read)
            outputs.append(h)
            h = h.where(mask[t].unsqueeze(1), 0)
        return torch.stack(outputs)


class BeginsSingle:
    """Begins with memory in float32, PyTorch's default, whatever it computes with: sound where that is float32."""

    def initial_state(self, batch_size):
        return {name: leaf.float() for name, leaf in super().initial_state(batch_size).items()}

    def step(self, x, state):
        return super().step(x, {name: leaf.to(x.dtype) for name, leaf in state.items()})

    def unroll(self, x, state, mask):
        return super().unroll(x, {name: leaf.to(x.dtype) for name, leaf in state.items()}, mask)


class Two(Stack):
    """Two layers."""

    def __init__(self, input_size, size):
        super().__init__(MinGRU, input_size, size, 2)


class Sound:
    """Nothing is wrong with it."""


DEFECTS = {
    "sound": Sound,
    **{
        defect.__name__: defect
        for defect in (
            Leaky,
            Centred,
            StopsGradient,
            Detaches,
            BeginsWithOnes,
            DropsOut,
            Crowded,
            CrowdedWhenLearning,
            CrowdedWhenLearningMuch,
            Chunked,
            Limited,
            ForgetsInEvaluation,
            Normed,
            DropsOutWhenActing,
            Single,
            BeginsSingle,
        )
    },
}
CELLS = {cell.__name__: cell for cell in (LSTM, GRU, MinGRU, Matrix, GTrXL, Chaotic)} | {"Stack": Two}


def network(observation_space, action_space, use_lstm=True, block="sound"):
    """With a block that has a defect, such as "Leaky", or "Leaky GRU"; without a name it is an LSTM."""
    defect, _, cell = block.partition(" ")
    if defect == "ForgetsWhenActing":
        made = ForgetsWhenActing(8, window=3, heads=2)
    else:
        made = type(defect, (DEFECTS[defect], CELLS[cell or "LSTM"]), {})(8, 8)
    return Network(Trunk(Encoder(observation_space, 8), {"memory": made}), None, 8, action_space)
