"""Nothing is imported that the command line has not named, and no secret is written down."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from seqrl.config.command_line import arguments
from seqrl.config.hydra_errors import complaint
from seqrl.config.paths import CONF
from seqrl.config.program import completed
from seqrl.config.trust import public
from seqrl.config.validate import faults
from seqrl.errors import ConfigError
from tests.programs import run_program

TINY = ["episodes=1", "parallel=2", "env.max_episode_steps=5", "evaluation.episodes=0", "logger=jsonl"]
TINY += ["network.hidden_size=8", "network.lstm_hidden_size=8"]


def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", list(overrides))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "pathlib.Path.write_text",
        "torch.load",
        "torch.hub.load",
        "torch.os.system",
        "torch.nn.modules.module.warnings.warn",
        "gymnasium.make",
        "hydra.utils.get_object",
        "seqrl.runs.manifest.subprocess.run",
        "seqrl.envs.gym.backends.os.system",
        "seqrl.networks.network.torch.load",
        "seqrl.files.write",
        "my_module.Thing",
    ],
)
@pytest.mark.parametrize("place", ["env", "network", "algorithm", "logger.mine", "env.kwargs.part"])
def test_a_target_that_nobody_named_is_refused_wherever_it_stands(place, target):
    cfg = composed("env=gymnasium")
    OmegaConf.set_struct(cfg, False)
    OmegaConf.update(cfg, f"{place}._target_", target, force_add=True)
    found = [line for line in faults(cfg) if "_target_" in line and target in line]
    (line,) = found
    assert "add trust=[" in line


@pytest.mark.parametrize(
    "choice", ["env=tmaze", "network=attention", "device=cuda", "algorithm=reinforce", "logger=jsonl"]
)
def test_what_seqrl_ships_needs_no_trust(choice):
    assert not [line for line in faults(composed(choice)) if "trust" in line]


def test_parts_of_torch_that_only_compute_need_no_trust():
    part = ["+network.activation._target_=torch.nn.Tanh"]
    assert not [line for line in faults(composed(*part)) if "trust" in line]


@pytest.mark.parametrize("module", ["my_module", "os"])
def test_an_environment_of_a_module_that_nobody_named_is_refused(module):
    cfg = composed("env=gymnasium", f"env.id={module}:Thing-v0")
    assert faults(cfg) == [
        f"env.id: would import {module} (got {module}:Thing-v0). If you trust it, add trust=[{module}]."
    ]
    assert faults(composed("env=gymnasium", f"env.id={module}:Thing-v0", f"trust=[{module}]")) == []
    assert faults(composed("env=gymnasium", f"env.id={module}x:Thing-v0", f"trust=[{module}]")) != []
    assert faults(composed("env=gymnasium", "env.id=popgym:popgym-RepeatFirstEasy-v0")) == []


def test_one_list_names_all_that_must_be_trusted_as_the_last_one_given_counts_alone():
    own = ["env=gymnasium", "env.id=mine:Thing-v0", "+logger.a._target_=yours.Logger", "trust=[theirs]"]
    lines = faults(composed(*own))
    assert len(lines) == 2
    assert all(line.endswith(" If you trust it, add trust=[theirs,mine,yours].") for line in lines)
    assert faults(composed(*own[:-1], "trust=[theirs,mine,yours]")) == []


# Imported, built or called, it leaves a file behind.
EVIL = "from pathlib import Path\nPath('created').touch()\ndef thing(*_, **__): ...\n"


def train(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run_program(folder, "-m", "seqrl.train", *words, env={**os.environ, **env})


@pytest.fixture
def evil(tmp_path):
    (tmp_path / "evil.py").write_text(EVIL)
    return tmp_path


# Each with what is said of it; those of Hydra's own would be imported before a run is checked.
FILES = {
    "target": ("_target_: evil.thing\nuse_lstm: true\n", "evil.thing is not of seqrl"),
    "nested target": (
        "_target_: seqrl.networks.recurrent_network\nuse_lstm: true\npart: {_target_: evil.thing}\n",
        "network.part._target_: evil.thing is not of seqrl",
    ),
    "a tag": ("_target_: !!python/object/apply:os.system ['touch created']\n", "could not determine a constructor"),
    "callback": (
        "# @package _global_\nhydra: {callbacks: {evil: {_target_: evil.thing}}}\n",
        "hydra.callbacks.evil: would import evil.thing",
    ),
    "log handler": (
        "# @package _global_\nhydra: {job_logging: {handlers: {evil: {(): evil.thing}}}}\n",
        "hydra.job_logging.handlers.evil: would import evil.thing",
    ),
    "resolver": ("# @package _global_\nseed: '${evil:1}'\n", "seed: "),
}


@pytest.mark.parametrize("name", FILES)
def test_an_evil_file_is_refused_and_creates_nothing(evil, monkeypatch, name):
    text, said = FILES[name]
    group = "profile" if "_global_" in text else "network"
    (evil / "conf" / group).mkdir(parents=True)
    (evil / "conf" / group / "bad.yaml").write_text(text)
    monkeypatch.chdir(evil)
    monkeypatch.syspath_prepend(evil)
    words = ["--config-dir", "conf", f"{group}=bad"]

    def begin():
        completed(words, leave_nothing=False)
        raise ConfigError(faults(composed(f"hydra.searchpath=[file://{evil}/conf]", f"{group}=bad")))

    # Of any kind that is answered in lines.
    with pytest.raises(Exception) as caught:  # noqa: PT011
        begin()
    lines, exit_code = complaint(caught.value, words)
    assert exit_code == 2
    assert any(said in line for line in lines), lines
    assert not (evil / "created").exists()


@pytest.mark.parametrize(
    "text",
    [
        "# @package _global_\ntrust: [evil]\nlogger: {mine: {_target_: evil.thing}}\n",
        "# @package _global_\nhydra: {callbacks: {evil: {_target_: evil.thing}}}\n",
    ],
)
def test_an_evil_file_cannot_vouch_for_itself(evil, text):
    (evil / "conf" / "profile").mkdir(parents=True)
    (evil / "conf" / "profile" / "bad.yaml").write_text(text)
    done = train(evil, "--config-dir", "conf", "profile=bad")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("seqrl: error: ")
    assert not (evil / "created").exists()


def test_what_is_trusted_on_the_command_line_is_imported(evil):
    train(evil, "+logger.mine._target_=evil.thing", "trust=[evil]", *TINY)
    assert (evil / "created").exists()


EVIL_OVERRIDES = [
    "+hydra.callbacks.evil._target_=evil.thing",
    "++hydra.job_logging.handlers.evil.class=evil.thing",
    "hydra/launcher=evil",
    "hydra.run.dir=created",
    "--config-dir=created",
    "--multirun",
    "trust=[evil]",
    "+trust=[evil]",
]


def test_an_old_run_chooses_values_and_nothing_else(tmp_path):
    manifest = {"overrides": ["seed=3", *EVIL_OVERRIDES], "config_dir": None}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert arguments([f"resume={tmp_path}"]) == ["seed=3", f"hydra.run.dir='{tmp_path}'", f"resume='{tmp_path}'"]


def test_a_run_that_was_tampered_with_imports_nothing(evil):
    assert train(evil, *TINY, "hydra.run.dir=run").returncode == 0
    manifest = json.loads((evil / "run" / "manifest.json").read_text())
    manifest["overrides"] += ["+logger.mine._target_=evil.thing", *EVIL_OVERRIDES]
    (evil / "run" / "manifest.json").write_text(json.dumps(manifest))
    done = train(evil, "resume=run", "episodes=2")
    assert done.returncode == 2
    assert done.stderr.startswith("seqrl: error: logger.mine._target_: evil.thing is not of seqrl.")
    assert not (evil / "created").exists()


def test_files_of_ones_own_are_named_again_on_resuming(tmp_path):
    manifest = {"overrides": ["network=own"], "config_dir": "/mine"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        Exception, match=r"^resume: this run used files of your own\. Name them again, --config-dir /mine$"
    ):
        arguments([f"resume={tmp_path}"])
    assert arguments([f"resume={tmp_path}", "--config-dir", "/moved"])[0] == "network=own"


def test_a_variable_reaches_the_run_and_no_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import json\n"
        "class Logger:\n"
        "    def __init__(self, folder, env_steps, api_key):\n"
        "        assert api_key == 'hush-hush-4711'\n"
        "    def write(self, row, env_steps): ...\n"
        "    def close(self): ...\n"
    )
    own = ["+logger.mine._target_=mine.Logger", "+logger.mine.api_key=${oc.env:MY_KEY}", "trust=[mine]"]
    done = train(tmp_path, *own, *TINY, "hydra.run.dir=run", MY_KEY="hush-hush-4711")
    assert done.returncode == 0, done.stderr
    saved = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(saved) > 5
    assert not [path for path in saved if b"hush-hush" in path.read_bytes()]
    assert OmegaConf.load(tmp_path / "run" / "config.yaml")._get_node("logger").mine._get_node("api_key")._value() == (
        "${oc.env:MY_KEY}"
    )
    again = train(tmp_path, "resume=run", "episodes=2", "trust=[mine]", MY_KEY="hush-hush-4711")
    assert again.returncode == 0, again.stderr
    assert "hush-hush" not in again.stdout


def test_variables_keep_their_names_in_what_is_saved(monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush-hush")
    monkeypatch.setenv("MY_SEED", "7")
    kwargs = (
        "+env.kwargs={key: '${oc.env:MY_KEY}', again: '${env.kwargs.key}!', list: ['${oc.env:MY_KEY}'], none: null}"
    )
    cfg = composed("env=gymnasium", kwargs, "seed=${oc.env:MY_SEED}")
    saved = OmegaConf.to_container(public(cfg))
    variable = "${oc.env:MY_KEY}"
    assert saved["env"]["kwargs"] == {"key": variable, "again": f"{variable}!", "list": [variable], "none": None}
    assert saved["seed"] == 7
    assert saved["algorithm"]["_target_"] == "seqrl.algorithms.SequencePPOAlgorithm"
    assert cfg.env.kwargs.key == "hush-hush"


@pytest.mark.parametrize("words", [["+env.kwargs.token=hush"], ["-m", "+env.kwargs.api_key=hush,hum"]])
def test_a_secret_that_is_typed_is_refused_before_it_is_written_down(tmp_path, words):
    done = train(tmp_path, "env=gymnasium", *words)
    assert done.returncode == 2
    assert "looks like a secret, and is saved with the run. Export it as a variable, and write" in done.stderr
    assert not list(tmp_path.iterdir())
