"""The tasks of POPGym that the exam sets, where it is installed: pip install -e ".[popgym]"."""

from contextlib import closing

import pytest
import torch
from hydra import compose, initialize_config_dir

from seqrl.build import built as build_part
from seqrl.build import make_env, make_network
from seqrl.configuration import CONF, faults
from seqrl.runner import Runner

pytest.importorskip("popgym")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("experiment", ["repeat_previous", "repeat_first", "noisy_cartpole"])
def test_a_task_of_the_exam_plays_whole_episodes_and_repeats_itself(experiment):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", [f"experiment={experiment}", "network.lstm_hidden_size=8", "network.hidden_size=8"])
    assert faults(cfg) == []
    device = build_part(cfg.device)()
    rollouts = []
    for _ in range(2):
        with closing(make_env(cfg, device, 2, "training")) as env:
            runner = Runner(env, make_network(cfg, env, device), 0, 0, torch.Generator().manual_seed(0))
            rollouts.append(runner.collect())
    first, second = rollouts
    assert first.ended.sum(0).tolist() == [1, 1]
    assert first.observation.equal(second.observation)
    assert first.reward.equal(second.reward)
    # Returns of POPGym lie between -1 and 1.
    assert first.reward.where(first.valid, 0).sum(0).abs().max() <= 1 + 1e-6
