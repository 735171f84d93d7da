import copy
import gc
import sys

import pytest
import torch

from seqrl.envs import TMaze
from seqrl.errors import CheckpointError, OutOfMemoryError
from seqrl.metrics.episodes import EpisodeStatistics
from seqrl.run.run import Budget, Run
from seqrl.runner import Runner
from tests.parts import ppo, small_network
from tests.worlds import Script


def begun(env, seed=0, kind="lstm+attention", rollout_length=11):
    network = small_network(env, kind, seed=seed)
    algorithm = ppo(network, bptt_length=4, seed=seed, anneal=["learning_rate"])
    runner = Runner(env, network, rollout_length, 4, torch.Generator().manual_seed(seed))
    return Run(runner, algorithm, Budget(30, None), EpisodeStatistics(env.batch_size))


def numbers(row):
    return {name: number for name, number in row.items() if name.startswith(("train/", "rollout/"))}


def test_a_saved_run_continues_bit_for_bit():
    env = Script([[3, 5, 1], [20], [2, 9], [1]])
    whole = begun(env, rollout_length=0)
    for _ in range(3):
        whole.iterate()
    state, world = copy.deepcopy(whole.state_dict()), copy.deepcopy(env)
    resumed = begun(world, seed=7, rollout_length=0)
    resumed.load_state_dict(state)
    for _ in range(3):
        # Annealing, shuffling, sampling and the counts all continue.
        assert numbers(whole.iterate()) == numbers(resumed.iterate())
    assert resumed.iterations == whole.iterations == 6
    assert (resumed.budget.steps, resumed.budget.episodes) == (whole.budget.steps, whole.budget.episodes)
    for name, tensor in whole.algorithm.network.state_dict().items():
        assert torch.equal(tensor, resumed.algorithm.network.state_dict()[name]), name
    assert resumed.clock.elapsed > 0.5 * whole.clock.elapsed


def test_an_algorithm_may_change_its_rollout_and_name_its_terms_as_it_likes(monkeypatch):
    usual, other = (begun(Script([[3], [4]])) for _ in range(2))
    update = other.algorithm.update

    def clipping(rollout, progress):
        rollout.reward.clamp_(-1, 1)
        return update(rollout, progress) | {"rollout/return_mean": 99.0, "train/mine": 1.0}

    monkeypatch.setattr(other.algorithm, "update", clipping)
    expected, row = usual.iterate(), other.iterate()
    names = [name for name in expected if name.startswith("rollout/")]
    assert {name: row[name] for name in names} == {name: expected[name] for name in names}
    assert row["train/mine"] == 1
    assert other.budget == usual.budget


def test_the_state_of_another_network_is_refused_in_one_line():
    env = Script([[3]])
    with pytest.raises(CheckpointError, match=r"^resume: the checkpoint is of another network or algorithm: [^\n]+$"):
        begun(env).load_state_dict(begun(env, kind="memoryless").state_dict())


def test_what_was_changed_of_the_network_is_named_in_place_of_torchs_reason():
    env, changed = Script([[3]]), ["seed: 0 -> 1", "network.type: lstm -> mlp", "network.use_lstm: True -> False"]
    named = (
        r"network or algorithm: network\.type: lstm -> mlp; network\.use_lstm: True -> False. Leave that as it was\.$"
    )
    with pytest.raises(CheckpointError, match=named):
        begun(env).load_state_dict(begun(env, kind="memoryless").state_dict(), changed)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_running_out_of_memory_is_reported_wherever_it_occurs(monkeypatch, error):
    def fail(*_):
        raise error

    run = begun(Script([[3], [4]]))
    monkeypatch.setattr(run.algorithm, "update", fail)
    with pytest.raises(OutOfMemoryError, match=r"^memory: an update of"):
        run.iterate()
    monkeypatch.setattr(run.runner, "collect", fail)
    with pytest.raises(OutOfMemoryError, match=r"^memory: a rollout of 2 environments .* a smaller parallel\.$"):
        run.iterate()


def test_an_update_that_the_system_would_kill_for_its_memory_is_refused_before_it(monkeypatch):
    run = begun(Script([[3], [4]]))
    run._weighed = 0
    random = torch.get_rng_state()
    monkeypatch.setattr("seqrl.run.run.free_swap", lambda: 0)
    monkeypatch.setattr("seqrl.run.run.free_memory", lambda: 100)
    monkeypatch.setattr(run.algorithm, "update", lambda *_: pytest.fail("killed"))
    with pytest.raises(OutOfMemoryError, match=r"^memory: an update of .* Use "):
        run.iterate()
    assert torch.equal(torch.get_rng_state(), random)
    monkeypatch.setattr("seqrl.run.run.free_swap", lambda: 10**9)
    monkeypatch.setattr(run.algorithm, "update", lambda *_: {})
    run._weighed = 0
    run.iterate()


def test_the_budget_is_spent_by_episodes_or_steps_whichever_comes_first():
    budget = Budget(10, 100)
    budget.count(30, 5)
    assert budget.progress == 0.5
    budget.count(60, 0)
    assert (budget.progress, budget.spent) == (0.9, False)
    budget.count(10, 0)
    assert (budget.spent, budget.ended_by) == (True, "total_steps")


@pytest.mark.parametrize(
    ("limits", "progress", "ended_by"),
    [((10, 100), 1.0, "episodes"), ((10, None), 1.0, "episodes"), ((None, 100), 0.5, "total_steps")],
)
def test_a_limit_that_is_not_given_ends_nothing(limits, progress, ended_by):
    budget = Budget(*limits)
    budget.count(50, 10)
    assert (budget.progress, budget.ended_by) == (progress, ended_by)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "lstm+attention"])
def test_tensor_programs_cost_no_python_per_environment(kind):
    def calls(environments):
        """Python function calls in the second iteration: 42 steps, two episodes of each environment."""
        run = begun(TMaze(environments, seed=0, corridor_length=20), kind=kind, rollout_length=42)
        run.iterate()
        seen = 0

        def count(frame, event, argument):
            nonlocal seen
            seen += event == "call"

        # What is collected calls what it likes.
        gc.disable()
        sys.setprofile(count)
        try:
            run.iterate()
        finally:
            sys.setprofile(None)
            gc.enable()
        return seen

    assert calls(72) == calls(8)
