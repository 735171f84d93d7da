"""The common work of scripts/bench.py with sb3-contrib's RecurrentPPO; runs in its own virtual environment.

python sb3.py '{"parallel": 64, "width": 128, "late": false, "seconds": 20}'
"""

import json
import sys
from contextlib import suppress

import gymnasium
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from world import LEARNING_RATE, STEPS, Masked, Watch


class Encoder(BaseFeaturesExtractor):
    """One layer before the LSTM, as in seqrl's network."""

    def __init__(self, space: gymnasium.spaces.Box, features_dim: int) -> None:
        super().__init__(space, features_dim)
        self.layers = torch.nn.Sequential(torch.nn.Linear(space.shape[0], features_dim), torch.nn.Tanh())

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.layers(observation)


class Watched(BaseCallback):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.watch.rollout_begins():
            raise StopIteration

    def _on_rollout_end(self) -> None:
        self.watch.rollout_ends()


def main() -> None:
    work = json.loads(sys.argv[1])
    parallel, width = work["parallel"], work["width"]
    model = RecurrentPPO(
        "MlpLstmPolicy",
        DummyVecEnv([lambda: Masked(work["late"])] * parallel),
        n_steps=STEPS,
        batch_size=STEPS * parallel // 4,
        n_epochs=4,
        learning_rate=LEARNING_RATE,
        # One LSTM for policy and value, as in seqrl's network; two, the default, take longer.
        policy_kwargs={
            "features_extractor_class": Encoder,
            "features_extractor_kwargs": {"features_dim": width},
            "lstm_hidden_size": width,
            "net_arch": {"pi": [width], "vf": [width]},
            "shared_lstm": True,
            "enable_critic_lstm": False,
        },
        device="cpu",
        seed=0,
    )
    watch = Watch(work["seconds"])
    with suppress(StopIteration):
        model.learn(10**9, callback=Watched(watch))
    watch.report(parallel)


if __name__ == "__main__":
    main()
