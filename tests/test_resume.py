import json
import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from seqrl.config.command_line import arguments, for_hydra
from seqrl.config.settle import changes, keep_backend
from seqrl.errors import CheckpointError, ConfigError
from seqrl.run.resume import circumstances, how_to_go_on, nothing_left
from seqrl.run.run import Budget
from seqrl.run.summary import curves


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "a run"
    run.mkdir()
    manifest = {"overrides": ["network=attention", "seed=3", "+env.kwargs.x=1"], "config_dir": None}
    (run / "manifest.json").write_text(json.dumps(manifest))
    return run


def test_what_goes_on_and_what_shows_the_curves_can_be_pasted_into_a_shell(tmp_path):
    assert (
        how_to_go_on(Path("outputs/a-run"), ["mine"], "conf") == "resume=outputs/a-run 'trust=[mine]' --config-dir conf"
    )
    odd = tmp_path / "it's a run; $HOME"
    odd.mkdir()
    assert shlex.split(how_to_go_on(odd, [], str(odd))) == [f"resume={odd}", "--config-dir", str(odd)]
    (odd / "events.out.tfevents.0").touch()
    assert shlex.split(curves(odd)) == ["tensorboard", "--logdir", str(odd)]


@pytest.mark.parametrize("name", ["a, b", "it's", "'", "r'", "(a)", "a=b", "[1]", "null"])
def test_the_folder_of_a_sweep_may_be_called_anything(name):
    (word,) = for_hydra([f"sweep={name}"])
    assert OverridesParser.create().parse_override(word).value() == name
    assert for_hydra([word.replace("hydra.sweep.dir", "sweep")]) == [word]


def test_a_command_without_resume_stays_as_it_is():
    assert arguments(["network=lstm", "seed=1"]) == ["network=lstm", "seed=1"]
    assert arguments(["resume=null"]) == ["resume=null"]


def test_the_name_of_a_run_may_end_in_a_quote(folder):
    odd = folder.rename(folder.with_name("r'"))
    assert arguments([f"resume={odd}"])[-1] == arguments([f"resume='{odd}'"])[-1]


def test_the_choices_that_began_the_run_come_first_and_its_folder_last(folder):
    assert arguments([f"resume={folder}", "episodes=20", "hydra.run.dir=/x"]) == [
        "network=attention",
        "seed=3",
        "+env.kwargs.x=1",
        "episodes=20",
        f"hydra.run.dir='{folder}'",
        f"resume='{folder}'",
    ]


FORMER = """
total_steps: 90
algorithm:
  _target_: seqrl.algorithms.PPOAlgorithm
  learning_rate: 0.001
  epochs: 10
  minibatches: 4
  entropy_coefficient: 0.01
  anneal: [learning_rate]
"""


def test_a_run_keeps_the_defaults_that_it_began_with_but_for_what_is_chosen(folder):
    (folder / "config.yaml").write_text(FORMER)
    assert arguments([f"resume={folder}", "algorithm.epochs=3"])[:8] == [
        "rollout_steps=1",
        "rollout_rewards=0",
        "algorithm.learning_rate=0.001",
        "algorithm.minibatches=4",
        "algorithm.exploration=entropy",
        "algorithm.entropy_coefficient=0.01",
        "algorithm.anneal=[learning_rate]",
        "network=attention",
    ]


def test_an_algorithm_of_ones_own_gets_no_keys_that_it_may_not_have(folder):
    (folder / "config.yaml").write_text(FORMER.replace("seqrl.algorithms.PPOAlgorithm", "mine.PPO"))
    assert not [it for it in arguments([f"resume={folder}"]) if "exploration" in it]


@pytest.mark.parametrize("value", ["'1,2'", "[a, 'b] trust=[os']", "{a: 1}", "'x hydra.run.dir=y'", "'${oc.env:HOME}'"])
def test_what_a_folder_says_of_its_defaults_is_one_value_or_nothing(folder, value):
    (folder / "config.yaml").write_text(f"algorithm: {{epochs: {value}, anneal: {value}, exploration: {value}}}")
    assert arguments([f"resume={folder}"])[:3] == ["rollout_steps=1", "rollout_rewards=0", "network=attention"]


def test_a_key_that_is_added_again_is_added_once(folder):
    assert arguments([f"resume={folder}", "+env.kwargs.x=2"])[:3] == ["network=attention", "seed=3", "+env.kwargs.x=2"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a run folder.*manifest\.json"):
        arguments([f"resume={tmp_path}"])


def test_what_has_changed_is_named():
    before = OmegaConf.create({"seed": 1, "network": {"width": 8, "old": 1}, "resume": None})
    now = OmegaConf.create({"seed": 1, "network": {"width": 1}, "env": {}, "resume": "x"})
    assert changes(before, now) == ["network.width: 8 -> 1", "network.old: 1 -> not there"]


@pytest.mark.parametrize(
    ("now", "played_by"),
    [
        ({"id": "A", "backend": "auto"}, "async"),
        ({"id": "A", "backend": "sync"}, "sync"),
        ({"id": "B", "backend": "auto"}, "auto"),
        ({"id": "A"}, None),
    ],
)
def test_the_same_environments_are_played_by_who_was_chosen_before(now, played_by):
    before, cfg = OmegaConf.create({"env": {"id": "A", "backend": "async"}, "seed": 0}), OmegaConf.create({"env": now})
    keep_backend(cfg, before)
    assert cfg.env.get("backend") == played_by


def test_other_threads_processors_and_versions_are_named():
    before = {"threads": 1, "processor": "Intel, AVX2", "seed": 0, "platform": "Linux", "git": None}
    before |= {"versions": {"torch": "2.13", "numpy": "2.4"}}
    now = before | {"threads": 2, "processor": "Intel, AVX512", "seed": 1, "git": {"a": 1}}
    now |= {"versions": {"torch": "2.14", "numpy": "2.4"}}
    assert circumstances(before, now) == [
        "threads: 1 -> 2",
        "processor: Intel, AVX2 -> Intel, AVX512",
        "versions.torch: 2.13 -> 2.14",
    ]
    assert circumstances({}, now) == []


@pytest.mark.parametrize("name", ["back\\", "two\\\\", "it's", "a\\'b", "a\\b", "a b,c=[d]", "-x", "ünï"])
def test_a_folder_of_any_name_is_resumed_as_hydra_reads_it(tmp_path, name):
    run = tmp_path / name
    run.mkdir()
    (run / "manifest.json").write_text(json.dumps({"overrides": ["seed=1"], "config_dir": None}))
    read = OverridesParser.create().parse_overrides(arguments([f"resume={run}"]))
    assert [it.value() for it in read] == [1, str(run), str(run)]


def test_a_folder_whose_name_hydra_would_replace_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^resume: .* holds \$\{ in its name, which Hydra would replace\. Rename"):
        arguments([f"resume={tmp_path}/${{oc.env:HOME}}"])


# One that names its address in letters that YAML alone reads, and one that takes itself from elsewhere.
COMPUTED = r"""+logger.x="${oc.create:'{_target_: seqrl.loggers.Mlflow, \"tracking\x5furi\": evil}'}\""""


@pytest.mark.parametrize(
    "override",
    [
        "logger.mlflow.tracking_uri=http://evil",
        "+logger.x={tracking_uri: 'http://evil'}",
        "logger.wandb.entity=evil",
        COMPUTED,
        "+logger.x=${env.kwargs.evil}",
    ],
)
def test_a_folder_alone_sends_no_curves_elsewhere(tmp_path, override):
    (tmp_path / "manifest.json").write_text(json.dumps({"overrides": ["logger=mlflow", override], "config_dir": None}))
    with pytest.raises(ConfigError, match=r"evil.*, which its folder alone cannot ask for\. Write it again"):
        arguments([f"resume={tmp_path}"])
    key = override.partition("=")[0]
    read = arguments([f"resume={tmp_path}", f"{key}=mine"])
    assert read[:2] == ["logger=mlflow", f"{key}=mine"]
    assert not [word for word in read if "evil" in word]


def test_a_configuration_alone_sends_no_curves_elsewhere(tmp_path, capsys):
    (tmp_path / "manifest.json").write_text("{")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "00000001.pt").write_text("x")
    (tmp_path / "config.yaml").write_text("logger: {mlflow: {tracking_uri: 'sqlite:////home/me/x.db'}, jsonl: {}}")
    with pytest.raises(
        ConfigError, match=r"logger=mlflow logger\.mlflow\.tracking_uri=sqlite:////home/me/x\.db, which"
    ):
        arguments([f"resume={tmp_path}"])
    assert arguments([f"resume={tmp_path}", "logger=mlflow"])[2] == "logger=mlflow"
    for text in (
        "{x: \"${oc.create:'{_target_: seqrl.loggers.Mlflow, tracking_uri: evil}'}\"}",
        "'${oc.create:{m: {tracking_uri: evil}}}'",
        "{wandb: {entity: evil None}}",
    ):
        (tmp_path / "config.yaml").write_text(f"logger: {text}")
        with pytest.raises(ConfigError, match="which its folder alone cannot ask for"):
            arguments([f"resume={tmp_path}"])
    (tmp_path / "config.yaml").write_text(
        "logger: {mlflow: {tracking_uri: 'sqlite:///outputs/mlflow.db'}, wandb: {entity: null}, x: {k: '${oc.env:X}'}}"
    )
    assert arguments([f"resume={tmp_path}"])


@pytest.mark.parametrize(
    ("episodes", "total_steps", "change", "said"),
    [
        (12, 100, "episodes: None -> 12", "warning: .*: total_steps=100 was spent before. .* raise it, too.$"),
        (3, 400, "total_steps: None -> 400", "warning: .*: episodes=3 was spent before. .* raise it, too.$"),
        (2, None, "episodes: 3 -> 2", "warning: .*: episodes=2 was spent before. .* raise it.$"),
        (
            3,
            100,
            "total_steps: 90 -> 100",
            "warning: .*: episodes=3 and total_steps=100 were spent .* raise them, too.$",
        ),
        (12, 400, "total_steps: 100 -> 400", None),
        # Nobody asks for more.
        (3, None, "algorithm.gamma: 0.9 -> 0.8", "note: nothing was left to train: episodes=3 was .* raise it.$"),
        (None, 100, "total_steps: 300 -> 100", "warning: nothing was left to train: total_steps=100 was .* raise it.$"),
        (None, 100, "env.total_steps: 1 -> 2", "note: nothing was left to train: total_steps=100 was .* raise it.$"),
    ],
)
def test_a_run_to_which_its_budget_adds_nothing_names_the_one_that_ended_it(episodes, total_steps, change, said):
    """Two environments each ended three episodes, in 120 steps."""
    cfg = OmegaConf.create({"episodes": episodes, "total_steps": total_steps})
    budget = Budget(episodes and 2 * episodes, total_steps, steps=120, episodes=6)
    line = nothing_left(cfg, ["seed: 0 -> 1", change], budget)
    assert (line is None) if said is None else re.match(said, line)
