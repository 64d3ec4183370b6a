"""The posterior of one pixel."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from scipy import stats

from pyro_unmix.errors import InputError
from pyro_unmix.plot.frame import BLUE, ORANGE, check_posterior, subplots
from pyro_unmix.plot.ternary import CORNERS, Ternary

_INSIDE = (0.9, 0.5)  # shares of the exact draws that contours hold
_GRID = 80  # points along each side of a panel by which contours are found
_LEAST_WIDTH = 0.01  # of an axis, for abundances that hardly vary


def pixel(post, y: int, x: int, exact: np.ndarray | None = None, draws: int = 500) -> Figure:
    """Draws of the abundances of the pixel at row `y` and column `x`: in a triangle for three endmembers, else in pairs.

    The triangle is cut down to where the draws are; the small one shows where that is among all mixtures. Of pairs, the diagonal
    has histograms, each of area one.

    Parameters
    ----------
    post
        A posterior.
    exact
        `(n, K)`: draws of the same pixel from the exact posterior, as by NUTS, shown as contours that hold 50 % and 90 % of them.
    draws
        How many to show.

    Raises
    ------
    InputError
        Not a posterior, not a pixel in use, or exact draws that are not `(n, K)`.
    """
    check_posterior(post, "draws", "scene")
    rows, cols, _ = post.scene.shape
    if not (0 <= y < rows and 0 <= x < cols and post.scene.mask.values[y, x]):
        raise InputError(f"a pixel in use, of {rows} rows and {cols} columns", f"row {y}, column {x}")
    found = post.draws(draws, y=slice(y, y + 1), x=slice(x, x + 1)).abundances
    names = [str(name) for name in found.endmember.values]
    values = found.transpose("draw", "endmember", ...).values.reshape(draws, len(names)).astype(np.float64)
    if exact is not None:
        exact = np.asarray(exact, dtype=np.float64)
        if exact.ndim != 2 or exact.shape[1] != len(names) or len(exact) < 2:
            raise InputError(f"exact draws (n, {len(names)})", f"shape {exact.shape}")
    figure = (_triangle if len(names) == 3 else _pairs)(values, exact, names)
    figure.suptitle(f"Abundances of the pixel at row {y}, column {x}", fontsize=10)
    handles = [Line2D([], [], color=BLUE, ls="none", marker="o", ms=4, label=f"posterior ({draws} draws)")]
    if exact is not None:
        handles.append(Line2D([], [], color=ORANGE, lw=1.4, label=f"exact ({len(exact)} draws; 50 % and 90 % inside)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _triangle(draws: np.ndarray, exact: np.ndarray | None, names: list[str]) -> Figure:
    figure, axes = subplots(1, 1, (5.4, 5.4))
    axis = axes[0, 0]
    triangle = Ternary.around(draws if exact is None else np.concatenate([draws, exact]))
    triangle.frame(axis, names)
    _scatter(axis, triangle.project(draws))
    if exact is not None:
        _contours(axis, triangle.project(exact), CORNERS.min(axis=0), CORNERS.max(axis=0), outline=Polygon(CORNERS))
    return figure


def _pairs(draws: np.ndarray, exact: np.ndarray | None, names: list[str]) -> Figure:
    k, both = len(names), draws if exact is None else np.concatenate([draws, exact])
    low, high = both.min(axis=0), both.max(axis=0)
    margin = np.maximum(0.05 * (high - low), 0.5 * (_LEAST_WIDTH - (high - low)))
    low, high = np.maximum(low - margin, 0.0), np.minimum(high + margin, 1.0)
    figure, axes = subplots(k, k, (max(1.2 + 1.5 * k, 5.0), 1.4 + 1.4 * k))
    for (i, j), axis in np.ndenumerate(axes):
        axis.tick_params(labelsize=7, labelleft=j == 0 < i, labelbottom=i == k - 1)
        axis.locator_params(nbins=3)
        if j > i:
            axis.set_axis_off()
            continue
        axis.set_xlim(low[j], high[j])
        if i == j:
            _histograms(axis, draws[:, j], None if exact is None else exact[:, j], (low[j], high[j]))
            axis.set_title(names[j], fontsize=9)
        else:
            axis.set_ylim(low[i], high[i])
            _scatter(axis, draws[:, [j, i]])
            if exact is not None:
                _contours(axis, exact[:, [j, i]], low[[j, i]], high[[j, i]])
        if i == k - 1:
            axis.set_xlabel(names[j], fontsize=8)
        if j == 0 < i:
            axis.set_ylabel(names[i], fontsize=8)
    return figure


def _scatter(axis: Axes, points: np.ndarray) -> None:
    axis.scatter(points[:, 0], points[:, 1], s=9, color=BLUE, alpha=0.45, lw=0)


def _contours(axis: Axes, points: np.ndarray, low: np.ndarray, high: np.ndarray, outline: Polygon | None = None) -> None:
    """Regions of highest density that hold shares of `points` `(n, 2)`; the points themselves where they lie on a line."""
    try:
        density = stats.gaussian_kde(points.T)
    except np.linalg.LinAlgError:
        axis.scatter(points[:, 0], points[:, 1], s=9, fc="none", ec=ORANGE, lw=0.7)
        return
    across, up = np.meshgrid(*np.linspace(low, high, _GRID).T)
    levels = np.quantile(density(points.T), [1.0 - share for share in _INSIDE])
    found = axis.contour(across, up, density([across.ravel(), up.ravel()]).reshape(across.shape), levels, colors=ORANGE,
                         linewidths=1.4)
    if outline is not None:
        outline.set_transform(axis.transData)
        found.set_clip_path(outline)


def _histograms(axis: Axes, draws: np.ndarray, exact: np.ndarray | None, span: tuple[float, float]) -> None:
    axis.hist(draws, bins=25, range=span, density=True, color=BLUE, alpha=0.45)
    if exact is not None:
        axis.hist(exact, bins=25, range=span, density=True, histtype="step", color=ORANGE, lw=1.4)
    axis.set_yticks([])
