"""Words and numbers, written for people, and without what must not be shown."""

from seqrl.text.masks import (
    VARIABLE,
    Hidden,
    declassify,
    environment_read,
    hidden,
    hide,
    is_anything_masked,
    masked,
    masked_data,
    named_secrets,
    names_secret,
    plain_name,
    read_decoded,
    read_environment,
    show_path,
    unmasked,
)
from seqrl.text.words import (
    UNSAID,
    MaskedFormatter,
    cut,
    docstring,
    dotted,
    duration,
    encoded,
    few,
    figure,
    free,
    grows_by_its_keys,
    nearest,
    one_line,
    percentages,
    printable,
    say,
)

__all__ = [
    "UNSAID", "VARIABLE", "Hidden", "MaskedFormatter", "cut", "declassify", "docstring", "dotted", "duration",
    "encoded", "environment_read", "few", "figure", "free", "grows_by_its_keys", "hidden", "hide",
    "is_anything_masked", "masked", "masked_data", "named_secrets", "names_secret", "nearest", "one_line",
    "percentages", "plain_name", "printable", "read_decoded", "read_environment", "say", "show_path", "unmasked",
]  # fmt: skip
