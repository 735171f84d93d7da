"""The pages: each has a place, each link a target, and docstrings are readable in the site."""

import html
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*DOCS.rglob("*.md"), *(ROOT / "examples").glob("*/*.md"), *ROOT.glob("*.md")]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def readable():
    return runpy.run_path(str(DOCS / "conf.py"))["readable"]


def test_every_page_has_a_place_in_the_index():
    index = DOCS / "index.md"
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index.read_text(), re.DOTALL)
    entries = [
        line.split("<")[-1].rstrip(">") for tree in trees for line in tree.splitlines() if line[:1] not in (":", "")
    ]
    assert {(DOCS / f"{entry}.md").resolve() for entry in entries} == {page.resolve() for page in PAGES} - {index}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files_of_the_checkout(page):
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_glossary_has_a_sentence_for_each_word_in_alphabetical_order():
    entries = re.sub(r"\n  ", " ", (DOCS / "glossary.md").read_text()).split("\n- ")[1:]
    words = [re.match(r"\*\*(.+?)\*\*: ", entry)[1] for entry in entries]
    assert words == sorted(words)
    assert all(entry.strip().endswith(".") and ". " not in entry for entry in entries)


def test_the_tutorial_quotes_the_report_that_it_links():
    page = re.sub(r"<[^>]+>", " ", (DOCS / "studies" / "how_far_back.html").read_text())
    page = " ".join(html.unescape(page).replace("p =", "").split())
    sentence, table = re.findall(r"```text\n(.*?)```", (DOCS / "tutorials" / "read_a_report.md").read_text(), re.DOTALL)
    assert " ".join(sentence.split()) in page
    rows = [" ".join(row.split()) for row in table.splitlines()[1:]]
    assert len(rows) == 3
    # On the page, p stands beneath the interval, and the number of seeds after it.
    assert [row for row in rows if row not in page] == []


def test_a_list_in_a_docstring_becomes_a_definition_list(readable):
    lines = ["Act.", "", "where      [B, *O], which", "           matters", "checkpoint   `last`", "", "Raises it."]
    assert readable(lines) == [
        "Act.",
        "",
        "",
        "``where``",
        r"    [B, \*O], which",
        "    matters",
        "``checkpoint``",
        "    `last`",
        "",
        "Raises it.",
    ]


def test_indented_lines_of_a_docstring_become_code(readable):
    assert readable(["So:", "", "    a = 1", "", "    b = 2", "", "That."]) == [
        *["So:", "", "", "::", "", "    a = 1", "", "    b = 2", "", "", "That."]
    ]
