"""What an experiment varied, run by run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from pyro_unmix.errors import InputError
from pyro_unmix.plot.frame import COLOURS, MARKERS, subplots

_PANELS = {"rmse": "abundance RMSE: less is better", "sad": "spectral angle (rad): less is better",
           "coverage_90": "share of truth in 90 % intervals: line at 0.9"}
_NOMINAL = 0.9


def experiment(results: pd.DataFrame, *, lines: Sequence[str], colour: str, hollow: str | None = None) -> Figure:
    """Abundance RMSE, spectral angle and coverage of 90 % intervals, one point a run.

    Parameters
    ----------
    results
        What `results.csv` of an experiment holds. Failed runs have no point.
    lines, colour, hollow
        Columns that say on which line a point is, its colour, and whether it is hollow (all values but the first).

    Raises
    ------
    InputError
        A column is missing, or there is no result to draw.
    """
    needed = {*_PANELS, *lines, colour, *([hollow] if hollow else [])}
    if missing := needed - set(results.columns):
        raise InputError(f"results with columns {', '.join(sorted(needed))}", f"no {', '.join(sorted(missing))}")
    if not np.isfinite(results[["rmse", "sad"]].to_numpy(float)).any():
        raise InputError("results with at least one finite error", "none")
    names = results[list(lines)].astype(str).agg(", ".join, axis=1)
    line = {name: number for number, name in enumerate(names.unique())}
    colours = list(results[colour].unique())
    groups = list(results.groupby([colour, *([hollow] if hollow else [])], sort=False))
    first = results[hollow].iloc[0] if hollow else None
    figure, axes = subplots(1, len(_PANELS), (11.0, 1.6 + 0.55 * len(line)), sharey=True)
    for axis, (column, label) in zip(axes.flat, _PANELS.items(), strict=True):
        for number, (setting, part) in enumerate(groups):
            style = colours.index(setting[0])
            tone = COLOURS[style % len(COLOURS)]
            axis.plot(part[column], names[part.index].map(line) + 0.8 * ((number + 0.5) / len(groups) - 0.5), ls="none",
                      marker=MARKERS[style % len(MARKERS)], ms=5, mec=tone, mew=1.2, label=", ".join(map(str, setting)),
                      mfc="none" if hollow and setting[1] != first else tone)
        for number in range(0, len(line), 2):
            axis.axhspan(number - 0.5, number + 0.5, color="0.94", lw=0, zorder=0)
        if column == "coverage_90":
            axis.axvline(_NOMINAL, color="0.3", lw=1.0, zorder=1)
            axis.set_xlim(-0.03, 1.03)
        else:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(axis="x", color="0.85", lw=0.5)
        axis.set_axisbelow(True)
        axis.set_xlabel(label)
    axes.flat[0].set_yticks(range(len(line)), list(line))
    axes.flat[0].set_ylim(len(line) - 0.5, -0.5)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6), fontsize=8, frameon=False,
                  columnspacing=1.2, handletextpad=0.2)
    return figure
