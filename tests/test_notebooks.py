"""Every notebook runs from top to bottom, in the setting that takes seconds, and is kept without outputs."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Those of real scenes and public libraries run where these are at hand.
NEED_DATA = {"04_transfer_cuprite", "05_paper_experiments"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")  # of the Jupyter client, not of the notebook
def test_runs(path, monkeypatch):
    if path.stem in NEED_DATA and not os.environ.get("PYRO_UNMIX_DATA"):
        pytest.skip("no folder of scenes")
    monkeypatch.setenv("PYRO_UNMIX_SMOKE", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_kept_without_outputs_and_says_how_long_it_takes(path):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
    assert "Run time" in notebook.cells[0].source


def test_there_are_notebooks():
    assert NOTEBOOKS
