"""What the meters of memory say where the answer is known."""

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from seqrl.config.paths import PACKAGE
from seqrl.envs import BatchedEnv, CartPole, RepeatPrevious, TMaze
from seqrl.insight import (
    GradientCut,
    Meters,
    Need,
    NotApplicableError,
    Probe,
    Staleness,
    gradient,
    gradient_cut,
    meters,
    need,
    recomputed,
    staleness,
)
from seqrl.insight.advice import FEW, Settings, advice
from seqrl.insight.meters import NEED_STEPS
from seqrl.insight.need import EXTREME, FOLDS, LAGS, MATTERS, TRACES
from seqrl.networks import Block, recurrent_network
from seqrl.networks.heads import Categorical
from seqrl.run.build import build, constructor
from seqrl.runner import Runner
from seqrl.types import Rollout, Step
from tests.parts import NETWORKS, ppo, reinforce, small_network
from tests.test_configuration import composed
from tests.worlds import Cue, Script


class DelayLine(Block):
    """Returns what came in `delay` steps before; 0 while nothing did."""

    delay = 6

    def __init__(self, input_size, size):
        super().__init__()
        self.output_size = input_size

    def initial_state(self, batch_size):
        return {"line": torch.zeros(batch_size, self.delay, self.output_size, dtype=torch.float64)}

    def step(self, x, state):
        return state["line"][:, 0], {"line": torch.cat([state["line"][:, 1:], x.unsqueeze(1)], 1)}


class LongDelay(DelayLine):
    delay = 11


class Fading(Block):
    """h = a h + x."""

    a = 0.8

    def __init__(self, input_size, size):
        super().__init__()
        self.output_size = input_size

    def initial_state(self, batch_size):
        return {"hidden": torch.zeros(batch_size, self.output_size, dtype=torch.float64)}

    def step(self, x, state):
        hidden = self.a * state["hidden"] + x
        return hidden, {"hidden": hidden}


class WithoutGradient(Fading):
    """Remembers, but no gradient passes from step to step."""

    def step(self, x, state):
        return super().step(x, {"hidden": state["hidden"].detach()})


class Still(BatchedEnv):
    """Shows the same at every step; episodes have `length` steps and a reward at the last."""

    def __init__(self, batch_size: int, length: int) -> None:
        self.batch_size, self.length = batch_size, length
        self.observation_space, self.action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
        self.clock = torch.zeros(batch_size, dtype=torch.long)

    def reset(self, where=None):
        self.clock = self.clock.masked_fill(
            torch.ones_like(self.clock, dtype=torch.bool) if where is None else where, 0
        )
        return torch.ones(self.batch_size, 2)

    def step(self, action):
        self.clock = self.clock + 1
        ended = self.clock == self.length
        never = torch.zeros_like(ended)
        return Step(torch.ones(self.batch_size, 2), (ended * (2 * action - 1)).float(), ended, never, ~never)

    def close(self) -> None: ...


def played(env, network, bptt_length=0, rollout_length=0) -> Rollout:
    generator = torch.Generator().manual_seed(0)
    rollout = Runner(env, network, rollout_length, bptt_length, generator).collect()
    return replace(rollout, reward=rollout.reward.double())


def with_other_parameters(network) -> None:
    random = torch.Generator().manual_seed(9)
    for parameter in network.parameters():
        parameter.detach().add_(torch.randn(parameter.shape, generator=random, dtype=parameter.dtype), alpha=0.2)


def probe_of(env, kind="lstm", make=ppo, rollout_length=0, aged=False, dtype=torch.float64, memory=None, **settings):
    """A probe of one rollout; `aged`: its network has learned since."""
    more = {} if memory is None else {"memory": memory}
    network = small_network(env, kind, dtype, **more)
    algorithm = make(network, **settings)
    rollout = played(env, network, algorithm.settings.bptt_length, rollout_length)
    if aged:
        with_other_parameters(network)
    return Probe.of(algorithm, rollout)


def worlds_of_lengths() -> Script:
    return Script([[5, 9, 3], [12, 4], [7], [1, 8]])


@pytest.mark.thin(7)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("make", [ppo, reinforce])
@pytest.mark.parametrize(("bptt_length", "rollout_length"), [(0, 0), (4, 0), (4, 16)])
def test_the_gradient_of_a_probe_is_that_of_an_update(kind, make, bptt_length, rollout_length):
    env = worlds_of_lengths()
    network = small_network(env, kind, torch.float64)
    settings = {"bptt_length": bptt_length, "grad_clip_norm": None, "minibatches": 1, "epochs": 1}
    algorithm = make(network, normalize_value=False, **settings)
    rollout = played(env, network, bptt_length, rollout_length)
    probe = Probe.of(algorithm, rollout)
    found = gradient(probe, bptt_length)
    algorithm.update(rollout, 0.0)
    of_update = [torch.zeros_like(it) if it.grad is None else it.grad for it in algorithm.parameters.values()]
    expected = torch.cat([it.flatten() for it in of_update])
    assert (found - expected).norm() / expected.norm() < 1e-10


@pytest.mark.parametrize("world", [worlds_of_lengths(), Script([[12]])], ids=["many episodes", "one episode"])
def test_the_cut_is_the_lost_share_of_the_gradient(world):
    probe = probe_of(world)
    found = gradient_cut(probe, [1, 4])
    whole = gradient(probe, 0)
    for length in (1, 4):
        expected = (gradient(probe, length) - whole).norm() / whole.norm()
        assert found.cuts[length] == pytest.approx(float(expected), rel=1e-9)
    assert bool(found.chance) == (world.batch_size > 1)


@pytest.mark.parametrize("bptt_length", [5, 50])
def test_nothing_is_cut_off_where_no_episode_is_longer(bptt_length):
    found = gradient_cut(probe_of(Script([[5, 9, 3]])), also=[bptt_length])
    assert found.of(bptt_length) == found.of(0) == 0
    assert found.cuts[found.longest] == 0
    assert found.horizon <= found.longest == 5


@pytest.mark.parametrize("cell", [DelayLine, LongDelay])
def test_a_gradient_must_reach_back_just_as_far_as_a_delay(cell):
    probe = probe_of(Cue(16, 0, delay=cell.delay), memory=cell)
    found = gradient_cut(probe, range(1, cell.delay + 2))
    too_short = [found.cuts[length] for length in range(1, cell.delay + 1)]
    assert min(too_short) > 0.1
    assert not any(found.is_enough(length) for length in range(1, cell.delay + 1))
    assert found.cuts[cell.delay + 1] < 1e-12
    assert found.horizon == cell.delay + 1
    assert gradient_cut(probe).horizon == cell.delay + 1


@pytest.mark.parametrize("length", [1, 3, 5, 7])
def test_of_a_fading_memory_the_powers_of_its_factor_are_cut_off(length):
    steps = 15
    probe = probe_of(Still(8, steps), memory=Fading, normalize_advantage="none", normalize_value=False)
    # Only the last action matters.
    last = torch.zeros_like(probe.advantage)
    last[-1] = 1.0
    probe.algorithm.settings = replace(probe.algorithm.settings, value_coefficient=0.0, entropy_coefficient=0.0)
    probe = replace(probe, advantage=last)
    encoder = torch.cat(
        [torch.full((it.numel(),), "encoder" in name) for name, it in probe.algorithm.parameters.items()]
    )
    reached = (steps - 1) % length + 1
    expected = (1 - Fading.a**reached) / (1 - Fading.a**steps)
    found = gradient(probe, length)[encoder].norm() / gradient(probe, 0)[encoder].norm()
    assert float(found) == pytest.approx(expected, abs=1e-6)


class Keep(Block):
    """Adds the first input of the episode to every one."""

    def __init__(self, input_size, size):
        super().__init__()
        self.output_size = input_size

    def initial_state(self, batch_size):
        kept = torch.zeros(batch_size, self.output_size, dtype=torch.float64)
        return {"kept": kept, "begun": kept.new_zeros(batch_size, dtype=torch.bool)}

    def step(self, x, state):
        kept = torch.where(state["begun"].unsqueeze(1), state["kept"], x)
        return x + kept, {"kept": kept, "begun": torch.ones_like(state["begun"])}


class Walker:
    """Walks to the junction of a T-maze and turns either way; remembers with a network."""

    def __init__(self, network):
        self.network, self.initial_state = network, network.initial_state

    def step(self, observation, state):
        _, value, after = self.network.step(observation, state)
        forward = observation.new_tensor([9.0, -9, -9, -9])
        turn = observation.new_tensor([-9.0, -9, 9, 9])
        return Categorical(torch.where(observation[:, 1:] > 0, turn, forward).double()), value, after


@pytest.mark.parametrize(("length", "reaches"), [(10, False), (13, True), (0, True)])
def test_a_cut_shorter_than_the_corridor_loses_the_gradient_of_the_sign(length, reaches):
    env = TMaze(8, 0, corridor_length=12)
    network = small_network(env, "lstm", torch.float64, memory=Keep)
    algorithm = ppo(network, value_coefficient=0.0, entropy_coefficient=0.0, normalize_advantage="none")
    probe = Probe.of(algorithm, played(env, Walker(network)))
    assert len(probe.advantage) == 13
    at_the_junction = torch.zeros_like(probe.advantage)
    at_the_junction[-1] = probe.rollout.reward[-1] - 0.5
    probe = replace(probe, advantage=at_the_junction)
    sizes = [it.numel() for it in algorithm.parameters.values()]
    found = dict(zip(algorithm.parameters, gradient(probe, length).split(sizes), strict=True))
    of_sign = found["actor.encoder.layer.weight"].view(-1, 2)[:, 0]
    assert bool(of_sign.abs().max() > 1e-3) == reaches
    if not reaches:
        assert gradient_cut(probe, [length]).cuts[length] > 0.1


def without_recurrence(network) -> None:
    cell = network.actor.memory["lstm"]
    cell.weight_hidden.detach().zero_()
    # The cell's own path, too.
    cell.bias.detach()[cell.size : 2 * cell.size] = -1e4


def test_without_recurrent_weights_one_step_is_enough_and_nothing_is_stale():
    env = worlds_of_lengths()
    network = small_network(env, "lstm", torch.float64)
    without_recurrence(network)
    algorithm = ppo(network, bptt_length=4)
    rollout = played(env, network, 4)
    network.actor.memory["lstm"].weight_input.detach().add_(0.3)
    probe = Probe.of(algorithm, rollout)
    found = gradient_cut(probe)
    assert found.horizon == 1
    assert max(found.cuts.values()) < 1e-12
    stale = staleness(probe, rollout.state)
    assert (stale.kl, stale.value) == (0, 0)


@pytest.mark.parametrize("aged", [False, True])
def test_stale_memory_is_not_taken_for_a_cut(aged):
    probe = probe_of(Script([[12], [15], [13]]), memory=WithoutGradient, bptt_length=4, aged=aged)
    assert gradient_cut(probe, [1, 2, 4, 8]).cuts == pytest.approx({1: 0, 2: 0, 4: 0, 8: 0}, abs=1e-12)


@pytest.mark.thin(5)
@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind != "memoryless"])
@pytest.mark.parametrize("rollout_length", [0, 16])
def test_memory_is_stale_only_once_the_network_has_learned(kind, rollout_length):
    env = Script([[12], [15], [13], [6]])
    fresh = probe_of(env, kind, bptt_length=4, rollout_length=rollout_length)
    aged = probe_of(env, kind, bptt_length=4, rollout_length=rollout_length, aged=True)
    now, later = staleness(fresh, fresh.rollout.state), staleness(aged, aged.rollout.state)
    assert now.kl == pytest.approx(0, abs=1e-12)
    assert now.value == pytest.approx(0, abs=1e-9)
    assert min(later.kl_first, later.kl_last, later.value_first, later.value_last) > 1e-8


@pytest.mark.parametrize("continuous", [False, True])
def test_staleness_is_the_divergence_at_the_first_and_last_steps(continuous):
    env = Script([[10]], continuous=continuous)
    probe = probe_of(env, bptt_length=4, aged=True)
    network, rollout = probe.network, probe.rollout
    kl, change = [], []
    for first, last in ((4, 7), (8, 9)):
        memories = [
            {name: leaf[source.state_index[first]] for name, leaf in source.state.items()}
            for source in (rollout, probe.fresh)
        ]
        for t in range(first, last + 1):
            answers = [network.step(rollout.observation[t], memory) for memory in memories]
            memories = [after for _, _, after in answers]
            if t in (first, last):
                (stored, stored_value, _), (now, now_value, _) = answers
                change.append(float((stored_value - now_value).detach().abs()))
                if not continuous:
                    p = stored.log_probs.exp()
                    kl.append(float((p * (stored.log_probs - now.log_probs)).sum().detach()))
    found = staleness(probe, rollout.state)
    assert found.value_first == pytest.approx((change[0] + change[2]) / 2 / probe.spread)
    assert found.value_last == pytest.approx((change[1] + change[3]) / 2 / probe.spread)
    if not continuous:
        assert found.kl_first == pytest.approx((kl[0] + kl[2]) / 2)
        assert found.kl_last == pytest.approx((kl[1] + kl[3]) / 2)
    else:
        assert found.kl > 0


@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("ghosts", [False, True])
def test_recomputed_memory_is_that_of_acting(kind, ghosts):
    env = Script([[5, 9, 3], [12, 4], [7], [1, 8]], ghosts=ghosts)
    network = small_network(env, kind, torch.float64)
    runner = Runner(env, network, 20, 1, torch.Generator().manual_seed(0))
    runner.collect()
    rollout = runner.collect()
    fresh = recomputed(network, rollout)
    here = (rollout.state_index >= 0) & rollout.valid
    assert here.any()
    for name, leaf in rollout.state.items():
        torch.testing.assert_close(fresh.state[name][fresh.state_index[here]], leaf[rollout.state_index[here]])


def test_what_cannot_be_measured_is_said_and_no_number():
    memoryless = probe_of(worlds_of_lengths(), "memoryless")
    with pytest.raises(NotApplicableError, match="no memory"):
        gradient_cut(memoryless)
    with pytest.raises(NotApplicableError, match="no memory"):
        staleness(memoryless, memoryless.rollout.state)
    whole = probe_of(worlds_of_lengths())
    with pytest.raises(NotApplicableError, match="no sequence begins"):
        staleness(whole, whole.rollout.state)


def tensors_of(network) -> list[Tensor]:
    return [it.clone() for it in network.state_dict().values()]


def probe_of_beginner(env, kind, rollout_length=0, updates=0) -> Probe:
    """A probe of some 2,000 steps of a network that has learned little."""
    torch.manual_seed(0)
    widths = {"hidden_size": 16, "lstm_hidden_size": 16, "window": 4, "heads": 2, "separate_critic": False}
    network = recurrent_network(env.observation_space, env.action_space, **widths, **NETWORKS[kind])
    algorithm = ppo(network, learning_rate=3e-3)
    runner = Runner(env, network, rollout_length, 0, torch.Generator().manual_seed(0), rollout_steps=2048)
    for _ in range(updates):
        algorithm.update(runner.collect(), 0.0)
    return Probe.of(algorithm, runner.collect(), steps=2048)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize(("kind", "updates"), [("memoryless", 4), ("lstm", 2)])
def test_a_cart_pole_that_is_seen_needs_no_memory_and_a_masked_one_does(kind, updates):
    seen, masked = (need(probe_of_beginner(CartPole(16, 0, hidden=it), kind, 128, updates)) for it in ([], [1, 3]))
    assert not seen.is_there
    assert masked.is_there
    assert masked.share > 0.1


@pytest.mark.parametrize(
    ("k", "needed", "source"), [(1, False, None), (4, True, "3 steps back"), (2, True, "1 step back")]
)
def test_a_card_that_is_no_longer_shown_must_be_remembered(k, needed, source):
    probe = probe_of_beginner(RepeatPrevious(16, 0, k=k), "memoryless", updates=1)
    found = need(probe)
    assert found.is_there == needed
    if needed:
        assert found.source == source
        assert found.share > 0.1


def test_episodes_of_which_no_step_counts_change_nothing_of_the_need(monkeypatch):
    probe = probe_of_beginner(CartPole(16, 0, hidden=[1, 3]), "memoryless")
    of_need = sys.modules[need.__module__]
    found, groups = need(probe), of_need._groups
    monkeypatch.setattr(of_need, "_groups", lambda probe: FOLDS * groups(probe))
    assert need(probe) == found


def test_what_a_few_steps_show_by_chance_is_no_need():
    rollout = probe_of_beginner(RepeatPrevious(8, 0, k=1), "memoryless").rollout
    probe = Probe.of(ppo(small_network(RepeatPrevious(8, 0), "memoryless")), rollout, steps=408)
    assert need(probe).share < 0.01


def composed_run(*overrides):
    cfg = composed(
        "env=masked_cartpole", "device=cpu", "network.hidden_size=8", "network.lstm_hidden_size=8", *overrides
    )
    return build(cfg, constructor(cfg.device)())


def trained(run, updates) -> list[dict[str, float]]:
    return [run.iterate() for _ in range(updates)]


def state_of(run):
    state = run.state_dict()
    del state["clock"]
    return state


LIVE = ["parallel=8", "rollout_length=24", "algorithm.minibatches=2"]


@pytest.mark.thin(6)
@pytest.mark.parametrize(
    "more",
    [
        ["sequence=truncated", "sequence_learning.bptt_length=6", "network.normalize_observations=true"],
        [
            "network=attention",
            "network.heads=2",
            "sequence=truncated",
            "sequence_learning.stale_state=refresh",
            "algorithm=reinforce",
        ],
        ["sequence=off", "algorithm.normalize_reward=true", "algorithm.gradient_parts=3"],
        ["network=mlp"],
    ],
)
def test_measuring_changes_no_bit_of_a_run_even_of_one_that_goes_on(more):
    torch.manual_seed(0)
    plain, measured = composed_run(*LIVE, *more, "insight.interval=0"), composed_run(*LIVE, *more, "insight.interval=1")
    rows = trained(plain, 2), trained(measured, 2)
    before = torch.random.get_rng_state()
    assert same(state_of(plain), state_of(measured))
    again = composed_run(*LIVE, *more, "insight.interval=2")
    again.load_state_dict(copy.deepcopy(measured.state_dict()))
    rows = trained(plain, 2), trained(again, 2)
    assert same(state_of(plain), state_of(again))
    assert torch.equal(before, torch.random.get_rng_state())
    assert "memory/need" not in rows[0][0]
    assert "time/insight_share" in rows[1][0]


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else one == other


def test_a_network_that_draws_random_numbers_draws_the_same():
    def learned(observed):
        network = small_network(worlds_of_lengths(), "lstm", torch.float64)
        network.actor.encoder.register_forward_hook(lambda module, given, out: out * (1 + 0.1 * torch.rand(())))
        algorithm = ppo(network, bptt_length=4)
        rollout = played(worlds_of_lengths(), network, 4)
        algorithm.observer = Meters(1) if observed else None
        algorithm.update(rollout, 0.0)
        return tensors_of(network)

    torch.manual_seed(0)
    plain = learned(False)
    torch.manual_seed(0)
    assert all(map(torch.equal, plain, learned(True)))


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("more", "absent"),
    [
        (["sequence=truncated", "sequence_learning.bptt_length=6"], set()),
        (["sequence=full"], {"staleness"}),
        (["sequence=off"], set()),
        (["network=mlp"], {"gradient_cut", "staleness"}),
        (
            [
                "network=gru",
                "network.layers=2",
                "sequence=truncated",
                "sequence_learning.bptt_length=6",
                "algorithm=reinforce",
            ],
            set(),
        ),
        (["network=gtrxl", "network.heads=2", "sequence=truncated", "sequence_learning.bptt_length=6"], set()),
    ],
)
def test_every_measure_is_there_or_says_why_not(more, absent):
    run = composed_run(*LIVE, *more, "insight.interval=1")
    (row,) = trained(run, 1)
    assert set(run.meters.reasons) == absent
    assert all(run.meters.reasons.values())
    names = {
        "gradient_cut": ["gradient_cut", "gradient_horizon"],
        "staleness": ["staleness_kl", "staleness_value"],
        "need": ["need"],
    }
    for measure, scalars in names.items():
        assert all((f"memory/{name}" in row) == (measure not in absent) for name in scalars)


def test_measurements_are_at_the_first_update_and_in_the_middle_of_every_interval():
    assert [update for update in range(1, 301) if Meters(100).ready_for(update)] == [1, 50, 150, 250]
    assert all(Meters(1).ready_for(update) for update in range(1, 9))
    assert not any(Meters(0).ready_for(update) for update in range(1, 301))


def test_a_measurement_that_fails_ends_no_run(caplog, monkeypatch):
    monkeypatch.setattr(meters, "gradient_cut", broken)
    run = composed_run(*LIVE, "insight.interval=1")
    (row,) = trained(run, 1)
    assert "memory/gradient_cut" not in row
    assert "memory/need" in row
    assert run.meters.reasons["gradient_cut"] == "it broke"
    assert "gradient_cut could not be measured: it broke." in caplog.text


def broken(*_, **__):
    raise RuntimeError("it broke.\nmore")


CUT = GradientCut({10: 0.38, 16: 0.2, 32: 0.04, 64: 0.01, 100: 0.0}, {}, 100)
ALL_NEEDED = GradientCut({1: 0.6, 64: 0.3, 128: 0.0}, {}, 128)
SHORT = GradientCut({100: 0.0, 64: 0.01, 32: 0.02, 16: 0.03, 8: 0.3}, {}, 100)
SHORT_WITH_10 = replace(SHORT, cuts=SHORT.cuts | {10: 0.09})
FRESH, OLD = Staleness(0.0, 0.01, 0.0, 0.01), Staleness(0.5, 0.1, 0.2, 0.6)
NEEDED, NOT_NEEDED = Need(0.45, 0.05, "1 step back"), Need(0.001, 0.002, "the first")
USUAL = Settings(bptt_length=50, single_steps=False, rollout_length=0, stale_state="keep", has_memory=True, updates=30)


def said(cut=None, stale=None, needs=(), cuts=(), **settings):
    meters = Meters()
    meters.cuts, meters.stale, meters.needs = (
        [*cuts, *([cut] if cut else [])],
        [it for it in [stale] if it],
        list(needs),
    )
    return " ".join(advice(meters, replace(USUAL, **settings)))


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({}, ""),
        ({"cut": CUT, "bptt_length": 64, "stale": FRESH, "needs": [NEEDED]}, ""),
        (
            {"cut": CUT, "bptt_length": 10},
            "=10 cuts 38% of the gradient; sequence_learning.bptt_length=32 would cut 4%.",
        ),
        (
            {"cut": ALL_NEEDED, "bptt_length": 1, "single_steps": True, "rollout_length": 128},
            "sequence=off cuts 60% of the gradient; sequence=truncated sequence_learning.bptt_length=128 would cut 0%, "
            "as many steps as the rollout has.",
        ),
        (
            {
                "cuts": [CUT, replace(CUT, cuts=CUT.cuts | {10: 0.6}), SHORT_WITH_10, CUT],
                "cut": SHORT_WITH_10,
                "bptt_length": 10,
                "updates": 29,
            },
            "=10 cut 38% to 60% of the gradient in 3 of 5 measurements, though not in the last; "
            "sequence_learning.bptt_length=32 would have reached far enough.",
        ),
        ({"cuts": [CUT, CUT], "cut": SHORT_WITH_10, "bptt_length": 10}, ""),
        ({"cut": SHORT, "bptt_length": 0}, "more than 16 steps back, of 100: sequence=truncated"),
        ({"cut": SHORT, "bptt_length": 32}, ""),
        ({"cut": SHORT, "bptt_length": 0, "updates": 29}, ""),
        ({"stale": OLD}, "the policy is KL 0.3 from that with memory computed now, and values differ by 0.4"),
        ({"stale": OLD}, "sequence_learning.stale_state=refresh"),
        ({"stale": OLD, "stale_state": "refresh"}, "a lower algorithm.learning_rate"),
        ({"needs": [NOT_NEEDED, NEEDED], "has_memory": False}, "1 step back foretells 45% ± 5%"),
        ({"needs": [NOT_NEEDED, NEEDED], "has_memory": False}, "this network has none. network=lstm"),
        ({"needs": [NOT_NEEDED, NOT_NEEDED], "has_memory": False}, ""),
        ({"needs": [NOT_NEEDED, NOT_NEEDED]}, "the past foretells 0% ± 0%"),
        ({"needs": [NOT_NEEDED, NOT_NEEDED], "updates": 29}, ""),
        ({"needs": [NEEDED], "has_memory": False, "updates": 1}, "this network has none. network=lstm"),
        ({"needs": [NOT_NEEDED, Need(0.03, 0.02, "the first")]}, ""),
    ],
)
def test_what_was_measured_is_said_with_a_number_and_a_remedy(found, sentence):
    text = said(**found)
    assert sentence in text
    assert bool(sentence) == bool(text)


@pytest.mark.filterwarnings("error")
def test_an_observation_that_never_changes_is_measured_without_a_warning():
    env = Script([[3, 2], [4, 1], [2, 5], [3, 3]])
    rollout = Runner(env, small_network(env), 20, 0, torch.Generator().manual_seed(0)).collect()
    still = replace(rollout, observation=torch.zeros_like(rollout.observation))
    assert abs(need(Probe.of(ppo(small_network(env)), still)).share) < 1


@pytest.mark.slow
def test_a_run_too_short_for_the_interval_is_measured_once_at_half_of_its_budget():
    run = composed_run("total_steps=800", "rollout_length=20", "parallel=8", "evaluation.episodes=0")
    measured = []
    while not run.budget.spent:
        row = run.iterate()
        measured.append("memory/gradient_horizon" in row)
    # Five rollouts of 160 steps.
    assert measured == [False, False, True, False, False]


def test_the_documentation_says_how_need_is_measured():
    text = " ".join((PACKAGE.parent / "docs" / "insight.md").read_text().split())
    *lags, last = sorted(LAGS)
    fades = " and ".join(f"{it:g}" for it in TRACES[:-1])
    for words in (
        "λ-returns, with the run's `algorithm.gae_lambda` and `gamma`",
        f"what was seen {', '.join(map(str, lags))} and {last} steps back, averages that fade over some {fades} steps",
        f"Of {['no', 'one', 'two', 'three'][FOLDS]} parts of the episodes",
        f"cut, at {EXTREME:g} deviations or at {EXTREME:g} times the median size",
        f"Up to {NEED_STEPS:,} steps of a rollout",
        f"A run of fewer than {FEW} updates gives no hint",
        f"above {MATTERS:g} and above three standard errors".replace("0.", "."),
    ):
        assert words in text
