"""Ranks as processes: they come to what one comes to, and none of them ends, or goes on, alone."""

import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import seqrl
from seqrl.config.composition import composed
from seqrl.config.settle import settle
from seqrl.devices.device import Device
from seqrl.errors import ConfigError
from seqrl.ranks import Ranks
from seqrl.ranks.start import Place, _listening
from seqrl.run.checkpoint import Checkpoints
from seqrl.run.training import own_device
from seqrl.train import main
from tests.programs import Program, run_program

TINY = [
    "network.hidden_size=8", "network.lstm_hidden_size=8", "evaluation.episodes=8", "rollout_length=40", "parallel=5",
    "insight.interval=0", "algorithm.anneal=[]", "seed=3", "logger=jsonl",
]  # fmt: skip
MAZE = ["env=tmaze", "env.corridor_length=4"]
# Behaves until one of its processes is to do something else.
ODD = """
import multiprocessing, os, time, warnings
import gymnasium as gym
import numpy as np

class Odd(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Discrete(2)

    made = 0

    def __init__(self, what, where, token=""):
        self.what, self.here, self.played = what, multiprocessing.current_process().name == where, 0
        self.token = token
        if what == "leave at once" and self.here:
            os._exit(7)
        Odd.made += 1
        if what == "leave the evaluation":
            self.here, self.played = self.here and Odd.made > 2, 98
        if what == "stop in the evaluation":
            # The other rank of two plays two of five environments, in training and then in the evaluation.
            self.here, self.played = self.here and Odd.made > 3, 98
        if what == "raise at first":
            self.here = os.environ.get("RANK") == "0" and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.clock, self.played = self.clock + 1, self.played + 1
        seen = self.np_random.random(2).astype(np.float32)
        if self.here and self.played > 100:
            if self.what == "warn":
                warnings.warn("beware of " + self.token)
                return seen, 1.0, self.clock == 9, False, {}
            if self.what == "stop in the evaluation":
                os.kill(os.getpid(), 15)
                return seen, 1.0, self.clock == 9, False, {}
            if self.what in ("raise", "raise at first"):
                raise ValueError("no more")
            if self.what == "hang":
                time.sleep(1000)
            if self.what in ("leave", "leave the evaluation"):
                os._exit(7)
            seen[0] = np.nan
        return seen, 1.0, self.clock == 9, False, {}

gym.register("Odd-v0", entry_point=Odd)
"""


def command(*words):
    return [sys.executable, "-m", "seqrl.train", *TINY, *words]


def train(folder, *words, timeout=100, launcher=()):
    words = command(*words) if not launcher else [*launcher, *command(*words)[1:]]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=timeout)


def curves(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: it for key, it in row.items() if "time/" not in key and "peak" not in key}
        for row in rows
        if "rollout/return_mean" in row
    ]


def weights(folder):
    return Checkpoints(folder).newest()[0]["algorithm"]["network"]


def facts(folder):
    return json.loads((folder / "manifest.json").read_text())


def same(one, other):
    return all(torch.equal(other[name], it) for name, it in one.items())


def test_a_run_over_processes_is_the_run_of_one(tmp_path):
    for count in (1, 2):
        words = [*MAZE, "total_steps=1000", f"processes={count}", f"hydra.run.dir=r{count}"]
        done = train(tmp_path, *words) if count > 1 else run_program(tmp_path, *command(*words)[1:])
        assert (done.returncode, done.stderr) == (0, "")
    for one, other in zip(curves(tmp_path / "r1"), curves(tmp_path / "r2"), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    for name, it in weights(tmp_path / "r1").items():
        assert torch.allclose(weights(tmp_path / "r2")[name], it, atol=1e-5)
    assert facts(tmp_path / "r2")["evaluation_return_mean"] == facts(tmp_path / "r1")["evaluation_return_mean"]
    assert len([*tmp_path.glob("r2/*.jsonl")]) == 1


@pytest.mark.slow
def test_torchrun_and_two_nodes_start_the_same_run(tmp_path):
    torchrun = Path(sys.executable).with_name("torchrun")
    assert train(tmp_path, *MAZE, "total_steps=1000", "processes=3", "hydra.run.dir=r3").returncode == 0
    one = [torchrun, "--nproc-per-node=3"]
    done = train(tmp_path, *MAZE, "total_steps=1000", "hydra.run.dir=t3", launcher=one)
    assert done.returncode == 0, done.stderr
    nodes = [
        subprocess.Popen(
            [
                torchrun, "--nnodes=2", f"--node-rank={node}", f"--nproc-per-node={2 - node}",
                "--master-addr=127.0.0.1", "--master-port=29533",
                *command(*MAZE, "total_steps=1000", "hydra.run.dir=n3")[1:],
            ],
            cwd=tmp_path,
        )
        for node in (1, 0)
    ]  # fmt: skip
    assert [node.wait(100) for node in nodes] == [0, 0]
    for folder in ("t3", "n3"):
        assert curves(tmp_path / folder) == curves(tmp_path / "r3")
        assert same(weights(tmp_path / folder), weights(tmp_path / "r3"))


@pytest.mark.slow
def test_what_torchrun_started_ends_with_the_first_rank(tmp_path):
    torchrun = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node=2"]
    refused = train(tmp_path, *MAZE, "algorithm.gamma=3", launcher=torchrun)
    assert refused.returncode == 1
    assert refused.stderr.count("seqrl: error: algorithm.gamma: must be between 0 and 1") == 1
    assert train(tmp_path, "--help", launcher=torchrun).returncode == 0
    other = train(tmp_path, *MAZE, "processes=3", launcher=torchrun)
    assert "processes: 2 were started together (got 3). Leave it out." in other.stderr


@pytest.mark.slow
def test_a_run_goes_on_to_the_last_bit_with_as_many_processes_and_says_what_others_change(tmp_path):
    assert train(tmp_path, *MAZE, "total_steps=2000", "processes=2", "hydra.run.dir=whole").returncode == 0
    assert train(tmp_path, *MAZE, "total_steps=1000", "processes=2", "hydra.run.dir=half").returncode == 0
    go_on = [sys.executable, "-m", "seqrl.train", "resume=half", "total_steps=2000"]
    done = subprocess.run(go_on, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert curves(tmp_path / "half") == curves(tmp_path / "whole")
    assert same(weights(tmp_path / "half"), weights(tmp_path / "whole"))
    for count in (3, 1):
        more = [*go_on[:3], "resume=half", f"total_steps={2000 + 500 * (4 - count)}", f"processes={count}"]
        done = subprocess.run(more, cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert (done.returncode, done.stderr) == (0, "")
        assert "5 episodes in progress could not continue, new ones replace them" in done.stdout
        assert f"-> {count}" in done.stdout


@pytest.mark.slow
def test_whole_episodes_with_another_number_of_processes_are_said_to_be_others(tmp_path):
    whole = ["experiment=tmaze", "rollout_length=0", "evaluation.episodes=0", "hydra.run.dir=r"]
    assert train(tmp_path, *whole, "total_steps=1").returncode == 0
    done = train(tmp_path, "resume=r", "total_steps=2000", "processes=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "changed: from here on episodes begin with other random numbers\n" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "where", "exit_code", "words"),
    [
        ("raise", "rank 1", 5, "environment 3, episode 12"),
        ("raise", "MainProcess", 5, "environment 0, episode 12"),
        ("hang", "rank 1", 5, "it has not answered for 3 seconds, the limit set by env.timeout_seconds"),
        ("nothing", "rank 1", 5, "environment 3, step 2 of its episode: its observation is nan"),
        ("leave", "rank 1", 1, "processes: rank 1 of 2 ended with exit code 7. Continue with resume="),
        # Nothing is saved that it could go on from.
        ("leave at once", "rank 1", 1, "processes: rank 1 of 2 ended with exit code 7."),
    ],
)
def test_a_fault_of_one_ends_all_with_its_line_and_its_exit_code(tmp_path, what, where, exit_code, words):
    (tmp_path / "odd.py").write_text(ODD)
    odd = ["env.id=odd:Odd-v0", "trust=[odd]", "env.backend=sync", "env.timeout_seconds=3", f"+env.kwargs.what={what}"]
    began = time.monotonic()
    done = train(tmp_path, *odd, f"+env.kwargs.where={where}", "processes=2", "total_steps=10000000", "hydra.run.dir=r")
    assert time.monotonic() - began < 40
    assert done.returncode == exit_code
    (line,) = done.stderr.splitlines()
    assert words in line
    assert words.endswith("resume=") or "resume=" not in line
    assert facts(tmp_path / "r")["status"] == "failed"
    assert [path.name for path in (tmp_path / "r").glob("checkpoints/*.tmp")] == []


def followers(process):
    """Processes that are ranks of a run which this one leads."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes()
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == process.pid and b"multiprocessing.spawn" in words:
                found.append(int(folder.name))
    return sorted(found)


def goes_on(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def begun(folder, count):
    """A run of so many processes that has learned a little, and those that follow the first."""
    words = [*MAZE, f"processes={count}", "total_steps=100000000", "checkpoint_interval=1", "hydra.run.dir=r"]
    process = subprocess.Popen(
        command(*words), cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (folder / "r" / "metrics.jsonl").exists() and len(curves(folder / "r")) > 3:
            return process, followers(process)
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[1])


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("count", "whom", "number", "exit_code", "status", "words"),
    [
        (2, 1, signal.SIGKILL, 1, "failed", "was killed by SIGKILL. Continue with resume="),
        (3, 0, signal.SIGTERM, 143, "interrupted", "stopped by SIGTERM. Continue with resume="),
        pytest.param(3, 0, signal.SIGKILL, -9, "running", None, marks=pytest.mark.slow),
        pytest.param(3, 1, signal.SIGSTOP, 1, "failed", "has not answered for 12 seconds", marks=pytest.mark.slow),
        pytest.param(3, 0, signal.SIGSTOP, -9, "running", None, marks=pytest.mark.slow),
        # The first rank is the next one of the last one.
        pytest.param(2, 0, signal.SIGSTOP, -9, "running", None, marks=pytest.mark.slow),
        pytest.param(
            3, 1, signal.SIGKILL, 1, "failed", "was killed by SIGKILL. Continue with resume=", marks=pytest.mark.slow
        ),
    ],
)
def test_a_rank_that_dies_or_stops_ends_all_and_the_run_goes_on_later(
    tmp_path, count, whom, number, exit_code, status, words
):
    process, others = begun(tmp_path, count)
    assert len(others) == count - 1
    with process:
        os.kill([process.pid, *others][whom], number)
        try:
            # Within twenty seconds.
            _, said = process.communicate(timeout=20)
        finally:
            # One that was stopped would wait for ever, and the test for it.
            process.kill()
    assert process.returncode == exit_code
    lines = said.splitlines()
    assert len(lines) == (words is not None)
    assert words is None or words in lines[0]
    assert facts(tmp_path / "r")["status"] == status
    until = time.monotonic() + 5
    while any(map(goes_on, others)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(goes_on, others))
    steps = curves(tmp_path / "r")[-1]["env_steps"]
    done = run_program(tmp_path, "-m", "seqrl.train", "resume=r", f"total_steps={steps + 400}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "could not continue" not in done.stdout


@pytest.mark.slow
def test_a_stop_that_another_rank_hears_in_the_final_evaluation_says_how_to_go_on(tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    odd = ["env.id=odd:Odd-v0", "trust=[odd]", "env.backend=sync", "+env.kwargs.what=stop in the evaluation"]
    done = train(tmp_path, *odd, "+env.kwargs.where=rank 1", "processes=2", "total_steps=400", "hydra.run.dir=r")
    assert done.returncode == 143
    assert done.stderr.startswith("seqrl: error: stopped by SIGTERM. Continue with resume=")
    assert facts(tmp_path / "r")["status"] == "interrupted"
    assert len(curves(tmp_path / "r")) == 2


@pytest.mark.slow
def test_a_run_that_is_done_without_another_rank_is_finished(tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    odd = ["env.id=odd:Odd-v0", "trust=[odd]", "env.backend=sync", "+env.kwargs.what=leave the evaluation"]
    # A single episode is played by each rank for itself.
    more = ["evaluation.episodes=1", "processes=2", "total_steps=400", "hydra.run.dir=r"]
    done = train(tmp_path, *odd, "+env.kwargs.where=rank 1", *more)
    assert (done.returncode, done.stderr) == (0, "")
    found = facts(tmp_path / "r")
    assert (found["status"], found["result"]) == ("finished", 9.0)
    assert "error" not in found


@pytest.mark.slow
def test_what_another_rank_says_is_masked(tmp_path, monkeypatch):
    monkeypatch.setenv("ODD_TOKEN", "hushhush")
    (tmp_path / "odd.py").write_text(ODD)
    odd = ["env.id=odd:Odd-v0", "trust=[odd]", "env.backend=sync", "+env.kwargs.what=warn", "processes=2"]
    done = train(tmp_path, *odd, "+env.kwargs.where=rank 1", "+env.kwargs.token=${oc.env:ODD_TOKEN}", "total_steps=600")
    assert done.returncode == 0
    assert "beware of ${oc.env:ODD_TOKEN}" in done.stderr
    assert "hushhush" not in done.stderr


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_of_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"import seqrl\nseqrl.learn(*{[*TINY, *MAZE]}, 'processes=2', 'total_steps=400', quiet=True)\n")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-1].endswith(
        'processes: rank 1 of 2 ran your script anew. Put what the script does below `if __name__ == "__main__":`.'
    )
    assert len([*tmp_path.glob("outputs/runs/*/*")]) == 1


@pytest.mark.slow
def test_a_script_that_is_no_file_is_refused(tmp_path):
    script = f"import seqrl\nseqrl.learn(*{[*TINY, *MAZE]}, 'processes=2', quiet=True)\n"
    done = subprocess.run(
        [sys.executable, "-"], input=script, cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.stderr.splitlines()[-1].endswith(
        "processes: others cannot read this script, <stdin>. Put it into a file."
    )


@pytest.mark.slow
def test_torchrun_may_start_all_of_them_again(tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    odd = ["env.id=odd:Odd-v0", "trust=[odd]", "env.backend=sync", "+env.kwargs.what=raise at first"]
    torchrun = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node=2", "--max-restarts=1"]
    done = train(tmp_path, *odd, "+env.kwargs.where=all", "total_steps=4000", launcher=torchrun)
    assert done.returncode == 0, done.stderr
    assert sorted(facts(path.parent)["status"] for path in tmp_path.glob("outputs/runs/*/*/manifest.json")) == [
        "failed",
        "finished",
    ]


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize(("ends", "exit_code"), [("pass", 0), ("raise SystemExit(5)", 5)])
def test_ranks_that_begin_after_the_first_one_is_done_hear_of_it(tmp_path, ends, exit_code):
    first = f"from seqrl.ranks.start import over_for_all\nwith over_for_all():\n    {ends}\n"
    other = "from seqrl.ranks.start import follow_runs\nfollow_runs(None)\n"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    with Program(tmp_path, "-c", first, env={**group, "RANK": "0"}) as leader:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            # Its store is there.
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
        time.sleep(1)
        follower = run_program(tmp_path, "-c", other, env={**group, "RANK": "1"})
        assert leader.wait() == follower.returncode == exit_code


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("MASTER_PORT", "abc", "MASTER_PORT: must be a whole number (got abc)."),
        ("MASTER_PORT", "70000", "MASTER_PORT: must be 1 to 65535 (got 70000)."),
        ("WORLD_SIZE", "two", "WORLD_SIZE: must be a whole number (got two)."),
        ("LOCAL_RANK", "-1", "LOCAL_RANK: must be a whole number (got -1)."),
        ("RANK", "2", "RANK: must be below WORLD_SIZE=2 (got 2)."),
    ],
)
def test_what_cannot_be_a_place_among_processes_gets_one_line(monkeypatch, capsys, name, given, said):
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_RANK": "0"}
    for variable, value in {**place, name: given}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match="2"):
        main()
    told = f"seqrl: error: {said} Let torchrun set these variables, or unset WORLD_SIZE.\n"
    assert capsys.readouterr().err == told


@pytest.fixture
def first_of_two(monkeypatch):
    """A free port, where others look for this process, the first of two."""
    monkeypatch.setattr("seqrl.ranks.start.REACH", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    return port


def ends_at_once(capsys):
    """What `main` says as it refuses to begin."""
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err
    remedy = " Let torchrun set these variables, or unset WORLD_SIZE.\n"
    assert said.count("\n") == 1
    assert said.endswith(remedy)
    return said.removeprefix("seqrl: error: ").removesuffix(remedy)


def test_a_first_process_at_a_host_that_nobody_knows_ends_at_once(first_of_two, monkeypatch, capsys):
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    monkeypatch.setattr("socket.getaddrinfo", Mock(side_effect=unknown))
    assert ends_at_once(capsys) == "MASTER_ADDR: 127.0.0.1 is not known (Name or service not known)."


def test_a_first_process_whose_port_another_program_has_ends_at_once(first_of_two, capsys):
    with socket.create_server(("127.0.0.1", first_of_two)):
        said = f"MASTER_PORT: {first_of_two} cannot be listened at here (Address already in use)."
        assert ends_at_once(capsys) == said


def test_a_first_process_ends_at_once_if_another_one_is_met_in_its_place(first_of_two, monkeypatch, capsys):
    reach = socket.create_connection
    with socket.create_server(("127.0.0.1", 0)) as another:
        monkeypatch.setattr("socket.create_connection", lambda where, *rest: reach(another.getsockname(), *rest))
        said = f"MASTER_ADDR: 127.0.0.1 is not this process, at port {first_of_two} (timed out)."
        assert ends_at_once(capsys) == said


@pytest.mark.parametrize("do", ["speak", "wait", "hang up"])
def test_a_first_process_is_met_though_others_call_before_it_does(first_of_two, monkeypatch, do):
    reach = socket.create_connection
    early = []

    def call(where, *rest):
        early.append(reach(where, *rest))
        if do == "speak":
            early[0].sendall(b"hello")
        if do == "hang up":
            # Without a farewell.
            early[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            early[0].close()
        return reach(where, *rest)

    monkeypatch.setattr("socket.create_connection", call)
    with _listening(Place.of_environment()) as listening, early[0]:
        assert listening.getsockname()[1] == first_of_two


def test_processes_that_cannot_meet_are_not_started(tmp_path, monkeypatch):
    """As where the loopback interface is down, in a namespace of its own for example."""

    def unreachable(*where):
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    monkeypatch.setattr("socket.create_connection", unreachable)
    said = r"processes: they meet at 127\.0\.0\.1, which cannot be reached here \(Network is unreachable\)\. Have its"
    with pytest.raises(ConfigError, match=said):
        seqrl.learn(*TINY, *MAZE, "processes=2", "total_steps=200", f"hydra.run.dir={tmp_path / 'run'}", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_process_that_waits_for_others_hears_signals(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(mute.getsockname()[1])}
        command = [sys.executable, "-m", "seqrl.train", "total_steps=100"]
        process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | place, stderr=subprocess.DEVNULL)
        try:
            mute.settimeout(60)
            with mute.accept()[0]:
                process.terminate()
                assert process.wait(timeout=10) == 143
        finally:
            process.kill()
            process.wait()


def test_one_process_of_torchrun_may_start_more(monkeypatch):
    started = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_RANK": "0"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    assert Place.of_environment() is None
    monkeypatch.setattr(Device, "_check", lambda self: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    ranks = Ranks()
    ranks.rank, ranks.size, ranks.here = 1, 2, 2
    assert own_device(Device("cuda", 1, "float32"), ranks).name == "cuda:1"


def test_a_run_goes_on_with_as_many_processes_as_torchrun_starts(monkeypatch, tmp_path):
    words = [*TINY, *MAZE, f"hydra.run.dir={tmp_path}/r", "total_steps=200"]
    seqrl.learn(*words, quiet=True)
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with composed([f"resume={tmp_path}/r", "processes=2"], None) as (made, _):
        assert settle(made).cfg.processes == 3
    with composed([*words, "processes=2"], None) as (made, _), pytest.raises(seqrl.ConfigError, match="3 were started"):
        settle(made)


@pytest.mark.slow
def test_torchrun_starts_only_the_training_program(monkeypatch, tmp_path):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(seqrl.ConfigError, match=r"processes: .* only python -m seqrl\.train is one run"):
        seqrl.learn(*TINY, *MAZE, f"hydra.run.dir={tmp_path}/r", quiet=True)
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_python_learns_over_processes_and_may_end_early(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def enough(row, policy):
        seen.append(row["env_steps"] if "env_steps" in row else len(seen))
        return len(seen) < 3

    words = [*TINY, *MAZE, "total_steps=100000", "processes=2", "hydra.run.dir=r"]
    result = seqrl.learn(*words, on_iteration=enough, quiet=True)
    assert len(seen) == len(curves(result.folder)) == 3
    assert seqrl.load(result.folder).network is not None
    with pytest.raises(seqrl.ConfigError, match="processes: each plays at least one environment"):
        seqrl.learn(*words, "processes=6")


@pytest.mark.slow
def test_evaluations_between_and_the_best_policy_are_those_of_one_process(tmp_path):
    for count in (1, 2):
        words = [*MAZE, "total_steps=1500", "evaluation.interval=2", f"processes={count}", f"hydra.run.dir=r{count}"]
        assert train(tmp_path, *words).returncode == 0
    assert Checkpoints(tmp_path / "r1").best == Checkpoints(tmp_path / "r2").best
