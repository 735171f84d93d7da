"""Compare the speed of seqrl and of its peers at the same work, side by side: `make bench`.

python scripts/bench.py outputs/bench

The work: CartPole-v1 with hidden velocities; encoder, one LSTM, policy and value; PPO with 128 steps of every
environment, 4 epochs of 4 minibatches, gradients through the whole rollout; early, when episodes are short, and late,
when all have 500 steps. Steps a second count collecting and learning, without the first iteration.

Peers are installed into virtual environments of their own, and take as many threads as they like; seqrl runs with its
defaults. All take turns, so that what the machine does meanwhile falls on all of them; the ratio of two turns side by
side is what counts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from seqrl.envs import CartPole
from seqrl.types import Step

# What is installed for each, and the script that does the work with it.
PEERS = {"sb3-contrib": ("sb3-contrib==2.9.2", "sb3.py")}
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Work:
    """What is done: environments side by side, width of all layers, episodes of 500 steps, seconds to measure."""

    parallel: int
    width: int
    late: bool
    seconds: float

    @property
    def name(self) -> str:
        return f"N = {self.parallel}, H = {self.width}, {'late' if self.late else 'early'}"


class Steady(CartPole):
    """A cart-pole whose pole may fall: all episodes have 500 steps, as under a policy that has learned."""

    def step(self, action: torch.Tensor) -> Step:
        step = super().step(action)
        self._state = self._state.clamp(-4.8, 4.8)
        return Step(step.observation, step.reward, torch.zeros_like(step.terminated), step.truncated, step.valid)


def measure(work: Work, learners: int) -> dict[str, float]:
    """One turn of seqrl, in this process."""
    from hydra import compose, initialize_config_dir

    from seqrl.build import build, built
    from seqrl.configuration import CONF
    from seqrl.records import peak_memory_mb

    overrides = [
        "env=masked_cartpole",
        "network=lstm",
        "sequence=full",
        f"parallel={work.parallel}",
        "episodes=1000000000",
    ]
    overrides += [f"network.hidden_size={work.width}", f"network.lstm_hidden_size={work.width}", "rollout_length=128"]
    overrides += ["algorithm.epochs=4", "algorithm.minibatches=4", "sequence_learning.grad_clip_norm=0.5"]
    overrides += [f"algorithm.learners={learners}"]
    if work.late:
        overrides += ["env._target_=bench.Steady"]
    sys.path.insert(0, str(HERE))
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", overrides)
    device = built(cfg.device)()
    device.prepare()
    run = build(cfg, device)
    run.iterate()
    run.clock = type(run.clock)()
    steps, began = run.budget.steps, time.perf_counter()
    while time.perf_counter() - began < work.seconds:
        run.iterate()
    return {
        "steps_per_second": (run.budget.steps - steps) / run.clock.elapsed,
        "collecting": 1 - run.clock.shares["update"],
        "idle": run.clock.idle,
        "peak_mb": peak_memory_mb(),
    }


def turn(python: Path | str, script: Path, *words: str) -> dict[str, float]:
    """One turn in a process of its own."""
    done = subprocess.run([str(python), str(script), *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench: {script.name} failed\n{done.stderr}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def installed(peer: str, folder: Path) -> Path:
    """Python of the virtual environment in which a peer lives, made if it is not there."""
    python = folder / peer / "bin" / "python"
    if not (folder / peer / "installed").exists():
        print(f"installing {peer} into {folder / peer}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / peer)], check=True)
        version = torch.__version__.split("+")[0]
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # The same torch, so that the libraries are compared and not what they stand on.
        subprocess.run([*pip, f"torch=={version}"], check=True)
        subprocess.run([*pip, f"torch=={version}", PEERS[peer][0]], check=True)
        (folder / peer / "installed").touch()
    return python


def spread(numbers: list[float], digits: int) -> str:
    low, middle, high = min(numbers), statistics.median(numbers), max(numbers)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def table(measured: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Results as a Markdown table: of each work and library, medians with their extremes."""
    lines = [
        "| work | library | steps/s | times as fast | collecting | idle | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for work, libraries in measured.items():
        ours = libraries["seqrl"]
        for library, turns in libraries.items():
            ratio = (
                ""
                if library == "seqrl"
                else spread(
                    [a["steps_per_second"] / b["steps_per_second"] for a, b in zip(ours, turns, strict=True)], 1
                )
            )
            shares = [f"{statistics.median(t[name] for t in turns):.0%}" for name in ("collecting", "idle")]
            peak = statistics.median(t["peak_mb"] for t in turns)
            steps = spread([t["steps_per_second"] for t in turns], 0)
            lines.append(f"| {work} | {library} | {steps} | {ratio} | {' | '.join(shares)} | {peak:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where peers are installed and results go, such as outputs/bench")
    parser.add_argument("--pairs", type=int, default=5, help="turns of each library (5)")
    parser.add_argument("--seconds", type=float, default=10.0, help="that are measured in each turn (10)")
    parser.add_argument("--sizes", nargs="+", default=["16:128", "64:128", "100:256"], metavar="N:H")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--learners", type=int, default=1, help="algorithm.learners of seqrl (1)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(Work(**json.loads(given.measure)), given.learners)))
        return
    pythons = {peer: installed(peer, given.folder.resolve()) for peer in given.peers}
    measured: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for size in given.sizes:
        for late in (False, True):
            parallel, width = map(int, size.split(":"))
            work = Work(parallel, width, late, given.seconds)
            told = json.dumps(asdict(work))
            turns = measured.setdefault(work.name, {library: [] for library in ("seqrl", *pythons)})
            for _ in range(given.pairs):
                ours = [str(given.folder), "--learners", str(given.learners), "--measure", told]
                turns["seqrl"].append(turn(sys.executable, HERE / "bench.py", *ours))
                for peer, python in pythons.items():
                    turns[peer].append(turn(python, HERE / "peers" / PEERS[peer][1], told))
            print(table({work.name: turns}).splitlines()[-len(turns) :], flush=True)
    (given.folder / "bench.json").write_text(json.dumps(measured, indent=2))
    print(table(measured))


if __name__ == "__main__":
    main()
