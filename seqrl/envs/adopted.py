"""Environments of the user's own that are tensor programs, as BatchedEnv."""

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor

from seqrl.envs.base import BatchedEnv, Codec
from seqrl.envs.translate import PlainCodec, actions, observations, scale
from seqrl.errors import EnvError, FaultyEnvError, UnrestoredEnvError, names_environment, raised
from seqrl.machine import is_from_signal
from seqrl.spaces import Joint, Packed, tensor_dtype
from seqrl.types import Step

log = logging.getLogger(__name__)

# What a step answers.
ANSWERS = [it.name for it in fields(Step)]


class Adopted(BatchedEnv):
    """Wraps an environment of the user's own, which need not inherit from BatchedEnv: what it raises names it.

    So does an answer of another form than it should have: FaultyEnvError. Answers are copied: tensor programs like to
    write over them. Spaces may be any that a Gymnasium environment may have: the policy's choices count from 0, and its
    numbers run from -1 to 1 where they have bounds.

    Who asks for its picture, or its info, names it himself.
    """

    def __init__(self, env: Any) -> None:
        self.env, self.batch_size = env, env.batch_size
        for name, joined in (("observation_space", "Packed"), ("action_space", "Joint")):
            if isinstance(space := getattr(env, name), spaces.Dict | spaces.Tuple):
                raise EnvError(f"env: {self._who}.{name} has parts. Join them: see seqrl.spaces.{joined}.")
            for part, of_part in space.parts.items() if isinstance(space, Packed | Joint) else ():
                if not _is_the_policys(of_part, is_action=name == "action_space"):
                    raise EnvError(
                        f"env: {self._who}.{name}: part {part!r} is {of_part}. In parts, let choices count from 0, and "
                        "numbers with two bounds run from -1 to 1."
                    )
        try:
            self.observation_space, _ = observations(env.observation_space, ())
            self.action_space, self._act = actions(env.action_space)
        except EnvError as error:
            raise EnvError(f"env: {self._who}: {str(error).removeprefix('env.id: ')}") from error
        # Most need no translation, which an accelerator would have to wait for.
        first = np.asarray(getattr(env.observation_space, "start", 0))
        self._starts = torch.from_numpy(first) if first.any() else None
        self._shown = self.observation_space.shape or (), tensor_dtype(self.observation_space)
        self._takes_as_it_is = self.action_space == env.action_space and not _has_one_bound(env.action_space)
        for together in (
            ["backend", "backend_reason"],
            ["notes"],
            ["render"],
            ["info"],
            ["ended_info", "logs_info"],
        ):
            if all(hasattr(env, name) for name in together):
                vars(self).update({name: getattr(env, name) for name in together})
        # Without one of its own, it speaks in the terms of its spaces.
        if getattr(type(env), "codec", BatchedEnv.codec) is not BatchedEnv.codec:
            self.codec = env.codec  # type: ignore[method-assign]
        if all(hasattr(env, name) for name in ("state_dict", "load_state_dict")):
            self.state_dict = env.state_dict  # type: ignore[method-assign]
        for name in ("state_dict", "ended_info"):
            vars(self)[name] = self._named(getattr(self, name))

    def reset(self, where: Tensor | None = None) -> Tensor:
        # It may write to what it is given.
        answer = self._named(self.env.reset)(None if where is None else where.clone())
        return self._seen(self._own("reset returned an observation", answer, *self._shown))

    def step(self, action: Tensor) -> Step:
        if not self._takes_as_it_is:
            action = torch.from_numpy(self._act(action.cpu().numpy())).to(action.device)
        step: Step = self._named(self.env.step)(action)
        if not all(hasattr(step, name) for name in ANSWERS):
            raise self._odd("step returned its answer", type(step).__name__, "a seqrl.types.Step")
        forms = {"observation": self._shown, "reward": ((), torch.float32)}
        own = {
            name: self._own(f"step returned {name}", getattr(step, name), *forms.get(name, ((), torch.bool)))
            for name in ANSWERS
        }
        return Step(**own | {"observation": self._seen(own["observation"])})

    def codec(self) -> Codec:
        return PlainCodec(self.env.observation_space, self.env.action_space)

    def _seen(self, observation: Tensor) -> Tensor:
        """What the policy sees of it: choices counted from 0."""
        if self._starts is None:
            return observation
        # Copied once: an accelerator would wait for each copy.
        self._starts = self._starts.to(observation.device)
        return observation - self._starts

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        """Raises UnrestoredEnvError if the environment raises anything, or answers something else."""
        try:
            answer = self._named(getattr(self.env, "load_state_dict", super().load_state_dict))(state)
            return self._own("load_state_dict returned its answer", answer, (), torch.bool)
        except FaultyEnvError as error:
            raise UnrestoredEnvError(str(error)) from error

    def _own(self, said: str, answer: Any, inner: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A copy of an answer [B, *inner] in the dtype that the policy reads, without gradients.

        Raises FaultyEnvError if it is no such tensor, or holds what that dtype has not: half a choice, any number for a
        truth, a whole number that would be rounded, one that would become infinite.
        """
        shape, is_tensor = (self.batch_size, *inner), isinstance(answer, Tensor)
        if is_tensor and answer.shape == shape and (dtype != torch.bool or answer.dtype == torch.bool):
            given: Tensor = answer.detach()
            if given.dtype == dtype:
                return given.clone()
            if not given.is_complex():
                own = given.to(dtype)
                if not (changed := _changed(given, own)).any():
                    return own
                beyond = f"{said} with {given[changed][0].item()}, which {dtype} cannot hold"
                raise FaultyEnvError(f"env: {self._who}.{beyond}. Scale it, or fix the environment.")
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


def _changed(given: Tensor, own: Tensor) -> Tensor:
    """Which numbers are others, now that they have another dtype; real numbers may have been rounded."""
    if given.is_floating_point() and own.is_floating_point():
        return own.isinf() != given.isinf()
    return own.to(given.dtype) != given


def _is_the_policys(space: Space[Any], is_action: bool) -> bool:
    """Whether a part of a space is as the policy has it."""
    if isinstance(space, spaces.Box):
        centre, half = scale(space)
        return not is_action or bool((centre == 0).all() and (half == 1).all())
    return not np.any(getattr(space, "start", 0))


def _has_one_bound(space: Space[Any]) -> bool:
    """Whether there is a number that has a bound on one side alone, at which an action is clipped."""
    return isinstance(space, spaces.Box) and bool((space.bounded_below != space.bounded_above).any())


def adopted(env: Any) -> BatchedEnv:
    """The environment as a BatchedEnv. One of the user's own may lack the optional methods."""
    # Gymnasium's have guards of their own.
    is_guarded = any(it.__module__.startswith("seqrl.envs.gym.") for it in type(env).__mro__)
    return env if is_guarded or type(env).__module__.startswith("seqrl.") else Adopted(env)
