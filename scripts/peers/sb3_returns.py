"""Train sb3-contrib's RecurrentPPO with rl-zoo's settings for the task; runs in its own virtual environment.

python sb3_returns.py '{"task": "masked_cartpole", "steps": 100000, "seed": 0, "episodes": 200}'

Prints as JSON the mean return of the final policy over fresh episodes with its likeliest actions, and the seconds that
learning took. What rl-zoo does around the algorithm is done here too: velocities are zeroed and stay in the
observation, observations and rewards are normalised, and evaluations normalise observations with the final statistics,
and count rewards as they are.
"""

import json
import sys
import time

import gymnasium
import numpy as np
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize, sync_envs_normalization
from torch import nn

# Environments that are evaluated side by side; each plays the same number of episodes.
EVALUATED = 20
# Evaluations play episodes that no training run of few seeds has played.
FRESH = 1_000_000

# Of more than one task.
POLICY = {
    "ortho_init": False,
    "activation_fn": nn.ReLU,
    "lstm_hidden_size": 64,
    "enable_critic_lstm": True,
    "net_arch": {"pi": [64], "vf": [64]},
}
# For each task: the environment, its velocities, how many of them run side by side, and the settings of the algorithm.
# From hyperparams/ppo_lstm.yml of DLR-RM/rl-baselines3-zoo, commit c94924e5b31bce36920f29d3eb18b975231bdec4, entries
# CartPoleNoVel-v1, PendulumNoVel-v1 and MountainCarContinuousNoVel-v0, all marked as tuned and with normalize: true.
# What is not named there has sb3-contrib's default; lin_x there is LinearSchedule(x, 0, 1) here.
TASKS = {
    "masked_cartpole": (
        "CartPole-v1",
        [1, 3],
        8,
        {
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": LinearSchedule(0.001, 0, 1),
            "clip_range": LinearSchedule(0.2, 0, 1),
            "policy_kwargs": POLICY,
        },
    ),
    "masked_pendulum": (
        "Pendulum-v1",
        [2],
        4,
        {
            "n_steps": 1024,
            "gae_lambda": 0.95,
            "gamma": 0.9,
            "n_epochs": 10,
            "ent_coef": 0.0,
            "learning_rate": 1e-3,
            "clip_range": 0.2,
            "use_sde": True,
            "sde_sample_freq": 4,
            "policy_kwargs": POLICY,
        },
    ),
    "masked_mountain_car_continuous": (
        "MountainCarContinuous-v0",
        [1],
        8,
        {
            "batch_size": 256,
            "n_steps": 1024,
            "gamma": 0.9999,
            "learning_rate": 7.77e-5,
            "ent_coef": 0.00429,
            "clip_range": 0.1,
            "n_epochs": 10,
            "gae_lambda": 0.9,
            "max_grad_norm": 5,
            "vf_coef": 0.19,
            "use_sde": True,
            "sde_sample_freq": 8,
            "policy_kwargs": {
                "log_std_init": 0.0,
                "ortho_init": False,
                "lstm_hidden_size": 32,
                "enable_critic_lstm": True,
                "net_arch": {"pi": [64], "vf": [64]},
            },
        },
    ),
}


class NoVelocities(gymnasium.ObservationWrapper):
    """Zeros in place of velocities."""

    def __init__(self, env: gymnasium.Env, hidden: list[int]) -> None:
        super().__init__(env)
        self.seen = np.ones(env.observation_space.shape, env.observation_space.dtype)
        self.seen[hidden] = 0

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation * self.seen


def main() -> None:
    given = json.loads(sys.argv[1])
    name, hidden, parallel, settings = TASKS[given["task"]]

    def environments(number: int, seed: int, **normalisation) -> VecNormalize:
        plain = make_vec_env(name, number, seed, wrapper_class=NoVelocities, wrapper_kwargs={"hidden": hidden})
        return VecNormalize(plain, gamma=settings["gamma"], **normalisation)

    env = environments(parallel, given["seed"])
    model = RecurrentPPO("MlpLstmPolicy", env, device="cpu", seed=given["seed"], **settings)
    began, busy = time.perf_counter(), time.process_time()
    model.learn(given["steps"])
    took, busy = time.perf_counter() - began, time.process_time() - busy
    fresh = environments(EVALUATED, given["seed"] + FRESH, training=False, norm_reward=False)
    sync_envs_normalization(env, fresh)
    result, _ = evaluate_policy(model, fresh, given["episodes"], deterministic=True)
    measured = {"return": float(result), "steps": model.num_timesteps, "seconds": took, "idle": max(0, 1 - busy / took)}
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
