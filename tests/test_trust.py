"""Nothing is imported that the command line has not named, and no secret is written down."""

import importlib
import json
import os
import pkgutil
import re
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

import seqrl
from seqrl.config.begun import loaded
from seqrl.config.command_line import arguments
from seqrl.config.hydra_errors import message_for
from seqrl.config.own_files import faults_of_choices
from seqrl.config.paths import CONF
from seqrl.config.program import completed
from seqrl.config.secrets import public, secrets, variables
from seqrl.config.trust import BUILDABLE, _target
from seqrl.config.validate import faults
from seqrl.config.words import value_of
from seqrl.errors import ConfigError
from seqrl.packages import is_installed
from tests.programs import run_program

TINY = ["episodes=1", "parallel=2", "env.max_episode_steps=5", "evaluation.episodes=0", "logger=jsonl"]
TINY += ["network.hidden_size=8", "network.lstm_hidden_size=8"]


def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", list(overrides))


@pytest.mark.thin(4)
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
        "seqrl.run.manifest.subprocess.run",
        "seqrl.envs.gym.processes.os.system",
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


@pytest.mark.thin(2)
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
    "a tag": ("_target_: !!python/object/apply:os.system ['touch created']\n", "holds a tag of YAML"),
    "callback": (
        "# @package _global_\nhydra: {callbacks: {evil: {_target_: evil.thing}}}\n",
        "hydra.callbacks.evil._target_: a file sets it (got evil.thing)",
    ),
    "log handler": (
        "# @package _global_\nhydra: {job_logging: {handlers: {evil: {(): evil.thing}}}}\n",
        "hydra.job_logging.handlers.evil.(): a file sets it (got evil.thing)",
    ),
    "resolver": ("# @package _global_\nseed: '${evil:1}'\n", "seed: "),
}


@pytest.mark.thin(2)
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
    lines, exit_code = message_for(caught.value, words)
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


# A text without an interpolation once it is resolved; Hydra resolves it again, and builds what it finds.
LATER = r"\${oc.create:'{_target_: builtins.open, file: created, mode: w}'}"


@pytest.mark.parametrize(
    "place", ["env.kwargs.part", "env.wrappers[0].part", "network.memory.part", "logger.jsonl.part"]
)
def test_what_would_be_resolved_once_more_is_refused_wherever_it_stands(place):
    cfg = composed("env=gymnasium", "env.id=CartPole-v1", "env.wrappers=[{_target_: gymnasium.wrappers.ClipReward}]")
    OmegaConf.set_struct(cfg, False)
    section, _, name = place.rpartition(".")
    OmegaConf.select(cfg, section)[name] = LATER
    (line,) = faults(cfg)
    assert line.startswith(f"{place}: still holds ${{ once it is resolved.")


def test_a_variable_that_would_be_resolved_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush-${hush}")
    (line,) = faults(composed("env=gymnasium", "env.id=CartPole-v1", "+env.kwargs.key=${oc.env:MY_KEY}"))
    assert line.startswith("env.kwargs.key: still holds ${ once it is resolved.")


def test_a_run_that_was_tampered_with_builds_nothing_later(tmp_path):
    assert train(tmp_path, *TINY, "hydra.run.dir=run").returncode == 0
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    config.network.memory.part = LATER
    (tmp_path / "run" / "config.yaml").write_text(OmegaConf.to_yaml(config))
    evaluated = run_program(tmp_path, "-m", "seqrl.evaluate", "run=run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["overrides"].append(f'+network.memory.part="{LATER}"')
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    for done in (evaluated, train(tmp_path, "resume=run", "episodes=2")):
        assert done.returncode == 2
        assert done.stderr.startswith("seqrl: error: network.memory.part: still holds ${")
    assert not (tmp_path / "created").exists()


# What stands for something else once Hydra adds `_convert_` to the section that it builds.
OTHERWISE = {
    "table": {"no": "torch.nn.Tanh", "all": "builtins.open"},
    "part": {"_target_": "${..table.${oc.select:..._convert_,'no'}}", "file": "created", "mode": "w"},
}


def test_what_is_built_is_what_was_checked(tmp_path):
    gym = ["env.id=CartPole-v1", "episodes=1", "parallel=2", "evaluation.episodes=0", "env.backend=sync"]
    assert train(tmp_path, *gym, "hydra.run.dir=run").returncode == 0
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    file = {"defaults": [{"override /env": "gymnasium"}], "env": {"id": "CartPole-v1", "kwargs": OTHERWISE}}
    text = f"# @package _global_\n{OmegaConf.to_yaml(OmegaConf.create(file))}"
    (tmp_path / "mine" / "experiment" / "evil.yaml").write_text(text)
    of_file = train(tmp_path, "--config-dir", "mine", "experiment=evil", *gym[1:])
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["overrides"].append(f"+env.kwargs={json.dumps(OTHERWISE)}")
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    of_run = train(tmp_path, "resume=run", "episodes=2")
    for done in (of_file, of_run):
        assert (done.returncode, "torch.nn.Tanh" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "created").exists()


def test_files_of_ones_own_are_named_again_on_resuming(tmp_path):
    manifest = {"overrides": ["network=own"], "config_dir": "/mine"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        Exception, match=r"^resume: this run used configuration files of your own\. Add --config-dir /mine$"
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


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    "words",
    [
        ["+env.kwargs.token=hush"],
        ["-m", "+env.kwargs.api_key=hush,hum"],
        ["+hydra.job.env_set.MY_API_KEY=hush"],
        ["-m", "+hydra.job.env_set.MY_API_KEY=hush", "seed=0,1"],
    ],
)
def test_a_secret_that_is_typed_is_refused_before_it_is_written_down(tmp_path, words):
    done = train(tmp_path, "env=gymnasium", *words)
    assert done.returncode == 2
    assert "looks like a secret, and would be saved with the run. Export it as a variable, and write" in done.stderr
    assert not list(tmp_path.iterdir())


SECRETS = [
    "api_key: [hush]", "password: 3.14", "password: {value: hush}", "tokens: [hush]", "pwd: hush", "accessToken: hush",
    "private_key: hush", "url: 'http://me:hush@host/'", "url: 'https://hush@host/'", "password: '${oc.decode:hush}'",
    "APIKey: hush", "deep: [{secretKey: 1}]", "uri: 'postgresql://me:hush@host/db'", "password: '${env.id}'",
    "password: '${oc.decode:${oc.env:X,hunter2}}'",
]  # fmt: skip
NO_SECRETS = [
    "password: true", "password: null", "password: ''", "password: '${oc.env:X}'", "password: ['${oc.env:X}']",
    "password: '${oc.decode:${oc.env:X,hush}}'", "a: {b: '${oc.env:X}', password: '${env.kwargs.a.b}'}",
    "max_tokens_per_batch: 5", "max_tokens: 512", "tokenizer: gpt", "token_size: 4", "pad_token: '<pad>'",
    "url: 'ssh://git@host/x'", "url: 'http://host/@x'", "keys: [a]", "turkey: 3", "secretary: x",
]  # fmt: skip


@pytest.mark.parametrize("text", [*SECRETS, *NO_SECRETS])
def test_what_is_typed_out_under_the_name_of_a_secret_is_one_unless_a_variable_gives_it(text):
    cfg = OmegaConf.create(f"env: {{id: x, kwargs: {{{text}}}}}")
    found = list(secrets(cfg))
    assert len(found) == (text in SECRETS), found
    assert all(re.match(r"env\.kwargs\.[\w.\[\]]+: (looks like|holds) ", line) for line in found)


def test_references_that_never_end_are_left_to_whoever_resolves_them():
    assert list(secrets(OmegaConf.create("{password: '${a}', a: '${b}', b: '${a}'}"))) == []


def everything_callable():
    """Every callable that can be reached under a name of seqrl's, however it got there, by that name."""
    for module in pkgutil.walk_packages(seqrl.__path__, "seqrl."):
        if module.name.endswith("__main__") or ".conf" in module.name:
            continue
        for name, thing in vars(importlib.import_module(module.name)).items():
            if callable(thing):
                yield f"{module.name}.{name}"


def test_of_all_that_seqrl_holds_only_what_stands_in_the_table_can_be_built():
    cfg = composed("env=gymnasium", "env.wrappers=[{_target_: x}]")
    OmegaConf.set_struct(cfg, False)
    names = list(everything_callable())
    assert len(names) > 1000
    places = ["algorithm", "device", "env", "env.wrappers[0]", "env.kwargs.part", "logger.jsonl", "network", "runner"]
    tables = {place: place.replace("[0]", "[*]").replace("logger.jsonl", "logger.*") for place in places}
    reached = {place: set() for place in places}
    for name in names:
        for place in places:
            node = OmegaConf.select(cfg, place) if place != "env.kwargs.part" else {}
            if not list(_target(place, name, [])):
                reached[place].add(name)
            assert node is not None
    for place in places:
        assert reached[place] <= set(BUILDABLE.get(tables[place], [])), place
    # A name that stands there is no other thing by its name.
    for place, table in BUILDABLE.items():
        for name in (it for it in table if it.startswith("seqrl.") and "minigrid" not in it):
            assert get_object(name).__module__.startswith("seqrl."), (place, name)


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("+env._args_=[shared.payload:X-v0]", "env._args_: "),
        ("+network._partial_=true", "network._partial_: "),
        ("+env.kwargs.x={_args_: [1]}", "env.kwargs.x._args_: only classes of your own may have it (got [1])"),
        ("+env.kwargs.x={_target_: seqrl.envs.gym.registry.find}", "env.kwargs.x._target_: seqrl.envs.gym.registry"),
        ("+env.kwargs.x={_target_: seqrl.envs.GymnasiumEnv}", "env.kwargs.x._target_: seqrl.envs.GymnasiumEnv is not"),
        ("env.wrappers=[{_target_: seqrl.envs.GymnasiumEnv}]", "env.wrappers[0]._target_: seqrl.envs.GymnasiumEnv"),
        ("env._target_=seqrl.envs.gym.adapter.GymnasiumEnv", "env._target_: seqrl.envs.gym.adapter.GymnasiumEnv"),
        ("+logger.x={_target_: torch.nn.Tanh}", ""),
        ("+logger.x={_target_: torch.nn.init.normal_}", "logger.x._target_: torch.nn.init.normal_ is not of seqrl"),
    ],
)
def test_exact_names_are_built_where_they_belong_and_nowhere_else(override, line):
    wrong = [it for it in faults(composed("env=gymnasium", override)) if not it.startswith("env.wrappers[0]: ")]
    assert [it[: len(line)] for it in wrong] == ([line] if line else []), wrong


def test_a_module_beside_the_work_is_not_the_suite_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "popgym.py").write_text("from pathlib import Path\nPath('created').touch()\n")
    # Where the suite itself is installed, it is played.
    code = 0 if is_installed("popgym") else 2
    words = ["env.id=popgym:popgym-RepeatFirstEasy-v0", *(it for it in TINY if not it.startswith("env."))]
    for trust in ([], ["trust=[other]"]):
        assert train(tmp_path, *words, *trust).returncode == code
        assert not (tmp_path / "created").exists()


@pytest.mark.thin(20)
@pytest.mark.parametrize(
    "text",
    [
        "hydra: {job_logging: {handlers: {file: {stream: 'ext://sys.stderr'}}}}",
        "hydra: {job: {env_set: {GIT_SSH_COMMAND: touch created}}}",
        "hydra: {job: {chdir: true}}",
        "hydra: {sweeper: {max_batch_size: 7}}",
        "hydra: {hydra_logging: {handlers: {console: {class: logging.os.system}}}}",
    ],
)
@pytest.mark.parametrize("spelling", [["--config-dir", "conf"], ["--config-dir=conf"], ["-cd", "conf"], ["-cd=conf"]])
def test_a_file_sets_nothing_of_hydras_own_unless_that_is_trusted(evil, monkeypatch, text, spelling):
    (evil / "conf" / "profile").mkdir(parents=True)
    (evil / "conf" / "profile" / "bad.yaml").write_text(f"# @package _global_\n{text}\n")
    monkeypatch.chdir(evil)
    for words in ([*spelling, "profile=bad"], ["-m", *spelling, "profile=bad", "seed=0,1"]):
        with pytest.raises(ConfigError, match=r"hydra\..*: a file sets it .* or add trust=\[hydra\]"):
            completed(words, leave_nothing=False)
    assert completed([*spelling, "profile=bad", "trust=[hydra]"], leave_nothing=False)


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("logger: {mlflow: {tracking_uri: 'http://evil/${oc.env:HOME}'}}", "logger.mlflow.tracking_uri"),
        ("logger: {wandb: {entity: evil}}", "logger.wandb.entity"),
        (
            "logger: {mine: {_target_: seqrl.loggers.Mlflow, tracking_uri: 'sqlite:////root/x.db'}}",
            "logger.mine.tracking_uri",
        ),
    ],
)
def test_a_file_sends_no_curves_elsewhere_unless_the_command_line_says_so(evil, monkeypatch, text, key):
    (evil / "conf" / "profile").mkdir(parents=True)
    loggers = "[mlflow, wandb, jsonl]"
    file = f"# @package _global_\ndefaults: [{{override /logger: {loggers}}}]\n{text}\n"
    (evil / "conf" / "profile" / "bad.yaml").write_text(file)
    monkeypatch.chdir(evil)
    given = ["--config-dir", "conf", "profile=bad"]
    for words in (given, ["-m", *given, "seed=0,1"], [*given, "logger.mlflow.name=x"]):
        with pytest.raises(ConfigError, match=rf"{key}: a file sets it .* or add trust=\[logger\]"):
            completed(words, leave_nothing=False)
    for said in ("trust=[logger]", f"{key}=here"):
        assert completed([*given, said], leave_nothing=False)
    if "mine" not in key:
        section, _, name = key.rpartition(".")
        assert completed([*given, f"{section}={{{name}: here}}"], leave_nothing=False)
        with pytest.raises(ConfigError, match=f"{key}: a file sets it"):
            completed([*given, f"{section}={{name: other}}"], leave_nothing=False)


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("text", ["validate: true", "resume: a/run", "trust: [os]"])
def test_a_file_does_not_say_what_only_a_command_says(evil, monkeypatch, text):
    (evil / "conf" / "profile").mkdir(parents=True)
    (evil / "conf" / "profile" / "bad.yaml").write_text(f"# @package _global_\n{text}\n")
    monkeypatch.chdir(evil)
    for words in (["profile=bad"], ["-m", "profile=bad", "seed=0,1"]):
        with pytest.raises(ConfigError, match=rf"{text.partition(':')[0]}: works only on the command line, not in a f"):
            completed(["--config-dir", "conf", *words], leave_nothing=False)


def test_a_file_computes_no_logger(evil, monkeypatch):
    (evil / "conf" / "profile").mkdir(parents=True)
    logger = "{_target_:seqrl.loggers.Mlflow,tracking_uri:'http://evil'}"
    file = f'# @package _global_\nlogger:\n  tensorboard: "${{oc.create:{logger}}}"\n'
    (evil / "conf" / "profile" / "bad.yaml").write_text(file)
    monkeypatch.chdir(evil)
    with pytest.raises(ConfigError, match=r"logger\.tensorboard: a file sets it"):
        completed(["--config-dir", "conf", "profile=bad"], leave_nothing=False)


CALLBACK = "hydra: {callbacks: {evil: {_target_: torch.load, f: payload.pt, weights_only: false}}}"


@pytest.mark.thin(12)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"trust: [hydra]\n{CALLBACK}", "hydra.callbacks.evil._target_: a file sets it"),
        (f"trust: ['${{nope}}']\n{CALLBACK}", "hydra.callbacks.evil._target_: a file sets it|'nope' not found"),
        (f"seed: ['${{nope}}']\n{CALLBACK}", "seed: "),
        ("trust: [torch]\nhydra: {overrides: {task: ['trust=[torch]']}}", "hydra.overrides: a file sets it"),
        ("trust: [torch]\nhydra: {overrides: {hydra: ['trust=[torch]']}}", "hydra.overrides: a file sets it"),
    ],
)
@pytest.mark.parametrize("words", [[], ["-m", "seed=0,1"]])
def test_a_file_cannot_pass_for_the_command_line_nor_keep_it_from_being_looked_at(evil, monkeypatch, text, said, words):
    (evil / "conf" / "profile").mkdir(parents=True)
    (evil / "conf" / "profile" / "bad.yaml").write_text(f"# @package _global_\n{text}\n")
    monkeypatch.chdir(evil)
    with pytest.raises(ConfigError) as raised:
        completed(["--config-dir", "conf", "profile=bad", *words], leave_nothing=False)
    assert re.search(said, raised.value.faults[0])


@pytest.mark.parametrize("override", ["+env@hydra.callbacks.evil=tmaze", "+logger@_global_.hydra.callbacks.e=wandb"])
def test_a_run_folder_cannot_say_where_a_group_goes(tmp_path, override):
    (tmp_path / "manifest.json").write_text(json.dumps({"overrides": [override], "config_dir": None}))
    with pytest.raises(ConfigError, match="which its folder alone cannot ask for"):
        completed([f"resume={tmp_path}"], leave_nothing=False)


CLIMBS = "../../../../../../../../../.."
LEADING_OUT = [
    "profile={climbs}{here}/evil",
    "+profile='{climbs}{here}/evil'",
    "experiment=x/{climbs}{here}/evil",
    "logger=[jsonl,{climbs}{here}/evil]",
    "network={here}/evil",
    "env=..",
    "profile=${{oc.decode:\"'\\x2e\\x2e'\"}}{here}/evil",
]


@pytest.mark.parametrize("override", LEADING_OUT)
def test_a_choice_does_not_lead_out_of_the_folders_of_configurations(tmp_path, override):
    (tmp_path / "evil.yaml").write_text("# @package _global_\nhydra: {callbacks: {evil: {_target_: evil.thing}}}\n")
    word = override.format(climbs=CLIMBS, here=tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"overrides": [word], "config_dir": None}))
    for words in [[word], ["-m", word, "seed=0,1"], [f"resume={tmp_path}"]]:
        with pytest.raises(ConfigError, match=r"^\w+: a choice is a name, not a path"):
            completed(words, leave_nothing=False)


def test_a_folder_that_is_called_as_a_key_is_named_where_hydra_takes_the_key_for_its_choices(tmp_path):
    (tmp_path / "resume").mkdir()
    words = [f"--config-dir={tmp_path}", "hydra.run.dir=run"]
    assert completed([*words, "seed=1"], leave_nothing=False)
    (line,) = faults_of_choices([*words, "resume=/runs/1"])
    assert line.startswith(f"resume: Hydra takes {tmp_path / 'resume'} for choices of it (got /runs/1). Keep ")


def test_a_choice_may_lie_in_a_folder_of_a_group_and_a_key_of_ones_own_may_hold_a_path(tmp_path):
    (tmp_path / "network" / "mine").mkdir(parents=True)
    (tmp_path / "network" / "mine" / "v1.2.yaml").write_text("defaults: [/network/lstm@_here_]\n")
    words = [f"--config-dir={tmp_path}", "network=mine/v1.2", "+data=/mnt/data", "+more=../x", "name=${seed}"]
    assert completed(words, leave_nothing=False) == words


@pytest.mark.parametrize(
    "entry",
    [f"/network: {CLIMBS}/tmp/evil", f"{CLIMBS}/tmp/evil", f"override /network: {CLIMBS}/tmp/evil", "'/x/../y@z'"],
)
def test_a_list_of_defaults_does_not_lead_out_of_its_folder(tmp_path, entry):
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "bad.yaml").write_text(f"# @package _global_\ndefaults:\n  - {entry}\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: defaults: a choice is a name, not a path"):
        completed(["--config-dir", str(tmp_path)], leave_nothing=False)


OVERLONG = {
    "brackets": (f"+env.kwargs.x={'[' * 3000}{']' * 3000}", "is nested too deeply"),
    "references": (f"name={'${' * 3000}seed{'}' * 3000}", "is nested too deeply"),
    "numbers": (f"+env.kwargs.x=[{','.join(map(str, range(10_000)))}]", "has 10,00[0-9] words"),
    "words": ("name=" + "a " * 10_000, "has 10,001 words"),
}


@pytest.mark.parametrize("what", OVERLONG)
def test_an_override_that_the_parser_could_not_bear_is_refused_before_it_is_parsed(tmp_path, what):
    override, said = OVERLONG[what]
    (tmp_path / "manifest.json").write_text(json.dumps({"overrides": [override], "config_dir": None}))
    for words in [[override], ["-m", override, "seed=0,1"], [f"resume={tmp_path}"]]:
        with pytest.raises(ConfigError, match=said):
            completed(words, leave_nothing=False)
    with pytest.raises(ConfigError, match=said):
        value_of(override)


def test_a_name_that_is_no_text_is_refused_before_it_is_parsed_unless_it_is_quoted():
    with pytest.raises(
        ConfigError, match=r"^hydra.run.dir: is not UTF-8 \(got /bad\udcff\)\. Use a name that is, or re"
    ):
        completed(["hydra.run.dir=/bad\udcff"], leave_nothing=False)
    assert completed(["hydra.run.dir='/bad\udcff'"], leave_nothing=False) == ["hydra.run.dir='/bad\udcff'"]


def test_brackets_and_words_in_a_quoted_value_are_one_word():
    override = f"name='{'[' * 60} {'a ' * 10_000}'"
    assert value_of(override) == override.removeprefix("name=").strip("'")


@pytest.mark.parametrize("option", ["--config-name=evil", "-cn=evil", "--config-path", "-cp", "--config-n", "--con"])
def test_the_files_that_come_with_seqrl_are_not_replaced(option):
    with pytest.raises(ConfigError, match="seqrl has its own"):
        completed([option], leave_nothing=False)


@pytest.mark.parametrize("word", ["hydra.searchpath=[file://evil]", "+hydra.searchpath=[evil]", "hydra.searchpath=[]"])
def test_hydra_reads_no_folder_that_nobody_has_looked_through(word):
    """Files there could set variables and start programs."""
    with pytest.raises(ConfigError, match=r"^hydra\.searchpath: .* Name yours with --config-dir <folder>\.$"):
        completed([word], leave_nothing=False)


@pytest.mark.parametrize("option", ["--experimental-rerun=config.pickle", "--exp=config.pickle"])
def test_a_run_that_hydra_would_read_from_a_pickle_is_refused(option):
    with pytest.raises(ConfigError, match="seqrl saves no such file"):
        completed([option], leave_nothing=False)


@pytest.mark.parametrize("program", ["train", "evaluate.__main__", "tune.__main__"])
def test_no_program_imports_from_the_working_folder(tmp_path, program):
    lines = [
        "import sys",
        f"from seqrl.{program} import main",
        "sys.path.insert(0, '')",
        "sys.argv[1:] = ['--nonsense']",
        "try: main()",
        "except SystemExit: print('' in sys.path)",
    ]
    done = run_program(tmp_path, "-c", "\n".join(lines))
    assert (done.stdout, done.stderr.startswith("seqrl: error: ")) == ("False\n", True)


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("kwargs", "saved"),
    [
        ("{a: {b: [{c: '${oc.env:MY_KEY}'}]}}", {"a": {"b": [{"c": "${oc.env:MY_KEY}"}]}}),
        ("{n: '${oc.decode:${oc.env:MY_NUMBER}}'}", {"n": "${oc.decode:${oc.env:MY_NUMBER}}"}),
        ("{d: '${oc.env:NOT_THERE,fallback}'}", {"d": "fallback"}),
        ("{d: '${oc.env:MY_KEY,fallback}'}", {"d": "${oc.env:MY_KEY,fallback}"}),
        ("{x: '${oc.create:{y: \"${oc.env:MY_KEY}\"}}'}", {"x": '${oc.create:{y: "${oc.env:MY_KEY}"}}'}),
        ("{a: '${oc.env:MY_KEY}', b: '${env.kwargs.a}'}", {"a": "${oc.env:MY_KEY}", "b": "${oc.env:MY_KEY}"}),
        ("{seed: '${seed}'}", {"seed": 7}),
        ("{seed: 'level-${seed}-${oc.env:MY_KEY}'}", {"seed": "level-7-${oc.env:MY_KEY}"}),
        (
            "{login: {key: '${oc.env:MY_KEY}', user: me}, sim: {login: '${env.kwargs.login}', port: 5}}",
            {
                "login": {"key": "${oc.env:MY_KEY}", "user": "me"},
                "sim": {"login": {"key": "${oc.env:MY_KEY}", "user": "me"}, "port": 5},
            },
        ),
        (
            "{keys: ['${oc.env:MY_KEY}', 2], all: '${.keys}', one: '${env.kwargs.keys[0]}', "
            "text: '${.keys[0]}/${.n}', n: 3}",
            {
                "keys": ["${oc.env:MY_KEY}", 2],
                "all": ["${oc.env:MY_KEY}", 2],
                "one": "${oc.env:MY_KEY}",
                "text": "${oc.env:MY_KEY}/3",
                "n": 3,
            },
        ),
        (
            "{x: '${oc.env:MY_KEY}/*.png', y: 'costs 5$, ${oc.env:MY_KEY}'}",
            {"x": "${oc.env:MY_KEY}/*.png", "y": "costs 5$, ${oc.env:MY_KEY}"},
        ),
    ],
)
def test_what_is_saved_keeps_the_words_of_a_variable_and_plays_the_same(monkeypatch, tmp_path, kwargs, saved):
    monkeypatch.setenv("MY_KEY", "hush-hush")
    monkeypatch.setenv("MY_NUMBER", "31337")
    monkeypatch.setenv("MY_SEED", "7")
    cfg = composed("env=gymnasium", "seed=${oc.env:MY_SEED}", f"+env.kwargs={kwargs}")
    written = OmegaConf.to_container(public(cfg).env.kwargs)
    assert written == saved
    again = OmegaConf.create(OmegaConf.to_yaml(public(cfg)))
    played, before = (OmegaConf.to_container(it.env.kwargs, resolve=True) for it in (again, cfg))
    assert played == before
    assert saved_in(tmp_path, OmegaConf.to_yaml(public(cfg))) == again


def test_a_number_of_seqrls_own_that_another_key_repeats_is_no_secret(monkeypatch):
    monkeypatch.setenv("MY_SEED", "7351")
    cfg = composed("env=gymnasium", "seed=${oc.env:MY_SEED}", "+env.kwargs={level: '${seed}', next: '${.level}'}")
    assert variables(cfg) == ({"MY_SEED"}, set())
    cfg = composed("env=gymnasium", "seed=${oc.env:MY_SEED}", "+env.kwargs={level: 'no. ${seed}'}")
    assert variables(cfg) == (set(), {"MY_SEED"})


def saved_in(folder, text):
    (folder / "config.yaml").write_text(text)
    return loaded(folder / "config.yaml")


GROWS = "".join(f"  a{n}: '{f'${{.a{n - 1}}}' * 10}'\n" for n in range(1, 9))


@pytest.mark.parametrize(
    "text",
    [
        f"env:\n  a0: x\n{GROWS}",
        "env: {x: '${own_choices:[{provider: command-line, path: /}]}'}",
        "env: {x: ['${seed}']}",
        "env: {x: {y: '${oc.env:${seed}}'}}",
        "env: {x: '${oc.env:A,b}${seed}'}",
        # Each makes an interpolation of its parts.
        "env: {x: '$${oc.env:NOT_THERE,x}'}",
        "env: {x: '${oc.env:NOT_THERE,$}{seed}'}",
        """env: {x: '{$${oc.env:NO,"{seed}"}'}""",
        """env: {x: "${oc.decode:'$${oc.env:NO,\\"{seed}\\"}'}"}""",
        r"""env: {x: '${oc.create:''{a: "\x24{seed}"}''}'}""",
        r"""env: {x: '${oc.create:''{a: "\u0024{seed}"}''}'}""",
        """env: {x: "${oc.create:'a: &a [x]\\nb: [*a, *a]'}"}""",
        "env: {x: '" + "${oc.env:HOME}" * 1001 + "'}",
    ],
)
def test_a_saved_configuration_that_computes_more_than_runs_save_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"computes a value, which no run saves|has more than 1000 variables"):
        saved_in(tmp_path, text)


def test_no_configuration_can_list_a_folder_of_its_choice():
    cfg = composed("env=gymnasium", "+env.kwargs.x='${own_choices:[{provider: command-line, path: /}]}'")
    (line,) = faults(cfg)
    assert line.startswith("env.kwargs.x: ")


@pytest.mark.thin(3)
@pytest.mark.parametrize(("where", "code"), [("__init__", 2), ("reset", 5), ("step", 5)])
def test_whatever_raises_no_value_of_a_variable_is_shown(tmp_path, where, code):
    (tmp_path / "mine.py").write_text(
        "import gymnasium as gym\n"
        "class Env(gym.Env):\n"
        "    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))\n"
        "    action_space = gym.spaces.Discrete(2)\n"
        "    def __init__(self, key, **_):\n"
        "        self.key = key\n"
        f"        if '{where}' == '__init__': raise ValueError(f'{{key}} is refused')\n"
        "    def reset(self, seed=None, options=None):\n"
        f"        if '{where}' == 'reset': raise ValueError(f'{{self.key}} is refused')\n"
        "        return self.observation_space.sample(), {}\n"
        "    def step(self, action): raise ValueError(f'{self.key} is refused')\n"
        "gym.register('Mine-v0', entry_point=Env)\n"
    )
    words = ["env.id=mine:Mine-v0", "+env.kwargs.key=${oc.env:MY_KEY}", "trust=[mine]", "hydra.run.dir=run"]
    done = train(tmp_path, *words, "episodes=1", "parallel=2", MY_KEY="hush-hush-4711")
    assert done.returncode == code
    assert "${oc.env:MY_KEY} is refused" in done.stderr
    texts = [path.read_text(errors="replace") for path in (tmp_path / "run").rglob("*") if path.is_file()]
    # Nothing is left of a run that was refused.
    assert any("is refused" in text for text in texts) == (code == 5)
    assert not [text for text in [*texts, done.stdout, done.stderr] if "hush-hush" in text]


def test_an_environment_changes_no_variable_of_its_run(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "import gymnasium as gym\n"
        "class Env(gym.Env):\n"
        "    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))\n"
        "    action_space = gym.spaces.Discrete(2)\n"
        "    def __init__(self, key, length, other):\n"
        "        self.length, self.other = int(length), other\n"
        "        os.environ.pop('MY_KEY', None)\n"
        "        os.environ.update(LENGTH='9', OTHER='9')\n"
        "    def reset(self, seed=None, options=None):\n"
        "        self.left = self.length\n"
        "        return self.observation_space.low, {}\n"
        "    def step(self, action):\n"
        "        self.left -= 1\n"
        "        return self.observation_space.low, float(self.other), not self.left, False, {}\n"
        "gym.register('Mine-v0', entry_point=Env)\n"
    )
    kwargs = "{key: '${oc.env:MY_KEY}', length: '${oc.env:LENGTH}', other: '${oc.env:OTHER,1}'}"
    words = ["env.id=mine:Mine-v0", f"+env.kwargs={kwargs}", "trust=[mine]", "hydra.run.dir=run", "episodes=1"]
    variables = {"MY_KEY": "hush-hush-4711", "LENGTH": "5"}
    done = train(tmp_path, *words, "parallel=2", "evaluation.episodes=2", **variables)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["result"] == 5
    again = run_program(tmp_path, "-m", "seqrl.evaluate", "run=run", "trust=[mine]", env={**os.environ, **variables})
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["greedy"]["return_mean"] == 5
    assert not [it for it in (tmp_path / "run").rglob("*") if it.is_file() and b"hush-hush" in it.read_bytes()]


def test_a_secret_in_a_mapping_is_found(tmp_path):
    done = train(tmp_path, "env=gymnasium", "+env.kwargs={deep: {password: hush-hush}}")
    assert done.returncode == 2
    assert done.stderr.startswith("seqrl: error: env.kwargs.deep.password: looks like a secret")


@pytest.mark.parametrize("program", ["seqrl.train", pytest.param("seqrl.verify", marks=pytest.mark.slow)])
def test_the_shell_may_trust_modules_and_the_first_line_says_so(tmp_path, program):
    (tmp_path / "mine.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Mine-v0', CartPoleEnv, max_episode_steps=5)\n"
    )
    words = ("-m", program, "env.id=mine:Mine-v0", "validate=true" if program == "seqrl.train" else "parallel=2")
    refused = run_program(tmp_path, *words)
    assert "add trust=[mine]" in refused.stderr
    ended = run_program(tmp_path, *words, env={**os.environ, "SEQRL_TRUST": "mine"})
    assert ended.stdout.splitlines()[0] == "trusting mine, as SEQRL_TRUST says"
    assert not ended.stderr
    other = run_program(tmp_path, *words, "trust=[other]", env={**os.environ, "SEQRL_TRUST": "mine"})
    assert "add trust=[other,mine]" in other.stderr
