"""Whether an environment and a network can be learned with exactly: `python -m seqrl.verify`."""
