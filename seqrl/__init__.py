"""seqrl: reinforcement learning for agents that must remember."""

from seqrl.config import resolvers

__version__ = "0.1.0"

# Sweep workers and readers of saved configurations need these as soon as the package is there.
resolvers.register()
