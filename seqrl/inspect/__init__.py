"""Say in figures what the memory of a run's policy does: `python -m seqrl.inspect`."""
