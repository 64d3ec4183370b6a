"""Where to be careful, and whether to believe it."""

from __future__ import annotations

import textwrap

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy import stats

from pyro_unmix.diagnostics import Checks
from pyro_unmix.errors import InputError
from pyro_unmix.plot.frame import MASKED, check_posterior, colours, subplots, summary_of, top_of

_LEAST_TALL, _MOST_WIDE = 2.0, 7.0  # inches: labels of a colour bar need room
_MOST = 4.0  # chi-square over degrees of freedom, and its inverse, at the ends of the scale
# What k-hat means: Vehtari et al. (2024), JMLR 25(72), "Pareto smoothed importance sampling".
_KHAT = (0.0, 0.5, 0.7, 1.0, 1.5)
_KHAT_MEANS = ("good", "good enough", "not to be trusted", "not at all")
_KHAT_COLOURS = ("#08519c", "#9ecae1", "#fdae61", "#a63603")


def uncertainty(post) -> Figure:
    """Where to be careful: total standard deviation of the abundances, and what the mixture leaves unexplained.

    The total is the square root of the variances summed over endmembers; the right map is the RMSE over bands between
    a pixel and its reconstruction, in the units of the scene. `post` is a posterior or its summary.
    """
    summary = summary_of(post, "abundance_sd", "reconstruction_rmse")
    total = np.sqrt((summary.abundance_sd**2).sum("endmember", skipna=False))
    figure, axes = _panels(total, 2)
    for axis, values, title, label in zip(
            axes, (total, summary.reconstruction_rmse),
            ("Uncertainty of the abundances", "Left unexplained (units of the scene)"),
            ("total standard\ndeviation", "reconstruction\nRMSE"), strict=True):
        image = axis.imshow(values.transpose("y", "x"), cmap=colours("cividis"), vmin=0.0, vmax=top_of(values))
        axis.set_title(title, fontsize=10)
        figure.colorbar(image, ax=axis, label=label, extend="max", pad=0.02)
    return figure


def trust(post) -> Figure:
    """Whether intervals can be trusted, and where not: chi-square of each pixel and, where draws were weighted, k-hat.

    Chi-square is over its degrees of freedom: 1 where residuals are as large as the noise that is claimed, and within the two
    marks on the colour bar in 99.9 % of pixels of white noise. Above a k-hat of 0.7 the weights of a pixel cannot be trusted. The
    title is the last of `post.findings()`.

    Raises
    ------
    InputError
        Not a posterior, or one without both: mixing that is not linear and draws that are not weighted.
    """
    check_posterior(post, "checks", "summary")
    summary = post.summary()
    checks = _checks(post, summary)
    figure, axes = _panels(summary.reconstruction_rmse, (checks is not None) + ("khat" in summary))
    waiting = list(axes)
    if checks is not None:
        _chi_square(figure, waiting.pop(0), checks)
    if "khat" in summary:
        _khat(figure, waiting.pop(0), summary.khat)
    figure.suptitle(_verdict(summary, round(figure.get_figwidth() * 13)), fontsize=9, x=0.01, ha="left")
    return figure


def _checks(post, summary: xr.Dataset) -> Checks | None:
    try:
        return post.checks()
    except InputError:  # residuals that nothing is known of
        if "khat" not in summary:
            raise
        return None


def _chi_square(figure: Figure, axis: Axes, checks: Checks) -> None:
    values = checks.chi_square / checks.degrees_of_freedom
    image = axis.imshow(values.transpose("y", "x"), cmap=colours("PuOr_r"), norm=LogNorm(1 / _MOST, _MOST))
    axis.set_title("Is the residual as large as the noise?\nchi-square / degrees of freedom", fontsize=10)
    bar = figure.colorbar(image, ax=axis, extend="both", pad=0.02)
    degrees = float(checks.degrees_of_freedom.median())
    low, high = stats.chi2.ppf((0.0005, 0.9995), degrees) / degrees
    ticks = {1 / _MOST: f"{1 / _MOST:g}", low: f"{low:.2f}, below:\nless than noise makes", 1.0: "1, as claimed",
             high: f"{high:.2f}, above:\nmore than noise makes", _MOST: f"{_MOST:g}"}
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_ticks(list(ticks), labels=list(ticks.values()), fontsize=8)
    for mark in (low, high):
        bar.ax.axhline(mark, color="black", lw=1.2)


def _khat(figure: Figure, axis: Axes, khat: xr.DataArray) -> None:
    inside = khat.transpose("y", "x").clip(_KHAT[0], _KHAT[-1] - 1e-6)  # infinite where one draw holds all
    image = axis.imshow(inside, cmap=ListedColormap(_KHAT_COLOURS).with_extremes(bad=str(MASKED)),
                        norm=BoundaryNorm(_KHAT, len(_KHAT_COLOURS)))
    axis.set_title("Did the weights of the draws work?\nk-hat", fontsize=10)
    bar = figure.colorbar(image, ax=axis, pad=0.02, spacing="uniform")
    between = [(a + b) / 2 for a, b in zip(_KHAT, _KHAT[1:], strict=False)]
    bar.set_ticks([*_KHAT[1:-1]], labels=[f"{edge:g}" for edge in _KHAT[1:-1]], fontsize=8)
    bar.set_ticks(between, labels=_KHAT_MEANS, minor=True, fontsize=8)


def _verdict(summary: xr.Dataset, columns: int) -> str:
    """The last finding in full, and how many there are before it."""
    *found, last = summary.attrs.get("findings", "").split("\n")
    told = f"{summary.attrs.get('intervals', '').capitalize()}. {last}"
    if found:
        told += f" {len(found)} finding{'s say' if len(found) > 1 else ' says'} what to mend: print them with post.findings()."
    return textwrap.fill(told, columns)


def _panels(like: xr.DataArray, n: int) -> tuple[Figure, np.ndarray]:
    """Axes for `n` maps of the size of `like`: side by side, or below each other where they are wide."""
    across = like.sizes["x"] / like.sizes["y"]
    wide = float(np.clip(_LEAST_TALL * across, 2.7, _MOST_WIDE))
    tall = float(np.clip(wide / across, 1.2, 6.0)) + 0.8
    stacked = wide > 4.5
    figure, axes = subplots(*((n, 1) if stacked else (1, n)),
                            (wide + 1.9, n * tall) if stacked else (n * (wide + 1.9), tall), layout="compressed")
    for axis in axes.flat:
        axis.set_xlabel("x (pixel)")
        axis.set_ylabel("y (pixel)")
    return figure, axes.ravel()
