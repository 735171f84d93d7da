"""Environments: one batched interface that speaks tensors on the policy's device.

BatchedEnv      the interface
CartPole        CartPole-v1 as a tensor program; shows all of its state, or only what must be remembered from
TMaze           the passive T-maze as a tensor program
MemoryChain     bsuite's memory chain as a tensor program
RepeatFirst, RepeatPrevious, CountRecall   POPGym's card games of memory as tensor programs
GymnasiumEnv    any environment that Gymnasium knows, through its own vector form, one process or many
EnvError        says in one line why an environment cannot be played
FaultyEnvError  says in one line what an environment did wrong while it was played
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
