"""Priors of the abundances of one pixel, whatever its neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.transforms import StickBreakingTransform

from pyro_unmix.errors import InputError


class Dirichlet(nn.Module):
    """Dirichlet prior of the abundances.

    Parameters
    ----------
    concentration
        One number for all endmembers, or one each. 1 is flat on the simplex, below 1 favours few materials a pixel,
        above 1 favours even mixtures. Below about 0.1 float32 draws degenerate.
    learned
        Whether the scene may say otherwise, endmember by endmember, where its noise is white.
    """

    concentration: Tensor

    def __init__(self, concentration: float | Sequence[float] = 1.0, learned: bool = False):
        super().__init__()
        values = torch.as_tensor(concentration, dtype=torch.float32)
        if values.ndim > 1 or not (values > 0).all() or not torch.isfinite(values).all():
            raise InputError("a positive concentration, one number or one an endmember", f"{concentration}")
        self.settings = {"concentration": torch.as_tensor(concentration, dtype=torch.float64).tolist(), "learned": bool(learned)}
        self.learned = bool(learned)
        self.register_buffer("concentration", values)

    @property
    def flat(self) -> bool:
        """Whether no abundances are more probable than others."""
        return bool((self.concentration == 1.0).all())

    def forward(self, n_endmembers: int) -> dist.Dirichlet:
        if self.concentration.ndim and len(self.concentration) != n_endmembers:
            raise InputError(f"{n_endmembers} concentrations, one an endmember", f"{len(self.concentration)}")
        return dist.Dirichlet(self.concentration.expand(n_endmembers))


class Sparse(nn.Module):
    """Few materials a pixel: a mixture of Dirichlet distributions near the corners of the simplex, near its edges, and flat.

    A pixel holds one material with probability `one`, any of them alike, two with probability `two`, any pair alike, and any
    number else. Concentrations are 1 for materials that are there and `absent` for those that are not: a continuous relative of
    the spike and slab of Mitchell and Beauchamp (1988), JASA 83, "Bayesian variable selection in linear regression", eq. 1.1.
    No abundance is exactly zero, and the density is a proper one.

    Parameters
    ----------
    one, two
        Probabilities, of a sum of at most 1.
    absent
        Concentration of materials that are not there, from 0.1, below which float32 draws degenerate, to 1.

    Raises
    ------
    InputError
        Probabilities or a concentration out of their range.
    """

    _where: Tensor

    def __init__(self, one: float = 0.3, two: float = 0.4, absent: float = 0.1):
        super().__init__()
        if not (one >= 0 and two >= 0 and one + two <= 1 and 0.1 <= absent <= 1):
            raise InputError("probabilities one and two of a sum of at most 1, and a concentration absent from 0.1 to 1",
                             f"one {one}, two {two}, absent {absent}")
        self.settings = {"one": float(one), "two": float(two), "absent": float(absent)}
        self.register_buffer("_where", torch.zeros(()), persistent=False)

    def forward(self, n_endmembers: int) -> dist.MixtureSameFamily:
        one, two, absent = self.settings.values()
        corners, edges = ([list(there) for there in combinations(range(n_endmembers), size)] for size in (1, 2))
        there = torch.zeros(len(corners) + len(edges) + 1, n_endmembers, device=self._where.device)
        for row, materials in enumerate([*corners, *edges, list(range(n_endmembers))]):
            there[row, materials] = 1.0
        weights = [one / len(corners)] * len(corners) + [two / len(edges)] * len(edges) + [max(1.0 - one - two, 0.0)]
        return dist.MixtureSameFamily(dist.Categorical(there.new_tensor(weights)),
                                      dist.Dirichlet(absent + (1.0 - absent) * there))


class LogisticNormal(nn.Module):
    """Abundances whose log-ratios are normal, so that materials may go together or exclude each other.

    The coordinates are multiplicative log-ratios, x_j = log(z_j / (z_(j+1) + ... + z_K)) + log(K - j), j = 1..K-1, at zero where
    the mixture is even: Aitchison (1986), The Statistical Analysis of Compositional Data, section 6.14. In these the coordinates
    of a Dirichlet are independent, and those of the head "logistic-normal" are the same, so that its divergence from this prior
    is known in closed form. They depend on the order of the endmembers.

    Parameters
    ----------
    loc
        Mean of each coordinate, `(K - 1,)`, or one number. None: that of a flat Dirichlet.
    covariance
        `(K - 1, K - 1)`, or one number, the variance of independent coordinates. None: that of a flat Dirichlet, independent.

    Raises
    ------
    InputError
        A mean or a covariance that is none; when drawn from, one for another number of endmembers.
    """

    loc: Tensor | None
    covariance: Tensor | None
    _where: Tensor

    def __init__(self, loc: float | Sequence[float] | None = None, covariance: float | Sequence[Sequence[float]] | None = None):
        super().__init__()
        mean = None if loc is None else torch.as_tensor(loc, dtype=torch.float32)
        spread = None if covariance is None else torch.as_tensor(covariance, dtype=torch.float32)
        if mean is not None and (mean.ndim > 1 or not mean.isfinite().all()):
            raise InputError("a finite loc, one number or K - 1", f"{loc}")
        if spread is not None and not _positive_definite(spread):
            raise InputError("a positive variance, or a symmetric positive definite covariance (K - 1, K - 1)", f"{covariance}")
        self.settings = {name: None if values is None else torch.as_tensor(values, dtype=torch.float64).tolist()
                         for name, values in (("loc", loc), ("covariance", covariance))}
        self.register_buffer("loc", mean)
        self.register_buffer("covariance", spread)
        self.register_buffer("_where", torch.zeros(()), persistent=False)

    def forward(self, n_endmembers: int) -> dist.TransformedDistribution:
        free = n_endmembers - 1
        for name, values in (("loc", self.loc), ("covariance", self.covariance)):
            if values is not None and values.ndim and values.shape[0] != free:
                raise InputError(f"a {name} of {free} coordinates, one less than endmembers", f"{values.shape[0]}")
        mean, variance = (each.to(self._where) for each in _flat_coordinates(n_endmembers))
        mean = mean if self.loc is None else self.loc.expand(free)
        covariance = variance.diag() if self.covariance is None else self.covariance
        covariance = covariance if covariance.ndim else covariance * torch.eye(free).to(covariance)
        normal = dist.MultivariateNormal(mean, scale_tril=torch.linalg.cholesky(covariance))
        return dist.TransformedDistribution(normal, [StickBreakingTransform()])


def _flat_coordinates(n_endmembers: int) -> tuple[Tensor, Tensor]:
    """Means and variances `(K - 1,)` of the coordinates of `LogisticNormal` under a flat Dirichlet, logits of Beta(1, K - j)."""
    rest = torch.arange(n_endmembers - 1.0, 0.0, -1.0)
    one = torch.ones_like(rest)
    return torch.digamma(one) - torch.digamma(rest) + rest.log(), torch.polygamma(1, one) + torch.polygamma(1, rest)


def _positive_definite(covariance: Tensor) -> bool:
    if covariance.ndim == 0:
        return bool(covariance > 0) and math.isfinite(covariance)
    square = covariance.ndim == 2 and covariance.shape[0] == covariance.shape[1] and bool(covariance.isfinite().all())
    return square and torch.allclose(covariance, covariance.T) and bool((torch.linalg.eigvalsh(covariance) > 0).all())
