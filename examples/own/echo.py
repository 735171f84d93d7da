"""An environment of one's own: a melody is heard note by note, then played from memory."""

import gymnasium as gym
import numpy as np


class Echo(gym.Env):
    """A melody of `length` notes is heard, then it is your turn; each right note brings 1 / length.

    The observation says which of the `notes` sounds, or that it is your turn. Best return 1; without memory 1 / notes.
    """

    def __init__(self, length=3, notes=4):
        self.length, self.notes = length, notes
        self.observation_space = gym.spaces.Box(0.0, 1.0, (notes + 1,))
        self.action_space = gym.spaces.Discrete(notes)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.melody, self.clock = self.np_random.integers(self.notes, size=self.length), 0
        return self.seen(), {}

    def step(self, action):
        turn = self.clock - self.length
        right = turn >= 0 and action == self.melody[turn]
        self.clock += 1
        return self.seen(), right / self.length, self.clock == 2 * self.length, False, {}

    def seen(self):
        observation = np.zeros(self.notes + 1, dtype=np.float32)
        observation[self.melody[self.clock] if self.clock < self.length else self.notes] = 1.0
        return observation


gym.register("Echo-v0", entry_point=Echo)
