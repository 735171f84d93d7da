import pytest
import torch

from seqrl.networks.layers import tanh_


@pytest.mark.parametrize("x", [[-40.0, -3.0, -1e-3, 0.0, 1e-3, 3.0, 40.0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_and_its_gradient_equal_torchs(x, dtype):
    tolerance = 2 * torch.finfo(dtype).eps  # one rounding of the sigmoid below 1, doubled, and one of the difference
    mine, theirs = (torch.tensor(x, dtype=dtype, requires_grad=True) for _ in range(2))
    y, expected = tanh_(mine * 1), torch.tanh(theirs)
    gradient, expected_gradient = (torch.autograd.grad(out.sum(), at)[0] for out, at in ((y, mine), (expected, theirs)))
    assert (y - expected).abs().max() <= tolerance
    assert (gradient - expected_gradient).abs().max() <= 2 * tolerance


def test_tanh_is_written_in_place_with_and_without_a_gradient():
    x = torch.ones(3)
    assert tanh_(x) is x
    y = torch.ones(3, requires_grad=True) * 1
    assert tanh_(y).data_ptr() == y.data_ptr()
