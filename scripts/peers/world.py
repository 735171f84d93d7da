"""What the peers of scripts/bench.py share: the task, and how they report. Imported from beside them."""

import json
import resource
import time

import gymnasium
import numpy as np

# Steps of every environment in each rollout.
STEPS = 128
# Almost zero, so that early stays early: the policy stays as random as it starts.
LEARNING_RATE = 1e-9


class Masked(gymnasium.ObservationWrapper):
    """CartPole-v1 without its velocities; if `late`, the pole never falls, as with a trained policy."""

    def __init__(self, late: bool, **kwargs) -> None:
        super().__init__(gymnasium.make("CartPole-v1", **kwargs))
        self.late = late
        space = self.env.observation_space
        self.observation_space = gymnasium.spaces.Box(space.low[[0, 2]], space.high[[0, 2]])
        if late:
            self.unwrapped.theta_threshold_radians = self.unwrapped.x_threshold = np.inf

    def observation(self, observation: np.ndarray) -> np.ndarray:
        positions = observation[[0, 2]]
        return np.clip(positions, -4.8, 4.8) if self.late else positions


class Watch:
    """Times iterations after the first; each is a rollout followed by an update."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.iterations = seconds, -1
        self.began = self.busy = self.collecting = self.mark = 0.0

    def rollout_begins(self) -> bool:
        """Note the time; return whether enough time has passed."""
        self.mark, self.iterations = time.perf_counter(), self.iterations + 1
        if self.iterations == 1:
            self.began, self.busy, self.collecting = self.mark, time.process_time(), 0.0
        return self.iterations > 1 and self.mark - self.began > self.seconds

    def rollout_ends(self) -> None:
        self.collecting += time.perf_counter() - self.mark

    def report(self, parallel: int) -> None:
        """Print the measurements, as scripts/measures/work.py does."""
        took = self.mark - self.began
        measured = {
            "steps_per_second": (self.iterations - 1) * STEPS * parallel / took,
            "collecting": self.collecting / took,
            "idle": max(0.0, 1 - (time.process_time() - self.busy) / took),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        }
        print(json.dumps(measured), flush=True)
