"""Where draws of a pixel come from before they are weighted: the guide, the prior, and what a first round of weights says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_unmix.distributions import SimplexNormal
from pyro_unmix.model import UnmixingModel

# Shares of the prior, and of what a first round has found; draws of that round, and how much wider than found it is taken.
_PRIOR, _FOUND = 0.1, 0.5
_FIRST, _WIDER = 200, 1.25
# Draws of what pixels share that a first round looks at.
_TARGETS = 8
# No abundance is zero, where densities may have poles.
_LEAST = 1e-30


def few_of(n_shared: int) -> range:
    """Numbers of some of the draws of what pixels share, spread over all: enough to say where those of a pixel are."""
    return range(0, n_shared, max(1, n_shared // _TARGETS))


class Part(NamedTuple):
    """A share of the draws, and the distributions of abundances and brightness, batch shape `(n,)`, that they come from."""

    share: float
    abundances: TorchDistributionMixin
    brightness: TorchDistributionMixin | None


class Proposal:
    """A mixture of which a fixed share of the draws comes from each part.

    The share of the prior bounds the weights wherever a guide is too sure of itself (Hesterberg 1995, Technometrics 37,
    "Weighted average importance sampling and defensive mixture distributions").
    """

    def __init__(self, parts: list[Part]):
        self.parts = parts

    @classmethod
    def of(cls, model: UnmixingModel, q_abundances: TorchDistributionMixin, q_brightness: TorchDistributionMixin | None,
           log_targets: Sequence[Callable[[Tensor, Tensor | None], Tensor]]) -> Proposal:
        """For pixels of which the guide says `q_abundances` and `q_brightness`.

        Each of `log_targets` is the log of prior times likelihood, `(n_draws, n)`, of abundances `(n_draws, n, K)` and brightness
        `(n_draws, n)`, given one draw of what pixels share. A first round of weighted draws says where they have their mass: a
        normal truncated to the simplex, with the mean and covariance of these, joins the guide, as in population Monte Carlo
        (Cappe, Guillin, Marin and Robert 2004, JCGS 13).
        """
        n = q_abundances.batch_shape[0]
        light = None if q_brightness is None else model.brightness.prior().expand(torch.Size([n]))
        prior = Part(_PRIOR, model.abundances(model.n_endmembers).expand(torch.Size([n])), light)
        first = cls([Part(1.0 - _PRIOR, q_abundances, q_brightness), prior])
        abundances, brightness, log_density = first.sample(_FIRST)
        weights = torch.stack([(log_target(abundances, brightness) - log_density).nan_to_num(nan=-1e300, neginf=-1e300)
                               .softmax(dim=0) for log_target in log_targets]).mean(dim=0)
        found = Part(_FOUND, _matched(abundances, weights), None if brightness is None else _matched_light(brightness, weights))
        return cls([Part(1.0 - _PRIOR - _FOUND, q_abundances, q_brightness), prior, found])

    def sample(self, n_draws: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Abundances `(n_draws, n, K)`, brightness `(n_draws, n)` or None, and their log density `(n_draws, n)`, by torch's
        generator. Draws of a part stand next to each other."""
        ends = [round(n_draws * sum(part.share for part in self.parts[: number + 1])) for number in range(len(self.parts))]
        counts = [torch.Size([end - begin]) for begin, end in zip([0, *ends], ends, strict=False)]
        drawn = [part.abundances.sample(count) for part, count in zip(self.parts, counts, strict=True)]
        abundances = torch.cat([each.double() for each in drawn]).clamp_min(_LEAST)
        abundances = abundances / abundances.sum(dim=-1, keepdim=True)
        light = [part.brightness.sample(count).double() for part, count in zip(self.parts, counts, strict=True)
                 if part.brightness is not None]
        brightness = torch.cat(light) if light else None
        densities = []
        for part, count, own in zip(self.parts, counts, drawn, strict=True):
            density = part.abundances.log_prob(abundances.to(own.dtype)).double()
            if part.brightness is not None:
                density = density + part.brightness.log_prob(brightness).double()
            densities.append(density + math.log(max(count[0], _LEAST) / n_draws))
        return abundances, brightness, torch.stack(densities).nan_to_num(nan=-1e300, neginf=-1e300).logsumexp(dim=0)


def _matched(abundances: Tensor, weights: Tensor) -> SimplexNormal:
    """A normal on the simplex with mean and covariance of draws `(n_draws, n, K)` of these weights `(n_draws, n)`.

    Few effective draws know little of a covariance: one draw's worth of the spread before weighting is added.
    """
    k = abundances.shape[-1]
    mean = torch.einsum("dn,dnk->nk", weights, abundances)[:, : k - 1]
    apart = abundances[..., : k - 1] - mean
    covariance = torch.einsum("dn,dni,dnj->nij", weights, apart, apart)
    before = torch.einsum("dni,dnj->nij", apart, apart) / len(apart)
    covariance = _WIDER**2 * covariance + weights.square().sum(dim=0)[:, None, None] * before
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    factor = torch.linalg.cholesky(covariance + torch.diag_embed(1e-6 * variance + 1e-10))
    scale = factor.diagonal(dim1=-2, dim2=-1)
    identity = torch.eye(k - 1).to(factor).expand_as(factor)
    slopes = -scale[..., None] * torch.linalg.solve_triangular(factor, identity, upper=False)
    return SimplexNormal(mean, slopes.tril(-1), scale)


def _matched_light(brightness: Tensor, weights: Tensor) -> dist.LogNormal:
    """Log-normal with mean and spread of the logarithm of draws `(n_draws, n)` of these weights."""
    logs = brightness.log()
    mean = (weights * logs).sum(dim=0)
    variance = (weights * (logs - mean).square()).sum(dim=0)
    variance = _WIDER**2 * variance + weights.square().sum(dim=0) * (logs - mean).square().mean(dim=0)
    return dist.LogNormal(mean, (variance + 1e-10).sqrt())
