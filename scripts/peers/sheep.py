"""The common work of scripts/bench.py with SheepRL's recurrent PPO; runs in its own virtual environment.

python sheep.py '{"parallel": 64, "width": 128, "late": false, "seconds": 20}'
"""

import json
import os
import sys
import tempfile

import gymnasium
from sheeprl.algos.ppo_recurrent import ppo_recurrent
from sheeprl.cli import run
from world import LEARNING_RATE, STEPS, Masked, Watch


def main() -> None:
    work = json.loads(sys.argv[1])
    parallel, width = work["parallel"], work["width"]
    gymnasium.register("Masked-v0", lambda **kwargs: Masked(work["late"], **kwargs))
    watch = Watch(work["seconds"])
    learn = ppo_recurrent.train

    def watched(*arguments) -> int:
        watch.rollout_ends()
        steps = learn(*arguments)
        if watch.rollout_begins():
            watch.report(parallel)
            os._exit(0)
        return steps

    ppo_recurrent.train = watched
    settings = {
        "exp": "ppo_recurrent",
        "env.id": "Masked-v0",
        "env.num_envs": parallel,
        "env.sync_env": True,
        "env.capture_video": False,
        "algo.total_steps": 10**9,
        "algo.rollout_steps": STEPS,
        "algo.per_rank_sequence_length": STEPS,
        "algo.per_rank_num_batches": 4,
        "algo.update_epochs": 4,
        "algo.dense_units": width,
        "algo.encoder.dense_units": width,
        "algo.encoder.mlp_features_dim": "null",
        "algo.rnn.lstm.hidden_size": width,
        "algo.layer_norm": False,
        "algo.optimizer.lr": LEARNING_RATE,
        "fabric.accelerator": "cpu",
        "metric.log_level": 0,
        "checkpoint.every": 0,
        "buffer.memmap": False,
    }
    os.chdir(tempfile.mkdtemp())
    sys.argv = ["sheeprl", *(f"{name}={value}" for name, value in settings.items())]
    run()


if __name__ == "__main__":
    main()
