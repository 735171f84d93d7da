"""Report on a sweep: `python -m seqrl.report outputs/sweeps/<...>` writes a page, its figures and its tables."""
