"""Endmembers as archetypes: convex combinations of pixels of which all pixels are convex combinations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.baselines.fcls import nnls
from pyro_unmix.numerics import flush_denormals

_SAMPLE = 2000
_ITERATIONS = 100


def archetypes(pixels: np.ndarray, n_endmembers: int, *, seed: int = 0) -> np.ndarray:
    """Archetypal analysis by entropic descent, 20 restarts at once, in the leading principal directions.

    Cutler and Breiman (1994), Technometrics 36(4), for the model; Zouaoui et al. (2023), IEEE TIP 32, "Entropic descent
    archetypal analysis for blind hyperspectral unmixing", for alternating mirror descent with a random step size a restart. Among
    restarts the one with the least median residual over pixels is kept: robust to pixels that no mixture explains.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`, as a rule divided by their norm. The answer does not depend on their order.
    n_endmembers
        Number of archetypes.
    seed
        Of the pixels drawn where there are more than 2000, and of the restarts.

    Returns
    -------
    endmembers
        `(n_endmembers, n_bands)`.
    """
    found = restarts(pixels, n_endmembers, 20, seed=seed)
    return found[int(np.argmin(np.median(residuals(pixels, found, seed=seed), axis=1)))]


def restarts(pixels: np.ndarray, n_endmembers: int, number: int, *, keep: int | None = None, seed: int = 0) -> np.ndarray:
    """Where descent ends from a `number` of random starts: `(keep, n_endmembers, n_bands)`, the order of no meaning.

    With `keep`, only that many go on after a quarter of the descent: those with the least mean residual.
    """
    generator = torch.Generator().manual_seed(seed)
    sample = _draw(pixels, _SAMPLE, generator)
    n_directions = min(max(2 * n_endmembers, 10), *sample.shape)
    directions = np.linalg.svd(sample, full_matrices=False)[2][:n_directions]
    with flush_denormals():
        weights = _descend(torch.as_tensor(sample @ directions.T, dtype=torch.float32), n_endmembers, number, keep or number,
                           generator)
    return (weights.double() @ torch.as_tensor(sample, dtype=torch.float64)).numpy()


def residuals(pixels: np.ndarray, found: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Distance of pixels, 2000 at most, from the cone of each of `found` `(number, k, n_bands)`: `(number, n_drawn)`."""
    sample = torch.as_tensor(_draw(pixels, _SAMPLE, torch.Generator().manual_seed(seed)), dtype=torch.float64)
    cones = torch.as_tensor(found, dtype=torch.float64)
    return np.stack([(sample - nnls(sample, cone, iterations=100) @ cone).norm(dim=1).numpy() for cone in cones])


def _draw(pixels: np.ndarray, number: int, generator: torch.Generator) -> np.ndarray:
    # The draw must not depend on the order of the pixels; a few bands are not enough where they are empty.
    ordered = pixels[np.lexsort(pixels.T[:: max(1, pixels.shape[1] // 16)])]
    return ordered[torch.randperm(len(ordered), generator=generator)[:number].numpy()]


def _descend(pixels: Tensor, k: int, number: int, keep: int, generator: torch.Generator) -> Tensor:
    """Weights `(keep, k, n)` that make the archetypes from `pixels` `(n, directions)`."""
    n = len(pixels)

    def simplex(*shape: int) -> Tensor:
        return torch.softmax(0.1 * torch.randn(number, *shape, generator=generator), dim=-1)

    abundances, weights = simplex(n, k), simplex(k, n)
    step = 2.0 ** (6.0 * torch.rand(number, 1, 1, generator=generator) - 3.0)
    for iteration in range(_ITERATIONS):
        if keep < number and iteration == _ITERATIONS // 4:
            best = (abundances @ (weights @ pixels) - pixels).norm(dim=2).mean(dim=1).argsort()[:keep]
            abundances, weights, step = abundances[best], weights[best], step[best]
        endmembers = weights @ pixels
        for _ in range(5):
            gradient = (abundances @ endmembers - pixels) @ endmembers.mT
            abundances = _mirror_step(abundances, step * gradient)
        gram, cross = abundances.mT @ abundances, abundances.mT @ pixels
        for _ in range(5):
            gradient = (gram @ (weights @ pixels) - cross) @ pixels.T
            weights = _mirror_step(weights, step * (k / n) ** 0.5 * gradient)
    return weights


def _mirror_step(point: Tensor, gradient: Tensor) -> Tensor:
    """A step of mirror descent on the simplex under the entropy: multiplicative, then renormalised."""
    return torch.softmax(point.clamp_min(1e-30).log() - gradient, dim=-1)
