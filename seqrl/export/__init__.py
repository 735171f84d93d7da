"""Export the policy of a run, for use without seqrl and torch: `python -m seqrl.export`."""
