import pytest
import torch

from seqrl.algorithms.adam import Adam
from seqrl.networks import Attention
from tests.parts import ppo, small_network
from tests.programs import run_program
from tests.worlds import Script


def parameters():
    random = torch.Generator().manual_seed(0)
    plain = [torch.randn(shape, generator=random) for shape in ((3, 2), (4,), ())]
    # The last one is stored column by column.
    return [parameter.requires_grad_() for parameter in (*plain, torch.randn(4, 3, generator=random).T)]


def descend(optimizer, params, steps, idle=1):
    """Take some steps; the parameter `idle` has no gradient at every other one."""
    for step in range(steps):
        for i, parameter in enumerate(params):
            parameter.grad = None if i == idle and step % 2 else parameter.detach().sin() + step
        optimizer.step()


def test_adam_updates_parameters_as_torch_does_bit_for_bit():
    mine, theirs = parameters(), parameters()
    descend(Adam(mine, 0.01, 1e-5), mine, 7)
    descend(torch.optim.Adam(theirs, lr=0.01, eps=1e-5, fused=True), theirs, 7)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_parameters_with_a_rate_of_their_own_move_as_torch_moves_its_groups_bit_for_bit():
    mine, theirs = parameters(), parameters()
    rates = [1.0, 16.0, 1.0, 4.0]
    groups = [{"params": [p], "lr": rate * 0.01} for p, rate in zip(theirs, rates, strict=True)]
    descend(Adam(mine, 0.01, 1e-5, rates), mine, 7)
    descend(torch.optim.Adam(groups, eps=1e-5, fused=True), theirs, 7)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_gradient_that_is_a_slice_of_a_larger_tensor_updates_the_right_numbers():
    larger = torch.arange(12.0).view(3, 4)
    for shape in (torch.zeros(3, 2), torch.zeros(2, 3).T):
        whole, piece = shape.clone().requires_grad_(), shape.clone().requires_grad_()
        whole.grad, piece.grad = torch.empty_like(whole).copy_(larger[:, :2]), larger[:, :2]
        for parameter in (whole, piece):
            Adam([parameter], 0.01, 1.0).step()
        assert torch.equal(whole, piece)
        assert (whole.detach().argsort(0) == torch.tensor([[2], [1], [0]])).all()


@pytest.mark.parametrize("saved_by", ["Adam", "torch"])
def test_adam_continues_exactly_from_a_saved_state(saved_by):
    params, again = parameters(), parameters()
    optimizer = (
        Adam(params, 0.01, 1e-5) if saved_by == "Adam" else torch.optim.Adam(params, lr=0.01, eps=1e-5, fused=True)
    )
    descend(optimizer, params, 3)
    other = Adam(again, 0.01, 1e-5)
    other.load_state_dict(optimizer.state_dict())
    with torch.no_grad():
        for parameter, moved in zip(again, params, strict=True):
            parameter.copy_(moved)
    descend(optimizer, params, 2)
    descend(other, again, 2)
    assert all(torch.equal(a, b) for a, b in zip(params, again, strict=True))


@pytest.mark.parametrize("kind", ["lstm", "two layers", "gtrxl"])
def test_memory_learns_at_a_rate_of_its_own(kind):
    env = Script([[3]])
    moved = []
    for own in (None, 1e-3, 1e-5):
        algorithm = ppo(small_network(env, kind), learning_rate=1e-3, memory_learning_rate=own)
        algorithm.optimizer.learning_rate = 5e-4  # annealed by half
        before = {name: parameter.clone() for name, parameter in algorithm.parameters.items()}
        for parameter in algorithm.parameters.values():
            parameter.grad = torch.ones_like(parameter)
        algorithm.optimizer.step()
        moved.append({name: (it - before[name]).abs().max().item() for name, it in algorithm.parameters.items()})
    assert moved[0] == moved[1]
    memory = [name for name in moved[0] if ".memory." in name]
    assert memory
    for name, distance in moved[2].items():
        # Attention learns at rates of its own, as shares of that of the memory.
        rates = {"distance_bias": 16} if kind == "gtrxl" else Attention.rates
        rate = rates.get(name.partition("attention.")[2], 1)
        assert distance == pytest.approx(rate * 5e-6 if name in memory else 5e-4, rel=0.1), name


def test_a_state_of_other_parameters_is_refused():
    with pytest.raises(RuntimeError):
        Adam([torch.zeros(2)], 0.01, 1e-5).load_state_dict(Adam([torch.zeros(3)], 0.01, 1e-5).state_dict())


def test_training_starts_without_torchs_compiler(tmp_path):
    """Importing it takes a second at every start."""
    program = """
import sys
from hydra import compose, initialize_config_dir
from seqrl.run.build import build, constructor
from seqrl.config.paths import CONF
with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
    cfg = compose("config", ["profile=testing", "episodes=1", "parallel=2"])
build(cfg, constructor(cfg.device)()).iterate()
print("torch._dynamo" in sys.modules)
"""
    assert run_program(tmp_path, "-c", program).stdout == "False\n"
