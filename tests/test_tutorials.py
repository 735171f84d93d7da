"""Every command and program of docs/tutorials works, with budgets of a few thousand steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\w+\.py)\n")
# What is written, and what is run here: the same with a smaller budget.
SHORTER = [
    (re.compile(r"\btotal_steps=\d+"), "total_steps=2000"),
    (re.compile(r"\bseed=range\(\d+\)"), "seed=range(2)"),
]

pytestmark = pytest.mark.slow


def blocks(text):
    """The blocks of a page that are run, in their order, each with its language."""
    for language, code in BLOCK.findall(text):
        for written, run in SHORTER:
            code = written.sub(run, code)
        yield language, code


def play(page, folder):
    """Run the blocks of a page in a folder, one after another; a `python` block named by its first line is a file."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    for language, code in blocks(page):
        if language == "python" and (named := FILE.match(code)):
            (folder / named[1]).write_text(code)
            continue
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_every_block_of_a_tutorial_works(tutorial, tmp_path):
    page = tutorial.read_text()
    assert list(blocks(page))
    play(page, tmp_path)


@pytest.mark.parametrize(
    "broken", ["```bash\npython -m seqrl.runs nowhere_at_all\n```", "```python\nimport nothing_of_that_name\n```"]
)
def test_a_block_that_fails_fails_the_tutorial(broken, tmp_path):
    with pytest.raises(AssertionError, match=r"nowhere_at_all|nothing_of_that_name"):
        play(broken, tmp_path)
