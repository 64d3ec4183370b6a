"""A prior under which neighbouring pixels inform each other."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.priors.abundances import Dirichlet

# Lags in pixels at which neighbours are compared, and lengths that are tried.
_LAGS = 8
_LENGTHS, _SMOOTHNESS = np.geomspace(0.7, 40.0, 40), (1, 3)
# Standard errors from zero at which the correlation of neighbours is one.
_SURE = 4.0
# Simulated pairs of pixels, and latent correlations, from which that of abundances is known.
_PAIRS, _CORRELATIONS = 20_000, np.linspace(0.0, 1.0, 21)
# Torus of the random field: this many correlation lengths wider than the map, so that opposite edges do not meet.
_MARGIN = 6
# Most patches of a map, and their diameter in correlation lengths.
_PATCHES, _DIAMETER = 256, 1.7
# Blocks of pixels that are compared for edges, fewest comparisons, rows and columns looked at, and simulated maps of each kind.
_BLOCK, _FEWEST, _LOOKED_AT, _MAPS = 3, 50, 96, 12
# Normal scores between which quantiles of a gamma distribution are tabulated.
_SCORES = np.linspace(-6.0, 6.0, 481)


class SpatialDirichlet(Dirichlet):
    """Dirichlet abundances whose neighbours resemble each other.

    Behind every endmember lies a field of normal scores; each goes through its distribution function to a gamma variable, and
    gammas divided by their sum are abundances. So every pixel by itself is exactly Dirichlet: that is the density of the
    site `abundances`, and what one pixel says is weighed by. Neighbours come in where the guide learns from whole maps drawn from
    this prior (`draw_map`) with the spectra they make; it then reads what a pixel's surroundings say of it. A guide that sees one
    pixel alone ("mlp") cannot.

    The field is a Gaussian Markov random field of precision (kappa^2 - Laplacian)^(smoothness + 1), kappa = sqrt(2 smoothness) /
    correlation_length: Lindgren, Rue and Lindstrom (2011), JRSS B 73, eq. 2 and section 2.2. Its Matern correlation is about .14
    at twice the length, as that of `simulate_scene`. Boundaries need not be smooth: a share `edges` of the field's variance is
    that of patches of one level each, the cells of random points.

    Parameters
    ----------
    concentration, learned
        Of each pixel: those of `Dirichlet`.
    strength
        Share of the variance of the field that neighbours have in common, from 0, independent pixels, to 1. None: measured
        from the scene when fitted.
    correlation_length
        In pixels. None: measured from the scene when fitted.
    smoothness
        Of the Matern correlation: 1, of maps that are rough between neighbours, or 3. None: measured from the scene when fitted.
    edges
        Share of the variance, from 0, a smooth field, to 1, a mosaic. None: measured from the scene when fitted.

    Raises
    ------
    InputError
        A number out of its range.
    """

    def __init__(self, concentration: float | Sequence[float] = 1.0, learned: bool = True, strength: float | None = None,
                 correlation_length: float | None = None, smoothness: int | None = None,
                 edges: float | None = None):
        super().__init__(concentration, learned)
        if not (all(share is None or 0 <= share <= 1 for share in (strength, edges)) and smoothness in (None, *_SMOOTHNESS)
                and (correlation_length is None or 0 < correlation_length <= _LENGTHS[-1])):
            raise InputError(f"strength and edges from 0 to 1, a correlation_length up to {_LENGTHS[-1]:.0f}, smoothness 1 or 3",
                             f"{strength}, {edges}, {correlation_length}, {smoothness}")
        self.strength, self.correlation_length, self.smoothness, self.edges = strength, correlation_length, smoothness, edges
        self.settings |= {"strength": strength, "correlation_length": correlation_length, "smoothness": smoothness,
                          "edges": edges}

    def filled(self, maps: np.ndarray, noise_covariance: np.ndarray, concentration: Tensor) -> SpatialDirichlet:
        """A copy in which what is open is measured, and whose concentration, if that is to be learned, is the one given.

        Errors of different pixels are independent, and add to the variance but not to the covariance of neighbours. What is left
        of that is compared with that of fields (method of moments, as variograms are fitted: Cressie 1985, Mathematical Geology
        17, "Fitting variogram models by weighted least squares"). Where neighbours correlate by less than four standard errors,
        the strength is zero. For the edges, the tail of the differences between small blocks (`difference_tail`) is compared with
        that of maps drawn from the prior.

        Parameters
        ----------
        maps
            `(rows, cols, n_endmembers)`: estimates of the abundances that are not kept from being negative, NaN where masked.
        noise_covariance
            `(n_endmembers, n_endmembers)`: of their errors, which sum to zero.
        concentration
            `(n_endmembers,)`: of the Dirichlet distribution that pixels follow.
        """
        given: dict[str, Any] = {name: self.settings[name] for name in ("strength", "correlation_length", "smoothness")}
        if None in given.values():
            correlations, error = neighbour_correlations(maps, np.trace(noise_covariance))
            if correlations[0] < _SURE * error:
                measured = {"strength": 0.0, "correlation_length": 1.0, "smoothness": 1}
            else:
                measured = fit_field(_behind(correlations, concentration))
            given = {name: measured[name] if value is None else value for name, value in given.items()}
        values = concentration.tolist() if self.learned else self.concentration.tolist()
        edges = self.edges
        if edges is None:
            smooth, mosaic = (SpatialDirichlet(values, **given, edges=share) for share in (0.0, 1.0))
            edges = _measured_edges(smooth, mosaic, maps, noise_covariance, concentration) if given["strength"] > 0 else 0.0
        return SpatialDirichlet(values, self.learned, **given, edges=edges)

    def without_neighbours(self) -> SpatialDirichlet:
        """A copy of no strength, for scenes whose noise cannot be told from what neighbours have in common; warns of it."""
        warnings.warn("errors of neighbouring pixels correlate, so that neighbours say little of each other: pixels are taken as "
                      "independent", UnmixWarning, stacklevel=4)
        return SpatialDirichlet(self.concentration.tolist(), self.learned, 0.0, 1.0, 1, 0.0)

    def draw_map(self, shape: tuple[int, int], concentration: Tensor) -> Tensor:
        """Abundances `(rows, cols, n_endmembers)` of a map, from torch's generator.

        Parameters
        ----------
        shape
            Rows and columns.
        concentration
            `(n_endmembers,)`: of this map.

        Raises
        ------
        InputError
            Strength or length neither given nor measured.
        """
        strength, length, smoothness, edges = self._known()
        k = len(concentration)
        scores = torch.randn(k, *shape)
        if strength > 0:
            field = random_field(k, shape, length, smoothness)
            if edges > 0:
                field = (1 - edges) ** 0.5 * field + edges**0.5 * _patches(k, shape, _DIAMETER * length)
            scores = strength**0.5 * field + (1 - strength) ** 0.5 * scores
        return torch.softmax(_log_gamma(scores.movedim(0, -1), concentration.cpu()), dim=-1)

    def spectrum(self, side: int) -> tuple[np.ndarray, float]:
        """Variance `(side, side // 2 + 1)` of each wave of the field on a torus of `side` rows and columns, of mean one; and the
        share of all variance that is that of the smooth field."""
        strength, length, smoothness, edges = self._known()
        return strength * _amplitude([side, side], length, smoothness) ** 2 + (1 - strength), strength * (1 - edges)

    def _known(self) -> tuple[float, float, int, float]:
        if self.strength is None or self.correlation_length is None or self.smoothness is None or self.edges is None:
            raise InputError("strength, correlation_length, smoothness and edges", "a prior that has not seen a scene yet",
                             "give all four, or call pyro_unmix.initialize(model, scene)")
        return self.strength, self.correlation_length, self.smoothness, self.edges


def random_field(n: int, shape: tuple[int, int], correlation_length: float, smoothness: int) -> Tensor:
    """`n` Gaussian Markov random fields `(n, rows, cols)`, each pixel standard normal, from torch's generator.

    Drawn on a torus, on which they are independent waves of random phase.
    """
    size = [side + int(np.ceil(_MARGIN * correlation_length)) for side in shape]
    amplitude = torch.as_tensor(_amplitude(size, correlation_length, smoothness), dtype=torch.float32)
    return torch.fft.irfft2(amplitude * torch.fft.rfft2(torch.randn(n, *size)), s=size)[:, : shape[0], : shape[1]]


def field_correlation(correlation_length: float, smoothness: int, n_lags: int) -> np.ndarray:
    """Correlation of pixels of `random_field` that are 1 to `n_lags` apart in a row, `(n_lags,)`."""
    size = [n_lags + int(np.ceil(_MARGIN * correlation_length))] * 2
    return np.fft.irfft2(_amplitude(size, correlation_length, smoothness) ** 2, s=size)[0, 1 : n_lags + 1]


def neighbour_correlations(maps: np.ndarray, noise_variance: float) -> tuple[np.ndarray, float]:
    """Correlation of abundances at lags 1, 2, ... in rows and columns, and the standard error that each has where pixels are
    independent. `maps` as of `SpatialDirichlet.filled`; `noise_variance`, as all here, summed over endmembers."""
    centred = maps - np.nanmean(maps, axis=(0, 1))
    total = np.nanmean(centred**2, axis=(0, 1)).sum()
    variance = max(total - noise_variance, 1e-3 * total)
    found, counts = [], []
    for lag in range(1, min(_LAGS, *(side - 1 for side in maps.shape[:2])) + 1):
        products = np.concatenate([(centred[lag:] * centred[:-lag]).sum(axis=-1).ravel(),
                                   (centred[:, lag:] * centred[:, :-lag]).sum(axis=-1).ravel()])
        products = products[np.isfinite(products)]
        if not len(products):
            break
        found.append(products.mean() / variance)
        counts.append(len(products))
    if not found:
        return np.zeros(1), np.inf
    return np.array(found), total / variance / np.sqrt(counts[0])


def fit_field(correlations: np.ndarray) -> dict[str, Any]:
    """Strength, correlation length and smoothness of the field whose `correlations` at lags 1, 2, ... are nearest, by least
    squares."""
    best, found = np.inf, {"strength": 0.0, "correlation_length": 1.0, "smoothness": 1}
    for length, smoothness in product(_LENGTHS.tolist(), _SMOOTHNESS):
        shape = field_correlation(length, smoothness, len(correlations))
        strength = float(np.clip(shape @ correlations / (shape @ shape), 0.0, 1.0))
        error = float(np.sum((correlations - strength * shape) ** 2))
        if error < best:
            best, found = error, {"strength": strength, "correlation_length": length, "smoothness": smoothness}
    return found


def difference_tail(maps: np.ndarray, noise_covariance: np.ndarray) -> float:
    """Logarithm of the 98 % quantile over the median of squared differences between neighbouring blocks of 3 x 3 pixels.

    Large where a few neighbours differ much and most do not. Abundances are counted in units of their errors. Parameters as of
    `SpatialDirichlet.filled`.
    """
    _, variance, axes = np.linalg.svd(noise_covariance)
    white = maps @ (axes[:-1].T / np.sqrt(variance[:-1]))  # errors sum to zero and have no variance in the last direction
    rows, cols = (side // _BLOCK for side in maps.shape[:2])
    blocks = white[: rows * _BLOCK, : cols * _BLOCK].reshape(rows, _BLOCK, cols, _BLOCK, -1).mean(axis=(1, 3))
    squares = np.concatenate([np.square(np.diff(blocks, axis=axis)).sum(axis=-1).ravel() for axis in (0, 1)])
    squares = squares[np.isfinite(squares)]
    if len(squares) < _FEWEST:
        return -np.inf
    return float(np.log(np.quantile(squares, 0.98) / np.median(squares)))


def _measured_edges(smooth: SpatialDirichlet, mosaic: SpatialDirichlet, maps: np.ndarray, noise_covariance: np.ndarray,
                    concentration: Tensor) -> float:
    """Where `difference_tail` of `maps` stands between that of maps of two priors with noise added: from 0, at the one without
    edges or within two of its standard deviations, to 1."""
    maps = maps[:_LOOKED_AT, :_LOOKED_AT]
    axes, variance, _ = np.linalg.svd(noise_covariance)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tails = np.array([[difference_tail(prior.draw_map(maps.shape[:2], concentration).numpy()
                                           + torch.randn(maps.shape).numpy() @ (axes * np.sqrt(variance)).T, noise_covariance)
                           for _ in range(_MAPS)] for prior in (smooth, mosaic)])
    tail = difference_tail(maps, noise_covariance)
    first, last = tails.mean(axis=1)
    if not np.isfinite(tails).all() or tail < first + 2 * tails[0].std() or last <= first:
        return 0.0
    return float(min((tail - first) / (last - first), 1.0))


def _amplitude(size: list[int], correlation_length: float, smoothness: int) -> np.ndarray:
    """Of each wave `(rows, cols // 2 + 1)` of a torus, such that the field has variance one."""
    down, across = (2.0 - 2.0 * np.cos(2.0 * np.pi * f) for f in (np.fft.fftfreq(size[0]), np.fft.rfftfreq(size[1])))
    amplitude = (2.0 * smoothness / correlation_length**2 + down[:, None] + across) ** (-0.5 * (smoothness + 1))
    return amplitude / np.sqrt(np.fft.irfft2(amplitude**2, s=size)[0, 0])


def _patches(n: int, shape: tuple[int, int], diameter: float) -> Tensor:
    """`n` fields `(n, rows, cols)` of one standard normal level in each cell of random points (a Voronoi mosaic)."""
    n_points = int(np.clip(shape[0] * shape[1] / diameter**2, 2, _PATCHES))
    points = torch.rand(n_points, 2) * torch.tensor(shape)
    pixels = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float32) for side in shape))
    cell = torch.cdist(pixels, points).argmin(dim=1).reshape(shape)
    return torch.randn(n, n_points)[:, cell]


def _log_gamma(scores: Tensor, concentration: Tensor) -> Tensor:
    """Logarithms of gamma variables of `concentration` `(K,)` at normal `scores` `(..., K)`, from a table."""
    a = concentration.double().numpy()
    p = special.ndtr(_SCORES)[:, None]
    # Where the variable is small its distribution function is a power, and the variable itself would underflow.
    small = (np.log(p) + special.gammaln(a + 1.0)) / a
    table = np.where(small < np.log(1e-6), small, np.log(np.maximum(special.gammaincinv(a, p), 1e-300)))
    table = torch.as_tensor(table, dtype=scores.dtype)
    place = (scores.clamp(_SCORES[0], _SCORES[-1]) - _SCORES[0]) / (_SCORES[1] - _SCORES[0])
    below = place.long().clamp_max(len(_SCORES) - 2)
    column = torch.arange(len(a)).expand(scores.shape)
    return torch.lerp(table[below, column], table[below + 1, column], place - below)


def _behind(correlations: np.ndarray, concentration: Tensor) -> np.ndarray:
    """Correlations of the normal scores behind abundances that correlate by `correlations`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, other = torch.randn(2, _PAIRS, len(concentration))
    table = []
    here = torch.softmax(_log_gamma(first, concentration), dim=-1)
    centred = here - here.mean(dim=0)
    for latent in _CORRELATIONS:
        there = torch.softmax(_log_gamma(latent * first + (1 - latent**2) ** 0.5 * other, concentration), dim=-1)
        table.append(float((centred * (there - there.mean(dim=0))).sum() / centred.square().sum()))
    return np.interp(correlations, np.maximum.accumulate(table), _CORRELATIONS)
