"""docs/keys.md says what the schemas say."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_of_keys_is_written_from_the_schemas():
    page = runpy.run_path(str(ROOT / "scripts" / "keys.py"))["page"]()
    assert (ROOT / "docs" / "keys.md").read_text() == page, "run python scripts/keys.py"
    assert "| `env.corridor_length` | int | `20` | a whole number of at least 1 |" in page
