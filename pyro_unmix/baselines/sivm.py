"""Endmembers by simplex volume maximisation: the pixel that adds most volume to the simplex of those already found."""

from __future__ import annotations

import numpy as np

from pyro_unmix.baselines.spa import longest
from pyro_unmix.subspace import candidates


def sivm(pixels: np.ndarray, n_endmembers: int, *, seed: int = 0) -> np.ndarray:
    """Simplex volume maximisation.

    Thurau, Kersting and Bauckhage (2010), CIKM, "Yes we can: simplex volume maximization for descriptive web-scale matrix
    factorization". The paper reads the volume, a Cayley-Menger determinant, off the distances to the vertices found, and takes
    these to be equally far apart, which passes over pure pixels. Here the volume is exact: it grows by the height of a pixel over
    the simplex. The start is the pixel farthest from the mean, in the paper one far from a pixel drawn.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`. The answer does not depend on their order.
    n_endmembers
        Number of endmembers.
    seed
        Not used: nothing is random.

    Returns
    -------
    endmembers
        `(n_endmembers, n_bands)`: pixels, in the order in which they were chosen.

    Raises
    ------
    InputError
        Pixels that are no table of finite numbers, or more endmembers than directions in which they point.
    """
    pixels = candidates(pixels, n_endmembers)
    first = int(np.linalg.norm(pixels - pixels.mean(axis=0), axis=1).argmax())
    return pixels[[first, *longest(pixels - pixels[first], n_endmembers - 1)]]
