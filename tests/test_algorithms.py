import copy
import dataclasses
import time

import numpy as np
import pytest
import torch

from seqrl.algorithms.gradients import GradientThreads
from seqrl.algorithms.returns import gae
from seqrl.algorithms.sequences import split
from seqrl.errors import NotFiniteError
from seqrl.run import evaluator as evaluation
from seqrl.runner import Runner
from tests import reference
from tests.parts import NETWORKS, ppo, reinforce, small_network
from tests.worlds import Script

WORLDS = {
    "uneven episodes": lambda: Script([[3, 5, 1], [20], [2, 9], [1]]),
    "ghost steps": lambda: Script([[3, 5, 1], [20], [2, 9], [1]], ghosts=True),
    "continuous": lambda: Script([[4, 7], [13]], continuous=True),
}


def collected(world, kind, rollout_length, bptt_length, dtype=torch.float64):
    """Network and its second rollout, into which memory carries over if rollouts have a length."""
    env = WORLDS[world]()
    network = small_network(env, kind, dtype)
    runner = Runner(env, network, rollout_length, bptt_length, torch.Generator().manual_seed(0))
    runner.collect()
    return network, runner.collect()


def all_sequences(rollout, bptt_length):
    (batch,) = sequences_of(rollout, bptt_length).batches(max_steps=None)
    return batch


def sequences_of(rollout, bptt_length):
    advantage = gae(rollout, 0.9, 0.9)
    return split(rollout, advantage, advantage + rollout.value, bptt_length)


def by_reference(rollout, network, bptt_length):
    """log π(action) and value of every played step, in the order of `split`."""
    log_probs, _, values = zip(*reference.unrolled(network, rollout, bptt_length).values(), strict=True)
    return torch.stack(log_probs), torch.stack(values)


@pytest.mark.thin(13)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("bptt_length", [0, 1, 4, 7])
@pytest.mark.parametrize("rollout_length", [0, 11])
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("world", WORLDS)
def test_ratio_is_one_before_the_first_update(world, kind, rollout_length, bptt_length, dtype, tolerance):
    network, rollout = collected(world, kind, rollout_length, bptt_length, dtype)
    batch = all_sequences(rollout, bptt_length)
    policy, value = network.unroll(batch)
    assert (policy.log_prob(batch.action) - batch.log_prob).abs().max() < tolerance
    baseline = batch.target - batch.advantage
    assert (value - baseline).abs().max() < 10 * tolerance * baseline.abs().max()


@pytest.mark.thin(11)
@pytest.mark.parametrize("bptt_length", [0, 1, 4])
@pytest.mark.parametrize("rollout_length", [0, 11])
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("world", WORLDS)
def test_gradients_equal_a_plain_reference(world, kind, rollout_length, bptt_length):
    network, rollout = collected(world, kind, rollout_length, bptt_length)
    weight = torch.randn(2, int(rollout.valid.sum()), dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def gradients(log_prob, value):
        loss = (weight[0] * log_prob + weight[1] * value).sum()
        return torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)

    batch = all_sequences(rollout, bptt_length)
    policy, value = network.unroll(batch)
    fast = gradients(policy.log_prob(batch.action), value)
    slow = gradients(*by_reference(rollout, network, bptt_length))
    for (name, _), a, b in zip(network.named_parameters(), fast, slow, strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm() + 1e-13, name


def test_a_missed_reset_would_be_noticed():
    # The mutation that the test above must catch: an episode's memory leaks into the next.
    network, rollout = collected("uneven episodes", "lstm", 11, 0)
    honest = all_sequences(rollout, 0)
    ages = rollout.age.clone()
    ages[1:][rollout.age[1:] == 0] = 99
    careless = all_sequences(dataclasses.replace(rollout, age=ages), 0)
    log_probs = [network.unroll(batch)[0].log_prob(batch.action) for batch in (honest, careless)]
    assert (log_probs[0] - log_probs[1]).abs().max() > 1e-3


@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", NETWORKS)
def test_full_equals_truncated_at_the_episode_length_but_not_one_step_below(kind):
    gradients = []
    for bptt_length in (0, 20, 19):
        network, rollout = collected("uneven episodes", kind, 0, bptt_length)
        loss, _ = ppo(network, bptt_length=bptt_length).loss(all_sequences(rollout, bptt_length), 0.0)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, network.parameters())]))
    full, whole, cut = gradients
    assert torch.equal(full, whole)
    # Without memory a cut changes nothing but the order of sums.
    difference = (full - cut).norm() / full.norm()
    assert (difference > 1e-6) if kind != "memoryless" else (difference < 1e-12)


@pytest.mark.parametrize("kind", ["lstm", "lstm+attention", "separate critic"])
def test_a_cut_stops_the_gradient(kind):
    network, rollout = collected("continuous", kind, 0, 4)
    batch = all_sequences(rollout, 4)
    observation = batch.observation.double().requires_grad_()
    policy, value = network.unroll(dataclasses.replace(batch, observation=observation))
    env, clock = batch.observation[:, 0], batch.observation[:, 2]
    last = (env == 1) & (clock == 9)
    (gradient,) = torch.autograd.grad((value + policy.log_prob(batch.action))[last].sum(), observation)
    reached = sorted(clock[(gradient != 0).any(1)].tolist())
    assert reached == [8, 9]


def test_nan_where_nothing_was_played_changes_neither_loss_nor_gradient():
    gradients = []
    for poison in (False, True):
        network, rollout = collected("ghost steps", "lstm+attention", 11, 4)
        assert not rollout.valid.all()
        if poison:
            for name in ("observation", "log_prob", "value", "next_value", "reward"):
                getattr(rollout, name)[~rollout.valid] = torch.nan
        loss, _ = ppo(network, bptt_length=4).loss(all_sequences(rollout, 4), 0.0)
        gradients.append([loss, *torch.autograd.grad(loss, network.parameters())])
    assert all(torch.equal(clean, poisoned) for clean, poisoned in zip(*gradients, strict=True))


@pytest.mark.thin(3)
@pytest.mark.parametrize("max_tokens", [1, 7, 25, 1000])
@pytest.mark.parametrize("bptt_length", [0, 4])
def test_accumulated_gradients_equal_those_of_the_minibatch_at_once(bptt_length, max_tokens):
    gradients, terms = [], []
    for limit in (None, max_tokens):
        network, rollout = collected("uneven episodes", "lstm+attention", 11, bptt_length)
        algorithm = ppo(network, bptt_length=bptt_length, max_tokens_per_batch=limit, grad_clip_norm=None)
        sequences = sequences_of(rollout, bptt_length)
        minibatch = next(sequences.minibatches(2, np.random.default_rng(0)))
        terms.append(algorithm.learn_from(minibatch, algorithm.chunk_steps(4), 0.0))
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() < 1e-12
    assert all(torch.allclose(terms[0][name], terms[1][name]) for name in terms[0])


@pytest.mark.parametrize("max_tokens", [1, 7, 25])
def test_no_chunk_exceeds_the_step_limit_unless_one_sequence_does(max_tokens):
    _, rollout = collected("uneven episodes", "lstm", 0, 4)
    sequences = sequences_of(rollout, 4)
    batches = list(sequences.batches(max_tokens))
    assert all(len(b.action) <= max(max_tokens, 4) for b in batches)
    assert torch.equal(torch.cat([b.observation for b in batches]), sequences.observation)


def test_the_standard_algorithm_sees_single_steps():
    network, rollout = collected("uneven episodes", "lstm", 11, 1)
    algorithm = ppo(network, standard=True, bptt_length=50)
    assert algorithm.settings.bptt_length == 1
    assert algorithm.update(rollout, 0.0)["memory/sequence_length"] == 1


RATE = r"algorithm\.learning_rate \(got 0\.001\)"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, RATE),
        ({"learning_rate": 1e30}, r"algorithm\.learning_rate \(got 1e\+30\)"),
        ({"grad_clip_norm": 5.0}, rf"sequence_learning\.grad_clip_norm \(got 5\.0\) or {RATE}"),
        ({"grad_clip_norm": None}, rf"sequence_learning\.grad_clip_norm \(got null\) or {RATE}"),
        ({"entropy_coefficient": 1e30}, rf"algorithm\.entropy_coefficient \(got 1e\+30\) or {RATE}"),
    ],
)
def test_a_gradient_that_is_not_finite_changes_nothing_and_the_third_ends_the_run(settings, said):
    network, rollout = collected("uneven episodes", "lstm", 0, 0)
    rollout.reward[0, 0] = torch.nan
    algorithm = ppo(network, minibatches=1, epochs=3, **settings)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(NotFiniteError, match=rf"all skipped\. Reduce {said}\.$"):
        algorithm.update(rollout, 0.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_rewards_in_too_large_a_unit_are_named_as_what_they_are():
    network, rollout = collected("uneven episodes", "lstm", 0, 0, torch.float32)
    rollout.reward[0, 0] = 1e30
    with pytest.raises(NotFiniteError, match=r"Rewards reach 1e\+30: use algorithm\.normalize_reward=true, or"):
        ppo(network, minibatches=1, epochs=3).update(rollout, 0.0)


def test_the_gradient_is_clipped_to_its_norm_and_the_norm_before_is_logged():
    network, rollout = collected("uneven episodes", "lstm", 0, 0)
    row = ppo(network, grad_clip_norm=1e-3, minibatches=1, epochs=1).update(rollout, 0.0)
    assert row["train/gradient_norm"] > 1e-3
    assert row["train/gradient_clipped"] == 1
    norm = torch.stack([p.grad.norm() for p in network.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    unclipped = ppo(network, grad_clip_norm=None).update(rollout, 0.0)
    assert unclipped["train/gradient_clipped"] == 0


def test_annealed_coefficients_fall_linearly():
    network, rollout = collected("uneven episodes", "lstm", 0, 0)
    algorithm = ppo(network, anneal=["learning_rate"], learning_rate=0.4)
    assert algorithm.update(rollout, 0.75)["train/learning_rate"] == pytest.approx(0.1)
    assert algorithm.optimizer.learning_rate == pytest.approx(0.1)
    assert algorithm.optimizer.epsilon == 1e-5
    assert algorithm.annealed("clip_range", 0.75) == 0.2


@pytest.mark.parametrize(
    ("minibatches", "steps", "expected"), [(None, 40, 1), (None, 149, 1), (None, 151, 2), (None, 1000, 10), (4, 40, 4)]
)
def test_gradient_steps_are_as_many_as_fit_a_rollout_unless_their_number_is_given(minibatches, steps, expected):
    network, _ = collected("uneven episodes", "lstm", 0, 0)
    assert ppo(network, minibatches=minibatches, minibatch_steps=100).minibatches(steps) == expected


@pytest.mark.parametrize("progress", [0.0, 0.5])
@pytest.mark.parametrize("world", ["uneven episodes", "continuous"])
@pytest.mark.parametrize("exploration", ["barrier", "entropy"])
def test_ppos_loss_equals_the_papers_written_out(world, progress, exploration):
    network, rollout = collected(world, "lstm+attention", 0, 0)
    coefficients = {"entropy_coefficient": 0.3, "value_coefficient": 0.7}
    algorithm = ppo(network, anneal=["clip_range", "entropy_coefficient"], exploration=exploration, **coefficients)
    batch = all_sequences(rollout, 0)
    network.value.adapt(10 * batch.target, 0.99)
    # Ratios on both sides of the clip range.
    shift = torch.linspace(-0.4, 0.4, len(batch.log_prob), dtype=torch.float64)
    batch = dataclasses.replace(batch, log_prob=batch.log_prob + shift)
    log_prob, value = by_reference(rollout, network, 0)
    ratio, epsilon = (log_prob - batch.log_prob).exp(), 0.2 * (1 - progress)
    surrogate = [
        min(r * a, min(max(r, 1 - epsilon), 1 + epsilon) * a)
        for r, a in zip(ratio.tolist(), batch.advantage.tolist(), strict=True)
    ]
    policy = network.unroll(batch)[0]
    entropy = policy.entropy().mean().item()
    bonus = getattr(policy, exploration)().mean().item()
    value_loss = 0.5 * (((value - batch.target) / network.value.std) ** 2).mean().item()
    expected = -np.mean(surrogate) + 0.7 * value_loss - 0.3 * (1 - progress) * bonus
    loss, terms = algorithm.loss(batch, progress)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert terms["train/entropy"].item() == pytest.approx(entropy)
    assert terms["train/value_loss"].item() == pytest.approx(value_loss)
    clipped = np.mean([abs(r - 1) > epsilon for r in ratio.tolist()])
    assert terms["train/clip_fraction"].item() == pytest.approx(clipped)
    assert 0 < clipped < 1


def test_target_kl_stops_the_epochs_early():
    network, rollout = collected("uneven episodes", "lstm", 0, 0)
    row = ppo(network, target_kl=1e-9, epochs=50, learning_rate=0.1).update(rollout, 0.0)
    assert row["train/epochs"] < 50


@pytest.mark.parametrize(("spread", "explained"), [(0.0, 0.0), (1.0, -3.0)])
def test_no_variance_is_explained_where_returns_differ_by_rounding_errors_alone(spread, explained):
    network, rollout = collected("uneven episodes", "lstm", 0, 0, torch.float32)
    value = torch.randn(rollout.value.shape, generator=torch.Generator().manual_seed(0))
    # As a sum of differences of values, of which a return should have nothing left.
    target = (0.1 + spread * value - 3 * value) + 3 * value
    sequences = split(rollout, target, target, 0)
    assert sequences.target.std() > 0
    row = ppo(network)._summary(dataclasses.replace(rollout, value=3 * value), sequences, target)
    assert row["train/explained_variance"] == pytest.approx(explained, abs=1e-4)


def test_value_predictions_stay_when_the_scale_of_returns_moves():
    network, rollout = collected("uneven episodes", "lstm", 0, 0)
    batch = all_sequences(rollout, 0)
    network.value.adapt(batch.target, 0.99)
    before = network.unroll(batch)[1]
    network.value.adapt(1000 + 50 * torch.randn(100, dtype=torch.float64), 0.99)
    assert torch.allclose(network.unroll(batch)[1], before, atol=1e-8)
    assert network.value.mean.item() > 400


def test_the_same_seed_gives_the_same_bits():
    def parameters(seed):
        network, rollout = collected("uneven episodes", "lstm+attention", 11, 4, torch.float32)
        algorithm = ppo(network, bptt_length=4, seed=seed)
        for _ in range(3):
            algorithm.update(rollout, 0.0)
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    assert torch.equal(parameters(0), parameters(0))
    assert not torch.equal(parameters(0), parameters(1))


@pytest.mark.parametrize("baseline", ["value", "batch_mean", "none"])
def test_reinforce_weights_by_the_return_minus_its_baseline(baseline):
    network, rollout = collected("uneven episodes", "lstm", 0, 0)
    algorithm = reinforce(network, baseline=baseline, gamma=1.0)
    advantage = gae(rollout, 1.0, 1.0)
    weight = algorithm.advantage(rollout, advantage)
    env, first = 1, 0  # 20 steps with rewards 1, 2, ..., 20; episode 1 of this world is truncated
    returns = sum(range(1, 21)) + rollout.next_value[19, env]
    every_return = (advantage + rollout.value)[rollout.valid]
    expected = {"value": rollout.value[first, env], "batch_mean": every_return.mean(), "none": 0}[baseline]
    assert weight[first, env].item() == pytest.approx((returns - expected).item(), abs=1e-9)


def test_reinforce_follows_the_gradient_of_the_log_likelihood():
    network, rollout = collected("uneven episodes", "lstm+attention", 0, 0)
    algorithm = reinforce(
        network, baseline="none", value_coefficient=0, entropy_coefficient=0, normalize_advantage="none"
    )
    batch = all_sequences(rollout, 0)
    loss, _ = algorithm.loss(batch, 0.0)
    log_prob, _ = by_reference(rollout, network, 0)
    expected = -(batch.advantage * log_prob).mean()
    parameters = [p for name, p in network.named_parameters() if not name.startswith("value")]
    for a, b in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm() + 1e-13


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ("batch", [x / (14 / 3) ** 0.5 for x in (-2, -1, 3)]),
        ("returns", [-0.2, -0.1, 0.3]),
        ("none", [1.0, 2.0, 6.0]),
    ],
)
def test_advantages_have_the_chosen_units(units, expected):
    network, _ = collected("uneven episodes", "lstm", 0, 0)
    network.value.adapt(torch.tensor([90.0, 110.0], dtype=torch.float64), 0.99)
    unit = ppo(network, normalize_advantage=units).unit_scale(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    assert unit.tolist() == pytest.approx(expected, rel=1e-6)


def test_small_advantages_stay_small_in_units_of_the_returns():
    network, _ = collected("uneven episodes", "lstm", 0, 0)
    network.value.adapt(torch.tensor([-1.0, 1.0], dtype=torch.float64), 0.99)
    noise = 1e-3 * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    assert ppo(network, normalize_advantage="batch").unit_scale(noise).abs().max() > 0.9
    assert ppo(network, normalize_advantage="returns").unit_scale(noise).abs().max() < 0.01


@pytest.mark.parametrize(("baseline", "centred"), [("value", True), ("batch_mean", True), ("none", False)])
def test_reinforce_centres_advantages_only_with_a_baseline(baseline, centred):
    network, _ = collected("uneven episodes", "lstm", 0, 0)
    unit = reinforce(network, baseline=baseline).unit_scale(torch.tensor([1.0, 2.0, 6.0]))
    assert (abs(unit.mean().item()) < 1e-6) is centred
    assert unit.square().mean().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.thin(3)
@pytest.mark.parametrize("max_tokens", [None, 16])
@pytest.mark.parametrize("parts", [2, 3, 5, 100])
def test_the_sum_of_parts_is_the_gradient_whoever_computes_them(parts, max_tokens):
    """To the last bit for any number of threads, even if some have nothing to do."""
    gradients, logs = [], []
    for parts_now, threads in ((1, 1), (parts, 1), (parts, 3)):
        network, rollout = collected("uneven episodes", "lstm+attention", 11, 4)
        changes = {"max_tokens_per_batch": max_tokens, "epochs": 1, "minibatches": 1, "bptt_length": 4}
        algorithm = ppo(network, gradient_parts=parts_now, gradient_threads=threads, **changes)
        logs.append(algorithm.update(rollout, 0.0))
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).norm() <= 1e-12 * gradient.norm(), name
        assert torch.equal(gradients[1][name], gradients[2][name]), name
    assert logs[1] == logs[2]
    assert logs[1] == pytest.approx(logs[0], rel=1e-9)


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_that_share_the_parts_of_a_gradient_do_not_decide_how_many_there_are(threads):
    network, _ = collected("uneven episodes", "lstm", 11, 4)
    assert ppo(network, gradient_parts=None, gradient_threads=threads).parts == 2


@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", NETWORKS)
def test_parts_of_a_gradient_take_the_steps_of_one(kind):
    """Including gradients that are slices of larger tensors, like those of an LSTM with separators."""
    moved = []
    for parts in (1, 2):
        network, rollout = collected("uneven episodes", kind, 11, 0)
        before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        ppo(network, gradient_parts=parts, bptt_length=0, minibatches=1).update(rollout, 0.0)
        moved.append({name: parameter.detach() - before[name] for name, parameter in network.named_parameters()})
    for name, step in moved[0].items():
        assert (step - moved[1][name]).norm() <= 1e-6 * step.norm(), name


def test_an_exception_in_a_gradient_thread_is_raised(monkeypatch):
    network, rollout = collected("uneven episodes", "lstm", 11, 4)
    algorithm = ppo(network, gradient_threads=2)

    def fail(batch, progress):
        raise MemoryError("no room")

    monkeypatch.setattr(algorithm, "loss", fail)
    with pytest.raises(MemoryError, match="no room"):
        algorithm.update(rollout, 0.0)


def test_when_a_gradient_thread_fails_the_others_finish_first():
    """Then their memory is free again when the remedy for running out of memory is measured."""
    done = []

    def fail_on_the_first(part):
        if part == 0:
            raise MemoryError("no room")
        time.sleep(0.1)
        done.append(part)

    with pytest.raises(MemoryError):
        GradientThreads(3).map(fail_on_the_first, [0, 1, 2])
    assert sorted(done) == [1, 2]


@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", NETWORKS)
def test_bfloat16_autocast_gives_nearly_the_same_gradient_and_keeps_everything_else_in_float32(kind):
    gradients = []
    for autocast_dtype in (None, torch.bfloat16):
        network, rollout = collected("uneven episodes", kind, 11, 4, torch.float32)
        network.autocast_dtype = autocast_dtype
        memory = dict(network.initial_state(4).items())
        policy, value, after = network.step(rollout.observation[0], memory)
        assert {name: leaf.dtype for name, leaf in after.items()} == {name: leaf.dtype for name, leaf in memory.items()}
        assert {policy.entropy().dtype, value.dtype} == {torch.float32}
        algorithm = ppo(network, epochs=1, minibatches=1, bptt_length=4, grad_clip_norm=None)
        algorithm.update(rollout, 0.0)
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    exact, coarse = gradients
    assert coarse.dtype == torch.float32
    # bfloat16 has 8 significant bits: an error of 0.4 % per number.
    assert 1e-6 < (coarse - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("kind", ["lstm", "separate critic"])
def test_acting_and_learning_normalise_observations_by_the_same_earlier_rollouts(kind):
    env = WORLDS["uneven episodes"]()
    network = small_network(env, kind, torch.float64, normalize_observations=True)
    runner = Runner(env, network, 11, 4, torch.Generator().manual_seed(0))
    algorithm = ppo(network, bptt_length=4)
    trunks = [trunk for trunk in (network.actor, network.critic) if trunk is not None]
    seen = []
    for _ in range(3):
        rollout = runner.collect()
        batch = all_sequences(rollout, 4)
        assert (network.unroll(batch)[0].log_prob(batch.action) - batch.log_prob).abs().max() < 1e-10
        seen.append(batch.observation.double())
        algorithm.update(rollout, 0.0)
        for trunk in trunks:
            statistics = trunk.encoder.readers[0].normalizer
            assert torch.allclose(statistics.mean, torch.cat(seen).mean(0))
            assert torch.allclose(statistics.variance, torch.cat(seen).var(0, correction=0))
    before = copy.deepcopy(network.state_dict())
    evaluation.play(env, network, 8, None, 100)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
