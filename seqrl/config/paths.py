"""Where conf/ lies, in a checkout and in a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
# Shipped inside the package in a wheel, beside it in a checkout.
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())


def choices(group: str) -> list[str]:
    """Names of the files in a group."""
    return sorted(file.stem for file in (CONF / group.replace("sequence_learning", "sequence")).glob("*.yaml"))
