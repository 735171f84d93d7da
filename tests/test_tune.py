"""Searches as a user starts them, and search spaces."""

import json
import os
import shlex
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from seqrl.errors import ConfigError
from seqrl.run import hold
from seqrl.tune.__main__ import checked, planned
from seqrl.tune.search import Plan, Search
from seqrl.tune.space import Dimension, override, read
from seqrl.tune.trials import Claim, Trial
from tests.parts import room
from tests.programs import Program, run_program

pytest.importorskip("optuna")
# A tiny network.
TINY = [
    "network.hidden_size=8", "network.lstm_hidden_size=8", "evaluation.episodes=4", "parallel=2", "logger=jsonl",
    "rollout_length=16", "episodes=1000000", "env.max_episode_steps=20", "--config-dir=own", "search=small", "study=s",
]  # fmt: skip
SPACE = """
algorithm.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
algorithm.epochs: {low: 1, high: 3}
sequence_learning.bptt_length: {choices: [0, 5]}
"""


def space(folder: Path, text: str = SPACE) -> None:
    (folder / "own" / "search").mkdir(parents=True, exist_ok=True)
    (folder / "own" / "search" / "small.yaml").write_text(text)


def tune(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program(folder, "-m", "seqrl.tune", *arguments)


def manifests(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("s/*/manifest.json"))}


@pytest.mark.parametrize(
    "key",
    [
        "+hydra.callbacks.evil._target_", "hydra.callbacks.evil", "hydra/launcher", "trust", "resume", "env@hydra.x",
        "~env", "+env.kwargs._target_", "+env.kwargs.x._args_", "algorithm._target_", "--config-dir", "-cd",
        "logger", "logger.mlflow.tracking_uri",
    ],
)  # fmt: skip
def test_a_search_chooses_values_of_a_run_and_nothing_else(key):
    with pytest.raises(ConfigError, match="cannot be searched"):
        override(key, "torch.load")


@pytest.mark.parametrize(
    "value", ["a b", "it's", "back\\", "b\\'x", "{_target_: x}", "a,b", "x=1", "[{a: 1}]", "lstm", "1e-3", None, True]
)
def test_a_value_of_a_search_is_one_value_and_never_a_sweep(value):
    parsed = OverridesParser.create().parse_override(override("+env.kwargs.x", value))
    assert not parsed.is_sweep_override()
    assert parsed.value() == (0.001 if value == "1e-3" else value)


@pytest.mark.parametrize(("seeds", "words"), [(1, ["seed=3"]), (2, ["-m", "seed=3,4"])])
def test_the_command_that_repeats_the_best_trial_has_its_seeds(tmp_path, seeds, words):
    dimension = Dimension("algorithm.learning_rate", 1e-4, 1e-2, log=True)
    plan = Plan(seed=3, seeds=seeds, study=tmp_path, arguments=("env=tmaze",))
    search = Search(plan, [dimension])
    proposed = search.study.ask()
    dimension.suggest(proposed)
    search.study.tell(proposed, 0.5)
    search.keep_best()
    command = yaml.safe_load((tmp_path / "best.yaml").read_text())["command"]
    assert f"\n  {command}\n" in search.best()
    value = override("algorithm.learning_rate", proposed.params["algorithm.learning_rate"])
    assert shlex.split(command) == ["python", "-m", "seqrl.train", *words[:-1], "env=tmaze", value, words[-1]]
    with pytest.raises(ConfigError, match=r"was started with seed=3\. Choose another study=…$"):
        Search(replace(plan, seed=4), [dimension])


def test_a_search_that_an_earlier_version_began_goes_on_with_the_seed_of_its_runs(tmp_path):
    dimension, plan = Dimension("algorithm.learning_rate", 1e-4, 1e-2, log=True), Plan(study=tmp_path, seeds=2)
    search = Search(replace(plan, seed=3), [dimension])
    dimension.suggest(search.study.ask())
    # It did not note the seed.
    journal = (tmp_path / "journal.log").read_text().splitlines(keepends=True)
    (tmp_path / "journal.log").write_text("".join(line for line in journal if '"seed"' not in line))
    for seed in (3, 4):
        (tmp_path / f"0_s{seed}").mkdir()
        (tmp_path / f"0_s{seed}" / "manifest.json").write_text(json.dumps({"status": "running", "seed": seed}))
    # A run that is none of its trials.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text(json.dumps({"status": "running", "seed": 0}))
    with pytest.raises(ConfigError, match=r"was started with seed=3\. Choose another study=…$"):
        Search(replace(plan, seed=4), [dimension])
    Search(replace(plan, seed=3), [dimension])


@pytest.mark.slow
def test_a_search_tries_values_of_its_space_and_prints_the_best(tmp_path):
    space(tmp_path)
    done = tune(tmp_path, *TINY, "total_steps=320", "trials=2", "workers=2", "pruner=none")
    assert done.returncode == 0, done.stderr
    known = manifests(tmp_path)
    assert len(known) == 2
    results = {int(name.partition("_")[0]): facts["result"] for name, facts in known.items()}
    best = max(results, key=lambda number: results[number])
    assert f"2 finished. Best, trial {best}: {results[best]:.4g}" in done.stdout
    for name, facts in known.items():
        overrides = dict(o.split("=") for o in facts["overrides"])
        assert 1e-4 <= float(overrides["algorithm.learning_rate"]) <= 1e-2
        assert overrides["algorithm.epochs"] in "123"
        assert (
            f"epochs-{overrides['algorithm.epochs']}_bptt_length-{overrides['sequence_learning.bptt_length']}" in name
        )
    command = next(line for line in done.stdout.splitlines() if "python -m seqrl.train" in line)
    assert (
        f"algorithm.epochs={dict(o.split('=') for o in known[_folder(known, best)]['overrides'])['algorithm.epochs']}"
        in command
    )

    # More trials; the earlier ones are not repeated.
    more = tune(tmp_path, *TINY, "total_steps=320", "trials=3", "pruner=none")
    assert more.returncode == 0, more.stderr
    assert "resuming after 2 trials in s" in more.stdout
    assert {name: facts for name, facts in manifests(tmp_path).items() if name in known} == known
    assert len(manifests(tmp_path)) == 3

    other = tune(tmp_path, *TINY, "total_steps=640", "trials=3")
    assert other.returncode == 2
    assert "was started with arguments=" in other.stderr
    assert len(other.stderr.splitlines()) == 1


def _folder(known: dict[str, dict], number: int) -> str:
    return next(name for name in known if name.startswith(f"{number}_"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_search_resumes_its_unfinished_trial(tmp_path, number):
    space(tmp_path)
    arguments = [*TINY, "total_steps=3200", "trials=1"]
    with Program(tmp_path, "-m", "seqrl.tune", *arguments) as going:
        deadline = time.monotonic() + 60
        while not any(path.read_text().count("\n") > 3 for path in tmp_path.glob("s/*/metrics.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        going.send_signal(number)
        errors = going.stderr.read()
    if number is signal.SIGTERM:
        assert going.returncode == 143
        assert errors == "seqrl: stopped; run the same command with study=s to continue the search\n"
        ((name, facts),) = manifests(tmp_path).items()
        assert facts["status"] == "interrupted"
    done = tune(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    ((name, facts),) = manifests(tmp_path).items()
    assert facts["status"] == "finished"
    assert "resumed after" in (tmp_path / "s" / "output" / "0.txt").read_text()
    steps = [
        json.loads(line)["env_steps"] for line in (tmp_path / "s" / name / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps[:100] == list(range(32, 3201, 32))


@pytest.mark.slow
def test_a_search_whose_trials_all_fail_ends_with_the_reason(tmp_path):
    (tmp_path / "broken.py").write_text(
        "import gymnasium as gym\ngym.register('Broken-v0', entry_point='nowhere:Broken')\n"
    )
    space(tmp_path, "algorithm.epochs: {choices: [1, 2]}")
    arguments = [a for a in TINY if not a.startswith("env.max")]
    done = tune(tmp_path, *arguments, "env.id=broken:Broken-v0", "trust=[broken]")
    assert done.returncode == 2
    assert done.stdout.count("failed: ") == 3
    assert "3 trials in a row failed, the last with: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have trials start a program that does as little as this."""
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(program))


def ended(trial: Trial) -> Trial:
    """A trial that has been polled until there was nothing left to do."""
    for _ in range(500):
        if trial.poll():
            return trial
        time.sleep(0.01)
    raise AssertionError("the trial does not end")


UNFINISHED = "its process ended with exit code {} before the run was finished"


@pytest.mark.parametrize(
    ("status", "script", "said"),
    [
        ("running", "exit 0", UNFINISHED.format(0)),
        ("running", "exit 3", UNFINISHED.format(3)),
        ("running", "kill -9 $$", "was killed"),
        (None, "echo half done; exit 0", UNFINISHED.format(0)),
        (None, "echo seqrl: error: it is so; exit 2", "it is so"),
        (None, "echo half done; kill -9 $$", "was killed"),
    ],
)
def test_a_run_whose_process_ends_before_it_is_finished_has_failed_whatever_the_exit_code(
    tmp_path, monkeypatch, status, script, said
):
    stand_in(tmp_path, monkeypatch, f"echo begun >> {tmp_path}/begun; {script}")
    folders = {seed: tmp_path / f"run{seed}" for seed in (0, 1)}
    if status:
        folders[0].mkdir()
        (folders[0] / "manifest.json").write_text(json.dumps({"status": status}))
    trial = ended(Trial(0, [], folders, tmp_path / "0.txt"))
    assert (tmp_path / "begun").read_text() == "begun\n"
    assert trial.error[0].partition(". If")[0] == said


def going_on(tmp_path):
    """A trial of one run, which has a checkpoint and was stopped before."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "00000001.pt").write_bytes(b"x")
    (run / "manifest.json").write_text(json.dumps({"status": "interrupted", "error": "stopped", "exit_code": 143}))
    return Trial(0, [], {0: run}, tmp_path / "0.txt")


def test_a_run_whose_process_is_killed_goes_on_up_to_twice(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, f"echo begun >> {tmp_path}/begun; kill -9 $$")
    trial = ended(going_on(tmp_path))
    assert (tmp_path / "begun").read_text() == "begun\n" * 3
    assert trial.error == ("was killed", 1)


@pytest.mark.parametrize(("code", "times"), [(1, 3), (5, 1)])
def test_a_run_that_loses_a_process_of_several_goes_on_unless_that_one_said_why(tmp_path, monkeypatch, code, times):
    lost = {"status": "failed", "error": "LostRankError: processes: rank 1 of 2 was killed", "exit_code": code}
    say = f"echo '{json.dumps(lost)}' > {tmp_path}/run/manifest.json"
    stand_in(tmp_path, monkeypatch, f"echo begun >> {tmp_path}/begun; {say}; exit {code}")
    ended(going_on(tmp_path))
    assert (tmp_path / "begun").read_text() == "begun\n" * times


def test_what_a_run_said_before_its_latest_process_is_not_why_that_ended(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, "exit 2")
    assert ended(going_on(tmp_path)).error[0].startswith(UNFINISHED.format(2))
    later = json.dumps({"status": "failed", "error": "loss: not finite", "exit_code": 4})
    stand_in(tmp_path, monkeypatch, f"echo '{later}' > {tmp_path}/run/manifest.json; exit 4")
    trial = Trial(0, [], {0: tmp_path / "run"}, tmp_path / "0.txt")
    assert ended(trial).error == ("loss: not finite", 4)


def test_on_a_full_disk_no_trial_has_failed(tmp_path, monkeypatch):
    from seqrl.tune.search import Search

    told, stopped = [], []
    trial = SimpleNamespace(poll=lambda: True, results=[], folders={0: tmp_path}, error=("was killed", 1))
    search = SimpleNamespace(plan=SimpleNamespace(study=tmp_path), running={0: (trial, None, None)}, _failed=0)
    search._end, search.stop = (lambda *_, **__: told.append(1)), lambda: stopped.append(1)
    search._insist_on_room = lambda: Search._insist_on_room(search)
    with room(10), pytest.raises(OSError, match=rf"File too large: '{tmp_path}'"):
        Search._check(search, 0)
    assert (told, stopped) == ([], [1])
    Search._check(search, 0)
    assert told == [1]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_finished_has_succeeded_whatever_the_exit_code_of_its_process(tmp_path, monkeypatch):
    folders = {seed: tmp_path / f"run{seed}" for seed in (0, 1)}
    for folder in folders.values():
        folder.mkdir()
    # A program may fail at its very end, as its environment closes.
    manifest = '{"status": "finished", "result": 2}'
    find = 'for last; do :; done; eval "folder=${last#*=}"'
    stand_in(tmp_path, monkeypatch, f"{find}; echo '{manifest}' > $folder/manifest.json; exit 1")
    assert ended(Trial(0, [], folders, tmp_path / "0.txt")).results == [2.0, 2.0]


NO_RETURN = "none of its episodes ended, so it has no return. Raise total_steps or evaluation.episodes"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ('{"status": "finished", "result": 1.5}', (NO_RETURN, 0)),
        ('{"status": "failed", "error": "EnvError: it is so", "exit_code": 5}', ("EnvError: it is so", 5)),
    ],
)
def test_a_finished_run_without_a_return_is_told_from_one_that_failed(tmp_path, other, said):
    folders = {seed: tmp_path / f"run{seed}" for seed in (0, 1)}
    for folder, manifest in zip(folders.values(), ('{"status": "finished", "result": null}', other), strict=True):
        folder.mkdir()
        (folder / "manifest.json").write_text(manifest)
    # What a run says last when it is finished.
    (tmp_path / "0.txt").write_text("  curves        run0/metrics.jsonl\n")
    assert Trial(0, [], folders, tmp_path / "0.txt").error == said


@pytest.mark.slow
def test_a_search_whose_runs_have_no_return_says_so(tmp_path):
    space(tmp_path, "algorithm.epochs: {choices: [1, 2]}")
    arguments = [a for a in TINY if not a.startswith(("evaluation", "env.max"))]
    long = ["env=tmaze", "env.corridor_length=30", "total_steps=32", "evaluation.episodes=0", "workers=2"]
    done = tune(tmp_path, *arguments, *long)
    assert done.stdout.count(f"failed: {NO_RETURN}; ") == 3
    assert done.stderr == f"seqrl: error: search: 3 trials in a row failed, the last with: {NO_RETURN}\n"
    assert {facts["status"] for facts in manifests(tmp_path).values()} <= {"finished", "interrupted"}


@pytest.mark.slow
def test_a_search_whose_environment_ends_the_process_with_exit_code_0_ends_with_the_reason(tmp_path):
    (tmp_path / "leaving.py").write_text(
        "import os\nimport gymnasium as gym\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Leaving(CartPoleEnv):\n    def step(self, action): os._exit(0)\n"
        "gym.register('Leaving-v0', Leaving)\n"
    )
    space(tmp_path, "algorithm.epochs: {choices: [1, 2]}")
    arguments = [a for a in TINY if not a.startswith("env.max")]
    done = tune(tmp_path, *arguments, "env.id=leaving:Leaving-v0", "env.backend=sync", "trust=[leaving]")
    assert done.returncode == 2
    assert done.stdout.count(f"failed: {UNFINISHED.format(0)}") == 3
    assert done.stderr == (
        f"seqrl: error: search: 3 trials in a row failed, the last with: {UNFINISHED.format(0)}. "
        "If an environment ends it, env.backend=async names that one\n"
    )


def test_a_trial_reports_its_curve_at_every_twentieth(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("{episodes: 1000, parallel: 2, total_steps: 100}")
    trial = Trial(0, [], {0: run}, tmp_path / "0.txt")
    assert trial.ticks() == []
    with (run / "metrics.jsonl").open("w") as file:
        for steps, mean in ((4, 0.0), (5, 0.1), (6, 0.2), (11, 0.0), (50, 0.5)):
            file.write(json.dumps({"env_steps": steps, "rollout/return_mean": mean, "rollout/episodes": 1}) + "\n")
        file.write('{"env_steps": 60, "rollo')
    # A twentieth is 5 steps; the first row in each counts.
    assert trial.ticks() == [(1, 0.1), (2, 0.0), (10, 0.5)]
    assert trial.ticks() == []
    with (run / "metrics.jsonl").open("a") as file:
        file.write('ut/return_mean": 0.6}\n{"env_steps": 100, "rollout/return_mean": 0.9}\n')
    # A run at its end is finished, and no longer compared.
    assert trial.ticks() == [(12, 0.6)]


def test_a_trial_begins_in_its_folder_though_its_name_has_commas(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr("seqrl.tune.trials.subprocess.Popen", lambda words, **_: begun.append(words))
    folder = tmp_path / "it's" / "0_inputs-previous_action,first"
    Trial(0, ["network.inputs=[previous_action,first]"], {0: folder}, tmp_path / "0.txt").poll()
    ((*_, last),) = begun
    (parsed,) = OverridesParser.create().parse_overrides([last])
    assert (parsed.key_or_group, parsed.value()) == ("hydra.run.dir", str(folder))


def test_a_trial_stopped_early_is_marked_as_pruned_in_its_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text(
        '{"status": "interrupted", "error": "x", "exit_code": 143, "seed": 1}'
    )
    Trial(0, [], {0: tmp_path / "run"}, tmp_path / "0.txt").mark_pruned()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text()) == {"status": "pruned", "seed": 1}


def test_half_a_line_in_the_journal_is_cut_off_and_the_search_goes_on(tmp_path, capsys):
    journal = pytest.importorskip("seqrl.tune.journal")
    path = tmp_path / "journal.log"
    journal.opened(path).append_logs([{"op_code": 0, "n": 1}, {"op_code": 1}])
    whole = path.read_bytes()
    # As a process that is killed while it writes leaves it.
    path.write_bytes(whole + b'{"op_code":4,"tri')
    reopened = journal.opened(path)
    assert path.read_bytes() == whole
    assert capsys.readouterr().out == (
        f"{path}: cut off half a line at its end, 17 bytes of a process that was killed as it wrote\n"
    )
    # Another process of the search may be killed at any time.
    path.write_bytes(whole + b'{"op_code":4,"tri')
    reopened.append_logs([{"op_code": 5}])
    assert [log["op_code"] for log in reopened.read_logs(0)] == [0, 1, 5]
    assert not list(tmp_path.glob("*.lock*"))


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (
            b'{"op_code":0}\n{"op_co{"op_code":1}\n{"op_code":2}\n',
            "is damaged in line 2. To go on, keep what was before",
        ),
        (b"[1]\n", "is damaged in line 1. To go on, remove it, or choose another study="),
        (b"my notes\nof today", "is damaged in line 1. To go on, remove it, or choose another study="),
        (b"my notes", "is damaged in line 1. To go on, remove it, or choose another study="),
        (b'{"op_code":0}\nnotes', "is damaged in line 2. To go on, keep what was before"),
        (b'{"op_code":0,' + b" " * 2**20, "is damaged in line 1. To go on, remove it"),
    ],
    ids=["middle", "list", "notes", "note", "last", "long"],
)
def test_a_journal_that_is_damaged_in_the_middle_gets_one_line_and_is_left_as_it_is(tmp_path, spoilt, said):
    journal = pytest.importorskip("seqrl.tune.journal")
    path = tmp_path / "journal.log"
    path.write_bytes(spoilt)
    with pytest.raises(ConfigError) as refused:
        journal.opened(path)
    (line,) = refused.value.faults
    assert line.startswith(f"study: {path} {said}")
    assert path.read_bytes() == spoilt
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"journal\.log is not a regular file\. Choose another study="):
        journal.opened(path)


@pytest.mark.parametrize("what", ["file", "folder", "link", "nowhere"])
def test_what_has_the_name_of_the_lock_and_is_none_stays_and_is_named(tmp_path, monkeypatch, what):
    journal = pytest.importorskip("seqrl.tune.journal")
    monkeypatch.setattr(journal, "LOCK_SECONDS", 0)
    path, lock = tmp_path / "journal.log", tmp_path / "journal.log.lock"
    journal.opened(path).append_logs([{"op_code": 0}])
    make = {"file": lock.touch, "folder": lock.mkdir, "link": lambda: lock.symlink_to("/etc/passwd")}
    make.get(what, lambda: lock.symlink_to("nowhere"))()
    before = lock.lstat()
    with pytest.raises(ConfigError) as refused:
        journal.opened(path)
    (line,) = refused.value.faults
    assert line == f"study: {lock} is not the lock of this journal. Remove it, or choose another study=…"
    assert lock.lstat() == before
    assert path.read_bytes() == b'{"op_code":0}\n'


def test_a_lock_that_is_held_by_another_process_is_waited_for(tmp_path, monkeypatch):
    journal = pytest.importorskip("seqrl.tune.journal")
    monkeypatch.setattr(journal, "LOCK_SECONDS", 0)
    path, lock = tmp_path / "journal.log", tmp_path / "journal.log.lock"
    opened = journal.opened(path)
    lock.symlink_to(path)
    threading.Timer(0.2, lock.unlink).start()
    opened.append_logs([{"op_code": 0}])
    assert path.read_bytes() == b'{"op_code":0}\n'


@pytest.mark.slow
def test_a_search_goes_on_after_half_a_line_of_its_journal(tmp_path):
    space(tmp_path)
    assert tune(tmp_path, *TINY, "total_steps=64", "trials=1").returncode == 0
    with (tmp_path / "s" / "journal.log").open("ab") as file:
        file.write(b'{"op_code":6,"worker')
    with (tmp_path / "s" / "commands.jsonl").open("ab") as file:
        file.write(b'{"command": "py')
    done = tune(tmp_path, *TINY, "total_steps=64", "trials=2")
    assert done.returncode == 0, done.stderr
    assert "journal.log: cut off half a line at its end, 20 bytes" in done.stdout
    assert "2 finished. Best, trial" in done.stdout
    lines = (tmp_path / "s" / "commands.jsonl").read_text().splitlines()
    assert [line.endswith("}") for line in lines] == [True, True, False, True, True]


def test_a_claim_that_another_process_has_made_in_a_copy_meanwhile_is_its_own(tmp_path, monkeypatch):
    (tmp_path / "claims").mkdir()
    # Of another folder, where it has another name.
    (path := tmp_path / "claims" / "0").write_text("1\n")
    os.link(path, tmp_path / "there")
    remove, others, once = hold._remove_lock_of_another, [], iter([True])

    def meanwhile(*given):
        if next(once, False):
            others.append(Claim(path))
        remove(*given)

    monkeypatch.setattr(hold, "_remove_lock_of_another", meanwhile)
    with pytest.raises(BlockingIOError):
        Claim(path)
    others[0].release()


def test_only_one_process_runs_a_trial(tmp_path):
    mine = Claim(tmp_path / "claims" / "0")
    # A copy of the study is another one.
    subprocess.run(["cp", "-al", tmp_path / "claims", tmp_path / "copy"], check=True)
    Claim(tmp_path / "copy" / "0").release()
    with pytest.raises(BlockingIOError):
        Claim(tmp_path / "claims" / "0")
    mine.release()
    Claim(tmp_path / "claims" / "0").release()


@pytest.mark.parametrize("name", ["ppo", "reinforce", "memory"])
def test_the_shipped_spaces_have_no_fault(name):
    assert read(name, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {low: 1, high: 1}", "search small: a: low must be below high (got 1 and 1)."),
        ("a: {low: 0, high: 1, log: true}", "search small: a: log: true needs low above 0 (got 0)."),
        ("a: {low: 1}", "search small: a: needs choices, or low and high."),
        (
            "a: {low: 1, high: 2, choices: [1]}",
            "search small: a: has choices and a range. Give low and high, or choices.",
        ),
        (
            "a: {lo: 1, high: 2}",
            "search small: a: there is no lo. Did you mean low? Choose from low, high, log, step, choices.",
        ),
        ("a: 3", "search small: a: must be a range or choices (got 3), such as {low: 0.1, high: 1.0}."),
        (
            "a: {low: x, high: 2}",
            "search small: a: low, high and step must be numbers (got ['x', 2]). Write 1.0e-4, with a decimal point.",
        ),
        ("a: {choices: 3}", "search small: a: choices must be a list (got 3)."),
        ("a: {choices: [[1]]}", "search small: a: a choice must be a single value (got [[1]])."),
    ],
)
def test_a_faulty_space_gets_one_line(tmp_path, text, message):
    space(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        read("small", [tmp_path / "own"])
    assert refused.value.faults == [message]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trials=0"], "trials: must be a whole number of at least 1 (got 0)."),
        (["pruner=medium"], "pruner: must be median, halving or none (got medium). Did you mean median?"),
        (["tmaze"], "tmaze: is not key=value. Run python -m seqrl.tune --help for the keys."),
        (["trials=3", "seed", "=", "3"], "seed = 3: has blanks in it. Write seed=3."),
        (["-m"], "-m: does not apply to a search. Remove it; study=<folder> continues a search."),
        (["+resume=r"], "resume: does not apply to a search. Remove it; study=<folder> continues a search."),
    ],
)
def test_a_faulty_command_gets_one_line(words, message):
    with pytest.raises(ConfigError) as refused:
        planned(words)
    assert refused.value.faults == [message]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "trails=3",
            "trails: there is no such key. Did you mean trials? Run python -m seqrl.tune --help for the keys.",
        ),
        ("lstm_size=3", "lstm_size: there is no such key. Here it is network.lstm_hidden_size."),
    ],
)
def test_a_mistyped_key_of_the_search_names_the_one_that_was_meant(word, said):
    with pytest.raises(ConfigError) as refused:
        checked(planned([word]))
    assert refused.value.faults == [said]


def test_values_out_of_bounds_are_reported_before_the_first_trial(tmp_path):
    space(tmp_path, "algorithm.gamma: {low: 0.9, high: 2.0}\nnetwork.hiden_size: {choices: [8]}\n")
    done = tune(tmp_path, *TINY)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert "search small: algorithm.gamma: must be between 0 and 1 (got 2.0)." in first
    assert "search small: network.hiden_size: there is no such key." in second
    assert not (tmp_path / "s").exists()


def test_a_file_of_somebody_else_called_best_yaml_stays(tmp_path):
    space(tmp_path)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "best.yaml").write_text("my: own\n")
    done = tune(tmp_path, *TINY, "total_steps=320")
    assert done.returncode == 2
    assert done.stderr == "seqrl: error: study: s/best.yaml was not written by seqrl. Choose another study=…\n"
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["best.yaml"]
    assert (tmp_path / "s" / "best.yaml").read_text() == "my: own\n"


def test_a_link_called_best_yaml_stays(tmp_path):
    space(tmp_path)
    (tmp_path / "s").mkdir()
    (tmp_path / "precious").write_text("my: own\n")
    (tmp_path / "s" / "best.yaml").symlink_to(tmp_path / "precious")
    done = tune(tmp_path, *TINY, "total_steps=320")
    assert (done.returncode, (tmp_path / "s" / "best.yaml").is_symlink()) == (2, True)
    assert done.stderr == "seqrl: error: study: s/best.yaml is a link. Choose another study=…\n"


def test_values_are_written_as_the_command_line_reads_them():
    assert [override("a.b", value) for value in (None, 0.00012345678, 3, True, "lstm")] == [
        "a.b=null", "a.b=0.00012345678", "a.b=3", "a.b=True", "a.b=lstm",
    ]  # fmt: skip
    assert Dimension("a", low=1, high=3).extremes == [1, 3]
    assert os.sep not in override("a", 1.5)


def checked_space(folder: Path, text: str, *words: str) -> list[Dimension]:
    space(folder, text)
    return checked(planned(["search=small", f"--config-dir={folder / 'own'}", *words]))


@pytest.mark.thin(10)
@pytest.mark.parametrize(
    ("text", "low", "high", "step"),
    [
        ("algorithm.gae_lambda: {low: 0, high: 1}", 0.0, 1.0, None),
        ("algorithm.learning_rate: {low: 1.0e-5, high: 1, log: true}", 1e-5, 1.0, None),
        ("sequence_learning.grad_clip_norm: {low: 1, high: 10}", 1.0, 10.0, None),
        ("algorithm.target_kl: {low: 1, high: 2, step: 1}", 1.0, 2.0, 1.0),
        ("algorithm.epochs: {low: 1, high: 4}", 1, 4, None),
        ("algorithm.epochs: {low: 1.0, high: 4.0, step: 1.0}", 1, 4, 1),
        ("sequence_learning.max_tokens_per_batch: {low: 100, high: 200, log: true}", 100, 200, None),
        ("+env.kwargs.length: {low: 1, high: 4}", 1, 4, None),
        ("+env.kwargs.length: {low: 0.5, high: 4}", 0.5, 4, None),
    ],
)
def test_a_range_is_whole_or_real_as_its_key_is(tmp_path, text, low, high, step):
    (found,) = checked_space(tmp_path, text, "env.id=CartPole-v1")
    assert [(type(it), it) for it in (found.low, found.high, found.step)] == [
        (type(it), it) for it in (low, high, step)
    ]


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize(("default", "kind"), [("0.5", float), ("1", int)])
def test_a_key_without_a_schema_is_real_if_its_value_is(tmp_path, default, kind):
    (tmp_path / "own" / "network").mkdir(parents=True)
    (tmp_path / "own" / "network" / "mine.yaml").write_text(f"_target_: mine.network\nlevel: {default}\n")
    (tmp_path / "mine.py").write_text("def network(observation_space, action_space, level): ...\n")
    (found,) = checked_space(tmp_path, "network.level: {low: 0, high: 1}", "network=mine", "trust=[mine]")
    assert {type(found.low), type(found.high)} == {kind}


@pytest.mark.slow
def test_numbers_between_0_and_1_are_proposed_for_a_real_key(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (found,) = checked_space(tmp_path, "algorithm.gae_lambda: {low: 0, high: 1}")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = [found.suggest(study.ask()) for _ in range(20)]
    assert len(set(values)) == 20
    assert all(0 < value < 1 for value in values)


FINITE = "algorithm.gamma: low, high and step must be finite, and 1e+100 at most"


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "algorithm.epochs: {low: 1, high: 3.5}",
            "algorithm.epochs: low and high must be whole numbers (got 1 and 3.5).",
        ),
        (
            "sequence_learning.max_tokens_per_batch: {low: 0.5, high: 3.5}",
            "sequence_learning.max_tokens_per_batch: low and high must be whole numbers (got 0.5 and 3.5).",
        ),
        ("algorithm.epochs: {low: 1, high: 3, step: 0.5}", "algorithm.epochs: step must be a whole number (got 0.5)."),
        ("algorithm.gamma: {low: 0, high: .inf}", FINITE + " (got [0, inf])."),
        ("algorithm.gamma: {low: .nan, high: 1}", FINITE + " (got [nan, 1])."),
        ("algorithm.gamma: {low: 0, high: 1.0e+130}", FINITE + " (got [0, 1e+130])."),
        (
            "algorithm.gamma: {choices: [0.5, .nan]}",
            "algorithm.gamma: a choice must be finite, and 1e+100 at most (got [0.5, nan]).",
        ),
        ("algorithm.gamma: {low: 0.5, high: 1, log: 3}", "algorithm.gamma: log must be true or false (got 3)."),
    ],
)
def test_a_range_that_does_not_suit_its_key_gets_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError) as refused:
        checked_space(tmp_path, text)
    assert refused.value.faults == [f"search small: {message}"]
