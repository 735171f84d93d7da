import re
from pathlib import Path

import pytest
import torch

from seqrl import machine
from seqrl.run.memory_need import USABLE, Footprint, advice, footprint, free_bytes, is_out_of_memory, round_down
from seqrl.run.summary import fitness
from seqrl.runner import Runner
from tests.parts import ppo, small_network
from tests.programs import run_program
from tests.worlds import Script

LONG = [[500]] * 20


def rollout_of(lengths, bptt_length):
    env = Script(lengths)
    network = small_network(env, "lstm")
    return network, Runner(env, network, 0, bptt_length, torch.Generator().manual_seed(0)).collect()


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("bptt_length", "max_tokens", "minibatches", "at_once"),
    [
        (0, None, 4, 2500),
        (0, None, 1, 10_000),
        (200, None, 2, 4000),
        (100, None, 2, 2000),
        (10, None, 2, 1024),
        (100, 300, 2, 300),
        (0, 300, 2, 500),
    ],
)
def test_fewer_steps_go_through_the_network_at_once_where_gradients_reach_less_far(
    bptt_length, max_tokens, minibatches, at_once
):
    network, rollout = rollout_of(LONG, bptt_length)
    algorithm = ppo(network, bptt_length=bptt_length, max_tokens_per_batch=max_tokens, minibatches=minibatches)
    assert footprint(algorithm, rollout, 20).steps == at_once


def test_three_times_the_environments_need_three_times_the_memory():
    network, rollout = rollout_of(LONG, 0)
    algorithm = ppo(network, minibatches=2)
    few, many = (footprint(algorithm, rollout, parallel) for parallel in (20, 60))
    assert many.steps == 3 * few.steps
    assert many.megabytes == pytest.approx(3 * few.megabytes)


MEASURE = """
import sys
import torch
import seqrl.networks
torch.set_num_threads(1)
from seqrl.run.memory_need import footprint
from seqrl.networks import recurrent_network
from seqrl.machine import forget_peak_memory, peak_memory_mb
from seqrl.runner import Runner
from seqrl.algorithms.sequences import split
from tests.parts import ppo
from tests.worlds import Script

env = Script([[500]] * 40)
parts = dict(hidden_size=128, lstm_hidden_size=128, window=3, heads=2, separate_critic=False)
parts |= dict(use_lstm=True, use_attention=False, memory=getattr(seqrl.networks, sys.argv[1]))
network = recurrent_network(env.observation_space, env.action_space, **parts)
algorithm = ppo(network, minibatches=1, epochs=1)
rollout = Runner(env, network, 0, 0, torch.Generator().manual_seed(0)).collect()
sequences = split(rollout, rollout.value, rollout.value, 0)
need = footprint(algorithm, rollout, 40)
forget_peak_memory()
before = peak_memory_mb()
algorithm.update(rollout, 0.0)
print(need.megabytes, peak_memory_mb() - before)
"""


@pytest.mark.parametrize(
    "cell", ["LSTM", *(pytest.param(it, marks=pytest.mark.slow) for it in ("GRU", "MinGRU", "Matrix", "GTrXL"))]
)
def test_the_need_that_is_said_is_the_one_that_is_measured(cell):
    done = run_program(Path.cwd(), "-c", MEASURE, cell)
    assert done.returncode == 0, done.stderr
    predicted, measured = map(float, done.stdout.split())
    if cell == "LSTM":
        assert predicted == pytest.approx(measured, rel=0.35)
    # What backward needs beside what forward keeps is no part of it.
    assert 0.8 * predicted < measured < 2.2 * predicted
    assert measured > 100


@pytest.mark.parametrize(
    ("need", "free", "parallel", "bptt_length", "sentence"),
    [
        (
            Footprint(50_000, 10_000, 500, 50_000),
            100_000_000,
            100,
            0,
            "an update of 50,000 steps at once needs about 500 MB, and 100 MB are free. "
            "Use sequence_learning.max_tokens_per_batch=6000 or parallel=12.",
        ),
        (
            Footprint(5_000, 10_000, 5_000, 5_000),
            10_000_000,
            1,
            0,
            "an update of 5,000 steps at once needs about 50 MB, and 10 MB are free. "
            "Use sequence_learning.bptt_length=600 with sequence_learning.max_tokens_per_batch=600.",
        ),
        (
            Footprint(5_000, 1e9, 5_000, 5_000),
            10_000_000,
            1,
            0,
            "an update of 5,000 steps at once needs about 5,000,000 MB, and 10 MB are free. Use a smaller network.",
        ),
        (
            Footprint(5_000, 10_000, 500, 5_000),
            None,
            8,
            0,
            "an update of 5,000 steps at once needs about 50 MB. "
            "Use sequence_learning.max_tokens_per_batch=2500, for instance.",
        ),
    ],
)
def test_settings_that_fit_are_named(need, free, parallel, bptt_length, sentence):
    assert advice(need, free, parallel, bptt_length) == sentence


@pytest.mark.thin(15)
@pytest.mark.parametrize("free_steps", [300, 700, 1500, 4000])
@pytest.mark.parametrize("bptt_length", [0, 20, 200])
@pytest.mark.parametrize("lengths", [LONG, [[40]] * 60])
def test_every_setting_named_does_fit(lengths, bptt_length, free_steps):
    network, rollout = rollout_of(lengths, bptt_length)
    parallel = len(lengths)
    settings = {"bptt_length": bptt_length, "max_tokens_per_batch": None, "minibatches": 2}
    need = footprint(ppo(network, **settings), rollout, parallel)
    free = free_steps * need.bytes_per_step / USABLE + 1
    if need.steps <= free_steps:
        return
    ways = advice(need, int(free), parallel, bptt_length).split(" Use ")[1].rstrip(".").split(" or ")
    for way in ways:
        changed = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", way)}
        fewer = changed.pop("parallel", parallel)
        assert footprint(ppo(network, **settings | changed), rollout, fewer).steps <= free_steps, way


@pytest.mark.parametrize(("number", "rounded"), [(0.3, 1), (7, 7), (99, 99), (128, 120), (4999, 4900)])
def test_a_number_that_fits_is_rounded_down_to_two_digits(number, rounded):
    assert round_down(number) == rounded


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 12 GB"), True),
        (RuntimeError("could not execute a primitive"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_distinguished_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_what_does_not_fit_is_not_called_valid():
    need = Footprint(steps=1000, bytes_per_step=2000, longest=100, minibatch=1000)
    assert fitness(need, 2_000_000).startswith("valid ")
    assert fitness(need, None).startswith("valid ")
    assert fitness(need, 1_999_999).startswith("too large ")


def test_free_memory_is_a_plausible_number():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 0 < free < 2**50


VERSION_2, VERSION_1 = (
    ["memory.max", "memory.current", "inactive_file"],
    (["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"]),
)


@pytest.mark.parametrize(
    ("of_group", "path", "names"),
    [
        ("0::/", ".", VERSION_2),  # a container that sees its own group alone
        ("0::/job_7/step_0", "job_7", VERSION_2),  # Slurm limits the job above
        ("0::/user.slice/x", "user.slice/x", VERSION_2),
        ("0::/x", "unified/x", VERSION_2),
        ("4:memory:/job_7/step_0", "memory/job_7", VERSION_1),
        ("4:cpu,memory:/docker/1b2", "memory", VERSION_1),  # a container whose group is called otherwise outside
    ],
)
def test_what_a_control_group_keeps_of_files_counts_as_free(tmp_path, monkeypatch, of_group, path, names):
    own, groups = tmp_path / "own", tmp_path / "groups"
    own.write_text(f"1:name=systemd:/x\n{of_group}\n")
    monkeypatch.setattr(machine, "GROUPS", groups)
    monkeypatch.setattr(machine, "OWN", own)
    group = groups / path
    group.mkdir(parents=True)
    limit, usage, kept = names
    (group / limit).write_text("4000000\n")
    (group / usage).write_text("3970000\n")
    (group / "memory.stat").write_text(f"file 3700000\n{kept} 3700000\n{kept.replace('in', '')} 100000\n")
    assert machine.free_memory() == 4_000_000 - 3_970_000 + 3_800_000
    (group / limit).write_text("max\n")
    assert machine.free_memory() > 4_000_000


@pytest.mark.parametrize(
    ("files", "swap"),
    [
        ({"memory.swap.max": 0, "memory.swap.current": 0}, 0),
        ({"memory.swap.max": 5000, "memory.swap.current": 2000}, 3000),
        ({"memory.swap.max": "max", "memory.swap.current": 2000}, 8_000_000),
        ({"memory.swap.max": 10**12, "memory.swap.current": 0}, 8_000_000),
        # In version 1, of both together.
        ({"memory.memsw.limit_in_bytes": 4000, "memory.memsw.usage_in_bytes": 3000}, 0),
        ({"memory.memsw.limit_in_bytes": 9000, "memory.memsw.usage_in_bytes": 4500}, 3500),
        ({}, 8_000_000),
    ],
)
def test_no_more_swap_is_free_than_a_control_group_leaves(tmp_path, monkeypatch, files, swap):
    (own := tmp_path / "own").write_text("0::/job/step\n")
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN", own)
    monkeypatch.setattr(machine, "_of_machine", {"SwapFree": 8_000_000}.get)
    (tmp_path / "job" / "step").mkdir(parents=True)
    for name, number in ({"memory.limit_in_bytes": 4000, "memory.usage_in_bytes": 3000} | files).items():
        (tmp_path / "job" / name).write_text(f"{number}\n")
    assert machine.free_swap() == swap


@pytest.mark.parametrize(
    ("file", "text", "count"),
    [
        ("cpu.max", "150000 100000\n", 2),
        ("cpu.max", "50000 100000\n", 1),
        ("cpu.max", "max 100000\n", 8),
        ("cpu/cpu.cfs_quota_us", "300000\n", 3),
        ("cpu/cpu.cfs_quota_us", "-1\n", 8),
    ],
)
def test_a_share_of_the_processors_time_counts_as_so_many_cores(tmp_path, monkeypatch, file, text, count):
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    monkeypatch.setattr(machine, "processors", lambda: 8)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / file).write_text(text)
    assert machine.cores() == count
