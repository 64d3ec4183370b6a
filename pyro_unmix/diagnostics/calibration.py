"""Whether a posterior holds the truth as often as it says, where truth, or an exact posterior, is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy import special

from pyro_unmix.errors import InputError

Array = np.ndarray | xr.DataArray


def coverage_curve(values: Array, truth: Array, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95), *,
                   probabilities: Sequence[float] | None = None) -> xr.Dataset:
    """Share of truth inside central intervals, at every nominal level.

    Parameters
    ----------
    values
        `(d, ..., K)`: draws, or quantiles.
    truth
        `(..., K)`. What is NaN on either side is left out.
    levels
        Nominal levels of the intervals, between 0 and 1.
    probabilities
        `(d,)` of the quantiles; None: the values are draws. Then the ends are such quantiles of theirs that an interval holds one
        more draw exactly as often as it says, from 2 / (1 - level) - 1 draws up: Hyndman and Fan (1996), American Statistician
        50, definition 6.

    Returns
    -------
    coverage
        `overall` (level) and `per_endmember` (level, endmember).

    Raises
    ------
    InputError
        Shapes that differ, levels outside 0 to 1, or a level whose two quantiles are not there.
    """
    values, truth, level = _against(values, truth), np.asarray(truth, dtype=np.float64), np.asarray(levels, dtype=np.float64)
    if not ((level > 0) & (level < 1)).all():
        raise InputError("levels between 0 and 1", f"{levels}")
    ends = np.stack([(1 - level) / 2, (1 + level) / 2])
    if probabilities is None:
        low, high = np.quantile(values, ends, axis=0, method="weibull")
    else:
        apart = np.abs(np.asarray(probabilities, dtype=np.float64) - ends[..., None])
        if apart.min(axis=-1).max() > 1e-6:
            raise InputError("both quantiles of every level, (1 - level) / 2 and (1 + level) / 2",
                             f"quantiles at {list(probabilities)} for the levels {list(levels)}")
        low, high = values[apart.argmin(axis=-1)]
    inside = np.where(np.isfinite(low + high + truth), (low <= truth) & (truth <= high), np.nan)
    inside = inside.reshape(len(level), -1, truth.shape[-1])
    return xr.Dataset({"overall": ("level", np.nanmean(inside, axis=(1, 2))),
                       "per_endmember": (("level", "endmember"), np.nanmean(inside, axis=1))}, coords={"level": level})


def sbc_ranks(draws: Array, truth: Array) -> np.ndarray:
    """How many of the draws `(d, ...)` lie below the truth `(...)`: 0 to d, uniform where the posterior is right.

    Simulation-based calibration, Talts et al. (2018), arXiv 1804.06788: truth drawn from the prior, data from truth, draws from
    the posterior of the data. `uniformity` tests them.

    Raises
    ------
    InputError
        Shapes that differ, or values that are not numbers.
    """
    values, truth = _against(draws, truth), np.asarray(truth, dtype=np.float64)
    if np.isnan(values).any() or np.isnan(truth).any():
        raise InputError("draws and truth without NaN", "NaN", "leave out masked pixels")
    return (values < truth).sum(axis=0)


def pit(draws: Array, truth: Array) -> np.ndarray:
    """Where in its posterior the truth lies, in (0, 1): `(...)` for draws `(d, ...)` and truth `(...)`.

    The probability integral transform, from ranks: (rank + 1/2) / (d + 1). Heaped in the middle where intervals are too wide,
    at both ends where they are too narrow, at one end where the posterior is biased.
    """
    return (sbc_ranks(draws, truth) + 0.5) / (len(draws) + 1)


def uniformity(ranks: np.ndarray, n_draws: int) -> np.ndarray:
    """p-values `(...)` of chi-square tests that ranks `(n, ...)` out of 0 to `n_draws` are uniform.

    The n replicates along the first axis have to be independent; abundances of one pixel are not, so each endmember has a test.
    Up to 20 bins, with 20 replicates or more in each.

    Raises
    ------
    InputError
        Fewer than 40 replicates, or ranks out of range.
    """
    ranks = np.asarray(ranks)
    if len(ranks) < 40 or ranks.min() < 0 or ranks.max() > n_draws:
        raise InputError(f"at least 40 ranks from 0 to {n_draws}",
                         f"{len(ranks)}" + (f" from {ranks.min()} to {ranks.max()}" if ranks.size else ""))
    bins = min(20, len(ranks) // 20, n_draws + 1)
    share = np.bincount(np.arange(n_draws + 1) * bins // (n_draws + 1)) / (n_draws + 1)
    counts = np.stack([(ranks * bins // (n_draws + 1) == each).sum(axis=0) for each in range(bins)], axis=-1)
    expected = share * len(ranks)
    return special.chdtrc(bins - 1, ((counts - expected) ** 2 / expected).sum(axis=-1))


def crps(draws: Array, truth: Array, weights: np.ndarray | None = None) -> np.ndarray:
    """Continuous ranked probability score `(...)` of draws `(d, ...)` against truth `(...)`: lower is better.

    E|X - truth| - E|X - X'| / 2 over the draws taken as a distribution: Gneiting and Raftery (2007), JASA 102, eq. 21.
    `weights` `(d, ...)` need not sum to one; None: all alike.
    """
    values, truth = _against(draws, truth), np.asarray(truth, dtype=np.float64)
    weights = np.ones_like(values) if weights is None else np.broadcast_to(weights, values.shape)
    weights = weights / weights.sum(axis=0)
    order = values.argsort(axis=0)
    ordered, share = np.take_along_axis(values, order, axis=0), np.take_along_axis(weights, order, axis=0)
    below = share.cumsum(axis=0)
    return (weights * np.abs(values - truth)).sum(axis=0) - (share * ordered * (2.0 * below - share - 1.0)).sum(axis=0)


def compare_to_nuts(draws: Array, nuts: Array) -> xr.Dataset:
    """How far draws `(d, n, K)` of a posterior are from draws `(d', n, K)` of the exact one, pixel by pixel.

    Returns
    -------
    table
        `mean_difference` (pixel, endmember): in standard deviations of `nuts`; `sd_ratio` (pixel, endmember): standard deviation
        over that of `nuts`. Summarised as `mean_difference_rms`, `mean_difference_max`, `sd_ratio_median`, `sd_ratio_min` and
        `sd_ratio_max`. With e effective draws on both sides, means of equal posteriors differ by about sqrt(2 / e), and the ratio
        is off by sqrt(1 / e).

    Raises
    ------
    InputError
        Not three dimensions, other pixels or endmembers, fewer than two draws, or exact draws that do not vary.
    """
    draws, nuts = (np.asarray(each, dtype=np.float64) for each in (draws, nuts))
    if draws.ndim != 3 or nuts.ndim != 3 or draws.shape[1:] != nuts.shape[1:] or min(len(draws), len(nuts)) < 2:
        raise InputError("draws (d, n, K) and (d', n, K) of the same pixels, two or more of each",
                         f"{draws.shape} and {nuts.shape}")
    sd = nuts.std(axis=0, ddof=1)
    if not (sd > 0).all():
        raise InputError("exact draws that vary", "draws that are all the same", "run the sampler longer")
    apart, ratio = (draws.mean(axis=0) - nuts.mean(axis=0)) / sd, draws.std(axis=0, ddof=1) / sd
    return xr.Dataset({"mean_difference": (("pixel", "endmember"), apart), "sd_ratio": (("pixel", "endmember"), ratio),
                       "mean_difference_rms": np.sqrt(np.mean(apart**2)), "mean_difference_max": np.abs(apart).max(),
                       "sd_ratio_median": np.median(ratio), "sd_ratio_min": ratio.min(), "sd_ratio_max": ratio.max()})


def _against(values: Array, truth: Array) -> np.ndarray:
    """Draws or quantiles as an array, once their shape is that of truth behind the first axis."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim < 1 or len(values) < 1 or values.shape[1:] != np.shape(truth):
        raise InputError("draws (d, ...) and truth (...) of the same shape behind the first axis",
                         f"shapes {values.shape} and {np.shape(truth)}")
    return values
