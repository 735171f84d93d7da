"""Evaluate the policy of a run: `python -m seqrl.evaluate`."""
