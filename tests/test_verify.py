"""`python -m seqrl.verify` passes sound parts and reports defects."""

import subprocess
from pathlib import Path

import pytest
import torch

from seqrl.envs import GymnasiumEnv
from seqrl.seeds import stream
from seqrl.verify.checks import env_checks, network_checks, played
from tests import broken
from tests.programs import run_program
from tests.worlds import Script


def walks(name="Walk"):
    def make(batch_size, purpose):
        return GymnasiumEnv(f"broken/{name}-v0", batch_size, seed=stream(0, purpose), backend="sync")

    return make


def failed_by_network(block, bptt_length, make_env=None):
    make_env = make_env or walks()
    torch.manual_seed(0)
    env = make_env(1, "spaces")
    network = broken.network(env.observation_space, env.action_space, block=block)
    return {finding.name for finding in network_checks(played(make_env, network, bptt_length)) if not finding.passed}


def failed_by_env(name):
    return {finding.name for finding in env_checks(walks(name)) if not finding.passed}


@pytest.mark.parametrize("bptt_length", [0, 1, 5])
def test_a_sound_network_passes_everything(bptt_length):
    assert failed_by_network("sound", bptt_length) == set()


@pytest.mark.parametrize("ends", ["terminated", "truncated", "both", "mixed"])
@pytest.mark.parametrize("ghosts", [False, True])
def test_a_sound_network_passes_with_every_kind_of_end(ends, ghosts):
    def make(batch_size, purpose):
        return Script([[3, 5, 1], [20], [2, 9], [1]], ends=ends, ghosts=ghosts)

    assert failed_by_network("sound", 4, make) == set()


def test_a_sound_environment_passes_everything():
    assert failed_by_env("Walk") == set()


RATIO, VALUES = "ratio is 1 before the first update", "acting equals the unrolled sequence"
GRADIENTS, LEAK = "gradients equal the plain reference", "nothing leaks across a reset"
ALONE, LEFT = "padding and neighbours change nothing", "nothing is left in memory after a reset"


@pytest.mark.parametrize(
    ("block", "reported"),
    [
        ("Leaky", {RATIO, VALUES, GRADIENTS, LEAK}),
        ("Centred", {RATIO, VALUES, GRADIENTS, ALONE}),
        ("StopsGradient", {GRADIENTS}),
        ("BeginsWithOnes", {LEFT}),
        ("ForgetsWhenActing", {RATIO, VALUES, GRADIENTS}),
        ("DropsOut", {RATIO, VALUES, GRADIENTS}),
    ],
)
def test_a_planted_defect_of_a_network_is_reported(block, reported):
    assert reported <= failed_by_network(block, 0)


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("Unseeded", "environment repeats with seed and actions"),
        ("Endless", "episodes end"),
        ("OutOfBounds", "observations lie in their space"),
        ("FirstForFinal", "the final observation is its own"),
    ],
)
def test_a_planted_defect_of_an_environment_is_reported(name, reported):
    assert failed_by_env(name) == {reported}


@pytest.mark.parametrize("backend", ["vector", "sync"])
def test_a_sound_environment_passes_with_any_backend(backend):
    def make_env(batch_size, purpose):
        return GymnasiumEnv("CartPole-v1", batch_size, seed=stream(0, purpose), backend=backend)

    assert not [finding.name for finding in env_checks(make_env) if not finding.passed]


def verified(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program(folder, "-m", "seqrl.verify", *arguments)


@pytest.fixture
def beside_the_work(tmp_path):
    """A folder with a user's module and a configuration file for its network."""
    (tmp_path / "mine.py").write_text(Path(broken.__file__).read_text())
    (tmp_path / "conf" / "network").mkdir(parents=True)
    (tmp_path / "conf" / "network" / "own.yaml").write_text("_target_: mine.network\nuse_lstm: true\nblock: sound\n")
    return tmp_path


def test_the_program_passes_sound_parts_and_writes_no_files(beside_the_work):
    before = sorted(beside_the_work.rglob("*.y*"))
    sound = ["--config-dir", "conf", "network=own", "trust=[mine]", "env.id=mine:broken/Walk-v0"]
    done = verified(beside_the_work, *sound)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("  pass  ") == 11
    assert sorted(beside_the_work.rglob("*.y*")) == before
    assert not (beside_the_work / "outputs").exists()


def test_the_program_reports_defects_with_remedies_and_exit_code_1(beside_the_work):
    planted = ["trust=[mine]", "env.id=mine:broken/Unseeded-v0", "network.block=Leaky"]
    done = verified(beside_the_work, "--config-dir", "conf", "network=own", *planted)
    assert done.returncode == 1
    assert "FAIL  environment repeats with seed and actions" in done.stdout
    assert "-> draw all randomness from self.np_random" in done.stdout
    assert "FAIL  nothing leaks across a reset" in done.stdout


def test_a_faulty_configuration_gets_the_same_answer_as_from_seqrl_train(tmp_path):
    done = verified(tmp_path, "env.id=Nope-v0")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("seqrl: error: env.id: no environment is registered as 'Nope-v0'")
