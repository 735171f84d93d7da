"""The site: `make docs` builds it into build/docs.

The source folder is the top of the checkout, so that links between all Markdown files mean the same here as where the
files themselves are shown.
"""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import seqrl  # noqa: E402  # the one of this checkout

project, author, release = "seqrl", "The seqrl authors", seqrl.__version__
project_copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "examples/**.md", "README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [".*", "build", "outputs", "**/outputs", "**/.*"]

html_theme, html_title = "furo", f"seqrl {release}"
html_static_path, html_css_files = ["_static"], ["site.css"]
html_copy_source = html_show_sourcelink = False
highlight_language = "none"
pygments_style, pygments_dark_style = "friendly", "monokai"

# Anchors of headings are those of GitHub.
myst_heading_anchors = 4

# In a docstring, `single backticks` are code.
default_role = "code"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
# Names of types in signatures are mostly of other libraries, whose indexes need a network.
nitpick_ignore_regex = [("py:.*", ".*")]

# "name   meaning", as docstrings here list parameters and attributes.
ENTRY = re.compile(r"(?P<name>\S(?:.*?\S)??)\s{3,}(?P<meaning>\S.*)")
# What reStructuredText would take for markup, outside of code.
MARKUP = re.compile(r"(`[^`]*`)|([*|\\]|(?<=\w)_(?!\w))")


def plain(text: str) -> str:
    """Text as it is; single backticks stay code."""
    return MARKUP.sub(lambda found: found[1] or f"\\{found[2]}", text)


def readable(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText: its lists as definition lists, its indented lines as literal blocks."""
    made: list[str] = []
    kind = ""  # of the lines so far: "", text, entry or literal
    for line in lines:
        entry = ENTRY.fullmatch(line) if line[:1].strip() else None
        if not line.strip():
            made.append("")
            kind = "literal" if kind == "literal" else ""
        elif entry:
            made += [*([] if kind == "entry" else [""]), f"``{entry['name']}``", f"    {plain(entry['meaning'])}"]
            kind = "entry"
        elif line[0] != " ":
            made += [*([""] if kind in ("entry", "literal") else []), plain(line)]
            kind = "text"
        elif kind == "entry":
            made.append(f"    {plain(line.strip())}")
        else:
            made += [*([] if kind == "literal" else ["", "::", ""]), line]
            kind = "literal"
    return made


def rewrite(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = readable(lines)


def add_front_door(app: Any, failed: Exception | None) -> None:
    """A file for whoever opens the folder of the site instead of its first page."""
    if failed is None and app.builder.format == "html":
        page = (
            '<!doctype html><meta charset="utf-8"><title>seqrl</title><meta http-equiv="refresh" content="0; url={0}">'
        )
        (Path(app.outdir) / "index.html").write_text(
            f'{page.format("docs/index.html")}<a href="docs/index.html">seqrl</a>\n'
        )


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", rewrite)
    app.connect("build-finished", add_front_door)
    return {"parallel_read_safe": True}
