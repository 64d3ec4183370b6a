"""A standard normal between two bounds: its mass and its quantiles, exact in both tails."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)) for low < high, without cancellation in either tail."""
    mirror = low + high > 0
    low, high = torch.where(mirror, -high, low), torch.where(mirror, -low, high)
    log_high = torch.special.log_ndtr(high)
    return log_high + torch.log1p(-torch.exp((torch.special.log_ndtr(low) - log_high).clamp_max(-1e-6)))


def truncated_normal(low: Tensor, high: Tensor, uniform: Tensor) -> Tensor:
    """The quantile `uniform` of a standard normal truncated to [low, high], exact in both tails.

    Its derivatives by the bounds lie between zero and one, the density being log-concave; they are given in closed form, because
    those of the steps below are not finite everywhere.
    """
    with torch.no_grad():
        drawn = _quantile(low, high, uniform)
        if not (low.requires_grad or high.requires_grad):
            return drawn
        by_low = ((1.0 - uniform) * (0.5 * (drawn.square() - low.square())).exp()).clamp(0.0, 1.0)
        by_high = (uniform * (0.5 * (drawn.square() - high.square())).exp()).clamp(0.0, 1.0)
    return drawn + by_low * (low - low.detach()) + by_high * (high - high.detach())


def _quantile(low: Tensor, high: Tensor, uniform: Tensor) -> Tensor:
    mirror = low + high > 0  # work in the lower tail, where the distribution function keeps its digits
    a, b = torch.where(mirror, -high, low), torch.where(mirror, -low, high)
    u = torch.where(mirror, 1.0 - uniform, uniform)
    near = b > -5.0
    below, above = torch.special.ndtr(a), torch.special.ndtr(torch.where(near, b, torch.zeros_like(b)))
    smallest, largest = torch.finfo(a.dtype).tiny, 1.0 - torch.finfo(a.dtype).eps
    drawn = torch.special.ndtri((below + (above - below) * u).clamp(smallest, largest))
    if not near.all():
        far = ~near.expand(drawn.shape)
        drawn[far] = _tail(*(each.expand(drawn.shape)[far] for each in (a, b, u)))
    return torch.where(mirror, -1.0, 1.0) * torch.minimum(torch.maximum(drawn, a), b)


def _tail(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """Where the distribution function itself has no digits left: Newton's method on its logarithm, from the exponential that
    the normal nearly is there."""
    log_b = torch.special.log_ndtr(b)
    target = torch.log(u + (1.0 - u) * torch.exp(torch.special.log_ndtr(a) - log_b))
    drawn = b + target.clamp_min(-1e4) / -b
    for _ in range(3):
        log_cdf = torch.special.log_ndtr(drawn)
        hazard = torch.exp(-0.5 * drawn.square() - 0.5 * math.log(2 * math.pi) - log_cdf)
        drawn = torch.minimum(drawn - (log_cdf - log_b - target) / hazard, b)
    return drawn
