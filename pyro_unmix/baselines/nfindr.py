"""Endmembers by N-FINDR: the pixels that span the simplex of largest volume."""

from __future__ import annotations

import numpy as np

from pyro_unmix.baselines.vca import vertices
from pyro_unmix.subspace import candidates


def nfindr(pixels: np.ndarray, n_endmembers: int, *, seed: int = 0) -> np.ndarray:
    """N-FINDR: vertices are replaced by pixels as long as the volume of the simplex grows.

    Winter (1999), Proc. SPIE 3753, "N-FINDR: an algorithm for fast autonomous spectral end-member determination in
    hyperspectral data", in the leading principal directions. The determinant is linear in each vertex, so by Cramer's rule the
    barycentric coordinates of a pixel are the factors by which it changes the volume in the place of each vertex: one product
    tries all pixels in all places, and the best goes in. The start is found as in `vca`, not drawn, which leaves no flat simplex.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`. The answer does not depend on their order.
    n_endmembers
        Number of endmembers.
    seed
        Of the random directions in which the start is found.

    Returns
    -------
    endmembers
        `(n_endmembers, n_bands)`: pixels.

    Raises
    ------
    InputError
        Pixels that are no table of finite numbers, or more endmembers than directions in which they point.
    """
    pixels = candidates(pixels, n_endmembers)
    probes = np.random.default_rng(seed).standard_normal((n_endmembers, pixels.shape[1] + 1))
    centred = pixels - pixels.mean(axis=0)
    basis = np.linalg.eigh(centred.T @ centred)[1][:, pixels.shape[1] - n_endmembers + 1:]
    length = np.linalg.norm(pixels, axis=1).max()
    points = np.column_stack([centred @ basis, np.full(len(pixels), length)])  # the determinant of k such rows is the volume
    chosen = vertices(points, np.column_stack([probes[:, :-1] @ basis, probes[:, -1]]))
    while True:
        factors = np.abs(points @ np.linalg.inv(points[chosen]))
        pixel, place = np.unravel_index(factors.argmax(), factors.shape)
        if factors[pixel, place] <= 1.0 + 1e-9:
            return pixels[chosen]
        chosen[place] = int(pixel)
