"""The guide's own command line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from seqrl.configuration import CONF, faults
from seqrl.errors import ConfigError
from seqrl.guide import command

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "examples" / "guide"
SCRIPT = ROOT / "scripts" / "train.py"


def composed(overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", overrides)


def translated(folder, text, *flags):
    (folder / "a.yml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return command(["--config", str(folder / "a.yml"), *flags])[0]


def what_is_said(folder, text, *flags):
    with pytest.raises(ConfigError) as caught:
        translated(folder, text, *flags)
    return [fault.replace(f"{folder}/", "") for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("file", "profile"), [("train_config.yml", "testing"), ("train_config_long.yml", "production")]
)
def test_the_templates_say_what_the_profiles_say(file, profile):
    overrides, only_print = command(["--config", str(GUIDE / "config" / file)])
    guide, ours = composed(overrides), composed([f"profile={profile}"])
    # The template itself does not speak of checkpoints.
    guide.checkpoint_interval = ours.checkpoint_interval
    assert OmegaConf.to_container(guide, resolve=True) == OmegaConf.to_container(ours, resolve=True)
    assert not only_print


ENABLED = "sequence_learning: {enabled: true, bptt_length: %s, grad_clip_norm: %s}\n"


@pytest.mark.parametrize(
    ("text", "flags", "overrides"),
    [
        # Patterns.
        (
            "episodes: 1\nparallel: 1\nsequence_learning:\n  enabled: true\n  bptt_length: 0\ndevice: cpu\n",
            [],
            "network=lstm sequence=full device=cpu episodes=1 parallel=1",
        ),
        (
            "episodes: 100\nparallel: 10\ndevice: cpu\n" + ENABLED % (20, 5.0),
            [],
            "network=lstm sequence=truncated sequence_learning.bptt_length=20 sequence_learning.grad_clip_norm=5.0 "
            "device=cpu episodes=100 parallel=10",
        ),
        (
            "episodes: 1000\nparallel: 100\ndevice: cpu\ncheckpoint_interval: 100\n" + ENABLED % (50, 10.0),
            [],
            "network=lstm sequence=truncated sequence_learning.bptt_length=50 sequence_learning.grad_clip_norm=10.0 "
            "device=cpu episodes=1000 parallel=100 checkpoint_interval=100",
        ),
        (
            "parallel: 5\n" + ENABLED % (10, 3.0),
            [],
            "network=lstm sequence=truncated sequence_learning.bptt_length=10 sequence_learning.grad_clip_norm=3.0 "
            "parallel=5",
        ),
        # Manual override, and what is true where nothing is said.
        ("sequence_learning: {enabled: false}\nnetwork: {use_lstm: true}\n", [], "network=lstm sequence=off"),
        ("episodes: 2\n", [], "network=lstm sequence=off episodes=2"),
        # Migration.
        (
            ENABLED % (0, 5.0) + "network:\n  use_lstm: true\n",
            [],
            "network=lstm sequence=full sequence_learning.grad_clip_norm=5.0",
        ),
        # Networks.
        ("network: {use_lstm: false}\n", [], "network=mlp sequence=off"),
        ("network: {use_lstm: true, use_attention: true}\n", [], "network=attention sequence=off"),
        ("network: {type: attention, hidden_size: 64}\n", [], "network=attention network.hidden_size=64 sequence=off"),
        (
            "network: {type: lstm, use_attention: true}\n",
            [],
            "network=lstm network.use_attention=true sequence=off",
        ),
        # Devices, clipping.
        ("device: cuda:1\n", [], "network=lstm sequence=off device=cuda device.name=cuda:1"),
        (
            "sequence_learning: {enabled: true, grad_clip_norm: null}\n",
            [],
            "network=lstm sequence=full sequence_learning.grad_clip_norm=null",
        ),
        # Flags win over the file, overrides come last.
        (
            "episodes: 10\nalgorithm: ppo\n",
            ["--episodes", "100", "--algorithm", "reinforce", "env.id=Acrobot-v1"],
            "network=lstm sequence=off algorithm=reinforce episodes=100 env.id=Acrobot-v1",
        ),
        (
            ENABLED % (0, 5),
            ["--bptt-length", "20"],
            "network=lstm sequence=truncated sequence_learning.bptt_length=20 sequence_learning.grad_clip_norm=5",
        ),
    ],
)
def test_what_the_guide_writes_becomes_overrides(tmp_path, text, flags, overrides):
    assert " ".join(translated(tmp_path, text, *flags)) == overrides


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "episodes: 1\nsequence_lerning:\n  enabled: true\n",
            "a.yml:2: there is no key sequence_lerning. Did you mean",
        ),
        ("bptt_length: 3\n", "a.yml:1: there is no key bptt_length. Did you mean sequence_learning.bptt_length?"),
        ("sequence_learning:\n  bptt_lenght: 3\n", "a.yml:2: there is no key sequence_learning.bptt_lenght. Did you"),
        ("network: lstm\n", "a.yml:1: network is a section. Write its keys below it, indented."),
        ("episodes: {a: 1}\n", "a.yml:1: episodes must be a whole number. Write episodes: and a value in one line."),
        ("episodes: 0\n", "a.yml:1: episodes: must be a whole number of at least 1 (got 0)."),
        ("episodes: 1.5\n", "a.yml:1: episodes: must be a whole number (got 1.5)."),
        ("episodes: abc\n", "a.yml:1: episodes: must be a whole number (got abc)."),
        ("episodes: null\n", "a.yml:1: episodes: must be a whole number (got null)."),
        ("episodes: 010\n", "a.yml:1: episodes: must be a whole number (got 010). Numbers do not begin with 0."),
        ("parallel: true\n", "a.yml:1: parallel: must be a whole number (got true)."),
        ("sequence_learning: {bptt_length: -1}\n", "a.yml:1: sequence_learning.bptt_length: must be 0 for whole"),
        ("sequence_learning: {grad_clip_norm: .nan}\n", "a.yml:1: sequence_learning.grad_clip_norm: must be a finite"),
        ("sequence_learning: {enabled: off}\n", "a.yml:1: sequence_learning.enabled: must be true or false (got off)."),
        ("sequence_learning: {enabled: 'true'}\n", "a.yml:1: sequence_learning.enabled: must be true or false (got"),
        ("network: {type: gru}\n", "a.yml:1: network.type: must be one of lstm, attention, mlp (got 'gru')."),
        ("algorithm: pppo\n", "a.yml:1: algorithm: must be one of ppo, reinforce (got 'pppo'). Did you mean ppo?"),
        ("device: cdua\n", "a.yml:1: device: must be one of auto, cpu, cuda, mps, cuda:<n> (got 'cdua'). Did you mean"),
        ("episodes: 1\nparallel: 2\nepisodes: 3\n", "a.yml:3: episodes stands here and in line 1. Keep one of them."),
        ("a:\n\tb: 1\n", "a.yml:2: found character '\\t' that cannot start any token. Indent with spaces."),
        ("a: [1\n", "a.yml:2: expected ',' or ']', but got '<stream end>'. Mend the YAML."),
        ("", "a.yml: is empty. Write lines such as episodes: 10."),
        ("- 1\n- 2\n", "a.yml: does not hold keys and values. Write lines such as episodes: 10."),
        (b"a: \x00\n", "a.yml: "),
        (b"a: \xff\xfe\n", "a.yml: is not text in UTF-8. Name a YAML file."),
    ],
)
def test_a_wrong_file_is_answered_with_file_line_and_remedy(tmp_path, text, said):
    (fault,) = what_is_said(tmp_path, text)
    assert fault.startswith(said)
    assert "\n" not in fault


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--episodes", "0"], "--episodes: must be a whole number of at least 1 (got 0)."),
        (["--episodes", ""], "--episodes: must be a whole number (got )."),
        (["--episodes"], "argument --episodes: expected one argument. All flags: --help."),
        (["--paralel", "3"], "--paralel: there is no such flag. Did you mean --parallel?"),
        (["episodes"], "episodes: is neither a flag nor key=value."),
        (["--config", "nope.yml"], "--config: nope.yml cannot be read: No such file or directory. Name a YAML file."),
        (["--config", "/"], "--config: / cannot be read: Is a directory. Name a YAML file."),
    ],
)
def test_a_wrong_flag_is_answered_with_a_remedy(flags, said):
    with pytest.raises(ConfigError) as caught:
        command(flags)
    assert caught.value.faults == [said]


def test_all_faults_of_file_and_flags_are_said_at_once(tmp_path):
    text = "episodes: 0\nparallel: x\nnope: 1\nsequence_learning:\n  bptt_length: -1\n"
    said = what_is_said(tmp_path, text, "--device", "tpu", "--sead", "1")
    assert [fault.split(": ")[0] for fault in said] == [
        "--sead",
        "a.yml:3",
        "a.yml:1",
        "a.yml:2",
        "a.yml:5",
        "--device",
    ]


def run(folder, *arguments):
    done = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(done, cwd=folder, capture_output=True, text=True, timeout=120)


SHORT = ["evaluation.episodes=2", "logger=jsonl", "total_steps=200"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--config", "config/train_config.yml"],
        ["--config", "config/train_config_long.yml", "--device", "cpu", "parallel=3"],
        ["--config", "config/train_config.yml", "--episodes", "100"],
        ["--episodes", "1", "--parallel", "1", "--device", "cpu"],
        ["--config", "config/your_config.yml", "--episodes", "1", "--parallel", "1"],
        [
            "--config",
            "config/train_config.yml",
            "--episodes",
            "1",
            "--parallel",
            "1",
            "--device",
            "cpu",
            "--algorithm",
            "ppo",
        ],
    ],
)
def test_every_command_of_the_guide_trains(tmp_path, flags):
    shutil.copytree(GUIDE / "config", tmp_path / "config")
    (tmp_path / "config" / "your_config.yml").write_text("sequence_learning: {enabled: true}\nepisodes: 500\n")
    done = run(tmp_path, *flags, *SHORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("python -m seqrl.train network=")
    assert "mean return" in done.stdout


def test_print_only_says_the_command(tmp_path):
    done = run(tmp_path, "--print", "--episodes", "1", "hydra.run.dir='a b'")
    assert (
        done.stdout == "python -m seqrl.train network=lstm sequence=off episodes=1 'hydra.run.dir='\"'\"'a b'\"'\"''\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_wrong_command_line_ends_in_lines_and_exit_code_2(tmp_path):
    (tmp_path / "a.yml").write_text("episodez: 1\nparallel: 0\n")
    done = run(tmp_path, "--config", "a.yml")
    assert done.returncode == 2
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first == "seqrl: error: a.yml:1: there is no key episodez. Did you mean episodes?"
    assert second == "seqrl: error: a.yml:2: parallel: must be a whole number of at least 1 (got 0)."
    assert [path.name for path in tmp_path.iterdir()] == ["a.yml"]


def test_what_contradicts_itself_in_a_file_is_answered_by_the_program(tmp_path):
    overrides = translated(tmp_path, "network: {type: lstm, use_attention: true}\n")
    (fault,) = faults(composed(overrides))
    assert fault.startswith("network.type: lstm contradicts use_lstm=true and use_attention=true")
