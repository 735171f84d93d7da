import torch

from seqrl.algorithms.returns import gae
from seqrl.types import Rollout


def rollout(reward, value, next_value, terminated=(), truncated=(), invalid=()) -> Rollout:
    """One environment, T steps; ends and unplayed steps are given by index."""
    steps = len(reward)

    def at(indices):
        flags = torch.zeros(steps, 1, dtype=torch.bool)
        flags[list(indices)] = True
        return flags

    column = lambda numbers: torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)  # noqa: E731
    return Rollout(
        observation=torch.zeros(steps, 1, 1),
        action=torch.zeros(steps, 1),
        log_prob=torch.zeros(steps, 1),
        value=column(value),
        next_value=column(next_value),
        reward=column(reward),
        terminated=at(terminated),
        truncated=at(truncated),
        valid=~at(invalid),
        age=torch.zeros(steps, 1, dtype=torch.long),
        state={},
        state_index=torch.full((steps, 1), -1),
    )


def test_gae_by_hand():
    # γ = λ = 0.5. Step 1 terminates (next value 0), step 3 is truncated (next value V(final) = 8), step 4 continues.
    played = rollout(
        reward=[1, 2, 3, 4, 5],
        value=[10, 20, 30, 40, 50],
        next_value=[20, 0, 40, 8, 6],
        terminated=[1],
        truncated=[3],
    )
    delta = [1 + 10 - 10, 2 + 0 - 20, 3 + 20 - 30, 4 + 4 - 40, 5 + 3 - 50]
    expected = [delta[0] + 0.25 * delta[1], delta[1], delta[2] + 0.25 * delta[3], delta[3], delta[4]]
    assert gae(played, 0.5, 0.5).flatten().tolist() == expected


def test_lambda_one_gives_the_monte_carlo_return():
    played = rollout([1, 2, 4], [7, 7, 7], [7, 7, 0], terminated=[2])
    returns = gae(played, 0.5, 1.0).flatten() + 7
    assert returns.tolist() == [1 + 1 + 1, 2 + 2, 4]


def test_an_episode_that_terminates_at_its_time_limit_has_no_bootstrap():
    played = rollout([1], [0], [0], terminated=[0], truncated=[0])
    assert gae(played, 0.9, 0.9).item() == 1


def test_unplayed_steps_affect_no_advantage_even_if_they_are_nan():
    nan = float("nan")
    played = rollout([1, nan, 2], [0, nan, 0], [0, nan, 4], terminated=[0], invalid=[1])
    assert gae(played, 0.5, 0.5).flatten().tolist() == [1, 0, 4]


def test_gae_equals_the_sum_in_the_paper():
    # A_t = Σ_l (γλ)^l δ_{t+l}, up to the episode's end.
    torch.manual_seed(0)
    reward, value, following = torch.randn(3, 20, dtype=torch.float64).tolist()
    ends = [4, 5, 13]
    played = rollout(reward, value, following, truncated=ends)
    delta = [r + 0.9 * n - v for r, n, v in zip(reward, following, value, strict=True)]
    for t, advantage in enumerate(gae(played, 0.9, 0.8).flatten().tolist()):
        end = next((e for e in ends if e >= t), 19)
        assert abs(advantage - sum(0.72 ** (i - t) * delta[i] for i in range(t, end + 1))) < 1e-12
