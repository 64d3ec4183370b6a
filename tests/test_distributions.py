"""The normal on the simplex: its draws have its density, and its density is one in all."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions.transforms import StickBreakingTransform

from pyro_unmix.distributions import SimplexNormal, marginals, mean_of, of_draws
from pyro_unmix.truncated_normal import log_normal_mass, truncated_normal

CASES = {"inside": ([0.3, 0.4], -0.5, [0.05, 0.1]), "at a face": ([-0.05, 0.5], 0.3, [0.04, 0.1]),
         "at a corner": ([1.1, 0.05], -0.8, [0.05, 0.05]), "far outside": ([-0.6, 1.3], 0.2, [0.05, 0.08]),
         "flat": ([0.3, 0.3], 0.0, [5.0, 5.0])}


def made(case: str, **parts) -> SimplexNormal:
    loc, slope, scale = CASES[case]
    return SimplexNormal(torch.tensor(loc, dtype=torch.float64), torch.tensor([[0.0, 0.0], [slope, 0.0]], dtype=torch.float64),
                         torch.tensor(scale, dtype=torch.float64), **parts)


def grid(n: int, power: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Middles of the cells of a triangle cut along its first abundance and, for each, what is left; finer at the faces."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    part = u**power / (u**power + (1 - u) ** 2)
    slope = part * (1 - part) * (power / u + 2 / (1 - u)) / n
    first, share = torch.meshgrid(part, part, indexing="ij")
    z = torch.stack([first, share * (1 - first)], dim=-1)
    weight = slope[:, None] * slope * (1 - first)
    return torch.cat([z, 1 - z.sum(-1, keepdim=True)], dim=-1).reshape(-1, 3), weight.reshape(-1)


def poles(*concentration: float) -> torch.Tensor:
    return torch.tensor(concentration, dtype=torch.float64)


@pytest.mark.parametrize("concentration", [None, (0.3, 0.8), (0.15, 1.0)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_density(case, concentration):
    """Means of 20,000 draws within five standard errors of the integral of the density, which is one."""
    q = made(case, concentration=None if concentration is None else poles(*concentration))
    z, weight = grid(300, 3.0 if concentration is None else max(3.0, 1 / min(concentration)))
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


# With poles


def one_abundance(mean: float, sd: float, concentration: float, rest_concentration: float = 1.0):
    """The density z^(a-1) (1-z)^(b-1) normal(z; mean, sd) on (0, 1) in 40,000 cells, half of them of equal width in z and half in
    u = z^a: where the cells are, their widths times z^(a-1), and their shares."""
    even = torch.linspace(0.0, 1.0, 20_001, dtype=torch.float64)
    u = torch.cat([even, even**concentration]).sort().values
    z = (0.5 * (u[1:] + u[:-1])) ** (1.0 / concentration)
    log_factor = -0.5 * ((z - mean) / sd).square() + (rest_concentration - 1.0) * torch.log1p(-z.clamp_max(1.0 - 1e-15))
    return z, u.diff() / concentration, (log_factor + u.diff().log()).softmax(0)


@pytest.mark.parametrize("concentration", [1.0, 0.8, 0.3, 0.1, 0.05])
@pytest.mark.parametrize("mean, sd", [(-20.0, 0.3), (-0.5, 0.03), (0.0, 0.05), (0.2, 0.05), (0.24, 0.05), (0.6, 0.05),
                                      (0.3, 10.0), (0.99, 0.02), (1.5, 0.05), (30.0, 0.3)])
def test_one_abundance_with_a_pole_against_quadrature(mean, sd, concentration):
    """Density, mean and quantiles, from far outside on either side to what no bound is felt of. What is below 1e-30, a thirtieth
    where the concentration is 0.05, is drawn there."""
    q = SimplexNormal(poles(mean), torch.zeros(1, 1).double(), poles(sd), concentration=poles(concentration))
    z, width, share = one_abundance(mean, sd, concentration)
    some = z > 1e-30
    found = (q.log_prob(torch.stack([z, 1.0 - z], dim=-1)) + (1.0 - concentration) * z.log()).exp() * width
    assert found[some].sum().item() == pytest.approx(share[some].sum().item(), abs=0.01)
    torch.testing.assert_close(found[some], share[some], atol=0.01 * share.max().item(), rtol=0.0)
    spread = ((share * z.square()).sum() - (share * z).sum().square()).sqrt()
    draws = q.transport(((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)[:, None])[:, 0]
    assert (draws.mean() - (share * z).sum()).abs() < 0.01 * spread
    reached = share.cumsum(0)
    for level in (0.05, 0.5, 0.95):
        exact = z[torch.searchsorted(reached, level)]
        assert (q.transport(poles(level))[0] - exact).abs() < 0.015 * spread, level


@pytest.mark.parametrize("mean, sd", [(-0.05, 0.02), (0.0, 0.02), (0.02, 0.02), (0.07, 0.02), (0.3, 0.02), (0.1, 0.05)])
def test_posterior_of_two_endmembers_under_a_sparse_prior(mean, sd):
    """Dirichlet(0.3) times a normal likelihood: mean and quantiles within 0.06 standard deviations of the likelihood, which is
    what the pole of the other abundance, left out, amounts to. Negative control: not without any pole, but far from zero."""
    z, _, share = one_abundance(mean, sd, 0.3, 0.3)
    reached, off = share.cumsum(0), []
    for concentration in (poles(0.3), None):
        q = SimplexNormal(poles(mean), torch.zeros(1, 1).double(), poles(sd), concentration=concentration)
        draws = q.transport(((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)[:, None])[:, 0]
        apart = [draws.mean() - (share * z).sum()]
        apart += [draws.quantile(level) - z[torch.searchsorted(reached, level)] for level in (0.05, 0.5, 0.95)]
        off.append(max(abs(difference.item()) for difference in apart) / sd)
    assert off[0] < 0.06 and (off[1] > 0.3 or mean == 0.3)


def test_an_order_permutes_abundances():
    """Each pixel with its own: densities and draws are those without an order, in other places."""
    order = torch.tensor([[2, 0, 1], [0, 1, 2], [1, 2, 0]])
    parts = {"coefficients": torch.tensor([[0.0, 0.0], [-0.5, 0.0]]).expand(3, 2, 2),
             "scale": torch.tensor([0.05, 0.1]).expand(3, 2)}
    loc, concentration = torch.tensor([[0.3, 0.4], [-0.05, 0.5], [0.1, 0.2]]), torch.tensor([0.3, 0.8]).expand(3, 2)
    for poles_or_none in (None, concentration):
        ordered, plain = (SimplexNormal(loc, **parts, order=how, concentration=poles_or_none) for how in (order, None))
        uniform = torch.rand(50, 3, 2)
        draws, in_order = ordered.transport(uniform), plain.transport(uniform)
        assert not torch.equal(draws, in_order) and torch.equal(draws.gather(-1, order.expand_as(draws)), in_order)
        torch.testing.assert_close(ordered.log_prob(draws), plain.log_prob(in_order))
        for part, found in ((ordered[1:], ordered.log_prob(draws)[:, 1:]), (ordered.expand((2, 3))[1], ordered.log_prob(draws))):
            torch.testing.assert_close(part.log_prob(draws[:, -found.shape[1]:]), found)


@pytest.mark.parametrize("mean", [-1e4, -100.0, -3.0, 0.0, 0.5, 1.0, 4.0, 100.0, 1e4])
@pytest.mark.parametrize("sd", [1e-5, 0.01, 5.0])
def test_gradients_with_poles_are_finite(mean, sd):
    """In float32, at values from next to nothing to nearly one, wherever the normal stands."""
    loc, scale = torch.tensor([[mean, 0.1]], requires_grad=True), torch.tensor([[sd, 0.05]], requires_grad=True)
    coefficients = torch.tensor([[[0.0, 0.0], [-0.5, 0.0]]], requires_grad=True)
    q = SimplexNormal(loc, coefficients, scale, concentration=torch.tensor([[0.3, 0.1]]))
    values = [[1e-30, 1e-30, 1.0], [1e-30, 1.0, 1e-30], [1e-4, 0.5, 0.4999], [1.0 - 1e-6, 1e-30, 1e-6], [1.0, 1e-30, 1e-30]]
    for value in torch.tensor(values):
        loc.grad = scale.grad = coefficients.grad = None
        log_prob = q.log_prob(value)
        log_prob.sum().backward()
        assert all(torch.isfinite(found).all() for found in (log_prob, loc.grad, scale.grad, coefficients.grad)), value
    draws = q.sample(torch.Size([200]))
    assert (draws > 0).all() and (draws.sum(-1) - 1).abs().max() < 1e-5 and torch.isfinite(q.log_prob(draws)).all()


@pytest.mark.parametrize("mean", [-0.6, 0.0, 0.12, 0.4, 1.3])
def test_gradients_with_poles_are_those_of_the_density(mean):
    """By the mean and the logarithm of the scale, against differences of the quadrature; relative to the error of a score."""
    value, step = 0.03, 1e-4

    def exact(mean, log_sd):
        z, width, _ = one_abundance(mean, math.exp(log_sd), 0.3)
        log_mass = (-0.5 * ((z - mean) / math.exp(log_sd)).square() + width.log()).logsumexp(0).item()
        return -0.5 * ((value - mean) / math.exp(log_sd)) ** 2 - log_mass

    parameters = [torch.tensor([number], dtype=torch.float64, requires_grad=True) for number in (mean, math.log(0.05))]
    q = SimplexNormal(parameters[0], torch.zeros(1, 1).double(), parameters[1].exp(), concentration=poles(0.3))
    q.log_prob(poles(value, 1 - value)).backward()
    for number, parameter in enumerate(parameters):
        up, down = ([p.item() + sign * step * (i == number) for i, p in enumerate(parameters)] for sign in (1, -1))
        found = (exact(*up) - exact(*down)) / (2 * step)
        assert parameter.grad.item() == pytest.approx(found, rel=0.01, abs=0.02), number


@pytest.mark.parametrize("concentration", [None, (0.3, 0.5)], ids=str)
def test_marginals_are_those_of_draws(concentration):
    """More pixels than are worked on at a time, each of its own order; the quasi-random draws are the same at every call."""
    n = 600
    q = SimplexNormal(torch.rand(n, 2) - 0.2, -torch.rand(n, 2, 2), 0.03 + 0.1 * torch.rand(n, 2),
                      torch.rand(n, 3).argsort(dim=-1),
                      None if concentration is None else torch.tensor(concentration).expand(n, 2))
    found, again, levels = marginals(q, (0.05, 0.5, 0.95)), marginals(q, (0.05, 0.5, 0.95)), torch.tensor([0.05, 0.5, 0.95])
    assert found.mean.shape == found.sd.shape == (n, 3) and found.quantiles.shape == (3, n, 3)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    draws = q.sample(torch.Size([1000]))
    spread = draws.std(0) + 1e-3
    for one, other in ((found.mean, draws.mean(0)), (found.sd, draws.std(0)), (found.quantiles, draws.quantile(levels, dim=0))):
        assert ((one - other) / spread).abs().mean() < 0.06
    assert ((found.mean[1:] - draws.mean(0)[:-1]) / spread[1:]).abs().mean() > 0.4  # negative control: another pixel


@pytest.mark.parametrize("k", [2, 4])
def test_far_from_every_face_marginals_are_normal(k):
    """Pixels inside are given in closed form, others by draws: both are what 100,000 draws say, to five standard errors."""
    n = 40
    scale = (0.01 + 0.04 * torch.rand(n, k - 1)) / (k - 1)
    q = SimplexNormal(torch.rand(n, k - 1) / (k - 1), -torch.rand(n, k - 1, k - 1), scale, torch.rand(n, k).argsort(dim=-1))
    mean, sd, inside = q.without_bounds()
    assert 3 < inside.sum() < n - 3
    draws = q.sample(torch.Size([100_000]))
    error = 5 / 100_000**0.5
    assert ((draws.mean(0) - mean).abs() / sd)[inside].max() < error
    assert (draws.std(0) / sd - 1)[inside].abs().max() < error / 2**0.5
    assert ((draws.mean(0) - mean).abs() / sd)[~inside].max() > error  # negative control: where truncation counts
    found = marginals(q, (0.05, 0.5, 0.95))
    for level, quantile in zip((0.05, 0.5, 0.95), found.quantiles, strict=True):
        below = (draws <= quantile).float().mean(0)
        assert (below - level)[inside].abs().max() < error * (level * (1 - level)) ** 0.5
        assert (below - level)[~inside].abs().mean() < 0.01  # of 256 quasi-random draws


def test_quantiles_of_draws_are_those_of_numpy():
    draws, levels = torch.rand(101, 7, 3), (0.0, 0.05, 0.123, 0.5, 1.0)
    found = of_draws(draws, levels)
    np.testing.assert_allclose(found.quantiles, np.quantile(draws.numpy(), levels, axis=0), atol=1e-6)
    torch.testing.assert_close((found.mean, found.sd), (draws.mean(0), draws.std(0)))


# The mean, with its gradient


def test_mean_of_a_dirichlet_is_exact():
    concentration = torch.tensor([[0.2, 1.0, 3.0]], requires_grad=True)
    found = mean_of(dist.Dirichlet(concentration))
    torch.testing.assert_close(found, concentration / concentration.sum())
    found[0, 0].backward()
    torch.testing.assert_close(concentration.grad, torch.tensor([[4.0, -0.2, -0.2]]) / 4.2**2)


def logistic_normal(loc):
    return dist.TransformedDistribution(dist.Normal(loc, 0.5).to_event(1), [StickBreakingTransform()])


def simplex_normal(loc, concentration=None):
    poles = None if concentration is None else torch.full_like(loc, concentration)
    return SimplexNormal(loc, torch.zeros(*loc.shape, 2, dtype=loc.dtype), torch.full_like(loc, 0.1), None, poles)


@pytest.mark.parametrize("make", [logistic_normal, simplex_normal, lambda loc: simplex_normal(loc, 0.4)],
                         ids=["logistic-normal", "simplex-normal", "simplex-normal with poles"])
def test_mean_of_other_distributions_is_that_of_draws(make):
    """So is its gradient, which no draw of a distribution with poles has: over 4000 equal pixels, against differences of the
    means of as many draws of the same random numbers, within 8 % of the largest."""
    loc, n = torch.tensor([0.1, 0.25], dtype=torch.float64), 4000

    def mean(loc, n_each):
        torch.manual_seed(0)
        return make(loc.expand(n, 2)).sample(torch.Size([n_each])).mean((0, 1))

    moved = loc.clone().requires_grad_()
    found = mean_of(make(moved.expand(n, 2))).mean(0)
    assert found.sum().item() == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(found.detach(), mean(loc, 8), atol=5e-3, rtol=0)
    step = 0.02 * torch.eye(2, dtype=torch.float64)
    differences = torch.stack([(mean(loc + by, 8) - mean(loc - by, 8)) / 0.04 for by in step], dim=1)
    gradient = torch.stack([torch.autograd.grad(found[k], moved, retain_graph=True)[0] for k in range(3)])
    assert (gradient - differences).abs().max() < 0.08 * differences.abs().max()
