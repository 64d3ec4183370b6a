"""Abundances by constrained least squares, given the endmembers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Sum of the coefficients up to which a pixel is dark, in units of the endmembers.
_DARK = 1e-9


def nnls(pixels: Tensor, endmembers: Tensor, *, iterations: int = 1000) -> Tensor:
    """Non-negative least squares of all pixels at once.

    Alternating directions on the normal equations, so the cost of an iteration does not depend on the number of bands:
    Bioucas-Dias and Figueiredo (2010), WHISPERS, "Alternating direction algorithms for constrained sparse regression";
    over-relaxed as in Boyd et al. (2011), Foundations and Trends in Machine Learning 3(1), section 3.4.3.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`.
    endmembers
        `(n_endmembers, n_bands)`, or `(n_pixels, n_endmembers, n_bands)` where every pixel has its own.
    iterations
        At most; fewer where nothing moves any more.

    Returns
    -------
    coefficients
        `(n_pixels, n_endmembers)`, non-negative.
    """
    # Endmembers of one length: the problem is the same up to a factor, and far better conditioned when one is dark.
    norms = endmembers.norm(dim=-1).clamp_min(1e-12)
    return _solve(pixels, endmembers / norms[..., None], lambda rows: rows.clamp_min(0.0), iterations) / norms


def normalized_nnls(pixels: Tensor, endmembers: Tensor, *, iterations: int = 1000) -> tuple[Tensor, Tensor]:
    """Non-negative least squares divided by its sum, which is the pixel's brightness.

    Parameters as of `nnls`.

    Returns
    -------
    abundances
        `(n_pixels, n_endmembers)`, on the simplex; even where a pixel has no brightness.
    total
        `(n_pixels,)`: the sum of the coefficients, zero for a pixel darker than anything.
    """
    coefficients = nnls(pixels, endmembers, iterations=iterations)
    total = coefficients.sum(dim=1)
    # A pixel darker than anything says nothing about its materials.
    abundances = torch.where(total[:, None] > _DARK, coefficients / total.clamp_min(_DARK)[:, None], 1.0 / endmembers.shape[-2])
    return abundances, total


def fcls(pixels: Tensor, endmembers: Tensor, *, iterations: int = 1000) -> Tensor:
    """Fully constrained least squares: non-negative and summing to one.

    The problem of Heinz and Chang (2001), IEEE TGRS 39(3), solved as in `nnls`. Shapes as there.
    """
    # Abundances that sum to one do not see where the origin lies; from the middle of the endmembers they converge much faster.
    middle = endmembers.mean(dim=-2)
    return _solve(pixels - middle, endmembers - middle[..., None, :], project_to_simplex, iterations)


def project_to_simplex(rows: Tensor) -> Tensor:
    """Euclidean projection of every row on the simplex. Held, Wolfe and Crowder (1974), Math. Programming 6."""
    rows = rows - rows.amax(dim=1, keepdim=True)  # the same projection, and no digits are lost where rows are large
    ordered = rows.sort(dim=1, descending=True).values
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    excess = (ordered.cumsum(dim=1) - 1.0) / counts
    last = (ordered > excess).sum(dim=1, keepdim=True) - 1
    return (rows - excess.gather(1, last)).clamp_min(0.0)


def times(rows: Tensor, matrices: Tensor) -> Tensor:
    """`rows` `(n, k)` times one matrix `(k, l)`, or each times its own, `(n, k, l)`."""
    return rows @ matrices if matrices.ndim == 2 else (rows[:, None] @ matrices).squeeze(1)


def _solve(pixels: Tensor, endmembers: Tensor, project: Callable[[Tensor], Tensor], iterations: int) -> Tensor:
    gram, target = endmembers @ endmembers.mT, times(pixels, endmembers.mT)
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(torch.finfo(gram.dtype).tiny)
    highest = values[..., -1:]
    lowest = values.masked_fill(values < 1e-6 * highest, torch.inf).amin(dim=-1, keepdim=True)
    penalty = 0.5 * lowest.sqrt() * highest.sqrt()  # near the fastest for a quadratic: the geometric mean of its curvatures
    inverse = (vectors / (values + penalty)[..., None, :]) @ vectors.mT
    fixed, weight = times(target, inverse), penalty[..., None] * inverse
    tolerance = max(1e-9, 10 * torch.finfo(gram.dtype).eps)

    found = project(times(times(target, vectors / values.clamp_min(1e-6 * highest)[..., None, :]), vectors.mT))
    # Where no bound is met it is the least there is. Only the others need to be iterated.
    bound = (found <= 0).any(dim=1)
    if not bound.any():
        return found
    current, fixed = found[bound], fixed[bound]
    weight = weight if weight.ndim == 2 else weight[bound]
    dual = torch.zeros_like(current)
    for iteration in range(iterations):
        relaxed = 1.8 * (fixed + times(current - dual, weight)) - 0.8 * current
        following = project(relaxed + dual)
        moved, apart = following - current, relaxed - following
        current, dual = following, dual + apart
        if iteration % 10 == 9 and max(moved.abs().max(), apart.abs().max()) <= tolerance * current.abs().max():
            break
    return found.masked_scatter(bound[:, None], current)
