"""What the residuals of a scene say about its unmixing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from scipy import linalg

from pyro_unmix.amplitude import spread
from pyro_unmix.baselines.fcls import fcls, nnls
from pyro_unmix.diagnostics.calibration import Array
from pyro_unmix.errors import InputError
from pyro_unmix.metrics import spectral_angle
from pyro_unmix.noise_structure import neighbour_correlation
from pyro_unmix.numerics import one_thread
from pyro_unmix.scene import Scene
from pyro_unmix.subspace import effective_bands, noise_edge

# So many structures may be endmembers: correlations are measured without them.
_FEW = 3
# A pixel's chi-square rises by this without an endmember that it holds: five standard deviations.
_NEEDED = 25.0


@dataclass(frozen=True)
class Checks:
    """What the residuals of a scene say about its unmixing.

    Residuals are whitened: divided by the noise that is claimed. Their part beyond span(M), the space that the endmembers span,
    needs no abundances and is white where endmembers and noise are right; their part within shows whether abundances are.
    "Structures" are directions beyond span(M) that hold more than noise can.

    Attributes
    ----------
    chi_square, degrees_of_freedom
        `(y, x)`: sum of squares of the whitened residual, and the number of bands less that of numbers fitted to the pixel.
    reduced_chi_square
        The one over the other, each summed over the scene. 1 where all is right.
    noise_ratio
        Standard deviation of the residuals beyond span(M), structures left out, over the one that is claimed.
    structures
        Eigenvalues of the covariance beyond span(M) past the edge for white noise: Marchenko and Pastur (1967), with the
        fluctuation of Johnstone (2001); one white scene in a thousand has any.
    strongest
        The largest eigenvalue over that edge.
    effective_bands
        How many independent bands the residuals are worth: `subspace.effective_bands` beyond span(M), scaled so that it is near
        the number of bands for white noise.
    band_correlation, pixel_correlation
        Correlation of residuals between adjacent bands, and between adjacent pixels (rows and columns) that are both in use. The
        three strongest structures, where there are any, and what fitting takes out are accounted for: 0 for white noise.
    signal_correlation
        Correlation over pixels of the logarithms of chi-square beyond span(M) and of the norm of the fitted spectrum.
    misfit, misfit_least, misfit_freed
        Square of the residual within span(M), mean over pixels, in units of the variance of the noise: of the abundances given;
        of the best there are; of the best with brightness free. Up to about `n_endmembers` is noise.
    brightness_scatter
        Robust standard deviation of the logarithm of the brightness of pixels, where it is free.
    needed
        `(n_endmembers,)`: share of pixels that fit worse by five standard deviations without the endmember.
    purity
        `(n_endmembers,)`: its largest abundance in the scene.
    angles
        `(n_endmembers, n_endmembers)`: between endmembers, in radians.
    with_brightness
        Whether brightness was part of the fit.
    """

    chi_square: xr.DataArray
    degrees_of_freedom: xr.DataArray
    reduced_chi_square: float
    noise_ratio: float
    structures: int
    strongest: float
    effective_bands: float
    band_correlation: float
    pixel_correlation: float
    signal_correlation: float
    misfit: float
    misfit_least: float
    misfit_freed: float
    brightness_scatter: float
    needed: np.ndarray
    purity: np.ndarray
    angles: np.ndarray
    with_brightness: bool


@one_thread()
def check_residuals(scene: Scene, abundances: Array, brightness: Array | None, endmembers: Array,
                    noise_cholesky: Array) -> Checks:
    """Look at what a linear unmixing leaves of a scene.

    Parameters
    ----------
    abundances
        `(y, x, K)`: means of the posterior. Values of masked pixels are not read.
    brightness
        `(y, x)`, or None where it is taken as one.
    endmembers
        `(K, L)`, in the unit of the scene.
    noise_cholesky
        Standard deviations `(L,)`, or the lower Cholesky factor `(L, L)` of the covariance of the noise.

    Raises
    ------
    InputError
        Shapes that do not belong together, no more bands than endmembers, values that are not finite, noise that is not positive.
    """
    use = scene.mask.values
    endmembers, noise_cholesky = (np.asarray(each, dtype=np.float64) for each in (endmembers, noise_cholesky))
    k, n_bands = _check(scene, abundances, brightness, endmembers, noise_cholesky)
    fitted = np.asarray(abundances, dtype=np.float64)[use]
    if brightness is not None:
        fitted = fitted * np.asarray(brightness, dtype=np.float64)[use][:, None]
    scales = noise_cholesky if noise_cholesky.ndim == 1 else noise_cholesky.diagonal()
    if not (all(np.isfinite(each).all() for each in (fitted, endmembers, noise_cholesky)) and (scales > 0).all()):
        raise InputError("finite abundances, brightness and endmembers in pixels in use, and positive noise",
                         "values that are not")

    pixels, white = _whiten(scene.pixels().astype(np.float64), noise_cholesky), _whiten(endmembers, noise_cholesky)
    chi_square = ((pixels - fitted @ white) ** 2).sum(axis=1)
    degrees = n_bands - (fitted > 1e-6).sum(axis=1) + (brightness is None)
    within, level, beyond = _look_beyond(pixels, white, noise_cholesky.ndim == 1)
    left = beyond.left()

    seen, corners = pixels @ within, white @ within  # least squares see no more of them

    def misfit(coefficients: np.ndarray) -> np.ndarray:
        return ((seen - coefficients @ corners) ** 2).sum(axis=1) / level

    solve = fcls if brightness is None else nnls
    best, freed = misfit(_least_squares(solve, seen, corners)), _least_squares(nnls, seen, corners)
    without = [np.insert(_least_squares(solve, seen, np.delete(corners, each, axis=0)), each, 0.0, axis=1) for each in range(k)]
    return Checks(
        chi_square=_map(scene, chi_square, "chi_square"),
        degrees_of_freedom=_map(scene, degrees, "degrees_of_freedom"),
        reduced_chi_square=float(chi_square.sum() / degrees.sum()),
        noise_ratio=float(np.sqrt(level)),
        structures=beyond.structures,
        strongest=beyond.strongest,
        effective_bands=effective_bands(beyond.coordinates, 0) * (1 / (n_bands - k) + 1 / len(pixels)) * n_bands,
        band_correlation=beyond.band_correlation(),
        pixel_correlation=neighbour_correlation(left, use),
        signal_correlation=_log_correlation((left**2).sum(axis=1), np.linalg.norm(fitted @ endmembers, axis=1)),
        misfit=float(misfit(fitted).mean()),
        misfit_least=float(best.mean()),
        misfit_freed=float(misfit(freed).mean()),
        brightness_scatter=spread(np.log(np.maximum(freed.sum(axis=1), 1e-12))),
        needed=np.array([(misfit(each) - best > _NEEDED).mean() for each in without]),
        purity=np.asarray(abundances, dtype=np.float64)[use].max(axis=0),
        angles=spectral_angle(endmembers[:, None], endmembers),
        with_brightness=brightness is not None,
    )


class _Beyond(NamedTuple):
    """White pixels beyond span(M): `coordinates` `(n, L - K)` in an orthonormal `basis` `(L, L - K)`, their mean `products`
    `(L - K, L - K)`, the variance `level` of their noise, the number of eigenvalues above what noise can reach, the largest over
    that, and the directions of a `few`."""

    coordinates: np.ndarray
    basis: np.ndarray
    products: np.ndarray
    level: float
    structures: int
    strongest: float
    few: np.ndarray

    @classmethod
    def of(cls, coordinates: np.ndarray, basis: np.ndarray) -> _Beyond:
        n, p = coordinates.shape
        products = coordinates.T @ coordinates / n
        values, vectors = np.linalg.eigh(products)
        values = np.maximum(values, 0.0)  # rounding
        edge = noise_edge(n, p)
        level = values.mean()
        while (lower := values[values <= edge * level].mean()) < level:
            level = lower
        level = max(float(level), 1e-300)
        structures = int((values > edge * level).sum())
        few = vectors[:, p - min(structures, _FEW) :]
        return cls(coordinates, basis, products, level, structures, float(values[-1] / (edge * level)), few)

    def left(self) -> np.ndarray:
        """Coordinates without the few strongest structures."""
        return self.coordinates - self.coordinates @ self.few @ self.few.T

    def powers(self) -> np.ndarray:
        """`(L,)`: mean square of each band of the residuals."""
        return np.einsum("lp,pq,lq->l", self.basis, self.products, self.basis, optimize=True)

    def band_correlation(self) -> float:
        """Of adjacent bands in what is left, less what the projection does to white noise."""
        without = self.basis - self.basis @ self.few @ self.few.T
        products, projection = without @ self.products @ without.T, without @ without.T
        return float(np.trace(products, offset=1) / max(np.trace(products), 1e-300)
                     - np.trace(projection, offset=1) / np.trace(projection))


def _look_beyond(pixels: np.ndarray, endmembers: np.ndarray, independent: bool) -> tuple[np.ndarray, float, _Beyond]:
    """Of white pixels `(n, L)` and endmembers `(K, L)`: a basis `(L, K)` of span(M), the variance of the noise beyond it, and
    what is there, with bands whitened anew where that is fairer."""
    within, basis = _split(endmembers)
    claimed = _Beyond.of(pixels @ basis, basis)
    if not independent:
        return within, claimed.level, claimed
    # A learned noise takes up what a wrong mixture leaves, in some bands more than in others. Beyond span(M) bands show their
    # own, which serves where that leaves less to explain.
    own = _band_scales(claimed.powers(), basis @ basis.T)
    basis = _split(endmembers / own)[1]
    again = _Beyond.of(pixels / own @ basis, basis)
    return within, claimed.level, again if again.structures < claimed.structures else claimed


def _split(endmembers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases `(L, K)` and `(L, L - K)` of what `(K, L)` endmembers span, and of what is beyond."""
    basis = np.linalg.qr(endmembers.T, mode="complete")[0]
    return basis[:, : len(endmembers)], basis[:, len(endmembers) :]


def _band_scales(power: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """Standard deviations `(L,)` of independent noise of whose `projection` `(L, L)` bands have this mean square `(L,)`.

    The estimator of Rao (1970), JASA 65, "Estimation of heteroscedastic variances in linear models"; kept above nothing.
    """
    return np.sqrt(np.maximum(np.linalg.solve(projection**2, power), np.maximum(0.1 * power, 1e-300)))


def _check(scene: Scene, abundances, brightness, endmembers: np.ndarray, noise_cholesky: np.ndarray) -> tuple[int, int]:
    """Numbers of endmembers and bands, once all shapes belong together."""
    rows, cols, n_bands = scene.shape
    k = len(endmembers)
    given = [("abundances", abundances, (rows, cols, k)), ("endmembers", endmembers, (k, n_bands)),
             ("noise", noise_cholesky, (n_bands,) * noise_cholesky.ndim)]
    given += [] if brightness is None else [("brightness", brightness, (rows, cols))]
    if any(np.shape(each) != wanted for _, each, wanted in given) or noise_cholesky.ndim not in (1, 2) or not 2 <= k < n_bands:
        raise InputError(f"abundances ({rows}, {cols}, K), brightness ({rows}, {cols}), endmembers (K, {n_bands}) and noise "
                         f"({n_bands},) or ({n_bands}, {n_bands}), with K from 2 to {n_bands - 1}",
                         ", ".join(f"{name} {np.shape(each)}" for name, each, _ in given))
    if scene.n_pixels < 2:
        raise InputError("at least 2 pixels in use", f"{scene.n_pixels}")
    return k, n_bands


def _whiten(rows: np.ndarray, noise_cholesky: np.ndarray) -> np.ndarray:
    return rows / noise_cholesky if noise_cholesky.ndim == 1 else linalg.solve_triangular(noise_cholesky, rows.T, lower=True).T


def _least_squares(solve: Callable, pixels: np.ndarray, endmembers: np.ndarray) -> np.ndarray:
    return solve(torch.as_tensor(pixels), torch.as_tensor(np.ascontiguousarray(endmembers))).numpy()


def _map(scene: Scene, values: np.ndarray, name: str) -> xr.DataArray:
    full = np.full(scene.shape[:2], np.nan)
    full[scene.mask.values] = values
    return scene.mask.copy(data=full).rename(name)


def _log_correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (np.log(np.maximum(each, 1e-300)) for each in (a, b))
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-300))
