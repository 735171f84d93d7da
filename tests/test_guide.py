"""The configuration guide: its YAML, its flags and its commands."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from seqrl.config.guide import translate
from seqrl.config.paths import CONF
from seqrl.config.schema import CELLS
from seqrl.config.validate import faults
from seqrl.errors import ConfigError
from tests.programs import run_program

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "guide"
TESTING, PRODUCTION = "config/train_config.yml", "config/train_config_long.yml"


@pytest.fixture(autouse=True)
def _in_the_example(monkeypatch):
    monkeypatch.chdir(EXAMPLE)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", overrides=list(overrides))


def said(content: str | bytes, folder: Path, *others: str, **flags: str) -> str:
    """What a file of that content stands for."""
    file = folder / "your_config.yml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return " ".join(translate(str(file), flags, others))


def complaints(content: str | bytes, folder: Path, *others: str, **flags: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        said(content, folder, *others, **flags)
    return [fault.replace(f"{folder}/", "") for fault in caught.value.faults]


FRAGMENTS = {
    "basic": (
        "sequence_learning:\n  enabled: true\n  bptt_length: 0   # 0 = full episode\n  grad_clip_norm: 5.0\n",
        "sequence=full sequence_learning.grad_clip_norm=5.0",
    ),
    "cpu": ("device: cpu\n", "sequence=off device=cpu"),
    "cuda": ("device: cuda\n", "sequence=off device=cuda"),
    "mps": ("device: mps\n", "sequence=off device=mps"),
    "manual override": ("sequence_learning:\n  enabled: false\n", "sequence=off"),
    "pattern 1, quick testing": (
        "episodes: 1\nparallel: 1\nsequence_learning:\n  enabled: true\n  bptt_length: 0\ndevice: cpu\n",
        "sequence=full device=cpu episodes=1 parallel=1",
    ),
    "pattern 2, development": (
        "episodes: 100\nparallel: 10\nsequence_learning:\n  enabled: true\n  bptt_length: 20\n"
        "  grad_clip_norm: 5.0\ndevice: cpu\n",
        "sequence=truncated device=cpu episodes=100 parallel=10 sequence_learning.bptt_length=20 "
        "sequence_learning.grad_clip_norm=5.0",
    ),
    "pattern 3, production": (
        "episodes: 1000\nparallel: 100\nsequence_learning:\n  enabled: true\n  bptt_length: 50\n"
        "  grad_clip_norm: 10.0\ndevice: cpu\ncheckpoint_interval: 100\n",
        "sequence=truncated device=cpu episodes=1000 parallel=100 sequence_learning.bptt_length=50 "
        "sequence_learning.grad_clip_norm=10.0 checkpoint_interval=100",
    ),
    "pattern 4, memory-constrained": (
        "sequence_learning:\n  enabled: true\n  bptt_length: 10    # Short sequences\n  grad_clip_norm: 3.0\n"
        "parallel: 5  # Fewer parallel environments\n",
        "sequence=truncated sequence_learning.bptt_length=10 sequence_learning.grad_clip_norm=3.0 parallel=5",
    ),
    "memory issues": (
        "sequence_learning:\n  bptt_length: 10\nparallel: 5\n",
        "sequence=off sequence_learning.bptt_length=10 parallel=5",
    ),
    "instability": (
        "sequence_learning:\n  grad_clip_norm: 2.0\n",
        "sequence=off sequence_learning.grad_clip_norm=2.0",
    ),
    "slow training": (
        "sequence_learning:\n  bptt_length: 20\nparallel: 20\n",
        "sequence=off sequence_learning.bptt_length=20 parallel=20",
    ),
    "migration": (
        "sequence_learning:\n  enabled: true\n  bptt_length: 0\n  grad_clip_norm: 5.0\n\nnetwork:\n  use_lstm: true\n",
        "network=lstm sequence=full sequence_learning.grad_clip_norm=5.0 network.use_lstm=true",
    ),
}


@pytest.mark.thin(3)
@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_a_fragment_of_the_guide_stands_for_overrides_without_a_fault(fragment, tmp_path):
    content, expected = FRAGMENTS[fragment]
    assert said(content, tmp_path) == expected
    assert faults(composed(*expected.split())) == []


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("config", "flags", "expected"),
    [
        (TESTING, {}, {"parallel": 10, "episodes": 10}),
        (PRODUCTION, {"device": "cpu"}, {"parallel": 100, "episodes": 1000}),
        (TESTING, {"episodes": "100"}, {"parallel": 10, "episodes": 100}),
        (None, {"episodes": "1", "parallel": "1", "device": "cpu"}, {"parallel": 1, "episodes": 1}),
        (PRODUCTION, {"episodes": "1", "parallel": "1"}, {"parallel": 1, "episodes": 1}),
    ],
)
def test_a_command_of_the_guide_composes_without_a_fault(config, flags, expected):
    cfg = composed(*translate(config, flags, []))
    assert faults(cfg) == []
    assert {key: cfg[key] for key in expected} == expected
    assert cfg.device.name == "cpu"


@pytest.mark.parametrize(("template", "profile"), [(TESTING, "testing"), (PRODUCTION, "production")])
def test_a_template_of_the_guide_is_the_profile_of_that_name(template, profile):
    ours, guides = composed(f"profile={profile}"), composed(*translate(template, {}, []))
    keys = ("sequence_learning", "network", "episodes", "parallel", "algorithm", "device")
    assert {key: guides[key] for key in keys} == {key: ours[key] for key in keys}


@pytest.mark.thin(8)
@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("type: lstm", "network=lstm"),
        ("type: attention", "network=attention"),
        ("type: mlp", "network=mlp"),
        ("use_lstm: true", "network=lstm network.use_lstm=true"),
        ("use_lstm: false", "network=mlp network.use_lstm=false"),
        ("use_attention: true", "network=attention network.use_attention=true"),
        ("use_attention: false", "network=lstm network.use_attention=false"),
        ("hidden_size: 8", "network.hidden_size=8"),
    ],
)
@pytest.mark.parametrize(
    ("enabled", "length", "sequence"),
    [
        ("true", 0, "sequence=full"),
        ("true", 7, "sequence=truncated"),
        ("false", 0, "sequence=off"),
        ("false", 7, "sequence=off"),
    ],
)
def test_the_sections_choose_the_groups(network, expected, enabled, length, sequence, tmp_path):
    content = f"sequence_learning: {{enabled: {enabled}, bptt_length: {length}}}\nnetwork:\n  {network}\n"
    length = [f"sequence_learning.bptt_length={length}"] if length else []
    assert sorted(said(content, tmp_path).split()) == sorted([*expected.split(), sequence, *length])
    assert faults(composed(*said(content, tmp_path).split())) == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("device: cuda:1", "device=cuda device.name=cuda:1"),
        ("device: auto", "device=auto"),
        ("algorithm: reinforce", "algorithm=reinforce"),
        ("env: masked_cartpole", "env=masked_cartpole"),
        ("env: corridor:Corridor-v0", "env=gymnasium env.id=corridor:Corridor-v0"),
        ("total_steps: null", "total_steps=null"),
        ("rollout_length: 128", "rollout_length=128"),
        ("seed: 0", "seed=0"),
        ("sequence_learning.grad_clip_norm: 1e-1", "sequence_learning.grad_clip_norm=0.1"),
        ("sequence_learning: {grad_clip_norm: 5}", "sequence_learning.grad_clip_norm=5.0"),
        ("sequence_learning: {grad_clip_norm: ~}", "sequence_learning.grad_clip_norm=null"),
        ("network: {separate_critic: True}", "network.separate_critic=true"),
        ("network: {}\nparallel: 2", "parallel=2"),
        ("\ufeffparallel: 2\r\nepisodes: 3\r\n", "parallel=2 episodes=3"),
    ],
)
def test_a_setting_stands_for_an_override(setting, expected, tmp_path):
    assert said(setting, tmp_path).replace("sequence=off ", "") == expected


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("others", "flags", "expected"),
    [
        ([], {"parallel": "3"}, {"parallel": 3}),
        (["parallel=4"], {"parallel": "3"}, {"parallel": 4}),
        (["network=mlp"], {}, {"network.type": "mlp", "network.hidden_size": 256}),
        (["sequence=full"], {}, {"sequence_learning.bptt_length": 0, "sequence_learning.grad_clip_norm": 10}),
        (["sequence_learning.bptt_length=3"], {}, {"sequence_learning.bptt_length": 3}),
        (["device=auto"], {"device": "cuda:1"}, {"device.name": "auto"}),
        (["env=gymnasium", "env.id=Acrobot-v1"], {"env": "masked_cartpole"}, {"env.id": "Acrobot-v1"}),
        (["env=masked_cartpole"], {"env": "Acrobot-v1"}, {"env.max_episode_steps": 500}),
        (["env.max_episode_steps=9", "+logger.jsonl.x=1"], {}, {"env.max_episode_steps": 9}),
    ],
)
def test_the_command_line_wins_over_the_file(others, flags, expected):
    cfg = composed(*translate(PRODUCTION, flags, others))
    assert faults(cfg) == []
    assert {key: OmegaConf.select(cfg, key) for key in expected} == expected


@pytest.mark.parametrize("other", ["profile=production", "experiment=masked_cartpole", "resume=outputs/runs/a/b"])
def test_what_brings_its_own_sequence_keeps_it(other):
    assert translate(None, {"seed": "1"}, [other]) == ["seed=1", other]


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("episodes: 0", "1: episodes: must be a whole number of at least 1 (got 0)."),
        ("episodes:", "1: episodes: must be a whole number of at least 1 (got nothing)."),
        ("parallel: 1.5", "1: parallel: must be a whole number of at least 1 (got 1.5)."),
        ("\n\nparallel: 010", "3: parallel: must be a whole number of at least 1 (got 010)."),
        ('parallel: "5"', "1: parallel: must be a whole number of at least 1 (got '5')."),
        ("parallel: [5]", "1: parallel: must be one value (got a list)."),
        ("seed: ²", "1: seed: must be 0 or more (got ²)."),
        (f"seed: {'9' * 5000}", f"1: seed: must be 0 or more (got {'9' * 60}…)."),
        ("total_steps: no", "1: total_steps: must be a whole number of at least 1 (got no)."),
        ("device: cdua", "1: device: must be one of auto, cpu, cuda, mps (got cdua). Did you mean cuda?"),
        ("device: cuda:one", "1: device: must be one of auto, cpu, cuda, mps (got cuda:one). Did you mean cuda?"),
        ("algorithm: PPO", "1: algorithm: must be one of ppo, reinforce (got PPO)."),
        ("env: a=b", "1: env: must be a name (got a=b)."),
        ("network: lstm", "1: network: is a section (got lstm). Write its keys on the lines below, indented."),
        (
            "network: {type: lstmm}",
            f"1: network.type: must be one of {', '.join(CELLS)}, attention, mlp (got lstmm). Did you mean lstm?",
        ),
        ("network:\n  use_lstm: off", "2: network.use_lstm: must be true or false (got off)."),
        ("network:\n  use_lstm: {a: 1}", "2: network.use_lstm: must be one value (got a section)."),
        ("network:\n  hiden_size: 8", "2: network.hiden_size: there is no such key. Did you mean network.hidden_size?"),
        ("bptt_length: 8", "1: bptt_length: there is no such key. Did you mean sequence_learning.bptt_length?"),
        ("epsiodes: 8", "1: epsiodes: there is no such key. Did you mean episodes?"),
        ("sequence_lerning:", "1: sequence_lerning: there is no such key. Did you mean sequence_learning?"),
        ("[a]: 8", "1: ?: there is no such key. Keys: "),
        ('"a\\nb": 8', r"1: a\nb: there is no such key. Keys: "),
        ('device: "c\\npu"', r"1: device: must be one of auto, cpu, cuda, mps (got 'c\npu')."),
        ("episodes: 1\nepisodes: 2", "2: episodes: is set twice (got 2 after 1). Keep one of the lines."),
        ("network: {heads: 1}\nnetwork: {window: 2}", "2: network: stands twice. Put its keys together."),
        ("", "1: must be keys with values (got nothing). Begin with a line such as episodes: 10"),
        ("# no more\n", "1: must be keys with values (got nothing)."),
        ("\n- episodes: 1\n", "2: must be keys with values (got a list)."),
        ("episodes", "1: must be keys with values (got a value)."),
        ("network:\n\ttype: lstm", "2: has a tab where YAML wants spaces. Replace it."),
        ("network:\n    type: lstm\n  heads: 2", "3: is not YAML: "),
        ("episodes: 1\n---\nepisodes: 1", "2: is not YAML: but found another document."),
        ("a: *b", "1: is not YAML: found undefined alias 'b'."),
        ("\nepisodes: \0", "2: is not text (got character 0x0). Remove it."),
        (b"episodes: 1\nenv: \xff", "2: is not UTF-8 (got byte 0xff). Save the file as UTF-8."),
        pytest.param("[" * 5000, "1: is nested too deeply.", marks=pytest.mark.slow),
    ],
)
def test_a_fault_of_the_file_is_one_line_with_its_place(content, expected, tmp_path):
    (fault,) = complaints(content, tmp_path)
    assert fault.startswith(f"your_config.yml:{expected}")
    assert fault.isprintable()


@pytest.mark.parametrize("text", ["-1", "abc", "1.5", "1_000", "0x10", "1:30", "''", "null"])
def test_a_length_that_is_no_whole_number_is_a_fault(text, tmp_path):
    (fault,) = complaints(f"sequence_learning:\n  bptt_length: {text}\n", tmp_path)
    assert fault == (
        "your_config.yml:2: sequence_learning.bptt_length: must be 0 for whole episodes or a number of steps, such as "
        f"50 (got {text})."
    )


@pytest.mark.parametrize("text", ["0", "-2.0", ".inf", "nan", "1e999", "off", "five"])
def test_a_clipping_norm_that_is_not_finite_and_positive_is_a_fault(text, tmp_path):
    (fault,) = complaints(f"sequence_learning: {{grad_clip_norm: {text}}}", tmp_path)
    assert "must be a number above 0, at most 1e15, such as 5.0, or null for no clipping" in fault


@pytest.mark.parametrize("text", ["off", "on", "yes", "no", "1", "'true'", "maybe", ""])
def test_a_switch_that_is_neither_true_nor_false_is_a_fault(text, tmp_path):
    (fault,) = complaints(f"sequence_learning:\n  enabled: {text}", tmp_path)
    assert fault.startswith("your_config.yml:2: sequence_learning.enabled: must be true or false (got ")


@pytest.mark.parametrize(
    ("flags", "others", "expected"),
    [
        ({"episodes": "0"}, [], "--episodes: must be a whole number of at least 1 (got 0)."),
        ({"episodes": ""}, [], "--episodes: must be a whole number of at least 1 (got nothing)."),
        ({"device": "gpu"}, [], "--device: must be one of auto, cpu, cuda, mps (got gpu)."),
        ({}, ["--epsiodes", "3"], "--epsiodes: there is no such flag. Did you mean --episodes? Flags: --config, "),
        ({}, ["--epsiodes=3"], "--epsiodes: there is no such flag. Did you mean --episodes?"),
        ({}, ["your_config.yml"], "your_config.yml: is neither a flag nor key=value. Write --config your_config.yml"),
    ],
)
def test_a_fault_of_the_command_line_names_its_flag(flags, others, expected):
    with pytest.raises(ConfigError) as caught:
        translate(None, flags, others)
    (fault,) = caught.value.faults
    assert fault.startswith(expected)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("config/train_confg.yml", "cannot be read (No such file or directory). Did you mean config/train_config.yml?"),
        ("config", "cannot be read (Is a directory). Name a YAML file."),
        ("", "cannot be read (Is a directory). Name a YAML file."),
    ],
)
def test_a_file_that_cannot_be_read_is_a_fault(config, expected):
    with pytest.raises(ConfigError) as caught:
        translate(config, {}, [])
    (fault,) = caught.value.faults
    assert fault.startswith(f"{config or '--config'}: {expected}")


def test_every_fault_of_file_and_flags_is_said_at_once(tmp_path):
    content = "episodes: 0\nnetwrk: {type: lstm}\nparallel: x\n"
    found = complaints(content, tmp_path, "--sed", "1", episodes="-1")
    assert [re.split(": (must|there)", fault)[0] for fault in found] == [
        "your_config.yml:1: episodes",
        "your_config.yml:2: netwrk.type",
        "your_config.yml:3: parallel",
        "--episodes",
        "--sed",
    ]


def script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program(folder, str(ROOT / "scripts" / "train.py"), *arguments)


def test_the_script_trains_in_any_folder_and_prints_the_command_first(tmp_path):
    small = ["network.hidden_size=8", "env.max_episode_steps=20", "evaluation.episodes=2"]
    arguments = ["--episodes", "1", "--parallel", "1", "--device", "cpu", "--algorithm", "ppo", *small]
    done = script(tmp_path, "--config", str(EXAMPLE / TESTING), *arguments)
    assert done.returncode == 0, done.stderr
    command, _, introduction, *_ = done.stdout.splitlines()
    assert shlex.split(command)[:3] == ["python", "-m", "seqrl.train"]
    assert "episodes=1" in command
    assert introduction.startswith("SequencePPOAlgorithm")
    # It became that command, with all that this does at its end; and it imports nothing from the working folder.
    (manifest,) = tmp_path.glob("outputs/runs/*/*/manifest.json")
    command = json.loads(manifest.read_text())["command"]
    assert command[command.index("-P") :][1:3] == ["-m", "seqrl.train"]


def test_the_script_translates_without_training(tmp_path):
    done = script(tmp_path, "--print", "--episodes=1", "--checkpoint-interval", "5", "+env.kwargs.name=a b")
    assert done.stdout == (
        "python -m seqrl.train sequence=off episodes=1 checkpoint_interval=5 '+env.kwargs.name=a b'\n"
    )
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])


def test_the_script_ends_in_a_line_a_fault_and_exit_code_2(tmp_path):
    done = script(tmp_path, "--config", "none.yml", "--episodes", "0", "--device")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(" (")[0] for line in done.stderr.splitlines()] == [
        "seqrl: error: none.yml: cannot be read",
        "seqrl: error: --episodes: must be a whole number of at least 1",
        "seqrl: error: --device: must be one of auto, cpu, cuda, mps",
    ]


def test_a_contradiction_is_said_by_the_program_itself(tmp_path):
    (tmp_path / "your_config.yml").write_text("network: {type: lstm, use_attention: true}")
    done = script(tmp_path, "--config", "your_config.yml")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("seqrl: error: network.type: lstm contradicts")


@pytest.mark.thin(6)
@pytest.mark.parametrize(
    "flags",
    [
        "--config config/train_config.yml",
        "--config config/train_config_long.yml --device cpu parallel=3",
        "--config config/train_config.yml --episodes 100",
        "--episodes 1 --parallel 1 --device cpu",
        "--config config/your_config.yml --episodes 1 --parallel 1",
        "--config config/train_config.yml --episodes 1 --parallel 1 --device cpu --algorithm ppo",
    ],
)
def test_every_command_of_the_guide_trains(tmp_path, flags):
    shutil.copytree(EXAMPLE / "config", tmp_path / "config")
    (tmp_path / "config" / "your_config.yml").write_text("sequence_learning:\n  enabled: true\nepisodes: 500\n")
    short = ["evaluation.episodes=2", "logger=jsonl", "total_steps=200"]
    done = script(tmp_path, *flags.split(), *short)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("python -m seqrl.train ")
    assert "mean return" in done.stdout
