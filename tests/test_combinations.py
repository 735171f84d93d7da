"""Every algorithm with every network, every way to cut and both kinds of action: composed, built and trained."""

import pytest
from hydra import compose, initialize_config_dir

from seqrl.algorithms.returns import gae
from seqrl.algorithms.sequences import split
from seqrl.config.paths import CONF
from seqrl.config.schema import CELLS
from seqrl.config.validate import faults
from seqrl.run.build import build, constructor

ALGORITHMS = {
    "PPOAlgorithm": ("ppo", False),
    "SequencePPOAlgorithm": ("ppo", True),
    "ReinforceAlgorithm": ("reinforce", False),
    "SequenceReinforceAlgorithm": ("reinforce", True),
}
ENVS = {"discrete": ["env=masked_cartpole"], "continuous": ["env=gymnasium", "env.id=Pendulum-v1", "env.backend=sync"]}
TINY = ["network.hidden_size=8", "network.lstm_hidden_size=8", "network.window=5", "parallel=3", "rollout_length=24"]


@pytest.mark.thin(78)
@pytest.mark.parametrize("actions", ENVS)
@pytest.mark.parametrize("sequence", ["full", "truncated", "off"])
@pytest.mark.parametrize(
    "network",
    ["lstm", "attention", "mlp", *(pytest.param(it, marks=pytest.mark.slow) for it in CELLS if it != "lstm")],
)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_combination_trains_and_begins_with_a_ratio_of_one(name, network, sequence, actions):
    algorithm, through_time = ALGORITHMS[name]
    overrides = [
        f"algorithm={algorithm}",
        # Also where the rule would have chosen another.
        f"algorithm._target_=seqrl.algorithms.{name}",
        "algorithm.bptt_length=${sequence_learning.bptt_length}",
        *(["algorithm.epochs=2"] if algorithm == "ppo" else []),
        f"network={network}",
        f"sequence={sequence}",
        *ENVS[actions],
        *TINY,
        *(["sequence_learning.bptt_length=7"] if sequence == "truncated" else []),
    ]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", overrides)
    assert faults(cfg) == []
    run = build(cfg, constructor(cfg.device)())
    run.iterate()
    fresh = build(cfg, constructor(cfg.device)())
    # The second rollout carries memory in from the first.
    fresh.runner.collect()
    rollout = fresh.runner.collect()
    fresh.algorithm.network.value.adapt(rollout.value[rollout.valid], 0.99)
    advantage = gae(rollout, 0.9, 0.9)
    sequences = split(rollout, advantage, advantage, fresh.algorithm.settings.bptt_length)
    (batch,) = sequences.batches(max_steps=None)
    policy, _ = fresh.algorithm.network.unroll(batch)
    assert (policy.log_prob(batch.action) - batch.log_prob).abs().max() < 1e-5
    longest = int(sequences.length.max())
    assert longest == 7 if through_time and sequence == "truncated" else (longest > 7) is through_time

    before = [parameter.clone() for parameter in run.algorithm.network.parameters()]
    row = run.iterate()
    assert type(run.algorithm).__name__ == name
    assert run.iterations == 2
    assert row["train/skipped"] == 0
    assert any((a != b).any() for a, b in zip(before, run.algorithm.network.parameters(), strict=True))
