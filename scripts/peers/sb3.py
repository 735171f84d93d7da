"""The common work of scripts/bench.py with sb3-contrib's RecurrentPPO; runs in a virtual environment of its own.

python sb3.py '{"parallel": 64, "width": 128, "late": false, "seconds": 20}'
"""

import json
import resource
import sys
import time
from contextlib import suppress

import gymnasium
import numpy as np
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

STEPS = 128


class Masked(gymnasium.ObservationWrapper):
    """CartPole-v1 without its velocities; `late`: that never falls, as under a policy that has learned."""

    def __init__(self, late: bool) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        self.late = late
        space = self.env.observation_space
        self.observation_space = gymnasium.spaces.Box(space.low[[0, 2]], space.high[[0, 2]])
        if late:
            self.unwrapped.theta_threshold_radians = self.unwrapped.x_threshold = np.inf

    def observation(self, observation: np.ndarray) -> np.ndarray:
        seen = observation[[0, 2]]
        return np.clip(seen, -4.8, 4.8) if self.late else seen


class Watch(BaseCallback):
    """Times iterations after the first, and stops when there has been enough of them."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.rollouts = seconds, 0
        self.began = self.collecting = self.busy = 0.0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.rollouts += 1
        self.now = time.perf_counter()
        if self.rollouts == 2:
            self.began, self.busy, self.collecting = self.now, time.process_time(), 0.0
        if self.rollouts > 2 and self.now - self.began > self.seconds:
            raise StopIteration

    def _on_rollout_end(self) -> None:
        self.collecting += time.perf_counter() - self.now


def main() -> None:
    work = json.loads(sys.argv[1])
    parallel, width = work["parallel"], work["width"]
    env = DummyVecEnv([lambda: Masked(work["late"])] * parallel)
    heads = {"pi": [width], "vf": [width]}
    model = RecurrentPPO(
        "MlpLstmPolicy",
        env,
        n_steps=STEPS,
        batch_size=STEPS * parallel // 4,
        n_epochs=4,
        # One LSTM for policy and value, as in seqrl's network; two, its default, take longer.
        policy_kwargs={
            "lstm_hidden_size": width,
            "net_arch": heads,
            "shared_lstm": True,
            "enable_critic_lstm": False,
        },
        device="cpu",
        seed=0,
    )
    watch = Watch(work["seconds"])
    with suppress(StopIteration):
        model.learn(10**9, callback=watch)
    took = watch.now - watch.began
    print(
        json.dumps(
            {
                "steps_per_second": (watch.rollouts - 2) * STEPS * parallel / took,
                "collecting": watch.collecting / took,
                "idle": max(0.0, 1 - (time.process_time() - watch.busy) / took),
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
            }
        )
    )


if __name__ == "__main__":
    main()
