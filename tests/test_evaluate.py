"""`python -m seqrl.evaluate` evaluates the policy of any run, and harms none."""

import fcntl
import hashlib
import json
import os
import resource
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from seqrl.config.schema import keys_of
from seqrl.errors import ConfigError, EnvError
from seqrl.evaluate.__main__ import main
from seqrl.evaluate.request import Words, requested
from seqrl.export import request as export_request
from seqrl.film import making
from seqrl.inspect import request as inspect_request
from seqrl.run.checkpoint import Checkpoints, packed
from seqrl.run.results import memory, table, verdict
from tests.programs import Program, run_program
from tests.test_train import TINY, train

# A network with one number: how well it remembers the sign of the T-maze. It turns as it remembers, and up if it does
# not remember.
MINE = """
import torch
from torch import nn
from seqrl.networks.heads import Categorical
from pathlib import Path

Path("imported").touch()

class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.trust_in_memory = nn.Parameter(torch.zeros(()))

    def initial_state(self, batch_size):
        return {"sign": torch.zeros(batch_size)}

    def step(self, observation, state):
        sign = state["sign"] + observation[:, 0]
        turn = 0.1 + self.trust_in_memory * sign
        forward = 10 * (1 - observation[:, 1])
        logits = torch.stack([forward, forward - 20, turn, -turn], 1)
        return Categorical(logits), turn, {"sign": sign}

def network(observation_space, action_space, use_lstm):
    return Remembers()
"""
CONFIG = {
    "env": {"_target_": "seqrl.envs.TMaze", "corridor_length": 5},
    "network": {"_target_": "mine.network", "use_lstm": True},
    "device": {"_target_": "seqrl.devices.Device", "name": "cpu", "threads": 1, "precision": "float32"},
    "runner": {"episode_limit": 1000},
    "evaluation": {"episodes": 40, "greedy": True},
    "parallel": 16,
    "seed": 3,
    # Ignored: only the command line may trust.
    "trust": ["mine"],
}


SOUND = {"iterations": 1, "steps": 1}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Folder of a run, beside the module that defines its network; its policy has just begun to remember."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(MINE)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    checkpoints = Checkpoints(folder)
    # The first is the best by training return, the second by evaluation.
    for iteration, (trust, training, evaluation) in enumerate([(0.0, 0.9, 0.5), (1.0, 0.8, 1.0), (1.0, 0.7, 0.4)]):
        state = {"algorithm": {"network": {"trust_in_memory": torch.tensor(trust)}}}
        checkpoints.keep = 3
        checkpoints.save({**state, "iterations": iteration, "steps": 100 * iteration}, iteration, training, evaluation)
    return folder


@pytest.fixture
def evaluated(run, monkeypatch, capsys):
    """Runs the program; returns what it wrote to evaluation.json, and what it printed."""

    def evaluate(*words):
        monkeypatch.setattr(sys, "argv", ["evaluate", *words])
        main()
        return json.loads((run / "evaluation.json").read_text()), capsys.readouterr().out

    return evaluate


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs the program, which refuses; returns its error line and its exit code."""

    def evaluate(*words):
        monkeypatch.setattr(sys, "argv", ["evaluate", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("seqrl: error: ")
        return line.removeprefix("seqrl: error: "), ended.value.code

    return evaluate


GIVEN = ["run=run", "trust=[mine]"]


def test_columns_of_figures_stand_apart_however_long_they_are():
    statistics = {"return_mean": 4549998.94, "return_interval": [-4235004.0, 14837601.7], "return_median": 4999993.52}
    statistics |= {"return_min": -9999991.5, "return_max": 15000001.7, "length_mean": 10, "info": {"a_name": 3}}
    heads, line, info = table({"greedy": statistics}).splitlines()
    figures = "4549998.9 -4235004.0 to 14837601.7 4999993.5 -9999991.5 15000001.7 10.0"
    assert line.split() == f"likeliest actions {figures}".split()
    assert info.split() == ["a_name", "3.00"]
    # Figures stand at the right.
    assert heads.index("return") + len("return") == line.index("4549998.9") + len("4549998.9") == len(info)
    assert len(heads) == len(line)


def test_memory_in_use_is_distinguished_from_memory_not_in_use(evaluated):
    measured, printed = evaluated(*GIVEN)
    assert (measured["iterations"], measured["env_steps"], measured["seed"], measured["changed"]) == (2, 200, 3, [])
    assert measured["greedy"]["returns"] == [1.0] * 40
    assert measured["greedy"]["lengths"] == [6.0] * 40
    assert 0.2 < measured["without_memory"]["return_mean"] < 0.8
    low, high = measured["memory"]["interval"]
    assert 0 < low < measured["memory"]["return_lost"] < high
    assert measured["memory"]["return_lost"] == pytest.approx(1 - measured["without_memory"]["return_mean"])
    assert "Memory is used: zeroing it costs 0." in printed

    measured, printed = evaluated(*GIVEN, "checkpoint=0")
    assert measured["greedy"]["returns"] == measured["without_memory"]["returns"]
    assert "No sign that memory is used" in printed


def test_statistics_are_those_of_the_episodes(evaluated):
    measured, printed = evaluated(*GIVEN, "checkpoint=0", "episodes=99")
    returns = torch.tensor(measured["greedy"]["returns"])
    assert len(returns) == 99
    assert set(returns.tolist()) == {0.0, 1.0}
    mean = float(returns.mean())
    assert measured["greedy"]["return_mean"] == pytest.approx(mean)
    low, high = measured["greedy"]["return_interval"]
    half = 1.96 * float(returns.std()) / 99**0.5
    assert (mean - low, high - mean) == (pytest.approx(half, rel=0.15), pytest.approx(half, rel=0.15))
    assert (measured["greedy"]["return_min"], measured["greedy"]["return_max"]) == (0, 1)
    assert measured["greedy"]["return_median"] == float(mean > 0.5)
    assert f"{mean:.2f}        {low:.2f} to {high:.2f}" in printed


def test_a_changed_environment_is_played_and_the_change_reported(evaluated):
    measured, printed = evaluated(*GIVEN, "env.corridor_length=40")
    assert measured["greedy"]["lengths"] == [41.0] * 40
    assert measured["greedy"]["return_mean"] == 1
    assert measured["changed"] == ["env.corridor_length: 5 -> 40"]
    assert "changed: env.corridor_length: 5 -> 40\n" in printed


def test_the_seed_of_the_run_plays_its_episodes_and_another_seed_plays_others(evaluated):
    first, again, other = (
        evaluated(*GIVEN, "checkpoint=0", *seed)[0]["greedy"]["returns"] for seed in ([], ["seed=3"], ["seed=4"])
    )
    assert first == again != other


def test_both_policies_are_played_if_asked_for(evaluated):
    measured, printed = evaluated(*GIVEN, "greedy=both", "memoryless_control=false")
    assert "memory" not in measured
    assert measured["sampled"]["return_mean"] < measured["greedy"]["return_mean"] == 1
    assert "likeliest actions" in printed
    assert "sampled actions" in printed
    assert "emory" not in printed


@pytest.mark.thin(3)
@pytest.mark.parametrize(("which", "iterations"), [("last", 2), ("best", 1), ("0", 0), ("1", 1)])
def test_the_checkpoint_asked_for_is_played(evaluated, which, iterations):
    assert evaluated(*GIVEN, f"checkpoint={which}")[0]["iterations"] == iterations


@pytest.mark.slow
def test_a_checkpoint_chosen_by_the_same_episodes_comes_with_a_warning(run, evaluated):
    config = {**CONFIG, "evaluation": {**CONFIG["evaluation"], "interval": 5}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    note = "This checkpoint was chosen as the best on these very episodes"
    for words, is_warned in {
        "checkpoint=best": True,
        "checkpoint=last": False,
        "checkpoint=best seed=1": False,
    }.items():
        assert (note in evaluated(*GIVEN, *words.split())[1]) == is_warned


def test_few_episodes_show_nothing_about_memory(evaluated):
    measured, printed = evaluated(*GIVEN, "episodes=1")
    assert measured["greedy"]["return_interval"] is None
    assert "1 episode cannot show whether memory is used." in printed
    assert "9 episodes cannot show whether memory is used." in evaluated(*GIVEN, "episodes=9")[1]


@pytest.mark.parametrize(
    ("zeroed", "sentence"),
    [(0.0, "Memory is used: zeroing it costs 1.50 (1."), (3.0, "Memory hurts: zeroing it gains 1.50 (1.")],
)
def test_the_verdict_says_which_way(zeroed, sentence):
    returns = 1 + torch.arange(20).remainder(2).double().numpy()
    assert verdict(**memory(returns, 0 * returns + zeroed)).startswith(sentence)


# Runs with different environments, networks and policies.
RUNS = {
    "cartpole": ["network=attention"],
    "sync": ["env=gymnasium", "env.backend=sync", "env.hidden=[1]", "evaluation.greedy=both", "network=lstm"],
}


@pytest.mark.thin(2)
@pytest.mark.parametrize("name", RUNS)
def test_it_measures_to_the_last_bit_what_the_run_measured(tmp_path, monkeypatch, name):
    tiny = [word for word in TINY if name == "cartpole" or not word.startswith("env.")]
    more = ["evaluation.episodes=10", "evaluation.memoryless_control=true", "hydra.run.dir=trained", "logger=jsonl"]
    done = train(tmp_path, *tiny, *more, *RUNS[name])
    assert done.returncode == 0, done.stderr
    trained = tmp_path / "trained"
    facts = json.loads((trained / "manifest.json").read_text())
    before = contents(trained)
    monkeypatch.setattr(sys, "argv", ["evaluate", f"run={trained}"])
    main()
    measured = json.loads((trained / "evaluation.json").read_text())
    for how, prefix in {"greedy": "", "sampled": "sampled_"}.items():
        for figure in ("return_mean", "return_std", "return_min", "length_mean"):
            if how in measured:
                assert measured[how][figure] == facts[f"evaluation_{prefix}{figure}"]
    assert ("sampled" in measured) == (name == "sync")
    assert measured["without_memory"]["return_mean"] == facts["evaluation_return_without_memory"]
    assert len(set(measured["greedy"]["returns"])) > 1
    # Nothing else in the run's folder has changed.
    assert {path: data for path, data in contents(trained).items() if path != "evaluation.json"} == before


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("key", ["seed", "episodes", "greedy", "device"])
def test_null_leaves_a_key_to_the_run(key):
    assert getattr(requested(["run=here", f"{key}=null"]), key) is None
    assert export_request.requested(["run=here", "hub=null"]).hub is None
    with pytest.raises(ConfigError, match=r"^checkpoint: must be last, best or a number"):
        requested(["run=here", "checkpoint=null"])


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        ([], 2, "run: is missing. Name the folder of a run, such as outputs/runs/<date>/<run>."),
        (["run="], 2, "run: must be the folder of a run"),
        (["run"], 2, "run: is not key=value. Run python -m seqrl.evaluate --help for the keys."),
        (["latest"], 2, "latest: is not key=value. Write run=latest."),
        (["./run"], 2, "./run: is not key=value. Write run=./run."),
        ([*GIVEN, f"trust=[{','.join('m' * 99 for _ in range(60))}]", "sede=1"], 2, "sede: there is no such key."),
        ([*GIVEN, "seed", "=", "3"], 2, "seed = 3: has blanks in it. Write seed=3."),
        ([*GIVEN, "~env.noise"], 2, "~env.noise: is not key=value. Run python -m seqrl.evaluate --help for the keys."),
        ([*GIVEN, "seed:3"], 2, "seed:3: is not key=value. Write seed=3."),
        (["run=nowhere"], 3, "run: nowhere does not exist. python -m seqrl.runs lists the runs."),
        (["run=latset"], 3, "run: latset does not exist. Did you mean latest? python -m seqrl.runs lists the runs."),
        (["run=."], 3, "run: . is not a run folder."),
        (["run=mine.py"], 3, "run: mine.py is not a run folder."),
        ([*GIVEN, "episodes=0"], 2, "episodes: must be a whole number of at least 1 (got 0)."),
        ([*GIVEN, "episodes=1.5"], 2, "episodes: must be a whole number of at least 1 (got 1.5)."),
        ([*GIVEN, "episodes=many"], 2, "episodes: must be a whole number of at least 1 (got many)."),
        ([*GIVEN, "episodes=true"], 2, "episodes: must be a whole number of at least 1 (got true)."),
        ([*GIVEN, "epsiodes=3"], 2, "epsiodes: there is no such key. Did you mean episodes? Keys: run, checkpoint,"),
        ([*GIVEN, "network.hidden_size=3"], 2, "network.hidden_size: there is no such key."),
        ([*GIVEN, "env=tmaze"], 2, "env: there is no such key."),
        ([*GIVEN, "--fast"], 2, "--fast: is not key=value."),
        ([*GIVEN, "seed=-1"], 2, "seed: must be a whole number of at least 0 (got -1)."),
        ([*GIVEN, "greedy=maybe"], 2, "greedy: must be true, false or both (got maybe)."),
        ([*GIVEN, "video=mp4"], 2, "video: must be true or false (got mp4)."),
        ([*GIVEN, "greedy=1"], 2, "greedy: must be true, false or both (got 1)."),
        ([*GIVEN, "checkpoint=first"], 2, "checkpoint: must be last, best or a number of iterations (got first)."),
        (
            [*GIVEN, "checkpoint=7"],
            3,
            "run/checkpoints: there is none after 7 iterations; there are 0, 1, 2. Use one of those.",
        ),
        ([*GIVEN, "trust=mine"], 2, "trust: must be a list, such as [my_module] (got mine)."),
        ([*GIVEN, "device=gpu"], 2, "device.name: there is no such device (got 'gpu')."),
        (
            [*GIVEN, "env.corridor_lenght=4"],
            2,
            "env.corridor_lenght: there is no such key. Did you mean corridor_length?",
        ),
        ([*GIVEN, "env.corridor_length=0"], 2, "env.corridor_length: must be a whole number of at least 1 (got 0)."),
        ([*GIVEN, "env.corridor_length=far"], 2, "env.corridor_length: must be a whole number (got far)."),
        ([*GIVEN, "env.corridor_length=[1"], 2, "env.corridor_length: its value cannot be read (got [1)."),
        ([*GIVEN, "env.corridor_length=10,20"], 2, "env.corridor_length: has several values (got 10,20)."),
        (
            [*GIVEN, "env._target_=os.system"],
            2,
            "env._target_: os.system is not of seqrl. If you trust it, add trust=[",
        ),
    ],
)
def test_a_faulty_command_line_gets_one_line_with_a_remedy(run, refused, words, exit_code, message):
    before = contents(run)
    line, code = refused(*words)
    assert (line[: len(message)], code) == (message, exit_code)
    assert contents(run) == before


def test_programs_that_take_the_policy_of_a_run_say_the_same_of_the_same_keys():
    schemas = [keys_of(it) for it in (Words, inspect_request.Words, export_request.Request)]
    for name in ("run", "checkpoint", "trust", "seed", "device"):
        of_all = [keys[name].metadata for keys in schemas if name in keys]
        assert len(of_all) >= 2
        for about in of_all:
            assert about["rule"] is of_all[0]["rule"] or name == "run"
            assert about["help"] == of_all[0]["help"] or name == "run"
    assert all("latest: the newest" in keys["run"].metadata["help"] for keys in schemas)


def test_a_whole_number_may_be_written_as_a_real_one():
    request = requested(["run=run", "episodes=1e1", "seed=2.0", "checkpoint=3e0", "env.corridor_length=4.0"])
    assert (request.episodes, request.seed, request.checkpoint) == (10, 2, 3)
    assert all(type(it) is int for it in (request.episodes, request.seed, request.checkpoint))


def test_a_module_that_the_command_line_does_not_trust_is_not_imported(run, refused):
    # Even though the run's own configuration trusts it.
    line, code = refused("run=run")
    assert (line, code) == ("network._target_: mine.network is not of seqrl. If you trust it, add trust=[mine].", 2)
    assert not (run.parent / "imported").exists()


def test_all_faults_are_reported_at_once(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "episodes=0", "greedy=no", "sed=1"])
    with pytest.raises(SystemExit):
        main()
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_secret_on_the_command_line_is_refused(run, refused):
    config = {**CONFIG, "env": {"_target_": "seqrl.envs.GymnasiumEnv", "id": "CartPole-v1", "kwargs": {}, "hidden": []}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    line, code = refused(*GIVEN, "+env.kwargs.api_key=hush")
    assert code == 2
    assert line.startswith("env.kwargs.api_key: looks like a secret")


def test_a_checkpoint_of_another_network_is_reported_as_such(run, refused):
    recurrent = {"_target_": "seqrl.networks.recurrent_network", "use_lstm": True, "use_attention": False}
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "network": {**recurrent, "type": "lstm"}}))
    line, code = refused("run=run")
    assert code == 3
    assert line.startswith("run: its checkpoint is of another network: ")


LSTM = {"_target_": "seqrl.networks.recurrent_network", "type": "lstm", "use_lstm": True, "use_attention": False}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"parallel": 0}, "parallel: must be a whole number of at least 1 (got 0)."),
        ({"seed": -1}, "seed: must be 0 or more (got -1)."),
        ({"runner": {"episode_limit": 0}}, "runner.episode_limit: must be a whole number of at least 1 (got 0)."),
        ({"evaluation": {"episodes": 10**30, "greedy": True}}, "evaluation.episodes: is larger than seqrl can count"),
        ({"env": CONFIG["env"] | {"corridor_length": 2**63}}, "env.corridor_length: is larger than seqrl can count"),
        ({"network": LSTM | {"inputs": "${oc.env:HOME}"}}, "network.inputs: can name previous_action, "),
        (
            {"network": LSTM | {"inputs": "${oc.env:NOT_SET}"}},
            "run: run/config.yaml: the variable NOT_SET is not set; ",
        ),
        ({"network": LSTM | {"hidden_size": 10**7}}, "network.hidden_size and lstm_hidden_size: need at least"),
    ],
)
def test_a_saved_value_out_of_range_gets_one_line(run, refused, values, said):
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **values}))
    line, code = refused(*GIVEN)
    assert code == 2
    assert line.startswith(said)


def test_a_network_that_would_fill_the_memory_is_not_built_for_a_small_checkpoint(run, refused):
    (run / "config.yaml").write_text(
        yaml.safe_dump({**CONFIG, "network": LSTM | {"lstm_hidden_size": 4000, "layers": 64}})
    )
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    # A single one of its 64 cells has 512 MB.
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, limits[1]))
    try:
        line, code = refused(*GIVEN)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert code == 3
    assert line.startswith("run: its checkpoint is of another network: ")


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"steps": 1}, "run: its checkpoint holds no state of a run: 'iterations' is missing."),
        ({"iterations": 1, "steps": None}, "00000009.pt holds no state of a run: steps is odd"),
        ({"iterations": "x", "steps": 1}, "00000009.pt holds no state of a run: iterations is odd"),
        ({"iterations": 10**30, "steps": 1}, "00000009.pt holds no state of a run: iterations is odd"),
        ({"algorithm": []}, "00000009.pt holds no state of a run: algorithm is odd"),
        ({"algorithm": {"network": []}}, "00000009.pt holds no state of a run: its network has no named parameters"),
        ({"algorithm": {"network": {7: 1}}}, "00000009.pt holds no state of a run: its network has no named"),
        ({"iterations": 1, "steps": 1}, "run: its checkpoint is of another network: 'algorithm'"),
        (SOUND | {"algorithm": {"network": {"trust_in_memory": [1.0]}}}, "run: its checkpoint is of another network: "),
        (
            SOUND | {"algorithm": {"network": {"trust_in_memory": torch.ones(2)}}},
            "run: its checkpoint is of another network: trust_in_memory has shape [2], and here []. ",
        ),
        (
            SOUND | {"algorithm": {"network": {"trust_in_memory": torch.tensor(float("nan"))}}},
            "run: its network holds NaN",
        ),
    ],
)
def test_a_sealed_checkpoint_that_no_run_saved_gets_one_line(run, refused, state, said):
    (run / "checkpoints" / "00000009.pt").write_bytes(packed(state, {"run": None}))
    line, code = refused(*GIVEN, "checkpoint=9")
    assert code == 3
    assert said in line


def test_the_newest_sound_checkpoint_takes_the_place_of_a_damaged_one(run, evaluated, refused):
    damaged = run / "checkpoints" / "00000002.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    measured, printed = evaluated(*GIVEN)
    assert measured["iterations"] == 1
    assert "warning: checkpoint 00000002.pt is damaged; using an older one.\n" in printed
    (run / "checkpoints" / "00000001.pt").write_bytes(b"")
    line, code = refused(*GIVEN, "checkpoint=best")
    assert (line, code) == (
        "run/checkpoints: 00000001.pt cannot be used, and may have been the best. Use checkpoint=last.",
        3,
    )
    (run / "checkpoints" / "00000000.pt").unlink()
    line, code = refused(*GIVEN)
    assert code == 3
    assert line.startswith("run/checkpoints: holds no checkpoint that can be used: 00000002.pt is damaged, ")


def test_a_run_still_going_is_evaluated_and_not_disturbed(run, evaluated):
    held = os.open(run, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        assert evaluated(*GIVEN)[0]["iterations"] == 2
    finally:
        os.close(held)


def test_results_that_cannot_be_written_are_printed_and_the_exit_code_says_so(run, monkeypatch, capsys):
    # A folder where a file is expected fails for everyone, even root.
    (run / "evaluation.json").mkdir()
    monkeypatch.setattr(sys, "argv", ["evaluate", *GIVEN])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed, said = capsys.readouterr()
    assert "Memory is used" in printed
    where = "run/evaluation.json: could not be written: Is a directory"
    assert said == f"seqrl: error: {where}. Remove what stands in its way.\n"
    assert not list(run.glob("*.tmp"))


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("evaluation.json", b"my own notes"),
        # Its evaluation.json says nothing of a film.
        ("policy.gif", b"GIF89a my own film"),
    ],
)
def test_a_file_that_seqrl_did_not_write_is_refused_before_anything_is_played(run, evaluated, refused, name, foreign):
    evaluated(*GIVEN)
    (run / name).write_bytes(foreign)
    before = contents(run)
    said = f"evaluate: run/{name} was not written by seqrl. Move it away."
    assert refused(*GIVEN, "video=true") == (said, 2)
    assert contents(run) == before


@pytest.mark.slow
def test_what_seqrl_wrote_is_replaced_and_a_foreign_film_disturbs_no_evaluation_without_one(run, evaluated):
    for seed in (1, 2):
        written, _ = evaluated(*GIVEN, "video=true", f"seed={seed}")
        assert written["seed"] == seed
        # As an editor or jq lays it out.
        (run / "evaluation.json").write_text(json.dumps(written, indent=2))
    (run / "policy.gif").write_text("my own film")
    assert evaluated(*GIVEN, "seed=3")[0]["seed"] == 3
    assert (run / "policy.gif").read_text() == "my own film"


def test_a_film_is_written_to_the_run_folder(run, evaluated):
    _, printed = evaluated(*GIVEN, "video=true")
    assert printed.endswith("Film: run/policy.gif, and in TensorBoard\n")
    (events,) = (run / "video").iterdir()
    film = (run / "policy.gif").read_bytes()
    assert film.startswith(b"GIF89a")
    assert film in events.read_bytes()


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (EnvError("env.id: gone."), "No film: env.id: gone."),
        (RuntimeError("no palette"), "No film: RuntimeError: no palette"),
        (OSError(28, "No space left on device", "/elsewhere/font"), "No film: OSError: [Errno 28] No space left on"),
    ],
)
def test_results_are_written_whatever_becomes_of_the_film(run, evaluated, monkeypatch, fault, line):
    def fails(*_, **__):
        raise fault

    monkeypatch.setattr("seqrl.film.making.film", fails)
    found, printed = evaluated(*GIVEN, "video=true")
    assert found["iterations"] == 2
    assert printed.splitlines()[-1].startswith(line)


def test_results_are_written_before_the_film_begins(run, monkeypatch):
    def ends(*_, **__):
        assert (run / "evaluation.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("seqrl.film.making.film", ends)
    monkeypatch.setattr(sys, "argv", ["evaluate", *GIVEN, "video=true"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_a_film_without_pictures_is_made_if_the_environment_cannot_be_built_to_draw_itself(monkeypatch):
    cfg = OmegaConf.create({"env": {"_target_": "seqrl.envs.GymnasiumEnv", "id": "CartPole-v1", "backend": "sync"}})

    def played(cfg, *_):
        if "kwargs" in cfg.env:
            raise EnvError("env.kwargs: no display.")
        return ["a film"]

    said = []
    monkeypatch.setattr(making, "_played", played)
    assert making.filmed(cfg, None, None, None, said.append) == ["a film"]
    assert said == ["env.kwargs: no display."]


def test_envpools_environments_are_not_looked_for_among_gymnasiums():
    cfg = OmegaConf.create({"env": {"_target_": "seqrl.envs.GymnasiumEnv", "id": "Pong-v5", "backend": "envpool"}})
    assert making.rendered(cfg) is cfg


def test_a_reader_that_has_gone_does_not_stop_the_program(run):
    with Program(run.parent, "-m", "seqrl.evaluate", *GIVEN) as going:
        going.stdout.close()
        errors = going.stderr.read()
    assert (going.returncode, errors) == (0, "")
    assert (run / "evaluation.json").exists()


def test_help_lists_every_key(tmp_path):
    done = run_program(tmp_path, "-m", "seqrl.evaluate", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {key}=" in done.stdout for key in keys_of(Words))


NORMED = """
import gymnasium as gym
from gymnasium.wrappers import NormalizeObservation

def make():
    return NormalizeObservation(gym.make("CartPole-v1", max_episode_steps=5))

gym.register("Normed-v0", make)
"""


def test_a_wrapper_that_keeps_statistics_is_named_when_a_run_begins_and_when_it_is_evaluated(tmp_path):
    (tmp_path / "normed.py").write_text(NORMED)
    own = ["env.id=normed:Normed-v0", "trust=[normed]", "hydra.run.dir=run", "evaluation.episodes=0"]
    trained = train(tmp_path, *own, *(word for word in TINY if not word.startswith(("env.", "evaluation."))))
    assert trained.returncode == 0, trained.stderr
    evaluated = run_program(tmp_path, "-m", "seqrl.evaluate", "run=run", "trust=[normed]", "episodes=2")
    for said in (trained.stdout, evaluated.stdout):
        assert "note: NormalizeObservation keeps statistics from episode to episode" in said
