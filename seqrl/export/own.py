"""An environment's own observations and actions, as they are outside of seqrl."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import MultiBinary
from torch import Tensor

from seqrl.envs import GymnasiumEnv
from seqrl.envs.adopted import Adopted
from seqrl.envs.base import BatchedEnv
from seqrl.envs.gym.flatten import FlattenedEnv, Flattening
from seqrl.envs.inputs import WithInputs
from seqrl.envs.translate import actions
from seqrl.spaces import ACTION_MASK, Array, Joint, Packed, dtype, leaves, values
from seqrl.spaces import parts as parts_of


@dataclass(frozen=True)
class Own:
    """What an environment shows and is given, in its own shapes, types and units.

    observed   spaces of the parts that the policy reads, by name; "" where there are no parts
    hidden     indices that the policy does not see of an observation without parts
    masks      spaces of the parts that say which choices are allowed, in their order; for a mask in info it is one,
               called action_mask
    mask       what the policy calls the mask; None: there is none
    in_info    whether the mask is in info, not in the observation
    acted      spaces of the parts of an action, by name
    to_env     actions of the policy [B, ...] as the environment is given them, by name
    shown      what was shown last, by name [B, ...]: parts and masks
    is_translated   whether seqrl converts it for the policy, as it does with Gymnasium's; otherwise tensors are
               exchanged as they are
    """

    observed: Mapping[str, Space[Any]]
    acted: Mapping[str, Space[Any]]
    to_env: Mapping[str, Callable[[Array], Array]]
    shown: Callable[[Tensor], dict[str, Array]]
    hidden: Sequence[int] = ()
    masks: Mapping[str, Space[Any]] = field(default_factory=dict)
    mask: str | None = None
    in_info: bool = False
    is_translated: bool = True

    def dtype(self, space: Space[Any]) -> np.dtype[Any]:
        """Type in which elements of one of its spaces come."""
        return np.dtype(space.dtype) if self.is_translated else dtype(space)


def own(env: BatchedEnv, hidden: Sequence[Any]) -> Own:
    """What an environment of a run has behind the interface that the policy plays.

    From then on it is watched: nothing else changes.

    hidden   env.hidden, of the configuration
    """
    played, env = env, env.env if isinstance(env, WithInputs) else env
    has_parts = isinstance(env.observation_space, Packed) or isinstance(env.action_space, Joint)
    if isinstance(env, Adopted) and not has_parts:
        return _adopted(env, played)
    if not isinstance(env, GymnasiumEnv):
        return _tensors(env, played)
    singles = getattr(env._episodes.envs, "envs", [])
    flattened = [it.env for it in singles if isinstance(getattr(it, "env", None), FlattenedEnv)]
    return _flattened(flattened, hidden) if flattened else _whole(env, hidden)


def _adopted(env: Adopted, played: BatchedEnv) -> Own:
    """Of a batch of the user's own whose spaces have no parts.

    played   the same, with further inputs
    """
    observed, acted = env.env.observation_space, env.env.action_space

    def shown(observation: Tensor) -> dict[str, Array]:
        seen = parts_of(played.observation_space, observation)
        choices_from_0 = seen["observation" if "observation" in seen else ""].numpy()
        return {"": (choices_from_0 + getattr(observed, "start", 0)).astype(observed.dtype)}

    return Own({"": observed}, {"": acted}, {"": actions(acted)[1]}, shown)


def _tensors(env: BatchedEnv, played: BatchedEnv) -> Own:
    """Of an environment that exchanges tensors with the policy as they are.

    played   the same, with further inputs
    """
    space, action = env.observation_space, env.action_space
    parts = space.parts if isinstance(space, Packed) else {"": space}
    mask = space.mask if isinstance(space, Packed) else None
    acted = action.parts if isinstance(action, Joint) else {"": action}

    def shown(observation: Tensor) -> dict[str, Array]:
        seen = parts_of(played.observation_space, observation)
        return {name: seen[name if name in seen else "observation"].numpy() for name in parts}

    return Own(
        observed={name: part for name, part in parts.items() if name != mask},
        acted=acted,
        to_env={name: lambda action: action for name in acted},
        shown=shown,
        masks={} if mask is None else {mask: parts[mask]},
        mask=mask,
        is_translated=False,
    )


def _whole(env: GymnasiumEnv, hidden: Sequence[Any]) -> Own:
    """Of a Gymnasium environment whose observations and actions have no parts."""
    envs, latest = env._episodes.envs, [np.empty(0)]
    observe = env._observe

    def watched(observation: Array) -> Array:
        latest[0] = np.array(observation)
        return observe(observation)

    env._observe = watched
    return Own(
        observed={"": envs.single_observation_space},
        acted={"": envs.single_action_space},
        to_env={"": actions(envs.single_action_space)[1]},
        shown=lambda _: {"": latest[0]},
        hidden=tuple(hidden),
    )


def _flattened(envs: list[FlattenedEnv], hidden: Sequence[Any]) -> Own:
    """Of Gymnasium environments that seqrl flattens, because of several parts or a mask in info."""
    one, of_env = envs[0].flattening, envs[0].env
    spaces = dict(leaves(of_env.observation_space))
    latest = [_watched(env.flattening, of_env.observation_space) for env in envs]
    masks: dict[str, Space[Any]] = {name: spaces[name] for name in one.mask_parts}
    if one.mask_in_info:
        masks = {ACTION_MASK: MultiBinary(sum(one.choices))}
    observed = {name: spaces[name] for name in one.reads}

    def shown(_: Tensor) -> dict[str, Array]:
        return {
            name: np.stack([np.asarray(seen[name]).astype(space.dtype) for seen in latest])
            for name, space in {**observed, **masks}.items()
        }

    return Own(
        observed=observed,
        acted=dict(leaves(of_env.action_space)),
        to_env={name: translate for name, (_, translate) in one.acts.items()},
        shown=shown,
        # Names of parts are hidden already.
        hidden=tuple(hidden) if "" in spaces else (),
        masks=masks,
        mask=one.packed.mask,
        in_info=one.mask_in_info,
    )


def _watched(flattening: Flattening, space: Space[Any]) -> dict[str, Any]:
    """What an environment of an observation `space` was seen to show last, by name, from now on."""
    pack, allowed, seen = flattening.pack, flattening._allowed, dict[str, Any]()

    def watched(observation: Any, info: dict[str, Any], at_end: bool = False) -> Array:
        # Copied, as an environment may go on in the same array.
        seen.update(zip(flattening.names, map(np.array, values(space, observation)), strict=True))
        return pack(observation, info, at_end)

    def mask(masks: Any, at_end: bool) -> Array:
        found = allowed(masks, at_end)
        if flattening.mask_in_info:
            seen[ACTION_MASK] = found
        return found

    vars(flattening).update(pack=watched, _allowed=mask)
    return seen
