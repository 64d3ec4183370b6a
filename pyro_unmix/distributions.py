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
from pyro_unmix.poles import cells, log_below, pole_quantile
from pyro_unmix.truncated_normal import log_normal_mass, truncated_normal

_ONE = torch.Size()
_QUASI_DRAWS, _DRAWS = 256, 1000
_FEW_DRAWS = 8
# Pixels whose draws are worked on at a time.
_PIXELS = 512
# Standard deviations from which a bound is none: of four million draws one is beyond it.
_NO_BOUND = 5.0
# Of the simplex, when all of it has been given away, and of every draw: keeps densities and gradients finite.
_LEAST_REST, _LEAST = 1e-6, 1e-30


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
        mass = cells(mean, self.scale, rest, self.concentration)[2].sum(-1).clamp_min(_LEAST) / self.concentration
        pole = (self.concentration - 1.0) * drawn.clamp_min(_LEAST).log()
        return (pole + log_below(peak, drawn, mean, self.scale) - mass.log()).sum(-1)

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
        # Found once for all, so that the tables of each are too.
        kinds = None if self.concentration is None else self.concentration.unique(return_inverse=True)
        for j in range(self.loc.shape[-1]):
            mean = self.loc[..., j].expand(shape)
            for i, before in enumerate(drawn):
                mean = mean + self.coefficients[..., j, i] * (before - self.loc[..., i])
            quantile = uniform[..., j].expand(shape)
            if kinds is None:
                scale = self.scale[..., j]
                value = mean + scale * truncated_normal(-mean / scale, (rest - mean) / scale, quantile)
            else:
                value = pole_quantile(mean, self.scale[..., j], rest, kinds[0], kinds[1][..., j], quantile)
            value = torch.minimum(value.clamp_min(0.0), rest)
            drawn.append(value)
            rest = rest - value
        on_simplex = torch.stack([*drawn, rest], dim=-1).clamp_min(_LEAST)  # zero itself has no logarithm
        return torch.empty_like(on_simplex).scatter(-1, self.order.expand(on_simplex.shape), on_simplex)


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
        quantiles = beta_quantiles(a.float(), (total - a).float(), levels)  # has no more digits
        return Marginals(mean, (mean * (1 - mean) / (total + 1)).sqrt(), quantiles)
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
