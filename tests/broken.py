"""Environments and networks with one defect each, which `seqrl.verify` must find."""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from seqrl.networks import LSTM, Attention, Encoder, Network, Trunk


class Walk(gymnasium.Env):
    """A random walk over eight places, five to twelve steps long: sound."""

    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.clock = int(self.random().integers(5, 13)), 0
        return self.seen(), {}

    def step(self, action):
        self.clock += 1
        return self.seen(), float(action), False, self.clock >= self.length, {}

    def random(self):
        return self.np_random

    def seen(self):
        return self.random().uniform(-1, 1, 3).astype(np.float32)


class Unseeded(Walk):
    """Draws from a stream that no seed reaches."""

    stream = np.random.default_rng()

    def random(self):
        return self.stream


class Endless(Walk):
    """Never ends."""

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, False, info


class OutOfBounds(Walk):
    """Shows what is not in its space."""

    def seen(self):
        return 3 * super().seen()


class FirstForFinal(Walk):
    """Ends with an observation that the next episode begins with."""

    def seen(self):
        return np.full(3, 0.5 if self.clock in (0, self.length) else 0.1, np.float32)


for defect in (Walk, Unseeded, Endless, OutOfBounds, FirstForFinal):
    # Gymnasium's own checker would warn of some of them first.
    gymnasium.register(f"broken/{defect.__name__}-v0", defect, disable_env_checker=True)


class Leaky(LSTM):
    """Does not forget where an episode ends."""

    def unroll(self, x, state, mask):
        return super().unroll(x, state, torch.ones_like(mask))


class Centred(LSTM):
    """Learns from what differs from the batch's mean."""

    def unroll(self, x, state, mask):
        output = super().unroll(x, state, mask)
        return output - 0.1 * output.mean(1, keepdim=True)


class StopsGradient(LSTM):
    """Lets no gradient pass through time."""

    def unroll(self, x, state, mask):
        outputs = []
        for step, is_real in zip(x, mask, strict=True):
            output, state = self.step(step, {name: leaf.detach() for name, leaf in state.items()})
            state = {name: leaf * is_real.unsqueeze(1) for name, leaf in state.items()}
            outputs.append(output)
        return torch.stack(outputs)


class BeginsWithOnes(LSTM):
    """Begins its very first episode with a memory that later ones do not have."""

    def initial_state(self, batch_size):
        return {name: leaf + 1 for name, leaf in super().initial_state(batch_size).items()}


class ForgetsWhenActing(Attention):
    """Acts without the oldest of the inputs that it learns from."""

    def step(self, x, state):
        real = state["real"].clone()
        real[:, 0] = False
        output, _ = super().step(x, {"inputs": state["inputs"], "real": real})
        return output, super().step(x, state)[1]


class DropsOut(LSTM):
    """Is never the same twice."""

    def unroll(self, x, state, mask):
        return torch.nn.functional.dropout(super().unroll(x, state, mask), 0.1)


BLOCKS = {
    "sound": lambda: LSTM(8, 8),
    "Leaky": lambda: Leaky(8, 8),
    "Centred": lambda: Centred(8, 8),
    "StopsGradient": lambda: StopsGradient(8, 8),
    "BeginsWithOnes": lambda: BeginsWithOnes(8, 8),
    "ForgetsWhenActing": lambda: ForgetsWhenActing(8, window=3, heads=2),
    "DropsOut": lambda: DropsOut(8, 8),
}


def network(observation_space, action_space, use_lstm=True, block="sound"):
    trunk = Trunk(Encoder(observation_space, 8), {"memory": BLOCKS[block]()})
    return Network(trunk, None, 8, action_space)
