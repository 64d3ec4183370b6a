"""What figures have in common: colours, axes, and the summary that they show."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_unmix.errors import InputError
from pyro_unmix.metrics import align_reference

BLUE, ORANGE = "#0072b2", "#d55e00"  # apart for colour-blind readers, and in print
# Colour and marker together tell many lines apart: of 6 and 9, no pair comes twice among 18.
COLOURS, MARKERS = (BLUE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "0.35"), "os^vPX<>p"
MASKED = 0.8  # grey
_COLUMNS = 6  # maps side by side before they wrap


class _ShownOnce(Figure):
    """A pyplot figure that a notebook shows once, be it the value of a cell or one of several made in it."""

    def _ipython_display_(self) -> None:
        if "inline" in plt.get_backend():
            plt.close(self)  # the end of the cell shows all figures still open
        raise NotImplementedError  # tells IPython to display this one as usual


def summary_of(post, *needed: str) -> xr.Dataset:
    summary = post if isinstance(post, xr.Dataset) else post.summary() if hasattr(post, "summary") else None
    if summary is None:
        raise InputError("a posterior or its summary", f"a {type(post).__name__}", "give fit.posterior(scene)")
    if missing := [name for name in needed if name not in summary]:
        raise InputError(f"a summary with {', '.join(needed)}", f"no {', '.join(missing)}")
    return summary


def check_posterior(post, *needed: str) -> None:
    """Refuse what cannot be asked: a summary cannot."""
    if not all(hasattr(post, name) for name in needed):
        raise InputError("a posterior", f"a {type(post).__name__}", "give fit.posterior(scene)")


def in_order_of(summary: xr.Dataset, reference: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """The reference in the summary's order and amplitude, and its names in that order."""
    aligned, order, _ = align_reference(summary, reference)
    aligned = aligned.isel(endmember=np.argsort(order))
    return aligned, [str(n) for n in aligned.endmember.values]


def subplots(
    rows: int, columns: int, size: tuple[float, float], layout: str = "constrained", **shared
) -> tuple[Figure, np.ndarray]:
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout, FigureClass=_ShownOnce, **shared)


def map_axes(shape: tuple[int, int], titles: list[list[str]], beside: float = 1.3) -> tuple[Figure, np.ndarray]:
    """Axes `(block, row, column)` for maps of `shape` `(y, x)`: a panel for each title of each row, wrapped into blocks.

    The panel of title k is in block and column `divmod(k, columns)`; what is left over is empty. `beside`
    the panels there are as many inches for labels and a colour bar.
    """
    rows, n = len(titles), len(titles[0])
    across = min(n, _COLUMNS)
    blocks = -(-n // across)
    tall = float(np.clip(1.9 * shape[0] / shape[1], 0.7, 3.2))
    wide = float(np.clip(tall * shape[1] / shape[0], 1.1, 1.9))
    size = (beside + wide * across, blocks * (rows * (tall + 0.15) + 0.6))
    figure, axes = subplots(blocks * rows, across, size, layout="compressed")
    axes = axes.reshape(blocks, rows, across)
    for (block, row, column), axis in np.ndenumerate(axes):
        k = block * across + column
        if k >= n:
            axis.set_axis_off()
            continue
        axis.set_title(titles[row][k], fontsize=9)
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        axis.tick_params(labelleft=column == 0, labelbottom=row == rows - 1, labelsize=8)
        if row == rows - 1:
            axis.set_xlabel("x (pixel)", fontsize=8)
        if column == 0:
            axis.set_ylabel("y (pixel)", fontsize=8)
    return figure, axes


def colour_bar(figure: Figure, image, axes: list[Axes], label: str, *, extend: str) -> None:
    bar = figure.colorbar(image, ax=axes, extend=extend, aspect=12, pad=0.01)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.ax.locator_params(nbins=4)


def top_of(values: xr.DataArray) -> float:
    """Upper end of a colour scale from 0 that a few stray pixels do not stretch."""
    return max(float(np.nanquantile(values, 0.995)), 1e-9)


def colours(name: str) -> Colormap:
    return colormaps[name].with_extremes(bad=str(MASKED))
