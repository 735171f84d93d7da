"""The backends: an own vector form, one process, a process per environment, or EnvPool."""

import multiprocessing
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.spaces import Dict, Tuple
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, iterate

from seqrl.envs.gym.autoreset import OWN_EPISODES, PoolEpisodes, SeededEpisodes, VectorEpisodes
from seqrl.envs.gym.calls import Guard, LostError, OverdueError, is_own_fault
from seqrl.envs.gym.envpool import Pool
from seqrl.envs.gym.flatten import FlattenedEnv, is_composed
from seqrl.envs.gym.guard import GuardedEnv
from seqrl.envs.gym.processes import VECTOR_OPTIONS, ProcessEach
from seqrl.envs.gym.registry import explained, find
from seqrl.envs.gym.resets import UnfitError, autoreset_mode
from seqrl.envs.translate import actions, observations
from seqrl.errors import EnvError, FaultyEnvError, message_of, raised
from seqrl.packages import same_hydra_for_each

# Copies of a vector form that does not declare when it resets, to see what it does.
PROBED = 8

# What Gymnasium calls a time limit, and how Python says that a constructor does not take it.
LIMIT = "max_episode_steps"
TAKES_NONE = rf"unexpected keyword argument '{LIMIT}'"

Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]


class OneProcess(SyncVectorEnv):
    """Environments in this process, stepped one after another."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        # Gymnasium's own refuses to step an ended episode, where a GuardedEnv rests, and collects the infos.
        for index, action in enumerate(iterate(self.action_space, actions)):
            answer = self.envs[index].step(action)
            self._env_obs[index], self._rewards[index], self._terminations[index], self._truncations[index], _ = answer
        self._observations = concatenate(self.single_observation_space, self._env_obs, self._observations)
        return self._observations, self._rewards.copy(), self._terminations.copy(), self._truncations.copy(), {}


@dataclass(frozen=True)
class EnvRequest:
    """The environments to build.

    id                such as Acrobot-v1, or module:Env-v0
    timeout_seconds   limit for one answer, of each or of a vector form; None: no limit
    wrappers          applied to each, the first one innermost
    hidden, action_mask   as in `FlattenedEnv`
    log_info          names of numbers in info to log
    first             index of the first one, where other processes play those before it
    """

    id: str
    kwargs: Mapping[str, Any]
    batch_size: int
    seed: int
    timeout_seconds: float | None
    wrappers: Sequence[Wrap] = ()
    hidden: Sequence[Any] = ()
    action_mask: str | None = None
    log_info: Sequence[str] = ()
    first: int = 0

    @cached_property
    def spec(self) -> EnvSpec:
        """Gymnasium's spec of the environment; raises EnvError if there is none."""
        return find(self.id, self.guard)

    def singles(self) -> list[Callable[[], GuardedEnv]]:
        """One builder per environment."""
        if self.spec.entry_point is None:
            raise EnvError(f"env.backend: {self.spec.id} has only a vector form of its own. Use env.backend=vector.")
        return [partial(_single, self, index) for index in range(self.batch_size)]

    @cached_property
    def guard(self) -> Guard:
        """What all calls into the environments pass in this process."""
        return Guard(self.timeout_seconds)

    @property
    def is_wrapped(self) -> bool:
        """Whether it takes single environments: a vector form is not wrapped, and merges infos in its own way."""
        return bool(self.wrappers or self.log_info) or self.action_mask is not None

    def environment(self) -> gymnasium.Env[Any, Any]:
        """One environment, wrapped, with its observations and actions flattened to one part each."""
        env = gymnasium.make(self.spec, **own(dict(self.kwargs)))
        for index, wrap in enumerate(map(own, self.wrappers)):
            try:
                env = wrap(env)
            except (TypeError, ValueError, AssertionError) as error:
                told = raised(error)
                raise EnvError(
                    f"env.wrappers[{index}]: cannot wrap {self.spec.id}: {told.words}. "
                    "Check the arguments of its constructor and the order of the wrappers."
                ) from told
        if is_composed(env) or self.action_mask is not None:
            env = FlattenedEnv(env, self.hidden, self.action_mask)
        return env


def own(given: Any) -> Any:
    """Arguments of an environment's own: it may complete a list or a dict in place, which others would be given then.

    What else they hold, such as a connection, all share.
    """
    match given:
        case dict() if type(given) is dict:
            return {key: own(value) for key, value in given.items()}
        case list() | tuple() if type(given) in (list, tuple):
            return type(given)(map(own, given))
        case partial():
            return partial(given.func, *own(given.args), **own(given.keywords))
    return given


def _vector(request: EnvRequest) -> VectorEpisodes:
    spec = request.spec
    if spec.vector_entry_point is None:
        raise EnvError(f"env.backend: {spec.id} has no vector form of its own. Use env.backend=sync or async.")
    _refuse_wrapped(request, "vector")

    def make(num_envs: int) -> Any:
        return gymnasium.make_vec(spec, num_envs, "vector_entry_point", **own(dict(request.kwargs)))

    with _constructor_named(request, "environments"):
        _import(spec.vector_entry_point, request.guard)
        same_hydra_for_each()
        envs = _with_time_limit(spec, make, request)
        try:
            _insist_on_whole_spaces(spec, envs)
            probe = partial(make, num_envs=min(request.batch_size, PROBED))
            mode = autoreset_mode(envs, probe, spec.id, request.guard.begin_anew)
        except BaseException:
            # What it holds, single environments may need.
            with suppress(Exception):
                envs.close()
            raise
    return OWN_EPISODES[mode](envs, request.seed, request.guard, request.first)


def _with_time_limit(spec: EnvSpec, make: Callable[..., Any], request: EnvRequest) -> VectorEnv[Any, Any, Any]:
    """A vector form, to which Gymnasium hands the time limit that wraps single environments.

    Raises UnfitError if it does not take any: its episodes would be others.
    """
    try:
        return make(num_envs=request.batch_size)  # type: ignore[no-any-return]  # as make_vec has it
    except TypeError as error:
        if spec.max_episode_steps is None or LIMIT in request.kwargs or not re.search(TAKES_NONE, message_of(error)):
            raise
        remedy = "Use env.backend=sync or async" if spec.entry_point else f"Let its constructor take {LIMIT}"
        raise UnfitError(
            f"env.backend: the vector form of {spec.id} does not take its time limit, "
            f"{LIMIT}={spec.max_episode_steps}, which Gymnasium hands to it. {remedy}.",
            "it does not take its time limit",
        ) from error


def _insist_on_whole_spaces(spec: EnvSpec, envs: VectorEnv[Any, Any, Any]) -> None:
    """Raise UnfitError for spaces that are not supported: what has several parts is flattened one by one."""
    if why := _in_parts(envs):
        remedy = "Use env.backend=sync or async" if spec.entry_point else "Give it one part"
        raise UnfitError(f"env.backend: the vector form of {spec.id} cannot be played, as {why}. {remedy}.", why)
    try:
        observations(envs.single_observation_space, ())
        actions(envs.single_action_space)
    except EnvError as error:
        raise UnfitError(str(error), "its spaces are not supported") from error


def _in_parts(envs: VectorEnv[Any, Any, Any]) -> str:
    """Whether an observation or an action has several parts, in a few words; "" if neither does."""
    spaces = {"observation": envs.single_observation_space, "action": envs.single_action_space}
    return next((f"its {what} has several parts" for what, it in spaces.items() if isinstance(it, Dict | Tuple)), "")


def _sync(request: EnvRequest) -> VectorEpisodes:
    envs = OneProcess(request.singles(), **VECTOR_OPTIONS)
    return SeededEpisodes(envs, request.seed, request.guard, request.first)


def may_have_processes() -> bool:
    """Whether this process may start others; a worker of multiprocessing.Pool may not."""
    return not multiprocessing.current_process().daemon


def _async(request: EnvRequest) -> VectorEpisodes:
    if not may_have_processes():
        raise EnvError(
            "env.backend: async needs processes of its own, which Python forbids to a worker of multiprocessing.Pool. "
            "Use env.backend=sync, or concurrent.futures.ProcessPoolExecutor."
        )
    singles = request.singles()
    with _constructor_named(request, "environment 0"):
        # Once for all processes, which share the memory.
        _import(request.spec.entry_point, request.guard)
    try:
        streams = (request.seed, request.first)
        envs = ProcessEach(singles, request.timeout_seconds, partial(_insist_on_spaces, request), streams)
    except LostError as lost:
        raise FaultyEnvError(f"environment {request.first + lost.index}, constructor: {lost}.") from lost.__cause__
    # The processes count their time, and guard their own calls.
    return SeededEpisodes(envs, request.seed, Guard(), request.first)


def _insist_on_spaces(request: EnvRequest, env: Any) -> None:
    """Raise EnvError for spaces that are not supported, as the adapter does, which first needs them in a batch."""
    observations(env.observation_space, request.hidden)
    actions(env.action_space)


def _envpool(request: EnvRequest) -> VectorEpisodes:
    _refuse_wrapped(request, "envpool")
    with _constructor_named(request, "environments", request.id):
        envs = Pool(request.id, request.batch_size, request.kwargs)
        _insist_on_spaces_of_pool(request, envs)
    return PoolEpisodes(envs, request.seed, request.guard, request.first)


def _insist_on_spaces_of_pool(request: EnvRequest, envs: Pool) -> None:
    """Raise EnvError for spaces that are not supported; nothing can be wrapped around EnvPool's."""
    fault = _in_parts(envs)
    try:
        if not fault:
            observations(envs.single_observation_space, ())
            actions(envs.single_action_space)
    except EnvError as error:
        fault = str(error).removeprefix("env.id: ").partition(", which")[0] + ", which is not supported"
    if fault:
        raise EnvError(
            f"env.backend: {request.id} cannot be played by EnvPool, as {fault}, and it cannot be wrapped. Use "
            "env.backend=sync or async, with Gymnasium's environment of that kind if there is one."
        )


def _refuse_wrapped(request: EnvRequest, backend: str) -> None:
    if request.is_wrapped:
        raise EnvError(
            f"env.backend: env.wrappers, env.action_mask and env.log_info need single environments (got {backend}). "
            "Use env.backend=sync or async."
        )


def _single(request: EnvRequest, index: int) -> GuardedEnv:
    with _constructor_named(request, f"environment {request.first + index}"):
        _import(request.spec.entry_point, request.guard)
        same_hydra_for_each()
        return GuardedEnv(request.environment(), index, request.guard, request.first, bool(request.log_info))


def _import(entry_point: Any, guard: Guard) -> None:
    """Import the module of an entry point, if it is one by name."""
    if isinstance(entry_point, str):
        with guard.importing():
            load_env_creator(entry_point)


@contextmanager
def _constructor_named(request: EnvRequest, who: str, id: str = "") -> Iterator[None]:
    """Guard a constructor; turn what it raises into an EnvError, or a FaultyEnvError if it is no ordinary exception.

    id   of the environment, if Gymnasium does not know it
    """
    with request.guard:
        try:
            with explained(id or request.spec.id, request.kwargs):
                try:
                    yield
                finally:
                    # It takes memory to say what is wrong.
                    request.guard.lift()
                request.guard.check()
        except OverdueError as error:
            raise FaultyEnvError(f"{who}, constructor: {error}. Fix the environment, or raise the limit.") from error
        except BaseException as error:
            if isinstance(error, EnvError | FaultyEnvError) or not is_own_fault(error):
                raise
            told = raised(error)
            raise FaultyEnvError(f"{who}, constructor: it raised {told.words}. Fix the environment.") from told


BACKENDS: dict[str, Callable[[EnvRequest], VectorEpisodes]] = {
    "vector": _vector,
    "sync": _sync,
    "async": _async,
    "envpool": _envpool,
}
