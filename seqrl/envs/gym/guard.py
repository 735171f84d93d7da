"""One environment among several, with its faults caught and named."""

import logging
import math
import pickle
import reprlib
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import gymnasium
import numpy as np
import torch
from gymnasium import wrappers
from gymnasium.wrappers import TimeLimit

from seqrl.envs.elements import MOST, SCALE_IT, OutsideError, element, named, plain, too_large
from seqrl.envs.gym.calls import Guard, OverdueError, StrayError, is_own_fault, let_go
from seqrl.envs.gym.flatten import FlattenedEnv
from seqrl.envs.gym.lasting import lasting, layers
from seqrl.envs.gym.registry import MISSING_PACKAGE
from seqrl.envs.translate import as_sampled
from seqrl.errors import FaultyEnvError, OutsideEnvError, RaisedError, line_of, names_environment, raised
from seqrl.machine import monotonic
from seqrl.plain import as_arrays, as_tensors, pickled
from seqrl.spaces import ACTION_MASK, Array, Packed

log = logging.getLogger(__name__)

API = (
    "reset(seed=..., options=...) must return observation and info, and step must return five values: observation, "
    "reward, terminated, truncated, info"
)

# Stands for an environment that was closed.
CLOSED: gymnasium.Env[Any, Any] = gymnasium.Env()
# At most this long, or one step, so that an environment that hangs is told from an episode that is long.
REPLAY_SECONDS = 0.1
# Numbers of one name in info that can be asked for.
MOST_TOLD = 64
REWARD_AND_END = struct.Struct("<d??")
# Wrappers without a state that decides what comes next, or with one that is restored here. Any other may have one.
RESTORED = (
    FlattenedEnv,
    TimeLimit,
    wrappers.OrderEnforcing,
    wrappers.PassiveEnvChecker,
    wrappers.RecordEpisodeStatistics,
    wrappers.ClipAction,
    wrappers.ClipReward,
    wrappers.RescaleAction,
    wrappers.DtypeObservation,
    wrappers.FilterObservation,
    wrappers.FlattenObservation,
    wrappers.GrayscaleObservation,
    wrappers.RescaleObservation,
    wrappers.ReshapeObservation,
    wrappers.ResizeObservation,
)


class GuardedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Rests after an episode's end, and reports what the environment does wrong.

    While it rests, `step` costs nothing and changes nothing until `reset`.

    index    index of the environment in the batch of this process
    first    index of the first one there, among those of all processes
    guard    what its close passes; whoever calls the other methods enters it
    tells    whether numbers in its info are logged, at the end of each episode
    digest   of all that the environment has answered in its episode
    saved    what `own_state` or `pickled_state` returned, to be restored

    `reset` and `step` raise FaultyEnvError, with episode, seed and step, if the environment raises anything, does not
    follow Gymnasium's API, or returns an observation of the wrong shape or outside its space, a reward that is not
    finite, or a first observation that is not.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], index: int, guard: Guard, first: int = 0, tells: bool = False
    ) -> None:
        super().__init__(env)
        self.index, self.guard, self.tells = index, guard, tells
        self.number = first + index
        self.digest = 0
        self.saved: dict[str, Any] | bytes | None = None
        self._shape = env.observation_space.shape
        self._element, self._takes = element(env.observation_space), env.action_space
        self._final: Any = None
        self._info: Any = {}
        self._at_end: dict[str, list[float]] = {}
        self._episode, self._clock = 0, 0
        self._seed: int | None = None
        self._unsaved_said = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._final = None
        self._episode, self._clock, self._seed = self._episode + 1, 0, seed
        with self._named():
            # Gymnasium hands all environments one dictionary, from which it took its mask; one may write to it.
            observation, info = self.env.reset(seed=seed, options=dict(options) if options else None)
            if not isinstance(info, dict):
                raise self._fault(f"it returned {type(info).__name__} for info. {API}")
            self._info = info
            observation = self._read(observation)
            self._check_finite(observation)
            self.digest = zlib.crc32(np.asarray(observation).tobytes())
        # Once, so that it can be said that nobody reads it.
        return observation, {ACTION_MASK: True} if self._episode == 1 and ACTION_MASK in info else {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._final is not None:
            return self._final, 0.0, False, False, {}
        self._clock += 1
        self.guard.playing = self
        try:
            observation, reward, terminated, truncated, self._info = self.env.step(as_sampled(self._takes, action))
            reward = self._number(reward)
            if not -MOST <= reward <= MOST:
                if math.isfinite(reward):
                    raise self._fault(f"its reward {too_large(reward, 'is')}", SCALE_IT)
                raise self._fault(f"its reward is {reward}")
            if not (type(terminated) is type(truncated) is bool):
                terminated, truncated = self._truth(terminated, "terminated"), self._truth(truncated, "truncated")
            # What it returns may do anything when it is read.
            observation = self._read(observation)
            self.guard.check()
        except BaseException as error:
            if names_environment(error) or not is_own_fault(error):
                raise
            self._blame(error)
        if terminated or truncated:
            self._final = observation
            if self.tells:
                # Now: several environments may have one dictionary, which the next of them writes over.
                self._at_end = self._numbers_told()
        end = REWARD_AND_END.pack(reward, terminated, truncated)
        self.digest = zlib.crc32(end, zlib.crc32(np.asarray(observation).tobytes(), self.digest))
        # Hardly anybody reads the info, and merging it across environments takes time.
        return observation, reward, terminated, truncated, {}

    def _number(self, reward: Any) -> float:
        if not isinstance(reward, str | bytes):
            with suppress(TypeError, ValueError):
                return float(reward)
        raise self._fault(f"its reward is {reprlib.repr(reward)}, which is no number")

    def told(self) -> dict[str, list[float]]:
        """The numbers in its latest info, by name; a few to a name at most."""
        return self._at_end if self.tells and self._final is not None else self._numbers_told()

    def _numbers_told(self) -> dict[str, list[float]]:
        found = {}
        with self._named():
            for name, value in self._info.items() if isinstance(self._info, dict) else ():
                if not isinstance(name, str) or not isinstance(value, bool | int | float | np.ndarray | np.generic):
                    continue
                numbers = np.asarray(value)
                if numbers.dtype.kind in "biuf" and 0 < numbers.size <= MOST_TOLD:
                    found[name] = numbers.astype(np.float64).ravel().tolist()
        return found

    @property
    def asked(self) -> tuple[int, int]:
        """What it is asked, as the guard tells it from what it was asked before: episode and step."""
        return self._episode, self._clock

    def restores_itself(self) -> bool:
        """Whether the environment can save and restore its own state, and nothing around it has any that is lost.

        Tries it, after a reset: what cannot be restored is better replayed.
        """
        env = next((layer for layer in layers(self.env) if type(layer) not in RESTORED), None)
        # What lies beneath any other wrapper is not all. Of a module, torch saves the weights and not the episode.
        if env is not self.unwrapped or not (self._has(env, "state_dict") and self._has(env, "load_state_dict")):
            return False
        if getattr(type(env), "state_dict", None) is torch.nn.Module.state_dict:
            return False
        with self._failure_logged("Its episodes are replayed instead."):
            with self._named("its state_dict"):
                state = as_tensors(env.state_dict())  # type: ignore[attr-defined]
            self._load(state)
            return True
        return False

    def _has(self, env: Any, name: str) -> bool:
        """Whether an environment has an attribute; none if it raises another exception than it should for a name."""
        with self._named(f"its {name}"), suppress(Exception):
            getattr(env, name)
            return True
        return False

    @property
    def lasting(self) -> list[str]:
        """Names of wrappers that keep statistics from episode to episode."""
        return lasting(self.env)

    def own_state(self) -> dict[str, Any] | None:
        """The environment's `state_dict` and the steps played in its episode; tensors and plain data.

        None if it cannot be saved now, as one may become what no checkpoint holds; the log says why, once.
        """
        with self._failure_logged("Where the run is resumed from here, it begins anew.", say=not self._unsaved_said):
            with self._named("its state_dict"):
                state = as_tensors(self.unwrapped.state_dict())  # type: ignore[attr-defined]
            elapsed = [int(limit._elapsed_steps or 0) for limit in self._time_limits()]
            return {"env": state, "clock": self._clock, "elapsed": elapsed}
        self._unsaved_said = True
        return None

    def pickled_state(self) -> bytes | None:
        """The same, for another process."""
        return None if (state := self.own_state()) is None else pickled(state)

    def restore(self, number: Array) -> bool:
        """After a reset, restore the `saved` state, of episode `number`; return whether that went well.

        number   of every environment, by index
        """
        self._episode, saved, self.saved = int(number[self.index]), self.saved, None
        if saved is None:
            log.warning("environment %d: its state_dict had failed. It begins anew.", self.number)
            return False
        own = pickle.loads(saved) if isinstance(saved, bytes) else saved
        self._clock = own["clock"]
        with self._failure_logged("It begins anew."):
            self._load(own["env"])
            limits = self._time_limits()
            # Version 0.1.0 did not save them.
            elapsed = own.get("elapsed", [self._clock] * len(limits))
            for limit, steps in zip(limits, elapsed, strict=True):
                limit._elapsed_steps = steps
            return True
        return False

    def _load(self, state: Any) -> None:
        with self._named("its load_state_dict"):
            self.unwrapped.load_state_dict(as_arrays(state))  # type: ignore[attr-defined]

    @contextmanager
    def _failure_logged(self, what_then: str, say: bool = True) -> Iterator[None]:
        """Log what the environment raises, and go on; not if it hangs or ends the program."""
        try:
            yield
        except FaultyEnvError as fault:
            if not (isinstance(fault.__cause__, RaisedError) and fault.__cause__.is_ordinary):
                raise
            if say:
                log.warning("%s %s", fault, what_then)

    def replay(self, number: Array, actions: list[list[Array]]) -> tuple[int, Any]:
        """Play actions of episode `number` again, for a short time; return how many, and the last observation.

        number, actions   of every environment, by index
        """
        self._episode = int(number[self.index])
        steps, observation, deadline = 0, None, monotonic() + REPLAY_SECONDS
        for action in actions[self.index]:
            observation = self.step(action)[0]
            steps += 1
            if monotonic() > deadline:
                break
        return steps, observation

    def render(self) -> Any:
        with self._named("its render", besides=MISSING_PACKAGE):
            picture = super().render()
        if picture is None and self.render_mode == "rgb_array":
            raise self._fault("its render returned None")
        return picture

    def close(self) -> None:
        """Close the environment; only log a failure, as everything played so far is still valid."""
        failed = None
        with self.guard:
            # The limit counts for the close of each.
            self.guard.turns += 1
            try:
                super().close()
            except BaseException as error:
                # Only within the guard can a signal be told from what an environment raises.
                if not is_own_fault(error):
                    raise
                # It takes memory to say what is wrong.
                self.guard.lift()
                failed = raised(error)
                let_go(error)
            # It is collected here, where the time is limited.
            self.env = CLOSED
        if failed is not None:
            log.warning("environment %d failed to close: %s", self.number, failed.words, exc_info=failed)

    def _time_limits(self) -> list[Any]:
        return [layer for layer in layers(self.env) if isinstance(layer, TimeLimit)]

    def _read(self, observation: Any) -> Any:
        if self._shape is not None:
            if type(observation) is not np.ndarray:
                observation = plain(observation)
            shape = observation.shape if type(observation) is np.ndarray else np.shape(observation)
            if shape != self._shape:
                raise self._fault(f"its observation has shape {shape}, not {self._shape}")
        return self._element(observation)

    def _check_finite(self, observation: Any) -> None:
        space = self.observation_space
        by_name = space.split(torch.from_numpy(observation)) if isinstance(space, Packed) else {"": observation}
        for name, part in by_name.items():
            numbers = np.asarray(part)
            if np.issubdtype(numbers.dtype, np.inexact) and not np.isfinite(numbers).all():
                number = numbers[~np.isfinite(numbers)].flat[0]
                raise self._fault(f"{named(name)} is {number:g}")

    def _truth(self, value: Any, name: str) -> bool:
        """Whether an episode ended; neither None nor a word says so."""
        if isinstance(value, bool | np.bool_):
            return bool(value)
        number = np.asarray(value)
        if number.size != 1 or number.dtype.kind not in "biuf" or number.item() not in (0, 1):
            raise self._fault(f"it returned {value!r:.60} for {name}. {API}")
        return bool(number.item())

    @contextmanager
    def _named(self, what: str = "it", besides: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Turn whatever the environment raises into a FaultyEnvError, except for `besides`."""
        self.guard.playing = self
        try:
            yield
            self.guard.check()
        except besides:
            raise
        except BaseException as error:
            if names_environment(error) or not is_own_fault(error):
                raise
            self._blame(error, what)

    def _blame(self, error: BaseException, what: str = "it") -> NoReturn:
        raise self.fault_of(error, what)

    def fault_of(self, error: BaseException, what: str = "it") -> FaultyEnvError:
        """What it does wrong that raised `error`, which is its cause, in plain words."""
        # It takes memory to say so.
        self.guard.lift()
        if isinstance(error, OverdueError):
            said = str(error) if what == "it" else str(error).replace("it", what, 1)
            fault = self._fault(said, remedy="Fix the environment, or raise the limit.")
            fault.__cause__ = error
        elif isinstance(error, StrayError):
            fault = self._fault(str(error), "End it with os._exit.")
        elif isinstance(error, OutsideError):
            fault = self._fault(str(error), error.remedy, OutsideEnvError)
            fault.__cause__ = error
        else:
            # Whoever calls it raises these, such as Gymnasium's own wrappers when they unpack what it returns.
            of_caller = isinstance(error, ValueError | TypeError | AssertionError) and not line_of(error)
            api = f". {API}" if what == "it" and of_caller else ""
            told = raised(error)
            fault = self._fault(f"{what} raised {told.words}{api}")
            fault.__cause__ = told
        return fault

    def _fault(
        self, what: str, remedy: str = "Fix the environment.", kind: type[FaultyEnvError] = FaultyEnvError
    ) -> FaultyEnvError:
        return kind(f"environment {self.number}, {when(self._episode, self._seed, self._clock)}: {what}. {remedy}")


def when(episode: int, seed: int | None, step: int) -> str:
    """A moment in a few words; step 0 is the reset."""
    return f"episode {episode} (seed {seed}), {f'step {step}' if step else 'reset'}"
