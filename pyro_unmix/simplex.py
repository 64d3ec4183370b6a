"""The simplex that makes noisy mixtures most likely: endmembers of scenes in which hardly a pixel, or none, is pure."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from scipy import interpolate, linalg, optimize, spatial, special

from pyro_unmix.baselines.spa import longest
from pyro_unmix.subspace import candidates

# Concentrations allowed. Above one a Dirichlet in a larger simplex explains the pixels as well as a flat one in a smaller: the
# data do not tell. Below, a table is needed of concentrations no scene has.
_LEAST, _MOST = 0.05, 1.0
# In standard deviations of the noise: a pixel farther outside than this pulls no harder, and one this deep inside is not noisy.
_OUTSIDE, _INSIDE = 3.0, 12.0
# Standard deviation of a flat variable on (0, 1): no abundance is less certain than that.
_LEAST_CERTAIN = 0.3
_MOST_PIXELS = 4000
# Abundance of an endmember above which a pixel counts as pure.
_PURE = 2.0 / 3.0
# Pixels averaged before corners are looked for among them, and how many times noisier than most a pixel may be to count there.
_NEIGHBOURS, _MOST_NOISE = 5, 2.0


class Simplex(NamedTuple):
    """Endmembers `(n_endmembers, n_bands)` and the concentration of each `(n_endmembers,)`.

    Where brightness was divided out, endmembers have a component of 1 along the mean spectrum, and concentrations are those of
    abundances in that amplitude.
    """

    endmembers: np.ndarray
    concentration: np.ndarray


def likely_simplex(pixels: np.ndarray, start: np.ndarray, *, brightness: bool, seed: int = 0) -> Simplex:
    """Endmembers and concentrations that make the pixels most likely, abundances integrated out.

    The model of Nascimento and Bioucas-Dias (2012), IEEE TGRS 50(3), "Hyperspectral unmixing based on mixtures of Dirichlet
    components", with one component and with noise: abundances are Dirichlet(concentration), noise is white and Gaussian. In the
    affine subspace of the pixels a spectrum's abundances given the endmembers are normal around their least-squares solution; the
    integral over the simplex is approximated by the product of the integrals over each abundance, as if their errors were
    independent. A flat law first, then concentrations of at most one, by quasi-Newton steps. An endmember whose concentration
    says that pixels are pure or without it, and of which none is pure, stays where it started.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`. The answer does not depend on their order.
    start
        `(n_endmembers, n_bands)`: any simplex that turns the right way round, such as that of `vca` or `averaged_corners`.
    brightness
        Whether pixels have a factor of their own, which is then divided out.
    seed
        Of the pixels drawn where there are more than 4000.
    """
    pixels = candidates(pixels, len(start))
    plane = _Plane.of(pixels, len(start), brightness)
    first = plane.vertices(start)
    chosen = np.random.default_rng(seed).permutation(len(pixels))[:_MOST_PIXELS]
    problem = _Likelihood(plane.points[chosen], plane.noise_scale[chosen], first.shape)
    flat = problem.solve(problem.around_the_pixels(first), np.ones(len(start)), least=_MOST)
    vertices, concentration = problem.solve(*flat, least=_LEAST)
    # A concentration at its lower bound says that pixels are pure or without it. If then none is pure, the corner has run away.
    lost = (concentration < 1.01 * _LEAST) & (problem.purity(vertices) < _PURE)
    return Simplex(plane.spectra(np.where(lost[:, None], first, vertices)), concentration)


def averaged_corners(pixels: np.ndarray, n_endmembers: int, *, brightness: bool, seed: int = 0) -> np.ndarray:
    """Endmembers of noisy pixels some of which are pure: the corners of the means of pixels that look alike.

    In the subspace of the pixels each becomes the mean of its nearest neighbours, weighted by their precision; corners among
    these are found as by `spa`. The farthest of single pixels are those whose noise points outwards.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`. The answer does not depend on their order.
    n_endmembers
        Number of endmembers.
    brightness, seed
        As of `likely_simplex`.

    Returns
    -------
    endmembers
        `(n_endmembers, n_bands)`. Where brightness was divided out, they have a component of 1 along the mean spectrum.
    """
    pixels = candidates(pixels, n_endmembers)
    plane = _Plane.of(pixels, n_endmembers, brightness)
    clear = np.flatnonzero(plane.noise_scale <= _MOST_NOISE * np.median(plane.noise_scale))
    chosen = np.random.default_rng(seed).permutation(clear)[:_MOST_PIXELS]
    points, weights = plane.points[chosen], plane.noise_scale[chosen] ** -2
    n_neighbours = np.clip(len(points) // n_endmembers, 1, _NEIGHBOURS)
    near = spatial.cKDTree(points).query(points, np.arange(1, n_neighbours + 1))[1]
    means = np.average(points[near], axis=1, weights=np.broadcast_to(weights[near][..., None], points[near].shape))
    # One more coordinate, the same for all, so that the middle of the points is no corner.
    lifted = np.column_stack([means, np.full(len(means), np.linalg.norm(means, axis=1).max())])
    return plane.spectra(means[longest(lifted, n_endmembers)])


class _Plane(NamedTuple):
    """Pixels `points` `(n_pixels, k - 1)` in coordinates of unit noise, times `noise_scale` `(n_pixels,)`, divided by their
    brightness or not; spectra are `origin + points @ basis`."""

    points: np.ndarray
    noise_scale: np.ndarray
    origin: np.ndarray
    basis: np.ndarray
    divided: bool

    @classmethod
    def of(cls, pixels: np.ndarray, k: int, brightness: bool) -> _Plane:
        return cls._brightness_divided(pixels, k) if brightness else cls._affine(pixels, k)

    @classmethod
    def _affine(cls, pixels: np.ndarray, k: int) -> _Plane:
        origin = pixels.mean(axis=0)
        basis = np.linalg.eigh((pixels - origin).T @ (pixels - origin))[1].T[::-1][: k - 1]
        left = pixels - origin - (pixels - origin) @ basis.T @ basis
        points = (pixels - origin) @ basis.T
        return cls(points, np.full(len(pixels), _noise(left, points, k)), origin, basis, divided=False)

    @classmethod
    def _brightness_divided(cls, pixels: np.ndarray, k: int) -> _Plane:
        """Pixels divided by their component along the mean spectrum; the noise of dark ones grows."""
        space = np.linalg.eigh(pixels.T @ pixels)[1].T[::-1][:k]
        origin = pixels.mean(axis=0) @ space.T @ space
        origin /= np.linalg.norm(origin)
        basis = linalg.null_space((space @ origin)[None]).T @ space
        noise = _noise(pixels - pixels @ space.T @ space, pixels @ basis.T, k)
        amount = np.maximum(pixels @ origin, 1e-2 * (pixels @ origin).mean())
        return cls(pixels @ basis.T / amount[:, None], noise / amount, origin, basis, divided=True)

    def vertices(self, spectra: np.ndarray) -> np.ndarray:
        if self.divided:
            return spectra @ self.basis.T / (spectra @ self.origin)[:, None]
        return (spectra - self.origin) @ self.basis.T

    def spectra(self, vertices: np.ndarray) -> np.ndarray:
        return self.origin + vertices @ self.basis


def _noise(left: np.ndarray, points: np.ndarray, k: int) -> float:
    """Standard deviation of the noise, from what is `left` outside the subspace; below 1e-4 of the signal, faces would be cliffs
    on which the descent gets stuck."""
    measured = np.sqrt(np.sum(left**2) / len(left) / max(left.shape[1] - k, 1))
    return float(max(measured, 1e-4 * points.std()))


class _Likelihood:
    """Negative mean log likelihood of vertices and concentrations, with its gradient."""

    def __init__(self, points: np.ndarray, noise_scale: np.ndarray, shape: tuple[int, int]):
        self.shape = shape
        self.centre = points.mean(axis=0)
        # Coordinates in which the pixels have unit variance; the noise there is `noise_scale * normal @ white`.
        self.white = np.linalg.inv(np.linalg.cholesky(np.cov(points.T).reshape(shape[1], shape[1]))).T
        self.points = np.column_stack([(points - self.centre) @ self.white, np.ones(len(points))])
        self.noise_scale = noise_scale
        self.root = np.linalg.cholesky(self.white.T @ self.white)
        self.blur = np.median(noise_scale) ** 2 * self.white.T @ self.white

    def around_the_pixels(self, vertices: np.ndarray) -> np.ndarray:
        """`vertices`, moved out from their middle until nearly all pixels lie inside."""
        for _ in range(60):
            inverse = np.linalg.pinv(self._homogeneous((vertices - self.centre) @ self.white))
            if (np.quantile(self.points @ inverse.T, 0.02, axis=0) > -0.02).all():
                break
            vertices = vertices.mean(axis=0) + 1.1 * (vertices - vertices.mean(axis=0))
        return vertices

    def solve(self, vertices: np.ndarray, concentration: np.ndarray, *, least: float) -> tuple[np.ndarray, np.ndarray]:
        k = len(vertices)
        start = np.concatenate([((vertices - self.centre) @ self.white).ravel(), np.log(concentration)])
        bounds = [(None, None)] * vertices.size + [(np.log(least), np.log(_MOST))] * k
        found = optimize.minimize(self, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 200}).x
        return found[:-k].reshape(self.shape) @ np.linalg.inv(self.white) + self.centre, np.exp(found[-k:])

    def purity(self, vertices: np.ndarray) -> np.ndarray:
        """Of each vertex, the abundance that one pixel in a thousand exceeds, `(k,)`."""
        inverse = np.linalg.inv(self._homogeneous((vertices - self.centre) @ self.white))
        return np.quantile(self.points @ inverse.T, 0.999, axis=0)

    def __call__(self, unknowns: np.ndarray) -> tuple[float, np.ndarray]:
        k, n = self.shape[0], len(self.points)
        vertices, log_concentration = unknowns[:-k].reshape(self.shape), unknowns[-k:]
        concentration = np.exp(log_concentration)
        inverse = np.linalg.inv(self._homogeneous(vertices))
        abundances = self.points @ inverse.T
        rows = inverse[:, :-1] @ self.root
        per_noise = np.linalg.norm(rows, axis=1)
        raw_sd = self.noise_scale[:, None] * per_noise
        shrink = 1.0 / np.sqrt(1.0 + (raw_sd / _LEAST_CERTAIN) ** 2)
        sd = raw_sd * shrink
        value, slope, by_concentration = _log_integral(abundances / sd, log_concentration)
        value = value + (concentration - 1.0) * np.log(sd)

        # The volume as the noise blurs it: a simplex thinner than the noise is no denser for it.
        edges = vertices - vertices.mean(axis=0)
        covariance = edges.T @ edges / (k * (k + 1.0)) + self.blur
        total = concentration.sum()
        objective = value.sum() + n * (special.gammaln(total) - special.gammaln(concentration).sum()
                                       - 0.5 * np.linalg.slogdet(covariance)[1])

        by_sd = (concentration - 1.0 - slope * abundances / sd) / sd * shrink**3
        by_inverse = (slope / sd).T @ self.points
        by_inverse[:, :-1] += ((by_sd * self.noise_scale[:, None]).sum(axis=0) / per_noise)[:, None] * (rows @ self.root.T)
        by_edges = -n / (k * (k + 1.0)) * edges @ np.linalg.inv(covariance)
        by_vertices = -(inverse.T @ by_inverse @ inverse.T)[:-1].T + by_edges - by_edges.mean(axis=0)
        by_log = (by_concentration + concentration * np.log(sd)).sum(axis=0) \
            + n * concentration * (special.digamma(total) - special.digamma(concentration))
        return -objective / n, -np.concatenate([by_vertices.ravel(), by_log]) / n

    @staticmethod
    def _homogeneous(vertices: np.ndarray) -> np.ndarray:
        return np.vstack([vertices.T, np.ones(len(vertices))])


def _log_integral(t: np.ndarray, log_concentration: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log of the integral over x > 0 of x^(concentration - 1) normal(x - t), its derivatives by t and by log concentration.

    `t` `(n, k)`, `log_concentration` `(k,)`. Beyond `_OUTSIDE` standard deviations on the wrong side it goes on linearly.
    """
    log_concentration = np.broadcast_to(log_concentration, t.shape)
    concentration = np.exp(log_concentration)
    inside = np.maximum(t, _INSIDE)  # an expansion in 1 / t^2
    second = (concentration - 1.0) * (concentration - 2.0) / (2.0 * inside**2)
    value = (concentration - 1.0) * np.log(inside) + second
    slope = (concentration - 1.0) / inside - 2.0 * second / inside
    by_log = concentration * (np.log(inside) + (2.0 * concentration - 3.0) / (2.0 * inside**2))
    near = t < _INSIDE
    at, where = np.maximum(t[near], -_OUTSIDE), log_concentration[near]
    table = _table()
    slope[near] = table.ev(at, where, dx=1)
    beyond = t[near] - at
    value[near] = table.ev(at, where) + slope[near] * beyond
    by_log[near] = table.ev(at, where, dy=1)
    by_log[near] += table.ev(at, where, dx=1, dy=1) * beyond
    return value, slope, by_log


@functools.cache
def _table() -> interpolate.RectBivariateSpline:
    """The logarithm of the integral over t and log concentration, by the trapezoidal rule in log x."""
    t = np.linspace(-_OUTSIDE - 0.5, _INSIDE + 0.5, 129)
    log_concentration = np.linspace(np.log(_LEAST) - 0.1, np.log(_MOST) + 0.1, 25)
    log_x, step = np.linspace(-12.0, 3.5, 1551, retstep=True)
    kernel = -0.5 * (np.exp(log_x) - t[:, None]) ** 2 - 0.5 * np.log(2.0 * np.pi)
    values = []
    for concentration in np.exp(log_concentration):
        body = special.logsumexp(kernel + concentration * log_x, axis=1) + np.log(step)
        # Below the grid the normal is flat and the power integrates itself; half a step is counted by the sum.
        tail = kernel[:, 0] + concentration * log_x[0] + np.log(1.0 / concentration - step / 2.0)
        values.append(np.logaddexp(body, tail))
    return interpolate.RectBivariateSpline(t, log_concentration, np.stack(values, axis=1))
