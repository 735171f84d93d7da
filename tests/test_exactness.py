"""Random worlds compared with the reference, and for each property a mutation that it must catch."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import seqrl.algorithms.sequences
from seqrl.algorithms.returns import gae
from seqrl.algorithms.sequences import split
from seqrl.networks import LSTM, Attention
from seqrl.runner import Episodes, Runner
from tests import reference
from tests.parts import NETWORKS, ppo, small_network
from tests.worlds import Script

GAMMA, LAMBDA = 0.9, 0.8


@dataclass(frozen=True)
class World:
    """Environments, how to play them, and how to cut the rollout."""

    lengths: list[list[int]]
    ends: str = "mixed"
    ghosts: bool = False
    continuous: bool = False
    rollout_length: int = 0
    bptt_length: int = 0
    kind: str = "lstm+attention"


WORLDS = st.builds(
    World,
    lengths=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4),
    ends=st.sampled_from(["terminated", "truncated", "both", "mixed"]),
    ghosts=st.booleans(),
    continuous=st.booleans(),
    rollout_length=st.integers(0, 12),
    bptt_length=st.integers(0, 7),
    kind=st.sampled_from([*NETWORKS]),
)
# A world in which every mutation below shows: carried memory, both kinds of end, one-step episodes, cuts.
ROUGH = World([[3, 5, 1], [20], [2, 9], [1]], rollout_length=11, bptt_length=4)
random_worlds = settings(max_examples=100, deadline=None, derandomize=True)


def played(world):
    """Network and its second rollout."""
    env = Script(world.lengths, world.ends, world.ghosts, world.continuous)
    network = small_network(env, world.kind, torch.float64)
    runner = Runner(env, network, world.rollout_length, world.bptt_length, torch.Generator().manual_seed(0))
    runner.collect()
    return network, runner.collect()


def places(rollout, bptt_length):
    """The sequences, each a list of (t, b)."""
    place = torch.arange(rollout.valid.numel(), dtype=torch.float64).view(rollout.valid.shape)
    sequences = split(rollout, place, rollout.value, bptt_length)
    steps = [divmod(int(index), rollout.valid.shape[1]) for index in sequences.advantage.tolist()]
    return [steps[begin : begin + n] for begin, n in zip(sequences.begin, sequences.length, strict=True)]


def one_batch(rollout, bptt_length):
    advantage = gae(rollout, GAMMA, LAMBDA)
    (batch,) = split(rollout, advantage, advantage + rollout.value, bptt_length).batches(max_steps=None)
    return batch


def check_that_sequences_hold_every_step_once_and_cross_nothing(world):
    _, rollout = played(world)
    sequences = places(rollout, world.bptt_length)
    everything = sorted(step for sequence in sequences for step in sequence)
    assert everything == sorted(map(tuple, rollout.valid.nonzero().tolist()))
    for sequence in sequences:
        ages = [int(rollout.age[step]) for step in sequence]
        assert [t for t, _ in sequence] == list(range(sequence[0][0], sequence[0][0] + len(sequence)))
        assert len({b for _, b in sequence}) == 1
        assert not any(rollout.ended[step] for step in sequence[:-1])
        if world.bptt_length:
            assert ages[0] % world.bptt_length == 0 or sequence[0][0] == 0
            assert not any(age % world.bptt_length == 0 for age in ages[1:])
        else:
            assert ages[0] == 0 or sequence[0][0] == 0


def check_that_acting_and_learning_equal_the_reference(world):
    network, rollout = played(world)
    batch = one_batch(rollout, world.bptt_length)
    policy, value = network.unroll(batch)
    log_prob, entropy = policy.log_prob(batch.action), policy.entropy()
    answers = reference.unrolled(network, rollout, world.bptt_length)
    in_order = [answers[step] for sequence in places(rollout, world.bptt_length) for step in sequence]
    expected = [torch.stack(column) for column in zip(*in_order, strict=True)]
    for actual, wanted in zip((log_prob, entropy, value), expected, strict=True):
        assert torch.allclose(actual, wanted, rtol=1e-10, atol=1e-10)
    assert (log_prob - batch.log_prob).abs().max() < 1e-10
    weight = torch.randn(3, len(in_order), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = dict(network.named_parameters())

    def gradients(columns):
        loss = sum((w * column).sum() for w, column in zip(weight, columns, strict=True))
        return torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)

    fast, slow = gradients((log_prob, entropy, value)), gradients(expected)
    for name, a, b in zip(parameters, fast, slow, strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm() + 1e-12, name


def check_that_advantages_are_the_sum_in_the_paper(world):
    _, rollout = played(world)
    actual = gae(rollout, GAMMA, LAMBDA)
    for step, advantage in reference.advantages(rollout, GAMMA, LAMBDA).items():
        assert actual[step].item() == pytest.approx(advantage, rel=1e-9, abs=1e-9)
    assert (actual[~rollout.valid] == 0).all()


def check_that_next_values_match_how_steps_ended(world):
    """0 after termination; V(final observation) at a time limit, with the ended episode's memory."""
    network, rollout = played(world)
    trunk = network.critic or network.actor
    name = "actor" if network.critic is None else "critic"
    for b in range(rollout.valid.shape[1]):
        memory = None
        for t in range(len(rollout.valid)):
            if not rollout.valid[t, b]:
                continue
            if rollout.age[t, b] == 0:
                memory = reference.Memory(trunk, {})
            elif t == 0:
                row = int(rollout.state_index[t, b])
                stored = {k.removeprefix(f"{name}."): v[row] for k, v in rollout.state.items() if k.startswith(name)}
                memory = reference.Memory(trunk, stored)
            memory.see(rollout.observation[t, b].double())
            if rollout.terminated[t, b]:
                assert rollout.next_value[t, b] == 0
            elif rollout.truncated[t, b]:
                final = rollout.observation[t, b].double().clone()
                final[2] += 1  # the clock of these worlds
                features = memory.see(final)
                hidden = network.value.hidden(features)
                value = network.value.layer(hidden)[0] * network.value.std + network.value.mean
                assert rollout.next_value[t, b].item() == pytest.approx(value.item(), abs=1e-10)
            elif t + 1 < len(rollout.valid):
                assert rollout.next_value[t, b] == rollout.value[t + 1, b]


def check_that_the_loss_is_a_mean_over_real_steps(world):
    network, rollout = played(world)
    algorithm = ppo(network, bptt_length=world.bptt_length, entropy_coefficient=0.3)
    batch = one_batch(rollout, world.bptt_length)
    batch = dataclasses.replace(batch, log_prob=batch.log_prob + 0.3 * torch.sin(torch.arange(len(batch.log_prob))))
    loss, _ = algorithm.loss(batch, 0.0)
    answers = reference.unrolled(network, rollout, world.bptt_length)
    in_order = [answers[step] for sequence in places(rollout, world.bptt_length) for step in sequence]
    expected = reference.ppo_loss(in_order, batch, 0.2, 0.5, 0.3, network.value.std)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)


CHECKS = {
    "sequences": check_that_sequences_hold_every_step_once_and_cross_nothing,
    "reference": check_that_acting_and_learning_equal_the_reference,
    "advantages": check_that_advantages_are_the_sum_in_the_paper,
    "next values": check_that_next_values_match_how_steps_ended,
    "loss": check_that_the_loss_is_a_mean_over_real_steps,
}


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", CHECKS)
def test_a_property_holds_in_random_worlds(name):
    @given(WORLDS)
    @random_worlds
    def holds(world):
        CHECKS[name](world)

    holds()


def missed_reset(patch):
    """An episode begins with the memory of the one before."""
    patch.setattr(Episodes, "forget", lambda self, where: setattr(self, "age", self.age.masked_fill(where, 0)))


def forgotten_separator(patch):
    """Learning does not reset memory between the sequences of a row."""
    plain = LSTM.unroll
    patch.setattr(LSTM, "unroll", lambda self, x, state, mask: plain(self, x, state, torch.ones_like(mask)))


def late_cut(patch):
    """Sequences are cut one step late."""

    def starts(age, bptt_length):
        start = (age % bptt_length == 1) if bptt_length else age == 0
        start[0] = True
        return start | (age == 0)

    patch.setattr(seqrl.algorithms.sequences, "starts", starts)


def wrong_rollout(patch, change):
    plain = Runner.collect
    patch.setattr(Runner, "collect", lambda self: change(plain(self)))


def post_step_state(patch):
    """The stored memory is the one after the step."""

    def collect(self):
        rollout = plain(self)
        # Advance by one step with the network that played.
        first = rollout.state_index[0] >= 0
        rows = rollout.state_index[0][first]
        before = {name: leaf[rows] for name, leaf in rollout.state.items()}
        _, _, after = self.network.step(rollout.observation[0, first], before)
        for name, leaf in rollout.state.items():
            leaf[rows] = after[name].detach()
        return rollout

    plain = Runner.collect
    patch.setattr(Runner, "collect", collect)


def ends_shifted_by_one(patch):
    """`done` belongs to the step before."""

    def change(rollout):
        return dataclasses.replace(
            rollout, terminated=rollout.terminated.roll(1, 0), truncated=rollout.truncated.roll(1, 0)
        )

    wrong_rollout(patch, change)


def value_of_the_reset_observation(patch):
    """A time limit bootstraps from the first observation of the next episode."""

    def change(rollout):
        following = torch.cat([rollout.value[1:], rollout.value[-1:]])
        return dataclasses.replace(rollout, next_value=following.masked_fill(rollout.terminated, 0))

    wrong_rollout(patch, change)


def time_limit_as_termination(patch):
    """A time limit does not bootstrap."""
    wrong_rollout(
        patch, lambda r: dataclasses.replace(r, next_value=r.next_value.masked_fill(r.truncated | r.terminated, 0))
    )


def chain_not_cut(patch):
    """λ reaches across an episode's end."""

    plain = gae

    def reaching(rollout, gamma, lambda_):
        never = torch.zeros_like(rollout.truncated)
        return plain(dataclasses.replace(rollout, terminated=never, truncated=never), gamma, lambda_)

    patch.setattr("tests.test_exactness.gae", reaching)


def padding_in_a_mean(patch):
    """The loss is divided by all cells of the grid."""
    from seqrl.algorithms.ppo import SequencePPOAlgorithm

    plain = SequencePPOAlgorithm.loss

    def loss(self, batch, progress):
        mean, terms = plain(self, batch, progress)
        return mean * batch.mask.sum() / batch.mask.numel(), terms

    patch.setattr(SequencePPOAlgorithm, "loss", loss)


def lost_step(patch):
    """The last step of each environment is in no sequence."""
    plain = seqrl.algorithms.sequences.split

    def losing(rollout, *others):
        valid = rollout.valid.clone()
        valid[-1] = False
        return plain(dataclasses.replace(rollout, valid=valid), *others)

    patch.setattr("tests.test_exactness.split", losing)


def window_one_too_short(patch):
    """Learning attends one step less far back than acting."""
    plain = Attention.unroll

    def unroll(self, x, state, mask):
        self.window, window = self.window - 1, self.window
        try:
            return plain(self, x, {name: leaf[:, 1:] for name, leaf in state.items()}, mask)
        finally:
            self.window = window

    patch.setattr(Attention, "unroll", unroll)


@pytest.mark.parametrize(
    ("mutation", "name", "changes"),
    [
        (missed_reset, "reference", {}),
        (forgotten_separator, "reference", {}),
        (late_cut, "sequences", {}),
        (late_cut, "reference", {"bptt_length": 4}),
        (lost_step, "sequences", {}),
        (post_step_state, "reference", {}),
        (ends_shifted_by_one, "sequences", {}),
        (ends_shifted_by_one, "next values", {}),
        (value_of_the_reset_observation, "next values", {"ends": "truncated"}),
        (time_limit_as_termination, "next values", {"ends": "truncated"}),
        (chain_not_cut, "advantages", {}),
        (padding_in_a_mean, "loss", {}),
        (window_one_too_short, "reference", {}),
    ],
)
def test_a_mutation_is_caught(mutation, name, changes):
    world = dataclasses.replace(ROUGH, **changes)
    CHECKS[name](world)
    with pytest.MonkeyPatch.context() as patch:
        mutation(patch)
        with pytest.raises(AssertionError):
            CHECKS[name](world)
