"""Keys that have no effect are said to, and no others."""

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from seqrl.config.paths import choices
from seqrl.config.unused import unused
from seqrl.networks import Network
from seqrl.run.build import build, make_device, network_builder
from tests.programs import run_program
from tests.test_configuration import composed

IN_NETWORKS = ["lstm_hidden_size=64", "layers=2", "horizon=1000", "heads=2", "window=5", "separate_critic=true"]
IN_LEARNING = [
    "sequence_learning.bptt_length=3",
    "sequence_learning.stale_state=zero",
    "sequence_learning.burn_in=1",
    "algorithm.memory_learning_rate=1e-5",
    "rollout_steps=640",
]


def learned(*words: str) -> Tensor:
    """What a tiny run has learned after two updates."""
    cfg = composed("env=masked_cartpole", "parallel=2", "network.hidden_size=8", "network.lstm_hidden_size=8", *words)
    run = build(cfg, make_device(cfg))
    for _ in range(2):
        run.algorithm.update(run.runner.collect(), 0.0)
    return torch.cat([it.detach().flatten() for it in run.algorithm.parameters.values()])


def played(network: Network) -> Tensor:
    """Values of a dozen steps."""
    values, state = [], network.initial_state(2)
    for t in range(12):
        _, value, state = network.step(torch.full((2, 3), t / 12), state)
        values.append(value)
    return torch.stack(values)


@pytest.mark.slow
@pytest.mark.thin(7)
@pytest.mark.parametrize("choice", choices("network"))
def test_keys_of_a_network_are_named_where_they_change_nothing(choice):
    def plays_as(*words: str) -> Tensor:
        torch.manual_seed(1)
        build = network_builder(composed(f"network={choice}", *words))
        with torch.no_grad():
            return played(build(spaces.Box(-1, 1, (3,)), spaces.Discrete(2)))

    usual = plays_as()
    changes_nothing = [it for it in IN_NETWORKS if torch.equal(plays_as(f"network.{it}"), usual)]
    words = [f"network.{it}" for it in IN_NETWORKS]
    said = unused(composed(f"network={choice}", *words), words)
    assert [line.split()[0] for line in said] == [f"network.{it.partition('=')[0]}" for it in changes_nothing]


@pytest.mark.slow
@pytest.mark.thin(8)
@pytest.mark.parametrize(
    "words",
    [
        ["network=mlp"],
        ["network=lstm"],
        ["network=mlp", "rollout_length=16"],
        ["network=lstm", "rollout_length=16"],
        [
            "network=lstm",
            "rollout_length=16",
            "sequence_learning.stale_state=burn_in",
            "sequence_learning.bptt_length=2",
        ],
        ["network=attention", "network.use_lstm=false"],
        ["network=attention", "network.use_lstm=false", "rollout_length=16"],
        ["network=lstm", "rollout_length=16", "sequence=off"],
    ],
)
def test_keys_of_learning_are_named_where_they_change_nothing(words):
    usual = learned(*words)
    for word in IN_LEARNING:
        said = unused(composed(*words, word), [*words, word])
        assert bool(said) == torch.equal(learned(*words, word), usual), (word, said)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["network=mlp", "evaluation.memoryless_control=true"], ["evaluation.memoryless_control"]),
        (["evaluation.episodes=0", "evaluation.greedy=both"], ["evaluation.greedy"]),
        (["evaluation.greedy=both", "evaluation.memoryless_control=true"], []),
    ],
)
def test_keys_of_evaluations_are_named_where_nothing_is_evaluated_otherwise(words, named):
    assert [line.split()[0] for line in unused(composed(*words), words)] == named


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["algorithm.gradient_threads=2"], None),
        (["algorithm.gradient_threads=3"], "a gradient has algorithm.gradient_parts=2, each for one thread"),
        (["algorithm.gradient_threads=3", "algorithm.gradient_parts=3"], None),
        (
            ["algorithm.gradient_threads=3", "processes=3"],
            "processes=3 share algorithm.gradient_parts=3, each for one thread",
        ),
        (["algorithm.gradient_threads=2", "algorithm.gradient_parts=6", "processes=3"], None),
        (["algorithm.gradient_threads=2", "algorithm.gradient_parts=3", "processes=2"], None),
    ],
)
def test_threads_for_which_a_gradient_has_no_parts_are_named(words, why):
    assert unused(composed(*words), words) == ([f"algorithm.gradient_threads has no effect: {why}."] if why else [])


def test_what_others_may_read_is_not_named():
    words = ["network.memory._target_=my.Cell", "network.heads=2", "network.window=3", "network.horizon=9"]
    assert unused(composed(*words, "trust=[my]"), words) == []


def test_a_command_says_which_of_its_keys_decide_nothing(tmp_path):
    words = "network=mlp network.lstm_hidden_size=64 total_steps=1 rollout_length=4 parallel=1 evaluation.episodes=0"
    done = run_program(tmp_path, "-m", "seqrl.train", *words.split())
    assert "note: network.lstm_hidden_size has no effect: this network has no memory cell.\n" in done.stdout
    assert done.stdout.count("has no effect") == 1
    (folder,) = tmp_path.glob("outputs/runs/*/*")
    done = run_program(tmp_path, "-m", "seqrl.train", f"resume={folder}", "total_steps=5")
    assert "resumed after" in done.stdout
    assert "has no effect" not in done.stdout
