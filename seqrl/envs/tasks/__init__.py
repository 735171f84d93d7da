"""The built-in tasks, as tensor programs."""
