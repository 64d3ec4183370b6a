"""Endmembers by vertex component analysis: the pixels farthest out in directions orthogonal to those already found."""

from __future__ import annotations

import numpy as np

from pyro_unmix.subspace import candidates

# One projection divides a pixel by its brightness, and its noise with it: darker than this, relative to the mean, it is left out.
_LEAST_BRIGHTNESS = 0.01


def vca(pixels: np.ndarray, n_endmembers: int, *, seed: int = 0) -> np.ndarray:
    """Vertex component analysis.

    Nascimento and Bioucas-Dias (2005), IEEE TGRS 43(4), "Vertex component analysis: a fast algorithm to unmix hyperspectral
    data", algorithm 1. Below a signal-to-noise ratio of 15 + 10 log10(n_endmembers) dB the pixels are projected orthogonally,
    above it along their own brightness, which takes it out; there, pixels darker than a hundredth of the mean are left out.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`. The answer does not depend on their order.
    n_endmembers
        Number of endmembers.
    seed
        Of the random directions.

    Returns
    -------
    endmembers
        `(n_endmembers, n_bands)`: the pixels chosen, projected on the signal subspace.

    Raises
    ------
    InputError
        Pixels that are no table of finite numbers, or more endmembers than directions in which they point.
    """
    pixels = candidates(pixels, n_endmembers)
    n_bands = pixels.shape[1]
    rest = n_bands - n_endmembers
    probes = np.random.default_rng(seed).standard_normal((n_endmembers, n_bands + 1))
    mean = pixels.mean(axis=0)
    values, vectors = np.linalg.eigh((pixels - mean).T @ (pixels - mean) / len(pixels))
    noise = values[:rest].clip(min=0.0).sum()
    signal = rest / n_bands * (pixels**2).sum(axis=1).mean() - noise
    if signal < 10**1.5 * n_endmembers * noise:
        basis = vectors[:, rest + 1:]
        coordinates = (pixels - mean) @ basis
        lift = np.linalg.norm(coordinates, axis=1).max()
        points = np.column_stack([coordinates, np.full(len(pixels), lift)])
        chosen = vertices(points, np.column_stack([probes[:, :-1] @ basis, probes[:, -1]]))
        return mean + coordinates[chosen] @ basis.T
    basis = np.linalg.eigh(pixels.T @ pixels)[1][:, rest:]
    coordinates = pixels @ basis
    centre = coordinates.mean(axis=0)
    brightness = coordinates @ centre / (centre @ centre)
    lit = brightness > _LEAST_BRIGHTNESS
    chosen = vertices(coordinates[lit] / brightness[lit, None], probes[:, :-1] @ basis)
    return coordinates[lit][chosen] @ basis.T


def vertices(points: np.ndarray, probes: np.ndarray) -> list[int]:
    """Rows of `points` `(n, k)`, one for each of `probes` `(k, k)`: the farthest in its part orthogonal to all rows before."""
    chosen: list[int] = []
    taken = points.mean(axis=0)[:, None]  # nothing is chosen yet, and the middle of the points tells none from another
    for probe in probes:
        basis = np.linalg.qr(taken)[0]
        chosen.append(int(np.abs(points @ (probe - basis @ (basis.T @ probe))).argmax()))
        taken = points[chosen].T
    return chosen
