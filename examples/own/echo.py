"""An environment of your own: hear a melody note by note, then play it from memory."""

import gymnasium as gym
import numpy as np


class Echo(gym.Env):
    """The agent hears a melody of `length` notes, then plays it; each right note is worth 1 / length.

    The observation is one-hot: which of the `notes` sounds, or that it is the agent's turn. Best return 1; without
    memory 1 / notes.
    """

    def __init__(self, length=3, notes=4):
        self.length, self.notes = length, notes
        self.observation_space = gym.spaces.Box(0.0, 1.0, (notes + 1,))
        self.action_space = gym.spaces.Discrete(notes)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.melody, self.clock = self.np_random.integers(self.notes, size=self.length), 0
        return self.observe(), {}

    def step(self, action):
        turn = self.clock - self.length
        right = turn >= 0 and action == self.melody[turn]
        self.clock += 1
        return self.observe(), right / self.length, self.clock == 2 * self.length, False, {}

    def observe(self):
        observation = np.zeros(self.notes + 1, dtype=np.float32)
        observation[self.melody[self.clock] if self.clock < self.length else self.notes] = 1.0
        return observation


gym.register("Echo-v0", entry_point=Echo)
