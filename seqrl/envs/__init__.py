"""Environments: one batched interface that speaks tensors on the policy's device.

BatchedEnv      the interface
CartPole        CartPole-v1 as a tensor program, fully observed or with indices hidden
TMaze           the passive T-maze as a tensor program
MemoryChain     bsuite's memory chain as a tensor program
RepeatFirst, RepeatPrevious, CountRecall   POPGym's memory card games as tensor programs
GymnasiumEnv    any registered Gymnasium environment: its own vector form, one process, or many
EnvError        why an environment cannot be played, in one line
FaultyEnvError  what an environment did wrong during play, in one line
"""

from seqrl.envs.base import BatchedEnv
from seqrl.envs.gym.adapter import GymnasiumEnv
from seqrl.envs.tasks.cards import CountRecall, RepeatFirst, RepeatPrevious
from seqrl.envs.tasks.cartpole import CartPole
from seqrl.envs.tasks.memory_chain import MemoryChain
from seqrl.envs.tasks.tmaze import TMaze
from seqrl.errors import EnvError, FaultyEnvError

__all__ = [
    "BatchedEnv",
    "CartPole",
    "CountRecall",
    "EnvError",
    "FaultyEnvError",
    "GymnasiumEnv",
    "MemoryChain",
    "RepeatFirst",
    "RepeatPrevious",
    "TMaze",
]
