"""Endmembers of the smallest simplex that holds all pixels."""

from __future__ import annotations

import numpy as np
from scipy import optimize

from pyro_unmix.baselines.sisal import affine_subspace, corners, enclosing_simplices, expand, log_volume
from pyro_unmix.subspace import candidates

# Pixels an endmember that are asked to stay inside from the beginning, and those added to a face that others have crossed.
_INNER, _ADDED = 20, 10
# Abundance by which a pixel may be beyond a face before it is asked too.
_TOLERANCE = 1e-8


def mvsa(pixels: np.ndarray, n_endmembers: int, *, seed: int = 0) -> np.ndarray:
    """Minimum volume simplex analysis.

    Li, Agathos, Zaharie, Bioucas-Dias, Plaza and Li (2015), IEEE TGRS 53(9), "Minimum volume simplex analysis: a fast algorithm
    to unmix hyperspectral data": of all matrices Q that turn pixels, in the affine subspace of their leading principal
    directions, into abundances that sum to one and are not negative, that of least -log|det Q|, by sequential quadratic programs
    over a few of the constraints. Those few are the pixels farthest in random directions, then whatever is found outside.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`, in any unit. The answer does not depend on their order. A single outlier moves a face.
    n_endmembers
        Number of endmembers.
    seed
        Of the start by vertex component analysis and of the directions.

    Returns
    -------
    endmembers
        `(n_endmembers, n_bands)`, the brightest first. They may be negative in a band.

    Raises
    ------
    InputError
        Pixels that are no table of finite numbers, or more endmembers than directions in which they point.
    """
    pixels = candidates(pixels, n_endmembers)
    if n_endmembers == 1:
        return pixels.mean(axis=0, keepdims=True)
    plane = affine_subspace(pixels, n_endmembers)
    directions = np.random.default_rng(seed).standard_normal((n_endmembers - 1, _INNER * n_endmembers))
    inner = (plane.coordinates[:, 1:] @ directions).argmax(axis=0)
    starts = enclosing_simplices(pixels, plane, 1.0, seed)  # a triangle and its mirror image can both be smallest nearby
    matrix = min((_shrink(plane.coordinates, inner, start) for start in starts), key=log_volume)
    return corners(plane, matrix)


def _shrink(coordinates: np.ndarray, inner: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The matrix `(k, k)` of a smallest simplex, from a start and the `inner` pixels, by adding those it leaves outside."""
    inside = np.zeros(coordinates.shape, bool)
    inside[inner] = True
    for _ in range(100):
        matrix = _smallest(coordinates, inside, matrix)
        abundances = coordinates @ matrix
        crossed = (abundances < -_TOLERANCE) & ~inside
        if not crossed.any():
            break
        worst = np.where(crossed, abundances, 0.0).argsort(axis=0, kind="stable")[:_ADDED]
        inside[worst, np.arange(len(matrix))] = True
    return expand(matrix, coordinates, 1.0)


def _smallest(coordinates: np.ndarray, inside: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The matrix `(k, k)` of least -log|det| for which abundances are not negative where `inside` `(n_pixels, k)`.

    The last column follows from the others, for abundances sum to one.
    """
    k = len(matrix)
    pixel, face = np.nonzero(inside)
    completion = np.vstack([np.eye(k - 1), -np.ones(k - 1)])
    slope = (coordinates[pixel][:, :, None] * completion[face][:, None, :]).reshape(len(pixel), -1)
    offset = (face == k - 1).astype(float)

    def whole(free: np.ndarray) -> np.ndarray:
        filled = free.reshape(k, k - 1) @ completion.T
        filled[0, -1] += 1.0
        return filled

    def objective(free: np.ndarray) -> tuple[float, np.ndarray]:
        filled = whole(free)
        return log_volume(filled), -(np.linalg.inv(filled).T @ completion).ravel()

    constraint = {"type": "ineq", "fun": lambda free: slope @ free + offset, "jac": lambda free: slope}
    found = optimize.minimize(objective, matrix[:, :-1].ravel(), jac=True, method="SLSQP", constraints=constraint,
                              options={"maxiter": 100, "ftol": 1e-9})
    return whole(found.x)
