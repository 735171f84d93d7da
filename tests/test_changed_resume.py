"""A run that goes on with another configuration, and is interrupted again."""

import json
import os
import shutil
import signal
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

import seqrl
from seqrl.errors import CheckpointError
from seqrl.run.checkpoint import Checkpoints, packed
from seqrl.run.manifest import facts_of
from seqrl.run.resume import changes_task
from tests.programs import run_program
from tests.worlds import Cue

SMALL = ["network.hidden_size=8", "network.lstm_hidden_size=8", "parallel=3", "rollout_length=8", "algorithm.anneal=[]"]
SMALL += ["evaluation.episodes=0", "logger=[]"]
STEPS = 3 * 8
# The machine fails after an iteration, before anything of it is saved.
KILLED = "import os, sys, seqrl; seqrl.learn(*sys.argv[1:], on_iteration=lambda *_: os.kill(os.getpid(), 9))"


def train(folder, *words):
    """What it prints."""
    with chdir(folder), redirect_stdout(StringIO()) as printed, redirect_stderr(StringIO()) as said:
        seqrl.learn(*words)
    assert said.getvalue() == ""
    return printed.getvalue()


def train_own(folder, *words):
    """The same in a process of its own, which finds modules in the folder."""
    done = run_program(folder, "-m", "seqrl.train", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# The machine fails at a call of the function that writes a file of the run.
KILLED_WRITING = """
import os, sys, seqrl, seqrl.run.manifest, seqrl.run.outputs
from seqrl.files import write
calls = iter(range(int(sys.argv[1]) - 1))
def written(*given):
    if next(calls, None) is None:
        os._exit(9)
    write(*given)
seqrl.run.manifest.write = seqrl.run.outputs.write = written
seqrl.learn(*sys.argv[2:])
"""


def kill(folder, *words):
    assert run_program(folder, "-c", KILLED, *words).returncode == -signal.SIGKILL


def rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: it for name, it in row.items() if name.startswith(("env_steps", "rollout/", "train/"))} for row in lines
    ]


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ("parallel=3", "parallel=2", "parallel: 3 -> 2"),
        ("env.corridor_length=9", "env.corridor_length=5", "env.corridor_length: 9 -> 5"),
        ("seed=1", "seed=2", "seed: 1 -> 2"),
    ],
)
def test_a_change_counts_until_something_is_saved_with_it(tmp_path, before, now, said):
    """The configuration in the folder is then the new one already, and the episodes are those of the old one."""
    train(tmp_path, *SMALL, "env=tmaze", before, f"total_steps={2 * STEPS}", "hydra.run.dir=run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    more = f"total_steps={5 * STEPS}"
    kill(tmp_path, "resume=run", now, more)
    went_on = train(tmp_path, "resume=run")
    assert f"changed: {said}\n" in went_on
    other_seed = "note: the run learned with another seed until now, and reports count it as one of seed=2\n"
    assert (other_seed in went_on) == (now == "seed=2")
    lost = int(now[-1]) if now.startswith("parallel") else 3
    assert f"; {lost} episodes in progress could not continue, new ones replace them\n" in went_on
    train(tmp_path, "resume=copy", now, more)
    assert rows(tmp_path / "run") == rows(tmp_path / "copy")
    assert f"changed: {said}" not in train(tmp_path, "resume=run")


@pytest.mark.thin(2)
@pytest.mark.parametrize(("at", "is_new"), [(1, False), (2, True)])
def test_all_of_a_change_counts_or_nothing_wherever_the_run_is_killed(tmp_path, at, is_new):
    """Of the keys, one has a default that has changed since older versions, which is read from config.yaml."""
    train(tmp_path, *SMALL, "env=tmaze", f"total_steps={2 * STEPS}", "hydra.run.dir=run")
    change = (f"total_steps={5 * STEPS}", "algorithm.learning_rate=0.01", "algorithm.gamma=0.9")
    assert run_program(tmp_path, "-c", KILLED_WRITING, str(at), "resume=run", *change).returncode == 9
    went_on = train(tmp_path, "resume=run")
    changes = ("algorithm.learning_rate: 0.003 -> 0.01", "algorithm.gamma: 0.99 -> 0.9", "total_steps: 48 -> 120")
    assert [f"changed: {it}\n" in went_on for it in changes] == [is_new] * 3


@pytest.mark.slow
def test_defaults_of_a_profile_count_though_the_run_is_killed_before_its_configuration_is_written(tmp_path):
    train(tmp_path, *SMALL, "env=tmaze", f"total_steps={2 * STEPS}", "hydra.run.dir=run")
    change = ("profile=testing", "total_steps=null", "episodes=20")
    assert run_program(tmp_path, "-c", KILLED_WRITING, "2", "resume=run", *change).returncode == 9
    went_on = train(tmp_path, "resume=run")
    assert "changed: rollout_rewards: 64 -> 0\n" in went_on


@pytest.mark.slow
def test_what_was_changed_and_changed_back_before_anything_was_saved_has_not_changed(tmp_path):
    train(tmp_path, *SMALL, "env=tmaze", f"total_steps={2 * STEPS}", "hydra.run.dir=run")
    kill(tmp_path, "resume=run", "parallel=2", f"total_steps={4 * STEPS}")
    went_on = train(tmp_path, "resume=run", "parallel=3")
    assert "could not continue" not in went_on
    train(tmp_path, *SMALL, "env=tmaze", f"total_steps={4 * STEPS}", "hydra.run.dir=whole")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    one, other = (
        Checkpoints(folder, run=facts_of(folder)["id"]).newest()[0] for folder in (tmp_path / "run", tmp_path / "whole")
    )
    # Neither says where it was resumed, nor anything else that decides nothing.
    assert one["config"] == other["config"]
    assert not {"resume", "name", "trust", "logger"} & set(one["config"])


@pytest.mark.slow
def test_a_run_goes_on_whose_folder_is_called_what_no_yaml_can_say(tmp_path):
    """An old disk or an archive has names in other encodings than UTF-8."""
    here = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    here.mkdir()
    train(here, *SMALL, "env=tmaze", f"total_steps={2 * STEPS}", "hydra.run.dir=run")
    assert "resumed after 2 iterations" in train(here, "resume=run", f"total_steps={4 * STEPS}")
    assert "resumed after 4 iterations" in train(here, "resume=run", f"total_steps={5 * STEPS}")


@pytest.mark.slow
def test_what_a_finished_run_reached_is_not_said_of_it_once_it_goes_on(tmp_path):
    def stop(*_):
        raise ZeroDivisionError

    words = ["env=tmaze", *SMALL, "evaluation.episodes=2"]
    folder = seqrl.learn(*words, f"total_steps={STEPS}", f"hydra.run.dir={tmp_path}/r", quiet=True).folder
    reached = {"result", "evaluation_return_mean", "evaluation_episodes"}
    assert reached < set(facts_of(folder))
    # Nothing is left of it.
    seqrl.learn(f"resume={folder}", quiet=True)
    assert reached < set(facts_of(folder))
    # But not of another task.
    seqrl.learn(f"resume={folder}", "env.corridor_length=3", "evaluation.episodes=0", quiet=True)
    assert not {"evaluation_return_mean", "evaluation_episodes"} & set(facts_of(folder))
    seqrl.learn(f"resume={folder}", "evaluation.episodes=2", quiet=True)
    assert reached < set(facts_of(folder))
    with pytest.raises(ZeroDivisionError):
        seqrl.learn(f"resume={folder}", f"total_steps={9 * STEPS}", quiet=True, on_iteration=stop)
    facts = facts_of(folder)
    assert not reached & set(facts)
    assert (facts["status"], facts["env_steps"]) == ("failed", 2 * STEPS)


@pytest.mark.slow
def test_another_network_than_the_runs_is_named_in_the_words_of_the_configuration(tmp_path):
    train(tmp_path, "env=tmaze", *SMALL, f"total_steps={STEPS}", "hydra.run.dir=r")
    said = r"of another network or algorithm: network\.type: lstm -> mlp; .* Leave that as it was\.$"
    with pytest.raises(CheckpointError, match=said):
        train(tmp_path, "resume=r", "network=mlp", f"total_steps={2 * STEPS}")


@pytest.mark.slow
def test_a_run_that_began_on_another_kind_of_device_goes_on_and_draws_other_actions(tmp_path):
    """The state of a generator on a GPU: its seed, and how far it is."""
    train(tmp_path, *SMALL, "env=tmaze", f"total_steps={2 * STEPS}", "hydra.run.dir=run")
    checkpoints = Checkpoints(tmp_path / "run", run=facts_of(tmp_path / "run")["id"])
    state = checkpoints.newest()[0]
    state["runner"]["generator"] = torch.zeros(16, dtype=torch.uint8)
    checkpoints.save(state | {"iterations": 3}, 3)
    for name in ("other", "again"):
        shutil.copytree(tmp_path / "run", tmp_path / name)
        went_on = train(tmp_path, f"resume={name}", f"total_steps={4 * STEPS}")
        assert "changed: the kind of device that draws the actions; from here on they are others\n" in went_on
        assert "could not continue" not in went_on
        assert "changed: the kind" not in train(tmp_path, f"resume={name}", f"total_steps={6 * STEPS}")
    assert rows(tmp_path / "other") == rows(tmp_path / "again")


UNSAVED = """
import torch
from gymnasium import spaces
from seqrl.types import Step


class Batched:
    \"\"\"Has no state_dict; says which seed it is built with.\"\"\"

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

    def __init__(self, batch_size, seed, device, hidden=()):
        self.batch_size = batch_size
        with open("seeds", "a") as file:
            file.write(f"{seed}\\n")

    def reset(self, where=None):
        return torch.zeros(self.batch_size, 1)

    def step(self, action):
        no, yes = torch.zeros(self.batch_size, dtype=torch.bool), torch.ones(self.batch_size, dtype=torch.bool)
        return Step(self.reset(), self.reset().sum(1), no, no, yes)
"""


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("inputs", ["[]", "[previous_action]"])
def test_an_environment_that_cannot_be_saved_plays_other_episodes_after_each_resume(tmp_path, inputs):
    (tmp_path / "unsaved.py").write_text(UNSAVED)
    (tmp_path / "conf" / "env").mkdir(parents=True)
    (tmp_path / "conf" / "env" / "mine.yaml").write_text("_target_: unsaved.Batched")
    mine = ["--config-dir", "conf", "trust=[unsaved]"]
    train_own(tmp_path, *mine, *SMALL, "env=mine", f"network.inputs={inputs}", "total_steps=24", "hydra.run.dir=run")
    for steps in (48, 72):
        went_on = train_own(tmp_path, *mine, "resume=run", f"total_steps={steps}")
        assert "; 3 episodes in progress could not continue, new ones replace them\n" in went_on
    seeds = (tmp_path / "seeds").read_text().split()
    assert len(set(seeds)) == len(seeds) == 3


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("rollout", ["rollout_length=8", "rollout_length=0"])
def test_a_run_that_went_on_with_other_episodes_goes_on_bit_for_bit_after_that(tmp_path, rollout):
    cartpole = ["env=gymnasium", "env.id=CartPole-v1", "env.backend=sync", rollout, "rollout_steps=1"]
    train(tmp_path, *SMALL, *cartpole, "total_steps=50", "hydra.run.dir=run")
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    train(tmp_path, "resume=whole", "env.timeout_seconds=50", "total_steps=400")
    train(tmp_path, "resume=run", "env.timeout_seconds=50", "total_steps=200")
    assert "could not continue" not in train(tmp_path, "resume=run", "total_steps=400")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_a_configuration_in_a_checkpoint_that_is_not_seqrls_floods_nothing(tmp_path):
    train(tmp_path, *SMALL, "env=tmaze", f"total_steps={2 * STEPS}", "hydra.run.dir=run")
    saved = Checkpoints(tmp_path / "run", run=facts_of(tmp_path / "run")["id"])
    state, _ = saved.newest()
    state["config"].update({f"k{number}": "x" * 1000 for number in range(5000)})
    path = max((tmp_path / "run" / "checkpoints").glob("*.pt"))
    path.write_bytes(packed(state, {"run": facts_of(tmp_path / "run")["id"]}))
    lines = train(tmp_path, "resume=run", f"total_steps={3 * STEPS}").splitlines()
    changed = [line for line in lines if line.startswith("changed: ")]
    assert len(changed) < 50
    assert max(map(len, changed)) < 600
    assert changed[-1].startswith("changed: and ")


def test_a_run_of_whole_episodes_goes_on_with_more_or_fewer_side_by_side(tmp_path):
    words = ["env=tmaze", "env.corridor_length=5", *SMALL, "rollout_length=0", "rollout_steps=1"]
    train(tmp_path, *words, "total_steps=20", "hydra.run.dir=a")
    for parallel in (2, 5):
        printed = train(tmp_path, "resume=a", f"parallel={parallel}", f"total_steps={parallel * 20}")
        assert f"-> {parallel}" in printed
        assert "could not continue" not in printed


@pytest.mark.slow
def test_that_a_variable_of_the_environment_may_have_changed_is_said(tmp_path, monkeypatch):
    """No file has its value, and none is to be compared."""
    monkeypatch.setenv("MODE", "rgb_array")
    words = ["env.id=CartPole-v1", "+env.kwargs.render_mode=${oc.env:MODE}", *SMALL]
    said = "note: env.kwargs.render_mode comes from a variable of the environment, whose values no file keeps: "
    assert said not in train(tmp_path, *words, f"total_steps={STEPS}", "hydra.run.dir=a")
    assert said in train(tmp_path, "resume=a", f"total_steps={2 * STEPS}")


@pytest.mark.slow
def test_returns_of_another_task_do_not_count_once_a_run_goes_on_with_this_one(tmp_path):
    words = [*SMALL, "env=masked_cartpole", "env.max_episode_steps=9", "evaluation.episodes=2", "evaluation.interval=1"]
    folder = tmp_path / "run"
    train(tmp_path, *words, f"hydra.run.dir={folder}", f"total_steps={4 * STEPS}")
    assert Checkpoints(folder).best[1] > 4
    before = len(rows(folder))
    train(tmp_path, f"resume={folder}", "env.max_episode_steps=4", f"total_steps={8 * STEPS}")
    after = [row for row in rows(folder)[before:] if "rollout/return_max" in row]
    assert after
    assert max(row["rollout/return_max"] for row in after) == 4
    assert Checkpoints(folder).best == (8, 4.0)


@pytest.mark.parametrize(
    ("change", "is_another"),
    [
        ("env.max_episode_steps: 9 -> 4", True),
        ("env.kwargs.size: 3 -> 4", True),
        ("env: a -> b", True),
        ("env.backend: sync -> vector", False),
        ("env.log_info: [] -> [a]", False),
        ("seed: 0 -> 1", False),
        ("environment: a -> b", False),
    ],
)
def test_a_change_of_the_environment_makes_another_task_unless_it_says_who_plays(change, is_another):
    assert changes_task(change) is is_another


@pytest.mark.slow
@pytest.mark.thin(5)
@pytest.mark.parametrize(
    ("load", "said"),
    [
        (None, "the environment has no state_dict, or one that could not be saved"),
        (lambda env, state: None, "env: tests.worlds.Cue.load_state_dict returned its answer as NoneType, not as a te"),
        (lambda env, state: [True] * 3, "env: tests.worlds.Cue.load_state_dict returned its answer as list, not as a"),
        (lambda env, state: state["level"], "env: tests.worlds.Cue raised KeyError: 'level' (test_changed_resume.py:"),
        (lambda env, state: torch.ones(3, dtype=torch.bool), None),
    ],
)
def test_a_batch_of_ones_own_that_cannot_be_restored_begins_anew_and_the_run_says_so(
    tmp_path, monkeypatch, capsys, load, said
):
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "cue.yaml").write_text("_target_: tests.worlds.Cue\n")
    if load:
        monkeypatch.setattr(Cue, "state_dict", lambda env: {"clock": env.clock}, raising=False)
        monkeypatch.setattr(Cue, "load_state_dict", load, raising=False)
    words = [*SMALL, "env=cue", "trust=[tests]", "rollout_length=0", f"hydra.run.dir={tmp_path}/run"]
    seqrl.learn(*words, "episodes=2", config_dir=tmp_path)
    capsys.readouterr()
    seqrl.learn(f"resume={tmp_path}/run", "trust=[tests]", "episodes=4", config_dir=tmp_path)
    printed = capsys.readouterr().out
    assert "resumed after 2 iterations" in printed
    notes = [line for line in printed.splitlines() if "From here on the run plays other episodes" in line]
    assert [line.startswith(f"note: {said}") for line in notes] == [True] * bool(said)
