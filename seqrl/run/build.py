"""Builds the parts of a run: everything that the configuration names by a `_target_`."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from seqrl import seeds
from seqrl.config.schema import NetworkConfig
from seqrl.config.settle import Settled, changes, unknown_changes
from seqrl.config.trust import builds_of_own, nodes
from seqrl.devices.device import Device, choose
from seqrl.devices.probe import probe
from seqrl.envs.adopted import adopted
from seqrl.envs.base import BatchedEnv
from seqrl.envs.inputs import WithInputs
from seqrl.errors import (
    ConfigError,
    EnvError,
    FaultyEnvError,
    OutOfMemoryError,
    UnrestoredEnvError,
    described,
    message_of,
    names_environment,
)
from seqrl.insight import Meters
from seqrl.machine import is_from_signal
from seqrl.metrics.episodes import EpisodeStatistics
from seqrl.networks import Graphed, Network
from seqrl.packages import fault_of_target, without_arguments
from seqrl.ranks import ALONE, Ranks
from seqrl.run.evaluator import Evaluator
from seqrl.run.memory_need import is_out_of_memory
from seqrl.run.resume import changes_task, nothing_left
from seqrl.run.run import Budget, Run, of_checkpoint
from seqrl.runner import Runner, of_rank
from seqrl.text import few, masked, nearest


def says_all(error: BaseException) -> bool:
    """Whether a part that cannot be built says all itself."""
    return isinstance(error, ConfigError | OutOfMemoryError) or names_environment(error)


def budget_of(cfg: DictConfig) -> Budget:
    """How much a run of this configuration is to do."""
    return Budget(cfg.episodes and cfg.episodes * cfg.parallel, cfg.total_steps)


def build(
    cfg: DictConfig,
    device: Device,
    *,
    ranks: Ranks = ALONE,
    anew_after: int = 0,
    saved: Mapping[str, Tensor] | None = None,
    changed: Sequence[str] = (),
) -> Run:
    """All parts of a run, or a rank's share of them.

    anew_after   iterations after which all episodes begin anew, with other random numbers than before; 0: never
    saved        parameters that the network will get. Raises CheckpointError if they are those of another one
    changed      in the configuration since they were saved
    """
    env = make_env(cfg, device, cfg.parallel, "training", *[anew_after] * (anew_after > 0), ranks=ranks)
    if saved is not None:
        with of_checkpoint(changed):
            insist_on_network(cfg, env, saved)
    network = make_network(cfg, env, device)
    shuffle = np.random.default_rng(seeds.stream(cfg.seed, "shuffle"))
    algorithm = constructor(cfg.algorithm)(network, shuffle, **({} if ranks is ALONE else {"ranks": ranks}))
    runner: Runner = constructor(cfg.runner)(
        env=env,
        network=Graphed(network) if device.graphs else network,
        state_interval=algorithm.settings.bptt_length,
        state_lead=algorithm.state_lead,
        generator=seeds.generator(cfg.seed, "policy", device.torch_device),
        ranks=ranks,
        batch_size=cfg.parallel,
    )
    budget = budget_of(cfg)
    # The others would measure the same.
    meters = Meters(cfg.insight.interval if ranks.is_first else 0)
    return Run(runner, algorithm, budget, EpisodeStatistics(cfg.parallel), meters=meters, anew_after=anew_after)


def open_run(
    settled: Settled,
    device: Device,
    newest: Callable[[], tuple[dict[str, Any], list[str]]],
    say: Callable[[str], None],
    ranks: Ranks = ALONE,
) -> Run:
    """A new run, or the one that it goes on with, as its newest sound checkpoint has it.

    newest   reads that, on the first rank, and says what is wrong with newer ones
    say      prints which checkpoints were passed over, and what has changed since

    Raises CheckpointError if there is none to go on from.
    """
    cfg = settled.cfg
    if cfg.resume is None:
        return build(cfg, device, ranks=ranks)
    state, passed_over = ranks.of_first(newest() if ranks.is_first else ({}, []))
    for fault in passed_over:
        say(f"warning: checkpoint {fault}; using an older one.")
    with of_checkpoint():
        state["runner"] = of_rank(state["runner"], ranks)
        saved, iterations = state["algorithm"]["network"], state["iterations"]
        # config.yaml is that of the latest start, which may have been killed before it saved anything. Earlier versions
        # saved no configuration.
        before = state.get("config")
        changed = changes(before, settled.words) if before else settled.changes
        if any(map(changes_task, changed)):
            state["episodes"] |= {"recent": [], "info": {}}
    is_new = any(change.startswith(("env.", "parallel:", "seed:", "processes:")) for change in changed)
    is_lost = state["runner"]["environment"] is None and not is_new
    unrestored = "the environment has no state_dict, or one that could not be saved" if is_lost else ""
    if any(change.startswith(("env.", "parallel:", "seed:")) for change in changed):
        state["runner"]["environment"] = None
    # An environment that cannot go on must not play its first episodes again.
    anew_after = iterations if state["runner"]["environment"] is None else state.get("anew_after", 0)
    run = build(cfg, device, ranks=ranks, anew_after=anew_after, saved=saved, changed=changed)
    with of_checkpoint():
        draws_anew = _draw_here(state["runner"], run.runner.generator, cfg.seed, iterations)
    try:
        lost = run.load_state_dict(state, changed)
    except UnrestoredEnvError as error:
        if ranks.size > 1:
            # The others have restored theirs.
            raise
        run.runner.env.close()
        del run
        unrestored, state["runner"]["environment"] = str(error), None
        run = build(cfg, device, anew_after=iterations, saved=saved, changed=changed)
        lost = run.load_state_dict(state, changed)
    anew = f"; {lost} episodes in progress could not continue, new ones replace them" if lost else ""
    done = f"{run.iterations} iteration{'s' * (run.iterations != 1)}"
    say(f"resumed after {done}, {run.budget.steps:,} steps{anew}")
    if unrestored:
        say(f"note: {unrestored.rstrip('.')}. From here on the run plays other episodes than it would have.")
    for change in few(changed):
        say(f"changed: {change}")
    if unknown := unknown_changes(settled.words):
        say(f"note: {unknown}")
    if any(change.startswith("processes:") for change in changed) and not lost:
        say("changed: from here on episodes begin with other random numbers")
    if any(change.startswith("seed:") for change in changed):
        say(f"note: the run learned with another seed until now, and reports count it as one of seed={cfg.seed}")
    if draws_anew:
        say("changed: the kind of device that draws the actions; from here on they are others")
    if line := nothing_left(cfg, changed, run.budget):
        say(line)
    return run


def _draw_here(state: dict[str, Any], generator: torch.Generator | None, seed: int, iterations: int) -> bool:
    """Give a runner's state a generator of actions that is of this kind of device; return whether it was another's.

    Each kind draws in its own way, and cannot go on where another one was.
    """
    if generator is None or state["generator"].shape == generator.get_state().shape:
        return False
    generator.manual_seed(seeds.stream(seed, "policy", iterations))
    state["generator"] = generator.get_state()
    return True


def make_device(cfg: DictConfig) -> Device:
    """The device that is asked for; raises ConfigError if it is not there."""
    device: Device = constructor(cfg.device)()
    return device


def prepare_device(device: Device, cfg: DictConfig, say: Callable[[str], None]) -> Device:
    """The device, ready; anything but the CPU is first tried with a small step of the network."""
    if device.candidates != [torch.device("cpu")]:
        env = make_env(cfg, replace(device, name="cpu"), 1, "probe")
        env.close()
        device = choose(
            device,
            lambda it: probe(network_builder(cfg), env.observation_space, env.action_space, it, device.dtype),
            say,
        )
    device.prepare()
    return device


@dataclass(frozen=True)
class Constructor:
    """Builds what a section of the configuration names; errors carry the name of the section.

    where    the section
    target   its `_target_`
    make     what that names, with the section's other keys filled in
    """

    where: str
    target: str
    make: partial[Any]

    def __call__(self, *given: Any, **named: Any) -> Any:
        try:
            return self.make(*given, **named)
        except BaseException as error:
            # Any other of seqrl's own is what a part of the user's met, which may load a policy.
            if says_all(error) or isinstance(error, KeyboardInterrupt) or is_from_signal(error):
                raise
            if is_out_of_memory(error):
                asked = f"memory: what {self.where} asks for does not fit ({described(error)})."
                raise OutOfMemoryError(f"{asked} {self._smaller()}") from error
            raise self.fault(error) from error

    def _smaller(self) -> str:
        """What would need less memory: most likely the largest number."""
        numbers = {key: it for key, it in self.make.keywords.items() if isinstance(it, int | float)}
        if (largest := max(numbers, key=lambda key: numbers[key], default=None)) is None:
            return "Use a smaller network, or an environment that shows less."
        return f"Its largest number is {self.where}.{largest}={numbers[largest]}: use a smaller one."

    def fault(self, error: BaseException) -> ConfigError:
        key = re.search(r"unexpected keyword argument '(\w+)'", message_of(error))
        if isinstance(error, TypeError) and key and key[1] in self.make.keywords:
            others = [name for name in self.make.keywords if name != key[1]]
            meant = nearest(key[1], others)
            return ConfigError([f"{self.where}.{key[1]}: {self.target} takes no such parameter.{meant}"])
        return ConfigError([f"{self.where}: {self.target}: {described(error)}."])


def constructor(part: DictConfig) -> Constructor:
    """Constructor of what `_target_` names, with the part's other keys filled in.

    Raises ConfigError if it cannot be imported, or has no such parameters.
    """
    where = part._get_full_key(None)
    try:
        with without_arguments():
            make = instantiate(part, _partial_=True, _convert_="all")
        made = Constructor(where, part._target_, make)
    except BaseException as error:
        is_other = isinstance(error, Exception) and not isinstance(error, InstantiationException)
        if is_other or isinstance(error, KeyboardInterrupt) or is_from_signal(error):
            raise
        raise ConfigError([_fault_of_parts(part, where, error)]) from error
    try:
        signature(made.make.func).bind_partial(**made.make.keywords)
    except TypeError as error:
        raise made.fault(error) from error
    return made


def _fault_of_parts(part: DictConfig, where: str, error: BaseException) -> str:
    """What is wrong with a part that cannot be built, or with one within it, in a line that names the right one."""
    targets = {
        place: str(node["_target_"]) for place, node in nodes(OmegaConf.to_container(part), where) if "_target_" in node
    }
    # Those within are built first.
    for place, target in reversed(targets.items()):
        if not _can_be_imported(target) and (fault := fault_of_target(target)):
            return f"{place}._target_: {fault}"
    said = re.search(r"full_key: (\S+)", message_of(error))
    place = said[1] if said and said[1] in targets else where
    reason = masked(message_of(error.__cause__ or error) or type(error).__name__).splitlines()[0].rstrip(".:")
    return f"{place}._target_: {targets[place]}: {reason}."


def _can_be_imported(target: str) -> bool:
    try:
        with without_arguments():
            get_object(target)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or is_from_signal(error):
            raise
        return False
    return True


def make_env(
    cfg: DictConfig,
    device: Device,
    batch_size: int,
    *stream: str | int,
    backend: str = "",
    ranks: Ranks = ALONE,
) -> BatchedEnv:
    """`batch_size` environments, or a rank's share of them, seeded by the stream that is named.

    backend   who plays them where the configuration leaves that open; "": whichever is measured to be faster
    """
    purpose, *index = stream
    part = cfg.env
    share = ranks.share(batch_size)
    given: dict[str, Any] = {} if ranks.size == 1 else {"first": share.start}
    if given and not knows_first(part):
        # An environment of one's own that does not know its index: other episodes than in one process, but its own.
        given, index = {}, [*index, ranks.rank]
    seed = seeds.stream(cfg.seed, str(purpose), *map(int, index))
    if wrappers := part.get("wrappers"):
        # They wait for the environment that each of them is put around.
        part = OmegaConf.merge(part, {"wrappers": [{**wrapper, "_partial_": True} for wrapper in wrappers]})
    if backend and part.get("backend") == "auto":
        part = OmegaConf.merge(part, {"backend": backend})
    made = constructor(part)(batch_size=len(share), seed=seed, device=device.torch_device, **given)
    env = adopted(made)
    inputs = cfg.network.get("inputs")
    return WithInputs(env, inputs) if inputs else env


def plays_alike(cfg: DictConfig, backend: str) -> bool:
    """Whether each environment plays the same episodes wherever it is played, and whoever plays beside it."""
    return backend not in ("vector", "envpool") and knows_first(cfg.env)


def knows_first(env: DictConfig) -> bool:
    """Whether a class of environments can be told the index of its first one."""
    # Not with all parts: wrappers wait for the environment that each of them is put around.
    alone = OmegaConf.create({"env": {"_target_": env["_target_"]}})
    return takes(constructor(alone.env).make.func, "first")


def takes(made: Callable[..., Any], name: str) -> bool:
    """Whether a class, or a function that makes one, has a parameter of that name.

    `**kwargs` may be handed on to a class that it derives from, or lead nowhere.
    """
    parameters: Iterable[Parameter] = ()
    # What is not written in Python may not say.
    with suppress(ValueError, TypeError):
        parameters = signature(made).parameters.values()
    if any(it.name == name for it in parameters):
        return True
    hands_on = any(it.kind is it.VAR_KEYWORD for it in parameters)
    return hands_on and isinstance(made, type) and any(takes(it, name) for it in made.__bases__ if it is not object)


def make_evaluator(
    cfg: DictConfig, device: Device, backend: str = "", advice: str = "", ranks: Ranks = ALONE
) -> Evaluator:
    """What plays the evaluations of a run, in environments and with random numbers of their own.

    advice   follows what is said if those environments cannot be built
    """
    wanted = cfg.evaluation
    side_by_side = min(wanted.episodes, cfg.parallel)
    # Every rank plays all episodes if there are fewer than ranks, or if sharing would change them: seqrl.evaluate plays
    # them in one process, and must get the same.
    if side_by_side < ranks.size or (ranks.size > 1 and not plays_alike(cfg, backend or cfg.env.get("backend", ""))):
        ranks = ALONE

    def make() -> BatchedEnv:
        try:
            return make_env(cfg, device, side_by_side, "evaluation", backend=backend, ranks=ranks)
        except (EnvError, FaultyEnvError) as error:
            if not advice:
                raise
            kind = EnvError if isinstance(error, EnvError) else FaultyEnvError
            raise kind(f"{error} {advice}") from error

    return Evaluator(
        make,
        partial(seeds.generator, cfg.seed, "evaluation policy", device.torch_device),
        episodes=wanted.episodes,
        greedy=wanted.greedy,
        memoryless_control=wanted.memoryless_control,
        episode_limit=cfg.runner.episode_limit,
        ranks=ranks,
        side_by_side=side_by_side,
    )


def advice_for_evaluation(cfg: DictConfig) -> str:
    """What to do about environments that only the evaluations of a run cannot have."""
    without = "evaluation.episodes=0 does without"
    if cfg.evaluation.interval:
        beside = "This was for an evaluation, in environments beside those of training"
        return f"{beside}: evaluation.interval=0 evaluates once those are closed, {without}."
    return f"This was for the final evaluation, after those of training were closed: {without}."


def network_builder(cfg: DictConfig) -> Callable[..., Network]:
    parts = OmegaConf.to_container(cfg.network, resolve=True)
    assert isinstance(parts, dict)
    # What the environment shows is not the network's business.
    parts.pop("inputs", None)
    if OmegaConf.get_type(cfg.network) is NetworkConfig:
        # It names what the other keys say, and is no part.
        del parts["type"]
    memory = parts.pop("memory", None) if parts["_target_"] == NetworkConfig._target_ else None
    build = constructor(OmegaConf.create({"network": parts}).network)
    if memory is None:
        return build
    # It waits for the widths.
    return partial(build, memory=constructor(OmegaConf.create({"network": {"memory": memory}}).network.memory))


def insist_on_network(cfg: DictConfig, env: BatchedEnv, saved: Mapping[str, Tensor]) -> None:
    """Raise what `load_state_dict` does if saved parameters are not those of the network, before that takes any memory.

    It may be a stranger who says how large it is. A network of the user's own is not looked at.
    """
    if not builds_of_own(cfg.network, cfg.trust):
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            like = network_builder(cfg)(env.observation_space, env.action_space)
        # A copy: torch notes in what it is given that it assigns, and would do so the next time.
        like.load_state_dict(dict(saved), assign=True)


def make_network(cfg: DictConfig, env: BatchedEnv, device: Device) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.stream(cfg.seed, "init"))
        network = network_builder(cfg)(env.observation_space, env.action_space)
    network.autocast_dtype = device.autocast_dtype
    return network.to(device.torch_device, device.dtype)
