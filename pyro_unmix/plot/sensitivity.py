"""How a guide degrades where scenes are not what it was trained on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pyro_unmix.plot.frame import COLOURS, subplots


def sensitivity(results: pd.DataFrame) -> Figure:
    """Errors and coverage by shift, means over scenes: one line a shift.

    `results` is what `sensitivity.csv` of `pyro-unmix sensitivity` holds.
    """
    means = results.groupby(["shift", "value"], sort=False).mean(numeric_only=True)
    at = np.arange(len(means))[::-1]
    figure, axes = subplots(1, 2, (10.0, 1.2 + 0.3 * len(means)), sharey=True)
    errors = [("rmse", "guide", "o"), ("fcls_rmse", "FCLS, library spectra", "s"), ("nnls_rmse", "NNLS, library spectra", "^")]
    covers = [("cover_90", "90 % intervals", "o"), ("cover_50", "50 % intervals", "s")]
    for axis, lines, label in zip(axes.flat, (errors, covers), ("abundance RMSE", "share of abundances inside"), strict=True):
        for colour, (column, name, marker) in zip(COLOURS, lines, strict=False):
            axis.plot(means[column], at, marker, color=colour, label=name)
        axis.set_xlabel(label)
        axis.grid(axis="y", color="0.9")
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    axes.flat[0].set_yticks(at, [f"{shift.replace('_', ' ')}: {value}" for shift, value in means.index])
    axes.flat[0].set_xlim(left=0)
    axes.flat[1].set_xlim(0, 1)
    for level in (0.5, 0.9):
        axes.flat[1].axvline(level, color="0.6", linewidth=1, zorder=0)
    return figure
