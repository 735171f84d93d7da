"""Speed of a whole command with one or several processes; prints it as JSON.

python scripts/measures/ranks.py '{"parallel": 64, "width": 128, "seconds": 10, "with": ["processes=2"]}'

"slow": true plays an environment that takes a millisecond for every step. The first iterations are not counted.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Iterations before the clock starts.
FIRST = 3


def overrides(work: dict[str, Any]) -> list[str]:
    """The common work, with rollouts of 128 steps."""
    slow = ["env.id=slow:Slow-v0", "trust=[slow]", "env.backend=sync"]
    words = slow if work.get("slow") else ["env=masked_cartpole"]
    words += ["network=lstm", "sequence=full", "rollout_length=128", f"parallel={work['parallel']}"]
    words += [f"network.hidden_size={work['width']}", f"network.lstm_hidden_size={work['width']}"]
    words += ["algorithm.epochs=4", "algorithm.minibatches=4", "sequence_learning.grad_clip_norm=0.5"]
    words += ["algorithm.learning_rate=1e-9", "evaluation.episodes=0", "logger=jsonl", "total_steps=1000000000"]
    return [*words, *work.get("with", [])]


def main() -> None:
    work = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        paths = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
        words = [sys.executable, "-m", "seqrl.train", *overrides(work), f"hydra.run.dir={folder}/run"]
        environment = {**os.environ, "PYTHONPATH": paths}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        process = subprocess.Popen(words, cwd=HERE, env=environment, text=True, **pipes)  # type: ignore[call-overload]
        rows: list[dict[str, float]] = []
        while process.poll() is None and not _is_enough(rows, work["seconds"]):
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                rows = _rows(Path(folder) / "run" / "metrics.jsonl")
        process.terminate()
        _, said = process.communicate()
        if not _is_enough(rows, work["seconds"]):
            sys.exit(said)
    first, last = rows[FIRST], rows[-1]
    seconds = last["time/elapsed_seconds"] - first["time/elapsed_seconds"]
    print(json.dumps({"steps_per_second": (last["env_steps"] - first["env_steps"]) / seconds}))


def _is_enough(rows: list[dict[str, float]], seconds: float) -> bool:
    return len(rows) > FIRST and rows[-1]["time/elapsed_seconds"] - rows[FIRST]["time/elapsed_seconds"] >= seconds


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    # The last line may still be written.
    return [json.loads(line) for line in path.read_text().split("\n")[:-1] if line]


if __name__ == "__main__":
    main()
