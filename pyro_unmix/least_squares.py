"""What least squares says of a pixel, given endmembers and noise: where a guide starts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_unmix.baselines.fcls import fcls, normalized_nnls
from pyro_unmix.likelihood import PixelLikelihood

# Ridge on the correlations of the endmembers: two of one spectrum cannot be told apart, and nothing else must break.
_RIDGE = 1e-9
# Of least squares, to tell readings that are off.
_ROUNDS = 12


class LeastSquares(NamedTuple):
    """Estimates of n pixels.

    Attributes
    ----------
    abundances
        `(n, K)`: constrained to the simplex.
    brightness
        `(n,)`: sum of the non-negative coefficients; one where brightness is not modelled.
    free
        `(n, K)`: summing to one, but not kept from being negative. Without constraints and with a flat prior this is the mean
        of the posterior.
    covariance
        `(n, K, K)`: of `free`, from the noise; its rows sum to zero.
    """

    abundances: Tensor
    brightness: Tensor
    free: Tensor
    covariance: Tensor


def least_squares(pixels: Tensor, endmembers: Tensor, noise_cholesky: Tensor, *, brightness: bool) -> LeastSquares:
    """Estimates from `pixels` `(n, L)`, `endmembers` `(K, L)` and the lower Cholesky factor of the noise covariance, `(L, L)`, or
    standard deviations `(L,)` where bands are independent.

    `abundances` weigh all bands alike: with brightness, non-negative least squares divided by its sum; without, fully constrained
    least squares. `free` and `covariance` weigh bands by their noise.
    """
    abundances, total = constrained(pixels, endmembers, brightness)
    likelihood = PixelLikelihood.of(pixels.double(), endmembers.double(), noise_cholesky.double())
    norms = likelihood.precision.diagonal().sqrt()
    correlations = likelihood.precision / norms / norms[:, None]
    inverse = torch.linalg.inv(correlations + _RIDGE * torch.eye(len(norms), dtype=norms.dtype, device=norms.device))
    inverse = inverse / norms / norms[:, None]
    free = likelihood.linear @ inverse
    if brightness:
        factor = torch.maximum(free.sum(dim=1), 0.1 * total.double().clamp_min(1e-9))
        free = free / factor[:, None]
        # The derivative of x / sum(x).
        slope = (torch.eye(len(norms), dtype=free.dtype, device=free.device) - free[:, :, None]) / factor[:, None, None]
        covariance = slope @ inverse @ slope.mT
    else:
        gain = inverse.sum(dim=1) / inverse.sum()
        free = free + (1.0 - free.sum(dim=1, keepdim=True)) * gain
        covariance = (inverse - gain[:, None] * inverse.sum(dim=0)).expand(len(free), -1, -1)
    dtype = pixels.dtype
    return LeastSquares(abundances, total, free.to(dtype), covariance.to(dtype))


def pulled_in(pixels: Tensor, endmembers: Tensor, scale: Tensor, degrees_of_freedom: Tensor, brightness: bool) -> Tensor:
    """`pixels` `(n, L)` with single readings that are off brought near to what the others say.

    Their constrained least squares are the most probable abundances under Student-t noise of `scale` `(L,)` that is independent
    over bands: the method of modified residuals of Huber and Ronchetti (2009), Robust Statistics, section 7.8.
    """
    near = pixels
    for _ in range(_ROUNDS):
        abundances, factor = constrained(near, endmembers, brightness)
        mean = factor[:, None] * (abundances @ endmembers)
        residual = pixels - mean
        near = mean + residual / (1.0 + (residual / scale).square() / degrees_of_freedom)
    return near


def constrained(pixels: Tensor, endmembers: Tensor, brightness: bool) -> tuple[Tensor, Tensor]:
    """`LeastSquares.abundances` and `.brightness`."""
    if not brightness:
        return fcls(pixels, endmembers, iterations=50), torch.ones(len(pixels), device=pixels.device)
    abundances, total = normalized_nnls(pixels, endmembers, iterations=50)
    return abundances, total.clamp_min(1e-9)
