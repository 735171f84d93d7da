"""Search for good hyperparameters: `python -m seqrl.tune` proposes trials, runs them, and learns from the results."""
