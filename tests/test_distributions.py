"""The normal on the simplex: its draws have its density, and its density is one in all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_unmix.distributions import SimplexNormal, log_normal_mass, truncated_normal

CASES = {"inside": ([0.3, 0.4], -0.5, [0.05, 0.1]), "at a face": ([-0.05, 0.5], 0.3, [0.04, 0.1]),
         "at a corner": ([1.1, 0.05], -0.8, [0.05, 0.05]), "far outside": ([-0.6, 1.3], 0.2, [0.05, 0.08]),
         "flat": ([0.3, 0.3], 0.0, [5.0, 5.0])}


def made(case: str) -> SimplexNormal:
    loc, slope, scale = CASES[case]
    return SimplexNormal(torch.tensor(loc, dtype=torch.float64), torch.tensor([[0.0, 0.0], [slope, 0.0]], dtype=torch.float64),
                         torch.tensor(scale, dtype=torch.float64))


def grid(n: int) -> tuple[torch.Tensor, float]:
    """Middles of the cells of a triangle cut along its first abundance and, for each, what is left."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    first, share = torch.meshgrid(u**3, u, indexing="ij")  # finer at zero
    weight = 3 * torch.meshgrid(u**2, u, indexing="ij")[0] * (1 - first) / n**2
    z = torch.stack([first, share * (1 - first)], dim=-1)
    return torch.cat([z, 1 - z.sum(-1, keepdim=True)], dim=-1).reshape(-1, 3), weight.reshape(-1)


@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_density(case):
    """Means of 20,000 draws within five standard errors of the integral of the density, which is one."""
    q = made(case)
    z, weight = grid(1500)
    density = q.log_prob(z).exp() * weight
    assert density.sum() == pytest.approx(1.0, abs=5e-3)
    draws = q.sample(torch.Size([20_000]))
    assert (draws >= 0).all() and (draws.sum(-1) - 1).abs().max() < 1e-6
    mean = (density[:, None] * z).sum(0) / density.sum()
    assert ((draws.mean(0) - mean).abs() < 5 * draws.std(0) / 20_000**0.5 + 2e-4).all()
    wrong = q.loc[0].clamp(0, 1)  # negative control: what is noticed where truncation is forgotten
    assert case == "inside" or (draws[:, 0].mean() - wrong).abs() > 5 * draws[:, 0].std() / 20_000**0.5


def test_of_a_posterior_without_truncation_it_is_the_normal():
    """Far from every face it is the multivariate normal of the same conditionals."""
    covariance = np.array([[4e-4, -1e-4], [-1e-4, 9e-4]])
    slope = covariance[1, 0] / covariance[0, 0]
    q = SimplexNormal(torch.tensor([0.3, 0.3]), torch.tensor([[0.0, 0.0], [slope, 0.0]]).float(),
                      torch.tensor([0.02, (covariance[1, 1] - slope * covariance[1, 0]) ** 0.5]).float())
    z = torch.tensor([[0.31, 0.28, 0.41], [0.28, 0.35, 0.37]])
    np.testing.assert_allclose(q.log_prob(z), stats.multivariate_normal([0.3, 0.3], covariance).logpdf(z[:, :2]), rtol=1e-4)


@pytest.mark.parametrize("low, high", [(-1.0, 2.0), (3.0, 4.0), (8.0, 9.0), (-40.0, -30.0), (30.0, 1000.0), (-1e-3, 1e-3)])
def test_truncated_normals_in_both_tails(low, high):
    a, b = torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)
    exact = stats.truncnorm(low, high)
    assert log_normal_mass(a, b).item() == pytest.approx(np.logaddexp(0, 0) - np.log(2) + _log_mass(low, high), rel=1e-6)
    levels = torch.tensor([0.01, 0.3, 0.7, 0.99], dtype=torch.float64)
    found = truncated_normal(a.expand(4), b.expand(4), levels).numpy()
    np.testing.assert_allclose(found, exact.ppf(levels), atol=1e-4 * exact.std())
    assert ((low <= found) & (found <= high)).all()


def _log_mass(low: float, high: float) -> float:
    if low > 0:
        low, high = -high, -low
    return stats.norm.logcdf(high) + np.log1p(-np.exp(stats.norm.logcdf(low) - stats.norm.logcdf(high)))


@pytest.mark.parametrize("low, high", [(-1.0, 2.0), (3.0, 4.0), (-6.0, 0.5)])
def test_gradients_of_draws_by_their_bounds(low, high):
    bounds = [torch.full((3,), bound, dtype=torch.float64, requires_grad=True) for bound in (low, high)]
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    truncated_normal(*bounds, levels).sum().backward()
    for bound, (up, down) in zip(bounds, (((low + 1e-5, high), (low - 1e-5, high)), ((low, high + 1e-5), (low, high - 1e-5))),
                                 strict=True):
        exact = (stats.truncnorm(*up).ppf(levels) - stats.truncnorm(*down).ppf(levels)) / 2e-5
        np.testing.assert_allclose(bound.grad, exact, atol=1e-4)


def test_gradients_are_finite_far_outside():
    loc = torch.tensor([[-3.0, 4.0], [0.5, 0.2]], requires_grad=True)
    q = SimplexNormal(loc, torch.zeros(2, 2, 2), torch.full((2, 2), 0.01))
    z = torch.tensor([[0.999, 1e-4, 9e-4], [0.0, 0.0, 1.0]])
    (q.log_prob(z).sum() + q.rsample().sum(0)[0]).backward()
    assert torch.isfinite(loc.grad).all()
