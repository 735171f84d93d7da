"""The interface between environments and everything else."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from seqrl.envs.elements import OutsideError, element, plain
from seqrl.errors import EnvError, FaultyEnvError, UnrestoredEnvError, names_environment, raised
from seqrl.machine import is_from_signal
from seqrl.spaces import Array, dtype, tensor_dtype
from seqrl.types import Step

log = logging.getLogger(__name__)

# What a step answers.
ANSWERS = [it.name for it in fields(Step)]


class Codec:
    """What an environment's user sees and does, in terms of the policy; these are the same unless a subclass says more.

    observation_space, action_space   the environment's own
    mask_in_info                      whether `encode` needs the mask of allowed choices
    """

    mask_in_info = False

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self._read = element(observation_space)

    def encode(self, observation: Any, mask: Any = None) -> Array:
        """What the policy sees [*O] of what the environment shows. Raises ValueError for what it cannot show."""
        shown = plain(observation)
        if np.shape(shown) != self.observation_space.shape:
            raise OutsideError(f"its observation has shape {np.shape(shown)}, not {self.observation_space.shape}")
        return np.asarray(self._read(shown), dtype(self.observation_space))

    def decode(self, action: Array) -> Any:
        """What the environment takes, for an action [*A] of the policy."""
        return action


class BatchedEnv(ABC):
    """B copies of one environment, stepped together, that exchange tensors on the policy's device.

    After an episode ends, it stays ended until `reset` starts the next one. Until then the environment accepts an
    action for it, does nothing costly, and may return anything: nobody reads it.

    Returned tensors belong to the caller: seqrl's own environments never write to them again, and what others return is
    copied.

    batch_size          B
    observation_space   of one environment
    action_space        of one environment
    backend             vector, sync, async or envpool; "" if there is no choice
    backend_reason      why that backend, if auto chose it; otherwise ""
    notes               what you should know about it, one line each; more may come while it is played
    logs_info           whether `ended_info` has something to say
    """

    batch_size: int
    observation_space: Space[Any]
    action_space: Space[Any]
    backend = ""
    backend_reason = ""
    notes: Sequence[str] = ()
    logs_info = False

    @abstractmethod
    def reset(self, where: Tensor | None = None) -> Tensor:
        """Begin a new episode where `where` [B] is true, everywhere if None; return all observations [B, *O].

        `where` may be true only for episodes that ended at the last step, and may be all false; the others are shown as
        the step showed them. An environment that can
        only reset during its next step returns the final observation now, and sets `valid` to false for that step.
        """

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Play one action [B, *A] each."""

    def close(self) -> None:  # noqa: B027  # most have nothing to release
        """Release processes and windows; may be called twice."""

    def state_dict(self) -> dict[str, Any] | None:
        """Everything that determines what comes next, as tensors and plain data; None: episodes cannot be resumed."""
        return None

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        """Restore the state. Returns [B] bool, true where the episode in progress continues as if uninterrupted.

        Elsewhere `reset` must begin a new one.
        """
        return torch.zeros(self.batch_size, dtype=torch.bool)

    def codec(self) -> Codec:
        """What an observation and an action are to whoever plays a single environment."""
        return Codec(self.observation_space, self.action_space)

    def render(self) -> Any:
        """Image of the first environment, best [H, W, 3] in uint8; None if it has none."""
        return None

    def ended_info(self, rows: Tensor) -> dict[str, Tensor]:
        """Numbers to log of the episodes that have just ended in some rows [n]: [n] each, by name, NaN for none."""
        return {}

    def info(self) -> dict[str, Tensor]:
        """Numbers that the policy does not see, as they are beside the present observation; [B, ...] each, by name.

        A hidden velocity, the right answer: what seqrl.inspect may look for in memory. NaN where there is none.
        """
        return {}


class Adopted(BatchedEnv):
    """Wraps an environment of the user's own, which need not inherit from BatchedEnv: what it raises names it.

    So does an answer of another form than it should have: FaultyEnvError. Answers are copied: tensor programs like to
    write over them.

    Who asks for its picture, or its info, names it himself.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.batch_size, self.observation_space, self.action_space = (
            env.batch_size,
            env.observation_space,
            env.action_space,
        )
        for together in (
            ["backend", "backend_reason"],
            ["notes"],
            ["codec"],
            ["render"],
            ["info"],
            ["ended_info", "logs_info"],
        ):
            if all(hasattr(env, name) for name in together):
                vars(self).update({name: getattr(env, name) for name in together})
        if all(hasattr(env, name) for name in ("state_dict", "load_state_dict")):
            self.state_dict = env.state_dict  # type: ignore[method-assign]
        for name in ("state_dict", "ended_info"):
            vars(self)[name] = self._named(getattr(self, name))

    def reset(self, where: Tensor | None = None) -> Tensor:
        return self._own("reset returned an observation", self._named(self.env.reset)(where), *self._shown)

    def step(self, action: Tensor) -> Step:
        step: Step = self._named(self.env.step)(action)
        if not all(hasattr(step, name) for name in ANSWERS):
            raise self._odd("step returned its answer", type(step).__name__, "a seqrl.types.Step")
        forms = {"observation": self._shown, "reward": ((), torch.float32)}
        return Step(
            *(
                self._own(f"step returned {name}", getattr(step, name), *forms.get(name, ((), torch.bool)))
                for name in ANSWERS
            )
        )

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        """Raises UnrestoredEnvError if the environment raises anything, or answers something else."""
        try:
            answer = self._named(getattr(self.env, "load_state_dict", super().load_state_dict))(state)
            return self._own("load_state_dict returned its answer", answer, (), torch.bool)
        except FaultyEnvError as error:
            raise UnrestoredEnvError(str(error)) from error

    @property
    def _shown(self) -> tuple[tuple[int, ...], torch.dtype]:
        return self.observation_space.shape or (), tensor_dtype(self.observation_space)

    def _own(self, said: str, answer: Any, inner: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A copy of an answer [B, *inner] in the dtype that the policy reads, without gradients.

        Raises FaultyEnvError if it is no such tensor, or holds what that dtype has not: half a choice, or any number
        instead of a truth.
        """
        shape, is_tensor = (self.batch_size, *inner), isinstance(answer, Tensor)
        if is_tensor and answer.shape == shape and (dtype == torch.bool) is (answer.dtype == torch.bool):
            own: Tensor = answer.detach().to(dtype, copy=True)
            if answer.dtype == dtype or dtype.is_floating_point or torch.equal(own.to(answer.dtype), answer):
                return own
        got = f"shape {tuple(answer.shape)} and {answer.dtype}" if is_tensor else type(answer).__name__
        raise self._odd(said, got, f"a tensor of shape {shape} and {dtype}")

    def _odd(self, said: str, got: str, wanted: str) -> FaultyEnvError:
        return FaultyEnvError(f"env: {self._who}.{said} as {got}, not as {wanted}. Fix the environment.")

    def close(self) -> None:
        try:
            self._named(getattr(self.env, "close", super().close))()
        except FaultyEnvError as error:
            # Everything played so far is still valid.
            log.warning("closing: %s", error, exc_info=error)

    def _named(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The same, which raises FaultyEnvError for all but what a signal raises, and too little memory."""

        def named(*given: Any) -> Any:
            try:
                return method(*given)
            except (KeyboardInterrupt, MemoryError, torch.OutOfMemoryError):
                raise
            except BaseException as error:
                if names_environment(error) or is_from_signal(error):
                    raise
                told = raised(error)
                raise FaultyEnvError(f"env: {self._who} raised {told.words}. Fix the environment.") from told

        return named

    @property
    def _who(self) -> str:
        return f"{type(self.env).__module__}.{type(self.env).__qualname__}"


def adopted(env: Any) -> BatchedEnv:
    """The environment as a BatchedEnv. One of the user's own may lack the optional methods."""
    # Gymnasium's have guards of their own.
    is_guarded = any(it.__module__.startswith("seqrl.envs.gym.") for it in type(env).__mro__)
    return env if is_guarded or type(env).__module__.startswith("seqrl.") else Adopted(env)


def visible(size: int, hidden: Sequence[Any]) -> list[int]:
    """Indices of a vector of `size` numbers that are not hidden.

    Raises EnvError if an index is out of range or listed twice, or if none are left.
    """
    # True would be 1.
    if unknown := [index for index in hidden if type(index) is not int or index not in range(size)]:
        raise EnvError(f"env.hidden: an observation of size {size} has no index {unknown[0]}. Use 0 to {size - 1}.")
    if twice := [index for index in hidden if list(hidden).count(index) > 1]:
        raise EnvError(f"env.hidden: index {twice[0]} is listed twice (got {list(hidden)}). List each index once.")
    shown = [index for index in range(size) if index not in hidden]
    if not shown:
        raise EnvError(f"env.hidden: all {size} indices are hidden (got {list(hidden)}). Leave at least one.")
    return shown
