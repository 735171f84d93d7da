"""Environments that compose configurations of their own with Hydra, as seqrl's programs do."""

import pytest

from tests.programs import run_program

OWN = """
import os
import gymnasium
import hydra
from gymnasium import spaces
from hydra import compose, initialize_config_dir

HERE = os.path.dirname(os.path.abspath(__file__))
AT_IMPORT = "{at_import}"

if AT_IMPORT:
    initialize_config_dir(HERE, version_base=None)

class Own(gymnasium.Env):
    observation_space = action_space = spaces.Discrete(4)

    def __init__(self, way="leaves it initialized"):
        if way == "leaves it initialized" and not AT_IMPORT:
            initialize_config_dir(HERE, version_base=None)
        if way == "is an application":
            hydra.main(config_path=HERE, config_name="game", version_base=None)(self.take)()
        else:
            self.take(compose("game"))

    def take(self, cfg):
        self.length = cfg.length

    def reset(self, *, seed=None, options=None):
        self.clock = 0
        return 0, {{}}

    def step(self, action):
        self.clock += 1
        return self.clock, 1.0, self.clock == self.length, False, {{}}

gymnasium.register("Own-v0", Own, disable_env_checker=True)
"""
TRAIN = [
    "-m", "seqrl.train", "env.id=own:Own-v0", "trust=[own]", "env.backend=sync", "parallel=2", "profile=quick",
    "network=mlp", "network.hidden_size=8", "total_steps=12", "rollout_steps=6", "evaluation.episodes=2",
    "logger=jsonl", "algorithm.gradient_threads=1",
]  # fmt: skip


def work(tmp_path, at_import=""):
    (tmp_path / "own.py").write_text(OWN.format(at_import=at_import))
    (tmp_path / "game.yaml").write_text("length: 3\n")
    return tmp_path


@pytest.mark.parametrize(
    ("way", "at_import"),
    [
        ("leaves it initialized", ""),
        pytest.param("is an application", "", marks=pytest.mark.slow),
        pytest.param("takes what its module has initialized", "yes", marks=pytest.mark.slow),
    ],
)
def test_an_environment_may_compose_its_own_configuration_in_a_run_and_in_a_sweep(tmp_path, way, at_import):
    done = run_program(work(tmp_path, at_import), *TRAIN, f"+env.kwargs.way={way}", "-m", "seed=1,2", "sweep=both")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "sweep: 2 finished" in done.stdout


def test_an_environment_that_composes_its_own_configuration_is_evaluated(tmp_path):
    assert run_program(work(tmp_path), *TRAIN, "hydra.run.dir=run").returncode == 0
    done = run_program(tmp_path, "-m", "seqrl.evaluate", "run=run", "trust=[own]", "episodes=3")
    assert (done.returncode, done.stderr) == (0, "")
