"""A run over several processes is the run of one."""

import itertools
import threading

import numpy as np
import pytest
import torch

from seqrl.algorithms.gradients import branches, tree_sum
from seqrl.errors import ConfigError
from seqrl.ranks import ALONE, Ranks
from seqrl.run.build import build, make_device, make_evaluator
from tests.ranks import together
from tests.test_configuration import composed

# Five environments, so that neither two nor three ranks play as many each.
SMALL = [
    "parallel=5", "network.hidden_size=8", "network.lstm_hidden_size=8", "network.window=4", "network.heads=2",
    "algorithm.epochs=2", "algorithm.minibatches=2", "algorithm.gradient_threads=1", "algorithm.learning_rate=1e-2",
    "device.precision=float64", "total_steps=100000", "insight.interval=0",
]  # fmt: skip
BUILT_IN = ["env=tmaze", "env.corridor_length=4"]
GYM = ["env=gymnasium", "env.id=CartPole-v1", "env.hidden=[1,3]", "env.backend=sync"]
WHOLE, FIXED = ["rollout_length=0", "rollout_steps=60"], ["rollout_length=13"]


BUILDING = threading.Lock()


def built(cfg, device, ranks):
    # Threads have one generator of torch, which decides what a network begins with.
    with BUILDING:
        return build(cfg, device, ranks=ranks)


def learned(overrides, size, updates):
    """Of each rank: its run after so many updates, and the scalars of each update."""
    cfg = composed(*SMALL, *overrides)

    def learn(ranks):
        device = make_device(cfg)
        run = built(cfg, device, ranks)
        rows = [run.iterate() for _ in range(updates)]
        run.runner.env.close()
        return run, [{key: it for key, it in row.items() if "time/" not in key and "peak" not in key} for row in rows]

    return [learn(ALONE)] if size == 1 else together(size, learn)


def parameters(run):
    return {name: it.detach() for name, it in run.algorithm.network.state_dict().items()}


def check_that_ranks_are_one_process(overrides, updates, sizes=(2, 3), tolerance=1e-10, but=()):
    ((alone, expected),) = learned(overrides, 1, updates)
    for size in sizes:
        ranks = learned(overrides, size, updates)
        for run, rows in ranks:
            assert run.budget == alone.budget
            for now, before in zip(rows, expected, strict=True):
                compared = {key: it for key, it in before.items() if key not in but}
                now = {key: it for key, it in now.items() if key not in but}
                assert now == pytest.approx(compared, rel=1e-6, abs=tolerance, nan_ok=True)
            for name, it in parameters(alone).items():
                assert torch.allclose(parameters(run)[name], it, rtol=tolerance, atol=tolerance), (size, name)
        for run, _ in ranks[1:]:
            # Ranks that differ in a bit go apart.
            assert all(torch.equal(parameters(run)[name], it) for name, it in parameters(ranks[0][0]).items())


EVERY = [
    [f"algorithm={algorithm}", f"network={network}", f"sequence_learning.bptt_length={length}", *rollout, *env]
    for algorithm, network, length, rollout, env in itertools.product(
        ("ppo", "reinforce"), ("lstm", "attention", "mingru"), (0, 8), (WHOLE, FIXED), (BUILT_IN, GYM)
    )
]


def named(overrides):
    return " ".join(overrides)


# Of the combinations, those in which every choice occurs with every other.
@pytest.mark.thin(12)
@pytest.mark.parametrize("overrides", EVERY[::5], ids=named)
def test_ranks_are_one_process(overrides):
    check_that_ranks_are_one_process(overrides, updates=3)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", EVERY, ids=named)
def test_ranks_are_one_process_after_twenty_updates(overrides):
    check_that_ranks_are_one_process(overrides, updates=20)
    # Sums of other parts are rounded otherwise from the first update on: one process would differ from itself as much.
    single = ["device.precision=float32", "algorithm.gradient_parts=3", *overrides]
    # A share of a variance that may be as small as you like has no bound to its rounding errors.
    share = ["train/explained_variance"]
    check_that_ranks_are_one_process(single, updates=20, tolerance=1e-5, but=share)


@pytest.mark.slow
@pytest.mark.thin(15)
@pytest.mark.parametrize(
    "overrides",
    [
        # Some ranks have no part of a minibatch.
        ["algorithm.minibatches=5", *WHOLE, "rollout_steps=1"],
        ["algorithm.gradient_parts=7", *FIXED, "sequence_learning.bptt_length=3"],
        ["algorithm.target_kl=1e-4", *FIXED],
        ["network.normalize_observations=true", "algorithm.normalize_reward=true", *WHOLE],
        ["algorithm.normalize_advantage=returns", *FIXED],
        ["sequence_learning.bptt_length=3", "sequence_learning.stale_state=refresh", *FIXED],
        ["sequence_learning.bptt_length=3", "sequence_learning.stale_state=burn_in", *FIXED],
        ["sequence_learning.bptt_length=3", "sequence_learning.stale_state=zero", *FIXED],
        ["sequence_learning.max_tokens_per_batch=11", *FIXED],
        ["network.inputs=[previous_action,previous_reward,first]", *WHOLE],
        ["network.separate_critic=true", *FIXED],
        ["sequence=off", *FIXED],
        ["network=mlp", *WHOLE],
        ["algorithm=reinforce", "algorithm.baseline=batch_mean", *WHOLE],
    ],
    ids=named,
)
def test_every_setting_is_the_same_over_ranks(overrides):
    check_that_ranks_are_one_process([*BUILT_IN, *overrides], updates=3)


@pytest.mark.slow
def test_evaluations_are_shared_out_and_come_to_the_same():
    cfg = composed(
        *SMALL, *GYM, "evaluation.episodes=13", "evaluation.greedy=both", "evaluation.memoryless_control=true"
    )

    def evaluated(ranks):
        device = make_device(cfg)
        run = built(cfg, device, ranks)
        evaluator = make_evaluator(cfg, device, ranks=ranks)
        try:
            return evaluator.row(run.algorithm.network)
        finally:
            evaluator.close()
            run.runner.env.close()

    expected = evaluated(ALONE)
    for size in (2, 3):
        for row in together(size, evaluated):
            assert row == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("words", [[*BUILT_IN, "evaluation.episodes=2"], [*GYM, "env.backend=vector"]], ids=named)
def test_episodes_that_are_too_few_or_would_be_others_are_evaluated_by_all_ranks(words):
    cfg = composed(*SMALL, "evaluation.episodes=13", *words)

    def evaluated(ranks):
        device = make_device(cfg)
        run = built(cfg, device, ranks)
        return make_evaluator(cfg, device, ranks=ranks).row(run.algorithm.network)

    assert together(3, evaluated) == [evaluated(ALONE)] * 3


@pytest.mark.slow
def test_ranks_share_environments_with_wrappers():
    stack = "{_target_: gymnasium.wrappers.FrameStackObservation, stack_size: 2}"
    check_that_ranks_are_one_process([*GYM, "env.hidden=[]", f"env.wrappers=[{stack}]", *FIXED], updates=1)


@pytest.mark.thin(4)
@pytest.mark.parametrize("rollout", [WHOLE, FIXED], ids=named)
@pytest.mark.parametrize("env", [BUILT_IN, GYM], ids=named)
def test_a_resumed_run_goes_on_to_the_last_bit_with_as_many_ranks(rollout, env):
    cfg = composed(*SMALL, *env, *rollout)

    def learn(ranks):
        run = built(cfg, make_device(cfg), ranks)
        for _ in range(2):
            run.iterate()
        state = run.state_dict()
        return run, state

    def go_on(ranks):
        from seqrl.runner import of_rank

        own = {**states[ranks.rank], "runner": of_rank(states[ranks.rank]["runner"], ranks)}
        run = built(cfg, make_device(cfg), ranks)
        assert run.load_state_dict(own) == 0
        for _ in range(2):
            run.iterate()
        return parameters(run)

    def whole(ranks):
        run, _ = learn(ranks)
        for _ in range(2):
            run.iterate()
        return parameters(run)

    expected = together(2, whole)
    states = [state for _, state in together(2, learn)]
    for found, wanted in zip(together(2, go_on), expected, strict=True):
        assert all(torch.equal(found[name], it) for name, it in wanted.items())


class Of(Ranks):
    def __init__(self, rank, size):
        self.rank, self.size = rank, size


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_a_sum_has_the_same_bits_whoever_adds_up_which_parts(size, count):
    numbers = np.random.default_rng(0).normal(size=count).astype(np.float32)
    single = {(i, i + 1): it for i, it in enumerate(numbers)}
    whole = tree_sum(single, 0, count, np.add)
    shares = [Of(rank, size).share(count) for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(count))
    summed = {}
    for share in shares:
        for first, last in branches(count, share):
            summed[first, last] = tree_sum(single, first, last, np.add)
    assert tree_sum(summed, 0, count, np.add).tobytes() == whole.tobytes()


def test_a_policy_that_draws_for_itself_is_refused(monkeypatch):
    from seqrl.networks.heads import Categorical

    def sample(self, generator):
        return torch.multinomial(self.log_probs.exp(), 1, generator=generator).squeeze(1)

    monkeypatch.setattr(Categorical, "sample", sample)
    with pytest.raises(ConfigError, match=r"processes: .* seqrl\.seeds\.drawn"):
        learned(BUILT_IN, 2, 1)


def test_a_network_whose_forward_changes_a_buffer_is_refused(monkeypatch):
    from seqrl.networks.heads import ValueHead

    value_of = ValueHead.forward

    def forward(self, x):
        if torch.is_grad_enabled():
            self.weight += x.mean().item()
        return value_of(self, x)

    monkeypatch.setattr(ValueHead, "forward", forward)
    with pytest.raises(ConfigError, match=r"processes: .*value\.weight of the network is no longer the same"):
        learned([*BUILT_IN, *FIXED], 2, 1)


@pytest.mark.thin(6)
@pytest.mark.parametrize(("size", "parts"), [(2, 2), (2, 4), (4, 4), (4, 6), (4, 8), (3, 3)])
def test_ranks_learn_the_bits_of_one_from_the_same_rollouts(size, parts):
    """Sums are swapped level by level where each of 2, 4, 8, … ranks has a branch; otherwise they are gathered."""
    cfg = composed(*SMALL, *BUILT_IN, *FIXED, f"algorithm.gradient_parts={parts}", "parallel=8")

    def learn(ranks):
        device = make_device(cfg)
        alone, shared = built(cfg, device, ALONE), built(cfg, device, ranks)
        for _ in range(2):
            rollout = alone.runner.collect()
            alone.algorithm.update(rollout, 0.0)
            shared.algorithm.update(rollout, 0.0)
        return parameters(alone), parameters(shared)

    for alone, shared in together(size, learn):
        assert all(torch.equal(shared[name], it) for name, it in alone.items())
