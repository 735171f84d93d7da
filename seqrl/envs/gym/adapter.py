"""Any Gymnasium environment behind the tensor interface."""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from seqrl.envs.base import BatchedEnv, Codec
from seqrl.envs.elements import OutsideError
from seqrl.envs.gym.auto import episodes
from seqrl.envs.gym.backends import EnvRequest, OneProcess, Wrap
from seqrl.envs.gym.calls import OverdueError, is_own_fault
from seqrl.envs.gym.codec import codec_of
from seqrl.envs.gym.guard import GuardedEnv
from seqrl.envs.gym.lasting import note
from seqrl.envs.gym.registry import MISSING_PACKAGE
from seqrl.envs.translate import PlainCodec, actions, observations
from seqrl.errors import ActionNotFiniteError, EnvError, FaultyEnvError, OutsideEnvError, names_environment, raised
from seqrl.spaces import Array, Packed, masked_alternatives, numbers, unused_mask
from seqrl.types import Step

log = logging.getLogger(__name__)


def _is_in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class GymnasiumEnv(BatchedEnv):
    """B copies of the environment registered as `id` with Gymnasium or EnvPool.

    id         such as Acrobot-v1, or module:Env-v0 to import the module that registers Env-v0
    kwargs     arguments for the environment's constructor
    hidden     what to hide from the policy: indices of a vector observation, or names of parts of a composed one
    wrappers   applied to each environment, the first one innermost
    action_mask   where to find the mask of allowed choices: info for info["action_mask"], or the name of a part of the
               observation; None: the part called action_mask, if there is one
    log_info   names of numbers in info at the end of an episode that `ended_info` returns
    backend    vector: the environment's own vector form; sync: one process; async: one process per environment;
               auto: vector if it exists, otherwise sync or async, whichever measures faster;
               envpool: EnvPool's threads; EnvPool has its own environments and ids
    timeout_seconds   limit for whatever is asked of an environment: to begin, a reset, a step, its state, an image, to
               close; None: no limit. An own vector form and EnvPool answer for all at once. One that hangs outside
               Python can be ended only if it has its own process
    first      index of the first environment, where other processes play those before it

    The policy sees a Box as float32, bytes unchanged, and choices counted from 0; a Dict or Tuple becomes one Packed
    vector. It acts in its own units: choices count from 0, bounded dimensions of a Box run over [-1, 1] and are scaled
    to the bounds and clipped; a Dict or Tuple of actions is one Joint vector.
    Under sync and async every episode has its own seed, derived from `seed`, the environment's index and the episode's
    number. An own vector form and EnvPool are seeded at every full reset.

    Raises EnvError if the environment does not exist or cannot be played. `reset` and `step` raise FaultyEnvError if it
    does something wrong.
    """

    observation_space: Space[Any]
    action_space: Space[Any]

    def __init__(
        self,
        id: str,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        kwargs: Mapping[str, Any] | None = None,
        hidden: Sequence[int | str] = (),
        backend: str = "auto",
        timeout_seconds: float | None = None,
        wrappers: Sequence[Wrap] = (),
        action_mask: str | None = None,
        log_info: Sequence[str] = (),
        first: int = 0,
    ) -> None:
        self.batch_size, self.device = batch_size, torch.device(device)
        self._id, self._render_mode = id, (kwargs or {}).get("render_mode")
        request = EnvRequest(
            id, kwargs or {}, batch_size, seed, timeout_seconds, wrappers, hidden, action_mask, log_info, first
        )
        self._request, self._log_info = request, list(dict.fromkeys(log_info))
        self.logs_info = bool(self._log_info)
        self._is_closed = False
        self._episodes, choice = episodes(request, backend)
        self.backend, self.backend_reason = choice.backend, choice.why
        self.notes: list[str] = []
        envs = self._episodes.envs
        try:
            self.observation_space, self._observe = observations(envs.single_observation_space, hidden)
            self.action_space, self._act = actions(envs.single_action_space)
            if not numbers(self.action_space):
                raise EnvError(f"env.id: {id} has nothing to choose: its action space is {envs.single_action_space}.")
            with self._guarded():
                names = self._episodes.lasting()
        except Exception:
            self.close()
            raise
        self.notes += [note(names)] if names else []
        self._note_mask()
        if timeout_seconds is not None and self.backend != "async" and not _is_in_main_thread():
            self.notes.append(
                "env.timeout_seconds has no effect here: only in the main thread, or with env.backend=async, can an "
                "environment that hangs be ended."
            )

    def _note_mask(self) -> None:
        """Note a part that could be a mask of actions; one in info is seen at the first reset."""
        space = self.observation_space
        # Nothing is said of a mask in info if there is one that is used, or nothing to mask.
        has_mask = isinstance(space, Packed) and space.mask is not None
        self._may_miss_mask = not has_mask and bool(masked_alternatives(self.action_space))
        if name := unused_mask(space, self.action_space):
            self.notes.append(
                f"part {name!r} of the observation looks like a mask of actions, and is read as numbers; "
                f"env.action_mask={name} lets it forbid actions."
            )

    def reset(self, where: Tensor | None = None) -> Tensor:
        """Begin a new episode where `where` [B] is true, everywhere if None; return all observations [B, *O]."""
        with self._guarded():
            observation = self._episodes.reset(None if where is None else where.cpu().numpy())
        if self._may_miss_mask and self._episodes.has_mask_in_info:
            self._may_miss_mask = False
            own = "" if self.backend in ("sync", "async") else " env.backend=sync"
            self.notes.append(f"info['action_mask'] is not used; env.action_mask=info{own} lets it forbid actions.")
        return self._observation(observation)

    def step(self, action: Tensor) -> Step:
        """Play one action [B, *A] each."""
        chosen = action.cpu().numpy()
        if self.device.type != "cpu" and chosen.dtype.kind == "f" and not np.isfinite(chosen).all():
            # The runner does not wait for an accelerator to say so.
            index = int((~np.isfinite(chosen)).nonzero()[0][0])
            number = chosen[index][~np.isfinite(chosen[index])].flat[0]
            raise ActionNotFiniteError(self._episodes.whereabouts(index), number)
        env_action = self._act(chosen)
        with self._guarded():
            observation, reward, terminated, truncated, valid = self._episodes.step(env_action)
        return Step(
            observation=self._observation(observation),
            reward=self._tensor(np.array(reward, np.float32)),
            terminated=self._tensor(np.array(terminated, np.bool_)),
            truncated=self._tensor(np.array(truncated, np.bool_)),
            valid=self._tensor(valid),
        )

    def state_dict(self) -> dict[str, Any]:
        with self._guarded():
            state = self._episodes.state_dict()
        if self._episodes.unsaved:
            self._note(
                "state_dict of an environment failed; where the run is resumed, it begins anew. The log says why."
            )
        return state

    def _note(self, said: str) -> None:
        """Note something that may happen again, once."""
        if said not in self.notes:
            self.notes.append(said)

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        # What is wrong with it is no fault of the environments.
        state = self._episodes.checked(state)
        with self._faults_named():
            continues = self._tensor(self._episodes.load_state_dict(state))
        if self._episodes.begins_anew:
            self._note("environments could not restore their own state; they begin anew. The log says why.")
        return continues

    def codec(self) -> Codec:
        """What an observation and an action are to whoever plays a single environment, with its wrappers."""
        envs, hidden = self._episodes.envs, self._request.hidden
        if isinstance(envs, OneProcess) and isinstance(guarded := envs.envs[0], GuardedEnv):
            return codec_of(guarded.env, hidden)
        if self.backend != "async":
            return PlainCodec(envs.single_observation_space, envs.single_action_space, hidden)
        with self._guarded():
            # Those that play are in other processes.
            env = self._request.environment()
            try:
                return codec_of(env, hidden)
            finally:
                env.close()

    def render(self) -> Any:
        """Image of the first environment, as it draws it; None unless its kwargs set render_mode: rgb_array.

        Raises EnvError if a package needed to draw it is missing.
        """
        if self._render_mode != "rgb_array":
            return None
        with self._guarded():
            try:
                pictures = self._episodes.render()
                return None if pictures is None else pictures[0]
            except MISSING_PACKAGE as error:
                raise EnvError(f"env.id: drawing {self._id} needs a package that is missing: {error}.") from error

    def ended_info(self, rows: Tensor) -> dict[str, Tensor]:
        """The numbers that `log_info` names, of the episodes that have just ended in some rows [n]."""
        if not self._log_info:
            return {}
        told = self.info()
        numbers = {name: it[rows, 0] for name, it in told.items() if it.shape[1] == 1}
        unknown = torch.full((len(rows),), torch.nan, dtype=torch.float64, device=self.device)
        for name in self._log_info:
            if name not in numbers:
                self._note_missing(name, list(numbers))
            elif numbers[name].isinf().any():
                self._note(f"info[{name!r}] was infinite at the end of an episode, which its mean leaves out.")
        return {name: numbers.get(name, unknown) for name in self._log_info}

    def _note_missing(self, name: str, there: Sequence[str]) -> None:
        what = f"it has {', '.join(there)}" if there else "it has no numbers"
        note = f"info has no number {name!r} at the end of an episode, which env.log_info names: {what}."
        if not any(it.startswith(note.partition(":")[0]) for it in self.notes):
            self.notes.append(note)

    def info(self) -> dict[str, Tensor]:
        """Numbers in Gymnasium's info; an own vector form, and EnvPool, are not asked."""
        with self._guarded():
            told = self._episodes.told()
        sizes = {name: len(numbers) for one in told for name, numbers in one.items()}
        gaps = {name: [np.nan] * size for name, size in sizes.items()}
        rows = {
            name: [one[name] if len(one.get(name, ())) == size else gaps[name] for one in told]
            for name, size in sizes.items()
        }
        return {name: torch.tensor(it, dtype=torch.float64, device=self.device) for name, it in rows.items()}

    def close(self) -> None:
        """End the environment's processes; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            with self._guarded():
                try:
                    self._episodes.envs.close()
                finally:
                    # Whatever an environment does when it is collected, it does here.
                    delattr(self._episodes, "envs")
        except FaultyEnvError as error:
            # Everything played so far is still valid.
            log.warning("closing: %s", error, exc_info=error)

    def _observation(self, observation: Array) -> Tensor:
        expected = self._episodes.envs.observation_space.shape
        if np.shape(observation) != expected:
            raise FaultyEnvError(
                f"environments: observations have shape {np.shape(observation)}, not {expected}. Fix the environment."
            )
        try:
            return self._tensor(self._observe(observation))
        except OutsideError as error:
            where = self._episodes.whereabouts(error.row)
            raise OutsideEnvError(f"{where}: {error}. {error.remedy}") from error

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._episodes.guard, self._faults_named():
            yield

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        """Turn any other exception, such as those of an own vector form, into a FaultyEnvError of one line."""
        try:
            yield
        except OverdueError as error:
            raise FaultyEnvError(f"environments: {error}. Fix the environment, or raise the limit.") from error
        except BaseException as error:
            if names_environment(error) or not is_own_fault(error):
                raise
            # It takes memory to say what is wrong.
            self._episodes.guard.lift()
            told = raised(error)
            raise FaultyEnvError(f"environments: raised {told.words}. Fix the environment.") from told

    def _tensor(self, copied: Array) -> Tensor:
        tensor = torch.from_numpy(copied)
        if self.device.type != "cuda":
            return tensor.to(self.device)
        # The GPU copies from pinned memory in the background.
        return tensor.pin_memory().to(self.device, non_blocking=True)
