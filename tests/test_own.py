"""The example with an environment, memory cell, algorithm and logger of your own: every command of its README."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.parts import SHARED, small_network
from tests.worlds import Script

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "own"
README = (ROOT / "README.md").read_text()
COMMAND = re.compile(r"^    (python -m seqrl\..+)$", re.MULTILINE)
COMMANDS = COMMAND.findall((EXAMPLE / "README.md").read_text())
# And from the front page, the commands for the network printed there in full.
COMMANDS += [command for command in COMMAND.findall(README) if "network=deep" in command]
CELL = "network.memory._target_=indrnn.IndRNN"
# Enough for a few updates.
SHORT = ["total_steps=100", "parallel=4", "evaluation.episodes=2", "algorithm.epochs=1"]
# One process for all commands, because a short one spends most of its time importing torch.
ALL_IN_ONE_PROCESS = """
import json, runpy, sys
from hydra.core.global_hydra import GlobalHydra
for module, *words in json.loads(sys.argv[1]):
    sys.argv = [module, *words]
    GlobalHydra.instance().clear()
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    print(f"\\n---- {code}", flush=True)
"""


def in_the_example(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("outputs", "__pycache__"))
    for name in ("deep.py", "my_conf/network/deep.yaml"):
        (code,) = re.findall(rf"^    # {name}\n((?:(?:    (?!#|python -m).*)?\n)+)", README, re.MULTILINE)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(textwrap.dedent(code))
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder, and for each command its output, its exit code and all error output."""
    folder = tmp_path_factory.mktemp("work") / "own"
    calls = []
    for command in COMMANDS:
        _, _, module, *words = shlex.split(command)
        # The last of two values counts. A resumed run gets a few steps more than it had.
        short = ["total_steps=200"] if "resume" in command else SHORT
        calls.append([module, *words, *(short if module == "seqrl.train" else [])])
    ran = in_the_example(folder, sys.executable, "-c", ALL_IN_ONE_PROCESS, json.dumps(calls))
    printed = re.split(r"\n---- (\d+)\n", ran.stdout)
    assert len(printed) == 2 * len(COMMANDS) + 1, ran.stderr
    return folder, {c: (printed[2 * n], int(printed[2 * n + 1]), ran.stderr) for n, c in enumerate(COMMANDS)}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.slow
def test_every_command_works_as_written(done, command):
    printed, exit_code, errors = done[1][command]
    assert exit_code == 0, errors
    if "--help" in command:
        for choice in ("algorithm=dual_clip", "experiment=echo", "logger=sparkline"):
            assert choice in printed.partition("your own")[2].partition("\n")[0]
    elif "verify" in command:
        assert re.search(r"\b(\d+) of \1 hold$", printed.strip())
    else:
        assert "mean return" in printed
        assert "warning" not in printed


def test_every_part_of_your_own_was_used(done):
    folder, _ = done
    configs = "".join(path.read_text() for path in folder.glob("outputs/**/config.yaml"))
    for part in ("echo:Echo-v0", "indrnn.IndRNN", "dual_clip.DualClipPPO", "sparkline.Sparkline"):
        assert part in configs
    (curve,) = folder.glob("outputs/**/curve.txt")
    assert set(curve.read_text()) <= set("▁▂▃▄▅▆▇█")
    (metrics,) = folder.glob("outputs/**/*DualClipPPO*/metrics.jsonl")
    assert "train/bounded" in metrics.read_text()
    manifest = json.loads(
        (folder / "outputs/sweeps/echo/1_network.memory._target_-indrnn.IndRNN/manifest.json").read_text()
    )
    assert (manifest["status"], manifest["env_steps"]) == ("finished", 216)


@pytest.mark.slow
def test_the_console_script_and_workers_of_a_sweep_find_modules_in_the_current_folder(tmp_path):
    """The script is in another folder, where Python would look for modules."""
    script = tmp_path / "bin" / "seqrl-train"
    script.parent.mkdir()
    script.write_text("from seqrl.train import main\nmain()\n")
    sweep = ["-m", "hydra/launcher=joblib", "--config-dir", "my_conf", "experiment=echo", CELL, "seed=1"]
    own = ["trust=[echo,indrnn]", *SHORT, "hydra.sweep.dir=sweep"]
    ran = in_the_example(tmp_path / "own", sys.executable, script, *sweep, *own)
    assert ran.returncode == 0, ran.stderr
    assert "sweep: 1 finished" in ran.stdout


@pytest.fixture
def _in_the_example_folder(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    yield
    for name in ("echo", "indrnn", "dual_clip"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("_in_the_example_folder")
@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 2.0, -2.0),
        (4.0, 2.0, -2.4),  # clipped, ε = 0.2
        (0.5, -1.0, 0.8),  # clipped
        (2.0, -1.0, 2.0),
        (4.0, -1.0, 3.0),  # bounded, c = 3
    ],
)
def test_the_dual_clip_loss_matches_values_computed_by_hand(ratio, advantage, expected):
    from dual_clip import DualClipPPO

    policy = SimpleNamespace(log_prob=lambda action: torch.tensor([ratio]).log())
    batch = SimpleNamespace(action=None, log_prob=torch.zeros(1), advantage=torch.tensor([advantage]))
    settings = {**SHARED, "clip_range": 0.2, "target_kl": None, "dual_clip": 3.0}
    loss, terms = DualClipPPO(small_network(Script([[3]])), None, **settings).policy_loss(policy, batch, 0.0)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert terms["train/bounded"] == (expected == 3.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "low", "high"), [(CELL, 0.97, 1.0), ("network=lstm", 0.93, 1.0), ("network=mlp", 0.15, 0.35)]
)
def test_the_melody_is_learned_with_memory_and_not_without(tmp_path, choice, low, high):
    words = ["--config-dir", "my_conf", "experiment=echo", choice, "trust=[echo,indrnn]", "hydra.run.dir=run"]
    ran = in_the_example(tmp_path / "own", sys.executable, "-m", "seqrl.train", *words)
    assert ran.returncode == 0, ran.stderr
    returned = json.loads((tmp_path / "own" / "run" / "manifest.json").read_text())["result"]
    # Its rewards are rounded to float32 before they are added up.
    assert low <= returned <= high + 1e-6
