"""A run's folder is untrusted data, and may still be changing."""

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from seqrl.config.paths import choices
from seqrl.config.schema import NetworkConfig, schema_of
from seqrl.errors import CheckpointError
from seqrl.run import checkpoint, policy
from seqrl.run.checkpoint import Checkpoints
from tests.programs import run_program
from tests.test_configuration import composed

CONFIG = {
    "env": {"_target_": "seqrl.envs.TMaze", "corridor_length": 5},
    "network": {
        "_target_": "seqrl.networks.recurrent_network", "type": "lstm", "use_lstm": True, "use_attention": False,
    },
    "device": {"_target_": "seqrl.devices.Device", "name": "cpu"},
    "runner": {"episode_limit": 1000},
    "evaluation": {"episodes": 40, "greedy": True},
    "parallel": 16,
    "seed": 3,
}  # fmt: skip


@pytest.mark.thin(3)
@pytest.mark.parametrize("choice", [f"{group}={name}" for group in ("env", "network") for name in choices(group)])
def test_every_part_that_plays_gets_its_types_back(choice):
    cfg = composed(choice)
    for part in (cfg.env, cfg.network):
        assert schema_of(part._target_) is OmegaConf.get_type(part)


# Builds every network, for pictures too, as those are built whose parameters have sizes alone.
SIZES_ALONE = """
import sys
import torch
from gymnasium import spaces
from seqrl.config.paths import choices
from seqrl.run.build import network_builder
from tests.test_configuration import composed

for name in choices("network"):
    build = network_builder(composed(f"network={name}", "network.normalize_observations=true"))
    for shape in ((3, 40, 40), (8, 9)):
        with torch.device("meta"):
            build(spaces.Box(0, 255, shape, "uint8"), spaces.Discrete(2))
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.slow
def test_what_the_parameters_of_a_saved_policy_must_be_is_known_without_torchs_compiler(tmp_path):
    """Its import takes seconds."""
    assert run_program(tmp_path, "-c", SIZES_ALONE).stdout == "False\n"


def test_parts_that_an_older_version_did_not_know_get_their_defaults(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    cfg = policy.configuration(tmp_path)
    assert OmegaConf.get_type(cfg.network) is NetworkConfig
    assert (cfg.network.hidden_size, cfg.device.threads, cfg.evaluation.interval) == (128, 1, 0)


def test_a_network_from_a_file_of_your_own_is_taken_as_it_is(tmp_path):
    own = {"_target_": "seqrl.networks.recurrent_network", "use_lstm": True, "use_attention": False, "window": 3}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "network": own}))
    assert policy.configuration(tmp_path).network == own


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "text",
        "\0",
        "a: [",
        "env: !!python/object/apply:os.system ['touch created']",
        "env: 3",
        yaml.safe_dump({key: value for key, value in CONFIG.items() if key != "seed"}),
        yaml.safe_dump({**CONFIG, "env": {"_target_": "seqrl.envs.TMaze", "corridor_length": "far"}}),
        yaml.safe_dump({**CONFIG, "env": {"corridor_length": 5}}),
        yaml.safe_dump({**CONFIG, "evaluation": None}),
        yaml.safe_dump({**CONFIG, "seed": "first"}),
        yaml.safe_dump({**CONFIG, "parallel": None}),
        yaml.safe_dump({**CONFIG, "seed": "${evil:1}"}),
    ],
)
def test_a_damaged_configuration_gets_one_line(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"^run: \S+config.yaml is not the configuration of a run: [^\n]+\.$"):
        policy.configuration(tmp_path)
    assert not (tmp_path / "created").exists()


def test_a_checkpoint_replaced_in_the_meantime_is_looked_up_again(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save({"iterations": 1, "weight": torch.ones(1)}, 1, 5.0)
    load, asked = Checkpoints.load, []

    def load_too_late(self, iteration):
        asked.append(iteration)
        if iteration < 4:
            # As a run does that is still going.
            checkpoints.save({"iterations": iteration + 1}, iteration + 1, 5.0 + iteration)
        return load(self, iteration)

    monkeypatch.setattr(Checkpoints, "load", load_too_late)
    state, _ = policy.checkpoint(tmp_path, "best")
    assert (state["iterations"], asked) == (4, [1, 2, 3, 4])


@pytest.mark.parametrize(("which", "found"), [("last", 6), ("best", 1)])
def test_a_list_of_checkpoints_that_is_older_than_they_are_is_made_anew(tmp_path, monkeypatch, which, found):
    """As a disk on a network lists them for a while, when the run goes on."""
    checkpoints, later = Checkpoints(tmp_path, keep=1), iter(range(2, 7))
    checkpoints.save({"iterations": 1}, 1, 5.0)
    listed = checkpoint.saved_iterations

    def listed_too_early(folder):
        there = listed(folder)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "saved_iterations", listed)
            if newer := next(later, None):
                checkpoints.save({"iterations": newer}, newer, 1.0)
        return there

    monkeypatch.setattr(checkpoint, "saved_iterations", listed_too_early)
    state, damaged = policy.checkpoint(tmp_path, which)
    assert (state["iterations"], damaged) == (found, [])


def test_a_list_that_stays_old_for_a_while_is_waited_for(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for iteration in (1, 2):
        checkpoints.save({"iterations": iteration}, iteration, -iteration)
    listed, old = checkpoint.saved_iterations, iter([checkpoint.saved_iterations(tmp_path)] * 9)
    checkpoints.save({"iterations": 3}, 3, -3.0)
    monkeypatch.setattr(checkpoint, "saved_iterations", lambda folder: next(old, None) or listed(folder))
    monkeypatch.setattr(policy, "PAUSE", 0)
    assert policy.checkpoint(tmp_path, "last") == ({"iterations": 3}, [])


def test_without_a_known_return_there_is_no_best_checkpoint(tmp_path):
    Checkpoints(tmp_path).save({}, 1)
    with pytest.raises(CheckpointError, match=r"checkpoints: of none is the return known\. Use checkpoint=last\.$"):
        policy.checkpoint(tmp_path, "best")
