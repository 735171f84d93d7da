"""What is measured during a run, and shown while it runs."""
