"""Memory of one update with seqrl, in this process; prints it as JSON, in MB of 10^6 bytes.

python scripts/measures/growth.py '{"parallel": 64, "width": 128, "episode": 128, "bptt_length": 0}'

128 steps of so many environments, in episodes of so many steps, learned from in one minibatch. What counts is by how
much the process grows with its first update.
"""

import json
import sys

from work import common_work

from seqrl.machine import forget_peak_memory, peak_memory_mb


def main() -> None:
    told = json.loads(sys.argv[1])
    overrides = [f"env.max_episode_steps={told['episode']}", f"sequence_learning.bptt_length={told['bptt_length']}"]
    overrides += ["algorithm.epochs=1", "algorithm.minibatches=1"]
    run = common_work({**told, "late": True, "with": overrides})
    rollout = run.runner.collect()
    forget_peak_memory()
    before = peak_memory_mb()
    run.algorithm.update(rollout, 0.0)
    print(json.dumps({"megabytes": peak_memory_mb() - before, "steps": int(rollout.valid.sum())}))


if __name__ == "__main__":
    main()
