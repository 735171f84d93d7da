"""What can be wrong with an environment."""

from seqrl.errors import SeqrlError


class EnvError(SeqrlError):
    """The environment that was asked for cannot be played; one line: configuration key, what was given, remedy."""

    exit_code = 2


class FaultyEnvError(SeqrlError):
    """An environment did something wrong while it was played; one line: which, when, what."""

    exit_code = 5
