"""Learning from rollouts: PPO and REINFORCE, through time and on single steps."""

from seqrl.algorithms.ppo import PPOAlgorithm, SequencePPOAlgorithm
from seqrl.algorithms.reinforce import ReinforceAlgorithm, SequenceReinforceAlgorithm

__all__ = ["PPOAlgorithm", "ReinforceAlgorithm", "SequencePPOAlgorithm", "SequenceReinforceAlgorithm"]
