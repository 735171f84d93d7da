import math

import pytest
import torch

from seqrl.algorithms.losses import approximate_kl, clipped_surrogate, scaled


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 2.0, -2.4),  # clipped: no gain beyond 1.2
        (0.5, 2.0, -1.0),  # the pessimistic side is never clipped
        (1.5, -2.0, 3.0),
        (0.5, -2.0, 1.6),
    ],
)
def test_clipped_surrogate_takes_the_worse_of_the_two(ratio, advantage, loss):
    log_ratio = torch.tensor([math.log(ratio)], dtype=torch.float64)
    assert clipped_surrogate(log_ratio, torch.tensor([advantage], dtype=torch.float64), 0.2).item() == pytest.approx(
        loss
    )


def test_kl_is_zero_at_ratio_one_and_positive_elsewhere():
    assert approximate_kl(torch.zeros(3)).item() == 0
    assert approximate_kl(torch.tensor([0.3, -0.3])).item() > 0


def test_scaled_has_root_mean_square_one():
    assert scaled(torch.tensor([1.0, -2.0, 3.0])).square().mean().item() == pytest.approx(1, abs=1e-5)
    assert scaled(torch.tensor([0.0])).tolist() == [0.0]


@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1e9, 1e30])
def test_scaled_does_not_depend_on_the_unit(unit):
    advantage = torch.tensor([1.0, -2.0, 3.0])
    assert torch.allclose(scaled(unit * advantage, 1e-8 * unit), scaled(advantage, 1e-8))


def test_rounding_errors_are_not_scaled_up():
    assert scaled(torch.tensor([1e-12, -1e-12]), rounding=1e-8).abs().max() < 1e-3
    assert scaled(torch.zeros(3), rounding=1e-8).tolist() == [0, 0, 0]
