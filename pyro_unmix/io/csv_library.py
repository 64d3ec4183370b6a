"""Spectral libraries as tables of text, separated by commas: a spectrum a row, or a spectrum a column."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from pyro_unmix.errors import InputError


def read_library(path: Path) -> dict:
    """A first line of wavelengths and a first column of names, or a first column of wavelengths and a first line of names.

    In the first form columns whose head is no number, such as a class, are passed over.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            head, *rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"a table of text in '{path.name}'", f"{error}", "write it as CSV in UTF-8") from error
    uneven = next((number for number, row in enumerate(rows, 2) if len(row) != len(head)), None)
    if uneven is not None:
        raise InputError(f"{len(head)} cells in every line of '{path.name}'", f"{len(rows[uneven - 2])} in line {uneven}",
                         "put names that hold a comma in quotation marks")
    bands = [column for column, cell in enumerate(head) if _is_number(cell)]
    labels = [column for column in range(len(head)) if column not in bands]
    if rows and bands and labels:
        spectra = _numbers([[row[column] for column in bands] for row in rows], path)
        return {"spectra": spectra, "names": [row[labels[0]].strip() for row in rows],
                "wavelengths": np.array([float(head[column]) for column in bands])}
    if len(rows) > 1 and len(head) > 1 and not bands:
        table = _numbers(rows, path)
        if np.isfinite(table[:, 0]).all():
            return {"spectra": table[:, 1:].T, "names": [cell.strip() for cell in head[1:]], "wavelengths": table[:, 0]}
    raise InputError(f"a first line of wavelengths and a first column of names in '{path.name}', or the other way round",
                     f"{len(rows) + 1} lines that start with {', '.join(head[:4])[:60] or 'nothing'}",
                     "add the names, or build a SpectralLibrary")


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _numbers(rows: list[list[str]], path: Path) -> np.ndarray:
    """An empty cell is a missing value."""
    try:
        return np.array([[float(cell) if cell.strip() else math.nan for cell in row] for row in rows])
    except ValueError as error:
        raise InputError(f"numbers below the first line of '{path.name}'", f"{error}",
                         "leave cells without a value empty") from None
