import dataclasses
import inspect
import os
import re
import typing

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from hydra.utils import get_class, get_object
from omegaconf import DictConfig, OmegaConf

from seqrl.algorithms.base import Settings, SingleSteps
from seqrl.config.command_line import completed, is_true
from seqrl.config.hydra_errors import GROUPS as GROUPS_OF_RUNS
from seqrl.config.hydra_errors import faults_of_files, faults_of_sweep, message_for
from seqrl.config.naming import run_name
from seqrl.config.own_files import config_dirs
from seqrl.config.paths import CONF, choices
from seqrl.config.resolvers import folder_name, learns_sequences, own_choices, tasks
from seqrl.config.schema import CELLS, SCHEMAS, AlgorithmConfig, EvaluationConfig, RunConfig, RunnerConfig, keys_of
from seqrl.config.validate import faults
from seqrl.config.words import read as words_of_program
from seqrl.errors import CheckpointError, ConfigError
from seqrl.evaluate.request import Request


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", overrides=list(overrides))


def what_is_said(*overrides: str) -> list[str]:
    try:
        return faults(composed(*overrides))
    except Exception as error:
        lines, exit_code = message_for(error, overrides)
        assert exit_code == 2
        return lines


@pytest.mark.thin(9)
@pytest.mark.parametrize(("algorithm", "name"), [("ppo", "PPO"), ("reinforce", "Reinforce")])
@pytest.mark.parametrize(
    ("overrides", "sequences"),
    [
        (["network=lstm", "sequence=full"], True),
        (["network=lstm", "sequence=truncated"], True),
        (["network=lstm", "sequence=off"], False),
        (["network=attention", "sequence=full"], True),
        (["network=attention", "sequence=truncated"], True),
        (["network=attention", "sequence=off"], False),
        *([[f"network={cell}", "sequence=full"], True] for cell in CELLS),
        (["network=gru", "sequence=off"], False),
        (["network.memory._target_=my.Cell", "trust=[my]"], True),
        (["network=mlp", "sequence=full"], False),
        (["network=mlp", "sequence=truncated"], False),
        (["network=mlp", "sequence=off"], False),
        (["sequence_learning.enabled=false"], False),
        (["sequence_learning.enabled=off"], False),
    ],
)
def test_the_algorithm_is_selected_by_sequence_learning_and_lstm(algorithm, name, overrides, sequences):
    chosen = get_class(composed(f"algorithm={algorithm}", *overrides).algorithm._target_)
    assert chosen.__name__ == f"{'Sequence' if sequences else ''}{name}Algorithm"


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("use_lstm", [True, False])
def test_sequences_are_learned_if_both_are_true(enabled, use_lstm):
    assert learns_sequences(enabled, use_lstm) is (enabled and use_lstm)


@pytest.mark.parametrize("text", ["off", "yes", "yep", "true", 1, None])
def test_what_is_not_a_boolean_selects_nothing(text):
    with pytest.raises(ValueError, match=r"network\.use_lstm: is neither true nor false"):
        learns_sequences(True, text)


GROUPS = {
    group: choices(group)
    for group in ("env", "network", "sequence", "algorithm", "device", "logger", "profile", "experiment")
}


@pytest.mark.thin(7)
@pytest.mark.parametrize("override", [f"{group}={choice}" for group in GROUPS for choice in GROUPS[group]])
def test_every_choice_composes_without_a_fault(monkeypatch, override):
    # Loggers that are an extra; that one is missing is another matter.
    monkeypatch.setattr("seqrl.config.validate.is_installed", lambda package: True)
    assert faults(composed(override)) == []


def parameters(built):
    """Names of what a constructor takes; keywords that it hands on are those of `Settings`."""
    if issubclass_of(built, SingleSteps):
        built = built.__mro__[2]
    names = set()
    for parameter in inspect.signature(built).parameters.values():
        spread = parameter.kind is inspect.Parameter.VAR_KEYWORD
        names |= {field.name for field in dataclasses.fields(Settings)} if spread else {parameter.name}
    return names


def issubclass_of(built, parent):
    return isinstance(built, type) and issubclass(built, parent)


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    "choice", [f"{group}={choice}" for group in ("env", "network", "algorithm", "logger") for choice in GROUPS[group]]
)
def test_every_part_names_what_builds_it_and_its_keys_are_the_parameters_letter_for_letter(choice):
    cfg = composed(choice)
    filled_in = {"observation_space", "action_space", "batch_size", "seed", "device", "env", "network", "folder"}
    filled_in |= {"state_interval", "state_lead", "generator", "shuffle", "env_steps", "ranks", "first"}
    filled_in |= {"if_endless"}
    for part in [cfg.env, cfg.network, cfg.algorithm, cfg.device, cfg.runner, *cfg.logger.values()]:
        built = get_object(part._target_)
        # A name for other keys, and what the environment is to show.
        assert parameters(built) - filled_in == set(part) - {"_target_", "type", "inputs"}, part._target_


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("testing", {"episodes": 10, "parallel": 10, "bptt": 0, "clip": 5, "hidden": 128, "lstm": 128, "type": "lstm"}),
        (
            "production",
            {
                "episodes": 1000,
                "parallel": 100,
                "bptt": 50,
                "clip": 10,
                "hidden": 256,
                "lstm": 256,
                "type": "attention",
            },
        ),
        ("quick", {"episodes": 1, "parallel": 1, "bptt": 0}),
        ("development", {"episodes": 100, "parallel": 10, "bptt": 20, "clip": 5}),
        ("memory_constrained", {"parallel": 5, "bptt": 10, "clip": 3}),
    ],
)
def test_profiles_set_their_numbers(profile, expected):
    cfg = composed(f"profile={profile}")
    found = {
        "episodes": cfg.episodes,
        "parallel": cfg.parallel,
        "bptt": cfg.sequence_learning.bptt_length,
        "clip": cfg.sequence_learning.grad_clip_norm,
        "hidden": cfg.network.hidden_size,
        "lstm": cfg.network.lstm_hidden_size,
        "type": cfg.network.type,
    }
    assert {name: found[name] for name in expected} == expected


def test_the_command_line_wins_over_a_profile_and_an_experiment():
    cfg = composed("profile=production", "network=lstm", "parallel=7", "sequence_learning.bptt_length=3")
    assert (cfg.network.type, cfg.parallel, cfg.sequence_learning.bptt_length) == ("lstm", 7, 3)
    cfg = composed("experiment=masked_cartpole", "network=attention", "sequence=truncated", "total_steps=9")
    assert (cfg.network.type, cfg.sequence_learning.bptt_length, cfg.total_steps) == ("attention", 50, 9)


@pytest.mark.thin(12)
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sequence_learning.bptt_length=-1", r"sequence_learning.bptt_length: must be 0 .* such as 50 \(got -1\)"),
        ("sequence_learning.bptt_length=abc", r"sequence_learning.bptt_length: must be a whole number \(got abc\)"),
        ("sequence_learning.bptt_length=1.5", r"sequence_learning.bptt_length: must be a whole number \(got 1.5\)"),
        ("sequence_learning.grad_clip_norm=0", r"grad_clip_norm: must be a number above 0.*null.*\(got 0"),
        ("sequence_learning.grad_clip_norm=nan", r"grad_clip_norm: must be .*\(got nan\)"),
        ("sequence_learning.grad_clip_norm=inf", r"grad_clip_norm: must be .*\(got inf\)"),
        ("sequence_lerning.bptt_length=1", r"Did you mean sequence_learning.bptt_length\?"),
        ("sequence.bptt_length=1", r"Did you mean sequence_learning.bptt_length\?"),
        ("bptt_length=1", r"bptt_length: there is no such key. Did you mean .*bptt_length\?"),
        ("+network.foo=1", r"network.foo: there is no such key.*use_lstm"),
        ("+network.hiden_size=1", r"network.hiden_size: there is no such key. Did you mean hidden_size\?"),
        ("+typo=1", r"typo: there is no such key"),
        ("network=lstmm", r"network: there is no network=lstmm. Did you mean lstm\? Choices: attention, .*lstm"),
        ("logger=[csv,jsonll]", r"logger: there is no logger=jsonll. Did you mean jsonl\? Choices: csv, jsonl, mlflow"),
        (
            "hydra.launcher.n_jobs=2",
            r"hydra.launcher.n_jobs: this launcher has no such key\. .* hydra/launcher=joblib --cfg hydra",
        ),
        ("network=big", r"network: there is no network=big. Choices: .*mlp\. Your own need --config-dir\.$"),
        ("network=null", r"network: needs a choice \(got null\). Choices: attention, .*lstm, .*mlp"),
        ("network=3", r"network: needs a choice \(got 3\). Choices: attention, "),
        ("env=null", r"env: needs a choice \(got null\). Choices: atari, count_recall"),
        ("+logger.x=3", r"logger.x: must name a class \(got 3\)"),
        ("~network", r"network: "),
        ("network.hidden_size=0", r"network.hidden_size: must be a whole number of at least 1 \(got 0\)"),
        ("network.use_attention=maybe", r"network.use_attention: must be true or false \(got maybe\)"),
        ("network.type=attention", r"network.type: attention contradicts.*Use network=lstm"),
        ("network.use_lstm=off", r"network.type: lstm contradicts.*Use network=mlp"),
        ("network.memory._target_=seqrl.networks.GRU", r"network.type: lstm contradicts .* gru\. Use network=gru"),
        ("network.memory._target_=my.Cell", r"network.memory._target_: my.Cell is not of seqrl.* trust=\[my\]"),
        ("network._target_=''", r"network\._target_: must be a class and its module, my_module\.MyClass \(got ''\)\.$"),
        ("algorithm._target_=mine", r"algorithm\._target_: must be a class and its module, .* \(got 'mine'\)\.$"),
        ("env._target_=a..b", r"env\._target_: must be a class and its module, .* \(got 'a\.\.b'\)\.$"),
        ("~network.memory._target_", r"network.memory: must name a class \(got {}\). Write network.memory._target_="),
        ("network.memory=null", r"network.memory: needs a value"),
        ("network.layers=0", r"network.layers: must be a whole number from 1 to 64 \(got 0\)"),
        ("network.horizon=1", r"network.horizon: must be a whole number of at least 2 \(got 1\)"),
        ("algorithm.gamma=99", r"algorithm.gamma: must be between 0 and 1 \(got 99.0\). Did you mean 0.99\?"),
        ("algorithm.gamma=7", r"algorithm.gamma: must be between 0 and 1 \(got 7.0\).$"),
        ("experiment", r"experiment: is not key=value. Write experiment=…"),
        ("seed=range(5)", r"seed: has several values \(got range\(5\)\). For a sweep add -m."),
        (
            "total_steps=100,000",
            r"\(got 100,000\)\. For a number write total_steps=100000, for a sweep add -m",
        ),
        ("seed=128,256", r"seed: has several values \(got 128,256\)\. For a sweep add -m"),
        ("seed=1,2", r"seed: has several values \(got 1,2\)\. For a sweep add -m\.$"),
        ("env=cartpole", r"there is no env=cartpole\. Did you mean masked_cartpole or noisy_cartpole\? Choices: atari"),
        ("algorithm.learning_rate=nan", r"algorithm.learning_rate: must be a number above 0, at most 1e15 \(got nan\)"),
        ("algorithm.anneal=[clip_rnge]", r"algorithm.anneal: .*\(got 'clip_rnge'\). Did you mean clip_range\?"),
        ("parallel=0", r"parallel: must be a whole number of at least 1 \(got 0\)"),
        (
            "sequence_learning.grad_clip_norm=none",
            r"grad_clip_norm: must be a number, or null \(got none\)\.$",
        ),
        ("parallel=none", r"parallel: must be a whole number \(got none\)\.$"),
        ("parallel=1.5", r"parallel: must be a whole number \(got 1.5\)"),
        ("parallel=null", r"parallel: needs a value"),
        ("episodes=0", r"episodes: must be"),
        ("device=cdua", r"device: there is no device=cdua. Did you mean cuda\? Choices: auto, cpu, cuda, mps"),
        ("device=GPU", r"device: there is no device=GPU\. Did you mean cuda\?"),
        ("device=cuda:99", r"there is no device=cuda:99.*device.name=cuda:1"),
        (
            "device.precision=float16",
            r"device.precision: must be one of float32, float64, bf16, tf32 \(got 'float16'\)",
        ),
        ("env.kwargs.length=3", r"env.kwargs.length: .* Write \+env.kwargs.length=…"),
        ("env.kwargs={length: 3}", r"env.kwargs: .* Write \+env.kwargs=…"),
        ("env.id=a=b", r"env.id: its value cannot be read \(got a=b\). Quote .*'env.id=\"a=b\"'"),
        ("name=a(b", r"name: its value cannot be read \(got a\(b\). Quote .*'name=\"a\(b\"'"),
        (
            "env.hidden=[1,[3",
            r"env.hidden: its value cannot be read \(got \[1,\[3\). Write 'env.hidden=\[1,\[3\]\]'\.$",
        ),
        ("seed = 3", r"seed: its value cannot be read \(got 3\). Write 'seed=3'\.$"),
        ("seed:3", r"seed:3: is not key=value. Write seed=3\.$"),
        ("~seed:3", r"seed:3: is not key=value. Write seed=3\.$"),
        ("~foo", r"~foo: takes nothing out, as there is no such key\.$"),
        ("~network.layer", r"~network.layer: takes nothing out, .* Did you mean network.layers\?"),
        ("~seed=3", r"~seed: takes nothing out, as its value is 0 and not 3. Write ~seed\."),
        ("device.threads=100000", r"device.threads: must be 1 to \d+, the processors of this machine \(got 100000\)"),
        ("parallel=100000000000", r"parallel and rollout_length: need at least [\d,]+ GB .* this machine has \d+"),
        ("parallel=1e20", r"parallel: must be a whole number \(got 1e\+20\)"),
        ("rollout_steps=1000000000000", r"rollout_steps: need at least [\d,]+ GB .* this machine has \d+"),
        ("network.layers=1000000", r"network.layers: must be a whole number from 1 to 64 \(got 1000000\)"),
        ("network.hidden_size=1000000", r"network.hidden_size and lstm_hidden_size: need at least"),
        ("algorithm.learning_rate=0", r"algorithm.learning_rate: must be a number above 0, .* \(got 0"),
        ("algorithm.learning_rate=inf", r"algorithm.learning_rate: must be a number above 0, .* \(got inf"),
        ("checkpoint_interval=-1", r"checkpoint_interval: must be 0 or more \(got -1\)"),
        ("seed=${nope.a}", r"seed: Interpolation key 'nope.a' not found"),
        ("+experiment=masked_cartpole", r"experiment: is already in the configuration. Write experiment=…"),
        ("trust=os", r"trust: must be a list \(got os\). Write trust=\[os\]\.$"),
        ("algorithm={anneal: gamma}", r"algorithm.anneal: must be a list, such as \[a,b\]\.$"),
        ("trust=[[os]]", r"trust: must be a list of names, such as \[a,b\] \(got \[\['os'\]\]\)"),
        ("env=gymnasium env.log_info=[[a]]", r"env.log_info: must be a list of names"),
        ("network.inputs=[first,last]", r"network.inputs: can name previous_action, .* \(got 'last'\)"),
        ("evaluation.interval=-1", r"evaluation.interval: must be 0 or more \(got -1\)"),
        ("evaluation.greedy=maybe", r"evaluation.greedy: must be one of true, false, both \(got 'maybe'\)"),
        ("evaluation.greedy=bth", r"evaluation.greedy: .* Did you mean both\?"),
        ("episodes=null", r"episodes: without total_steps, .*got null for both"),
        ("evaluation={interval: 5, episodes: 0}", r"evaluation.interval: evaluations need episodes .*episodes=0"),
        ("env.noise=-1", r"env.noise: must be a number from 0 to 1e15 \(got -1.0\)"),
        ("algorithm.clip_range=1e300", r"clip_range: must be a number above 0, at most 1e15 \(got 1e\+300\)"),
        (
            "env=gymnasium env.timeout_seconds=1e300",
            r"timeout_seconds: must be 0.01 to 1,000,000 seconds, or null .*\(got",
        ),
        ("env=gymnasium env.timeout_seconds=1e-300", r"timeout_seconds: must be 0.01 to 1,000,000 seconds, or null"),
        ("sequence_learning=3", r"sequence_learning: is a section of keys \(got 3\)\.$"),
        ("network.memory=[a]", r"network.memory: is a section of keys \(got \[a\]\)\.$"),
        ("network.memory=gru", r"network.memory: is a section of keys \(got gru\)\. Choose a cell with network=gru\.$"),
        ("seed=1,2,3", r"seed: has several values \(got 1,2,3\)\. For a sweep add -m\.$"),
        (
            "network.inputs=first,previous_action",
            r"add -m, for a list write network.inputs=\[first,previous_action\]\.$",
        ),
        ("env.hidden=[a]", r"env.hidden\[0\]: must be a whole number \(got a\)"),
    ],
)
def test_a_fault_is_one_line_with_key_value_and_remedy(override, said):
    lines = what_is_said(*re.split(" (?=env)", override))
    assert len(lines) == 1
    assert re.search(said, lines[0])
    assert "\n" not in lines[0]


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("overrides", "type"),
    [
        (["network=gru"], "gru"),
        (["network=gru", "network.use_attention=true"], "gru"),
        (["network=attention", "network.memory._target_=seqrl.networks.GRU"], "attention"),
        (["network=attention", "network.memory._target_=my.Cell", "trust=[my]"], "attention"),
        (["network.memory._target_=my.Cell", "+network.memory.memories=3", "trust=[my]"], "lstm"),
    ],
)
def test_attention_and_cells_are_chosen_independently(overrides, type):
    cfg = composed(*overrides)
    assert faults(cfg) == []
    assert cfg.network.type == type


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("override", "means"),
    [
        ("total_steps=1e4", 10_000),
        ("total_steps=10000.0", 10_000),
        ("seed=-0.0", 0),
        ("parallel=8.0", 8),
        ("network.hidden_size=6.4e1", 64),
        ("sequence_learning.bptt_length=1e1", 10),
        ("evaluation.episodes=2e1", 20),
    ],
)
def test_a_whole_number_may_be_written_as_a_real_one(override, means):
    cfg = composed(override)
    found = OmegaConf.select(cfg, override.partition("=")[0])
    assert (found, type(found)) == (means, int)
    assert faults(cfg) == []


@pytest.mark.thin(3)
@pytest.mark.parametrize("number", ["1.5", "1e-3", "1e17", "inf", "nan"])
def test_a_real_number_where_a_whole_one_belongs_is_refused_in_one_line(number):
    assert what_is_said(f"total_steps={number}") == [f"total_steps: must be a whole number (got {float(number)})."]


def test_a_real_number_stays_one_where_either_may_be():
    cfg = composed("env=gymnasium", "env.id=CartPole-v1", "+env.kwargs.sutton=1e1", "algorithm.learning_rate=1e0")
    for value in (cfg.env.kwargs.sutton, cfg.algorithm.learning_rate):
        assert type(value) is float


def test_a_text_for_a_number_that_was_taken_away_and_added_again_is_named():
    assert what_is_said("~algorithm.epochs", "+algorithm.epochs=many") == [
        "algorithm.epochs: must be a whole number of at least 1 (got 'many')."
    ]


def test_heads_that_do_not_divide_name_those_that_do():
    lines = what_is_said("network=attention", "network.heads=3", "network.lstm_hidden_size=12", "network.window=0")
    assert lines == ["network.window: must be a whole number of at least 1 (got 0)."]
    (line,) = what_is_said("network=attention", "network.heads=5", "network.lstm_hidden_size=12")
    assert line.endswith("(got 5). These do: 1, 2, 3, 4, 6, 12.")


@pytest.mark.parametrize(
    ("given", "episodes"),
    [
        ([], 50),
        (["total_steps=9"], None),
        (["experiment=tmaze"], None),
        (["total_steps=9", "episodes=3"], 3),
        (["profile=testing", "total_steps=9"], 10),
    ],
)
def test_a_budget_of_steps_alone_is_not_cut_short_by_episodes(given, episodes):
    assert composed(*given).episodes == episodes


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("given", "steps"),
    [([], 1), (["total_steps=9"], 2048), (["episodes=9", "total_steps=9"], 2048), (["profile=testing"], 1)],
)
def test_with_a_budget_of_episodes_alone_each_of_them_is_a_rollout(given, steps):
    assert composed(*given).rollout_steps == steps
    assert composed(*given).runner.rollout_rewards == (0 if steps == 1 else 64)
    assert composed(*given, "rollout_steps=7").runner.rollout_steps == 7


def test_a_baseline_that_does_not_exist_names_the_nearest():
    (line,) = what_is_said("algorithm=reinforce", "algorithm.baseline=valeu")
    assert line == ("algorithm.baseline: must be one of value, batch_mean, none (got 'valeu'). Did you mean value?")


@pytest.mark.slow
@pytest.mark.parametrize("value", ["mine", "[mine]"])
def test_what_a_missing_bracket_would_entail_is_not_reported(value):
    assert [it[:6] for it in what_is_said("env=gymnasium", "env.id=mine:Env-v0", f"trust={value}")] == (
        ["trust:"] if value == "mine" else []
    )


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("env.corridor_length=30", "env.corridor_length: there is no such key. Choices that have it: env=tmaze. All"),
        (
            "env.noise=0.1 env=tmaze",
            "env.noise: there is no such key. Choices that have it: env=masked_cartpole, noisy",
        ),
        (
            "env.backend=async",
            "env.backend: there is no such key. Choices that have it: env=atari, gymnasium, masked_a",
        ),
        (
            "+env.backend=async",
            "env.backend: there is no such key. Choices that have it: env=atari, gymnasium, masked_a",
        ),
        (
            "algorithm.clip_range=0.1 algorithm=reinforce",
            "algorithm.clip_range: there is no such key. Choices that have it: algorithm=ppo. Keys here: learning_rate",
        ),
    ],
)
def test_a_key_of_another_choice_names_those_that_have_it(override, said):
    (line,) = what_is_said(*override.split(" "))
    assert line.startswith(said)


def test_every_fault_is_reported_at_once():
    lines = what_is_said("episodes=0", "algorithm.gamma=2", "sequence_learning.grad_clip_norm=-1")
    assert [line.split(":")[0] for line in lines] == ["episodes", "sequence_learning.grad_clip_norm", "algorithm.gamma"]


def test_every_fault_of_the_command_line_is_reported_at_once_even_those_that_hydra_stops_at():
    lines = what_is_said("algorithm.gamma=abc", "parallel=xyz", "gama=3", "network=lstmm", "episodes=0")
    assert [line.split(":")[0] for line in lines] == ["network", "algorithm.gamma", "parallel", "gama", "episodes"]


@pytest.mark.slow
def test_an_argument_of_the_environment_is_mistaken_for_no_key_of_env():
    (line,) = what_is_said("env=gymnasium", "env.length=3")
    assert "is written +env.kwargs.length=…" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1", "--config-dir"], "argument --config-dir/-cd: expected one argument. All options: python -m"),
        (["--config-dir", "seed=1"], "--config-dir: there is no folder seed=1."),
        (["--config-dir", ""], "--config-dir: names no folder. Write --config-dir=<folder>."),
        (["--config-dir=", "seed=1"], "--config-dir: names no folder."),
        (["--cfg", "nope"], "argument --cfg/-c: invalid choice: 'nope' (choose from 'job', 'hydra', 'all')."),
        (["--info", "nope"], "argument --info/-i: invalid choice: 'nope'"),
        (["-seed=1"], "unrecognized arguments: -seed=1."),
        (["--help=1"], "argument --help/-h: ignored explicit argument '1'."),
    ],
)
def test_a_faulty_option_gets_one_line_and_no_usage(words, said, capsys):
    with pytest.raises(ConfigError) as refused:
        completed(words, leave_nothing=False)
    (line,) = refused.value.faults
    assert line.startswith(said)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("sign", ["+", "++"])
def test_what_is_to_be_done_with_a_run_may_be_written_as_if_it_were_added(sign, tmp_path):
    for word in ("resume=null", "validate=true", f"hydra.run.dir={tmp_path}"):
        assert completed([f"{sign}{word}"], leave_nothing=False)[-1].lstrip("+") == word
    with pytest.raises(CheckpointError, match="is not a run folder"):
        completed([f"{sign}resume={tmp_path}"], leave_nothing=False)
    with pytest.raises(ConfigError, match="validate: works for a single run only"):
        completed(["-m", f"{sign}validate=true", "seed=0,1"], leave_nothing=False)
    assert is_true("validate", [f"{sign}validate=true"])


@pytest.mark.parametrize("word", ["hydra.run.dir=~/a b", "+hydra.run.dir='~/a b'", 'sweep="~/a b"'])
def test_a_folder_in_ones_home_is_found_there_and_none_is_called_so(word, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = completed([*["-m"] * word.startswith("sweep"), word, "seed=0"], leave_nothing=False)
    assert [it.partition(".dir=")[2] for it in words if ".dir=" in it] == [f"'{tmp_path}/a b'"]
    (tmp_path / "mine").mkdir()
    assert config_dirs(["--config-dir=~/mine"]) == [tmp_path / "mine"]
    assert words_of_program(Request, ["run=~/mine"])[0] == {"run": tmp_path / "mine"}


@pytest.mark.parametrize("word", ["hydra.run.dir=", "hydra.run.dir=''", "-m sweep=", "-m hydra.sweep.subdir=' '"])
def test_a_folder_without_a_name_is_not_the_working_folder(word):
    with pytest.raises(ConfigError, match=r": names no folder\. Write .*=<folder>, or leave it out\.$"):
        completed([*word.split(" ", 1), "seed=0,1"], leave_nothing=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("seed = 3", ["seed = 3: has blanks in it. Write seed=3."]),
        ("seed =3 parallel= 4", ["seed =3: has blanks in it. Write seed=3.", "parallel= 4: has blanks in it. Write"]),
        ("-m seed = 1,2", ["seed = 1,2: has blanks in it. Write seed=1,2."]),
        ("seed:", ["seed:: is not key=value. Write seed=…."]),
        ("seed: 3", ["seed: 3: has blanks in it. Write seed=3."]),
        ("--config-dir . env.id= mine:Env-v0", ["env.id= mine:Env-v0: has blanks in it. Write env.id=mine:Env-v0."]),
        (
            "env.hidden=[1, 3] seed=0, 1",
            ["env.hidden=[1, 3]: has blanks in it. Write env.hidden=[1,3].", "seed=0, 1: has"],
        ),
        ("=1 seed:3 tmaze", ["=1: names no key. Write", "seed:3: is not key=value. Write seed=3.", "tmaze: is not"]),
    ],
)
def test_words_that_are_not_key_and_value_get_a_line_each_with_what_was_meant(words, said):
    with pytest.raises(ConfigError) as refused:
        completed(words.split(" "), leave_nothing=False)
    assert len(refused.value.faults) == len(said)
    assert all(line.startswith(it) for line, it in zip(refused.value.faults, said, strict=True))


def test_a_key_without_a_value_may_stand_before_what_takes_one_away():
    assert completed(["name=", "~logger"], leave_nothing=False) == ["name=", "~logger"]


@pytest.mark.parametrize(
    ("swept", "said"),
    [
        (["seed=range(10001)"], "sweep: has more than 10,000 points. Make several of it."),
        (["seed=shuffle(range(1e5))"], "sweep: has more than 10,000 points. Make several of it."),
        (["seed=range(101)", "parallel=range(1,101)"], "sweep: has more than 10,000 points. Make several of it."),
        (["seed=range(0,1,0)"], "seed: has no values to sweep over (got range(0,1,0)). Write them, seed=…,…, or a"),
        (["seed=range(3,0)"], "seed: has no values to sweep over (got range(3,0))."),
        (["seed=range(0,nan)"], "seed: has no values to sweep over (got range(0,nan))."),
        (["network=glob(*)"], "network: has no values to sweep over (got glob(*))."),
        (["seed=interval(0,1)"], "seed: has no values to sweep over (got interval(0,1))."),
    ],
)
def test_a_sweep_that_has_no_points_or_too_many_is_refused_before_a_list_of_them_is_made(swept, said):
    with pytest.raises(ConfigError) as refused:
        completed(["-m", *swept], leave_nothing=False)
    (line,) = refused.value.faults
    assert line.startswith(said)


@pytest.mark.slow
def test_options_may_stand_anywhere_and_a_folder_may_have_any_name(tmp_path):
    (tmp_path / "a=b").mkdir()
    words = ["seed=1,2", "--config-dir", str(tmp_path / "a=b"), "parallel=2", "-m"]
    options, overrides = completed(words, leave_nothing=False)[:2], completed(words, leave_nothing=False)[2:4]
    assert options == [f"--config-dir={tmp_path / 'a=b'}", "-m"]
    assert overrides == ["seed=1,2", "parallel=2"]


@pytest.mark.slow
def test_suggestions_come_from_the_groups_that_were_chosen():
    (line,) = what_is_said("env=gymnasium", "env.backend_=sync")
    assert "Did you mean env.backend?" in line
    (line,) = what_is_said("env=gymnasium", "env.max_episode_steps=3")
    assert "written +env.kwargs.max_episode_steps=…" in line


def test_mps_has_no_float64():
    (line,) = what_is_said("device=mps", "device.precision=float64")
    assert line.endswith("Use device.precision=float32 or device=cpu.")


@pytest.mark.slow
def test_tf32_is_of_nvidia_gpus():
    (line,) = what_is_said("device=cpu", "device.precision=tf32")
    assert line.endswith("cpu has no tf32 (got tf32). Use float32 or device=cuda.")


def test_a_profile_changes_an_experiment():
    cfg = composed("experiment=masked_cartpole", "profile=development")
    assert (cfg.episodes, cfg.parallel, cfg.sequence_learning.bptt_length) == (100, 10, 20)
    assert cfg.total_steps == 98304


BROKEN = {
    "tabs": (b"a:\n\tb: 1\n", r"network/tabs.yaml:2: found character"),
    "twice": (b"a: 1\na: 2\n", r"network/twice.yaml:2: found duplicate key a"),
    "nul": (b"a: \x00\n", r"network/nul.yaml: special characters are not allowed"),
    "binary": (b"a: \xff\n", r"--config-dir: contains a file that is not UTF-8 text"),
    "list": (b"- 1\n- 2\n", r"network: holds no keys. Choose one"),
    "empty": (b"", r"network: is empty. Choose one"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_of_the_user_is_named_with_its_line(tmp_path, name):
    content, said = BROKEN[name]
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / f"{name}.yaml").write_bytes(content)
    (line,) = what_is_said(f"hydra.searchpath=[file://{tmp_path}]", f"network={name}")
    assert re.search(said, line)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"- a\n", r"must hold keys and their values \(got a list\)\.$"),
        (b"just text\n", r"must hold keys and their values \(got just text\)\.$"),
        (b"a: \xff\n", r"is not UTF-8 text \(got byte 0xff\)\. Save it as UTF-8\.$"),
        (b"defaults: 3\n", r"defaults: must be a list of names, and of groups with a name each \(got 3\)\.$"),
        (b"defaults: [{network: [1]}]\n", r"defaults: must be a list .* \(got {'network': \[1\]}\)\.$"),
    ],
    ids=repr,
)
def test_a_file_that_hydra_cannot_use_is_named_with_its_path_alone_and_in_a_sweep(tmp_path, content, said):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "broken.yaml").write_bytes(content)
    (folder / "whole.yaml").write_text("# @package _global_\nseed: 1\n")
    (folder / "unused.yaml").write_text("- a\n")
    words = [f"--config-dir={tmp_path}", "experiment=broken"]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Hydra raises anything
        composed(f"hydra.searchpath=[file://{tmp_path}]", words[1])
    (line,), _ = message_for(caught.value, words)
    assert re.fullmatch(f"{re.escape(str(folder))}/broken.yaml: {said}", line)
    (of_point,) = faults_of_sweep([words[0], "experiment=whole,broken"])
    assert of_point == f"point 1 of the sweep: {line}"


def said_of_a_profile(folder, text):
    (folder / "profile").mkdir()
    (folder / "profile" / "own.yaml").write_text(f"# @package _global_\n{text}\n")
    with pytest.raises(ConfigCompositionException) as caught:
        composed(f"hydra.searchpath=[file://{folder}]", "profile=own")
    (line,), _ = message_for(caught.value, ["--config-dir", str(folder), "profile=own"])
    return line


def test_an_unknown_section_of_a_file_is_named_with_the_file(tmp_path):
    line = said_of_a_profile(tmp_path, "netwrk: {a: 1}")
    assert line.startswith("profile/own.yaml: netwrk: there is no such key. Did you mean network?")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sequence_learning: 3", r"sequence_learning: is a section of keys \(got 3\)\."),
        ("algorithm: []", r"algorithm: is a section of keys \(got \[\]\)\."),
        ("network:\n  memory: gru", r"network.memory: is a section of keys\."),
        ("seed: {a: 3}", r"seed: must be a whole number \(got {'a': 3}\)\."),
        ("sequence_learning:\n  enabled: [3]", r"sequence_learning.enabled: must be true or false \(got \[3\]\)\."),
        ("sequence_learning:", r"sequence_learning: needs a value \(got null\)\."),
    ],
)
def test_a_wrong_value_in_a_file_is_named_with_the_file(tmp_path, text, said):
    assert re.fullmatch(f"profile/own.yaml: {said}", said_of_a_profile(tmp_path, text))


def own(folder, text):
    (folder / "network").mkdir()
    (folder / "network" / "own.yaml").write_text(text)
    return folder / "network" / "own.yaml"


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 8))


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: os.mkfifo(file), "is not a regular file"),
        (lambda file: file.symlink_to("/dev/zero"), "is not a regular file"),
        (lambda file: file.write_text(LAUGHS), "uses aliases of more than 10,000 values"),
        (lambda file: file.write_text("a: &a [*a]"), "uses aliases of more than 10,000 values"),
        (
            lambda file: file.write_text(f"? {'k' * 10**5}\n: {dict.fromkeys(range(600), 0)}"),
            "is far longer with its keys written out",
        ),
        (lambda file: file.write_text("a: " + "[" * 60 + "]" * 60), "is nested too deeply"),
        (
            lambda file: file.write_text("a: 1\nb: !!bool x"),
            "line 2: holds a tag of YAML that seqrl does not read (got tag:yaml.org,2002:bool)",
        ),
        (
            lambda file: file.write_text("a: [0b_]"),
            "line 1: looks like a number or a date, and is none (got 0b_)",
        ),
        (
            lambda file: file.write_text(f"a: 0{'7' * 6000}"),
            f"line 1: looks like a number or a date, and is none (got 0{'7' * 19}…)",
        ),
        (lambda file: os.truncate(file, 10**10) if file.touch() is None else None, "is larger than 4 MB"),
    ],
    ids=["pipe", "zeros", "laughs", "itself", "keys", "deep", "tag", "number", "digits", "large"],
)
def test_a_file_that_hydra_would_wait_for_or_that_grows_gets_one_line(tmp_path, spoil, said, many):
    file = own(tmp_path, "")
    file.unlink()
    spoil(file)
    words = [f"--config-dir={tmp_path}", "network=mlp"]
    (line,) = faults_of_sweep([*words, "seed=0,1"]) if many else faults_of_files(words)
    assert line == f"{file}: {said}. Fix it, or take it out of the folder that --config-dir names."


def test_aliases_and_links_of_ones_own_are_read(tmp_path):
    text = "defaults: [lstm]\nhidden_size: &width 24\nlstm_hidden_size: *width\n"
    (tmp_path / "elsewhere.yaml").write_text(text)
    own(tmp_path, "").unlink()
    (tmp_path / "network" / "own.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    (tmp_path / "network" / ".#own.yaml").symlink_to("nowhere")
    assert faults_of_files([f"--config-dir={tmp_path}", "network=own"]) == []
    assert composed(f"hydra.searchpath=[file://{tmp_path}]", "network=own").network.lstm_hidden_size == 24


def test_a_folder_of_too_many_files_gets_one_line(tmp_path, monkeypatch):
    own(tmp_path, "hidden_size: 3")
    monkeypatch.setattr("seqrl.config.own_files.MOST_FOLDERS", 5)
    (tmp_path / "network" / "round").symlink_to(tmp_path)
    (line,) = faults_of_files([f"--config-dir={tmp_path}", "network=mlp"])
    assert line.startswith(f"--config-dir: {tmp_path} holds more than 10,000 YAML files or 5 folders.")


@pytest.mark.parametrize("words", [["--config-dir", "my_cnf"], ["--config-dir=my_cnf"]])
def test_a_folder_of_ones_own_that_is_not_there_is_said_with_the_nearest(tmp_path, monkeypatch, words):
    (tmp_path / "my_conf").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^--config-dir: there is no folder my_cnf\. Did you mean my_conf\?$"):
        faults_of_files([*words, "network=own"])


def test_a_number_that_yaml_reads_as_octal_is_named_with_its_line(tmp_path):
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "own.yaml").write_text(
        "# 010\na: 010\nb: '010'\nc: [1.5, 0, 10, 0x10, 00]\nd: 089\ne: 0_1_\n"
    )
    assert faults_of_files([f"--config-dir={tmp_path}", "network=own"]) == [
        f"{tmp_path}/network/own.yaml:2: YAML reads 010 as 8. Write 10, or quote it.",
        f"{tmp_path}/network/own.yaml:4: YAML reads 00 as 0. Write 0, or quote it.",
        f"{tmp_path}/network/own.yaml:6: YAML reads 0_1_ as 1. Write 1, or quote it.",
    ]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("env.kwargs={a: /x/y}_seed=1", "env.kwargs=-a-x-y-_seed=1"),
        ("a=" + "x" * 300, "a=" + "x" * 229 + "-8e270ac8"),
        ("hidden=[1, 3]", "hidden=-1,-3"),
    ],
)
def test_overrides_name_a_folder_that_every_file_system_takes(overrides, name):
    assert folder_name(overrides) == name


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("sequence=truncated", "masked_cartpole_ppo_lstm_bptt50_s0"),
        ("sequence=truncated network=mlp", "masked_cartpole_ppo_mlp_s0"),
        ("sequence=off", "masked_cartpole_ppo_lstm_off_s0"),
        ("network=attention", "masked_cartpole_ppo_attention_s0"),
        ("network=gru network.use_attention=true", "masked_cartpole_ppo_gru-attention_s0"),
        ("network=mingru network.layers=2", "masked_cartpole_ppo_mingru-2_s0"),
        ("network=gru network.memory._target_=mine.Cell", "masked_cartpole_ppo_Cell_s0"),
    ],
)
def test_a_run_is_not_called_after_what_it_does_not_do(overrides, name):
    assert run_name(composed(*overrides.split(" "))) == name


def test_an_own_part_may_have_keys_of_its_own(tmp_path):
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "big.yaml").write_text("_target_: my_module.Big\nuse_lstm: true\nlayers: 3\n")
    cfg = composed(f"hydra.searchpath=[file://{tmp_path}]", "network=big", "trust=[my_module]")
    assert faults(cfg) == []
    assert (cfg.network.layers, cfg.algorithm._target_) == (3, "seqrl.algorithms.SequencePPOAlgorithm")


OWN_PPO = "defaults: [ppo]\n_target_: my_module.Mine\nepochs: 3\nmine: 1.5\n"


@pytest.fixture
def own_ppo(tmp_path):
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "algorithm" / "mine.yaml").write_text(OWN_PPO)
    return [f"hydra.searchpath=[file://{tmp_path}]", "algorithm=mine", "trust=[my_module]"]


def test_an_own_algorithm_takes_what_ppo_takes_and_keys_of_its_own(own_ppo):
    cfg = composed(*own_ppo, "algorithm.mine=2")
    assert faults(cfg) == []
    assert (cfg.algorithm.mine, cfg.algorithm.epochs, cfg.algorithm.clip_range) == (2, 3, 0.2)


@pytest.mark.slow
def test_what_an_own_algorithm_shares_with_ppo_is_checked_as_ppos(own_ppo):
    (line,) = what_is_said(*own_ppo, "algorithm.gamma=99")
    assert line == "algorithm.gamma: must be between 0 and 1 (got 99.0). Did you mean 0.99?"
    with pytest.raises(ConfigCompositionException, match=r"algorithm\.epochs=a"):
        composed(*own_ppo, "algorithm.epochs=a")


@pytest.mark.parametrize(
    ("overrides", "length"),
    [
        (["sequence=full"], 0),
        (["sequence=truncated"], 50),
        (["sequence=off"], 1),
        (["network=mlp", "sequence=truncated"], 1),
    ],
)
def test_an_own_algorithm_sees_single_steps_where_sequences_are_not_learned(own_ppo, overrides, length):
    assert composed(*own_ppo, *overrides).algorithm.bptt_length == length


@pytest.mark.slow
def test_an_own_network_that_says_nothing_of_an_lstm_learns_sequences(tmp_path):
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "mine.yaml").write_text("_target_: my_module.mine\n")
    own = [f"hydra.searchpath=[file://{tmp_path}]", "network=mine", "trust=[my_module]"]
    for algorithm, name in (("ppo", "PPO"), ("reinforce", "Reinforce")):
        cfg = composed(*own, f"algorithm={algorithm}", "sequence=truncated")
        assert faults(cfg) == []
        assert cfg.algorithm._target_ == f"seqrl.algorithms.Sequence{name}Algorithm"
        assert cfg.algorithm.bptt_length == 50
    assert composed(*own, "sequence=off").algorithm._target_ == "seqrl.algorithms.PPOAlgorithm"


def test_the_help_lists_what_the_users_own_folder_adds(tmp_path):
    sources = [{"provider": "main", "path": str(CONF)}]
    assert own_choices(sources) == "a file each, in a folder that --config-dir names"
    for file in ("network/big.yaml", "algorithm/mine.yaml", "hydra/launcher/mine.yaml", "notes.yaml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    sources.append({"provider": "command-line", "path": str(tmp_path)})
    assert own_choices(sources) == "algorithm=mine, hydra/launcher=mine, network=big"
    (tmp_path / "network" / "x\x1b]0;owned\x07\u200f.yaml").touch()
    assert own_choices(sources).endswith(r"network=big, network=x\x1b]0;owned\x07\u200f")


def test_the_help_names_every_group_and_choice():
    text = composed_help()
    for group in GROUPS_OF_RUNS:
        # What goes on in the next line is further in.
        said = re.findall(
            rf"^ +{group} +(.+(?:\n {{12}}.+)*)$", text.split("Groups and their choices")[1], re.MULTILINE
        )
        assert all(re.search(rf"\b{choice}\b", said[0]) for choice in choices(group)), said
    assert "tmaze" in tasks(True)
    assert "gymnasium" in tasks(False)


def composed_help() -> str:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", return_hydra_config=True)
    cfg.hydra.runtime.config_sources = []
    return str(cfg.hydra.help.template)


def test_several_values_of_one_run_are_named_with_what_they_could_mean():
    overrides = OverridesParser.create().parse_overrides(["logger=csv,wandb"])
    with pytest.raises(ConfigCompositionException) as raised:
        ConfigLoaderImpl.validate_sweep_overrides_legal(overrides, run_mode=RunMode.RUN, from_shell=True)
    assert message_for(raised.value) == (
        ["logger: has several values (got csv,wandb). For a sweep add -m, for a list write logger=[csv,wandb]."],
        2,
    )


def test_numbers_of_an_environment_of_ones_own_mean_what_it_likes():
    own = ["~env", "+env._target_=mine.Pole", "+env.length=0.5", "+env.noise=[0.1,0.2]"]
    (line,) = faults(composed(*own))
    assert line.startswith("env._target_: ")


def numbers(schema):
    """Keys of a schema that are numbers and follow no other key."""
    for name, field in keys_of(schema).items():
        hint = typing.get_type_hints(schema)[name]
        if typing.get_origin(hint) in (list, dict):
            continue
        if {int, float} & {hint, *typing.get_args(hint)} and not OmegaConf.is_interpolation(
            OmegaConf.structured(schema), name
        ):
            yield name, field


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), RunnerConfig, EvaluationConfig])
def test_every_key_says_what_it_means_and_every_number_has_a_rule(schema):
    for name, field in keys_of(schema).items():
        own = not dataclasses.is_dataclass(typing.get_type_hints(schema)[name])
        follows = str(field.default).startswith("${")
        assert not own or follows or field.metadata.get("help") or schema is RunConfig, name
    assert [name for name, field in numbers(schema) if not field.metadata["rule"]] == []


def test_an_algorithm_takes_the_keys_of_its_schema():
    own = {field.name for field in dataclasses.fields(Settings)}
    assert own == set(keys_of(AlgorithmConfig))


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["~trust", "+trust=1000000"], "trust: must be a list, such as [a,b] (got 1000000)."),
        (["~seed", "+seed=[1]"], "seed: must be 0 or more (got [1])."),
        (["~algorithm.gamma", "+algorithm.gamma=high"], "algorithm.gamma: must be between 0 and 1 (got 'high')."),
        (["~validate", "+validate=7"], "validate: must be true or false (got 7)."),
        (["~seed"], "seed: was removed, and is needed. Give it a value, seed=…"),
        (["~algorithm.gamma"], "algorithm.gamma: was removed, and is needed. Give it a value, algorithm.gamma=…"),
    ],
)
def test_a_key_that_is_removed_and_given_anew_keeps_its_type(words, expected):
    assert faults(composed(*words)) == [expected]
