"""Check an environment and a network before training: `python -m seqrl.verify`."""
