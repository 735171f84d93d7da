"""oneDNN's products against exact ones, on any processor that has oneDNN; which of the two is faster, not here."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import nn

from seqrl.export.model import _one_precision
from seqrl.networks import GRU, Attention, GTrXL, Matrix, MinGRU, product
from seqrl.networks.layers import Linear

INPUTS, OUTPUTS = 24, 40


@pytest.fixture
def calls(monkeypatch):
    """Rows of each of oneDNN's products, which are taken for faster, however small."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        pytest.skip("this build of torch has no products of oneDNN's")
    done, multiply = [], product.onednn

    def noted(x, *rest):
        done.append(len(x))
        return multiply(x, *rest)

    monkeypatch.setattr(product, "onednn", noted)
    monkeypatch.setattr("seqrl.networks.memory.gru.onednn", noted)
    monkeypatch.setattr(product, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(product, "ENOUGH_FOR_A_LAYER", 1)
    # The loop asks for fewer.
    monkeypatch.setattr(product.pays, "__defaults__", (1,))
    return done


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(multiply, gradient, *given):
    """What it returns, then a gradient for each of what it was given that wants one; None for the others."""
    leaves = [None if it is None else it.detach().requires_grad_(it.requires_grad) for it in given]
    y = multiply(*leaves)
    wanted = [it for it in leaves if it is not None and it.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, gradient.to(y)))
    return [y, *(next(found) if it is not None and it.requires_grad else None for it in leaves)]


def rounding(terms, *factors):
    """Bound of what rounding does to a sum of so many products of such factors."""
    return 2 * (terms + 1) * torch.finfo(torch.float32).eps * torch.stack([it.abs().max() for it in factors]).prod()


def assert_exact(gradient, x, weight, bias=None):
    """Value and gradients are those of exact arithmetic, but for what float32 rounds."""
    given = [x, weight, bias]
    exact = [None if it is None else it.detach().double().requires_grad_(it.requires_grad) for it in given]
    found = with_gradients(product.product, gradient, *given)
    expected = with_gradients(nn.functional.linear, gradient.double(), *exact)
    rows = x.numel() // x.shape[-1]
    bounds = [
        rounding(x.shape[-1], x, weight) + (0 if bias is None else rounding(1, bias)),
        rounding(len(weight), gradient, weight),
        rounding(rows, gradient, x),
        rounding(rows, gradient),
    ]
    for mine, true, bound in zip(found, expected, bounds, strict=True):
        assert (mine is None) == (true is None)
        if mine is not None:
            assert mine.shape == true.shape
            assert (mine.double() - true).abs().max() <= bound


@pytest.mark.parametrize(
    ("rows", "first"), [(1, 1), (15, 15), (31, 31), (33, 32), (63, 62), (64, 64), (100, 100), (103, 100), (1001, 992)]
)
@pytest.mark.parametrize("has_bias", [True, False])
def test_value_and_gradients_are_exact_whatever_rows_are_left_over(calls, rows, first, has_bias):
    x, weight = numbers(rows, INPUTS).requires_grad_(), numbers(OUTPUTS, INPUTS, seed=1).requires_grad_()
    bias = numbers(OUTPUTS, seed=2).requires_grad_() if has_bias else None
    assert_exact(numbers(rows, OUTPUTS, seed=3), x, weight, bias)
    assert calls == [first, first, OUTPUTS]


def test_value_and_gradients_are_exact_over_a_grid(calls):
    x, weight = numbers(13, 5, INPUTS).requires_grad_(), numbers(OUTPUTS, INPUTS, seed=1).requires_grad_()
    assert_exact(numbers(13, 5, OUTPUTS, seed=3), x, weight, numbers(OUTPUTS, seed=2).requires_grad_())
    assert calls == [64, 64, OUTPUTS]


@pytest.mark.parametrize("gradient", ["transposed", "expanded", "every other"])
def test_strides_make_no_difference(calls, gradient):
    of_y = {
        "transposed": numbers(OUTPUTS, 70).t(),
        "expanded": numbers(1, 1).expand(70, OUTPUTS),
        "every other": numbers(140, 2 * OUTPUTS)[::2, ::2],
    }[gradient]
    x, weight = numbers(INPUTS, 70).t(), numbers(OUTPUTS, 2 * INPUTS, seed=1)[:, ::2]
    assert_exact(of_y, x.requires_grad_(), weight.requires_grad_())
    assert calls


@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_only_the_gradients_that_are_wanted_are_computed(calls, wanted):
    x, weight = numbers(70, INPUTS), numbers(OUTPUTS, INPUTS, seed=1)
    {"x": x, "weight": weight}[wanted].requires_grad_()
    assert_exact(numbers(70, OUTPUTS, seed=3), x, weight, numbers(OUTPUTS, seed=2))
    assert calls == [68, {"x": 68, "weight": OUTPUTS}[wanted]]


def test_output_may_be_written_over(calls):
    x, weight = numbers(3, 30, INPUTS), numbers(OUTPUTS, INPUTS, seed=1).requires_grad_()
    plain = nn.functional.linear(x, weight).sigmoid().sum()
    written = product.product(x, weight).sigmoid_().sum()
    for one, other in zip(*(torch.autograd.grad(it, weight) for it in (plain, written)), strict=True):
        torch.testing.assert_close(one, other)
    assert calls


def test_gradient_of_a_gradient_is_torchs(calls):
    x, weight = numbers(70, INPUTS).requires_grad_(), numbers(OUTPUTS, INPUTS, seed=1).requires_grad_()

    def twice(multiply):
        (of_x,) = torch.autograd.grad(multiply(x, weight).square().sum(), x, create_graph=True)
        return torch.autograd.grad(of_x.square().sum(), [x, weight])

    for mine, theirs in zip(twice(product.product), twice(nn.functional.linear), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_threads_beside_each_other_compute_the_same_bits(calls):
    x, weight = numbers(1001, INPUTS).requires_grad_(), numbers(OUTPUTS, INPUTS, seed=1).requires_grad_()

    def once(_):
        return with_gradients(product.product, numbers(1001, OUTPUTS, seed=3), x, weight)

    alone = once(0)
    # As gradient threads are: a new thread does not inherit the setting.
    with ThreadPoolExecutor(2, initializer=partial(torch.set_num_threads, 1)) as threads:
        for beside in threads.map(once, range(8)):
            assert all(torch.equal(one, other) for one, other in zip(alone, beside, strict=True))
    assert calls


def test_torch_multiplies_where_nothing_else_was_measured(calls, monkeypatch):
    x, weight = numbers(70, INPUTS), numbers(OUTPUTS, INPUTS, seed=1).requires_grad_()
    with torch.no_grad():
        product.product(x, weight)
    product.product(x, weight.detach())
    product.product(x.double(), weight.double())
    product.product(x[:0], weight)
    with torch.autocast("cpu", torch.bfloat16):
        product.product(x, weight)
    with monkeypatch.context() as patch:
        patch.setattr(product, "ENOUGH_FOR_A_LAYER", 70 * INPUTS * OUTPUTS + 1)
        product.product(x, weight)
    with monkeypatch.context() as patch:
        patch.setattr(product, "onednn_is_faster", lambda: False)
        product.product(x, weight)
    with _one_precision():
        torch.export.export(Linear(INPUTS, OUTPUTS), (x,))
    assert calls == []
    product.product(x, weight)
    assert calls == [68]


@pytest.mark.parametrize(
    ("told", "capability", "is_faster"),
    [
        ({"vendor_id": "AuthenticAMD", "cpu family": "26"}, "AVX512", True),
        ({"vendor_id": "AuthenticAMD", "cpu family": "26"}, "AVX2", False),
        ({"vendor_id": "AuthenticAMD", "cpu family": "25"}, "AVX512", False),
        ({"vendor_id": "GenuineIntel", "cpu family": "26"}, "AVX512", False),
        ({}, "AVX512", False),
    ],
)
def test_only_zen_5_and_later_are_taken_for_faster(monkeypatch, told, capability, is_faster):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(product, "processor", lambda: told)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert product.onednn_is_faster.__wrapped__() == is_faster


def test_numbers_of_rows_recur():
    rounded = {rows: product.recurring_rows(rows) for rows in range(1, 5000)}
    assert all(rows - rounded[rows] <= rows / 16 for rows in rounded)
    assert len({it for rows, it in rounded.items() if 1024 <= rows < 2048}) == 16
    assert rounded[7] == 7
    assert rounded[2047] == 1984


@pytest.mark.parametrize(
    "make",
    [
        lambda: (GRU(8, 8), 8),
        lambda: (MinGRU(8, 8), 8),
        lambda: (MinGRU(4, 8), 4),
        lambda: (Matrix(8, 8, heads=2), 8),
        lambda: (GTrXL(8, 8, window=4, heads=2), 8),
        lambda: (Attention(8, window=4, heads=2), 8),
    ],
    ids=["gru", "mingru", "mingru, another width", "matrix", "gtrxl", "attention"],
)
def test_memory_learns_the_same_with_either(calls, make):
    torch.manual_seed(0)
    block, size = make()
    mask = torch.rand(23, 5, generator=torch.Generator().manual_seed(4)) > 0.2

    def learned(dtype):
        block.to(dtype)
        state = {
            name: numbers(*leaf.shape, seed=5).to(dtype) if leaf.is_floating_point() else leaf
            for name, leaf in block.initial_state(5).items()
        }
        x = numbers(23, 5, size).to(dtype).requires_grad_()
        y = block.unroll(x, state, mask)
        return torch.autograd.grad(
            (y * numbers(*y.shape, seed=6).to(dtype) * mask.unsqueeze(-1)).sum(), [x, *block.parameters()]
        )

    fast = learned(torch.float32)
    assert calls
    count = len(calls)
    # Products of float64 are torch's.
    for mine, true in zip(fast, learned(torch.float64), strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-4, atol=1e-4)
    assert len(calls) == count


def test_loop_of_the_gru_multiplies_with_either(calls):
    block, mask = GRU(8, 8), torch.ones(23, 5, dtype=torch.bool)
    block.unroll(numbers(23, 5, 8), block.initial_state(5), mask).sum().backward()
    # Once for each step and back, and three for what is no loop; of the gradient of x, nobody asked.
    assert calls.count(5) == 2 * 23
    assert len(calls) == 2 * 23 + 3
