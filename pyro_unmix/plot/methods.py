"""Methods against each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from pyro_unmix.errors import InputError
from pyro_unmix.plot.frame import COLOURS, MARKERS, ORANGE, subplots


def benchmark(results: pd.DataFrame, ours: tuple[str, ...] = ("start", "pyro_unmix")) -> Figure:
    """Errors of methods on scenes: one line a scene, one point a seed, abundance RMSE left and spectral angle right.

    Parameters
    ----------
    results
        What `results.csv` of `pyro-unmix benchmark` holds. Hollow: methods that end in "/l2". Failed runs have no point.
    ours
        Methods to stand out, the last one most.

    Raises
    ------
    InputError
        A column is missing, or there is no result to draw.
    """
    if missing := {"scene", "kind", "method", "rmse", "sad"} - set(results.columns):
        raise InputError("results with columns scene, kind, method, rmse and sad", f"no {', '.join(sorted(missing))}")
    if not np.isfinite(results[["rmse", "sad"]].to_numpy(float)).any():
        raise InputError("results with at least one finite error", "none")
    scenes, methods = list(results.scene.unique()), list(results.method.unique())
    families = list(dict.fromkeys(method.split("/")[0] for method in methods if method not in ours))
    line = {scene: number for number, scene in enumerate(scenes)}
    by_kind = {str(kind): part.scene.map(line) for kind, part in results.drop_duplicates("scene").groupby("kind", sort=False)}
    figure, axes = subplots(1, 2, (11.0, 1.9 + 0.4 * len(scenes)), sharey=True)
    for axis, column, label in zip(axes.flat, ("rmse", "sad"), ("abundance RMSE", "spectral angle (rad)"), strict=True):
        for number, method in enumerate(methods):
            part = results[results.method == method]
            y = part.scene.map(line) + 0.8 * ((number + 0.5) / len(methods) - 0.5)
            family = families.index(method.split("/")[0]) if method not in ours else 0
            colour = ORANGE if method in ours else COLOURS[family % len(COLOURS)]
            hollow = method.endswith("/l2") or method in ours[:-1]
            axis.plot(part[column], y, ls="none", marker="D" if method in ours else MARKERS[family % len(MARKERS)],
                      ms=7 if method in ours else 5, mec=colour, mfc="none" if hollow else colour, mew=1.2,
                      zorder=3 if method in ours else 2, label=method)
        for number in range(0, len(scenes), 2):
            axis.axhspan(number - 0.5, number + 0.5, color="0.94", lw=0, zorder=0)
        for of_kind in by_kind.values():
            axis.axhline(of_kind.min() - 0.5, color="0.3", lw=1.0)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(axis="x", color="0.85", lw=0.5)
        axis.set_axisbelow(True)
        axis.set_xlabel(f"{label}: less is better")
    axes.flat[0].set_yticks(range(len(scenes)), scenes)
    axes.flat[0].set_ylim(len(scenes) - 0.5, -0.5)
    for kind, of_kind in by_kind.items():
        axes.flat[1].annotate(kind, (1.02, of_kind.mean()), xycoords=("axes fraction", "data"), rotation=-90, va="center")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=-(-len(labels) // 2), fontsize=8, frameon=False,
                  columnspacing=1.0, handletextpad=0.2, title="one point a seed; NAME/l2: pixels divided by their norm")
    return figure
