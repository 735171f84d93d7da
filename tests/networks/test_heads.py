import math

import pytest
import torch
from gymnasium import spaces

from seqrl.errors import ConfigError
from seqrl.networks.heads import BoundedGaussian, Categorical, Categoricals, Gaussian, ValueHead, policy_head
from seqrl.spaces import Joint


def test_categorical_agrees_with_torch():
    logits = torch.randn(5, 4, dtype=torch.float64)
    ours, theirs = Categorical(logits), torch.distributions.Categorical(logits=logits)
    action = torch.tensor([0, 1, 2, 3, 0])
    assert torch.allclose(ours.log_prob(action), theirs.log_prob(action))
    assert torch.allclose(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), logits.argmax(-1))
    assert repr(ours) == f"Categorical(mode={ours.mode()})"


def test_the_barrier_pulls_at_an_alternative_however_rare_it_is():
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, -1.0, -2.0], [0.0, -60.0, 3.0]], dtype=torch.float64).requires_grad_()
    policy = Categorical(logits)
    uniform = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    divergence = torch.nn.functional.kl_div(policy.log_probs, uniform, reduction="none").sum(-1)
    assert torch.allclose(policy.barrier(), -divergence)
    (pull,) = torch.autograd.grad(policy.barrier().sum(), logits, retain_graph=True)
    assert torch.allclose(pull, 1 / 3 - policy.log_probs.exp())
    # Where the entropy has let go.
    (pull,) = torch.autograd.grad(policy.entropy().sum(), logits)
    assert pull[2, 1].abs() < 1e-20


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


def test_several_choices_agree_with_torch_and_respect_their_sizes():
    logits = torch.randn(5, 9, dtype=torch.float64)
    ours = Categoricals(logits, [2, 4, 3])
    theirs = [torch.distributions.Categorical(logits=part) for part in logits.split([2, 4, 3], -1)]
    action = torch.tensor([[0, 1, 2], [1, 3, 0], [0, 0, 0], [1, 2, 1], [0, 3, 2]])
    expected = sum(each.log_prob(action[:, k]) for k, each in enumerate(theirs))
    assert torch.allclose(ours.log_prob(action), expected)
    assert torch.allclose(ours.entropy(), sum(each.entropy() for each in theirs))
    each = sum(Categorical(part).barrier() for part in logits.split([2, 4, 3], -1))
    assert torch.allclose(ours.barrier(), each)
    drawn = Categoricals(logits[:1].expand(5000, 9), [2, 4, 3]).sample(torch.Generator().manual_seed(0))
    assert (drawn < torch.tensor([2, 4, 3])).all()
    assert drawn.max(0).values.tolist() == [1, 3, 2]


def truncated(location, log_std, x):
    """Density on a grid, normalised by its sum, without the formula of a truncated normal."""
    density = torch.exp(-0.5 * ((x - location) / log_std.exp()) ** 2)
    return density / (density.sum() * (x[1] - x[0]))


@pytest.mark.parametrize(("location", "log_std"), [(0.0, 0.0), (0.9, -1.0), (-1.0, 1.5), (0.3, -3.0)])
def test_a_bounded_gaussian_is_a_normal_distribution_truncated_to_its_bounds(location, log_std):
    x = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    location, log_std = torch.tensor([[location]], dtype=torch.float64), torch.tensor([log_std], dtype=torch.float64)
    density = truncated(location[0], log_std, x)
    ours = BoundedGaussian(location, log_std, torch.tensor([True]))
    some = torch.tensor([20_000, 100_000, 130_000, 190_000])
    assert torch.allclose(ours.log_prob(x[some].unsqueeze(1)), density[some].log(), atol=1e-4)
    entropy = -(density * density.clamp_min(1e-300).log()).sum() * (x[1] - x[0])
    assert ours.entropy().item() == pytest.approx(entropy.item(), abs=1e-4)
    drawn = BoundedGaussian(location.expand(50_000, 1).float(), log_std.float(), torch.tensor([True]))
    drawn = drawn.sample(torch.Generator().manual_seed(0))
    assert drawn.abs().max() <= 1
    mean = (density * x).sum() * (x[1] - x[0])
    assert drawn.mean().item() == pytest.approx(mean.item(), abs=0.01)


def test_unbounded_dimensions_are_plain_gaussian():
    mean, log_std = torch.randn(5, 2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    plain, ours = Gaussian(mean, log_std), BoundedGaussian(mean, log_std, torch.tensor([False, False]))
    action = 3 * torch.randn(5, 2, dtype=torch.float64)
    assert torch.allclose(plain.log_prob(action), ours.log_prob(action))
    assert torch.allclose(plain.entropy(), ours.entropy())
    assert ours.sample(torch.Generator().manual_seed(0)).abs().max() > 1


def test_gradients_stay_finite_for_very_wide_and_narrow_bounded_gaussians():
    for log_std in (-4.0, 3.0):
        location = torch.tensor([[-1.0], [0.0], [1.0]], requires_grad=True)
        spread = torch.tensor([log_std], requires_grad=True)
        policy = BoundedGaussian(location, spread, torch.tensor([True]))
        action = policy.sample(torch.Generator().manual_seed(0)).detach()
        (policy.log_prob(action).sum() + policy.entropy().sum()).backward()
        assert location.grad.isfinite().all()
        assert spread.grad.isfinite().all()


def test_masked_alternatives_are_never_chosen_and_add_no_probability_or_entropy():
    torch.manual_seed(0)
    head = policy_head(4, 8, spaces.MultiDiscrete([3, 2])).double()
    allowed = torch.tensor([[True, False, True, True, True], [False, True, False, False, True]])
    features = torch.randn(2, 4, dtype=torch.float64)
    policy = head(features, allowed)
    # Row 0: two times two nearly equal alternatives. Row 1: only one alternative each.
    assert policy.entropy().tolist() == pytest.approx([2 * math.log(2), 0], abs=0.01)
    assert policy.barrier().tolist() == pytest.approx([0, 0], abs=0.01)
    assert policy.log_prob(torch.tensor([[0, 0], [1, 1]]))[1] == 0
    many = head(features[:1].expand(1000, 4), allowed[:1].expand(1000, 5)).sample(torch.Generator().manual_seed(0))
    assert many[:, 0].unique().tolist() == [0, 2]
    (policy.entropy() + policy.barrier()).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_a_joint_policy_is_the_product_of_its_parts():
    parts = {"move": spaces.Discrete(3), "arm": spaces.Box(-1, 1, (2,)), "keys": spaces.MultiBinary(2)}
    torch.manual_seed(0)
    head = policy_head(4, 8, Joint(parts)).double()
    features = torch.randn(6, 4, dtype=torch.float64)
    policy = head(features, torch.tensor([True, True, False]).expand(6, 3))
    action = policy.sample(torch.Generator().manual_seed(0))
    assert action.shape == (6, 5)
    assert (action[:, 0] < 2).all()
    each = [h(features, m) for h, m in zip(head.heads, [torch.tensor([True, True, False]), None, None], strict=True)]
    pieces = action[:, 0].long(), action[:, 1:3], action[:, 3:].long()
    assert torch.allclose(policy.log_prob(action), sum(p.log_prob(a) for p, a in zip(each, pieces, strict=True)))
    assert torch.allclose(policy.entropy(), sum(p.entropy() for p in each))
    assert torch.allclose(policy.barrier(), sum(p.barrier() for p in each))
    assert torch.equal(policy.mode()[:, 0].long(), each[0].mode())


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([[2, 3]]), spaces.Box(0, 1, (2, 2)), spaces.Dict({})])
def test_an_action_space_without_a_policy_is_named(space):
    with pytest.raises(ConfigError, match="env: no policy for the action space"):
        policy_head(8, 8, space)


def test_value_statistics_start_at_the_first_batch_and_move_slowly():
    head = ValueHead(4, 8)
    head.adapt(torch.tensor([90.0, 110.0]), decay=0.99)
    assert (head.mean.item(), head.std.item()) == pytest.approx((100, 10))
    head.adapt(torch.tensor([190.0, 210.0]), decay=0.99)
    assert head.mean.item() == pytest.approx(150, abs=1)
    for _ in range(200):
        head.adapt(torch.tensor([190.0, 210.0]), decay=0.99)
    assert head.mean.item() == pytest.approx(200, abs=20)


def test_the_spread_includes_the_difference_between_batches():
    head = ValueHead(4, 8)
    for batch in ([90.0, 110.0], [190.0, 210.0]):
        head.adapt(torch.tensor(batch), decay=0.99)
    # Both batches weigh nearly the same: variance 100 within, 2500 between.
    assert head.std.item() == pytest.approx((100 + 50**2) ** 0.5, rel=0.01)


def test_an_untrained_head_predicts_the_mean_return_of_the_first_batch():
    head = ValueHead(4, 8)
    head.adapt(torch.tensor([90.0, 110.0]), decay=0.99)
    assert head(torch.zeros(1, 4)).item() == pytest.approx(100, abs=1)


def test_the_spread_of_large_nearly_equal_returns_survives_rounding():
    head = ValueHead(4, 8)
    random = torch.Generator().manual_seed(0)
    for _ in range(100):
        head.adapt(1e5 + 10 * torch.randn(2000, generator=random), decay=0.99)
    assert head.std.item() == pytest.approx(10, rel=0.02)


def test_equal_returns_do_not_divide_by_zero():
    head = ValueHead(4, 8)
    head.adapt(torch.full((10,), 3.0), decay=0.99)
    assert head(torch.randn(5, 4)).isfinite().all()


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1.0, 1e6])
def test_values_do_not_depend_on_the_unit_of_reward(unit):
    random = torch.Generator().manual_seed(0)
    heads = [ValueHead(4, 8), ValueHead(4, 8)]
    heads[1].load_state_dict(heads[0].state_dict())
    for _ in range(3):
        target = 3 + torch.randn(100, generator=random)
        heads[0].adapt(target, decay=0.99)
        heads[1].adapt(unit * target, decay=0.99)
    assert heads[1].std.item() == pytest.approx(unit * heads[0].std.item(), rel=1e-3)
    x = torch.randn(5, 4, generator=random)
    assert torch.allclose(heads[1](x) / unit, heads[0](x), rtol=1e-3)


@pytest.mark.parametrize("space", [spaces.Discrete(10**10), Joint({"a": spaces.MultiDiscrete([10**10])})])
def test_an_action_of_more_choices_than_any_machine_can_hold_is_named_with_the_memory_it_needs(space):
    said = (
        r"^env: the action, or a part of it, is chosen among 10,000,000,000 .* at least 81,920 GB of memory, and this"
    )
    with pytest.raises(ConfigError, match=said):
        policy_head(8, 512, space)
