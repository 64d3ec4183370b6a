"""Abundances by constrained least squares, given the endmembers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def nnls(pixels: Tensor, endmembers: Tensor, *, iterations: int = 1000) -> Tensor:
    """Non-negative least squares of all pixels at once.

    Accelerated projected gradient on the normal equations, so the cost of an iteration does not depend on the number of
    bands: Beck and Teboulle (2009), SIAM J. Imaging Sciences 2(1), with the restart of O'Donoghue and Candes (2015), Found.
    Comput. Math. 15.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`.
    endmembers
        `(n_endmembers, n_bands)`.
    iterations
        At most; fewer where nothing moves any more.

    Returns
    -------
    coefficients
        `(n_pixels, n_endmembers)`, non-negative.
    """
    # Endmembers of one length: the problem is the same up to a factor, and far better conditioned when one is dark.
    norms = endmembers.norm(dim=1).clamp_min(1e-12)
    return _solve(pixels, endmembers / norms[:, None], lambda rows: rows.clamp_min(0.0), iterations) / norms


def fcls(pixels: Tensor, endmembers: Tensor, *, iterations: int = 1000) -> Tensor:
    """Fully constrained least squares: non-negative and summing to one.

    The problem of Heinz and Chang (2001), IEEE TGRS 39(3), solved as in `nnls`. Shapes as there.
    """
    return _solve(pixels, endmembers, project_to_simplex, iterations)


def project_to_simplex(rows: Tensor) -> Tensor:
    """Euclidean projection of every row on the simplex. Held, Wolfe and Crowder (1974), Math. Programming 6."""
    ordered = rows.sort(dim=1, descending=True).values
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    excess = (ordered.cumsum(dim=1) - 1.0) / counts
    last = (ordered > excess).sum(dim=1, keepdim=True) - 1
    return (rows - excess.gather(1, last)).clamp_min(0.0)


def _solve(pixels: Tensor, endmembers: Tensor, project: Callable[[Tensor], Tensor], iterations: int) -> Tensor:
    gram, target = endmembers @ endmembers.T, pixels @ endmembers.T
    values, vectors = torch.linalg.eigh(gram)
    step = 1.0 / values[-1]
    unconstrained = target @ (vectors / values.clamp_min(1e-6 * values[-1])) @ vectors.T
    current = project(unconstrained)
    ahead, momentum = current, 1.0
    for iteration in range(iterations):
        following = project(ahead - step * (ahead @ gram - target))
        change = following - current
        if iteration % 10 == 0 and change.abs().max() <= 1e-8 * following.abs().max():
            return following
        # Restart each pixel's momentum where it points uphill.
        uphill = ((ahead - following) * change).sum(dim=1, keepdim=True) > 0
        grown = (1.0 + (1.0 + 4.0 * momentum**2) ** 0.5) / 2.0
        ahead = torch.where(uphill, following, following + (momentum - 1.0) / grown * change)
        current, momentum = following, grown
    return current
