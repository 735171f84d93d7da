"""What an earlier inspection of the same policy found with other values of other keys."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from seqrl.files import json_of, read_text
from seqrl.run.manifest import is_number
from seqrl.text import printable

# Where these agree, it was the same policy, and the same episodes.
SAME = ("iterations", "env_steps", "seed", "changed", "episodes", "greedy", "return")
# Of what is kept: keys, values of each, and characters of a text. A page has no room for more.
MOST_KEYS, MOST_VALUES, LONGEST = 20, 50, 100


def with_earlier(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A report of a run, with what its folder's inspect.json holds under `elsewhere` of keys that were not asked for.

    Nothing is kept that another policy did, or in other episodes, or that no inspection wrote.
    """
    kept = _kept(report, folder)
    if not kept:
        return report
    reasons = {key: why for key, why in report["not_measured"].items() if key != "elsewhere"}
    return report | {"elsewhere": kept | (report["elsewhere"] or {}), "not_measured": reasons}


def _kept(report: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    try:
        before = json_of(read_text(folder / "inspect.json"))
    except (OSError, ValueError):
        return {}
    if not isinstance(before, dict) or any(before.get(key) != report[key] for key in SAME):
        return {}
    found, asked = before.get("elsewhere"), report["elsewhere"] or {}
    if not isinstance(found, dict):
        return {}
    kept = (pair for pair in found.items() if pair[0] not in asked and _is_found(*pair))
    return dict(islice(kept, MOST_KEYS))


def _is_found(key: str, it: object) -> bool:
    """Whether it is what an inspection finds: anybody may have written the file."""
    return (
        key.startswith("env.")
        and isinstance(it, dict)
        and it.keys() == {"trained", "returns", "holds"}
        and isinstance(it["trained"], str)
        and isinstance(it["returns"], dict)
        and 0 < len(it["returns"]) <= MOST_VALUES
        and all(_is_estimate(estimate) for estimate in it["returns"].values())
        and isinstance(it["holds"], list)
        and len(it["holds"]) <= len(it["returns"])
        and all(isinstance(value, str) and value in it["returns"] for value in it["holds"])
        and all(printable(text) == text and len(text) <= LONGEST for text in (key, it["trained"], *it["returns"]))
    )


def _is_estimate(it: object) -> bool:
    return isinstance(it, list) and len(it) == 3 and is_number(it[0]) and all(x is None or is_number(x) for x in it)
