"""The figures of an experiment as a table in Markdown: median over seeds, and their range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pyro_unmix.benchmark.tables import markdown

# Columns of `results.csv`, named as in `Evaluation`, and what the table calls them.
FIGURES = {"rmse": "RMSE", "rmse_unmatched": "RMSE, amplitude not matched", "sad": "SAD", "coverage_90": "coverage of 90 %",
           "crps": "CRPS", "cpu_seconds": "CPU seconds"}


def write_table(name: str, results: pd.DataFrame, key: Sequence[str], notes: Sequence[str]) -> str:
    """The text of `table.md`: one line for each setting `key`, whatever the seed; below it the runs that failed."""
    rows = [[*map(str, setting), str(int(part.rmse.notna().sum())), *(_cell(part[figure]) for figure in FIGURES)]
            for setting, part in results.groupby(list(key), sort=False)]
    legend = "Median over seeds, in brackets least to greatest. RMSE, coverage and CRPS of abundances; SAD in radians."
    lines = [f"# {name}", "", legend, "", *(f"- {note}" for note in notes), "",
             *markdown([*key, "seeds", *FIGURES.values()], rows)]
    if len(failed := results[results.error.notna()]):
        lines += ["", "Runs that failed:", "", *markdown([*key, "seed", "error"], [
            [*(str(row[each]) for each in key), str(row["seed"]), str(row["error"]).replace("|", "\\|")]
            for _, row in failed.iterrows()])]
    return "\n".join(lines) + "\n"


def _cell(values: pd.Series) -> str:
    found = values.dropna().to_numpy(float)
    if not len(found):
        return "–"
    digits = 0 if values.name == "cpu_seconds" else 4 if values.name != "coverage_90" else 2
    median = f"{np.median(found):.{digits}f}"
    return median if len(found) == 1 else f"{median} ({found.min():.{digits}f} to {found.max():.{digits}f})"
