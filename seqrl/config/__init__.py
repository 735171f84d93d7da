"""From the command line and conf/ to one checked, final configuration, or to one line of error."""
