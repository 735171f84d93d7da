"""Show that a change leaves training as it was: the same runs by two versions of seqrl, compared to the last digit.

    python scripts/same_bits.py main             # this checkout against a revision of git

Ten short runs cover PPO and REINFORCE, the networks, ways to cut sequences, whole episodes and fixed rollouts, and the
ways to play environments. Every scalar of metrics.jsonl must be equal, except times and memory. Exit code 1 if one
is not.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = "seed=7 network.hidden_size=16 evaluation.episodes=8 logger=jsonl checkpoint_interval=0"
GYMNASIUM = "env.id=CartPole-v1 env.hidden=[1,3]"
RUNS = {
    "ppo lstm full, whole episodes, built in": "env=masked_cartpole episodes=6 parallel=8",
    "ppo lstm truncated, fixed rollouts, built in": "env=masked_cartpole sequence=truncated "
    "sequence_learning.bptt_length=8 rollout_length=32 total_steps=1536 parallel=8 "
    "sequence_learning.stale_state=burn_in sequence_learning.burn_in=4",
    "ppo attention full, fixed rollouts, sync": f"{GYMNASIUM} env.backend=sync network=attention "
    "rollout_length=32 total_steps=1024 parallel=4 network.inputs=[previous_action,previous_reward,first]",
    "ppo mlp, whole episodes, async": f"{GYMNASIUM} env.backend=async network=mlp episodes=4 parallel=4",
    "reinforce lstm full, whole episodes, sync": "env=masked_pendulum env.backend=sync algorithm=reinforce "
    "episodes=3 parallel=4 +env.kwargs.max_episode_steps=40",
    "reinforce attention truncated, whole episodes, built in": "env=repeat_previous algorithm=reinforce "
    "network=attention network.window=8 sequence=truncated sequence_learning.bptt_length=10 episodes=4 parallel=8 "
    "algorithm.baseline=batch_mean",
    "reinforce mlp, fixed rollouts, built in": "env=count_recall algorithm=reinforce network=mlp rollout_length=16 "
    "total_steps=512 parallel=8 algorithm.normalize_reward=true",
    "ppo lstm single steps, fixed rollouts, async": f"{GYMNASIUM} env.backend=async sequence=off rollout_length=32 "
    "total_steps=768 parallel=4 network.normalize_observations=true",
    "ppo attention truncated, whole episodes, built in": "env=tmaze network=attention sequence=truncated "
    "sequence_learning.bptt_length=6 episodes=6 parallel=16 network.separate_critic=true evaluation.interval=2 "
    "sequence_learning.stale_state=refresh algorithm.normalize_advantage=returns",
    "reinforce lstm full, fixed rollouts, own vector form": "env.id=CartPole-v1 env.backend=vector "
    "algorithm=reinforce algorithm.epochs=2 algorithm.minibatches=2 rollout_length=64 total_steps=1024 parallel=4 "
    "sequence_learning.max_tokens_per_batch=64",
}


def rows(checkout: Path, command: str) -> list[dict[str, float]]:
    """Run a command with the seqrl of a checkout; return the scalars of its learning."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*shlex.split(f"{SHARED} {command}"), f"hydra.run.dir={folder}/run"]
        subprocess.run(
            [sys.executable, "-m", "seqrl.train", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith("time") and "peak" not in name}
        for line in lines
    ]


def differences(one: list[dict[str, float]], other: list[dict[str, float]]) -> Iterator[str]:
    """A line for each scalar that differs, after one if the numbers of rows differ."""
    if len(one) != len(other):
        yield f"{len(one)} rows, {len(other)} rows"
    for number, (a, b) in enumerate(zip(one, other, strict=False)):
        for name in sorted({*a, *b}):
            if a.get(name) != b.get(name):
                yield f"row {number}, {name}: {a.get(name)} -> {b.get(name)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="git revision, such as main or HEAD~3")
    parser.add_argument("--only", default="", help="only runs whose name contains this")
    arguments = parser.parse_args()
    git = ["git", "-C", str(ROOT), "worktree"]
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        subprocess.run([*git, "add", "--detach", "--quiet", before, arguments.revision], check=True)
        try:
            for name, command in RUNS.items():
                if arguments.only not in name:
                    continue
                lines = rows(before, command)
                differ = list(differences(lines, rows(ROOT, command)))
                scalars = sum(map(len, lines))
                verdict = f"{len(differ)} of {scalars} scalars differ" if differ else f"{scalars} scalars equal"
                print(f"{name}: {verdict}", flush=True)
                for line in differ[:5]:
                    print(f"    {line}")
                # A run without scalars proves nothing.
                failures += len(differ) + (not scalars)
        finally:
            subprocess.run([*git, "remove", "--force", before], check=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
