"""Presets for optional suites: each trains, if its package is installed."""

import re
from contextlib import closing

import gymnasium
import pytest
import torch
from hydra import compose, initialize_config_dir

from seqrl.config.paths import CONF
from seqrl.config.validate import faults
from seqrl.envs import EnvError, GymnasiumEnv
from seqrl.run.build import build, constructor, make_env
from seqrl.runner import Runner
from tests.parts import ppo, small_network

# The suites' own warnings do not concern seqrl.
pytestmark = pytest.mark.filterwarnings("ignore")
NEEDED = {"popgym": "popgym", "minigrid": "minigrid", "atari": "ale_py", "mujoco": "mujoco"}
SMALL = ["network.hidden_size=8", "network.lstm_hidden_size=8", "algorithm.epochs=1", "parallel=2", "rollout_length=16"]


def train(*overrides):
    """Train for two iterations; return the environments."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", [*SMALL, *overrides])
    assert faults(cfg) == []
    run = build(cfg, constructor(cfg.device)())
    with closing(run.runner.env) as env:
        for _ in range(2):
            assert run.iterate()["train/skipped"] == 0
    return env


@pytest.mark.parametrize("preset", ["popgym", "minigrid", "atari", "mujoco"])
def test_a_preset_trains(preset):
    pytest.importorskip(NEEDED[preset])
    train(f"env={preset}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "shown"), [("masked_pendulum", 2), ("masked_acrobot", 4), ("masked_mountain_car", 1)]
)
def test_a_classic_task_without_velocities_trains(preset, shown):
    assert train(f"env={preset}").observation_space.shape == (shown,)


@pytest.mark.slow
@pytest.mark.thin(6)
@pytest.mark.parametrize("first", range(6))
def test_every_popgym_task_trains(first):
    pytest.importorskip("popgym")
    ids = [id for id in gymnasium.registry if id.startswith("popgym-")]
    assert len(ids) == 42
    # Of these each is another task, in one of its three sizes.
    for id in ids[first::6]:
        with closing(GymnasiumEnv(id, 2, 0)) as env:
            network = small_network(env, "lstm")
            rollout = Runner(env, network, 16, 0, torch.Generator().manual_seed(0)).collect()
        assert ppo(network, bptt_length=4).update(rollout, 0)["train/skipped"] == 0, id


@pytest.mark.slow
def test_minigrid_cells_are_read_as_choices():
    pytest.importorskip("minigrid")
    space = train("env=minigrid").observation_space.parts["image"]
    assert space.shape == (3, 3, 3)
    assert space.nvec[0, 0].tolist() == [11, 6, 3]


DELAYED = "env.wrappers=[{_target_: gymnasium.wrappers.DelayObservation, delay: 2}]"


@pytest.mark.slow
def test_wrappers_apply_to_each_environment():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", ["env=gymnasium", "env.id=Acrobot-v1", DELAYED])
    assert faults(cfg) == []
    with closing(make_env(cfg, constructor(cfg.device)(), 2, "training")) as env:
        observations = [env.reset(), *(env.step(torch.tensor([0, 2])).observation for _ in range(3))]
    # Two observations of zeros, then the first real one.
    assert [bool(observation.any()) for observation in observations] == [False, False, True, True]


@pytest.mark.parametrize(
    ("wrappers", "message"),
    [
        ("[TimeLimit]", r"env.wrappers\[0\]: must name a class \(got TimeLimit\)"),
        ("[{_target_: gymnasium.wrappers.RecordVideo, video_folder: evil}]", r"RecordVideo is not of seqrl\."),
    ],
)
def test_a_wrapper_that_is_no_class_or_does_more_than_compute_is_refused(wrappers, message):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", ["env=gymnasium", f"env.wrappers={wrappers}"])
    (fault,) = faults(cfg)
    assert re.search(message, fault)


def test_a_wrapper_that_cannot_be_applied_is_named():
    with pytest.raises(EnvError, match=r"env\.wrappers\[0\]: cannot wrap Acrobot-v1: TypeError: .*'delay'"):
        GymnasiumEnv("Acrobot-v1", 1, 0, wrappers=[gymnasium.wrappers.DelayObservation])
