"""Every row of docs/guide.md: its command composes, and the test that it names is there."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from seqrl.config.paths import CONF
from seqrl.config.validate import faults
from tests.programs import run_program

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "docs" / "guide.md").read_text().splitlines()
ROWS = [
    cells
    for line in LINES
    if len(cells := [cell.strip() for cell in line.strip("|").split(" | ")]) == 4
    and cells[0] not in ("the guide says", "---")
]


def test_the_table_covers_every_section_of_the_guide():
    sections = [line.removeprefix("## ") for line in LINES if line.startswith("## ")]
    assert sections[:-1] == [
        "Sequence learning",
        "Templates",
        "Devices",
        "Selection of the algorithm",
        "Patterns",
        "Troubleshooting",
        "Best practices",
        "Migration",
        "Performance",
    ]
    assert len(ROWS) >= 40


@pytest.mark.parametrize(("says", "here", "command", "test"), ROWS)
def test_every_statement_of_the_guide_has_a_test(says, here, command, test):
    path, _, name = test.strip("`").partition("::")
    functions = [node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert name in functions


@pytest.mark.thin(6)
@pytest.mark.parametrize("command", sorted({row[2] for row in ROWS}))
def test_every_command_of_the_table_composes(command):
    words = shlex.split(re.fullmatch("`(.*)`", command).group(1))
    if words[1:3] == ["-m", "seqrl.train"]:
        overrides = words[3:]
    elif words[1] == "scripts/train.py":
        script = [str(ROOT / "scripts" / "train.py"), "--print", *words[2:]]
        printed = run_program(ROOT / "examples" / "guide", *script)
        assert printed.returncode == 0, printed.stderr
        overrides = shlex.split(printed.stdout)[3:]
    else:
        assert (ROOT / words[1]).is_file()
        return
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        assert faults(compose("config", overrides)) == []
