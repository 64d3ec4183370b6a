"""Sparse and logistic-normal abundances: proper densities, draws as they say, and what they refuse."""

from __future__ import annotations

import copy

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats

import pyro_unmix as pu
from pyro_unmix.errors import InputError
from pyro_unmix.least_squares import LeastSquares
from pyro_unmix.priors import Dirichlet, LogisticNormal, Sparse, check_abundance_prior

CORRELATED = LogisticNormal([0.3, -0.5], [[1.0, 0.6], [0.6, 1.5]])
PRIORS = [Sparse(), Sparse(one=0.6, two=0.1, absent=0.3), LogisticNormal(), LogisticNormal(0.5, 2.0)]


def density(prior, z):
    return float(prior(len(z)).log_prob(torch.tensor(z, dtype=torch.float64)).exp())


def double(prior):
    return copy.deepcopy(prior).double()


@pytest.mark.parametrize("prior", PRIORS, ids=str)
def test_the_density_over_two_integrates_to_one(prior):
    """In u with z = u^10 / 2 from either end, where poles up to z^-0.9 are gone."""
    def at(u, flipped):
        z = max(0.5 * u**10, 1e-300)
        return density(double(prior), [1 - z, z] if flipped else [z, 1 - z]) * 5 * u**9

    total = sum(integrate.quad(at, 1e-6, 1, args=(flipped,), limit=200)[0] for flipped in (False, True))
    assert total == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("prior", [*PRIORS, CORRELATED], ids=str)
def test_the_density_over_three_integrates_to_one(prior):
    """By importance sampling from a Dirichlet with poles as strong: the mean weight of 400,000 draws, uncertain by its error.

    Negative control: a density 5 % too high is told."""
    proposal = dist.Dirichlet(torch.full((3,), 0.1, dtype=torch.float64))
    z = proposal.sample((400_000,)).clamp_min(1e-300)
    z = z / z.sum(-1, keepdim=True)
    weights = (double(prior)(3).log_prob(z) - proposal.log_prob(z)).exp()
    error = weights.std() / len(weights) ** 0.5
    assert error < 0.01 and abs(weights.mean() - 1) < 4 * error
    assert abs(1.05 * weights.mean() - 1) > 4 * error


@pytest.mark.parametrize("prior", [*PRIORS, CORRELATED], ids=str)
def test_draws_are_as_the_density_says(prior):
    """Share of draws in the third of the simplex around a corner, and within .05 of a face, against its integral by importance
    sampling; within four standard errors of 40,000 draws each. Negative control: another prior's draws."""
    where = [lambda z: z[..., 0] > 0.8, lambda z: z[..., 1] < 0.05, lambda z: (z > 0.1).all(-1)]
    proposal = dist.Dirichlet(torch.full((3,), 0.1, dtype=torch.float64))
    z = proposal.sample((200_000,)).clamp_min(1e-300)
    weights = (double(prior)(3).log_prob(z / z.sum(-1, keepdim=True)) - proposal.log_prob(z)).exp()
    draws, strangers = prior(3).sample((40_000,)), Dirichlet(3.0)(3).sample((40_000,))
    apart = []
    for inside in where:
        share = inside(draws).double().mean()
        error = (share * (1 - share) / 40_000 + (weights * inside(z)).var() / 200_000).sqrt()
        assert abs(share - (weights * inside(z)).mean()) < 4 * error
        apart.append(abs(inside(strangers).double().mean() - (weights * inside(z)).mean()) / error)
    assert max(apart) > 20


def test_sparse_draws_hold_few_materials():
    """Share of pixels that are nine tenths one material: more than flat pixels of four, whose is .004."""
    pure = [float((prior(4).sample((20_000,)).amax(-1) > 0.9).double().mean())
            for prior in (Sparse(), Sparse(0, 0), Dirichlet())]
    assert pure[0] > 0.15 and pure[1] == pytest.approx(0.004, abs=0.003) and pure[2] == pytest.approx(0.004, abs=0.003)


@pytest.mark.parametrize("settings", [{"one": -0.1}, {"one": 0.7, "two": 0.5}, {"absent": 0.05}, {"absent": 2.0},
                                      {"one": float("nan")}])
def test_sparse_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError, match="a sum of at most 1, and a concentration absent from 0.1 to 1, got one"):
        Sparse(**settings)


@pytest.mark.parametrize("loc, covariance, complaint", [
    (float("nan"), None, "a finite loc"), ([[0.0]], None, "a finite loc"), (None, -1.0, "a positive variance"),
    (None, [1.0, 1.0], "symmetric positive definite"), (None, [[1.0, 2.0], [2.0, 1.0]], "symmetric positive definite"),
    (None, [[1.0, 0.5], [0.0, 1.0]], "symmetric positive definite"),
])
def test_what_is_no_mean_or_covariance_is_refused(loc, covariance, complaint):
    with pytest.raises(InputError, match=complaint):
        LogisticNormal(loc, covariance)


@pytest.mark.parametrize("prior", [LogisticNormal([0.0, 0.0]), LogisticNormal(None, [[1.0, 0.0], [0.0, 1.0]])])
def test_coordinates_are_one_less_than_endmembers(prior):
    check_abundance_prior(prior, 3)
    with pytest.raises(InputError, match="of 3 coordinates, one less than endmembers, got 2"):
        prior(4)


def test_without_parameters_it_is_as_near_flat_as_it_can_be():
    """Means and variances of the coordinates of 100,000 flat draws are those of the prior, within five standard errors."""
    prior = LogisticNormal()(4)
    flat = prior.transforms[0].inv(Dirichlet()(4).sample((100_000,)).clamp_min(1e-7))
    assert ((flat.mean(0) - prior.base_dist.mean).abs() < 5 * flat.std(0) / 100_000**0.5).all()
    torch.testing.assert_close(flat.var(0), prior.base_dist.variance, rtol=0.05, atol=0)


def test_divergence_of_the_head_is_that_of_draws():
    """In the same coordinates it has a closed form, and training uses it; 100,000 draws agree within four standard errors."""
    head = pu.UnmixingGuide("mlp", head="logistic-normal").head
    head.build(5, 3)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    even = torch.tensor([[0.2, 0.5, 0.3]])
    q = head(torch.randn(1, 5), LeastSquares(even, torch.ones(1), even, torch.eye(3)[None]))
    p = CORRELATED(3)
    exact = torch.distributions.kl_divergence(q, p)
    with torch.no_grad():
        z = q.sample((100_000,))
        each = (q.log_prob(z) - p.log_prob(z))[:, 0]
    assert abs(each.mean() - exact[0]) < 4 * each.std() / len(each) ** 0.5
    reversed_order = torch.distributions.kl_divergence(q, LogisticNormal([-0.5, 0.3], [[1.5, 0.6], [0.6, 1.0]])(3))
    assert abs(each.mean() - reversed_order[0]) > 4 * each.std() / len(each) ** 0.5


def test_corners_of_a_sparse_prior_are_beta():
    """With `one` alone, and absent materials of .5, abundances of the corner's own component are Beta(1, .5 (K - 1))."""
    draws = Sparse(one=1.0, two=0.0, absent=0.5)(2).sample((20_000,)).amax(-1).numpy()
    expected = stats.beta(1, 0.5)
    # The larger of two: where z is above one half, its density and that of the mirror image.
    shares = [np.mean(draws > level) for level in (0.6, 0.9, 0.99)]
    exact = [expected.sf(level) + expected.cdf(1 - level) for level in (0.6, 0.9, 0.99)]
    np.testing.assert_allclose(shares, exact, atol=4 * 0.5 / 20_000**0.5)
