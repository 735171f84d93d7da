"""`python -m seqrl.inspect` says of policies whose memory is known what their memory is."""

import base64
import errno
import io
import json
import math
import os
import re
import sys
from html import escape
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from rich.console import Console
from torch import nn

from seqrl.config.schema import keys_of
from seqrl.envs import BatchedEnv, CartPole, RepeatPrevious, TMaze
from seqrl.envs.inputs import WithInputs
from seqrl.errors import EnvError
from seqrl.files import write
from seqrl.film.film import Film, gif
from seqrl.insight import NotApplicableError
from seqrl.inspect import __main__ as program
from seqrl.inspect import contamination as contaminating
from seqrl.inspect import influence as influencing
from seqrl.inspect import measure as measuring
from seqrl.inspect import probes as probing
from seqrl.inspect import reel
from seqrl.inspect.__main__ import main
from seqrl.inspect.chart import WIDTHS, Chart, Line, nice
from seqrl.inspect.contamination import Contamination, contamination
from seqrl.inspect.earlier import SAME, with_earlier
from seqrl.inspect.episodes import Episodes, record
from seqrl.inspect.figures import _gradient as gradient_figure
from seqrl.inspect.influence import influence
from seqrl.inspect.measure import KEYS, Measured
from seqrl.inspect.players import Halted, Swapped, Windowed
from seqrl.inspect.probes import probes
from seqrl.inspect.request import Words
from seqrl.inspect.said import paragraph
from seqrl.inspect.windows import Windows
from seqrl.metrics.display import Bar
from seqrl.networks import recurrent_network
from seqrl.networks.heads import Categorical, Gaussian
from seqrl.run.evaluator import Evaluator, Forgetful
from seqrl.runner import Runner
from seqrl.text import masks
from tests.parts import NETWORKS, ppo, small_network
from tests.programs import Program, run_program
from tests.test_evaluate import GIVEN, contents, run  # noqa: F401  # a fixture
from tests.test_train import train
from tests.worlds import Cue, Script

SUITS = 4


class Holds(nn.Module):
    """Memory is the last `d` cards, one-hot, newest last; the action names the oldest of them."""

    def __init__(self, d):
        super().__init__()
        self.d = d

    def initial_state(self, batch_size):
        return {"cards": torch.zeros(batch_size, self.d, SUITS)}

    def step(self, observation, state):
        card = nn.functional.one_hot(observation, SUITS).float()
        cards = torch.cat([state["cards"][:, 1:], card.unsqueeze(1)], 1)
        return Categorical(3 * cards[:, 0]), cards[:, 0, 0], {"cards": cards}


class Recurrence(nn.Module):
    """h = a h + x, in float64; the policy's mean is h, the value b times it."""

    def __init__(self, a, b=1.0):
        super().__init__()
        self.a, self.b = a, b

    def initial_state(self, batch_size):
        return {"h": torch.zeros(batch_size, 1, dtype=torch.float64)}

    def step(self, observation, state):
        h = self.a * state["h"] + observation[:, :1].double()
        return Gaussian(h, torch.zeros(1, dtype=torch.float64)), self.b * h[:, 0], {"h": h}


class Reflex(nn.Module):
    """A memory that nothing reads."""

    def initial_state(self, batch_size):
        return {"seen": torch.zeros(batch_size, 1)}

    def step(self, observation, state):
        return Categorical(observation[:, :2]), observation[:, 0], {"seen": state["seen"] + 1}


def evaluator(make, episodes=32):
    return Evaluator(make, lambda: torch.Generator().manual_seed(0), episodes, True, False, 1000)


def windows_of(make, network, player=Windowed, episodes=32):
    played = evaluator(make, episodes)
    whole, lengths = (it.numpy() for it in played.scores(network))
    return Windows(lambda k, count: played.scores(player(network, k), count)[0].numpy(), whole, lengths, 16)


def cards(k):
    return lambda: RepeatPrevious(16, 0, k=k)


def noise(steps=40, episodes=16, dtype=torch.float32, width=1):
    """Episodes of independent numbers."""
    observation = torch.randn(steps, episodes, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    return Episodes(observation, torch.full((episodes,), steps), {}, spaces.Box(-np.inf, np.inf, (width,)))


def shuffled_cards(steps=60, episodes=32):
    observation = torch.randint(SUITS, (steps, episodes), generator=torch.Generator().manual_seed(1))
    return Episodes(observation, torch.full((episodes,), steps), {}, spaces.Discrete(SUITS))


class TestWindows:
    @pytest.mark.thin(6)
    @pytest.mark.parametrize("k", [2, 3, 4, 7, 8, 9])
    def test_the_window_is_as_many_observations_as_the_answer_lies_back_with_the_present_one(self, k):
        windows = windows_of(cards(k), Holds(k))
        assert windows.measure() == k
        # The smallest one: with one observation less, all is lost.
        assert windows.returns[k].mean() == pytest.approx(1)
        assert windows.returns[k - 1].mean() < 0.3

    @pytest.mark.thin(2)
    @pytest.mark.parametrize("off", [-1, 1])
    def test_a_window_that_is_off_by_one_is_found_out(self, off):
        def wrong(network, k):
            return Windowed(network, max(1, k + off))

        assert windows_of(cards(4), Holds(4), wrong).measure() == 4 - off

    def test_what_the_first_observation_tells_takes_the_whole_way_back(self):
        """The sign of the cue stands delay + 1 observations back, when it is asked for."""
        windows = windows_of(lambda: Cue(16, 0, delay=10), Remembers())
        assert windows.measure() == 11
        assert list(windows.table())[-2:] == ["11", "all"]

    def test_a_policy_that_needs_no_memory_needs_the_present_observation_alone(self):
        windows = windows_of(lambda: Cue(16, 0, delay=4), Reflex())
        assert windows.measure() == 1
        assert not windows.is_used

    @pytest.mark.thin(7)
    @pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind != "memoryless"])
    @pytest.mark.parametrize("k", [1, 2, 3, 5, 20])
    def test_it_is_what_so_many_steps_from_the_initial_state_are(self, kind, k):
        env = Script([[9], [9]])
        network = small_network(env, kind, torch.float64)
        observation = torch.randn(9, 2, 4, generator=torch.Generator().manual_seed(0))
        player = Windowed(network, k)
        state = player.initial_state(2)
        with torch.no_grad():
            for t in range(9):
                policy, value, state = player.step(observation[t], state)
                memory = network.initial_state(2)
                for s in range(max(0, t - k + 1), t + 1):
                    expected, expected_value, memory = network.step(observation[s], memory)
                torch.testing.assert_close(policy.log_probs, expected.log_probs, rtol=0, atol=1e-9)
                torch.testing.assert_close(value, expected_value, rtol=0, atol=1e-9)

    def test_with_one_observation_memory_is_zeroed_and_with_all_it_is_whole(self):
        network = small_network(CartPole(1, 0), "lstm")
        played = evaluator(lambda: CartPole(8, 0, max_episode_steps=30))
        assert played.scores(Windowed(network, 1))[0].tolist() == played.scores(Forgetful(network))[0].tolist()
        assert played.scores(Windowed(network, 30))[0].tolist() == played.scores(network)[0].tolist()

    def test_episodes_of_all_lengths_have_their_own_windows(self):
        """Episodes that go on keep their memories, when others have ended."""
        env = lambda: Script([[3], [5], [8]])  # noqa: E731
        network = small_network(env(), "gru")
        played = evaluator(env, 6)
        whole, _ = played.scores(network)
        assert played.scores(Windowed(network, 8))[0].tolist() == whole.tolist()

    def test_long_windows_are_played_for_fewer_episodes(self, monkeypatch):
        monkeypatch.setattr("seqrl.inspect.windows.MOST_STEPS", 51 * 4 * 32)
        windows = windows_of(cards(4), Holds(4))
        assert windows.measure() == 4
        assert [len(windows.returns[k]) for k in (1, 2, 4, 8)] == [32, 32, 32, 16]

    def test_windows_that_would_take_too_long_are_not_played_and_said_to_be(self, monkeypatch):
        monkeypatch.setattr("seqrl.inspect.windows.TOO_MANY_STEPS", 51 * 16 * 8)
        windows = windows_of(cards(16), Holds(16))
        assert windows.measure() is None
        assert windows.reason == "it is more than 8, and longer windows would take too long to play"
        assert sorted(windows.returns) == [1, 2, 4, 8]


@pytest.mark.parametrize("delay", [4, pytest.param(7, marks=pytest.mark.slow)])
def test_a_policy_that_has_learned_to_remember_a_cue_needs_all_observations_since(delay):
    torch.manual_seed(0)
    env = Cue(batch_size=64, seed=0, delay=delay)
    network = fresh_network(env)
    algorithm = ppo(network, learning_rate=3e-3, epochs=4, minibatches=4)
    runner = Runner(env, network, 0, 0, torch.Generator().manual_seed(0))
    # How long it takes depends on how a processor rounds.
    for _ in range(200):
        rollout = runner.collect()
        if rollout.reward[rollout.valid].sum() > 0.97 * env.batch_size:
            break
        algorithm.update(rollout, 0.0)
    windows = windows_of(lambda: Cue(16, 1, delay=delay), network)
    assert windows.whole.mean() > 0.95
    assert windows.measure() == delay + 1


def fresh_network(env):
    sizes = {"hidden_size": 32, "lstm_hidden_size": 32, "window": 8, "heads": 2, "separate_critic": False}
    return recurrent_network(env.observation_space, env.action_space, **NETWORKS["lstm"], **sizes)


class Remembers(nn.Module):
    """Adds up what it sees, and goes by its sign."""

    def initial_state(self, batch_size):
        return {"sign": torch.zeros(batch_size)}

    def step(self, observation, state):
        sign = state["sign"] + observation[:, 0]
        return Categorical(torch.stack([-sign, sign], 1)), sign, {"sign": sign}


class TestPlayers:
    def test_memory_that_no_longer_changes_knows_what_was_seen_before(self):
        played = evaluator(lambda: Cue(16, 0, delay=5))
        for observations, expected in {1: 1.0, 3: 1.0, 6: 1.0}.items():
            assert played.scores(Halted(Remembers(), observations))[0].mean() == expected
        assert played.scores(Halted(Remembers(), 0))[0].abs().mean() == 1
        assert abs(played.scores(Halted(Remembers(), 0))[0].mean()) < 1

    def test_another_episodes_memory_tells_of_the_other_episode(self):
        """Cues that alternate: every neighbour's is the opposite."""
        network = Remembers()
        player = Swapped(network)
        state = player.initial_state(2)
        seen = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        _, _, state = player.step(seen, state)
        policy, _, state = player.step(0 * seen, state)
        assert policy.mode().tolist() == [0, 1]
        assert network.step(0 * seen, {"sign": state["sign"]})[0].mode().tolist() == [1, 0]

    def test_the_memory_of_an_episode_that_is_over_stays_as_it_was(self):
        player = Swapped(Remembers())
        state = player.initial_state(3)
        _, _, state = player.step(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]]), state)
        only = {name: leaf[torch.tensor([True, False, True])] for name, leaf in state.items()}
        # The first sees the memory of the second, which is over; the third that of the first.
        _, value, _ = player.step(torch.zeros(2, 2), only)
        assert value.tolist() == [-1, 1]


class TestInfluence:
    @pytest.mark.parametrize("a", [0.5, 0.9, -0.7])
    def test_of_a_linear_recurrence_it_is_a_to_the_power_of_the_lag(self, a):
        found = influence(Recurrence(a, b=3.0), noise(dtype=torch.float64))
        for name, factor in {"policy": 1.0, "value": 3.0}.items():
            expected = factor * abs(a) ** np.arange(40)
            np.testing.assert_allclose(found[name].weights, expected, rtol=0, atol=1e-6)
            assert found[name].range == pytest.approx((np.arange(40) * expected).sum() / expected.sum())
        assert found["policy"].reach == min(39, int(math.log(0.01) / math.log(abs(a))))

    def test_a_recurrence_that_is_another_one_is_found_out(self):
        weights = influence(Recurrence(0.9), noise(dtype=torch.float64))["policy"].weights
        assert np.abs(weights - 0.91 ** np.arange(40)).max() > 1e-3

    @pytest.mark.slow
    def test_an_lstm_that_carries_nothing_over_has_no_range(self):
        """Its recurrent weights are zero, and its forget gates are closed."""
        network = small_network(Script([[1]]), "lstm")
        lstm = network.actor.memory["lstm"]
        with torch.no_grad():
            lstm.weight_hidden.zero_()
            lstm.weight_input[lstm.size : 2 * lstm.size] = 0
            lstm.bias[lstm.size : 2 * lstm.size] = -1e4
        episodes = noise(width=4)
        found = influence(network, episodes)
        assert (found["policy"].range, found["policy"].reach) == (0, 0)
        assert (contamination(network, episodes).kl[1:] == 0).all()
        assert contamination(network, episodes).half_life == 0
        # The test can fail: an ordinary one has a range.
        assert influence(small_network(Script([[1]]), "lstm"), episodes)["policy"].range > 0.1

    @pytest.mark.thin(3)
    @pytest.mark.parametrize("kind", ["lstm", "separate critic", "attention"])
    def test_it_is_the_same_by_what_the_encoder_reads_as_by_the_observation_itself(self, kind):
        class Alien(nn.Module):
            def __init__(self, network):
                super().__init__()
                self.network = network

            def initial_state(self, batch_size):
                return self.network.initial_state(batch_size)

            def step(self, observation, state):
                return self.network.step(observation, state)

        network = small_network(Script([[1]]), kind, torch.float64)
        episodes = noise(steps=8, width=4, dtype=torch.float64)
        for name, it in influence(Alien(network), episodes).items():
            np.testing.assert_allclose(influence(network, episodes)[name].weights, it.weights, rtol=1e-6)

    def test_steps_after_an_episodes_end_have_no_part_in_it(self):
        whole = noise(steps=12, dtype=torch.float64)
        length = torch.tensor([12] * 8 + [5] * 8)
        nonsense = whole.observation.masked_fill(~Episodes(whole.observation, length, {}, None).real.unsqueeze(-1), 1e9)
        found = influence(Recurrence(0.5), Episodes(nonsense, length, {}, whole.space))
        np.testing.assert_allclose(found["policy"].weights, 0.5 ** np.arange(12), rtol=1e-9)

    def test_choices_of_a_network_of_ones_own_cannot_be_differentiated(self):
        with pytest.raises(NotApplicableError, match="not real numbers"):
            influence(Holds(3), shuffled_cards())

    def test_a_network_that_cannot_be_differentiated_is_said_to_be_one(self):
        class Overwrites(Recurrence):
            def step(self, observation, state):
                observation.add_(1)
                return super().step(observation, state)

        with pytest.raises(NotApplicableError, match=r"the network cannot be differentiated [(]RuntimeError: "):
            influence(Overwrites(0.5), noise())

    def test_a_policy_that_is_not_of_seqrl_has_no_known_logits(self):
        class Odd(Recurrence):
            def step(self, observation, state):
                _, value, state = super().step(observation, state)
                return object(), value, state

        with pytest.raises(NotApplicableError, match="the policy is of the class object"):
            influence(Odd(0.5), noise())

    def test_of_many_outputs_random_directions_give_the_norm_on_average(self):
        random = torch.Generator().manual_seed(0)
        jacobian = torch.randn(50, 3, generator=random)
        squares = [
            sum((it @ jacobian).square().sum() for it in influencing._directions(50, random)) for _ in range(200)
        ]
        assert float(torch.stack(squares).mean()) == pytest.approx(float(jacobian.square().sum()), rel=0.05)


class TestContamination:
    @pytest.mark.parametrize("a", [0.5, 0.8, 0.95])
    def test_of_a_linear_recurrence_it_halves_as_its_square_does(self, a):
        """KL of normal distributions is half of the squared distance; it is carried from the first step on."""
        harm = contamination(Recurrence(a), noise(steps=60, dtype=torch.float64))
        np.testing.assert_allclose(harm.kl[1:20] / harm.kl[:19], a**2, rtol=0.25)
        assert harm.half_life == pytest.approx(1 + math.log(0.5) / (2 * math.log(a)), rel=0.1)

    @pytest.mark.parametrize("d", [1, 2, 5])
    def test_a_card_that_is_shown_wrongly_disturbs_when_it_is_named_and_never_after(self, d):
        kl = contamination(Holds(d), shuffled_cards()).kl
        # Whichever two cards they are: one that happens to be the right one does not count.
        assert kl[d - 1] == pytest.approx(3 * (math.exp(3) - 1) / (math.exp(3) + 3))
        assert (np.delete(kl, d - 1) == 0).all()
        half_life = contamination(Holds(d), shuffled_cards()).half_life
        assert half_life == 0 if d == 1 else d - 1 <= half_life < d

    def test_what_is_never_forgotten_has_no_half_life(self):
        assert contamination(Recurrence(1.0), noise(dtype=torch.float64)).half_life is None
        assert Contamination(np.array([1.0, 1.0, 0.4, 0.9])).half_life is None

    def test_the_half_life_goes_by_the_last_time_and_not_by_the_first(self):
        harm = Contamination(np.array([9.0, 1.0, 0.1, 1.0, 0.25, 0.01]))
        assert harm.half_life == pytest.approx(3.5)

    def test_an_observation_that_is_not_wrong_disturbs_nothing(self, monkeypatch):
        episodes = noise()

        def right(it):
            yield from [(torch.zeros(16, dtype=torch.long), it.observation[0])]

        monkeypatch.setattr(contaminating, "_wrong", right)
        assert contamination(Recurrence(0.9), episodes).half_life == 0


class TestProbes:
    def test_what_memory_holds_is_found_and_what_it_has_dropped_is_not(self):
        found = probes(Holds(3), shuffled_cards())["observation"]
        for lag, r2 in found.memory.items():
            assert r2 > 0.99 if lag < 3 else r2 < 0.05, lag
        for lag, r2 in found.present.items():
            assert r2 > 0.99 if lag == 0 else r2 < 0.05, lag

    def test_a_probe_that_reads_the_present_observation_instead_of_memory_is_found_out(self, monkeypatch):
        episodes = shuffled_cards()
        shown = probing.numbers(episodes.observation, episodes.space)
        monkeypatch.setattr(probing, "memories", lambda *_: shown)
        assert probes(Holds(3), episodes)["observation"].memory[2] < 0.05

    def test_what_only_fits_the_steps_it_was_fitted_to_explains_nothing(self):
        memory, target = (noise(width=width, episodes=17).observation.double() for width in (100, 1))
        known = torch.ones(40, 17, dtype=torch.bool)
        assert float(probing.r_squared(memory, target, known)) < 0.05

    def test_a_hidden_velocity_is_found_in_a_memory_of_two_positions(self):
        class Positions(nn.Module):
            def initial_state(self, batch_size):
                return {"now": torch.zeros(batch_size, 2), "before": torch.zeros(batch_size, 2)}

            def step(self, observation, state):
                # It balances by the velocity of the angle.
                logit = 30 * (observation[:, 1] + 10 * (observation[:, 1] - state["now"][:, 1]))
                policy = Categorical(torch.stack([-logit, logit], 1))
                return policy, logit, {"now": observation, "before": state["now"]}

        episodes = record(lambda: CartPole(16, 0, hidden=[1, 3], max_episode_steps=60), Positions(), 16, None, 1000)
        found = probes(Positions(), episodes)
        assert list(found) == ["observation", "position", "velocity", "angle", "angular velocity"]
        assert found["angle"].memory[0] > 0.999
        # Of the step before: what the last push did to it is not seen yet.
        assert found["angular velocity"].memory[1] > 0.99
        assert found["angular velocity"].present[1] < found["angular velocity"].memory[1] - 0.2

    def test_what_does_not_vary_is_not_probed(self):
        episodes = noise()
        still = Episodes(episodes.observation, episodes.length, {"still": torch.ones(40, 16)}, episodes.space)
        assert probes(Recurrence(0.5), still)["still"] == "it does not vary, or is seen too rarely"

    def test_large_observations_are_not_probed_and_say_so(self):
        episodes = noise(width=65)
        found = probes(Recurrence(0.5), episodes)
        assert found["observation"] == "it has more than 64 numbers"

    def test_large_memories_are_mixed_and_still_tell(self, monkeypatch):
        monkeypatch.setattr(probing, "MOST_FEATURES", 8)
        found = probes(Holds(3), shuffled_cards())["observation"]
        assert found.memory[0] > 0.5
        assert found.memory[8] < 0.05

    def test_a_handful_of_episodes_cannot_be_probed(self):
        with pytest.raises(NotApplicableError, match="at least 4 episodes"):
            probes(Recurrence(0.5), noise(episodes=3))


class TestInfo:
    def test_recorded_steps_carry_what_the_environment_tells_of_them(self):
        episodes = record(cards(4), Holds(4), 20, None, 1000)
        assert episodes.observation.shape == (51, 20)
        answer = episodes.info["answer"]
        assert answer[:3].isnan().all()
        assert (answer[3:].argmax(2) == episodes.observation[:-3]).all()

    def test_rounds_of_episodes_of_other_lengths_are_laid_beside_each_other(self):
        episodes = record(lambda: Script([[2, 5], [4, 3]]), small_network(Script([[1]]), "lstm"), 4, None, 1000)
        assert episodes.length.tolist() == [2, 4, 5, 3]
        assert episodes.observation.shape == (5, 4, 4)
        assert episodes.observation[:2, 0, 2].tolist() == [0, 1]
        assert episodes.real.sum().item() == 14

    def test_what_cannot_be_probed_is_named_without_a_value_of_the_systems_environment(self, monkeypatch):
        monkeypatch.setattr(masks, "_FROM_ENVIRONMENT", {"Zx9-quuxle": "LICENCE"})
        told = {"Zx9-quuxle": torch.zeros(3, 4)}
        episodes = Episodes(torch.randn(3, 4, 1), torch.full((4,), 3), told, None)
        found = Measured()
        subject = SimpleNamespace(network=small_network(Script([[1]]), "lstm"))
        monkeypatch.setattr(measuring, "influence", lambda *_: {})
        monkeypatch.setattr(measuring, "contamination", lambda *_: SimpleNamespace(kl=torch.zeros(1), half_life=1))
        monkeypatch.setattr(probing, "probes", lambda *_: {"Zx9-quuxle": "it does not vary"})
        measuring._look_into(subject, episodes, found, lambda *_: None)
        assert found.not_measured == {"probes.${oc.env:LICENCE}": "not applicable: it does not vary"}

    def test_inputs_hide_nothing_that_the_environment_tells(self):
        env = WithInputs(TMaze(2, 0), ["previous_reward"])
        env.reset()
        assert set(env.info()) == {"sign", "place"}

    @pytest.mark.parametrize(
        ("told", "fault"),
        [
            (lambda clock: 1 / 0, "its info() raised ZeroDivisionError: division by zero"),
            (lambda clock: {"x": 3.0}, "its info() must return a number, or several, for each of 2 environments"),
            (lambda clock: {"x": torch.zeros(3)}, "its info() must return a number, or several, for each of 2"),
            (lambda clock: {"x": torch.zeros(2, 1 + clock)}, "its info() returned other shapes than before"),
        ],
    )
    def test_an_environment_that_tells_nonsense_is_asked_no_more(self, told, fault):
        class Liar(Script):
            def info(self):
                return told(int(self.clock[0]))

        episodes = record(lambda: Liar([[5], [5]]), small_network(Script([[1]]), "lstm"), 2, None, 1000)
        assert episodes.fault.startswith(fault)
        assert episodes.observation.shape == (5, 2, 4)

    def test_an_environment_that_tells_nothing_tells_nothing(self):
        assert BatchedEnv.info(Script([[1]])) == {}


@pytest.fixture
def inspected(run, monkeypatch, capsys):  # noqa: F811
    """Runs the program; returns what it wrote to inspect.json, the page, and what it printed."""

    def inspect(*words):
        monkeypatch.setattr(sys, "argv", ["inspect", *words])
        main()
        found, page = ((run / f"inspect.{kind}").read_text() for kind in ("json", "html"))
        return json.loads(found), page, capsys.readouterr().out

    return inspect


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs the program, which refuses; returns its error line and its exit code."""

    def inspect(*words):
        monkeypatch.setattr(sys, "argv", ["inspect", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("seqrl: error: "), ended.value.code

    return inspect


class TestProgram:
    def test_a_policy_that_remembers_the_sign_is_described(self, run, inspected):  # noqa: F811
        before = contents(run)
        found, _, printed = inspected(*GIVEN)
        assert found["window"] == 6
        assert found["window_returns"]["all"] == [1, 1, 1]
        assert found["memory_is_used"]["used"] is True
        assert found["memory_is_used"]["verdict"].startswith("Memory is used: ")
        assert found["memory_swapped"]["return"][0] < 0.8
        assert found["memory_frozen"]["1"] == [1, 1, 1]
        assert found["temporal_range"]["policy"] > 0.5
        assert found["probes"]["sign"]["memory"]["2"] > 0.99
        assert found["probes"]["sign"]["present"]["2"] < 0.5
        assert "It needs the last 6 observations, the present one among them." in found["said"]
        assert found["said"] in printed
        assert "Page: run/inspect.html" in printed
        assert {*KEYS, "said", "not_measured", "iterations", "env_steps", "seed", "changed"} < set(found)
        # Nothing else in the run's folder has changed.
        after = contents(run)
        assert {path for path in after if after[path] != before.get(path)} == {"inspect.json", "inspect.html"}
        assert set(before) < set(after)

    @pytest.mark.slow
    def test_no_value_of_a_variable_reaches_a_file(self, run, inspected, monkeypatch):  # noqa: F811
        variables = {"hush-hush": "MY_KEY", "checkpoint=last": "MY_WORD"}
        monkeypatch.setattr(masks, "_FROM_ENVIRONMENT", variables)
        monkeypatch.setattr(program, "paragraph", lambda report: "Memory holds hush-hush.")
        _, page, printed = inspected(*GIVEN, "checkpoint=last")
        for written in (page, (run / "inspect.json").read_text(), printed):
            assert "Memory holds ${oc.env:MY_KEY}." in written
            assert not any(it in written for it in variables)
        assert "${oc.env:MY_WORD}" in page

    @pytest.mark.slow
    def test_what_is_not_seqrls_is_not_replaced_not_even_beside_its_own(self, run, inspected, capsys):  # noqa: F811
        inspected(*GIVEN)
        for name in ("inspect.json", "inspect.html"):
            (run / name).write_text("mine")
            with pytest.raises(SystemExit) as ended:
                inspected(*GIVEN)
            assert ended.value.code == 2
            assert f"{name} was not written by seqrl. Move it away." in capsys.readouterr().err
            assert (run / name).read_text() == "mine"

    @pytest.mark.slow
    def test_every_key_without_a_value_has_a_reason(self, inspected):
        found, page, _ = inspected(*GIVEN)
        empty = [key for key in KEYS if found[key] is None]
        assert "gradient_horizon" in empty
        assert set(empty) <= set(found["not_measured"])
        assert "config.yaml does not say how the run learned" in found["not_measured"]["gradient_horizon"]
        assert "does not say how the run learned" in page

    @pytest.mark.slow
    def test_the_page_needs_nothing_else(self, inspected):
        _, page, _ = inspected(*GIVEN)
        assert page.startswith("<!doctype html>")
        assert page.count("<svg") >= 8
        without_film = re.sub(r'(src|srcset)="data:image/(gif|png);base64,[A-Za-z0-9+/=]+"', "", page)
        for outside in ("http", "src", "href=", "@import", "url(", "<script"):
            assert outside not in without_film.replace("http://www.w3.org/2000/svg", ""), outside
        assert "prefers-color-scheme: dark" in page

    @pytest.mark.slow
    def test_a_memory_that_is_not_used_is_not_needed(self, inspected):
        found, _, printed = inspected(*GIVEN, "checkpoint=0")
        assert (found["memory_is_used"]["used"], found["window"]) == (False, 1)
        assert "No memory is needed: without it, this policy does as well." in printed

    @pytest.mark.slow
    def test_an_environment_is_played_elsewhere(self, inspected):
        found, page, printed = inspected(*GIVEN, "env.corridor_length=[3,5,9]", "episodes=16")
        (elsewhere,) = found["elsewhere"].values()
        assert elsewhere["trained"] == "5"
        assert list(elsewhere["returns"]) == elsewhere["holds"] == ["3", "5", "9"]
        assert found["changed"] == []
        assert found["length_max"] == 6
        assert "Trained at corridor_length 5, it holds at 3, 5, 9 (of 3, 5, 9)." in " ".join(printed.split())
        assert "Does it hold elsewhere? corridor_length" in page

    @pytest.mark.slow
    def test_what_was_found_with_other_keys_stays_for_the_same_policy_in_the_same_episodes(self, run, inspected):  # noqa: F811
        words = [*GIVEN, "episodes=16"]
        inspected(*words, "env.corridor_length=[3,5]")
        # As if that had been found with another key.
        path = run / "inspect.json"
        # Laid out anew, it is seqrl's all the same.
        path.write_text(json.dumps(json.loads(path.read_text().replace('"env.corridor_length": {', '"env.other": {'))))
        found, page, printed = inspected(*words, "env.corridor_length=[5,9]")
        assert list(found["elsewhere"]) == ["env.other", "env.corridor_length"]
        assert list(found["elsewhere"]["env.corridor_length"]["returns"]) == ["5", "9"]
        assert "Does it hold elsewhere? other<" in page
        assert "Does it hold elsewhere? corridor_length<" in page
        assert "Trained at other 5, it holds at 3, 5 (of 3, 5)." in " ".join(printed.split())
        # The same key is replaced; a call that asks for none keeps all.
        again = inspected(*words, "env.corridor_length=[4,9]")[0]
        assert list(again["elsewhere"]) == ["env.other", "env.corridor_length"]
        assert list(again["elsewhere"]["env.corridor_length"]["returns"]) == ["4", "9"]
        none_asked = inspected(*words)[0]
        assert none_asked["elsewhere"] == again["elsewhere"]
        assert "elsewhere" not in none_asked["not_measured"]
        # Another policy, or other episodes, found nothing.
        assert inspected(*words, "seed=9")[0]["elsewhere"] is None

    @pytest.mark.parametrize(
        "odd",
        [
            [], {"env.x": 3}, {"network.x": {}}, {"env.x": {"trained": "5", "returns": {}, "holds": []}},
            {"env.x": {"trained": "5", "returns": {"3": ["a", 1, 2]}, "holds": []}},
            {"env.x": {"trained": "5", "returns": {"3": [1.0, 1, 2]}, "holds": ["4"]}},
            {"env.x": {"trained": "5", "returns": {"3": [1.0, 1, 2]}, "holds": [[]]}},
            {"env.x": {"trained": "5\x1b", "returns": {"3": [1.0, 1, 2]}, "holds": []}},
            # No number that could be written again.
            {"env.x": {"trained": "5", "returns": {"3": [float("nan"), 1, 2]}, "holds": []}},
            {"env.x": {"trained": "5", "returns": {"3": [1.0, 1, float("inf")]}, "holds": []}},
            # More than a page has room for.
            {"env.x": {"trained": "5", "returns": {str(n): [1.0, 1, 2] for n in range(51)}, "holds": []}},
            {"env.x": {"trained": "5", "returns": {"3": [1.0, 1, 2]}, "holds": ["3", "3"]}},
            {"env.x": {"trained": "5" * 101, "returns": {"3": [1.0, 1, 2]}, "holds": []}},
            {f"env.{'x' * 100}": {"trained": "5", "returns": {"3": [1.0, 1, 2]}, "holds": []}},
        ],
        ids=range(14),
    )  # fmt: skip
    def test_an_inspection_that_anybody_may_have_written_is_not_believed(self, tmp_path, odd):
        report = {**dict.fromkeys(SAME, 1), "elsewhere": None, "not_measured": {"elsewhere": "not asked for"}}
        good = {"env.x": {"trained": "5", "returns": {"3": [1.0, None, None]}, "holds": ["3"]}}
        for written, kept in ((good, good), (odd, None)):
            (tmp_path / "inspect.json").write_text(json.dumps(report | {"elsewhere": written}))
            assert with_earlier(report, tmp_path)["elsewhere"] == kept
        for words in ("", "[]", "{"):
            (tmp_path / "inspect.json").write_text(words)
            assert with_earlier(report, tmp_path) == report

    @pytest.mark.slow
    def test_no_more_of_an_earlier_inspection_is_kept_than_a_page_has_room_for(self, tmp_path):
        report = {**dict.fromkeys(SAME, 1), "elsewhere": None, "not_measured": {}}
        one = {"trained": "5", "returns": {"3": [1.0, None, None]}, "holds": ["3"]}
        many = {f"env.x{number}": one for number in range(60_000)}
        (tmp_path / "inspect.json").write_text(json.dumps(report | {"elsewhere": many}))
        assert list(with_earlier(report, tmp_path)["elsewhere"]) == list(many)[:20]

    @pytest.mark.slow
    def test_a_changed_environment_is_inspected_and_the_change_reported(self, inspected):
        found, _, printed = inspected(*GIVEN, "env.corridor_length=9", "episodes=16")
        assert (found["window"], found["changed"]) == (10, ["env.corridor_length: 5 -> 9"])
        assert "changed: env.corridor_length: 5 -> 9" in printed

    @pytest.mark.slow
    def test_several_runs_stand_beside_each_other(self, run, inspected):  # noqa: F811
        other = run.parent / "other <run>"
        other.mkdir()
        for path in run.rglob("*"):
            if path.is_file():
                (other / path.relative_to(run)).parent.mkdir(exist_ok=True)
                (other / path.relative_to(run)).write_bytes(path.read_bytes())
        _, _, printed = inspected("run=[run,'other <run>']", "trust=[mine]", "episodes=16")
        assert printed.endswith("All of them: inspect_runs.html\n")
        page = (run.parent / "inspect_runs.html").read_text()
        assert "2 policies, beside each other" in page
        assert "other &lt;run&gt;" in page
        assert "<run>" not in page
        assert (other / "inspect.json").exists()
        # Each has its film on its own page.
        assert "<img" not in page
        assert all("<img" in (folder / "inspect.html").read_text() for folder in (run, other))

    @pytest.mark.parametrize(
        ("words", "exit_code", "message"),
        [
            ([], 2, "run: is missing. Name the folder of a run, such as outputs/runs/<date>/<run>."),
            (["run=[]"], 2, "run: must be the folder of a run, such as outputs/runs/<date>/<run>, or a list of such"),
            (["run=[run,run]"], 2, "run: run is listed twice. List each folder once."),
            (["run=[run"], 2, "run: its value cannot be read (got [run)."),
            (["run=nowhere"], 3, "run: nowhere does not exist. python -m seqrl.runs lists the runs."),
            (["run=[run,nowhere]", "trust=[mine]"], 3, "run: nowhere does not exist. python -m seqrl.runs lists"),
            (["run=run"], 2, "network._target_: mine.network is not of seqrl. If you trust it, add trust=[mine]."),
            ([*GIVEN, "episodes=0"], 2, "episodes: must be a whole number of at least 1 (got 0)."),
            (
                [*GIVEN, "epsiodes=3"],
                2,
                "epsiodes: there is no such key. Did you mean episodes? Keys: run, checkpoint,",
            ),
            ([*GIVEN, "--fast"], 2, "--fast: is not key=value. Run python -m seqrl.inspect --help for the keys."),
            (
                [*GIVEN, "checkpoint=7"],
                3,
                "run/checkpoints: there is none after 7 iterations; there are 0, 1, 2. Use",
            ),
            ([*GIVEN, "env.corridor_length=[4]"], 2, "env.corridor_length: list at least two values, and each once"),
            ([*GIVEN, "env.corridor_length=[4,4]"], 2, "env.corridor_length: list at least two values, and each once"),
            ([*GIVEN, "env.corridor_length=[4,0]"], 2, "env.corridor_length: must be a whole number of at least 1"),
            (
                [*GIVEN, "env.corridor_length=0"],
                2,
                "env.corridor_length: must be a whole number of at least 1 (got 0).",
            ),
        ],
    )
    def test_a_faulty_command_line_gets_one_line_with_a_remedy(self, run, refused, words, exit_code, message):  # noqa: F811
        before = contents(run)
        line, code = refused(*words)
        assert (line[: len(message)], code) == (message, exit_code)
        assert contents(run) == before

    def test_a_folder_where_the_page_belongs_is_refused_before_anything_is_measured(self, run, refused, monkeypatch):  # noqa: F811
        monkeypatch.delattr(program, "measured")
        (run / "inspect.html").mkdir()
        assert refused(*GIVEN, "episodes=2") == (
            f"inspect: {run / 'inspect.html'} is not a regular file. Move it away.",
            2,
        )

    @pytest.mark.slow
    def test_a_page_that_cannot_be_written_ends_the_program_with_one_line(self, run, refused, monkeypatch):  # noqa: F811
        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        assert refused(*GIVEN, "episodes=2") == (
            "inspect: could not write run/inspect.html: No space left on device. Mend that, and inspect again.",
            2,
        )
        assert not (run / "inspect.html").exists()
        assert not list(run.glob("*.tmp"))

    @pytest.mark.slow
    def test_a_single_episode_shows_nothing_and_breaks_nothing(self, inspected):
        found, page, printed = inspected(*GIVEN, "episodes=1")
        assert found["memory_is_used"]["used"] is None
        assert found["not_measured"]["memory_swapped"] == "not applicable: it takes two episodes side by side"
        assert "Too few episodes were played to tell" in printed
        assert "<svg" in page

    def test_help_lists_every_key(self, tmp_path):
        done = run_program(tmp_path, "-m", "seqrl.inspect", "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert all(f"\n  {key}=" in done.stdout for key in keys_of(Words))


class TestFilm:
    """Whatever becomes of the film, the page is complete without it."""

    WORDS = (*GIVEN, "episodes=8")

    def complete(self, run, page):  # noqa: F811
        found = json.loads((run / "inspect.json").read_text())
        assert found["window"] == 6
        assert found["said"] in page
        assert page.count("<svg") >= 8
        assert page.endswith("</body></html>\n")
        return True

    @pytest.mark.slow
    def test_the_page_shows_the_policy_and_says_what_is_to_be_seen(self, run, inspected):  # noqa: F811
        _, page, _ = inspected(*self.WORDS)
        assert self.complete(run, page)
        (gif,) = re.findall(r'<img src="data:image/gif;base64,(.*?)"', page)
        (png,) = re.findall(r'<source media="\(prefers-reduced-motion\)" srcset="data:image/png;base64,(.*?)"', page)
        # Three episodes of six steps.
        assert Image.open(io.BytesIO(base64.b64decode(gif))).n_frames == 18
        assert Image.open(io.BytesIO(base64.b64decode(png))).size == (480, 200 + 24 + 2 * 84)
        shows = "3 episodes, 18 steps: the environment, and below it the value and the probability of the action, step"
        assert f'alt="{shows} by step."' in page
        assert f"<figcaption>{shows} by step. The value and the action are in blue as the policy has them," in page
        assert "base64" not in (run / "inspect.json").read_text()
        # Near the top: before the first chart.
        assert page.index("<img") < page.index("<svg")

    @pytest.mark.slow
    def test_an_environment_that_cannot_be_drawn_is_shown_by_curves_and_the_page_says_why(
        self,
        run,  # noqa: F811
        inspected,
        monkeypatch,
    ):
        monkeypatch.setattr(masks, "_FROM_ENVIRONMENT", {"hush-hush": "MY_KEY"})

        def render(self):
            raise RuntimeError("no <display> at hush-hush")

        monkeypatch.setattr(TMaze, "render", render)
        _, page, _ = inspected(*self.WORDS)
        assert self.complete(run, page)
        assert ": the observation, the value and the probability of the action, step by step." in page
        assert "no pictures of the environment: its render raised RuntimeError: no &lt;display&gt; at ${oc.env:" in page
        assert "hush-hush" not in page

    @pytest.mark.slow
    @pytest.mark.thin(3)
    @pytest.mark.parametrize(
        ("fault", "line"),
        [
            (EnvError("env.id: <gone>."), "env.id: <gone>."),
            (RuntimeError("no palette"), "RuntimeError: no palette"),
            (MemoryError(), "MemoryError"),
        ],
    )
    def test_without_a_film_the_page_is_complete_and_says_why(self, run, inspected, monkeypatch, fault, line):  # noqa: F811
        def fails(*_):
            raise fault

        monkeypatch.setattr("seqrl.film.making.film", fails)
        _, page, printed = inspected(*self.WORDS)
        assert self.complete(run, page)
        assert "<img" not in page
        assert f'<p class="note">There is no film of it. {escape(line)}' in page
        assert printed.splitlines()[-1].startswith(f"No film: {line}")

    @pytest.mark.slow
    def test_the_page_is_there_before_the_film_begins(self, run, inspected, monkeypatch):  # noqa: F811
        def ends(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr("seqrl.film.making.film", ends)
        with pytest.raises(SystemExit) as ended:
            inspected(*self.WORDS)
        assert ended.value.code == 130
        page = (run / "inspect.html").read_text()
        assert self.complete(run, page)
        assert "There is no film of it. The program ended before it was made." in page

    @pytest.mark.slow
    def test_a_page_that_cannot_be_written_again_stays_as_it_was(self, run, inspected, monkeypatch):  # noqa: F811
        def full(path, data):
            if b"<img" in data:
                raise OSError(28, "No space left on device")
            write(path, data)

        monkeypatch.setattr(program, "write", full)
        _, page, printed = inspected(*self.WORDS)
        assert self.complete(run, page)
        assert printed.endswith("No film: could not write run/inspect.html again: No space left on device.\n")

    @pytest.mark.slow
    def test_no_film_is_made_if_none_is_wanted(self, run, inspected, monkeypatch):  # noqa: F811
        monkeypatch.setattr(program, "reel", None)
        _, page, _ = inspected(*self.WORDS, "video=false")
        assert self.complete(run, page)
        assert "film" not in page

    @pytest.mark.slow
    def test_a_film_of_noise_is_thinned_until_it_is_small(self, monkeypatch):
        monkeypatch.setattr(reel, "MOST_BYTES", 100_000)
        random = np.random.default_rng(0)
        noise = [random.integers(0, 256, (50, 240, 3), dtype=np.uint8) for _ in range(40)]
        films = [Film(noise, np.zeros(40), {"value": np.zeros((40, 2))})]
        assert len(gif(films)) > 250_000
        data, every = reel.small(films)
        assert len(data) <= 100_000
        assert every > 2
        # What can't be small enough shows how an episode begins and ends.
        monkeypatch.setattr(reel, "MOST_BYTES", 1000)
        data, _ = reel.small(films)
        assert Image.open(io.BytesIO(data)).n_frames == 2


SMALL = [
    "parallel=4",
    "network.hidden_size=8",
    "network.lstm_hidden_size=8",
    "hydra.run.dir=run",
    "evaluation.episodes=0",
]


class TestTrainedRuns:
    def inspected(self, folder, *words):
        with Program(folder, "-m", "seqrl.inspect", "run=run", *words) as program:
            _, errors = program.communicate(timeout=600)
        assert (program.returncode, errors) == (0, "")
        return json.loads((folder / "run" / "inspect.json").read_text())

    def test_a_network_without_memory_has_nothing_to_measure_but_its_return(self, tmp_path):
        done = train(tmp_path, *SMALL, "episodes=2", "network=mlp", "env.max_episode_steps=20")
        assert done.returncode == 0, done.stderr
        found = self.inspected(tmp_path, "episodes=8", "env.max_episode_steps=[20,5]")
        assert found["elsewhere"]["env.max_episode_steps"]["holds"] == ["20"]
        assert found["elsewhere"]["env.max_episode_steps"]["returns"]["5"] == [5, 5, 5]
        assert found["return"][0] > 6
        for key in (
            "memory_is_used",
            "window",
            "window_returns",
            "temporal_range",
            "probes",
            "contamination_half_life",
        ):
            assert found[key] is None
            assert found["not_measured"][key] == "not applicable: the network has no memory"
        assert found["said"].startswith("This policy has no memory: it acts on the present observation alone.")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "network",
        [
            "lstm",
            *(pytest.param(it, marks=pytest.mark.slow) for it in ("attention", "gru", "mingru", "matrix", "gtrxl")),
        ],
    )
    def test_the_training_of_a_truncated_run_is_measured(self, tmp_path, network):
        words = [f"network={network}", "sequence=truncated", "sequence_learning.bptt_length=5", "total_steps=512"]
        done = train(tmp_path, *SMALL, *words, "rollout_length=64", "network.heads=2", "network.window=4")
        assert done.returncode == 0, done.stderr
        found = self.inspected(tmp_path, "episodes=8")
        assert found["bptt_length"] == 5
        assert 0 < found["gradient_cut"] < 2
        assert found["gradient_cuts"]["5"] == found["gradient_cut"]
        assert 1 <= found["gradient_horizon"] <= 64
        assert found["staleness_kl"] > 0
        assert "It was trained with gradients over 5 steps." in found["said"]

    @pytest.mark.slow
    def test_numbers_in_the_info_of_a_gymnasium_environment_are_probed(self, tmp_path):
        (tmp_path / "told.py").write_text(TOLD)
        own = ["env.id=told:Told-v0", "trust=[told]", "env.backend=sync", "total_steps=64", "rollout_length=16"]
        done = train(tmp_path, *SMALL, *own)
        assert done.returncode == 0, done.stderr
        found = self.inspected(tmp_path, "trust=[told]", "episodes=16")
        assert {"observation", "hidden"} <= set(found["probes"])
        assert "words" not in found["probes"]
        assert found["probes"]["hidden"]["memory"]["0"] > 0.9


TOLD = """
import gymnasium as gym
import numpy as np

class Told(gym.Env):
    observation_space = gym.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.position = 0, 0.0
        return self._shown()

    def _shown(self):
        self.position = float(self.np_random.uniform(-1, 1))
        return np.array([self.position], np.float32), {"hidden": 3 * self.position, "words": "none", "all": [1]}

    def step(self, action):
        self.steps += 1
        observation, info = self._shown()
        return observation, 1.0, self.steps >= 20, False, info

gym.register("Told-v0", Told)
"""


@pytest.mark.slow
class TestSolvedTasks:
    """Policies that solve tasks whose memory is known."""

    def inspected(self, folder, *words):
        with Program(folder, "-m", "seqrl.train", *words, "hydra.run.dir=run", "evaluation.episodes=0") as training:
            _, errors = training.communicate(timeout=900)
        assert training.returncode == 0, errors
        return TestTrainedRuns().inspected(folder)

    def test_of_repeat_previous_it_needs_as_many_cards_as_the_answer_lies_back(self, tmp_path):
        found = self.inspected(tmp_path, "experiment=repeat_previous", "env.k=3", "total_steps=200000")
        assert found["return"][0] > 0.95
        assert found["window"] == 3
        assert found["probes"]["answer"]["memory"]["0"] > 0.7

    def test_of_a_t_maze_it_needs_the_whole_way_back_to_the_sign(self, tmp_path):
        found = self.inspected(tmp_path, "experiment=tmaze", "env.corridor_length=10", "total_steps=80000")
        assert found["return"][0] > 0.95
        assert found["window"] == 11
        assert found["probes"]["sign"]["memory"]["6"] > 0.95

    def test_of_a_masked_cart_pole_it_needs_a_few_positions(self, tmp_path):
        found = self.inspected(tmp_path, "experiment=masked_cartpole")
        assert found["memory_is_used"]["used"]
        assert 2 <= found["window"] <= 8
        # The velocity of the step before: what the last push did is not seen yet.
        assert found["probes"]["velocity"]["memory"]["1"] > 0.95

    def test_where_everything_is_seen_the_task_needs_no_memory(self, tmp_path):
        found = self.inspected(tmp_path, "experiment=masked_cartpole", "env.hidden=[]", "network=mlp")
        assert found["return"][0] > 400
        assert found["memory_is_used"] is None
        assert not found["need"]["is_there"]
        assert "The task shows no need of memory." in found["said"]


class TestPage:
    def test_names_that_an_environment_gives_are_words_and_no_html(self):
        line = Line({0.0: 1.0, 1.0: 2.0}, name="<b>&")
        chart = Chart(
            [line], "<x>", "<y>", {0.0: "<0>", 1.0: "1"}, marks=[(0.5, "<mark>", 0)], levels=[(1.5, "<level>")]
        )
        drawn = chart.legend() + chart.svg('a "title"')
        assert "&lt;b&gt;&amp;" in drawn
        for word in ("<b>", "<x>", "<y>", "<0>", "<mark>", "<level>", '"a "'):
            assert word not in drawn

    @pytest.mark.parametrize("width", WIDTHS.values())
    @pytest.mark.parametrize(("high", "low"), [(10.0, 0.0), (10.0, 9.9), (5.0, 4.6), (5.0, 5.0), (0.1, 0.0)])
    @pytest.mark.parametrize("marks", [(), ((3.0, "window 8", 0),), ((2.9, "window 7", 0), (3.0, "range 8", 1))])
    def test_words_in_a_chart_touch_neither_each_other_nor_a_curve_that_leaves_room(self, width, high, low, marks):
        # It ends where the level's words would be, at the right.
        line = Line({float(x): y for x, y in enumerate([0.0, 1.0, 2.0, high])})
        levels = [(high, "all of memory"), (low, "memory zeroed")]
        chart = Chart([line], "x", "y", {0.0: "0"}, marks, levels, least=[0.0, 10.0])
        labels = chart._labels(width)
        assert {"all of memory", "memory zeroed"} < {it.words for it in labels} | {""}
        assert not any(one.touches(other) for one, other in combinations(labels, 2))
        for label in labels:
            assert label.ends[0] >= 0
            assert label.ends[1] <= width
            if label.words == "all of memory" and high > 2:
                assert not any(label.holds(*at) for at in chart._path(line, width))

    @pytest.mark.parametrize("several", [False, True])
    def test_every_line_of_the_gradient_chart_has_a_name(self, several):
        report = {"gradient_cuts": {"1": 0.9, "2": 0.3, "4": 0.0}, "gradient_chance": {"1": 0.2, "2": 0.1}}
        report["gradient_horizon"] = 4
        found = gradient_figure({"a": report, "b": report} if several else {"a": report})
        names = re.findall(r"</i>(.*?)</span>", found.chart.legend())
        assert names == (["a", "b"] if several else ["what a cut loses", "what chance makes of that"])
        assert len(names) == len(found.chart.lines)

    def test_the_ticks_of_an_axis_are_few_and_round(self):
        assert nice(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
        assert nice(-3, 500) == [0, 100, 200, 300, 400, 500]
        assert nice(0.123, 0.131) == [0.124, 0.126, 0.128, 0.13]

    def test_a_chart_of_a_single_point_or_of_equal_heights_is_drawn(self):
        for y in ({0.0: 0.0}, {0.0: 5.0, 3.0: 5.0}):
            drawn = Chart([Line(y)], "x", "y", {0.0: "0"}).svg("one")
            assert "nan" not in drawn
            assert "inf" not in drawn.replace("infinite", "")

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"memory_is_used": {"used": False, "return_lost": -3.0, "interval": [-4.0, -2.0]}}, "memory hurts it"),
            ({"memory_is_used": {"used": True, "return_lost": 3.0, "interval": [2.0, 4.0]}, "window": 1}, "is enough."),
            ({"bptt_length": 1}, "It was trained without gradients through time."),
            (
                {"bptt_length": 0, "rollout_length": 32},
                "It was trained with gradients over whole rollouts of 32 steps.",
            ),
            ({"influence": {"policy": {"reach": 0}}}, "No earlier observation influences an action."),
            ({"influence": {"policy": {"reach": 1}}}, "Nothing beyond 1 step back influences an action."),
            ({"influence": {"policy": {"reach": 7}}}, "Nothing beyond 7 steps back influences an action."),
            ({"influence": {"policy": {"reach": 8}}}, "as long as its longest episode shows, 8 steps back."),
            ({"need": {"is_there": True}}, "The task needs memory: the past foretells what the present"),
            ({"need": {"is_there": False, "share": 0.0}}, "The task shows no need of memory."),
            ({"need": {"is_there": False, "share": 0.13}}, "Whether the task itself needs memory, one rollout could"),
            (
                {"bptt_length": 5, "gradient_horizon": 8},
                "The gradient of its last checkpoint reaches back 8 steps, the present one among them.",
            ),
        ],
    )
    def test_the_paragraph_says_what_was_measured(self, changes, sentence):
        used = {"used": False, "return_lost": 0.0, "interval": [-1.0, 1.0]}
        report = {**dict.fromkeys(KEYS), "memory_is_used": used, "window": 1, "length_max": 9}
        report |= {"bptt_length": None, "rollout_length": 0}
        assert sentence in paragraph({**report, **changes})


def test_a_bar_shows_what_comes_next(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr("seqrl.metrics.display.QuietConsole", lambda: Console(file=screen, force_terminal=True))
    with Bar() as bar:
        bar.show(0.5, "probes of memory")
    assert "50% probes of memory" in re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue())


@pytest.mark.slow
def test_a_run_in_a_folder_whose_name_is_not_utf_8_is_inspected(run, tmp_path, monkeypatch, capsys):  # noqa: F811
    odd = run.rename(tmp_path / os.fsdecode(b"b\xff"))
    monkeypatch.setattr(sys, "argv", ["inspect", f"run={odd}", *GIVEN[1:]])
    main()
    assert r"b\udcff" in (odd / "inspect.html").read_text(encoding="utf-8")
    assert (odd / "inspect.json").exists()
