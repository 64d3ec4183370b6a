"""Endmembers by successive projection: the longest pixel, again and again, in what is orthogonal to those already found."""

from __future__ import annotations

import numpy as np

from pyro_unmix.subspace import candidates


def spa(pixels: np.ndarray, n_endmembers: int, *, seed: int = 0) -> np.ndarray:
    """Successive projection algorithm.

    Araujo et al. (2001), Chemometrics and Intelligent Laboratory Systems 57(2), "The successive projections algorithm for
    variable selection in spectroscopic multicomponent analysis"; started at the longest pixel and proven robust to small noise
    by Gillis and Vavasis (2014), IEEE TPAMI 36(4), "Fast and robust recursive algorithms for separable nonnegative matrix
    factorization", algorithm 1. It takes abundances to sum to one: a bright pixel counts as a pure one.

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
    return pixels[longest(pixels, n_endmembers)]


def longest(rows: np.ndarray, n: int) -> list[int]:
    """The longest of `rows` `(n_rows, n_bands)`, then the longest in what is orthogonal to it, and so on: `n` of them."""
    chosen = []
    for _ in range(n):
        lengths = np.linalg.norm(rows, axis=1)
        chosen.append(int(lengths.argmax()))
        direction = rows[chosen[-1]] / lengths[chosen[-1]]
        rows = rows - np.outer(rows @ direction, direction)
    return chosen
