"""The notebooks run from top to bottom, with the budgets of tests/test_tutorials.py, and are stored without results."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.test_tutorials import SHORTER

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
# Of libraries that speak to the kernel.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning")


def execute(notebook, folder, monkeypatch):
    """The same notebook with its outputs, in a kernel that works in a folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for cell in notebook.cells:
        for written, short in SHORTER:
            cell.source = written.sub(short, cell.source)
    return NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()


@quiet
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    done = execute(nbformat.read(path, as_version=4), tmp_path, monkeypatch)
    assert [cell.execution_count for cell in done.cells if cell.cell_type == "code"][-1] > 1
    assert list(tmp_path.glob("outputs/runs/*/*/manifest.json"))


@quiet
@pytest.mark.slow
def test_a_notebook_with_a_cell_that_fails_fails(tmp_path, monkeypatch):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import nothing_of_that_name")])
    with pytest.raises(CellExecutionError, match="nothing_of_that_name"):
        execute(notebook, tmp_path, monkeypatch)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_results_and_paths_of_a_machine(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert not re.search(r"/(home|Users|root|tmp|work)/", path.read_text())
