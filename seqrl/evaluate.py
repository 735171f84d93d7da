"""Say how good the policy of a run is: `python -m seqrl.evaluate run=<folder> [key=value ...]`.

Plays fresh episodes, the same number of every environment, and prints return and length; then once more with memory
zeroed before every step, and whether that makes a difference. evaluation.json in the run's folder says the same, and
the return of each episode. The run may be finished, interrupted or going on; nothing of it is changed.

  run=<folder>               of a run, where its config.yaml is
  checkpoint=last            last, best, or the iterations after which it was saved: checkpoint=120
  episodes=200               otherwise as many as the run's own evaluation has
  greedy=true                the likeliest actions; false: sampled ones; both; otherwise as the run has it
  seed=1                     other episodes than those that the run was evaluated on
  memoryless_control=true    play them once more with memory zeroed
  video=false                true: film the policy, with what its memory does, for video/policy.gif and TensorBoard
  env.<key>=<value>          what is to be different from training: env.corridor_length=40
  device=cpu                 otherwise where the run was trained
  trust=[my_module]          modules of your own that the run needs

Example:

  python -m seqrl.evaluate run=outputs/runs/<date>/<run> checkpoint=best seed=1 env.corridor_length=40
"""

import copy
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from seqrl import policy, seeds
from seqrl.build import built, make_env, make_evaluator, prepared
from seqrl.configuration import PROCESSORS, Rule, faults_of_policy, nearest
from seqrl.devices import Device
from seqrl.envs.lookup import draws_itself
from seqrl.errors import ConfigError
from seqrl.evaluation import GREEDY, SAMPLED, WITHOUT_MEMORY, frozen
from seqrl.files import write
from seqrl.metrics import figure
from seqrl.networks import Network
from seqrl.program import fail
from seqrl.resume import changes
from seqrl.statistics import Array, Estimate, mean
from seqrl.trust import secrets

NAMES = {GREEDY: "likeliest actions", SAMPLED: "sampled actions", WITHOUT_MEMORY: "memory zeroed"}
# With fewer episodes an interval says nothing.
FEWEST = 10


@dataclass(frozen=True)
class Request:
    """What a command line asks for; None: as the run has it.

    env   what is to be different of the environment, by dotted key
    """

    run: Path
    env: dict[str, Any]
    checkpoint: str | int = "last"
    episodes: int | None = None
    greedy: bool | str | None = None
    seed: int | None = None
    memoryless_control: bool = True
    video: bool = False
    device: str | None = None
    trust: Sequence[str] = ()


def one_of(*choices: Any) -> Callable[[Any], bool]:
    # 1 equals True.
    return lambda value: any(type(value) is type(choice) and value == choice for choice in choices)


def whole(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value >= least


WORDS: dict[str, Rule] = {
    "run": (bool, "the folder of a run, such as outputs/runs/<date>/<run>"),
    "checkpoint": (lambda x: one_of("last", "best")(x) or whole(0)(x), "last, best or a number of iterations"),
    "episodes": (whole(1), "a whole number of at least 1"),
    "greedy": (one_of(True, False, "both"), "true, false or both"),
    "seed": (whole(0), "a whole number of at least 0"),
    "memoryless_control": (one_of(True, False), "true or false"),
    "video": (one_of(True, False), "true or false"),
    "device": (lambda x: isinstance(x, str), "cpu, cuda, mps or auto"),
    "trust": (lambda x: isinstance(x, list), "a list, such as [my_module]"),
}


def requested(given: Sequence[str]) -> Request:
    """What a command line asks for.

    Raises ConfigError with everything that is wrong with it.
    """
    own: dict[str, Any] = {}
    env: dict[str, Any] = {}
    wrong = []
    for word in given:
        key, equals, text = word.lstrip("+").partition("=")
        key = key.removeprefix("evaluation.")
        if not equals or word.startswith("-"):
            wrong.append(f"{word}: cannot be meant. Write key=value; python -m seqrl.evaluate --help says which.")
        elif key.startswith("env."):
            env[key] = value(word)
        elif key not in WORDS:
            wrong.append(f"{key}: there is no such key.{nearest(key, list(WORDS))} Keys: {', '.join(WORDS)}, env.*.")
        else:
            # A folder may be called anything.
            own[key] = text if key == "run" else value(word)
            holds, meaning = WORDS[key]
            if not holds(own[key]):
                wrong.append(f"{key}: must be {meaning} (got {text}).")
    if not wrong and "run" not in own:
        wrong.append(f"run: is missing. Name {WORDS['run'][1]}.")
    if wrong:
        raise ConfigError(wrong)
    return Request(**{**own, "run": Path(own["run"])}, env=env)


def value(override: str) -> Any:
    """The value of an override, as Hydra reads it.

    Raises HydraException if it cannot be read, ConfigError if there are several.
    """
    (read,) = OverridesParser.create().parse_overrides([override])
    if read.is_sweep_override():
        key, _, text = override.partition("=")
        raise ConfigError([f"{key}: has several values (got {text}). Evaluate them one after the other."])
    return read.value()


def configuration(request: Request) -> tuple[DictConfig, list[str]]:
    """What it takes to play as the run did but for what is to be different, and that: `key: before -> now`.

    Raises CheckpointError if there is no run, ConfigError if it cannot, or must not, be played.
    """
    cfg = policy.configuration(request.run)
    before = OmegaConf.create({"env": cfg.env})
    cfg.trust = list(request.trust)
    cfg.seed = cfg.seed if request.seed is None else request.seed
    cfg.evaluation.episodes = request.episodes or cfg.evaluation.episodes or 200
    cfg.evaluation.greedy = cfg.evaluation.greedy if request.greedy is None else request.greedy
    cfg.evaluation.memoryless_control = request.memoryless_control
    cfg.device.name = request.device or cfg.device.name
    # This machine may have fewer.
    cfg.device.threads = min(cfg.device.threads, PROCESSORS)
    for key, wanted in request.env.items():
        OmegaConf.update(cfg, key, wanted, force_add=True)
    if found := [*faults_of_policy(cfg), *secrets(cfg)]:
        raise ConfigError(found)
    return cfg, changes(before, OmegaConf.create({"env": cfg.env}))


def evaluate(request: Request) -> None:
    """Play, print what was found, and write it into the run's folder."""
    cfg, changed = configuration(request)
    state, passed_over = policy.checkpoint(request.run, request.checkpoint)
    device = prepared(built(cfg.device)(), cfg, print)
    network = policy.network(cfg, device, state)
    remembers = bool(network.initial_state(1))
    cfg.evaluation.memoryless_control &= remembers
    for fault in passed_over:
        print(f"warning: the checkpoint {fault}; an older one takes its place.")
    print(f"{request.run}, after {state['iterations']} iterations, {state['steps']:,} steps")
    for change in changed:
        print(f"changed: {change}")
    print(f"{counted(cfg.evaluation.episodes)}, seed {cfg.seed}, on {device.torch_device}\n", flush=True)
    with closing(make_evaluator(cfg, device)) as evaluator:
        played = {
            how: (returns.numpy(), lengths.numpy()) for how, (returns, lengths) in evaluator.play(network).items()
        }
    found = {how: figures(*episodes) for how, episodes in played.items()}
    print(table(found))
    if not remembers:
        print("\nThe network has no memory.")
    content = {
        "iterations": state["iterations"],
        "env_steps": state["steps"],
        "seed": cfg.seed,
        "device": str(device.torch_device),
        "changed": changed,
        **found,
    }
    if WITHOUT_MEMORY in played:
        content["memory"] = memory(*(returns for returns, _ in (next(iter(played.values())), played[WITHOUT_MEMORY])))
        print(f"\n{verdict(**content['memory'])}")
    if request.checkpoint == "best" and cfg.evaluation.interval and request.seed is None and not changed:
        print("It was chosen as the best on these very episodes, and may owe it to them; seed=1 plays others.")
    try:
        write(request.run / "evaluation.json", json.dumps(content, allow_nan=False).encode())
        if request.video:
            print(f"Film: {filmed(request.run / 'video', cfg, device, network, state['steps'])}, also in TensorBoard")
    except OSError as error:
        print(f"Not written down: {error.filename}: {error.strerror}.")


def filmed(folder: Path, cfg: DictConfig, device: Device, network: Network, env_steps: int) -> Path:
    """Film some episodes, each with its picture of what memory does; the file that they are in."""
    from seqrl import video
    from seqrl.loggers.tensorboard import show

    generator = None if cfg.evaluation.greedy else seeds.generator(cfg.seed, "evaluation policy", device.torch_device)
    with closing(make_env(looked_at(cfg), device, 1, "evaluation")) as env, frozen(network):
        gif = video.gif(video.film(env, network, generator))
    folder.mkdir(exist_ok=True)
    write(folder / "policy.gif", gif)
    show(folder, "policy", gif, env_steps)
    return folder / "policy.gif"


def looked_at(cfg: DictConfig) -> DictConfig:
    """The same, with an environment that makes pictures of itself if it can."""
    seen = copy.deepcopy(cfg)
    if cfg.env._target_ == "seqrl.envs.GymnasiumEnv" and draws_itself(cfg.env.id):
        seen.env.backend, seen.env.kwargs.render_mode = "sync", "rgb_array"
    return seen


def figures(returns: Array, lengths: Array) -> dict[str, Any]:
    """What there is to say of some episodes, and each of them."""
    return {
        "return_mean": float(returns.mean()),
        "return_interval": ends(mean(returns)),
        "return_std": float(returns.std()),
        "return_median": float(np.median(returns)),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "length_mean": float(lengths.mean()),
        "length_interval": ends(mean(lengths)),
        "returns": returns.tolist(),
        "lengths": lengths.tolist(),
    }


def memory(returns: Array, zeroed: Array) -> dict[str, Any]:
    """What memory is worth: how much return is lost [episodes] where it is zeroed, in episodes that begin alike."""
    lost = mean(returns - zeroed)
    return {"return_lost": float(lost.value), "interval": ends(lost), "episodes": len(returns)}


def verdict(return_lost: float, interval: list[float] | None, episodes: int) -> str:
    """Whether memory is used."""
    if interval is None or episodes < FEWEST:
        return f"Whether memory is used cannot be told from {counted(episodes)}. Play more of them, episodes=200."
    low, high = interval
    if low <= 0 <= high:
        return (
            f"That memory is used cannot be seen: zeroing it costs {figure(return_lost)} ({span(interval)}) of return."
        )
    if low > 0:
        return f"Memory is used: zeroing it costs {figure(return_lost)} ({span(interval)}) of return."
    return f"Memory does harm: zeroing it gains {figure(-return_lost)} ({span([-high, -low])}) of return."


def table(found: dict[str, dict[str, Any]]) -> str:
    """A line for each way of playing."""
    lines = [f"{'':18}{'return':>9}{'95 % interval':>20}{'median':>9}{'min':>9}{'max':>9}{'length':>9}"]
    for how, it in found.items():
        shown = [figure(it[f"return_{name}"]) for name in ("median", "min", "max")] + [figure(it["length_mean"])]
        columns = "".join(f"{number:>9}" for number in shown)
        lines.append(f"{NAMES[how]:18}{figure(it['return_mean']):>9}{span(it['return_interval']):>20}{columns}")
    return "\n".join(lines)


def ends(estimate: Estimate) -> list[float] | None:
    """Of its interval; None where it has none."""
    return None if np.isnan(estimate.low) else [float(estimate.low), float(estimate.high)]


def span(interval: list[float] | None) -> str:
    return "" if interval is None else " to ".join(map(figure, interval))


def counted(episodes: int) -> str:
    return f"{episodes} episode{'s' if episodes != 1 else ''}"


def main() -> None:
    """Entry point of `python -m seqrl.evaluate` and `seqrl-evaluate`."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    # Modules beside the user's work can be named, however the program was started.
    sys.path.insert(0, str(Path.cwd()))
    try:
        evaluate(requested(sys.argv[1:]))
    except KeyboardInterrupt:
        print("seqrl: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        fail(error)


if __name__ == "__main__":
    main()
