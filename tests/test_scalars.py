"""The list of scalars names all that a run writes, and the documentation lists the same."""

import ast
import re
from contextlib import closing
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

from seqrl.loggers import SCALARS
from seqrl.metrics.display import Display
from seqrl.run.build import build, constructor, make_evaluator
from seqrl.run.loop import learn
from seqrl.run.stop import Stop
from tests.test_configuration import composed

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "seqrl").rglob("*.py"))
NAME = re.compile(r"(rollout|train|memory|evaluation|time)/[a-z_*]+")
# Everything optional that adds a scalar.
ALL_SCALARS = ["algorithm.normalize_reward=true", "evaluation.greedy=both", "evaluation.memoryless_control=true"]
ALL_SCALARS += ["insight.interval=1", "sequence=truncated", "sequence_learning.bptt_length=5"]
TINY = ["parallel=6", "rollout_length=16", "total_steps=192", "evaluation.episodes=2", "evaluation.interval=1"]


def names_in(source: str) -> set[str]:
    """String literals that look like a scalar's name; what an f-string fills in is `*`."""
    tree = ast.walk(ast.parse(source))
    texts = {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            texts.add("".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values))
    return {text for text in texts if NAME.fullmatch(text)}


def listed_in(table: str) -> tuple[set[str], set[str]]:
    """Scalars that a Markdown table lists, and those words of its first column that name none.

    Within a row a name may be shortened: `a/b_mean`, `_min`, `c` are a/b_mean, a/b_min and a/c. `*` and `…` stand for
    any letters. Beside the first column, words that name no scalar are ordinary words.
    """
    listed, unknown = set(), set()
    for row in table.splitlines():
        name = ""
        for column, cell in enumerate(row.strip().strip("|").split("|")):
            for word in re.findall(r"`([^`]+)`", cell):
                if "/" in word:
                    full = word
                elif word.startswith("_"):
                    full = name.rpartition("_")[0] + word
                else:
                    full = f"{name.partition('/')[0]}/{word}"
                if found := {scalar for scalar in SCALARS if fnmatchcase(scalar, full.replace("…", "*"))}:
                    listed |= found
                    name = full
                elif column == 0:
                    unknown.add(full)
    return listed, unknown


def test_literals_and_f_strings_are_recognized():
    source = 'a = "train/kl"; b = f"time/{part}_share"; c = "time/"; d = "run/x"; e = "train/bounded"'
    assert names_in(source) == {"train/kl", "time/*_share", "train/bounded"}


def test_a_scalar_named_in_the_source_is_listed():
    for path in MODULES:
        for name in names_in(path.read_text()):
            assert [scalar for scalar in SCALARS if fnmatchcase(scalar, name)], f"{name} of {path} is not in SCALARS"


def test_shortened_names_of_a_table_are_read_in_full():
    table = """
| `rollout/return_mean`, `_min`, `episodes` | with `algorithm.gamma=1`; also `length_mean` |
| `time/up…`, `none` | |
"""
    listed, unknown = listed_in(table)
    assert {name for name in listed if name.startswith("rollout")} == {
        "rollout/return_mean", "rollout/return_min", "rollout/episodes", "rollout/length_mean",
    }  # fmt: skip
    assert "time/update_share" in listed
    assert unknown == {"time/none"}


def test_the_documentation_lists_exactly_these_scalars():
    text = (ROOT / "docs" / "logging.md").read_text()
    (table,) = [block for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE) if "rollout/return_mean" in block]
    assert listed_in(table) == (set(SCALARS), set())


def test_a_run_with_everything_turned_on_writes_exactly_these_scalars():
    cfg = composed("env=masked_cartpole", "device=cpu", *TINY, *ALL_SCALARS)
    device = constructor(cfg.device)()
    written = set()
    outputs = SimpleNamespace(write=lambda row, env_steps: written.update(row), save=lambda *_: None)
    with closing(make_evaluator(cfg, device)) as evaluator:
        learn(cfg, build(cfg, device), evaluator, outputs, Display("quiet"), Stop())
    assert written == set(SCALARS)
