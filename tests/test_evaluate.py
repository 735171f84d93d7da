"""`python -m seqrl.evaluate` says of any run how good its policy is, and harms none."""

import fcntl
import hashlib
import json
import os
import sys

import pytest
import torch
import yaml

from seqrl.config.schema import keys_of
from seqrl.evaluate.__main__ import main
from seqrl.evaluate.findings import memory, verdict
from seqrl.evaluate.request import Words
from seqrl.runs.checkpoint import Checkpoints
from tests.programs import Program, run_program
from tests.test_train import TINY, train

# A network with one number: how well it remembers the sign of the T-maze. It turns as it remembers, up if it does not.
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
    # Not heard from here.
    "trust": ["mine"],
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Folder of a run, beside the module that its network is from; its policy has just begun to remember."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(MINE)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    checkpoints = Checkpoints(folder)
    # The first is the best by its return in training, the second by its evaluation.
    for iteration, (trust, training, evaluation) in enumerate([(0.0, 0.9, 0.5), (1.0, 0.8, 1.0), (1.0, 0.7, 0.4)]):
        state = {"algorithm": {"network": {"trust_in_memory": torch.tensor(trust)}}}
        checkpoints.keep = 3
        checkpoints.save({**state, "iterations": iteration, "steps": 100 * iteration}, iteration, training, evaluation)
    return folder


@pytest.fixture
def evaluated(run, monkeypatch, capsys):
    """Runs the program; returns what it wrote down, and what it printed."""

    def evaluate(*words):
        monkeypatch.setattr(sys, "argv", ["evaluate", *words])
        main()
        return json.loads((run / "evaluation.json").read_text()), capsys.readouterr().out

    return evaluate


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs the program in vain; returns the line it says, and its exit code."""

    def evaluate(*words):
        monkeypatch.setattr(sys, "argv", ["evaluate", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("seqrl: error: ")
        return line.removeprefix("seqrl: error: "), ended.value.code

    return evaluate


GIVEN = ["run=run", "trust=[mine]"]


def test_memory_that_is_used_is_told_from_memory_that_is_not(evaluated):
    found, said = evaluated(*GIVEN)
    assert (found["iterations"], found["env_steps"], found["seed"], found["changed"]) == (2, 200, 3, [])
    assert found["greedy"]["returns"] == [1.0] * 40
    assert found["greedy"]["lengths"] == [6.0] * 40
    assert 0.2 < found["without_memory"]["return_mean"] < 0.8
    low, high = found["memory"]["interval"]
    assert 0 < low < found["memory"]["return_lost"] < high
    assert found["memory"]["return_lost"] == pytest.approx(1 - found["without_memory"]["return_mean"])
    assert "Memory is used: zeroing it costs 0." in said

    found, said = evaluated(*GIVEN, "checkpoint=0")
    assert found["greedy"]["returns"] == found["without_memory"]["returns"]
    assert "That memory is used cannot be seen" in said


def test_figures_are_those_of_the_episodes(evaluated):
    found, said = evaluated(*GIVEN, "checkpoint=0", "episodes=99")
    returns = torch.tensor(found["greedy"]["returns"])
    assert len(returns) == 99
    assert set(returns.tolist()) == {0.0, 1.0}
    mean = float(returns.mean())
    assert found["greedy"]["return_mean"] == pytest.approx(mean)
    low, high = found["greedy"]["return_interval"]
    half = 1.96 * float(returns.std()) / 99**0.5
    assert (mean - low, high - mean) == (pytest.approx(half, rel=0.15), pytest.approx(half, rel=0.15))
    assert (found["greedy"]["return_min"], found["greedy"]["return_max"]) == (0, 1)
    assert found["greedy"]["return_median"] == float(mean > 0.5)
    assert f"{mean:.2f}        {low:.2f} to {high:.2f}" in said


def test_another_environment_than_in_training_is_played_and_said(evaluated):
    found, said = evaluated(*GIVEN, "env.corridor_length=40")
    assert found["greedy"]["lengths"] == [41.0] * 40
    assert found["greedy"]["return_mean"] == 1
    assert found["changed"] == ["env.corridor_length: 5 -> 40"]
    assert "changed: env.corridor_length: 5 -> 40\n" in said


def test_the_seed_of_the_run_plays_its_episodes_and_another_one_others(evaluated):
    first, again, other = (
        evaluated(*GIVEN, "checkpoint=0", *seed)[0]["greedy"]["returns"] for seed in ([], ["seed=3"], ["seed=4"])
    )
    assert first == again != other


def test_both_policies_are_played_if_that_is_asked_for(evaluated):
    found, said = evaluated(*GIVEN, "greedy=both", "memoryless_control=false")
    assert "memory" not in found
    assert found["sampled"]["return_mean"] < found["greedy"]["return_mean"] == 1
    assert "likeliest actions" in said
    assert "sampled actions" in said
    assert "emory" not in said


@pytest.mark.parametrize(("which", "iterations"), [("last", 2), ("best", 1), ("0", 0), ("1", 1)])
def test_the_checkpoint_that_is_meant_is_played(evaluated, which, iterations):
    assert evaluated(*GIVEN, f"checkpoint={which}")[0]["iterations"] == iterations


def test_what_was_chosen_by_the_same_episodes_is_said_to_owe_to_them(run, evaluated):
    config = {**CONFIG, "evaluation": {**CONFIG["evaluation"], "interval": 5}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    note = "It was chosen as the best on these very episodes"
    for words, owes in {"checkpoint=best": True, "checkpoint=last": False, "checkpoint=best seed=1": False}.items():
        assert (note in evaluated(*GIVEN, *words.split())[1]) == owes


def test_few_episodes_say_nothing_about_memory(evaluated):
    found, said = evaluated(*GIVEN, "episodes=1")
    assert found["greedy"]["return_interval"] is None
    assert "Whether memory is used cannot be told from 1 episode." in said
    assert "cannot be told from 9 episodes." in evaluated(*GIVEN, "episodes=9")[1]


@pytest.mark.parametrize(
    ("zeroed", "said"),
    [(0.0, "Memory is used: zeroing it costs 1.50 (1."), (3.0, "Memory does harm: zeroing it gains 1.50 (1.")],
)
def test_the_verdict_says_which_way(zeroed, said):
    returns = 1 + torch.arange(20).remainder(2).double().numpy()
    assert verdict(**memory(returns, 0 * returns + zeroed)).startswith(said)


# Where an environment's numbers come from, and what plays.
RUNS = {
    "cartpole": ["network=attention"],
    "sync": ["env=gymnasium", "env.backend=sync", "env.hidden=[1]", "evaluation.greedy=both", "network=lstm"],
}


@pytest.mark.parametrize("name", RUNS)
def test_it_finds_to_the_last_bit_what_the_run_has_found(tmp_path, monkeypatch, name):
    tiny = [word for word in TINY if name == "cartpole" or not word.startswith("env.")]
    more = ["evaluation.episodes=10", "evaluation.memoryless_control=true", "hydra.run.dir=trained", "logger=jsonl"]
    done = train(tmp_path, *tiny, *more, *RUNS[name])
    assert done.returncode == 0, done.stderr
    trained = tmp_path / "trained"
    facts = json.loads((trained / "manifest.json").read_text())
    before = contents(trained)
    monkeypatch.setattr(sys, "argv", ["evaluate", f"run={trained}"])
    main()
    found = json.loads((trained / "evaluation.json").read_text())
    for how, prefix in {"greedy": "", "sampled": "sampled_"}.items():
        for figure in ("return_mean", "return_std", "return_min", "length_mean"):
            if how in found:
                assert found[how][figure] == facts[f"evaluation_{prefix}{figure}"]
    assert ("sampled" in found) == (name == "sync")
    assert found["without_memory"]["return_mean"] == facts["evaluation_return_without_memory"]
    assert len(set(found["greedy"]["returns"])) > 1
    # And nothing of the run is touched.
    assert {path: data for path, data in contents(trained).items() if path != "evaluation.json"} == before


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        ([], 2, "run: is missing. Name the folder of a run, such as outputs/runs/<date>/<run>."),
        (["run="], 2, "run: must be the folder of a run"),
        (["run"], 2, "run: cannot be meant. Write key=value"),
        (["run=nowhere"], 3, "run: nowhere holds no run. Name the folder that has config.yaml in it."),
        (["run=."], 3, "run: . holds no run."),
        (["run=mine.py"], 3, "run: mine.py holds no run."),
        ([*GIVEN, "episodes=0"], 2, "episodes: must be a whole number of at least 1 (got 0)."),
        ([*GIVEN, "episodes=many"], 2, "episodes: must be a whole number of at least 1 (got many)."),
        ([*GIVEN, "episodes=true"], 2, "episodes: must be a whole number of at least 1 (got true)."),
        ([*GIVEN, "epsiodes=3"], 2, "epsiodes: there is no such key. Did you mean episodes? Keys: run, checkpoint,"),
        ([*GIVEN, "network.hidden_size=3"], 2, "network.hidden_size: there is no such key."),
        ([*GIVEN, "env=tmaze"], 2, "env: there is no such key."),
        ([*GIVEN, "--fast"], 2, "--fast: cannot be meant."),
        ([*GIVEN, "seed=-1"], 2, "seed: must be a whole number of at least 0 (got -1)."),
        ([*GIVEN, "greedy=maybe"], 2, "greedy: must be true, false or both (got maybe)."),
        ([*GIVEN, "video=mp4"], 2, "video: must be true or false (got mp4)."),
        ([*GIVEN, "greedy=1"], 2, "greedy: must be true, false or both (got 1)."),
        ([*GIVEN, "checkpoint=first"], 2, "checkpoint: must be last, best or a number of iterations (got first)."),
        ([*GIVEN, "checkpoint=7"], 3, "run/checkpoints: holds none after 7 iterations (got 0, 1, 2). Use another one."),
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
def test_what_cannot_be_meant_is_one_line_with_a_remedy(run, refused, words, exit_code, said):
    before = contents(run)
    line, code = refused(*words)
    assert (line[: len(said)], code) == (said, exit_code)
    assert contents(run) == before


def test_what_the_command_line_does_not_name_is_not_imported(run, refused):
    # Though the run's own configuration trusts it.
    line, code = refused("run=run")
    assert (line, code) == ("network._target_: mine.network is not of seqrl. If you trust it, add trust=[mine].", 2)
    assert not (run.parent / "imported").exists()


def test_all_that_is_wrong_is_said_at_once(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "episodes=0", "greedy=no", "sed=1"])
    with pytest.raises(SystemExit):
        main()
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_secret_that_is_typed_is_refused(run, refused):
    config = {**CONFIG, "env": {"_target_": "seqrl.envs.GymnasiumEnv", "id": "CartPole-v1", "kwargs": {}, "hidden": []}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    line, code = refused(*GIVEN, "+env.kwargs.api_key=hush")
    assert code == 2
    assert line.startswith("env.kwargs.api_key: looks like a secret")


def test_a_checkpoint_of_another_network_is_said_to_be_one(run, refused):
    recurrent = {"_target_": "seqrl.networks.recurrent_network", "use_lstm": True, "use_attention": False}
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "network": {**recurrent, "type": "lstm"}}))
    line, code = refused("run=run")
    assert code == 3
    assert line.startswith("run: its checkpoint is of another network: ")


def test_the_newest_sound_checkpoint_takes_the_place_of_a_damaged_one(run, evaluated, refused):
    damaged = run / "checkpoints" / "00000002.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    found, said = evaluated(*GIVEN)
    assert found["iterations"] == 1
    assert "warning: the checkpoint 00000002.pt is damaged; an older one takes its place.\n" in said
    (run / "checkpoints" / "00000001.pt").write_bytes(b"")
    line, code = refused(*GIVEN, "checkpoint=best")
    assert (line, code) == ("run/checkpoints: 00000001.pt is damaged. Use another one.", 3)
    (run / "checkpoints" / "00000000.pt").unlink()
    line, code = refused(*GIVEN)
    assert code == 3
    assert line.startswith("run/checkpoints: holds no checkpoint that can be used: 00000002.pt is damaged, ")


def test_a_run_that_goes_on_is_evaluated_and_not_disturbed(run, evaluated):
    held = os.open(run, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        assert evaluated(*GIVEN)[0]["iterations"] == 2
    finally:
        os.close(held)


def test_where_nothing_can_be_written_it_is_printed_all_the_same(run, monkeypatch, capsys):
    # A folder where a file is expected fails for everyone, also for root.
    (run / "evaluation.json").mkdir()
    monkeypatch.setattr(sys, "argv", ["evaluate", *GIVEN])
    main()
    said = capsys.readouterr().out
    assert "Memory is used" in said
    assert said.splitlines()[-1] == "Not written down: run/evaluation.json: Is a directory."
    assert not list(run.glob("*.tmp"))


def test_a_film_lies_in_the_run_folder(run, evaluated):
    _, said = evaluated(*GIVEN, "video=true")
    assert said.endswith("Film: run/policy.gif, and in TensorBoard\n")
    (events,) = (run / "video").iterdir()
    film = (run / "policy.gif").read_bytes()
    assert film.startswith(b"GIF89a")
    assert film in events.read_bytes()


def test_a_reader_that_has_gone_stops_nothing(run):
    with Program(run.parent, "-m", "seqrl.evaluate", *GIVEN) as going:
        going.stdout.close()
        said = going.stderr.read()
    assert (going.returncode, said) == (0, "")
    assert (run / "evaluation.json").exists()


def test_help_says_every_key(tmp_path):
    done = run_program(tmp_path, "-m", "seqrl.evaluate", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {key}=" in done.stdout for key in keys_of(Words))
