"""Runs an exported policy with NumPy and onnxruntime alone: python cartpole.py <folder>/policy.onnx"""

import sys

import numpy as np
import onnxruntime


class Policy:
    """A policy that remembers: call it once a step, and `begin` where an episode begins."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.outputs = [it.name for it in self.session.get_outputs()]
        types = {"tensor(float)": np.float32, "tensor(bool)": np.bool_}
        inputs = [it for it in self.session.get_inputs() if it.name.startswith("state.")]
        self.zeros = {it.name: np.zeros((1, *it.shape[1:]), types[it.type]) for it in inputs}
        self.begin()

    def begin(self):
        self.memory = dict(self.zeros)

    def __call__(self, observation):
        answers = self.session.run(None, {"observation": observation[np.newaxis], **self.memory})
        named = dict(zip(self.outputs, answers, strict=True))
        self.memory = {name: named[f"next_{name}"] for name in self.memory}
        return named["action"][0]


def moved(position, velocity, angle, spin, action):
    """The cart and its pole 0.02 seconds later."""
    push = (20 * action - 10 + 0.05 * spin**2 * np.sin(angle)) / 1.1
    turn = (9.8 * np.sin(angle) - np.cos(angle) * push) / (0.5 * (4 / 3 - 0.1 * np.cos(angle) ** 2 / 1.1))
    drive = push - 0.05 * turn * np.cos(angle) / 1.1
    return position + 0.02 * velocity, velocity + 0.02 * drive, angle + 0.02 * spin, spin + 0.02 * turn


policy, random = Policy(sys.argv[1]), np.random.default_rng(0)
for episode in range(5):
    policy.begin()
    state, steps = random.uniform(-0.05, 0.05, 4), 0
    while abs(state[0]) <= 2.4 and abs(state[2]) <= np.pi / 15 and steps < 500:
        # The policy was trained without the velocities.
        state, steps = moved(*state, policy(np.array([state[0], state[2]], np.float32))), steps + 1
    print(f"episode {episode + 1}: {steps} steps")
