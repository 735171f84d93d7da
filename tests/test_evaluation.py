import pytest
import torch

from seqrl.evaluation import Forgetful, play, row
from seqrl.networks.heads import Categorical
from tests.parts import small_network
from tests.worlds import Cue, Script


@pytest.mark.parametrize(("episodes", "lengths"), [(2, [3, 4]), (3, [3, 4, 5]), (7, [3, 4, 5, 4, 3, 4, 5])])
def test_episodes_are_counted_in_equal_shares_never_by_who_ends_first(episodes, lengths):
    env = Script([[3, 5], [4]])
    returns, played = play(env, small_network(env), episodes, None, 100)
    assert played.tolist() == lengths
    # Rewards are 1, 2, 3, ...: an episode of n steps returns n (n + 1) / 2.
    assert returns.tolist() == [n * (n + 1) / 2 for n in lengths]


def test_scalars_of_an_evaluation():
    assert row(torch.tensor([1.0, 3.0]), torch.tensor([4.0, 6.0])) == {
        "evaluation/return_mean": 2.0,
        "evaluation/return_std": 1.0,
        "evaluation/return_min": 1.0,
        "evaluation/length_mean": 5.0,
        "evaluation/episodes": 2,
    }


class Remembers:
    """Knows the cue of tests.worlds.Cue by heart, and answers with it."""

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
