"""What a sweep says: `python -m seqrl.report outputs/sweeps/<...>` writes a page, its pictures and its tables."""
