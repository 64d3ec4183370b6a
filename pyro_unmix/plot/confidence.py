"""Abundance and its uncertainty in one map."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from pyro_unmix.errors import InputError
from pyro_unmix.plot.frame import MASKED, map_axes, summary_of

_ENDS = (0.05, 0.95)
_BESIDE, _SIDE = 1.8, 0.95  # inches: strip for the legend, and side of the legend


def confidence_maps(post) -> Figure:
    """Maps of the mean abundances whose colour fades to white where the 90 % interval is wide; masked pixels are grey.

    White is as wide as without any data, where all mixtures are alike likely: Dirichlet(1). Fading goes with the square root of
    the width, so that small intervals can be told apart; the legend is on the right. `post` is a posterior or its summary.

    Raises
    ------
    InputError
        No abundances in `post`, or not the quantiles .05 and .95.
    """
    summary = summary_of(post, "abundance_mean", "abundance_quantile")
    levels = summary["quantile"].values
    if not all(np.isclose(levels, end).any() for end in _ENDS):
        raise InputError(f"quantiles at {_ENDS[0]} and {_ENDS[1]}", f"{levels.tolist()}")
    mean = summary.abundance_mean.transpose("endmember", "y", "x").values
    low, high = (summary.abundance_quantile.isel(quantile=int(np.abs(levels - end).argmin())) for end in _ENDS)
    width = (high - low).transpose("endmember", "y", "x").values
    k, *shape = mean.shape
    prior = stats.beta(1, k - 1)  # of one abundance under Dirichlet(1)
    widest = float(prior.ppf(_ENDS[1]) - prior.ppf(_ENDS[0]))

    figure, axes = map_axes((shape[0], shape[1]), [[str(name) for name in summary.endmember.values]], beside=0.6 + _BESIDE)
    for axis, abundance, spread in zip(axes.ravel(), mean, width, strict=False):  # the last line may have panels left over
        axis.imshow(_faded(abundance, spread / widest))
    width_in, height_in = figure.get_size_inches()
    figure.set_layout_engine("compressed", rect=(0.0, 0.0, 1.0 - _BESIDE / width_in, 1.0))
    legend = figure.add_axes((1.0 - (_BESIDE - 0.1) / width_in, 0.5 - (_SIDE / 2 - 0.15) / height_in, _SIDE / width_in,
                              _SIDE / height_in), in_layout=False)
    _legend(legend, widest)
    return figure


def _faded(abundance: np.ndarray, relative_width: np.ndarray) -> np.ndarray:
    """Colours (..., 3): of the abundance, mixed with white."""
    white = np.sqrt(np.clip(relative_width, 0.0, 1.0))[..., None]
    colour = (1.0 - white) * colormaps["viridis"](abundance)[..., :3] + white
    return np.where(np.isnan(abundance)[..., None], MASKED, colour)


def _legend(axis: Axes, widest: float) -> None:
    abundance, width = np.meshgrid(np.linspace(0.0, 1.0, 65), np.linspace(0.0, 1.0, 65))
    axis.imshow(_faded(abundance, width), extent=(0.0, 1.0, 0.0, widest), origin="lower", aspect="auto")
    axis.annotate("nothing known", (0.5, 0.96), xycoords="axes fraction", ha="center", va="top", fontsize=7, color="0.3")
    axis.set_xlabel("mean abundance", fontsize=8)
    axis.set_ylabel("width of the\n90 % interval", fontsize=8)
    axis.tick_params(labelleft=False, labelright=True, left=False, right=True, labelsize=8)
    axis.yaxis.set_label_position("right")
    axis.set_xticks([0.0, 0.5, 1.0], labels=["0", "0.5", "1"])
    axis.locator_params(axis="y", nbins=3)
