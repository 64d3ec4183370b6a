"""Endmembers of the smallest simplex that holds nearly all pixels: none of them has to be pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyro_unmix.baselines.vca import vca
from pyro_unmix.errors import InputError
from pyro_unmix.subspace import candidates

# Mean depth of the pixels beyond a face, in standard deviations of normal noise: without noise they lie evenly behind it, which
# makes it sqrt(2 pi) / 4 = 0.63, or on it, sqrt(2 / pi) = 0.80. Between the two.
_DEPTH = 0.7
# Shares of pixels beyond a face between which the weight is looked for, and how much it grows from one try to the next.
_MOST_OUTSIDE, _LEAST_OUTSIDE, _GROWTH = 0.1, 1e-3, 1.25
# How far, in abundance, one step of the splitting may move a pixel that is beyond a face.
_STEP = 0.03


def sisal(pixels: np.ndarray, n_endmembers: int, *, weight: float | None = None, seed: int = 0) -> np.ndarray:
    """Simplex identification via split augmented Lagrangian.

    Bioucas-Dias (2009), WHISPERS, "A variable splitting augmented Lagrangian approach to linear spectral unmixing": of all
    matrices Q that turn pixels, in the affine subspace of their leading principal directions, into abundances that sum to one,
    the one of least -log|det Q| + weight * mean over pixels of summed max(0, -abundance).

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`, in any unit. The answer does not depend on their order. Abundances are taken to sum to one: where
        brightness varies among pixels, the smallest simplex follows the brightness.
    n_endmembers
        Number of endmembers.
    weight
        About a share (n_endmembers - 1) / weight of the pixels is left beyond each face. By default the weight grows until those
        pixels lie, in the mean, no deeper than the noise outside the subspace explains, or are one in a thousand.
    seed
        Of the start by vertex component analysis.

    Returns
    -------
    endmembers
        `(n_endmembers, n_bands)`, the brightest first. They may be negative in a band.

    Raises
    ------
    InputError
        Pixels that are no table of finite numbers, more endmembers than directions in which they point, or a weight that is not
        positive.
    """
    if weight is not None and not 0 < weight < np.inf:
        raise InputError("a positive weight", f"{weight}", "leave it out to have it follow the noise")
    pixels = candidates(pixels, n_endmembers)
    if n_endmembers == 1:
        return pixels.mean(axis=0, keepdims=True)
    plane = affine_subspace(pixels, n_endmembers)
    # The start hardly matters: with the first, small weight the faces pass through the pixels, wherever they come from.
    matrix = enclosing_simplices(pixels, plane, 0.99, seed)[0]
    split = plane.coordinates @ matrix
    dual = np.zeros_like(split)
    last = (n_endmembers - 1) / _LEAST_OUTSIDE if weight is None else weight
    first = min((n_endmembers - 1) / _MOST_OUTSIDE, last)
    for current in np.geomspace(first, last, 1 + int(np.ceil(np.log(last / first) / np.log(_GROWTH)))):
        matrix, split, dual = _minimise(plane.coordinates, matrix, split, dual, current)
        if weight is None and _depth(plane, matrix) <= _DEPTH * plane.noise_scale:
            break
    return corners(plane, matrix)


class Plane(NamedTuple):
    """Pixels in the affine subspace that fits them best.

    `coordinates` `(n_pixels, k)`: ones, then principal components of unit variance; `basis` `(k, n_bands)`: mean spectrum, then
    principal directions times standard deviations, so that `coordinates @ basis` are the projected pixels; `noise_scale`: root
    mean square, in a direction, of what is left.
    """

    coordinates: np.ndarray
    basis: np.ndarray
    noise_scale: float


def affine_subspace(pixels: np.ndarray, k: int) -> Plane:
    """The subspace of `k - 1` principal directions through the mean of `pixels` `(n_pixels, n_bands)`."""
    mean = pixels.mean(axis=0)
    values, vectors = np.linalg.eigh((pixels - mean).T @ (pixels - mean) / len(pixels))
    values, vectors = values[::-1].clip(min=0.0), vectors[:, ::-1]
    scales, directions = np.sqrt(values[: k - 1]), vectors[:, : k - 1]
    coordinates = np.column_stack([np.ones(len(pixels)), (pixels - mean) @ directions / scales])
    rest = values[k - 1:]
    return Plane(coordinates, np.vstack([mean, scales[:, None] * directions.T]), float(np.sqrt(rest.sum() / max(len(rest), 1))))


def enclosing_simplices(pixels: np.ndarray, plane: Plane, share: float, seed: int) -> list[np.ndarray]:
    """Matrices `(k, k)` from coordinates to abundances of simplices that hold a `share` of the pixels, the smallest first.

    One with its corners at the pixels of vertex component analysis, a poor choice or none where brightness varies, a regular one
    and its mirror image.
    """
    k = len(plane.basis)
    regular = np.sqrt(k) * np.linalg.svd(np.eye(k) - 1 / k)[0][:, : k - 1]
    chosen = (vca(pixels, k, seed=seed) - plane.basis[0]) @ np.linalg.pinv(plane.basis[1:])
    lifted = [np.column_stack([np.ones(k), points]) for points in (chosen, regular, -regular)]
    matrices = [expand(np.linalg.inv(simplex), plane.coordinates, share) for simplex in lifted if np.linalg.cond(simplex) < 1e8]
    return sorted(matrices, key=log_volume)


def log_volume(matrix: np.ndarray) -> float:
    """Of the simplex of a matrix `(k, k)` from coordinates to abundances, up to a constant."""
    return -float(np.linalg.slogdet(matrix)[1])


def corners(plane: Plane, matrix: np.ndarray) -> np.ndarray:
    """Endmembers `(k, n_bands)` of the simplex of a matrix `(k, k)` from coordinates to abundances, the brightest first."""
    endmembers = np.linalg.inv(matrix) @ plane.basis
    return endmembers[np.argsort(-endmembers.sum(axis=1))]


def expand(matrix: np.ndarray, coordinates: np.ndarray, share: float) -> np.ndarray:
    """`matrix` `(k, k)` of the simplex grown about its middle, just enough to hold a `share` of the pixels."""
    k = len(matrix)
    lowest = np.quantile((coordinates @ matrix).min(axis=1), 1 - share)
    factor = max(1.0, 1.0 - k * lowest)
    grown = matrix / factor
    grown[0] += (1 - 1 / factor) / k
    return grown


def _minimise(
    coordinates: np.ndarray, matrix: np.ndarray, split: np.ndarray, dual: np.ndarray, weight: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best matrix for one weight, with the split abundances `(n_pixels, k)` and scaled multipliers to go on from.

    Outside, -log|det| is replaced by its quadratic model at the current matrix, bounded by the relative change; inside,
    alternating directions. Coordinates are white, which leaves one k x k inverse for all inner steps.
    """
    n, k = coordinates.shape
    total = np.eye(k)[0]
    penalty = weight / _STEP
    for _ in range(100):
        inverse = np.linalg.inv(matrix)
        curvature = inverse.T @ inverse
        solver = np.linalg.inv(curvature + penalty * np.eye(k))
        fixed = curvature @ matrix + inverse.T
        for _ in range(10):
            matrix = solver @ (fixed + penalty / n * (coordinates.T @ (split + dual)))
            matrix = matrix + (total - matrix.sum(axis=1))[:, None] / k
            target = coordinates @ matrix - dual
            split = np.maximum(target, np.minimum(target + _STEP, 0.0))
            dual = split - target
        if np.abs(inverse @ matrix - np.eye(k)).max() < 1e-3:
            break
    return matrix, split, dual


def _depth(plane: Plane, matrix: np.ndarray) -> float:
    """Mean distance from its face, in the unit of the pixels, of what is beyond it."""
    depths = (-(plane.coordinates @ matrix)).clip(min=0.0)
    slopes = np.linalg.norm(matrix[1:] / np.linalg.norm(plane.basis[1:], axis=1)[:, None], axis=0)
    return float((depths / slopes).sum() / max(np.count_nonzero(depths), 1))
