"""Compare the speed of seqrl with that of its peers on the same work, and with itself: `make bench`.

python scripts/bench.py outputs/bench

The work: CartPole-v1 with hidden velocities; encoder, one LSTM, policy and value with one hidden layer each; PPO with
128 steps of every environment, 4 epochs of 4 minibatches, gradients through the whole rollout; early, when episodes are
short, and late, when all have 500 steps. Steps per second count collecting and learning, without the first iteration.

Peers are installed in virtual environments of their own and use as many threads as they like; seqrl runs with its
defaults. All take turns, so that other load on the machine affects all of them; what counts is the ratio of two
neighbouring turns. Parts left out of --parts keep their previous results.

--parts returns is another comparison: what policies return after as many environment steps, seed by seed, with seqrl's
defaults and with the settings that rl-zoo tuned for sb3-contrib. A seed takes two to ten minutes.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
# The package to install for each, and the script that does the work with it.
PEERS = {"sb3-contrib": ("sb3-contrib==2.9.2", "sb3.py"), "sheeprl": ("sheeprl==0.8.4", "sheep.py")}

Measured = dict[str, float]
Turns = dict[str, list[Measured]]


def turn(python: Path | str, script: str, settings: dict[str, Any]) -> Measured:
    """Run a measuring script in a process of its own; return what it prints."""
    command = [str(python), str(HERE / script), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench: {script} failed\n{done.stderr}")
    measured: Measured = json.loads(done.stdout.splitlines()[-1])
    return measured


def ours(script: str, settings: dict[str, Any]) -> Measured:
    return turn(sys.executable, f"measures/{script}", settings)


def take_turns(contenders: Mapping[str, Callable[[], Measured]], times: int) -> Turns:
    """Measurements of each contender, turn by turn."""
    turns: Turns = {name: [] for name in contenders}
    for _ in range(times):
        for name, contender in contenders.items():
            turns[name].append(contender())
    return turns


def repeat(measure: Callable[[], Measured], times: int) -> Turns:
    """Repeated measurements, without other contenders."""
    return take_turns({"seqrl": measure}, times)


def installed(peer: str, folder: Path) -> Path:
    """Path to the Python of a peer's virtual environment, which is created if necessary."""
    python = folder / peer / "bin" / "python"
    if not (folder / peer / "installed").exists():
        print(f"installing {peer} into {folder / peer}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / peer)], check=True)
        version = torch.__version__.split("+")[0]
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # The same version of torch, so that only the libraries are compared.
        subprocess.run([*pip, f"torch=={version}"], check=True)
        subprocess.run([*pip, f"torch=={version}", PEERS[peer][0]], check=True)
        (folder / peer / "installed").touch()
    return python


def against_peers(given: argparse.Namespace) -> dict[str, Turns]:
    pythons = {peer: installed(peer, given.folder.resolve()) for peer in given.peers}
    results = {}
    for size in given.sizes:
        for late in (False, True):
            parallel, width = map(int, size.split(":"))
            work = {"parallel": parallel, "width": width, "late": late, "seconds": given.seconds}
            contenders = {"seqrl": partial(ours, "work.py", work)}
            for peer, python in pythons.items():
                contenders[peer] = partial(turn, python, f"peers/{PEERS[peer][1]}", work)
            name = f"N = {parallel}, H = {width}, {'late' if late else 'early'}"
            results[name] = take_turns(contenders, given.pairs)
            report(f"{name}: " + ratios(results[name], "seqrl", *pythons))
    return results


def against_peers_table(results: dict[str, Turns]) -> str:
    rows = []
    for work, turns in results.items():
        for library, measured in turns.items():
            shares = [f"{statistics.median(t[name] for t in measured):.0%}" for name in ("collecting", "idle")]
            peak = statistics.median(t["peak_mb"] for t in measured)
            ratio = "" if library == "seqrl" else ratios(turns, "seqrl", library)
            floor = f"{statistics.median(t['floor'] for t in measured):.2f}" if "floor" in measured[0] else ""
            rows.append([work, library, spread(speeds(measured), 0), ratio, floor, *shares, f"{peak:.0f}"])
    head = ["work", "library", "steps/s", "times as fast", "share of the floor", "collecting", "idle", "peak MB"]
    return table(head, rows)


# Pairs of ways to do the work: the settings of the one, and of the other.
FULL = {"parallel": 64, "width": 128, "late": False}
WIDE = {"parallel": 100, "width": 256, "late": False}
ITSELF: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "short episodes against long ones": (FULL, {**FULL, "late": True}),
    "whole episodes against 128 steps, late": (
        {**FULL, "late": True, "with": ["rollout_length=0"]},
        {**FULL, "late": True},
    ),
    "whole episodes against 128 steps, early": ({**FULL, "with": ["rollout_length=0"]}, FULL),
    # 372 whole episodes have about as many steps as 64 environments with 128 steps each.
    "the same, early, at as many steps": ({**FULL, "parallel": 372, "with": ["rollout_length=0"]}, FULL),
    "LSTM and attention (window 64) against LSTM": ({**FULL, "with": ["network=attention"]}, FULL),
    "two gradient threads against one": (FULL, {**FULL, "with": ["algorithm.gradient_threads=1"]}),
    "one thread, two gradient_parts against one": (
        {**FULL, "with": ["algorithm.gradient_threads=1"]},
        {**FULL, "with": ["algorithm.gradient_threads=1", "algorithm.gradient_parts=1"]},
    ),
    "bf16 against float32, N = 100, H = 256": ({**WIDE, "with": ["device.precision=bf16"]}, WIDE),
    "bf16 against float32, N = 64, H = 128": ({**FULL, "with": ["device.precision=bf16"]}, FULL),
}


def against_itself(given: argparse.Namespace) -> dict[str, Turns]:
    results = {}
    for name, (one, other) in ITSELF.items():
        sides = {"one": one, "other": other}
        contenders = {
            side: partial(ours, "work.py", {**work, "seconds": given.seconds}) for side, work in sides.items()
        }
        results[name] = take_turns(contenders, given.pairs)
        report(f"{name}: {ratios(results[name], 'one', 'other')}")
    return results


def against_itself_table(results: dict[str, Turns]) -> str:
    rows = [
        [name, *(spread(speeds(turns[side]), 0) for side in ("one", "other")), ratios(turns, "one", "other")]
        for name, turns in results.items()
    ]
    return table(["", "steps/s", "of the other", "ratio"], rows)


# Cells and their numbers of layers; the first is what the others are compared with.
CELLS = ["lstm", "gru", "mingru", "mingru:2", "matrix", "gtrxl"]


def cells(given: argparse.Namespace) -> dict[str, Turns]:
    """The whole loop, an acting step and a learning step with each memory cell."""
    results = {}
    for size in given.sizes:
        parallel, width = map(int, size.split(":"))
        loops, steps = {}, {}
        for it in CELLS:
            cell, _, layers = it.partition(":")
            chosen = [f"network={cell}", f"network.layers={layers or 1}"]
            work = {"parallel": parallel, "width": width, "late": False, "seconds": given.seconds, "with": chosen}
            loops[it] = partial(ours, "work.py", work)
            steps[it] = partial(ours, "cell.py", {**work, "seconds": given.seconds / 2})
        name = f"N = {parallel}, H = {width}"
        results[name] = take_turns(loops, given.pairs)
        results[f"{name}, alone"] = take_turns(steps, given.pairs)
        report(f"{name}: {ratios(results[name], *CELLS)}")
    return results


def cells_table(results: dict[str, Turns]) -> str:
    rows = []
    for size in [name for name in results if not name.endswith(", alone")]:
        loops, steps = results[size], results[f"{size}, alone"]
        for cell, turns in loops.items():
            row = [size, cell, spread(speeds(turns), 0)]
            row.append(against(loops, cell, CELLS[0], "steps_per_second"))
            for part in ("acting", "learning"):
                row += [spread((turn[part] for turn in steps[cell]), 0), against(steps, cell, CELLS[0], part)]
            rows.append(row)
    head = ["work", "cell", "steps/s", "times as fast", "acting alone, thousand steps/s", "times as fast"]
    return table([*head, "learning alone, thousand steps/s", "times as fast"], rows)


def kernels(given: argparse.Namespace) -> dict[str, Turns]:
    results = {}
    for rows, width in ((16, 128), (64, 128), (100, 256)):
        settings = {"rows": rows, "width": width, "seconds": 2}
        results[f"B = {rows}, H = {width}"] = repeat(partial(ours, "kernel.py", settings), given.pairs)
    return results


def kernels_table(results: dict[str, Turns]) -> str:
    rows = []
    for shape, turns in results.items():
        lstm, floor = ([measured[name] for measured in turns["seqrl"]] for name in ("lstm", "floor"))
        share = [a / b for a, b in zip(lstm, floor, strict=True)]
        rows.append([shape, spread(lstm, 0), spread(floor, 0), spread(share, 2)])
    return table(["", "LSTM, thousand steps/s", "products alone", "share"], rows)


def commands(given: argparse.Namespace) -> dict[str, Turns]:
    """Whole commands, from the shell's prompt to the next."""
    small = ["env=masked_cartpole", "network=lstm", "sequence=full", "rollout_length=128", "total_steps=1"]
    small += ["evaluation.episodes=0"]
    solved = [
        command(given.folder / f"solved_{seed}", "experiment=masked_cartpole", f"seed={seed}") for seed in range(5)
    ]
    return {
        "one iteration": repeat(partial(command, given.folder / "one_iteration", *small), given.pairs),
        "experiment=masked_cartpole": {"seqrl": solved},
    }


def command(folder: Path, *overrides: str) -> Measured:
    """Wall time of a run of `seqrl.train`, and the mean return of its evaluation, if any."""
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}_before_{time.time_ns()}"))
    words = [sys.executable, "-m", "seqrl.train", *overrides, f"hydra.run.dir='{folder.resolve()}'"]
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"bench: {' '.join(words)} failed\n{done.stderr}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {"seconds": took, "return": rows[-1].get("evaluation/return_mean", float("nan"))}


def commands_table(results: dict[str, Turns]) -> str:
    rows = []
    for name, turns in results.items():
        returns = [measured["return"] for measured in turns["seqrl"]]
        seconds = [measured["seconds"] for measured in turns["seqrl"]]
        rows.append([name, spread(seconds, 1), "" if math.isnan(returns[0]) else spread(returns, 1)])
    return table(["`python -m seqrl.train ...`", "seconds from start to end", "return in evaluation"], rows)


# Tasks on which returns are compared: what seqrl is told of each, and the environment steps for which rl-zoo trains.
RETURNS = {
    "masked_cartpole": (["env=masked_cartpole"], 100_000),
    "masked_pendulum": (["env=masked_pendulum"], 100_000),
    "masked_mountain_car_continuous": (["env.id=MountainCarContinuous-v0", "env.hidden=[1]"], 300_000),
}
EPISODES = 200


def returns(given: argparse.Namespace) -> dict[str, Turns]:
    """Policies of seqrl with its defaults, and of sb3-contrib with rl-zoo's settings for the task, seed by seed.

    A run takes minutes: what was measured before is in the folder returns, and is not measured again.
    """
    python = installed("sb3-contrib", given.folder.resolve())
    results: dict[str, Turns] = {}
    for task in given.tasks:
        words, steps = RETURNS[task]
        results[task] = {"seqrl": [], "sb3-contrib": []}
        for seed in range(given.pairs):
            settings = {"task": task, "steps": steps, "seed": seed, "episodes": EPISODES}
            folder = given.folder / "returns" / task / str(seed)
            contenders = {
                "seqrl": partial(defaults, folder / "run", *words, f"total_steps={steps}", f"seed={seed}"),
                "sb3-contrib": partial(turn, python, "peers/sb3_returns.py", settings),
            }
            for library, train in contenders.items():
                measured = once(folder / f"{library}.json", train)
                results[task][library].append(measured)
                report(f"{task}, seed {seed}, {library}: {measured['return']:.1f} in {measured['seconds']:.0f} s")
    return results


def defaults(folder: Path, *words: str) -> Measured:
    """The final policy of a run of an LSTM with nothing else given but a task and a number of steps."""
    command(folder, *words, "network=lstm", f"evaluation.episodes={EPISODES}")
    manifest = json.loads((folder / "manifest.json").read_text())
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-2])
    measured = {"return": manifest["result"], "steps": manifest["env_steps"], "seconds": manifest["seconds"]}
    return {**measured, "idle": last["time/idle_share"]}


def once(path: Path, measure: Callable[[], Measured]) -> Measured:
    """What a file holds; if there is none yet, measure first."""
    if not path.exists():
        measured = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measured))
    kept: Measured = json.loads(path.read_text())
    return kept


def returns_table(results: dict[str, Turns]) -> str:
    rows = []
    for task, turns in results.items():
        for library, measured in turns.items():
            numbers = {name: [it[name] for it in measured] for name in ("return", "steps", "seconds", "idle")}
            row = [task, library, str(len(measured)), spread(numbers["return"], 1), spread(numbers["steps"], 0)]
            rows.append([*row, spread(numbers["seconds"], 0), f"{statistics.median(numbers['idle']):.0%}"])
    head = ["task", "library", "runs", "return of the final policy: median (worst to best)", "steps"]
    return table([*head, "seconds of learning", "idle"], rows)


def scale(given: argparse.Namespace) -> dict[str, Turns]:
    results = {}
    for width in (64, 128, 256):
        for parallel in (16, 64, 256, 1024, 4096):
            work = {"parallel": parallel, "width": width, "late": False, "seconds": min(3.0, given.seconds)}
            results[f"{width}:{parallel}"] = repeat(partial(ours, "work.py", work), 1)
    return results


def scale_table(results: dict[str, Turns]) -> str:
    speed = {name: turns["seqrl"][0]["steps_per_second"] for name, turns in results.items()}
    widths = list(dict.fromkeys(name.split(":")[0] for name in results))
    sizes = list(dict.fromkeys(name.split(":")[1] for name in results))
    rows = [[f"H = {width}", *(f"{speed[f'{width}:{size}']:,.0f}" for size in sizes)] for width in widths]
    return table(["steps/s", *(f"N = {size}" for size in sizes)], rows)


GROWTH = {
    "steps": [(parallel, 128, bptt) for bptt in (0, 32, 8) for parallel in (32, 64, 128, 256, 512)],
    "episodes": [(64, episode, 0) for episode in (2, 4, 8, 16, 32, 64, 128)],
}


def growth(given: argparse.Namespace) -> dict[str, Turns]:
    results = {}
    for panel, points in GROWTH.items():
        for parallel, episode, bptt_length in points:
            settings = {"parallel": parallel, "width": 128, "episode": episode, "bptt_length": bptt_length}
            name = f"{panel}:{parallel}:{episode}:{bptt_length}"
            results[name] = repeat(partial(ours, "growth.py", settings), 1)
    return results


def growth_table(results: dict[str, Turns]) -> str:
    rows = []
    for name, turns in results.items():
        _, parallel, episode, bptt_length = name.split(":")
        (measured,) = turns["seqrl"]
        episodes = int(parallel) * 128 // int(episode)
        rows.append([f"{measured['steps']:,}", f"{episodes:,}", bptt_length, f"{measured['megabytes']:.0f}"])
    return table(["steps", "episodes", "bptt_length", "MB"], rows)


# Ways to use two cores, and one.
WAYS = {"two processes": ["processes=2"], "two threads": [], "one thread": ["algorithm.gradient_threads=1"]}


def ranks(given: argparse.Namespace) -> dict[str, Turns]:
    """A run over two processes, in one with two threads, and in one with one; and what processes exchange."""
    results = {}
    works = {f"N = {n}, H = {h}": {"parallel": n, "width": h} for n, h in ((64, 128), (100, 256))}
    works["1 ms a step, N = 16, H = 128"] = {"parallel": 16, "width": 128, "slow": True}
    for name, work in works.items():
        contenders = {
            way: partial(ours, "ranks.py", {**work, "seconds": given.seconds, "with": words})
            for way, words in WAYS.items()
        }
        results[name] = take_turns(contenders, given.pairs)
        report(f"{name}: {ratios(results[name], *WAYS)}")
    for width in (64, 128, 256, 512):
        settings = {"processes": 2, "width": width}
        results[f"exchange:{width}"] = repeat(partial(ours, "exchange.py", settings), given.pairs)
    return results


def ranks_table(results: dict[str, Turns]) -> str:
    one, *others = WAYS
    works = {name: turns for name, turns in results.items() if not name.startswith("exchange")}
    rows = [
        [name, *(spread(speeds(turns[way]), 0) for way in WAYS), *(ratios(turns, one, other) for other in others)]
        for name, turns in works.items()
    ]
    head = ["work", *(f"{way}, steps/s" for way in WAYS), *(f"against {other}" for other in others)]
    exchanged = []
    for name, turns in results.items():
        if name.startswith("exchange"):
            measured = turns["seqrl"]
            took = spread((it["milliseconds"] for it in measured), 2)
            exchanged.append([name.partition(":")[2], f"{measured[0]['megabytes']:.2f}", took])
    exchanges = table(["H", "MB that each sends", "ms for two processes"], exchanged)
    return f"{table(head, rows)}\n\n{exchanges}\n\nCalculated, not measured:\n\n{calculated(results)}"


# Of the common work: gradient steps in an iteration, and bytes of a step of its rollout.
GRADIENT_STEPS, STEP_BYTES = 16, 51


def calculated(results: dict[str, Turns]) -> str:
    """Speed with more processes, each with 64 environments and a core, from what was measured with one and two.

    An iteration takes as long as with one process, and the swaps of sums, level by level, and of rollouts.
    """
    speed = statistics.median(speeds(results["N = 64, H = 128"]["one thread"]))
    alone = 64 * 128 / speed
    took = [results[f"exchange:{width}"]["seqrl"] for width in (64, 512)]
    (small, few), (large, many) = (
        [statistics.median(it[key] for it in turns) for key in ("megabytes", "milliseconds")] for turns in took
    )
    for_one = (many - few) / (large - small)
    at_once = few - for_one * small
    gradient = results["exchange:128"]["seqrl"][0]["megabytes"]
    rows = []
    for processes in (1, 2, 4, 8, 16, 32, 64):
        others = processes - 1
        swaps = GRADIENT_STEPS * math.log2(processes) * (at_once + for_one * gradient)
        rollouts = others * (at_once + for_one * 64 * 128 * STEP_BYTES / 1e6)
        seconds = alone + (swaps + rollouts) / 1e3
        rows.append([str(processes), f"{processes * 64 * 128 / seconds:,.0f}", f"{alone / seconds:.0%}"])
    return table(["processes", "steps/s", "share of the ideal"], rows)


# For each part, the function that measures and the one that makes a table of the results.
PARTS: dict[str, tuple[Callable[[argparse.Namespace], dict[str, Turns]], Callable[[dict[str, Turns]], str]]] = {
    "peers": (against_peers, against_peers_table),
    "itself": (against_itself, against_itself_table),
    "cells": (cells, cells_table),
    "kernels": (kernels, kernels_table),
    "commands": (commands, commands_table),
    "returns": (returns, returns_table),
    "scale": (scale, scale_table),
    "growth": (growth, growth_table),
    "ranks": (ranks, ranks_table),
}


def speeds(turns: list[Measured]) -> list[float]:
    return [measured["steps_per_second"] for measured in turns]


def against(turns: Turns, one: str, other: str, number: str) -> str:
    """How many times as much of a number one had as the other, pair by pair."""
    return spread((a[number] / b[number] for a, b in zip(turns[one], turns[other], strict=True)), 2)


def ratios(turns: Turns, one: str, *others: str) -> str:
    """How many times as fast one was as each of the others, pair by pair."""
    pairs = [[a / b for a, b in zip(speeds(turns[one]), speeds(turns[other]), strict=True)] for other in others]
    return ", ".join(spread(of_other, 2) for of_other in pairs)


def spread(numbers: Iterable[float], digits: int) -> str:
    """Median and extremes."""
    known = list(numbers)
    low, middle, high = min(known), statistics.median(known), max(known)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def report(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for peers and results, such as outputs/bench")
    parser.add_argument(
        "--parts",
        nargs="+",
        default=[part for part in PARTS if part != "returns"],
        choices=PARTS,
        help="parts of the benchmark to run (default: all but returns)",
    )
    parser.add_argument("--pairs", type=int, default=5, help="turns of each contender, or seeds (default: 5)")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds measured in each turn (default: 8)")
    parser.add_argument("--sizes", nargs="+", default=["16:128", "64:128", "100:256"], metavar="N:H")
    parser.add_argument("--peers", nargs="*", default=["sb3-contrib"], choices=PEERS)
    parser.add_argument(
        "--tasks", nargs="+", default=list(RETURNS), choices=RETURNS, help="tasks of the part returns (default: all)"
    )
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / "bench.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for part in given.parts:
        report(f"\n{part}")
        measure, table_of = PARTS[part]
        results[part] = measure(given)
        path.write_text(json.dumps(results, indent=2))
        report(table_of(results[part]))


if __name__ == "__main__":
    main()
