"""Cart-pole as a tensor program."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from seqrl.envs.base import visible
from seqrl.envs.tasks.base import TensorEnv
from seqrl.spaces import Array

GRAVITY = 9.8
POLE_MASS = 0.1
TOTAL_MASS = 1.1
HALF_LENGTH = 0.5
FORCE = 10.0
SECONDS_PER_STEP = 0.02
MAX_POSITION = 2.4
MAX_ANGLE = 12 * 2 * math.pi / 360
START = 0.05


class CartPole(TensorEnv):
    """Keep a pole upright on a cart by pushing the cart left (0) or right (1).

    Observation: position, velocity, angle, angular velocity. Reward: 1 for every step. An episode terminates when the
    cart is more than 2.4 from the centre or the pole more than 12 degrees from upright, and is truncated after
    `max_episode_steps`. All four numbers start within ±0.05.

    hidden        indices to leave out of the observation: [1, 3] hides both velocities
    noise         standard deviation of the noise added to each observed number, in radians for the angle; the result is
                  clipped to the observation's bounds; None: 0
    best_return   return of an episode that reaches its time limit, spread evenly over its steps; None: 1 per step

    The best mean return is 500. With positions only, a policy without memory reaches about 50.

    With hidden=[1, 3], max_episode_steps=200, best_return=1 and noise 0.1, 0.2 and 0.3 it is POPGym's
    NoisyPositionOnlyCartPoleEasy, Medium and Hard. Without noise it is PositionOnlyCartPoleEasy, and with 400 and 600
    steps PositionOnlyCartPoleMedium and Hard. Without noise the best mean return is 1. With noise, a Kalman filter with
    linear control reaches 0.99, 0.61 and 0.37; a memoryless policy that pushes the way the pole appears to lean reaches
    0.25, 0.20 and 0.17 (measured).
    Source: Barto, Sutton & Anderson (1983); dynamics, thresholds and time limit of Gymnasium's CartPole-v1;
    Morad et al. (2023), "POPGym: Benchmarking partially observable reinforcement learning", version 1.0.7.
    """

    _names: tuple[str, ...] = ("state",)

    def __init__(
        self,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        hidden: Sequence[int] = (),
        max_episode_steps: int = 500,
        noise: float | None = None,
        best_return: float | None = None,
        first: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, device, first)
        self.max_episode_steps, self.noise = max_episode_steps, noise or 0.0
        self._reward = 1.0 if best_return is None else best_return / max_episode_steps
        shown = visible(4, hidden)
        high = np.array([2 * MAX_POSITION, np.inf, 2 * MAX_ANGLE, np.inf], dtype=np.float32)[shown]
        self.observation_space = Box(-high, high, dtype=np.float32)
        self.action_space = Discrete(2)
        self._shown = torch.tensor(shown, device=device)
        # float64 as in Gymnasium; Apple's GPU has none.
        precision = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self._state = torch.zeros(batch_size, 4, dtype=precision, device=device)
        if self.noise:
            self._names = (*self._names, "noise")
            self._high = torch.from_numpy(high).to(device)
            self._noise = torch.zeros(batch_size, len(shown), device=device)

    def _begin(self, where: Tensor) -> None:
        start = (START * (2 * self._uniform(4) - 1)).to(self._state)
        self._state = start.where(where.unsqueeze(-1), self._state)
        if self.noise:
            self._noise = self._drawn().where(where.unsqueeze(-1), self._noise)

    def _play(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._state = moved(self._state, (2 * action - 1) * FORCE)
        position, angle = self._state[:, 0], self._state[:, 2]
        terminated = (position.abs() > MAX_POSITION) | (angle.abs() > MAX_ANGLE)
        reward = torch.full_like(position, self._reward, dtype=torch.float32)
        if self.noise:
            self._noise = self._drawn()
        return reward, terminated, self._age >= self.max_episode_steps

    def render(self) -> Array:
        """Image of the first cart [H, W, 3]."""
        from seqrl.envs.tasks.pictures import cart_pole

        position, _, angle, _ = self._state[0].tolist()
        return cart_pole(position, angle, MAX_POSITION, 2 * HALF_LENGTH)

    def info(self) -> dict[str, Tensor]:
        """Position, velocity, angle and angular velocity, without noise."""
        return dict(zip(("position", "velocity", "angle", "angular velocity"), self._state.unbind(1), strict=True))

    def _observation(self) -> Tensor:
        shown = self._state.index_select(1, self._shown).float()
        return (shown + self._noise).clamp(-self._high, self._high) if self.noise else shown

    def _drawn(self) -> Tensor:
        """Noise [B, *O] for one observation."""
        return (self.noise * self._normal(*self._noise.shape[1:], which=1)).to(self._noise)


def moved(state: Tensor, force: Tensor) -> Tensor:
    """State [B, 4] one step later under `force` [B], by explicit Euler.

    Source: Florian (2007), "Correct equations for the dynamics of the cart-pole system", without friction.
    """
    velocity, angle, angular_velocity = state[:, 1:].unbind(-1)
    sin, cos = angle.sin(), angle.cos()
    push = (force + POLE_MASS * HALF_LENGTH * angular_velocity.square() * sin) / TOTAL_MASS
    angular_acceleration = (GRAVITY * sin - cos * push) / (
        HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos.square() / TOTAL_MASS)
    )
    acceleration = push - POLE_MASS * HALF_LENGTH * angular_acceleration * cos / TOTAL_MASS
    change = torch.stack([velocity, acceleration, angular_velocity, angular_acceleration], dim=-1)
    return state + SECONDS_PER_STEP * change
