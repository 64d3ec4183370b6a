"""Moves of a Markov chain that leave the exact posterior of the pixels' abundances as it is, all pixels at once."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_unmix.likelihood import PixelLikelihood

# Added to the positive and the negative part of an exponent, so that every slice of a power has two finite ends.
_SLACK = 0.05
# Reached by one abundance in a hundred thousand under a concentration of 0.05, the least there is: whatever stops there
# adds less than 1e-4 of itself to the mean of a logarithm. A floor at 1e-12 would hold a quarter of them.
FLOOR = 1e-100


def move(x: Tensor, likelihood: PixelLikelihood, concentration: Tensor, brightness_scale: Tensor | None = None) -> Tensor:
    """One sweep over the abundances of every pixel, and over its brightness where it has one.

    The target is the likelihood times Dirichlet(`concentration`) of the abundances times LogNormal(0, `brightness_scale`) of the
    brightness. Every factor of it is sliced by a uniform variable of its own: Damien, Wakefield and Walker (1999), JRSS B 61,
    "Gibbs sampling for Bayesian non-conjugate and hierarchical models by using auxiliary variables". So all slices end at
    closed forms, nothing is rejected and nothing is tuned.

    Parameters
    ----------
    x
        `(n_pixels, K)`, positive: brightness times abundances. Without brightness, rows sum to one.
    likelihood
        Of the same pixels.
    concentration
        `(K,)`, at least 0.05.
    brightness_scale
        `()`, standard deviation of the logarithm of brightness. None: brightness is one.

    Returns
    -------
    x
        `(n_pixels, K)`, moved.
    """
    x = _along_axes(x, likelihood, concentration, brightness_scale)
    for k in (concentration < 1.0).nonzero()[:, 0].tolist():
        x = _against_the_rest(x, k, likelihood, concentration)
    x = x.clamp_min(FLOOR)
    return x if brightness_scale is not None else x / x.sum(dim=1, keepdim=True)


def _along_axes(x: Tensor, likelihood: PixelLikelihood, concentration: Tensor, brightness_scale: Tensor | None) -> Tensor:
    """Steps that change all endmembers at once, inside the box that the slices of the prior leave.

    Axes are orthogonal in the metric of the likelihood plus that of the box, so that an endmember which is nearly absent, and
    whose box is narrow, does not hold up the others.
    """
    n_endmembers = len(concentration)
    lower, upper = _power_slice(x, concentration - 1.0)
    bounded = torch.eye(n_endmembers, dtype=x.dtype)  # the box bounds x @ bounded: every x, and their sum where it is free
    if brightness_scale is None:
        upper = upper.clamp_max(1.0)
    else:
        least, most = _brightness_slice(x.sum(dim=1, keepdim=True), concentration.sum(), brightness_scale)
        lower, upper = torch.cat([lower, least], dim=1), torch.cat([torch.minimum(upper, most), most], dim=1)
        bounded = torch.cat([bounded, torch.ones_like(bounded[:, :1])], dim=1)
    axes = _axes(likelihood.precision + bounded @ torch.diag_embed((upper - lower) ** -2) @ bounded.T)
    if brightness_scale is None:
        axes = axes[..., 1:]

    at, directions = x @ bounded, bounded.T @ axes
    gradient, forces = likelihood.linear - x @ likelihood.precision, likelihood.precision @ axes
    curvature = (axes * forces).sum(dim=1)
    for axis in range(axes.shape[2]):
        low, high = _normal_slice((axes[..., axis] * gradient).sum(dim=1), curvature[:, axis])
        direction = directions[..., axis]
        to_lower, to_upper = (lower - at) / direction, (upper - at) / direction
        low = torch.maximum(low, torch.minimum(to_lower, to_upper).amax(dim=1))
        high = torch.minimum(high, torch.maximum(to_lower, to_upper).amin(dim=1))
        step = torch.lerp(low, high, torch.rand_like(low))[:, None]
        at = (at + step * direction).clamp(lower, upper)  # rounding leaves the box by a last digit
        gradient = gradient - step * forces[..., axis]
    return at[:, :n_endmembers]


def _against_the_rest(x: Tensor, k: int, likelihood: PixelLikelihood, concentration: Tensor) -> Tensor:
    """Exchange endmember `k` for all others in the proportion they have, in pixels where it is less than half.

    Its own power is not sliced but drawn from, so that it goes from next to nothing to its full size in one step. That is what
    a concentration below one needs.
    """
    share, total, power = x[:, k], x.sum(dim=1), concentration[k]
    others = x.clone()
    others[:, k] = 0.0
    rest = others.sum(dim=1)  # total - share would lose the digits of a small rest
    along = -others / rest[:, None]
    along[:, k] = 1.0
    slope = (along * (likelihood.linear - x @ likelihood.precision)).sum(dim=1)
    low, high = _normal_slice(slope, (along * (along @ likelihood.precision)).sum(dim=1))
    least, most = _power_slice(rest, concentration.sum() - power - 1.0)
    low = torch.maximum(share + low, total - most).clamp_min(0.0)
    high = torch.minimum(torch.minimum(share + high, total - least), 0.5 * total).clamp_min(0.0)
    drawn = torch.lerp(low**power, high**power, torch.rand_like(low)) ** (1.0 / power)
    moved = others * ((total - drawn) / rest)[:, None]
    moved[:, k] = drawn
    return torch.where((share < 0.5 * total)[:, None], moved, x)


def _power_slice(value: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of a slice of value^exponent, taken as value^(slack + positive part) times value^-(slack + negative part)."""
    lower = value * torch.rand_like(value) ** (1.0 / (_SLACK + exponent.clamp_min(0.0)))
    upper = value * torch.rand_like(value) ** (-1.0 / (_SLACK + (-exponent).clamp_min(0.0)))
    return lower, upper


def _normal_slice(slope: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of a slice of exp(slope t - curvature t^2 / 2) at t = 0."""
    depth = torch.empty_like(slope).exponential_()
    reach = slope.abs() + (slope.square() + 2.0 * curvature * depth).sqrt()
    uphill, downhill = reach / curvature, 2.0 * depth / reach
    rising = slope > 0.0
    return -torch.where(rising, downhill, uphill), torch.where(rising, uphill, downhill)


def _brightness_slice(brightness: Tensor, concentration: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of a slice of brightness^-concentration exp(-log(brightness)^2 / (2 scale^2)), `concentration` summed over endmembers.

    This is what is left of the prior of x once the powers of x are taken out: the density of brightness is divided by
    brightness^(K - 1) for the change of variables, and by brightness^(concentration - K) for the powers of x it is part of.
    """
    variance = scale.square()
    centre = -concentration * variance
    depth = torch.empty_like(brightness).exponential_()
    reach = ((brightness.log() - centre).square() + 2.0 * variance * depth).sqrt()
    return (centre - reach).exp(), (centre + reach).exp()


def _axes(metric: Tensor) -> Tensor:
    """`(n_pixels, K, K)`: columns that are orthonormal in the `metric`, of which all but the first sum to zero."""
    identity = torch.eye(metric.shape[-1], dtype=metric.dtype).expand_as(metric)
    # A Cholesky factor keeps the digits of small entries, though the metric may span two hundred orders of magnitude.
    rows = torch.linalg.solve_triangular(torch.linalg.cholesky(metric), identity, upper=False)
    # Householder's reflection of the direction that changes the sum onto the first axis.
    mirror = rows.sum(dim=2, keepdim=True)
    mirror = mirror / mirror.norm(dim=1, keepdim=True)
    mirror[:, 0] += torch.where(mirror[:, 0] < 0.0, -1.0, 1.0)
    mirror = mirror / mirror.norm(dim=1, keepdim=True)
    return (rows - 2.0 * mirror @ (mirror.mT @ rows)).mT
