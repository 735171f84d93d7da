"""How good the policy of a run is: `python -m seqrl.evaluate`."""
