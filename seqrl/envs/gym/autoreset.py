"""Episodes of a vector environment, whatever its autoreset mode.

Gymnasium has three modes: reset on request (DISABLED), within the step that ends an episode (SAME_STEP), or during the
step after it (NEXT_STEP). Here all three behave alike: `reset` begins episodes, `step` returns the final observation.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from seqrl import seeds
from seqrl.envs.elements import MOST, SCALE_IT, too_large
from seqrl.envs.gym.calls import Guard, LostError
from seqrl.envs.gym.guard import when
from seqrl.envs.gym.history import History
from seqrl.envs.gym.lasting import lasting
from seqrl.envs.gym.resets import REMEDY, fault_of_end, fault_of_reset, in_info, read_ends
from seqrl.errors import FaultyEnvError
from seqrl.plain import as_arrays, as_tensors, pickled
from seqrl.spaces import ACTION_MASK, Array

# What one call replays must fit into the time limit, and no call should send long episodes to all processes.
REPLAYED_AT_ONCE = 1000

Answer = tuple[Array, Array, Array, Array, Array]
"""Observation, reward, terminated, truncated, valid; each [B, ...]."""


class VectorEpisodes(Protocol):
    """The methods of BatchedEnv, on arrays in the environment's own units.

    guard   what every call passes; `load_state_dict` enters it itself, as often as it calls
    has_mask_in_info   whether a reset came with info["action_mask"]
    unsaved   whether an environment that says its own state could not, when it was to be saved
    """

    guard: Guard
    has_mask_in_info: bool
    unsaved: bool

    @property
    def envs(self) -> VectorEnv[Any, Any, Any]: ...

    def reset(self, where: Array | None = None) -> Array: ...

    def step(self, action: Array) -> Answer: ...

    def state_dict(self) -> dict[str, Any]: ...

    def checked(self, state: dict[str, Any]) -> dict[str, Any]:
        """A saved state as `load_state_dict` takes it; it may be anybody's. Raises an error if it is none of these."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Array: ...

    def render(self) -> Any: ...

    @property
    def begins_anew(self) -> bool: ...

    def whereabouts(self, index: int) -> str:
        """Environment, and its episode, seed and step if they are known, in a few words."""
        ...

    def lasting(self) -> list[str]: ...

    def told(self) -> list[dict[str, list[float]]]: ...


def episode_seed(seed: int, *index: int) -> int:
    """Seed of one episode, 31 bits: many generators that environments use take no more."""
    return seeds.stream(seed, "environment", *index) >> 32


def insist_on(name: str, found: Any, like: Array, least: int | None = None) -> None:
    """Raise ValueError if something saved is no array like another one, with whole numbers where that has them.

    least   number that may be in it
    """
    is_array = isinstance(found, np.ndarray) and found.shape == like.shape
    if not is_array or (found.dtype.kind in "biu") != (like.dtype.kind in "biu") or found.dtype.kind not in "biuf":
        raise ValueError(f"{name} of its environments is odd")
    if least is not None and found.size and found.min() < least:
        raise ValueError(f"{name} of its environments is below {least}")


def _says(state: Any) -> bool:
    """Whether it may be what an environment has saved of itself; None: it could not."""
    if state is None or not (isinstance(state, dict) and "env" in state):
        return state is None
    elapsed = state.get("elapsed", [])
    return isinstance(elapsed, list) and all(isinstance(it, int) for it in [state.get("clock"), *elapsed])


class SeededEpisodes:
    """Episodes of environments that reset on request, each seeded by its environment's index and its number.

    To continue in another process, environments restore their own state if they have `state_dict` and
    `load_state_dict`, between two episodes too; otherwise the episode's actions are replayed from the same seed. An
    episode in which the environment then answers otherwise than before does not continue.

    first         index of the first environment, where other processes play those before it
    begins_anew   whether environments were to restore their own state, and could not
    """

    has_mask_in_info = False
    unsaved = False

    def __init__(self, envs: SyncVectorEnv | AsyncVectorEnv, seed: int, guard: Guard, first: int = 0) -> None:
        self.envs, self.seed, self.guard, self.first = envs, seed, guard, first
        # Episodes begun so far.
        self._number = np.zeros(envs.num_envs, dtype=np.int64)
        self._clock = np.zeros_like(self._number)
        self._observation: Array = np.empty(0)
        # Unknown until it was tried, at the first reset.
        self._restore_themselves: bool | None = None
        self.begins_anew = False
        self._history = History(envs.num_envs)

    def reset(self, where: Array | None = None) -> Array:
        where = np.ones(self.envs.num_envs, dtype=np.bool_) if where is None else where
        if where.any():
            self._number += where
            self._clock[where] = 0
            self._history.begin(where)
            self._observation = self._begin(where)
        return self._observation

    def step(self, action: Array) -> Answer:
        self._clock += 1
        if not self._restore_themselves:
            self._history.add(action)
        with self._lost_named():
            self._observation, reward, terminated, truncated, _ = self.envs.step(action)
        ended = np.asarray(terminated | truncated)
        if ended.any():
            self._history.end(ended)
        return self._observation, reward, terminated, truncated, np.ones(self.envs.num_envs, dtype=np.bool_)

    def state_dict(self) -> dict[str, Any]:
        playing = self._history.playing
        own_states = digests = None
        if self._restore_themselves:
            own_states = self._own_states()
            self.unsaved |= None in own_states
        elif playing.any():
            digests = self._call("digest")
        return {
            "number": as_tensors(self._number),
            "clock": as_tensors(self._clock),
            "history": as_tensors(self._history.state_dict()),
            "observation": as_tensors(self._observation),
            # This key's name is part of the checkpoint format.
            "said": own_states,
            "digest": as_tensors(digests),
        }

    def checked(self, state: dict[str, Any]) -> dict[str, Any]:
        read = {name: as_arrays(state[name]) for name in ("number", "clock", "history", "observation")}
        first, actions = read["history"]["first"], read["history"]["told"]
        space, shown = self.envs.action_space, self.envs.observation_space
        insist_on("number", read["number"], self._number, least=0)
        insist_on("clock", read["clock"], self._clock, least=0)
        insist_on("history", first, self._number, least=-1)
        if first.max() > len(actions) or (first.max() >= 0 and not read["number"][first >= 0].all()):
            raise ValueError("the history of its environments is odd")
        if len(actions):
            insist_on("history", actions[0], np.empty(space.shape or (), space.dtype))
        said, digests = state["said"], state.get("digest")
        if said is not None or first.max() >= 0:
            insist_on("observation", read["observation"], np.empty(shown.shape or (), shown.dtype))
        for name, told, is_right in (("said", said, _says), ("digest", digests, lambda it: isinstance(it, int))):
            if told is not None and not (len(told) == len(first) and all(map(is_right, told))):
                raise ValueError(f"{name} of its environments is odd")
        return {**read, "said": said, "digest": digests}

    def load_state_dict(self, state: dict[str, Any]) -> Array:
        self._number = state["number"]
        self._history.load_state_dict(state["history"])
        playing = self._history.playing
        if not playing.any() and state["said"] is None:
            return playing
        number, clock, saved = self._number.copy(), state["clock"], state["observation"]
        everywhere = np.ones_like(playing)
        observation = np.array(self._begin(everywhere))
        if state["said"] is not None and self._restore_themselves:
            with self._lost_named(), self.guard:
                # To each its own; a call has the same arguments for all.
                self.envs.set_attr("saved", [self._given(it) for it in state["said"]])
            restored = np.array(self._call("restore", number))
            self._history.end(~restored)
            self.begins_anew = not restored.all()
        else:
            self.begins_anew = state["said"] is not None
            played = self._replay(number, observation)
            inexact = np.issubdtype(observation.dtype, np.inexact)
            same = [np.array_equal(a, b, equal_nan=inexact) for a, b in zip(observation, saved, strict=True)]
            # Version 0.1.0 saved no digests.
            if (digests := state["digest"]) is not None:
                same = np.equal(self._call("digest"), digests) & same
            self._history.end(~(np.array(same) & (played == clock)))
        self._clock, self._observation = clock, saved
        return self._history.playing

    def render(self) -> Any:
        """An image of each environment."""
        return self._call("render")

    def lasting(self) -> list[str]:
        """Names of wrappers that keep statistics from episode to episode."""
        return list(self._call("lasting")[0])

    def told(self) -> list[dict[str, list[float]]]:
        """The numbers in each environment's latest info, by name."""
        return list(self._call("told"))

    def _own_states(self) -> list[dict[str, Any] | None]:
        if not isinstance(self.envs, AsyncVectorEnv):
            return list(self._call("own_state"))
        return [None if it is None else pickle.loads(it) for it in self._call("pickled_state")]

    def _given(self, own_state: dict[str, Any] | None) -> dict[str, Any] | bytes | None:
        """What `own_state` returned, as an environment is given it."""
        in_another_process = isinstance(self.envs, AsyncVectorEnv) and own_state is not None
        return pickled(own_state) if in_another_process else own_state

    def _replay(self, number: Array, observation: Array) -> Array:
        """Play the episodes in progress again, write their last observations; return the steps of each [B]."""
        left = [[] if actions is None else list(actions) for actions in self._history.episodes()]
        played = np.array([len(actions) for actions in left])
        while any(left):
            few = [actions[:REPLAYED_AT_ONCE] for actions in left]
            for index, (steps, replayed) in enumerate(self._call("replay", number, few)):
                if steps:
                    observation[index] = replayed
                    del left[index][:steps]
        return played

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        with self._lost_named(), self.guard:
            return self.envs.call(name, *arguments)

    def _begin(self, where: Array) -> Array:
        """Begin an episode where `where` [B] is true, each from its seed."""
        seeds = [self._seed(index) if begins else None for index, begins in enumerate(where.tolist())]
        with self._lost_named(), self.guard:
            observation, info = self.envs.reset(seed=seeds, options={"reset_mask": where})
        self.has_mask_in_info |= ACTION_MASK in info
        begun: Array = observation
        if self._restore_themselves is None:
            # The observation may lie in memory that they write to.
            begun, self._restore_themselves = np.array(begun), all(self._call("restores_itself"))
        return begun

    def _seed(self, index: int) -> int:
        return episode_seed(self.seed, self.first + index, int(self._number[index]) - 1)

    @contextmanager
    def _lost_named(self) -> Iterator[None]:
        try:
            yield
        except LostError as lost:
            raise FaultyEnvError(f"{self.whereabouts(lost.index)}: {lost}.") from lost.__cause__

    def whereabouts(self, index: int) -> str:
        if not self._number[index]:
            return f"environment {self.first + index}"
        return f"environment {self.first + index}, {when(self._number[index], self._seed(index), self._clock[index])}"


class OwnEpisodes:
    """Episodes of an environment with its own vector form, seeded whenever all of them begin.

    Episodes in progress cannot continue in another process.

    first   index of the first environment, where other processes play those before it
    """

    has_mask_in_info = False
    begins_anew = False
    unsaved = False

    def __init__(self, envs: VectorEnv[Any, Any, Any], seed: int, guard: Guard, first: int = 0) -> None:
        self.envs, self.seed, self.guard, self.first = envs, seed, guard, first
        self._resets = 0
        self._observation: Array = np.empty(0)
        self._ended = np.zeros(envs.num_envs, dtype=np.bool_)

    def reset(self, where: Array | None = None) -> Array:
        if where is not None:
            self._begin(where)
        else:
            observation, info = self.envs.reset(
                seed=episode_seed(self.seed, self._resets, *[self.first] * bool(self.first))
            )
            self._observation = np.asarray(observation)
            self.has_mask_in_info |= ACTION_MASK in info
            self._ended = np.zeros_like(self._ended)
            self._resets += 1
        return self._observation

    def _played(self, action: Array) -> tuple[Array, Array, Array, Array, Any]:
        """What a step answers, as arrays, ends as bool: reading it may do anything, and here the time is limited."""
        observation, reward, terminated, truncated, info = self.envs.step(action)
        ends = read_ends(terminated, truncated, self.envs.num_envs)
        return np.asarray(observation), _rewards(reward), *ends, info

    def _begin(self, where: Array) -> None:
        """Begin episodes where `where` [B] is true. By default do nothing: the environment begins them by itself."""

    def render(self) -> Any:
        """An image of each environment."""
        return self.envs.render()

    def whereabouts(self, index: int) -> str:
        return f"environment {self.first + index}"

    def lasting(self) -> list[str]:
        """Names of wrappers that keep statistics from episode to episode."""
        return lasting(self.envs)

    def told(self) -> list[dict[str, list[float]]]:
        """Nothing: how a vector form merges what its environments tell is its own affair."""
        return []

    def state_dict(self) -> dict[str, Any]:
        return {"resets": self._resets}

    def checked(self, state: dict[str, Any]) -> dict[str, Any]:
        insist_on("resets", np.array(state["resets"]), np.array(0), least=0)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> Array:
        """Restore the number of full resets, which seeds the next one: an own vector form does not expose its state."""
        self._resets = state["resets"]
        return np.zeros(self.envs.num_envs, dtype=np.bool_)


class NextStepEpisodes(OwnEpisodes):
    """The step after an end only resets: it plays nothing, and its observation is the new episode's first."""

    def step(self, action: Array) -> Answer:
        ghost = self._ended
        self._observation, reward, terminated, truncated, info = self._played(action)
        self._ended = terminated | truncated
        self._refuse(fault_of_reset(ghost, reward, self._ended) or fault_of_end(self._ended, info))
        return self._observation, reward, terminated, truncated, ~ghost

    def _refuse(self, fault: str) -> None:
        refuse_as("NEXT_STEP", fault)


class PoolEpisodes(NextStepEpisodes):
    """EnvPool's, which are known to do so."""

    def _refuse(self, fault: str) -> None:
        pass


class SameStepEpisodes(OwnEpisodes):
    """The step that ends an episode begins the next one: `reset` returns the first observation it produced."""

    def step(self, action: Array) -> Answer:
        self._observation, reward, terminated, truncated, info = self._played(action)
        observation, ended = self._observation, terminated | truncated
        if ended.any():
            if (final := in_info(info, "final_obs")) is None:
                refuse_as("SAME_STEP", "an episode ended without info['final_obs']")
            observation = np.array(observation)
            # An object array with None where no episode ended, or a plain batch.
            observation[ended] = np.stack(list(np.asarray(final)[ended]))
        return observation, reward, terminated, truncated, np.ones_like(ended)


class DisabledEpisodes(OwnEpisodes):
    """Episodes begin on request, at the latest before the next step: an ended episode must not be stepped."""

    def _begin(self, where: Array) -> None:
        if where.any():
            before = np.array(self._observation)
            self._observation = np.asarray(self.envs.reset(options={"reset_mask": where.copy()})[0])
            if before[~where].tobytes() != np.asarray(self._observation)[~where].tobytes():
                refuse_as("DISABLED", "reset did not leave those alone where options['reset_mask'] is false")
            self._ended = self._ended & ~where

    def step(self, action: Array) -> Answer:
        self._begin(self._ended)
        self._observation, reward, terminated, truncated, info = self._played(action)
        self._ended = terminated | truncated
        refuse_as("DISABLED", fault_of_end(self._ended, info))
        return self._observation, reward, terminated, truncated, np.ones_like(self._ended)


def _rewards(given: Any) -> Array:
    """Rewards [B] as float32; raises FaultyEnvError for one that would become infinite."""
    told = np.asarray(given)
    beyond = np.isfinite(told) & (np.abs(told) > MOST) if told.dtype == np.float64 else np.zeros(0, np.bool_)
    if beyond.any():
        index = int(beyond.nonzero()[0][0])
        raise FaultyEnvError(f"environment {index}: its reward {too_large(told[beyond][0], 'is')}. {SCALE_IT}")
    return np.asarray(told, np.float32)


def refuse_as(mode: str, fault: str) -> None:
    """Raise FaultyEnvError if a vector form did what it does not do in the mode that it declares; "": it did not."""
    if fault:
        raise FaultyEnvError(f"environments: the vector form is taken for {mode}, but {fault}. {REMEDY}")


OWN_EPISODES: dict[AutoresetMode, type[NextStepEpisodes | SameStepEpisodes | DisabledEpisodes]] = {
    AutoresetMode.NEXT_STEP: NextStepEpisodes,
    AutoresetMode.SAME_STEP: SameStepEpisodes,
    AutoresetMode.DISABLED: DisabledEpisodes,
}
