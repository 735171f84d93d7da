"""From what was typed to a checked, final configuration, or to one line of error."""
