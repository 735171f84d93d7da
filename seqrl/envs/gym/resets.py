"""When an own vector form begins the next episode: what it declares, or what playing it shows."""

import pickle
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from seqrl.envs.gym.calls import OverdueError
from seqrl.errors import EnvError, described
from seqrl.spaces import Array

Make = Callable[[], VectorEnv[Any, Any, Any]]
# Steps to play in search of ends, and steps after an end to see.
STEPS, ENOUGH = 1000, 20
# First observations to see, and how many different ones are few enough to have seen all.
FIRSTS, FEW = 20, 4
# The second is Gymnasium's name before 1.0.
FINAL = ("final_obs", "final_observation")
REMEDY = (
    "Declare it in its class, metadata = {'autoreset_mode': AutoresetMode.SAME_STEP}, NEXT_STEP or DISABLED, as it "
    "does; or use env.backend=sync."
)


class AutoresetError(EnvError):
    """An own vector form does not say when it begins the next episode, and cannot be taken for NEXT_STEP."""


def autoreset_mode(envs: VectorEnv[Any, Any, Any], make: Make, id: str) -> AutoresetMode:
    """The mode of a vector form; NEXT_STEP if it declares none and, played, does nothing that contradicts it.

    make   builds another one

    Raises AutoresetError if it does, or if playing it does not show it, and EnvError if there is no such mode.
    """
    declared = envs.metadata.get("autoreset_mode")
    if declared is None:
        try:
            against = contradiction(make)
        except Exception as error:
            if isinstance(error, OverdueError):
                raise
            against = f"played, it raised {described(error)}"
        if against:
            undeclared = f"the vector form of {id} does not declare when the next episode begins"
            raise AutoresetError(f"env.backend: {undeclared}, and {against}. {REMEDY}")
        return AutoresetMode.NEXT_STEP
    for mode in AutoresetMode:
        if isinstance(declared, AutoresetMode | str) and declared in (mode, mode.value, mode.name):
            return mode
    raise EnvError(f"env.backend: the vector form of {id} declares the autoreset_mode {declared!r}. {REMEDY}")


def contradiction(make: Make) -> str:
    """What shows that a vector form does not begin the next episode at the step after an end; "" if nothing does.

    Two are played with the same seed and actions, but for the steps after an end, whose actions must not matter.
    """
    with closing(make()) as one, closing(make()) as other:
        one.action_space.seed(0)
        first, _ = one.reset(seed=0)
        if pickle.dumps(first) != pickle.dumps(other.reset(seed=0)[0]):
            return "no two of them begin alike with the same seed, so that playing it does not show it"
        ended, ghosts, shown = np.zeros(one.num_envs, np.bool_), 0, set[bytes]()
        for _ in range(STEPS):
            action = one.action_space.sample()
            answer, again = one.step(np.copy(action)), other.step(_differing(action, one.action_space.sample(), ended))
            observation, reward, terminated, truncated, info = answer
            ghosts += int(ended.sum())
            ends = np.asarray(terminated) | np.asarray(truncated)
            if fault := fault_of_reset(ended, reward, ends) or fault_of_end(ends, info):
                return fault
            if pickle.dumps(answer[:4]) != pickle.dumps(again[:4]):
                return (
                    "what is done at the step after an end changes what follows"
                    if ghosts
                    else "it does not repeat with the same seed and actions, so that playing it does not show it"
                )
            shown |= {row.tobytes() for row in np.asarray(observation)[ended]}
            if ghosts >= ENOUGH:
                break
            ended = ends
        firsts = {row.tobytes() for _ in range(FIRSTS) for row in np.asarray(one.reset()[0])}
    if not ghosts:
        return f"no episode ended within {STEPS:,} random steps to show it"
    if len(firsts) <= FEW and not firsts & shown:
        return "the step after an end does not show what episodes begin with"
    return ""


def fault_of_reset(ghost: Array, reward: Any, ends: Array) -> str:
    """What shows that an episode had begun before the steps that ended ones spent on their reset; "" if nothing."""
    if not ghost.any():
        return ""
    paid = np.asarray(reward)[ghost]
    if paid.any():
        return f"the step after an end gave a reward, {paid[paid != 0][0]:g}"
    return "an episode ended at the step after an end" if (ends & ghost).any() else ""


def fault_of_end(ends: Array, info: Any) -> str:
    """What shows that the next episode began within the step that ends one; "" if nothing does."""
    given = [name for name in FINAL if isinstance(info, dict) and name in info]
    return f"an end comes with info['{given[0]}'], as if the next episode had begun" if ends.any() and given else ""


def _differing(action: Any, other: Any, where: Array) -> Any:
    """An action that is another one where `where` [B] is true."""
    mixed = np.copy(action)
    mixed[where] = other[where]
    return mixed
