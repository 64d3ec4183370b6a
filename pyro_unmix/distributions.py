"""Distributions on the simplex that no library has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from pyro.distributions.torch_distribution import TorchDistribution, TorchDistributionMixin
from torch import Tensor
from torch.distributions import Dirichlet, constraints
from torch.quasirandom import SobolEngine

from pyro_unmix.beta_quantiles import beta_quantiles

_ONE = torch.Size()
_QUASI_DRAWS, _DRAWS = 256, 1000
_FEW_DRAWS = 8
# Pixels whose draws are worked on at a time.
_PIXELS = 512
# Standard deviations from which a bound is none: of four million draws one is beyond it.
_NO_BOUND = 5.0
# Of the simplex, when all of it has been given away, and of every draw: keeps densities and gradients finite.
_LEAST_REST, _LEAST = 1e-6, 1e-30
# Cells in which a density with a pole is summed up, and where it ends: in standard deviations, e^-12.5 of its peak.
_CELLS, _DEPTH = 24, 5.0


class SimplexNormal(TorchDistribution):
    """A normal distribution on the simplex, truncated one abundance after the other.

    Abundance j given those before it is normal, its mean linear in them, truncated to [0, what they leave]; the last is the
    rest. The posterior of a linearly mixed pixel under Gaussian noise and a flat prior is a normal truncated to the simplex,
    whose conditionals have this form but for the normalisation by what follows, which a shift and a scale make up for. Unlike
    a truncated multivariate normal it has a density and independent draws in closed form.

    Under a Dirichlet of concentrations a_j below one the density of an abundance has a pole at zero. With `concentration` the
    normal is multiplied with z_j^(a_j - 1); its integral and its draws then come from cells in z_j^a_j, where no pole is left.

    Parameters
    ----------
    loc
        `(..., K - 1)`: mean of each abundance, before truncation, where those before it are at theirs.
    coefficients
        `(..., K - 1, K - 1)`, strictly lower triangular: slope of the mean of abundance j (row) in abundance i (column).
    scale
        `(..., K - 1)`: standard deviation of each given those before it, before truncation.
    order
        `(..., K)`: which abundance comes when, the last is the rest; all other parameters are in this order. None: as they are
        numbered.
    concentration
        `(..., K - 1)`, up to one. None: no poles. With them there are gradients by the parameters alone, not through values.
    """

    arg_constraints = {"loc": constraints.real_vector, "scale": constraints.independent(constraints.positive, 1)}
    support = constraints.simplex

    def __init__(self, loc: Tensor, coefficients: Tensor, scale: Tensor, order: Tensor | None = None,
                 concentration: Tensor | None = None, validate_args: bool | None = None):
        k = loc.shape[-1] + 1
        self.loc, self.coefficients, self.scale, self.concentration = loc, coefficients.tril(-1), scale, concentration
        self.order = torch.arange(k, device=loc.device).expand(*loc.shape[:-1], k) if order is None else order
        self.has_rsample = concentration is None
        super().__init__(loc.shape[:-1], torch.Size([k]), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> SimplexNormal:
        k = self.loc.shape[-1]
        concentration = None if self.concentration is None else self.concentration.expand(*batch_shape, k)
        return SimplexNormal(self.loc.expand(*batch_shape, k), self.coefficients.expand(*batch_shape, k, k),
                             self.scale.expand(*batch_shape, k), self.order.expand(*batch_shape, k + 1), concentration,
                             validate_args=False)

    def __getitem__(self, part: slice | Tensor) -> SimplexNormal:
        """Part of a batch of shape `(n,)`."""
        concentration = None if self.concentration is None else self.concentration[part]
        return SimplexNormal(self.loc[part], self.coefficients[part], self.scale[part], self.order[part], concentration,
                             validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        value, order = torch.broadcast_tensors(value, self.order)
        value = value.gather(-1, order)
        drawn = value[..., :-1]
        mean = self.loc + (self.coefficients @ (drawn - self.loc)[..., None]).squeeze(-1)
        rest = (1.0 - drawn.cumsum(-1) + drawn).clamp_min(_LEAST_REST)
        if self.concentration is None:
            log_density = -0.5 * ((drawn - mean) / self.scale).square() - 0.5 * math.log(2 * math.pi) - self.scale.log()
            return (log_density - log_normal_mass(-mean / self.scale, (rest - mean) / self.scale)).sum(-1)
        peak = torch.minimum(mean.clamp_min(0.0), rest)
        mass = _cells(mean, self.scale, rest, self.concentration)[2].sum(-1).clamp_min(_LEAST) / self.concentration
        pole = (self.concentration - 1.0) * drawn.clamp_min(_LEAST).log()
        return (pole + _log_below(peak, drawn, mean, self.scale) - mass.log()).sum(-1)

    def without_bounds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Means and standard deviations `(..., K)` without truncation, and whether truncation changes nothing `(...)`."""
        k = self.loc.shape[-1]
        identity = torch.eye(k, dtype=self.loc.dtype, device=self.loc.device)
        factor = torch.linalg.solve_triangular(identity - self.coefficients, torch.diag_embed(self.scale), upper=False)
        factor = torch.cat([factor, -factor.sum(-2, keepdim=True)], dim=-2)
        mean = torch.cat([self.loc, 1.0 - self.loc.sum(-1, keepdim=True)], dim=-1)
        sd = factor.square().sum(-1).sqrt()
        inside = (mean > _NO_BOUND * sd).all(-1) & (self.concentration is None)
        mean, sd = (torch.empty_like(each).scatter(-1, self.order, each) for each in (mean, sd))
        return mean, sd, inside

    def rsample(self, sample_shape: Sequence[int] = _ONE) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))[:-1]
        return self.transport(torch.rand(*shape, self.loc.shape[-1], dtype=self.loc.dtype, device=self.loc.device))

    def transport(self, uniform: Tensor) -> Tensor:
        """The draw that belongs to `uniform` `(..., K - 1)`, one number in (0, 1) an abundance in turn (Rosenblatt 1952)."""
        shape = torch.broadcast_shapes(uniform.shape[:-1], self.batch_shape)
        rest = torch.ones(shape, dtype=self.loc.dtype, device=self.loc.device)
        drawn: list[Tensor] = []
        for j in range(self.loc.shape[-1]):
            mean = self.loc[..., j].expand(shape)
            for i, before in enumerate(drawn):
                mean = mean + self.coefficients[..., j, i] * (before - self.loc[..., i])
            quantile = uniform[..., j].expand(shape)
            if self.concentration is None:
                scale = self.scale[..., j]
                value = mean + scale * truncated_normal(-mean / scale, (rest - mean) / scale, quantile)
            else:
                value = _quantile_in_cells(mean, self.scale[..., j], rest, self.concentration[..., j], quantile)
            value = torch.minimum(value.clamp_min(0.0), rest)
            drawn.append(value)
            rest = rest - value
        on_simplex = torch.stack([*drawn, rest], dim=-1).clamp_min(_LEAST)  # zero itself has no logarithm
        return torch.empty_like(on_simplex).scatter(-1, self.order.expand(on_simplex.shape), on_simplex)


def _cells(mean: Tensor, scale: Tensor, rest: Tensor, concentration: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cells that hold what counts of z^(a - 1) exp(-(z - mean)^2 / 2 scale^2) on (0, rest), narrow towards both ends.

    In terms of u = z^a the pole is gone: z^(a - 1) dz = du / a. Returns the edges in u and the exponential there, relative to the
    largest on (0, rest), both `(..., _CELLS + 1)`, and its integral over u in each cell `(..., _CELLS)`, by Simpson's rule.
    """
    with torch.no_grad():
        low = (rest - scale * _reach((rest - mean) / scale)).clamp_min(0.0)
        high = torch.minimum(scale * _reach(mean / scale), rest)
        step = torch.linspace(0.0, 1.0, _CELLS + 1, dtype=mean.dtype, device=mean.device)
        edges = low[..., None] + (high - low).clamp_min(0.0)[..., None] * (step.square() * (3.0 - 2.0 * step))
        u = edges ** concentration[..., None]
        middle = (0.5 * (u[..., :-1] + u[..., 1:])) ** (1.0 / concentration[..., None])
    peak = torch.minimum(mean.clamp_min(0.0), rest)
    at_edges, at_middle = (_log_below(peak[..., None], z, mean[..., None], scale[..., None]).exp() for z in (edges, middle))
    return u, at_edges, u.diff() * (at_edges[..., :-1] + 4.0 * at_middle + at_edges[..., 1:]) / 6.0


def _reach(t: Tensor) -> Tensor:
    """Where exp(-(x - t)^2 / 2) on x >= 0 has fallen by exp(-_DEPTH^2 / 2) from where it is largest."""
    below = -t.clamp_max(0.0)
    return t.clamp_min(0.0) + _DEPTH**2 / ((below.square() + _DEPTH**2).sqrt() + below)


def _log_below(peak: Tensor, z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Logarithm of a normal density at z relative to that at `peak`; keeps its digits where both are far from the mean."""
    return -0.5 * ((z - peak) / scale) * ((z + peak - 2.0 * mean) / scale)


@torch.no_grad()
def _quantile_in_cells(mean: Tensor, scale: Tensor, rest: Tensor, concentration: Tensor, uniform: Tensor) -> Tensor:
    u, density, mass = _cells(mean, scale, rest.clamp_min(_LEAST_REST), concentration)
    reached = mass.cumsum(-1)
    wanted = (uniform * reached[..., -1])[..., None].contiguous()
    cell = torch.searchsorted(reached, wanted).clamp_max(_CELLS - 1)
    share = (1.0 - (reached.gather(-1, cell) - wanted) / mass.gather(-1, cell).clamp_min(_LEAST)).clamp(0.0, 1.0)
    # Within a cell the density is a straight line, and the distribution function a parabola.
    first, last = density.gather(-1, cell), density.gather(-1, cell + 1)
    root = torch.lerp(first.square(), last.square(), share).sqrt()
    within = (share * (first + last) / (first + root).clamp_min(_LEAST)).clamp(0.0, 1.0)
    return torch.lerp(u.gather(-1, cell), u.gather(-1, cell + 1), within).squeeze(-1) ** (1.0 / concentration)


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
        return Marginals(mean, (mean * (1 - mean) / (total + 1)).sqrt(), beta_quantiles(a, total - a, levels))
    if not isinstance(q, SimplexNormal):
        return of_draws(q.sample(torch.Size([_DRAWS])), levels)
    uniform = SobolEngine(q.loc.shape[-1], scramble=True, seed=0).draw(_QUASI_DRAWS)[:, None].to(q.loc)
    mean, sd, inside = q.without_bounds()
    found = Marginals(mean, sd, mean + sd * torch.special.ndtri(torch.tensor(levels).to(mean))[:, None, None])
    for part in torch.nonzero(~inside).squeeze(1).split(_PIXELS):
        at_bounds = of_draws(q[part].transport(uniform), levels)
        for of_all, of_part in zip(found, at_bounds, strict=True):
            of_all[..., part, :] = of_part.to(mean)
    return found


def of_draws(draws: Tensor, levels: Sequence[float]) -> Marginals:
    """Marginals of equally weighted `draws` `(n_draws, n, K)`; quantiles as `numpy.quantile` has them by default."""
    # Of numbers of 32 bits that lie next to each other NumPy does these several times as fast as torch.
    ordered = np.sort(draws.cpu().movedim(0, -1).contiguous().numpy(), axis=-1)
    place = np.asarray(levels) * (len(draws) - 1)
    before = place.astype(int)
    first, last = ordered[..., before], ordered[..., np.minimum(before + 1, len(draws) - 1)]
    quantiles = torch.from_numpy(first + (last - first) * (place - before).astype(first.dtype)).movedim(-1, 0)
    return Marginals(torch.from_numpy(ordered.mean(axis=-1)), torch.from_numpy(ordered.std(axis=-1, ddof=1)), quantiles)


def mean_of(q: TorchDistributionMixin) -> Tensor:
    """The mean of a distribution, with its gradient: in closed form, or of a few draws where there is none."""
    try:
        return q.mean
    except NotImplementedError:
        pass
    if q.has_rsample:
        return q.rsample(torch.Size([_FEW_DRAWS])).mean(dim=0)
    # Draws that have no gradient themselves: that of their density (Williams 1992, Machine Learning 8), which adds zero.
    draws = q.sample(torch.Size([_FEW_DRAWS]))
    mean, log_prob = draws.mean(dim=0), q.log_prob(draws)
    return mean + ((log_prob - log_prob.detach())[..., None] * (draws - mean)).sum(dim=0) / (_FEW_DRAWS - 1)


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
