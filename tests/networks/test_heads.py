import pytest
import torch
from gymnasium import spaces

from seqrl.errors import ConfigError
from seqrl.networks.heads import Categorical, Gaussian, ValueHead, policy_head


def test_categorical_agrees_with_torch():
    logits = torch.randn(5, 4, dtype=torch.float64)
    ours, theirs = Categorical(logits), torch.distributions.Categorical(logits=logits)
    action = torch.tensor([0, 1, 2, 3, 0])
    assert torch.allclose(ours.log_prob(action), theirs.log_prob(action))
    assert torch.allclose(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), logits.argmax(-1))


def test_gaussian_agrees_with_torch():
    mean, log_std = torch.randn(5, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    ours = Gaussian(mean, log_std)
    theirs = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    action = torch.randn(5, 3, dtype=torch.float64)
    assert torch.allclose(ours.log_prob(action), theirs.log_prob(action))
    assert torch.allclose(ours.entropy(), theirs.entropy())


def test_samples_follow_the_distribution():
    generator = torch.Generator().manual_seed(0)
    probability = torch.tensor([0.1, 0.2, 0.7])
    drawn = Categorical(probability.log().expand(20000, 3)).sample(generator)
    assert torch.allclose(drawn.bincount(minlength=3) / 20000, probability, atol=0.015)
    numbers = Gaussian(torch.full((20000, 1), 3.0), torch.tensor([0.5]).log()).sample(generator)
    assert numbers.mean().item() == pytest.approx(3, abs=0.02)
    assert numbers.std().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.Box(0, 1, (2, 2)), spaces.Dict({})])
def test_an_action_space_without_a_policy_is_named(space):
    with pytest.raises(ConfigError, match="env: no policy for the action space"):
        policy_head(8, 8, space)


def test_statistics_of_values_begin_with_the_first_batch_and_move_slowly():
    head = ValueHead(4, 8)
    head.adapt(torch.tensor([90.0, 110.0]), decay=0.99)
    assert (head.mean.item(), head.std.item()) == pytest.approx((100, 10))
    head.adapt(torch.tensor([190.0, 210.0]), decay=0.99)
    assert head.mean.item() == pytest.approx(150, abs=1)
    for _ in range(200):
        head.adapt(torch.tensor([190.0, 210.0]), decay=0.99)
    assert head.mean.item() == pytest.approx(200, abs=20)


def test_the_spread_counts_what_lies_between_batches():
    head = ValueHead(4, 8)
    for batch in ([90.0, 110.0], [190.0, 210.0]):
        head.adapt(torch.tensor(batch), decay=0.99)
    # Nearly equal shares of both: variance 100 within, 2500 between.
    assert head.std.item() == pytest.approx((100 + 50**2) ** 0.5, rel=0.01)


def test_a_head_that_knows_nothing_predicts_the_mean_return_of_the_first_batch():
    head = ValueHead(4, 8)
    head.adapt(torch.tensor([90.0, 110.0]), decay=0.99)
    assert head(torch.zeros(1, 4)).item() == pytest.approx(100, abs=1)


def test_the_spread_of_large_returns_that_are_nearly_alike_is_not_lost_in_rounding():
    head = ValueHead(4, 8)
    random = torch.Generator().manual_seed(0)
    for _ in range(100):
        head.adapt(1e5 + 10 * torch.randn(2000, generator=random), decay=0.99)
    assert head.std.item() == pytest.approx(10, rel=0.02)


def test_equal_returns_do_not_divide_by_zero():
    head = ValueHead(4, 8)
    head.adapt(torch.full((10,), 3.0), decay=0.99)
    assert head(torch.randn(5, 4)).isfinite().all()
