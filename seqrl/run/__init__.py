"""The life of one run, and its folder."""
