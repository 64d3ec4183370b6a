"""Endmembers as archetypes: convex combinations of pixels of which all pixels are convex combinations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.baselines.fcls import nnls
from pyro_unmix.numerics import flush_denormals


def archetypes(
    pixels: np.ndarray, n_endmembers: int, *, restarts: int = 20, n_pixels: int = 2000, iterations: int = 100, seed: int = 0
) -> np.ndarray:
    """Archetypal analysis by entropic descent, all restarts at once, in the leading principal directions.

    Cutler and Breiman (1994), Technometrics 36(4), for the model; Zouaoui et al. (2023), IEEE TIP 32, "Entropic descent
    archetypal analysis for blind hyperspectral unmixing", for alternating mirror descent with a random step size a restart. Among
    restarts the one with the least median residual over pixels is kept: robust to pixels that no mixture explains.

    Parameters
    ----------
    pixels
        `(n_all, n_bands)`: pixels, as a rule divided by their norm. The answer does not depend on their order.
    n_endmembers
        Number of archetypes.
    restarts, n_pixels, iterations
        Independent starts; pixels drawn at random to work on; alternations.

    Returns
    -------
    endmembers
        `(n_endmembers, n_bands)`.
    """
    generator = torch.Generator().manual_seed(seed)
    # The draw below must not depend on the order of the pixels; a few bands are not enough where they are empty.
    ordered = pixels[np.lexsort(pixels.T[:: max(1, pixels.shape[1] // 16)])]
    chosen = ordered[torch.randperm(len(ordered), generator=generator)[:n_pixels].numpy()]
    n_directions = min(max(2 * n_endmembers, 10), *chosen.shape)
    directions = np.linalg.svd(chosen, full_matrices=False)[2][:n_directions]
    with flush_denormals():
        weights = _descend(torch.as_tensor(chosen @ directions.T, dtype=torch.float32), n_endmembers, restarts, iterations,
                           generator)
    sample = torch.as_tensor(chosen, dtype=torch.float64)
    candidates = weights.double() @ sample
    residuals = [(sample - nnls(sample, c, iterations=100) @ c).norm(dim=1).median().item() for c in candidates]
    return candidates[int(np.argmin(residuals))].numpy()


def _descend(pixels: Tensor, k: int, restarts: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Weights `(restarts, k, n)` that make the archetypes from `pixels` `(n, directions)`."""
    n = len(pixels)

    def simplex(*shape: int) -> Tensor:
        return torch.softmax(0.1 * torch.randn(restarts, *shape, generator=generator), dim=-1)

    abundances, weights = simplex(n, k), simplex(k, n)
    step = 2.0 ** (6.0 * torch.rand(restarts, 1, 1, generator=generator) - 3.0)
    for _ in range(iterations):
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
