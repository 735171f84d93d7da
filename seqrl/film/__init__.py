"""Films of a policy: what its environment looks like, and what memory does there."""
