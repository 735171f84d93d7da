"""One run over several processes, its ranks, and exactly the run of one.

Each rank plays a share of the environments. Then all of them have the whole rollout and decide the same, and each
computes a share of the parts that every gradient is the sum of. `ALONE` is a run in one process.
"""

from seqrl.ranks.base import ALONE, Ranks

__all__ = ["ALONE", "Ranks"]
