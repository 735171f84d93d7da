"""A run goes on in another precision."""

import copy
from contextlib import closing, nullcontext

import pytest
import torch

from seqrl.devices.device import Device
from seqrl.envs import GymnasiumEnv, TMaze
from seqrl.envs.inputs import WithInputs
from seqrl.runner import Runner
from tests.parts import ppo, small_network


def begun(task, precision, kind, **changes):
    env = TMaze(3, 0, corridor_length=5) if task == "tmaze" else GymnasiumEnv(task, 3, 0, backend="sync")
    env = WithInputs(env, ["previous_action", "previous_reward", "first"])
    device = Device("cpu", 1, precision)
    network = small_network(env, kind, device.dtype, normalize_observations=True)
    network.autocast_dtype = device.autocast_dtype
    return Runner(env, network, 3, 2, torch.Generator().manual_seed(0)), ppo(
        network, **{"bptt_length": 2, "normalize_reward": True, **changes}
    )


@pytest.mark.parametrize("kind", ["lstm", "memoryless"])
def test_what_is_learned_in_bf16_acts_and_learns_on_though_a_program_is_in_an_autocast_of_its_own(kind):
    learned = []
    for outer in (nullcontext(), torch.autocast("cpu", enabled=False)):
        runner, algorithm = begun("tmaze", "bf16", kind)
        with outer:
            for _ in range(3):
                algorithm.update(runner.collect(), 0.0)
        learned.append(torch.cat([it.detach().flatten() for it in algorithm.parameters.values()]))
    assert torch.equal(*learned)


@pytest.mark.parametrize("kind", ["lstm+attention", pytest.param("two layers", marks=pytest.mark.slow)])
def test_in_bf16_threads_that_share_a_gradient_change_no_bit(kind):
    learned = []
    # Several times: it was chance which thread came first.
    for threads in (1, 3, 3, 3):
        runner, algorithm = begun("tmaze", "bf16", kind, gradient_parts=3, gradient_threads=threads, epochs=4)
        for _ in range(2):
            algorithm.update(runner.collect(), 0.0)
        learned.append(torch.cat([it.detach().flatten() for it in algorithm.parameters.values()]))
    assert all(torch.equal(it, learned[0]) for it in learned[1:])


@pytest.mark.thin(4)
@pytest.mark.parametrize(
    ("before", "after"),
    [("float32", "float64"), ("float64", "float32"), ("float32", "bf16"), ("bf16", "float64"), ("float64", "bf16")],
)
@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("tmaze", "lstm+attention"),
        ("Pendulum-v1", "separate critic"),
        ("tmaze", "two layers"),
        *(pytest.param("tmaze", kind, marks=pytest.mark.slow) for kind in ("gru", "mingru", "matrix", "gtrxl")),
    ],
)
def test_episodes_in_progress_go_on_in_another_precision(task, kind, before, after):
    runner, algorithm = begun(task, before, kind)
    with closing(runner.env):
        algorithm.update(runner.collect(), 0)
        state = copy.deepcopy({"runner": runner.state_dict(), "algorithm": algorithm.state_dict()})
    assert state["runner"]["episodes"]["age"].tolist() == [3, 3, 3]
    runner, algorithm = begun(task, after, kind)
    with closing(runner.env):
        algorithm.load_state_dict(state["algorithm"])
        assert not runner.load_state_dict(state["runner"]).any()
        rollout = runner.collect()
        assert rollout.age[0].tolist() == [3, 3, 3]
        dtype = next(algorithm.network.parameters()).dtype
        assert {leaf.dtype for leaf in rollout.state.values()} <= {dtype, torch.bool}
        assert algorithm.update(rollout, 0)["train/skipped"] == 0
