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
  video=false                true: film it, with what its memory does, for policy.gif and TensorBoard
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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from seqrl import policy, seeds, video
from seqrl.build import built, make_env, make_evaluator, prepared
from seqrl.configuration import PROCESSORS, Rule, faults_of_policy, nearest
from seqrl.devices import Device
from seqrl.envs.lookup import draws_itself
from seqrl.errors import ConfigError
from seqrl.evaluation import GREEDY, SAMPLED, WITHOUT_MEMORY, frozen
from seqrl.files import write
from seqrl.loggers.tensorboard import show
from seqrl.metrics import QuietConsole, figure
from seqrl.networks import Network
from seqrl.program import fail
from seqrl.resume import changes
from seqrl.statistics import Array, Estimate, mean
from seqrl.trust import secrets

say = partial(QuietConsole(highlight=False).print, markup=False, emoji=False, soft_wrap=True)
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
    device = prepared(built(cfg.device)(), cfg, say)
    network = policy.network(cfg, device, state)
    cfg.evaluation.memoryless_control &= bool(network.initial_state(1))
    about = {"iterations": state["iterations"], "env_steps": state["steps"], "seed": cfg.seed, "changed": changed}
    for fault in passed_over:
        say(f"warning: the checkpoint {fault}; an older one takes its place.")
    say(f"{request.run}, after {about['iterations']} iterations, {about['env_steps']:,} steps")
    for change in changed:
        say(f"changed: {change}")
    say(f"{counted(cfg.evaluation.episodes)}, seed {cfg.seed}, on {device.torch_device}\n")

    with closing(make_evaluator(cfg, device)) as evaluator:
        found = findings(evaluator.play(network))
    say(table(found))
    if request.memoryless_control:
        say(verdict(**found["memory"]) if "memory" in found else "The network has no memory.")
    if request.checkpoint == "best" and cfg.evaluation.interval and request.seed is None and not changed:
        say("It was chosen as the best on these very episodes, and may owe it to them; seed=1 plays others.")
    written = {"evaluation.json": json.dumps(about | found, allow_nan=False).encode()}
    if request.video:
        written["policy.gif"] = filmed(cfg, device, network)
    keep(request.run, written, about["env_steps"])


def keep(run: Path, written: dict[str, bytes], env_steps: int) -> None:
    """Write files into the folder of a run, if that can be; a film for TensorBoard too."""
    try:
        for name, data in written.items():
            write(run / name, data)
        if film := written.get("policy.gif"):
            # Beside the run's own, of which TensorBoard reads the newest alone.
            (run / "video").mkdir(exist_ok=True)
            show(run / "video", "policy", film, env_steps)
            say(f"Film: {run / 'policy.gif'}, and in TensorBoard")
    except OSError as error:
        say(f"Not written down: {error.filename}: {error.strerror}.")


def filmed(cfg: DictConfig, device: Device, network: Network) -> bytes:
    """Some episodes, with what memory does in them."""
    generator = None if cfg.evaluation.greedy else seeds.generator(cfg.seed, "evaluation policy", device.torch_device)
    with closing(make_env(looked_at(cfg), device, 1, "evaluation")) as env, frozen(network):
        return video.gif(video.film(env, network, generator))


def looked_at(cfg: DictConfig) -> DictConfig:
    """The same, with an environment that makes pictures of itself if it can."""
    seen = copy.deepcopy(cfg)
    if cfg.env._target_ == "seqrl.envs.GymnasiumEnv" and draws_itself(cfg.env.id):
        seen.env.backend, seen.env.kwargs.render_mode = "sync", "rgb_array"
    return seen


def findings(played: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """What there is to say of episodes, by how they were played, and of what memory is worth in them."""
    found: dict[str, Any] = {how: figures(*(it.numpy() for it in episodes)) for how, episodes in played.items()}
    if WITHOUT_MEMORY in played:
        returns, zeroed = (played[how][0].numpy() for how in (next(iter(played)), WITHOUT_MEMORY))
        found["memory"] = memory(returns, zeroed)
    return found


def figures(returns: Array, lengths: Array) -> dict[str, Any]:
    """Of some episodes, and each of them."""
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
    """How much return is lost [episodes] where memory is zeroed, in episodes that begin alike."""
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
    for how, name in NAMES.items():
        if (it := found.get(how)) is None:
            continue
        shown = [figure(it[key]) for key in ("return_median", "return_min", "return_max", "length_mean")]
        columns = "".join(f"{number:>9}" for number in shown)
        lines.append(f"{name:18}{figure(it['return_mean']):>9}{span(it['return_interval']):>20}{columns}")
    return "\n".join([*lines, ""])


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
