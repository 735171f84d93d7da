import math
from functools import partial

import pytest
import torch

from seqrl.errors import ConfigError
from seqrl.networks import GRU, LSTM, Attention, Block, GTrXL, Matrix, MinGRU, Stack
from seqrl.networks.memory import gru, matrix, mingru
from seqrl.networks.memory.attention import distances, visibility
from seqrl.networks.memory.matrix import reach
from seqrl.networks.network import memory_cell

LENGTH, ROWS, WIDTH = 23, 3, 8


class StepByStep(LSTM):
    """Unrolls like a block that defines only `step`."""

    unroll = Block.unroll


class InKernel(GRU):
    """Unrolls as it does where there is no CPU."""

    def unroll(self, x, state, mask):
        return self._kernel(x, state["hidden"], mask)


class ShortChunks(Matrix):
    """Unrolls in chunks of five steps, the last of them three."""

    def unroll(self, x, state, mask):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(matrix, "CHUNK", 5)
            return super().unroll(x, state, mask)


class Widened(MinGRU):
    """Of other inputs than its width."""

    def __init__(self, input_size, size):
        super().__init__(2 * input_size, size)

    def step(self, x, state):
        return super().step(torch.cat([x, x.square()], -1), state)

    def unroll(self, x, state, mask):
        return super().unroll(torch.cat([x, x.square()], -1), state, mask)


BLOCKS = {
    "lstm": lambda: LSTM(WIDTH, WIDTH),
    "step by step": lambda: StepByStep(WIDTH, WIDTH),
    "gru": lambda: GRU(WIDTH, WIDTH),
    "gru in torch's kernel": lambda: InKernel(WIDTH, WIDTH),
    "mingru": lambda: MinGRU(WIDTH, WIDTH),
    "mingru, another width": lambda: Widened(WIDTH, WIDTH),
    "matrix": lambda: Matrix(WIDTH, WIDTH, heads=2),
    "matrix in short chunks": lambda: ShortChunks(WIDTH, WIDTH, heads=2),
    "gtrxl": lambda: GTrXL(WIDTH, WIDTH, window=4, heads=2),
    "two layers": lambda: Stack(GRU, WIDTH, WIDTH, 2),
    "two layers of matrices": lambda: Stack(partial(Matrix, heads=4), WIDTH, WIDTH, 2),
    "attention": lambda: Attention(WIDTH, window=4, heads=2),
    "attention past every step": lambda: Attention(WIDTH, window=50, heads=2),
    "attention one step back": lambda: Attention(WIDTH, window=1, heads=4),
}


def random_block(name, dtype=torch.float64):
    torch.manual_seed(0)
    block = BLOCKS[name]().to(dtype)
    for parameter in block.parameters():
        parameter.detach().normal_(0, 0.5)
    return block


def some_memory(block, dtype=torch.float64):
    """Memory of rows that have already seen 0, 2, 4, ... steps."""
    rows = []
    for age in range(ROWS):
        state = block.initial_state(1)
        for _ in range(2 * age):
            state = block.step(torch.randn(1, WIDTH, dtype=dtype), state)[1]
        rows.append(state)
    return {name: torch.cat([state[name] for state in rows]).detach() for name in rows[0]}


def grid_with_gaps():
    """Several pieces per row, with one or more unreal steps between them and at the ends."""
    mask = torch.ones(LENGTH, ROWS, dtype=torch.bool)
    mask[5, 0] = mask[9, 0] = mask[11:13, 1] = mask[1, 1] = mask[20:, 2] = False
    return mask


def plain(block, x, state, mask):
    """Step by step, with a new episode after each unreal step. Unreal steps yield zeros."""
    fresh = block.initial_state(1)
    rows = []
    for n in range(x.shape[1]):
        memory = {name: leaf[n : n + 1] for name, leaf in state.items()}
        outputs = []
        for t in range(len(x)):
            y, memory = block.step(x[t, n : n + 1], memory)
            if not mask[t, n]:
                y, memory = torch.zeros_like(y), fresh
            outputs.append(y.squeeze(0))
        rows.append(torch.stack(outputs))
    return torch.stack(rows, 1)


def relative(a, b):
    return ((a - b).norm() / b.norm().clamp_min(1e-12)).item()


@pytest.mark.parametrize("name", BLOCKS)
def test_unrolled_sequence_equals_acting_step_by_step_in_value_and_gradient(name):
    block, mask = random_block(name), grid_with_gaps()
    state = some_memory(block)
    x = torch.randn(LENGTH, ROWS, WIDTH, dtype=torch.float64) * mask.unsqueeze(-1)
    weight = torch.randn(LENGTH, ROWS, WIDTH, dtype=torch.float64) * mask.unsqueeze(-1)

    outputs, gradients = [], []
    for unroll in (block.unroll, lambda *inputs: plain(block, *inputs)):
        inputs = x.clone().requires_grad_()
        output = unroll(inputs, state, mask)
        gradients.append(torch.autograd.grad((output * weight).sum(), [inputs, *block.parameters()]))
        outputs.append(output[mask])
    assert (outputs[0] - outputs[1]).abs().max() < 1e-10
    assert all(relative(fast, slow) < 1e-10 for fast, slow in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", BLOCKS)
def test_nothing_passes_an_unreal_step(name):
    block, mask = random_block(name), torch.ones(LENGTH, ROWS, dtype=torch.bool)
    mask[10] = False
    state = some_memory(block)
    x = torch.randn(LENGTH, ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    output = block.unroll(x, state, mask)
    (gradient,) = torch.autograd.grad(output[11:].square().sum(), x)
    assert (gradient[:11] == 0).all()
    changed = torch.where(torch.arange(LENGTH).view(-1, 1, 1) < 10, 5.0, x)
    assert torch.equal(block.unroll(changed, state, mask)[11:], output[11:])


@pytest.mark.parametrize("name", BLOCKS)
def test_output_is_finite_everywhere(name):
    block, mask = random_block(name, torch.float32), torch.zeros(LENGTH, ROWS, dtype=torch.bool)
    mask[3] = True
    x = torch.randn(LENGTH, ROWS, WIDTH)
    assert block.unroll(x, block.initial_state(ROWS), mask).isfinite().all()


def test_lstm_equals_torch_lstm():
    block = random_block("lstm")
    theirs = torch.nn.LSTM(WIDTH, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(block.weight_input)
        theirs.weight_hh_l0.copy_(block.weight_hidden)
        theirs.bias_ih_l0.copy_(block.bias)
        theirs.bias_hh_l0.zero_()
    x = torch.randn(LENGTH, ROWS, WIDTH, dtype=torch.float64)
    ours = block.unroll(x, block.initial_state(ROWS), torch.ones(LENGTH, ROWS, dtype=torch.bool))
    assert torch.allclose(ours, theirs(x)[0], atol=1e-12)


def some_grid(length):
    """A grid of so many steps and three rows, and random numbers of some shapes for it, in float64."""
    mask = torch.ones(length, ROWS, dtype=torch.bool)
    mask[1, 0] = mask[-1, 1] = mask[length // 2, 2] = False
    random = torch.Generator().manual_seed(0)
    return mask, lambda *shape: torch.randn(shape, dtype=torch.float64, generator=random, requires_grad=True)


def test_the_gradient_of_the_gru_that_is_written_by_hand_is_that_of_its_values():
    mask, some = some_grid(4)
    numbers = (some(4, ROWS, 6), some(ROWS, 2), some(6, 2), some(2))
    assert torch.autograd.gradcheck(
        lambda gates, *o: gru.Recurrence.apply(gates.clone(), *o, gru.Unreal(mask)), numbers
    )


def test_the_gradient_of_the_mingru_that_is_written_by_hand_is_that_of_its_values(monkeypatch):
    # Pieces of nine steps, of four chunks and a step more, and one of two.
    monkeypatch.setattr(mingru, "CACHED", 9 * ROWS * 2)
    mask, some = some_grid(20)
    numbers = (some(20, ROWS, 6), some(20, ROWS, 2), some(ROWS, 2))
    assert torch.autograd.gradcheck(lambda gates, *o: mingru.Highway.apply(gates.clone(), *o, mask), numbers)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 23, 128])
def test_a_scan_in_chunks_gives_what_it_gives_step_by_step(length, back):
    keep, added = torch.rand(length, 3, 5, dtype=torch.float64), torch.randn(length, 3, 5, dtype=torch.float64)
    first = torch.randn(3, 5, dtype=torch.float64)
    expected, h = torch.empty_like(added), first
    for t in reversed(range(length)) if back else range(length):
        h = expected[t] = keep[t] * h + added[t]
    last = mingru.scan_(keep, added, first, back=back)
    assert torch.allclose(added, expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(last, h, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_half_of_an_lstm_begins_with_a_forget_bias_of_one_and_the_rest_keeps_memories_for_1_to_128_steps():
    torch.manual_seed(0)
    write, keep, candidate, output = LSTM(WIDTH, 1000).bias.detach().view(4, 1000)
    assert (keep[500:] == 1).all()
    assert (write[500:] == 0).all()
    # As many between 1 and 11 steps as between 11 and 128.
    assert keep[:500].exp().min() >= 1
    assert 120 < keep[:500].exp().max() <= 128
    assert 200 < (keep[:500] < math.log(128) / 2).sum() < 300
    assert torch.equal(write[:500], -keep[:500])
    assert not candidate.any()
    assert not output.any()


@pytest.mark.parametrize(("cell", "row", "sign"), [(GRU, 1, 1), (MinGRU, 0, -1)])
def test_half_of_a_gru_begins_by_keeping_memories_for_1_to_128_steps(cell, row, sign):
    torch.manual_seed(0)
    biases = cell(WIDTH, 1000).bias.detach().view(3, 1000)
    keep = sign * biases[row, :500]
    assert 0 <= keep.min() < 0.1
    assert math.log(120) < keep.max() <= math.log(128)
    biases[row, :500] = 0
    assert not biases.any()


def test_the_constant_reset_weights_are_neither_trained_nor_saved():
    block = LSTM(WIDTH, WIDTH)
    assert set(block.state_dict()) == set(dict(block.named_parameters())) == {"weight_input", "weight_hidden", "bias"}


def test_attention_sees_back_exactly_window_steps():
    block = random_block("attention")  # window 4
    x = torch.randn(LENGTH, 1, WIDTH, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(LENGTH, 1, dtype=torch.bool)
    output = block.unroll(x, block.initial_state(1), mask)
    (gradient,) = torch.autograd.grad(output[15].sum(), x)
    visible = (gradient.abs().sum((1, 2)) > 0).nonzero().flatten().tolist()
    assert visible == [11, 12, 13, 14, 15]


def test_distances_count_back_from_each_query_of_a_block():
    assert distances(window=2, block=2, device="cpu").tolist() == [[2, 1, 0, -1], [3, 2, 1, 0]]
    assert distances(window=1, block=3, device="cpu").tolist() == [
        [3, 2, 1, 0, -1, -2],
        [4, 3, 2, 1, 0, -1],
        [5, 4, 3, 2, 1, 0],
    ]


def test_a_step_sees_the_real_steps_of_its_own_piece_within_the_window():
    # Two rows of five steps in blocks of two. Row 0: one carried input exists, and step 2 is unreal. Row 1: both
    # carried inputs exist, and every step is real.
    mask = torch.tensor([[1, 1], [1, 1], [0, 1], [1, 1], [1, 1]], dtype=torch.bool)
    real = torch.tensor([[0, 1], [1, 1]], dtype=torch.bool)
    visible = visibility(mask, real, window=2, distance=distances(2, 2, "cpu"))
    expected = [
        [  # keys: both carried inputs, steps 0 and 1
            [[0, 1, 1, 0], [0, 1, 1, 1]],  # the carried input that exists; never a step ahead
            [[1, 1, 1, 0], [0, 1, 1, 1]],  # step 1: the older carried input lies beyond the window
        ],
        [  # keys: steps 0 to 3
            [[0, 0, 0, 0], [0, 0, 0, 1]],  # unreal step 2 sees nothing; step 3 sees no other piece and no unreal step
            [[1, 1, 1, 0], [0, 1, 1, 1]],  # step 3: step 0 lies beyond the window
        ],
        [  # keys: steps 2 to 4 and padding
            [[0, 1, 1, 0], [0, 0, 0, 0]],  # padding sees nothing and is not seen
            [[1, 1, 1, 0], [0, 0, 0, 0]],
        ],
    ]
    assert visible.int().tolist() == expected


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide the width 8"):
        Attention(8, window=4, heads=3)


@pytest.mark.parametrize(
    ("cell", "keeps"),
    [
        (LSTM, lambda bias: (bias[8:16].sigmoid(), bias[:8].sigmoid())),
        (GRU, lambda bias: (bias[8:16].sigmoid(), 1 - bias[8:16].sigmoid())),
        (MinGRU, lambda bias: (1 - bias[:8].sigmoid(), bias[:8].sigmoid())),
    ],
)
def test_with_a_horizon_gates_begin_by_keeping_memories_for_up_to_so_many_steps(cell, keeps):
    torch.manual_seed(0)
    block = Stack(cell, WIDTH, WIDTH, 2)
    block.expect(100)
    for layer in block.cells:
        kept, written = keeps(layer.bias.detach())
        steps = 1 / (1 - kept)
        assert 2 <= steps.min() < 50 < steps.max() <= 100
        assert torch.allclose(kept + written, torch.ones(WIDTH))


def test_layers_of_another_width_than_their_input_begin_as_it_with_what_their_cells_add():
    block, x = Stack(LSTM, 5, WIDTH, 3), torch.randn(2, 5)
    for cell in block.cells:
        torch.nn.init.zeros_(cell.weight_input)
    assert torch.equal(block.step(x, block.initial_state(2))[0], block.enter(x))
    assert set(block.initial_state(2)) == {f"{layer}.{leaf}" for layer in range(3) for leaf in ("hidden", "cell")}


def test_matrix_heads_begin_by_keeping_memories_for_different_numbers_of_steps():
    block = Matrix(WIDTH, WIDTH, heads=4)
    assert block.forget.bias.tolist() == [3, 4, 5, 6]
    block.expect(101)
    assert torch.allclose(1 / (1 - block.forget.bias.sigmoid()), torch.tensor([26.75, 51.5, 76.25, 101.0]), rtol=1e-4)


def test_steps_of_a_chunk_see_their_own_piece():
    mask = torch.tensor([1, 1, 0, 1, 1, 1], dtype=torch.bool).unsqueeze(1)
    sees, begins, ends = reach(mask, 3)
    assert sees.int().squeeze().tolist() == [[[1, 0, 0], [1, 1, 0], [0, 0, 0]], [[1, 0, 0], [1, 1, 0], [1, 1, 1]]]
    assert begins.int().squeeze().tolist() == [[1, 1, 0], [1, 1, 1]]
    assert ends.int().squeeze().tolist() == [[0, 0, 0], [1, 1, 1]]


def test_the_gated_transformer_begins_almost_as_the_identity():
    torch.manual_seed(0)
    block, x = GTrXL(WIDTH, WIDTH, window=4, heads=2), torch.randn(50, WIDTH)
    y, _ = block.step(x, block.initial_state(50))
    assert torch.nn.functional.cosine_similarity(x, y).min() > 0.8


@pytest.mark.parametrize("layers", [1, 2])
def test_a_cell_that_is_no_block_is_refused(layers):
    with pytest.raises(ConfigError, match=r"^network\.memory\._target_: must make a block \(got Linear\)"):
        memory_cell(torch.nn.Linear, WIDTH, WIDTH, layers)
