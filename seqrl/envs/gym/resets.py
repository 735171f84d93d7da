"""When an own vector form begins the next episode: what it declares, or what playing it shows."""

import pickle
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from seqrl.envs.gym.calls import OverdueError, is_own_fault
from seqrl.errors import EnvError, FaultyEnvError, described, names_environment
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


class UnfitError(EnvError):
    """An own vector form exists, and cannot be played, where single environments perhaps can.

    why   in a few words that follow its name
    """

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


class AutoresetError(UnfitError):
    """An own vector form does not say when it begins the next episode, and cannot be taken for NEXT_STEP."""


def autoreset_mode(
    envs: VectorEnv[Any, Any, Any], make: Make, id: str, anew: Callable[[], object] = lambda: None
) -> AutoresetMode:
    """The mode of a vector form; NEXT_STEP if it declares none and, played, does nothing that contradicts it.

    make   builds another one
    anew   called before each thing that is asked of it, which has a time limit of its own

    Raises AutoresetError if it does, or if playing it does not show it, and EnvError if there is no such mode.
    """
    declared = envs.metadata.get("autoreset_mode")
    if declared is None:
        try:
            against = contradiction(make, anew)
        except Exception as error:
            is_told = isinstance(error, FaultyEnvError) and names_environment(error)
            if isinstance(error, OverdueError) or is_told or not is_own_fault(error):
                raise
            against = f"played, it raised {described(error)}"
        if against:
            undeclared = f"the vector form of {id} does not declare when the next episode begins"
            raise AutoresetError(
                f"env.backend: {undeclared}, and {against}. {REMEDY}", "its autoreset_mode is not clear"
            )
        return AutoresetMode.NEXT_STEP
    for mode in AutoresetMode:
        if isinstance(declared, AutoresetMode | str) and declared in (mode, mode.value, mode.name):
            return mode
    raise EnvError(f"env.backend: the vector form of {id} declares the autoreset_mode {declared!r}. {REMEDY}")


def contradiction(make: Make, anew: Callable[[], object] = lambda: None) -> str:
    """What shows that a vector form does not begin the next episode at the step after an end; "" if nothing does.

    anew   as in `autoreset_mode`

    Two are played with the same seed and actions, but for the steps after an end, whose actions must not matter.
    """

    def asked(answer: Callable[..., Any], *given: Any, **named: Any) -> Any:
        anew()
        return answer(*given, **named)

    with closing(asked(make)) as one, closing(asked(make)) as other:
        one.action_space.seed(0)
        first, _ = asked(one.reset, seed=0)
        if _bytes(first) != _bytes(asked(other.reset, seed=0)[0]):
            return "no two of them begin alike with the same seed, so that playing it does not show it"
        ended, ghosts, shown = np.zeros(one.num_envs, np.bool_), 0, set[bytes]()
        for _ in range(STEPS):
            action = one.action_space.sample()
            differing = _differing(action, one.action_space.sample(), ended)
            answer, again = asked(one.step, np.copy(action)), asked(other.step, differing)
            observation, reward, terminated, truncated, info = answer
            ghosts += int(ended.sum())
            ends = np.logical_or(*read_ends(terminated, truncated, one.num_envs))
            if fault := fault_of_reset(ended, reward, ends) or fault_of_end(ends, info):
                return fault
            if _bytes(*answer[:4]) != _bytes(*again[:4]):
                return (
                    "what is done at the step after an end changes what follows"
                    if ghosts
                    else "it does not repeat with the same seed and actions, so that playing it does not show it"
                )
            shown |= {row.tobytes() for row in np.asarray(observation)[ended]}
            if ghosts >= ENOUGH:
                break
            ended = ends
        firsts = {row.tobytes() for _ in range(FIRSTS) for row in np.asarray(asked(one.reset)[0])}
    if not ghosts:
        return f"no episode ended within {STEPS:,} random steps to show it"
    if len(firsts) <= FEW and not firsts & shown:
        return "the step after an end does not show what episodes begin with"
    return ""


def read_ends(terminated: Any, truncated: Any, number: int) -> tuple[Array, Array]:
    """Which of `number` episodes ended, [B] bool each, as a vector form says it: with bool, or with 0 and 1.

    As numbers they would select by position where they are to mask. Raises FaultyEnvError for anything else.
    """
    return _truths(terminated, "terminated", number), _truths(truncated, "truncated", number)


def _truths(given: Any, name: str, number: int) -> Array:
    told = np.asarray(given)
    if told.dtype == np.object_:
        # Python's own bools do not say what they are together.
        told = np.array(told.tolist())
    if told.shape != (number,):
        raise FaultyEnvError(
            f"environments: {name} has shape {told.shape}, not {(number,)}: one bool for each. Fix the environment."
        )
    if told.dtype == np.bool_:
        return told
    if told.dtype.kind not in "iuf":
        raise FaultyEnvError(f"environments: {name} is made of {told.dtype}, not of bools. Fix the environment.")
    wrong = ~np.isin(told, (0, 1))
    if wrong.any():
        index = int(wrong.argmax())
        raise FaultyEnvError(
            f"environment {index}: it returned {told[index]:g} for {name}, where only a bool, or 0 or 1, says whether "
            "an episode ended. Fix the environment."
        )
    ended: Array = told == 1
    return ended


def fault_of_reset(ghost: Array, reward: Any, ends: Array) -> str:
    """What shows that an episode had begun before the steps that ended ones spent on their reset; "" if nothing."""
    if not ghost.any():
        return ""
    paid = np.asarray(reward)[ghost]
    if paid.any():
        given = paid[paid != 0][0]
        return f"the step after an end gave a reward, {given:g}, as if the next episode had begun before it"
    return "an episode ended at the step after an end" if (ends & ghost).any() else ""


def fault_of_end(ends: Array, info: Any) -> str:
    """What shows that the next episode began within the step that ends one; "" if nothing does."""
    given = [name for name in FINAL if in_info(info, name) is not None]
    return f"an end comes with info['{given[0]}'], as if the next episode had begun" if ends.any() and given else ""


def in_info(info: Any, name: str) -> Any:
    """What a vector form tells all of its environments by a name; None if nothing.

    Gymnasium's wrapper DictInfoToList makes a list of it, a dict for each environment.
    """
    if isinstance(info, dict):
        return info.get(name)
    if not isinstance(info, list | tuple):
        return None
    told = np.empty(len(info), dtype=object)
    for index, one in enumerate(info):
        told[index] = in_info(one, name) if isinstance(one, dict) else None
    return told if any(it is not None for it in told) else None


def _bytes(*answers: Any) -> bytes:
    """What is equal if the answers are; two equal tensors of torch would not be pickled alike."""
    return pickle.dumps([np.asarray(answer) for answer in answers])


def _differing(action: Any, other: Any, where: Array) -> Any:
    """An action that is another one where `where` [B] is true."""
    mixed = np.copy(action)
    mixed[where] = other[where]
    return mixed
