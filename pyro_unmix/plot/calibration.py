"""Whether intervals hold the truth as often as they say."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from pyro_unmix.errors import InputError
from pyro_unmix.plot.frame import COLOURS, MARKERS, subplots


def coverage(curves: Mapping[str, xr.Dataset]) -> Figure:
    """Share of truth inside intervals against their nominal level: thick over all endmembers, thin for each of them.

    Parameters
    ----------
    curves
        By name, what `diagnostics.coverage_curve` returns.

    Raises
    ------
    InputError
        No curve, or one without `overall` and `per_endmember`.
    """
    if not curves or not all({"overall", "per_endmember"} <= set(curve) for curve in curves.values()):
        raise InputError("results of coverage_curve by name", ", ".join(map(str, curves)) or "none")
    figure, axes = subplots(1, 1, (6.6, 4.2))
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="0.4", lw=1.0, ls="--", label="as often as it says")
    least = 1.0
    for number, (name, curve) in enumerate(curves.items()):
        curve = curve.sortby("level")
        colour = COLOURS[number % len(COLOURS)]
        each = curve.per_endmember.transpose("level", "endmember").values
        axis.plot(curve.level, each, color=colour, lw=0.7, alpha=0.5, zorder=1.5)
        axis.plot(curve.level, curve.overall, color=colour, lw=1.8, marker=MARKERS[number % len(MARKERS)], ms=5, label=name)
        least = min(least, float(curve.level.min()), float(curve.overall.min()), float(each.min()))
    axis.plot([], [], color="0.4", lw=0.7, label="one endmember each")
    low = max(least - 0.05, 0.0)
    axis.set(xlim=(low, 1.0), ylim=(low, 1.0), xlabel="nominal level of the interval",
             ylabel="share of truth inside")
    axis.set_box_aspect(1.0)
    for x, y, words, side in ((0.03, 0.97, "too wide", "left"), (0.97, 0.03, "too narrow", "right")):
        axis.annotate(words, (x, y), xycoords="axes fraction", ha=side, va="center", fontsize=9, color="0.35")
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axis.grid(color="0.9", lw=0.5)
    axis.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0, fontsize=8, frameon=False)
    return figure
