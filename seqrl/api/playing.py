"""`seqrl.load`: the policy of a run, which takes what the environment shows and returns what it takes."""

import reprlib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Tuple
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from seqrl import seeds
from seqrl.api.settings import settings_of_a_command
from seqrl.config.begun import named_run
from seqrl.config.command_line import trusted_by_shell
from seqrl.config.naming import network_of, task_of
from seqrl.config.words import FOLDER
from seqrl.devices.device import Device
from seqrl.envs.base import BatchedEnv, Codec
from seqrl.envs.inputs import Inputs, WithInputs
from seqrl.errors import ConfigError
from seqrl.networks import Distribution, Network
from seqrl.run import policy as saved
from seqrl.run.build import make_device, make_env
from seqrl.run.evaluator import frozen
from seqrl.text import printable
from seqrl.types import State


@dataclass(frozen=True, eq=False)
class PolicyState:
    """What a policy remembers, of one environment or of B.

    memory       leaves [B, ...]
    batch_size   B; None: of one environment, whose observations and actions have no batch axis
    previous     what the policy sees of the step before, [B, ...] by name; {} if it sees nothing of it
    """

    memory: State = field(repr=False)
    batch_size: int | None
    previous: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        return 1 if self.batch_size is None else self.batch_size

    def __getitem__(self, which: Any) -> "PolicyState":
        """The state of some of B environments, by a mask or by their indices."""
        if self.batch_size is None:
            raise ValueError("state: is of one environment, and has no rows to choose from")
        rows = torch.arange(self.batch_size)[which]
        memory, previous = ({name: leaf[rows] for name, leaf in it.items()} for it in (self.memory, self.previous))
        return PolicyState(memory, len(rows), previous)


class Policy:
    """A policy, in the environment's own terms; `seqrl.load` makes one.

        state = policy.initial_state()
        action, state = policy(observation, state)

    An observation is what the environment returns, after the wrappers named in `wrappers`: an array, a choice, a dict
    or a tuple of these. Hidden numbers are left out, and the rest is converted and normalised, as in training; what a
    policy sees of its last action is kept in its state. The action is what `env.step` takes. Of B environments,
    observations and actions are those of a Gymnasium vector environment; tensors are answered with tensors.

    observation_space, action_space   of one environment
    wrappers                          of the environment in training, the first one innermost: yours needs them too
    mask_in_info                      whether `mask` must be given, info["action_mask"]
    wants_reward                      whether `reward` must be given from the second step of an episode on
    network                           as seqrl trains it
    """

    def __init__(
        self,
        network: Network,
        codec: Codec,
        generator: torch.Generator,
        inputs: Inputs | None = None,
        wrappers: Sequence[str] = (),
        name: str = "",
    ) -> None:
        self.network, self.wrappers = network, tuple(wrappers)
        self.observation_space: Space[Any] = codec.observation_space
        self.action_space: Space[Any] = codec.action_space
        self.mask_in_info = codec.mask_in_info
        self.wants_reward = inputs is not None and inputs.wants_reward
        self._codec, self._inputs, self._generator, self._name = codec, inputs, generator, name
        self._device = next(iter(network.parameters())).device

    def __repr__(self) -> str:
        return f"<seqrl.Policy{self._name and f' of {self._name}'}>"

    @classmethod
    def of(cls, cfg: DictConfig, network: Network, folder: Path, env: BatchedEnv | None = None) -> "Policy":
        """The policy of a run with a network. Samples as the evaluation of the run does.

        folder   of the run
        env      that the network plays; None: one is built to see what it shows
        """
        with ExitStack() as stack:
            if env is None:
                env = make_env(cfg, Device("cpu", 1, "float32"), 1, "probe")
                stack.callback(env.close)
            inputs, codec = env.inputs if isinstance(env, WithInputs) else None, env.codec()
        device = next(iter(network.parameters())).device
        wrappers = [str(it.get("_target_")) for it in OmegaConf.select(cfg, "env.wrappers") or []]
        generator = seeds.generator(cfg.seed, "evaluation policy", device)
        name = printable(f"{task_of(cfg)}, {network_of(cfg)}, {folder}")
        return cls(network, codec, generator, inputs, wrappers, name)

    def initial_state(self, batch_size: int | None = None) -> PolicyState:
        """The state at the first step of an episode: of one environment, or of `batch_size`."""
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size: there must be an environment (got {batch_size}).")
        rows = batch_size or 1
        previous = {} if self._inputs is None else self._inputs.beginning(rows, self._device)
        return PolicyState(self.network.initial_state(rows), batch_size, previous)

    def reset(self, state: PolicyState, where: Any = True) -> PolicyState:
        """The same state, but at the first step of an episode where `where` [B] is true."""
        rows = state.rows
        told = where if isinstance(where, Tensor) else torch.as_tensor(np.asarray(where))
        if told.dtype != torch.bool or told.shape not in ((), (rows,)):
            raise ValueError(f"where: must be a mask, true or false for each row of {rows} (got {where!r:.60}).")
        begins = told.to(self._device).expand(rows)
        fresh = self.network.initial_state(rows)
        memory = {
            name: fresh[name].where(begins.view(-1, *[1] * (leaf.dim() - 1)), leaf)
            for name, leaf in state.memory.items()
        }
        previous = {} if self._inputs is None else self._inputs.begun(dict(state.previous), begins)
        return PolicyState(memory, state.batch_size, previous)

    def __call__(
        self, observation: Any, state: PolicyState, *, deterministic: bool = True, mask: Any = None, reward: Any = None
    ) -> tuple[Any, PolicyState]:
        """Act: the action, and the state for the next step.

        deterministic   take the likeliest action; otherwise a sampled one
        mask            info["action_mask"], if the policy was trained with env.action_mask=info
        reward          of the step before, if the policy sees it

        Raises ValueError for an observation that the environment's space does not have.
        """
        policy, _, memory = self._step(observation, state, mask, reward)
        with torch.inference_mode():
            action = policy.mode() if deterministic else policy.sample(self._generator)
            unknown = torch.zeros(len(action), device=self._device)
            previous = {} if self._inputs is None else self._inputs.after(action, unknown)
        taken = [self._codec.decode(row) for row in action.cpu().numpy()]
        after = PolicyState(memory, state.batch_size, previous)
        if state.batch_size is None:
            return _like(observation, taken[0]), after
        empty: Any = create_empty_array(self.action_space, len(taken))
        whole = concatenate(self.action_space, taken, empty)
        return _like(observation, whole), after

    def value(self, observation: Any, state: PolicyState, *, mask: Any = None, reward: Any = None) -> Any:
        """The return that the policy expects from here on: a number, or an array [B]."""
        value = self._step(observation, state, mask, reward)[1].float().cpu().numpy()
        return float(value[0]) if state.batch_size is None else value

    def distribution(
        self, observation: Any, state: PolicyState, *, mask: Any = None, reward: Any = None
    ) -> Distribution:
        """The distribution of actions [B], in the policy's own terms.

        It has mode(), sample(generator), log_prob(action) and entropy(): see seqrl.networks.Distribution.
        """
        return self._step(observation, state, mask, reward)[0]

    def _step(self, observation: Any, state: PolicyState, mask: Any, reward: Any) -> tuple[Distribution, Tensor, State]:
        if not isinstance(state, PolicyState):
            given = type(state).__name__
            raise TypeError(f"state: begin an episode with policy.initial_state() (got {given})")
        with self._frozen(), torch.inference_mode(), torch.autocast(self._device.type, enabled=False):
            seen = self._seen(observation, state, mask)
            if self._inputs is not None:
                seen = self._inputs.joined(seen, self._previous(state, reward))
            return self.network.step(seen, state.memory)

    def _seen(self, observation: Any, state: PolicyState, mask: Any) -> Tensor:
        if self.mask_in_info and mask is None:
            raise ValueError('mask: this policy was trained with env.action_mask=info. Give mask=info["action_mask"].')
        if mask is not None and not self.mask_in_info:
            raise ValueError("mask: this policy knows none beside its observation. Leave it out.")
        if isinstance(observation, Tensor):
            observation = observation.cpu().numpy()
        is_reset = isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict)
        if is_reset and not isinstance(self.observation_space, Tuple):
            raise ValueError("observation: this is what reset returns, observation and info. Give the observation.")
        rows = state.rows
        try:
            single = [observation] if state.batch_size is None else self._split(observation, rows)
            masks = [mask] * rows if state.batch_size is None or mask is None else list(mask)
            if len(masks) != rows:
                raise ValueError(f"has {len(masks)} masks for a state of {rows}")
            shown = np.stack([self._codec.encode(*it) for it in zip(single, masks, strict=True)])
            if shown.dtype.kind == "f" and not np.isfinite(shown).all():
                # Memory would keep it to the end of the episode.
                raise ValueError(f"is {shown[~np.isfinite(shown)].flat[0]:g} somewhere")
        except (ValueError, TypeError, KeyError) as error:
            said = str(error).removeprefix("its observation ")
            whose = "one environment" if state.batch_size is None else f"{rows} environments"
            raise ValueError(
                f"observation: {said}. Give what reset and step return, of {whose}: {self.observation_space}."
            ) from error
        return torch.from_numpy(shown).to(self._device)

    def _split(self, observation: Any, rows: int) -> list[Any]:
        single = list(iterate(batch_space(self.observation_space, rows), observation))
        if len(single) != rows:
            raise ValueError(f"has {len(single)} rows for a state of {rows}")
        return single

    def _previous(self, state: PolicyState, reward: Any) -> dict[str, Tensor]:
        previous = dict(state.previous)
        if not self.wants_reward:
            return previous
        first, rows = previous["first"].bool(), state.rows
        if reward is None and not first.all():
            raise ValueError("reward: this policy also sees the reward of the step before. Give reward=….")
        given = torch.as_tensor(0.0 if reward is None else reward, dtype=torch.float32, device=self._device)
        if given.numel() not in ({1, rows} if given.dim() == 0 else {rows}) or not given.isfinite().all():
            raise ValueError(f"reward: must be a finite number for each row of {rows} (got {reward!r:.60}).")
        previous["previous_reward"] = given.reshape(-1, 1).expand_as(first).masked_fill(first, 0)
        return previous

    def _frozen(self) -> AbstractContextManager[Any]:
        return frozen(self.network) if self.network.training else nullcontext()


def load(
    run: str | PathLike[str],
    *,
    checkpoint: str | int = "last",
    device: str = "cpu",
    trust: Sequence[str] = (),
) -> Policy:
    """The policy of a run folder, which may be anybody's, and may still be written.

    run          its folder; latest: the newest one under outputs
    checkpoint   last, best, or the number of iterations after which it was saved
    device       cpu, cuda, mps or auto
    trust        modules of your own that the run needs; those that the variable SEQRL_TRUST names are trusted, too

    Raises CheckpointError if there is no sound checkpoint, ConfigError if the run would build what you do not trust.
    """
    if isinstance(checkpoint, bool) or not (checkpoint in ("last", "best") or isinstance(checkpoint, int | np.integer)):
        raise ConfigError([f"checkpoint: must be last, best or a number of iterations (got {checkpoint!r})."])
    if not isinstance(run, str | PathLike) or not str(run):
        raise ConfigError([f"run: must be {FOLDER} (got {reprlib.repr(run)})."])
    folder = named_run(Path(run))
    named = [trust] if isinstance(trust, str) else list(trust)
    with settings_of_a_command():
        cfg, _ = saved.chosen(folder, trust=[*named, *trusted_by_shell()], device=device)
        state, passed_over = saved.checkpoint(folder, checkpoint if isinstance(checkpoint, str) else int(checkpoint))
        for fault in passed_over:
            warnings.warn(f"checkpoint {fault}; using an older one.", stacklevel=2)
        network = saved.network(cfg, make_device(cfg), state)
        network.eval()
        return Policy.of(cfg, network, folder)


def _like(observation: Any, action: Any) -> Any:
    return torch.as_tensor(action) if isinstance(observation, Tensor) else action
