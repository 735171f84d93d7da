import weakref
from dataclasses import replace

import gymnasium
import pytest
import torch
from torch import nn

from seqrl.envs import CartPole, GymnasiumEnv, TMaze
from seqrl.errors import FaultyEnvError
from seqrl.networks.heads import Categorical
from seqrl.run.evaluator import Evaluator, Forgetful, frozen, play, row
from tests.parts import small_network
from tests.worlds import Cue, Script


@pytest.mark.parametrize(("episodes", "lengths"), [(2, [3, 4]), (3, [3, 4, 5]), (7, [3, 4, 5, 4, 3, 4, 5])])
def test_episodes_are_counted_in_equal_shares_not_by_which_end_first(episodes, lengths):
    env = Script([[3, 5], [4]])
    returns, played = play(env, small_network(env), episodes, None, 100)
    assert played.tolist() == lengths
    # Rewards are 1, 2, 3, ...: an episode of n steps returns n (n + 1) / 2.
    assert returns.tolist() == [n * (n + 1) / 2 for n in lengths]


class Costly(Script):
    """Pays halves between a large price and what gives it back."""

    def step(self, action):
        step = super().step(action)
        large = {1.0: 1e8, 101.0: -1e8}
        return replace(step, reward=torch.tensor([large.get(it, 0.5) for it in step.reward.tolist()]))


def test_small_rewards_count_beside_large_ones_as_in_training():
    returns, _ = play(env := Costly([[101]]), small_network(env), 1, None, 200)
    assert returns.tolist() == [99 * 0.5]


class Weighty(Script):
    """Counts those of its observations that somebody still holds."""

    def __init__(self, lengths):
        super().__init__(lengths)
        self.shown, self.most = [], 0

    def observation(self):
        # A step may compute with a shallow copy, so that the numbers themselves are watched.
        observation = super().observation()
        self.shown = [it for it in self.shown if it() is not None] + [weakref.ref(observation.untyped_storage())]
        self.most = max(self.most, len(self.shown))
        return observation


def test_an_evaluation_holds_no_more_observations_however_long_it_plays():
    held = []
    for length in (3, 40):
        env = Weighty([[length]] * 4)
        play(env, small_network(env, "lstm"), 12, None, 100)
        held.append(env.most)
    assert held[0] == held[1] < 8


def test_scalars_of_an_evaluation():
    assert row(torch.tensor([1.0, 3.0]), torch.tensor([4.0, 6.0])) == {
        "evaluation/return_mean": 2.0,
        "evaluation/return_std": 1.0,
        "evaluation/return_min": 1.0,
        "evaluation/length_mean": 5.0,
        "evaluation/episodes": 2,
    }


class Harder(gymnasium.Wrapper):
    """Has a level, which each of its episodes raises: it falls that much sooner."""

    level = 0

    def reset(self, **given):
        self.level += 1
        return super().reset(**given)

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or abs(observation[2]) > 0.2 / self.level, truncated, info


def cartpoles(backend="sync", *wrappers):
    return GymnasiumEnv("CartPole-v1", 3, seed=1, backend=backend, wrappers=wrappers)


WORLDS = {
    "cartpole": lambda: CartPole(3, seed=1),
    "tmaze": lambda: TMaze(3, seed=1, corridor_length=2),
    "sync": cartpoles,
    "vector": lambda: cartpoles("vector"),
    "statistics": lambda: cartpoles("sync", gymnasium.wrappers.NormalizeObservation),
    "levels": lambda: cartpoles("sync", Harder),
    "of the user": lambda: Cue(3, seed=1),
}


def evaluator(make_env, episodes=7, greedy=True, memoryless_control=False):
    def generator():
        return torch.Generator().manual_seed(5)

    return Evaluator(make_env, generator, episodes, greedy, memoryless_control, episode_limit=1000)


@pytest.mark.thin(14)
@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("world", WORLDS)
def test_every_evaluation_plays_the_same_episodes(world, greedy):
    make_env = WORLDS[world]
    evaluations = evaluator(make_env, greedy=greedy)
    # A network that does not always act the same in these worlds.
    network = small_network(make_env(), seed=9)
    (first,) = evaluations.play(network).values()
    evaluations.play(small_network(make_env(), seed=1))
    (again,) = evaluations.play(network).values()
    assert [part.tolist() for part in again] == [part.tolist() for part in first]
    evaluations.close()
    # The episodes do differ from one another.
    returns, _ = play(make_env(), network, 60, None if greedy else torch.Generator().manual_seed(5), 1000)
    assert len(set(returns.tolist())) > 1
    assert returns[:7].tolist() == first[0].tolist()


def test_both_policies_and_the_control_without_memory_have_their_own_scalars():
    scalars = evaluator(lambda: Script([[3], [4]]), 2, "both", True).row(small_network(Script([[3]])))
    assert scalars == {
        "evaluation/return_mean": 8.0,
        "evaluation/return_std": 2.0,
        "evaluation/return_min": 6.0,
        "evaluation/length_mean": 3.5,
        "evaluation/episodes": 2,
        "evaluation/sampled_return_mean": 8.0,
        "evaluation/sampled_return_std": 2.0,
        "evaluation/sampled_return_min": 6.0,
        "evaluation/sampled_length_mean": 3.5,
        "evaluation/return_without_memory": 8.0,
    }


@pytest.mark.thin(2)
@pytest.mark.parametrize(("greedy", "likeliest"), [(True, True), (False, False)])
def test_the_likeliest_or_a_sampled_action_is_taken_as_asked_for(greedy, likeliest):
    make_env = WORLDS["cartpole"]
    network = small_network(make_env())
    means = [evaluator(make_env, 30, kind).row(network)["evaluation/return_mean"] for kind in (greedy, True, False)]
    assert means[1] != means[2]
    assert means[0] == means[1 if likeliest else 2]


def test_an_episode_that_never_ends_names_what_helps_where_whole_episodes_are_played():
    # With a rollout_length, as training accepts, an evaluation would play the same.
    whole = r"after 20 steps\. An evaluation plays whole episodes\. .*max_episode_steps.* evaluation\.episodes=0\.$"
    with pytest.raises(FaultyEnvError, match=whole):
        play(Script([[10**9]]), small_network(Script([[3]])), 1, None, episode_limit=20)


def test_without_episodes_nothing_is_built_or_logged():
    assert evaluator(lambda: pytest.fail("built"), episodes=0).row(None) == {}


class Adapts(nn.Module):
    """Updates a statistic with everything it sees in training, and drops out at random."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.noise = nn.Dropout(0.5)
        self.settled = nn.Dropout(0.5).eval()

    def initial_state(self, batch_size):
        return {}

    def step(self, observation, state):
        if self.training:
            self.seen += len(observation)
        return Categorical(self.noise(observation)), torch.zeros(len(observation)), {}


def test_an_evaluation_changes_neither_the_network_nor_torchs_random_state():
    network = Adapts()
    random = torch.get_rng_state()
    first = evaluator(lambda: Script([[3], [4]])).row(network)
    assert network.seen == 0
    assert torch.equal(torch.get_rng_state(), random)
    assert (network.training, network.noise.training, network.settled.training) == (True, True, False)
    assert evaluator(lambda: Script([[3], [4]])).row(network) == first
    with pytest.raises(ZeroDivisionError), frozen(network):
        _ = 1 / 0
    assert network.training


class Remembers:
    """Memorizes the cue of tests.worlds.Cue, and answers with it."""

    def initial_state(self, batch_size):
        return {"cue": torch.zeros(batch_size)}

    def step(self, observation, state):
        cue = torch.where(observation[:, 0] != 0, observation[:, 0], state["cue"])
        return Categorical(torch.stack([-cue, cue], 1)), torch.zeros(len(cue)), {"cue": cue}


def test_a_policy_that_remembers_is_lost_without_its_memory():
    with_memory, _ = play(Cue(200, seed=0), Remembers(), 200, None, 100)
    without, _ = play(Cue(200, seed=0), Forgetful(Remembers()), 200, None, 100)
    assert with_memory.mean() == 1
    assert abs(without.mean()) < 0.2


@pytest.mark.parametrize("world", ["statistics", "levels"])
def test_memory_that_is_not_used_costs_nothing_to_lose_whatever_environments_keep(world):
    network = small_network(WORLDS[world](), "memoryless", seed=9)
    with_memory, without = evaluator(WORLDS[world], memoryless_control=True).play(network).values()
    assert with_memory[0].tolist() == without[0].tolist()


def test_environments_end_before_others_take_their_place():
    alive = []

    class Only(Script):
        def __init__(self):
            assert not alive
            super().__init__([[3]])
            alive.append(self)

        def close(self):
            alive.clear()

    evaluations = evaluator(Only, 2, "both", True)
    evaluations.row(small_network(Script([[3]])))
    evaluations.close()
    assert not alive


def test_the_share_that_is_done_rises_over_all_rounds_and_ways_of_playing():
    shares = []
    network = small_network(Script([[3, 2], [5, 1]]))
    evaluator(lambda: Script([[3, 2], [5, 1]]), 4, "both").play(network, shares.append)
    assert shares == sorted(shares)
    # Greedy and sampled, two rounds each.
    assert sorted(set(shares)) == [0, 0.25, 0.5, 0.75]
