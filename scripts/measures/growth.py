"""Memory of one update with seqrl, in this process; prints it as JSON, in MB of 10^6 bytes.

python scripts/measures/growth.py '{"parallel": 64, "width": 128, "episode": 128, "bptt_length": 0}'

The update learns in one minibatch from 128 steps of `parallel` environments, in episodes of `episode` steps. Measures
how much the process grows during this first update.
"""

import json
import sys

from work import common_work

from seqrl.machine import forget_peak_memory, peak_memory_mb


def main() -> None:
    settings = json.loads(sys.argv[1])
    overrides = [
        f"env.max_episode_steps={settings['episode']}",
        f"sequence_learning.bptt_length={settings['bptt_length']}",
    ]
    overrides += ["algorithm.epochs=1", "algorithm.minibatches=1"]
    run = common_work({**settings, "late": True, "with": overrides})
    rollout = run.runner.collect()
    forget_peak_memory()
    before = peak_memory_mb()
    run.algorithm.update(rollout, 0.0)
    print(json.dumps({"megabytes": peak_memory_mb() - before, "steps": int(rollout.valid.sum())}))


if __name__ == "__main__":
    main()
