"""Extra inputs for the policy: its last action, the reward of it, and whether an episode begins."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor

from seqrl.envs.base import BatchedEnv, Codec
from seqrl.errors import EnvError
from seqrl.spaces import Joint, Packed, alternatives
from seqrl.types import Step


class Inputs:
    """Extra parts of an observation. At the first step of an episode all of them are 0 except `first`.

    previous_action   the action of the step before; choices count from 1
    previous_reward   the reward of the step before
    first             1 at the first step of an episode, 0 later

    names               of the parts to add
    more                spaces of these parts
    observation_space   with these parts

    Raises EnvError if the observation already has a part of that name.
    """

    def __init__(self, observation_space: Space[Any], action_space: Space[Any], names: Sequence[str]) -> None:
        self.action_space = action_space
        # An observation without parts becomes a part itself.
        self._alone = None if isinstance(observation_space, Packed) else Packed({"observation": observation_space})
        shown = observation_space if isinstance(observation_space, Packed) else None
        parts = {"observation": observation_space} if shown is None else shown.parts
        offered = {**_before(action_space), "previous_reward": Box(-np.inf, np.inf), "first": MultiBinary(1)}
        self.more = Packed({name: part for name, part in offered.items() if name.partition(".")[0] in names})
        if twice := [part for part in self.more.parts if part in parts]:
            raise EnvError(f"network.inputs: the observation already has a part {twice[0]!r}. Drop one of the two.")
        self.observation_space = Packed({**parts, **self.more.parts}, None if shown is None else shown.mask)

    @property
    def wants_reward(self) -> bool:
        """Whether the reward of the step before is one of them."""
        return "previous_reward" in self.more.parts

    def beginning(self, batch_size: int, device: torch.device) -> dict[str, Tensor]:
        """Values [B, *part] of every possible input at the first step of an episode."""
        action = torch.zeros(batch_size, *(self.action_space.shape or ()), device=device)
        everywhere = torch.ones(batch_size, dtype=torch.bool, device=device)
        return self.begun(self.after(action, torch.zeros(batch_size, device=device)), everywhere)

    def after(self, action: Tensor, reward: Tensor) -> dict[str, Tensor]:
        """The same, one step after an action [B, *A] and its reward [B]."""
        space = self.action_space
        parts = space.split(action) if isinstance(space, Joint) else {"": action}
        actions = previous(space, parts)
        first = torch.zeros_like(reward).unsqueeze(1)
        return {**actions, "previous_reward": reward.unsqueeze(1), "first": first}

    def begun(self, values: dict[str, Tensor], where: Tensor) -> dict[str, Tensor]:
        """The same, where an episode begins if `where` [B] is true."""
        return {
            name: value.masked_fill(where.view(-1, *[1] * (value.dim() - 1)), int(name == "first"))
            for name, value in values.items()
        }

    def joined(self, observation: Tensor, values: dict[str, Tensor]) -> Tensor:
        """Observations [B, bytes] with these parts, from those [B, *O] without."""
        if self._alone is not None:
            observation = self._alone.join({"observation": observation})
        return torch.cat([observation, self.more.join(values)], 1)


class WithInputs(BatchedEnv):
    """Adds `Inputs` to an environment's observation."""

    def __init__(self, env: BatchedEnv, inputs: Sequence[str]) -> None:
        self.env, self.batch_size, self.action_space = env, env.batch_size, env.action_space
        self.backend, self.backend_reason = env.backend, env.backend_reason
        self.notes, self.logs_info = env.notes, env.logs_info
        self.inputs = Inputs(env.observation_space, env.action_space, inputs)
        self.observation_space: Space[Any] = self.inputs.observation_space
        # Current values of every possible input [B, *part].
        self._last: dict[str, Tensor] = {}

    def reset(self, where: Tensor | None = None) -> Tensor:
        """Begin a new episode where `where` [B] is true, everywhere if None; return all observations [B, bytes]."""
        observation = self.env.reset(where)
        if where is None:
            self._last = self.inputs.beginning(self.batch_size, observation.device)
        else:
            self._last = self.inputs.begun(self._last, where)
        return self.inputs.joined(observation, self._last)

    def step(self, action: Tensor) -> Step:
        """Play one action [B, *A] each."""
        # Whoever plays may write to what it is given.
        step = self.env.step(action.clone())
        # A step that the environment spent on its reset does not count.
        self._last = self.inputs.begun(self.inputs.after(action, step.reward), ~step.valid)
        observation = self.inputs.joined(step.observation, self._last)
        return Step(observation, step.reward, step.terminated, step.truncated, step.valid)

    def state_dict(self) -> dict[str, Any] | None:
        inner = self.env.state_dict()
        return None if inner is None else {"last": self._last, "env": inner}

    def load_state_dict(self, state: dict[str, Any]) -> Tensor:
        # As earlier versions saved it.
        if state["env"] is None:
            return super().load_state_dict(state)
        continues = self.env.load_state_dict(state["env"])
        self._last = {name: value.to(continues.device) for name, value in state["last"].items()}
        return continues

    def codec(self) -> Codec:
        return self.env.codec()

    def render(self) -> Any:
        return self.env.render()

    def ended_info(self, rows: Tensor) -> dict[str, Tensor]:
        return self.env.ended_info(rows)

    def info(self) -> dict[str, Tensor]:
        return self.env.info()

    def close(self) -> None:
        self.env.close()


def previous(space: Space[Any], action: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the policy sees of an action at the next step, by name.

    action   values [B, ...] of its parts, by name
    """
    spaces = space.parts if isinstance(space, Joint) else {"": space}
    # For choices, 0 means that there was no action.
    return {_part(name): part + 1 if alternatives(spaces[name]) else part for name, part in action.items()}


def _before(action_space: Space[Any]) -> dict[str, Space[Any]]:
    """Spaces of the last action, with room for none."""
    match action_space:
        case Joint():
            return {_part(name): space for name, part in action_space.parts.items() for space in _before(part).values()}
        case Discrete():
            return {_part(""): Discrete(int(action_space.n) + 1)}
        case Box():
            # The policy may leave the bounds: the environment clips later.
            return {_part(""): Box(-np.inf, np.inf, action_space.shape)}
    return {_part(""): MultiDiscrete([n + 1 for n in alternatives(action_space)])}


def _part(name: str) -> str:
    return f"previous_action.{name}" if name else "previous_action"
