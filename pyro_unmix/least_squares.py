"""What least squares says of a pixel, given endmembers and noise: where a guide starts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy import optimize
from torch import Tensor, nn

from pyro_unmix.baselines.fcls import fcls, normalized_nnls, times
from pyro_unmix.likelihood import whiten
from pyro_unmix.mixing import CoefficientMixing, Linear

# Ridge on the correlations of the endmembers: two of one spectrum cannot be told apart, and nothing else must break.
_RIDGE = 1e-9
# Most times that mixing is taken for linear around where the last time led, and by how little the abundances of a pixel move when
# it is let go: the next move would be about the square. Rounds of least squares that tell readings which are off.
_ROUNDS, _AT_REST, _PULLS = 8, 1e-3, 12
# Pixels that are solved together, and those that a coefficient is measured from, spread over the scene.
_TOGETHER, _MEASURED = 2**14, 1000


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


def least_squares(pixels: Tensor, endmembers: Tensor, noise_cholesky: Tensor, *, brightness: bool,
                  mixing: nn.Module | None = None) -> LeastSquares:
    """Estimates from `pixels` `(n, L)`, `endmembers` `(K, L)` and the lower Cholesky factor of the noise covariance, `(L, L)`, or
    standard deviations `(L,)` where bands are independent.

    `abundances` weigh all bands alike: with brightness, non-negative least squares divided by its sum; without, fully constrained
    least squares. `free` and `covariance` weigh bands by their noise. Where `mixing` is not linear, which it is if None, they are
    those of the linear mixing that touches it at the `abundances`.
    """
    mixing = Linear() if mixing is None else mixing
    abundances, total = constrained(pixels, endmembers, brightness, mixing)
    touching = endmembers if isinstance(mixing, Linear) else tangent(mixing, abundances, endmembers)
    cholesky = noise_cholesky.double()
    white = whiten(touching.double().flatten(0, -2), cholesky).reshape(touching.shape)
    precision, linear = white @ white.mT, times(whiten(pixels.double(), cholesky), white.mT)
    norms = precision.diagonal(dim1=-2, dim2=-1).sqrt()
    correlations = precision / norms[..., None, :] / norms[..., None]
    identity = torch.eye(norms.shape[-1], dtype=norms.dtype, device=norms.device)
    inverse = torch.linalg.inv(correlations + _RIDGE * identity)
    inverse = inverse / norms[..., None, :] / norms[..., None]
    free = times(linear, inverse)
    if brightness:
        factor = torch.maximum(free.sum(dim=1), 0.1 * total.double().clamp_min(1e-9))
        free = free / factor[:, None]
        # The derivative of x / sum(x).
        slope = (identity - free[:, :, None]) / factor[:, None, None]
        covariance = slope @ inverse @ slope.mT
    else:
        gain = inverse.sum(dim=-1) / inverse.sum(dim=(-2, -1))[..., None]
        free = free + (1.0 - free.sum(dim=1, keepdim=True)) * gain
        covariance = (inverse - gain[..., None] * inverse.sum(dim=-2)[..., None, :]).expand(len(free), -1, -1)
    dtype = pixels.dtype
    return LeastSquares(abundances, total, free.to(dtype), covariance.to(dtype))


def in_few_coordinates(coordinates: Tensor, mean: Tensor, directions: Tensor, endmembers: Tensor,
                       noise_cholesky: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `least_squares` of linear mixing is given, in coordinates of the space that pixels and endmembers span: they are the
    same there, and most of the bands need not be looked at.

    Pixels are `mean` `(L,)` and `coordinates` `(n, p)` along `directions` `(p, L)`. At most p + 1 + K numbers are left of each,
    of 64 bits: with 32, what is rounded off many bands, each a little, would be rounded off one.
    """
    basis = torch.linalg.qr(torch.cat([mean[None], directions, endmembers]).double().T).Q
    white = whiten(basis.T, noise_cholesky.double())
    mean, directions, endmembers = (each.double() @ basis for each in (mean, directions, endmembers))
    pixels = torch.addmm(mean, coordinates.double(), directions)
    return pixels, endmembers, torch.linalg.cholesky(torch.linalg.inv(white @ white.T))


def pulled_in(pixels: Tensor, endmembers: Tensor, scale: Tensor, degrees_of_freedom: Tensor, brightness: bool,
              mixing: nn.Module | None = None) -> Tensor:
    """`pixels` `(n, L)` with single readings that are off brought near to what the others say.

    Their constrained least squares are the most probable abundances under Student-t noise of `scale` `(L,)` that is independent
    over bands: the method of modified residuals of Huber and Ronchetti (2009), Robust Statistics, section 7.8.
    """
    mixing, near = mixing or Linear(), pixels
    for _ in range(_PULLS):
        abundances, factor = constrained(near, endmembers, brightness, mixing)
        mean = factor[:, None] * mixing(abundances, endmembers)
        residual = pixels - mean
        near = mean + residual / (1.0 + (residual / scale).square() / degrees_of_freedom)
    return near


def constrained(pixels: Tensor, endmembers: Tensor, brightness: bool, mixing: nn.Module | None = None, *,
                iterations: int = 50) -> tuple[Tensor, Tensor]:
    """`LeastSquares.abundances` and `.brightness`.

    Where mixing is not linear, by the method of Gauss and Newton (Nocedal and Wright 2006, Numerical Optimization, section 10.3):
    linear least squares, then again and again those of the linear mixing that touches it where the last ones led. A pixel that
    this would fit worse goes half of the way.
    """
    if mixing is None or isinstance(mixing, Linear):
        return _linear(pixels, endmembers, brightness, iterations)
    parts = [_gauss_newton(part, endmembers, brightness, mixing, iterations) for part in pixels.split(_TOGETHER)]
    abundances, total = (torch.cat(each) for each in zip(*parts, strict=True))
    return abundances, total


@torch.no_grad()
def measured(mixing: CoefficientMixing, pixels: Tensor, endmembers: Tensor, brightness: bool) -> CoefficientMixing:
    """`mixing` with the coefficient whose constrained least squares are the least. Shapes as in `least_squares`."""
    some = pixels[torch.linspace(0, len(pixels) - 1, min(_MEASURED, len(pixels)), device=pixels.device).long()]

    def error(coefficient: float) -> float:
        trial = type(mixing)(coefficient).to(pixels.device)
        abundances, total = constrained(some, endmembers, brightness, trial)
        return float(_error(some, trial(abundances, endmembers), total).sum())

    found = optimize.minimize_scalar(error, bounds=mixing.bounds, method="bounded", options={"xatol": 1e-3})
    return type(mixing)(float(found.x))


def _gauss_newton(pixels: Tensor, endmembers: Tensor, brightness: bool, mixing: nn.Module,
                  iterations: int) -> tuple[Tensor, Tensor]:
    abundances, total = _linear(pixels, endmembers, brightness, iterations)
    error = _error(pixels, mixing(abundances, endmembers), total)
    moving = torch.arange(len(pixels), device=pixels.device)
    for _ in range(_ROUNDS):
        here, before = pixels[moving], abundances[moving]
        after, lit = _linear(here, tangent(mixing, before, endmembers), brightness, iterations)
        worse = _error(here, mixing(after, endmembers), lit) > error[moving]
        after = torch.where(worse[:, None], (after + before) / 2, after)
        lit = torch.where(worse, (lit + total[moving]) / 2, lit)
        abundances[moving], total[moving], error[moving] = after, lit, _error(here, mixing(after, endmembers), lit)
        moving = moving[(after - before).abs().amax(dim=1) > _AT_REST]
        if not len(moving):
            break
    return abundances, total


def tangent(mixing: nn.Module, abundances: Tensor, endmembers: Tensor) -> Tensor:
    """`(n, K, L)`: for each of `abundances` `(n, K)`, the endmembers whose linear mixing touches `mixing` there.

    f(z) + (e_k - z) . df/dz. That of s f(z), as a function of s z, is touched by the same.
    """
    with torch.enable_grad():
        at = abundances.detach().requires_grad_()
        mixed = mixing(at, endmembers.detach())
        # Backwards is the transpose of df/dz; as a function of what it is applied to, its own transpose is df/dz.
        applied_to = torch.zeros_like(mixed, requires_grad=True)
        back, = torch.autograd.grad(mixed, at, applied_to, create_graph=True)
        corners = torch.eye(len(endmembers), dtype=at.dtype, device=at.device)
        slopes = [torch.autograd.grad(back, applied_to, corner - at.detach(), retain_graph=True)[0] for corner in corners]
    return torch.stack([mixed.detach() + slope for slope in slopes], dim=1)


def _linear(pixels: Tensor, endmembers: Tensor, brightness: bool, iterations: int) -> tuple[Tensor, Tensor]:
    if not brightness:
        return fcls(pixels, endmembers, iterations=iterations), torch.ones(len(pixels), device=pixels.device)
    abundances, total = normalized_nnls(pixels, endmembers, iterations=iterations)
    return abundances, total.clamp_min(1e-9)


def _error(pixels: Tensor, mixed: Tensor, total: Tensor) -> Tensor:
    return (pixels - total[:, None] * mixed).square().sum(dim=1)
