"""Distributions on the simplex that no library has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pyro.distributions.torch_distribution import TorchDistribution, TorchDistributionMixin
from scipy import stats
from torch import Tensor
from torch.distributions import Dirichlet, constraints
from torch.quasirandom import SobolEngine

_ONE = torch.Size()
_QUASI_DRAWS, _DRAWS = 256, 1000
# Of the simplex, when all of it has been given away, and of every draw: keeps densities and gradients finite.
_LEAST_REST, _LEAST = 1e-6, 1e-6


class SimplexNormal(TorchDistribution):
    """A normal distribution on the simplex, truncated one abundance after the other.

    Abundance j given those before it is normal, its mean linear in them, truncated to [0, what they leave]; the last is the
    rest. The posterior of a linearly mixed pixel under Gaussian noise and a flat prior is a normal truncated to the simplex,
    whose conditionals have this form but for the normalisation by what follows, which a shift and a scale make up for. Unlike
    a truncated multivariate normal it has a density and independent draws in closed form.

    Parameters
    ----------
    loc
        `(..., K - 1)`: mean of each abundance, before truncation, where those before it are at theirs.
    coefficients
        `(..., K - 1, K - 1)`, strictly lower triangular: slope of the mean of abundance j (row) in abundance i (column).
    scale
        `(..., K - 1)`: standard deviation of each given those before it, before truncation.
    """

    arg_constraints = {"loc": constraints.real_vector, "scale": constraints.independent(constraints.positive, 1)}
    support = constraints.simplex
    has_rsample = True

    def __init__(self, loc: Tensor, coefficients: Tensor, scale: Tensor, validate_args: bool | None = None):
        self.loc, self.coefficients, self.scale = loc, coefficients.tril(-1), scale
        super().__init__(loc.shape[:-1], torch.Size([loc.shape[-1] + 1]), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> SimplexNormal:
        k = self.loc.shape[-1]
        return SimplexNormal(self.loc.expand(*batch_shape, k), self.coefficients.expand(*batch_shape, k, k),
                             self.scale.expand(*batch_shape, k), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        apart = value[..., :-1] - self.loc
        mean = self.loc + (self.coefficients @ apart[..., None]).squeeze(-1)
        rest = (1.0 - value[..., :-1].cumsum(-1) + value[..., :-1]).clamp_min(_LEAST_REST)
        standard = (value[..., :-1] - mean) / self.scale
        mass = log_normal_mass(-mean / self.scale, (rest - mean) / self.scale)
        return (-0.5 * standard.square() - 0.5 * math.log(2 * math.pi) - self.scale.log() - mass).sum(-1)

    def rsample(self, sample_shape: Sequence[int] = _ONE) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))[:-1]
        return self.transport(torch.rand(*shape, self.loc.shape[-1], dtype=self.loc.dtype, device=self.loc.device))

    def transport(self, uniform: Tensor) -> Tensor:
        """The draw that belongs to `uniform` `(..., K - 1)`, one number in (0, 1) an abundance in turn (Rosenblatt 1952)."""
        shape = torch.broadcast_shapes(uniform.shape[:-1], self.batch_shape)
        rest = torch.ones(shape, dtype=self.loc.dtype, device=self.loc.device)
        drawn: list[Tensor] = []
        for j in range(self.loc.shape[-1]):
            mean = self.loc[..., j]
            for i, before in enumerate(drawn):
                mean = mean + self.coefficients[..., j, i] * (before - self.loc[..., i])
            scale = self.scale[..., j]
            standard = truncated_normal((-mean / scale).expand(shape), (rest - mean) / scale, uniform[..., j].expand(shape))
            value = torch.minimum((mean + scale * standard).clamp_min(0.0), rest)
            drawn.append(value)
            rest = rest - value
        on_simplex = torch.stack([*drawn, rest], dim=-1)
        return on_simplex + _LEAST * (1.0 / on_simplex.shape[-1] - on_simplex)  # zero itself has no logarithm


class Marginals(NamedTuple):
    """Of each abundance by itself: `mean` and `sd` `(n, K)`, `quantiles` `(levels, n, K)`."""

    mean: Tensor
    sd: Tensor
    quantiles: Tensor


def marginals(q: TorchDistributionMixin, levels: Sequence[float]) -> Marginals:
    """Marginals of a distribution on the simplex, batch shape `(n,)`: in closed form for a Dirichlet, whose marginals are Beta
    distributions; else from draws, which for a `SimplexNormal` are quasi-random and the same at every call."""
    if isinstance(q, Dirichlet):
        a = q.concentration.double().cpu()
        total = a.sum(-1, keepdim=True)
        mean = a / total
        quantiles = [torch.as_tensor(stats.beta.ppf(level, a.numpy(), (total - a).numpy())) for level in levels]
        return Marginals(mean, (mean * (1 - mean) / (total + 1)).sqrt(), torch.stack(quantiles))
    if isinstance(q, SimplexNormal):
        uniform = SobolEngine(q.loc.shape[-1], scramble=True, seed=0).draw(_QUASI_DRAWS)
        draws = q.transport(uniform[:, None].to(q.loc))
    else:
        draws = q.sample(torch.Size([_DRAWS]))
    return Marginals(draws.mean(0), draws.std(0), torch.quantile(draws, torch.tensor(levels).to(draws), dim=0))


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
        drawn = torch.where(near, drawn, _tail(a, torch.where(near, torch.full_like(b, -5.0), b), u))
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
