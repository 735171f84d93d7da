"""A built-in task is one class, one export, one schema, one YAML, as CONTRIBUTING says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLASS = '''"""Say whether the bit that was shown `delay` steps ago was 1."""

import torch
from gymnasium.spaces import Box, Discrete

from seqrl.envs.tasks.base import TensorEnv


class Echo(TensorEnv):
    """Repeat, at the last step, the bit of the first."""

    observation_space = Box(-1.0, 1.0, (2,))
    action_space = Discrete(2)
    _names = ("bit",)

    def __init__(self, batch_size, seed, device="cpu", delay=3):
        super().__init__(batch_size, seed, device)
        self.delay = delay
        self._bit = torch.zeros(batch_size, device=device)

    def _begin(self, where):
        fresh = self._uniform().round().to(self._bit)
        self._bit = fresh.where(where, self._bit)

    def _play(self, action):
        ended = self._age > self.delay
        reward = ((action == self._bit) & ended).float()
        return reward, ended, torch.zeros_like(ended)

    def _observation(self):
        return torch.stack([(2 * self._bit - 1) * (self._age == 0), (self._age == self.delay).float()], 1)
'''
SCHEMA = '''

@schema("echo")
@dataclass
class EchoConfig:
    """Group `env`, choice `echo`."""

    _target_: str = "seqrl.envs.Echo"
    delay: int = key(3, "steps between the bit and the answer", AT_LEAST_1)
'''


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of seqrl to which a task was added in four places."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("seqrl", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "seqrl" / "envs" / "tasks" / "echo.py").write_text(CLASS)
    with (folder / "seqrl" / "envs" / "__init__.py").open("a") as file:
        file.write("\nfrom seqrl.envs.tasks.echo import Echo as Echo\n")
    with (folder / "seqrl" / "config" / "schema.py").open("a") as file:
        file.write(SCHEMA)
    (folder / "conf" / "env" / "echo.yaml").write_text("defaults:\n  - /schema/echo@_here_\n")
    return folder


def python(checkout, *arguments):
    command = [sys.executable, "-m", *arguments]
    settings = {"cwd": checkout, "env": {**os.environ, "PYTHONPATH": str(checkout)}}
    return subprocess.run(command, **settings, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_new_task_is_trained_on_checked_listed_and_named_in_the_help(checkout):
    small = ["env=echo", "env.delay=2", "episodes=2", "parallel=4", "network.hidden_size=8", "evaluation.episodes=4"]
    program = (
        "import sys; from seqrl.train import main; from seqrl.envs.__main__ import main as envs\n"
        "sys.argv = ['seqrl.envs', 'echo']; envs()\n"
        "from hydra import compose, initialize_config_dir; from seqrl.config.paths import CONF\n"
        "with initialize_config_dir(version_base='1.3', config_dir=str(CONF)):\n"
        "    cfg = compose('config', ['hydra.runtime.config_sources=[]'], return_hydra_config=True)\n"
        "    print(cfg.hydra.help.template)\n"
        f"sys.argv = ['seqrl.train', *{small}]; main()\n"
    )
    (checkout / "program.py").write_text(program)
    done = python(checkout, "program")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  echo   " in done.stdout
    assert "over 4 fresh episodes" in done.stdout
    wrong = python(checkout, "seqrl.train", "env=echo", "env.delay=0")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "seqrl: error: env.delay: must be a whole number of at least 1 (got 0).\n"
    assert "masked_cartpole, count_recall, echo, " in done.stdout
