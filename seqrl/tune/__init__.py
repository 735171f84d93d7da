"""Search for good values: `python -m seqrl.tune` proposes trials, sees to them, and learns from how they end."""
