"""The figures of a benchmark as tables in Markdown: median over seeds, and their spread."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from pyro_unmix.benchmark.methods import OURS, START

_TITLES = {"real": "Real scenes", "simulated": "Simulated scenes", "fresh": "Fresh simulated scenes"}
_FIGURES = {
    "rmse": "Abundance RMSE, amplitude matched",
    "sad": "Spectral angle of the endmembers (rad)",
    "rmse_unmatched": "Abundance RMSE, amplitude not matched",
    "wall_seconds": "Wall seconds",
    "cpu_seconds": "CPU seconds",
    "peak_memory_mb": "Peak memory (MB)",
}
_OPEN = ("rmse", "sad")  # the others are folded away
_LEGEND = """\
Median over seeds, in brackets their spread (largest minus smallest). Less is better everywhere.
**Bold**: the best baseline of a scene, picked with its reference in sight, which flatters the baselines. ◀: ours is at least as
good. `start` is where our training begins, and no baseline. † some seeds failed; – all did, or there is no figure.
`NAME/l2` is NAME on pixels divided by their L2 norm. What was run, and on what machine: `config.json`; every run: `results.csv`.
"""


def write_tables(results: pd.DataFrame) -> str:
    """The text of `table.md`, from what `results.csv` holds."""
    lines = ["# Benchmark", "", _LEGEND]
    for kind, of_kind in results.groupby("kind", sort=False):
        lines += [f"## {_TITLES.get(str(kind), str(kind))}", "", *_best_against_ours(of_kind)]
        for group, part in of_kind.groupby("group", sort=False):
            lines += [f"### {str(group)[:1].upper()}{str(group)[1:]}", ""]
            for figure, title in _FIGURES.items():
                table = [f"{title}:", "", *_table(part, figure), ""]
                folded = ["<details>", f"<summary>{title}</summary>", "", *table[2:], "</details>", ""]
                lines += table if figure in _OPEN else folded
    return "\n".join([*lines, *_failures(results)]).rstrip() + "\n"


def _best_against_ours(results: pd.DataFrame) -> list[str]:
    """One line a scene: the best baseline and ours, RMSE and angle."""
    rows = []
    for scene, part in results.groupby("scene", sort=False):
        cells = [str(scene)]
        for figure in _OPEN:
            medians = part.groupby("method", sort=False)[figure].median()
            (name, best), ours = _best(medians), medians.get(OURS, math.nan)
            cells += [f"{name} {_number(best, figure)}", _number(ours, figure) + _mark(ours, best)]
        rows.append(cells)
    return [*markdown(["scene", "RMSE: best baseline", "ours", "angle: best baseline", "ours"], rows), ""]


def _table(results: pd.DataFrame, figure: str) -> Iterator[str]:
    """Methods by scenes."""
    scenes, methods = results.scene.unique(), results.method.unique()
    values = results.groupby(["method", "scene"])[figure].agg(["median", "min", "max", "count", "size"])
    best = {scene: _best(values["median"].xs(scene, level="scene")) for scene in scenes}
    rows = []
    for method in methods:
        cells = [f"**{method}**" if method == OURS else method]
        for scene in scenes:
            found = values.loc[(method, scene)]
            if not found["count"]:
                cells.append("–")
                continue
            cell = _number(found["median"], figure)
            cell = f"**{cell}**" if method == best[scene][0] else cell
            if found["size"] > 1:
                cell += f" ({_number(found['max'] - found['min'], figure)})"
            cell += "†" if found["count"] < found["size"] else ""
            if method == OURS:
                cell += _mark(found["median"], best[scene][1])
            cells.append(cell)
        rows.append(cells)
    return markdown(["method", *scenes], rows)


def _failures(results: pd.DataFrame) -> list[str]:
    failed = results[results.error.notna()]
    if failed.empty:
        return []
    rows = [[row.scene, row.method, str(row.seed), str(row.error).replace("|", "\\|")] for row in failed.itertuples()]
    return ["## Runs that failed", "", *markdown(["scene", "method", "seed", "error"], rows)]


def _best(medians: pd.Series) -> tuple[str, float]:
    """Name and figure of the best baseline; no name and NaN where there is none."""
    baselines = medians.drop([START, OURS], errors="ignore").dropna()
    return ("", math.nan) if baselines.empty else (str(baselines.idxmin()), float(baselines.min()))


def _mark(ours: float, best: float) -> str:
    return " ◀" if ours <= best else ""


def _number(value: float, figure: str) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.0f}" if figure == "peak_memory_mb" else f"{value:.2f}" if figure.endswith("seconds") else f"{value:.3f}"


def markdown(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Lines of a table, all columns but the first aligned to the right."""
    yield f"| {' | '.join(head)} |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
