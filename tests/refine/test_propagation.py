"""Expectation propagation against numerical integration, exact draws and its own symmetries."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import special

from pyro_unmix.errors import InputError
from pyro_unmix.likelihood import PixelLikelihood
from pyro_unmix.refine import propagation
from pyro_unmix.refine.propagation import _Rules, _sum_moments, _tilted_quantiles, propagate
from pyro_unmix.refine.sampling import draw

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def concentrations(k, value):
    return torch.full((k,), value, dtype=torch.float64)


def mixed(abundances, *, noise=0.1, n_bands=8, brightness=None, assumed=None):
    """Likelihood of noisy mixtures of random endmembers; `assumed` is the noise that it is told of."""
    abundances = torch.as_tensor(abundances, dtype=torch.float64)
    endmembers = torch.rand(abundances.shape[1], n_bands, dtype=torch.float64)
    factor = 1.0 if brightness is None else (brightness * torch.randn(len(abundances), 1, dtype=torch.float64)).exp()
    pixels = factor * abundances @ endmembers
    pixels = pixels + noise * torch.randn_like(pixels)
    return PixelLikelihood.of(pixels, endmembers, torch.full((n_bands,), assumed or noise, dtype=torch.float64))


def from_prior(n, k, value=1.0, **options):
    abundances = torch.distributions.Dirichlet(concentrations(k, value)).sample((n,))
    return abundances, mixed(abundances, **options)


def four_kinds(k):
    """Pixels inside, on a face, in a corner and outside, the same ones every time."""
    torch.manual_seed(k)
    kinds = torch.zeros(4, k, dtype=torch.float64)
    kinds[0] = torch.arange(1.0, k + 1.0) / (k * (k + 1) / 2)
    kinds[1, :2] = 0.5
    kinds[2, 0], kinds[3, 0], kinds[3, 1] = 1.0, 1.4, -0.4
    return mixed(kinds, noise=0.1)


def hard_cases(noise):
    """Four endmembers, and pixels that are dark, pure, too bright, negative and far outside."""
    corner = torch.eye(4, dtype=torch.float64)[:1]
    pixels = torch.cat([0.0 * corner, corner, 100.0 * corner, -corner, corner - 9.0 * corner.roll(1) + 9.0 * corner.roll(2)])
    endmembers = torch.rand(4, 8, dtype=torch.float64)
    endmembers[3] = endmembers[2] + 1e-9 * endmembers[1]  # two that hardly differ
    return PixelLikelihood.of(pixels @ endmembers, endmembers, torch.full((8,), noise, dtype=torch.float64))


class Exact(NamedTuple):
    """Abundances `(m, k)`, brightness `(b,)`, the posterior probability of each pair `(b, m)` and the log evidence."""

    abundances: torch.Tensor
    brightness: torch.Tensor
    probability: torch.Tensor
    log_evidence: float

    def moments(self, values):
        """Mean and sd of `values` `(b, m, k)` or `(m, k)`."""
        weight = self.probability[..., None]
        mean = (weight * values).sum(dim=(0, 1))
        return mean, (weight * (values - mean).square()).sum(dim=(0, 1)).sqrt()

    def below(self, values):
        """Posterior probability that each abundance is below `values` `(..., k)`."""
        weight = self.probability.sum(dim=0)
        return torch.stack([weight @ (self.abundances <= value).to(weight) for value in values.flatten(0, -2)]).view_as(values)


@functools.cache
def integrated(k, value, scale):
    """The posterior of each of the four kinds by the trapezoidal rule in log ratios of abundances and log brightness."""
    likelihood = four_kinds(k)
    n, b = {(2, None): (10001, 1), (2, 0.25): (8001, 31), (3, None): (601, 1), (3, 0.25): (201, 31)}[k, scale]
    end = 14.0 / min(value, 1.0)
    axis = torch.linspace(-end, end, n, dtype=torch.float64)
    ratios = torch.cartesian_prod(*[axis] * (k - 1)).view(-1, k - 1)
    log_abundances = torch.cat([ratios, torch.zeros_like(ratios[:, :1])], dim=1).log_softmax(dim=1)
    abundances = log_abundances.exp()
    log_s = torch.linspace(-5.0, 5.0, b, dtype=torch.float64)[:, None] * (scale or 0.0)
    # The Jacobian of log ratios is the product of the abundances.
    log_prior = math.lgamma(k * value) - k * math.lgamma(value) + value * log_abundances.sum(dim=1)
    log_cell = (k - 1) * math.log(2.0 * end / (n - 1))
    if scale is not None:
        log_prior = log_prior - 0.5 * (log_s / scale) ** 2
        log_cell += math.log(10.0 / (b - 1) / math.sqrt(2.0 * math.pi))
    square = (abundances * (abundances @ likelihood.precision)).sum(dim=1)
    found = []
    for linear, constant in zip(likelihood.linear, likelihood.constant, strict=True):
        log_density = log_prior + constant + log_s.exp() * (abundances @ linear) - 0.5 * (2.0 * log_s).exp() * square
        log_total = log_density.logsumexp(dim=(0, 1))
        found.append(Exact(abundances, log_s[:, 0].exp(), (log_density - log_total).exp(), float(log_total) + log_cell))
    return found


@pytest.mark.parametrize("scale", [None, 0.25])
@pytest.mark.parametrize("value, bias, ratio, misplaced",
                         [(0.3, 0.1, 0.16, 0.14), (1.0, 0.05, 0.08, 0.06), (2.0, 0.05, 0.08, 0.06)])
@pytest.mark.parametrize("k", [2, 3])
def test_moments_and_quantiles_are_those_of_integration(k, value, bias, ratio, misplaced, scale):
    # Two of the three endmembers are so alike that their posterior reaches from pole to pole: the worst of cases.
    found = propagate(four_kinds(k), concentrations(k, value), scale)
    for n, exact in enumerate(integrated(k, value, scale)):
        mean, sd = exact.moments(exact.brightness[:, None, None] * exact.abundances)
        assert ((found.mean[n] - mean).abs() < bias * sd).all()
        torch.testing.assert_close(found.covariance[n].diagonal().sqrt(), sd, rtol=ratio, atol=0.0)
        if scale is None:
            below = exact.below(found.quantiles(LEVELS)[:, n])
            assert (below - torch.tensor(LEVELS)[:, None]).abs().max() < misplaced


@pytest.mark.parametrize("value, scale, bias, ratio", [(1.0, None, 0.03, 0.1), (1.0, 0.25, 0.03, 0.1), (0.3, None, 0.06, 0.25)])
@pytest.mark.parametrize("k", [6, 10])
def test_moments_are_those_of_exact_draws(k, value, scale, bias, ratio):
    _, likelihood = from_prior(20, k, value, n_bands=40, noise=0.03, brightness=scale)
    found, draws = propagate(likelihood, concentrations(k, value), scale), draw(likelihood, concentrations(k, value), scale, 4000)
    x = draws.abundances if scale is None else draws.abundances * draws.brightness[..., None]
    mean, sd = (moment(draws._replace(abundances=x)) for moment in (type(draws).mean, type(draws).sd))
    off = (found.mean - mean) / sd
    # The noise of a mean of 4000 draws is 0.016 sd.
    assert off.square().mean().sqrt() < bias
    assert off.abs().max() < bias + 5 * 0.016 + 0.05
    relative = found.covariance.diagonal(dim1=1, dim2=2).sqrt() / sd
    assert (relative - 1.0).abs().max() < ratio + 0.05
    assert (relative - 1.0).square().mean().sqrt() < ratio / 2


def test_quantiles_cover():
    # 2000 trials of probability .9: off by .027 once in 15,000 runs.
    abundances, likelihood = from_prior(2000, 4)
    low, high = propagate(likelihood, concentrations(4, 1.0)).quantiles([0.05, 0.95])
    inside = ((low < abundances) & (abundances < high)).double().mean(dim=0)
    torch.testing.assert_close(inside, concentrations(4, 0.9), rtol=0.0, atol=0.027)


@pytest.mark.parametrize("t", [-12.0, -3.0, 0.0, 2.0, 7.0, 7.6, 30.0])
@pytest.mark.parametrize("a", [0.1, 0.3, 1.0, 1.5, 5.0])
def test_tilted_moments(a, t):
    sd = 1e-3
    mean, variance = (float(moment) / unit for moment, unit in zip(
        _Rules.of(concentrations(1, a)).moments(concentrations(1, t * sd)[None], concentrations(1, sd)[None]), (sd, sd**2),
        strict=True))
    # E x^(m) of x^(a-1) normal(x - t) are ratios of parabolic cylinder functions (Gradshteyn and Ryzhik 3.462.1).
    assert mean == pytest.approx(a * special.pbdv(-a - 1.0, -t)[0] / special.pbdv(-a, -t)[0], rel=1e-5)
    assert variance + mean**2 == pytest.approx(t * mean + a, rel=1e-5)  # integration by parts


@pytest.mark.parametrize("a", [0.1, 1.0, 5.0])
def test_tilted_moments_far_in_the_tail_are_those_of_a_gamma_distribution(a):
    t = torch.tensor([[-1e3], [-5e3], [-1e7]], dtype=torch.float64)
    mean, variance = _Rules.of(concentrations(1, a)).moments(t, torch.ones_like(t))
    rate = -t.clamp(min=-1e4)
    torch.testing.assert_close(mean, a / rate, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(variance, a / rate**2, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("scale", [0.05, 0.25, 0.5])
@pytest.mark.parametrize("mean, sd", [(1.0, 1e-3), (0.9, 0.2), (4.0, 0.01), (1.0, 30.0), (-0.5, 0.1), (0.0, 1e-3)])
def test_moments_of_the_sum(mean, sd, scale):
    total = 4.0
    log_s = np.linspace(-9.0, 3.0, 200001)
    s = np.exp(log_s)
    log_density = -0.5 * (log_s / scale) ** 2 - (total - 1.0) * log_s - 0.5 * ((s - mean) / sd) ** 2
    share = special.softmax(log_density)
    exact = share @ s, share @ (s - share @ s) ** 2
    found = _sum_moments(concentrations(1, mean), concentrations(1, sd), torch.tensor(total, dtype=torch.float64), scale)
    assert abs(float(found[0]) - exact[0]) < 1e-3 * math.sqrt(exact[1])
    assert float(found[1]) == pytest.approx(exact[1], rel=5e-3)


@pytest.mark.parametrize("mean, sd", [(0.4, 0.01), (-0.3, 0.05), (0.02, 0.02), (1.2, 0.3), (0.5, 0.9)])
@pytest.mark.parametrize("a", [0.2, 1.0, 3.0])
def test_tilted_quantiles(a, mean, sd):
    quantiles = _tilted_quantiles(*(torch.full((1, 1), each, dtype=torch.float64) for each in (mean, sd, a)),
                                  torch.tensor(LEVELS, dtype=torch.float64)[None, None])[0, 0].numpy()
    root = np.linspace(0.0, 1.0, 200001)[1:] ** (1.0 / min(a, 1.0))
    density = root ** max(a - 1.0, 0.0) * np.exp(-0.5 * ((root - mean) / sd) ** 2)
    np.testing.assert_allclose(np.interp(quantiles, root, np.cumsum(density) / density.sum()), LEVELS, atol=0.005)


@pytest.mark.parametrize("scale", [None, 0.25])
@pytest.mark.parametrize("value", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("noise", [1e-6, 1e-3, 1e3])
def test_hard_cases_stay_finite(noise, value, scale):
    found = propagate(hard_cases(noise), concentrations(4, value), scale)
    assert found.mean.isfinite().all() and found.covariance.isfinite().all()
    assert (found.covariance.diagonal(dim1=1, dim2=2) > 0).all()
    if scale is None:
        quantiles = found.quantiles(LEVELS)
        assert ((quantiles >= 0) & (quantiles <= 1)).all() and (quantiles.diff(dim=0) >= 0).all()
        torch.testing.assert_close(found.mean.sum(dim=1), torch.ones(5, dtype=torch.float64), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("scale", [None, 0.25])
def test_order_of_endmembers_and_parts_do_not_matter(scale, monkeypatch):
    _, likelihood = from_prior(30, 5, 0.5, brightness=scale)
    concentration = torch.tensor([0.3, 0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
    found = propagate(likelihood, concentration, scale)
    turned = PixelLikelihood(likelihood.precision.flip(0, 1), likelihood.linear.flip(1), likelihood.constant)
    monkeypatch.setattr(propagation, "_WORKING", 600)
    again = propagate(turned, concentration.flip(0), scale)
    torch.testing.assert_close(again.mean.flip(1), found.mean, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(again.covariance.flip(1, 2), found.covariance, rtol=1e-6, atol=1e-9)
    if scale is None:
        torch.testing.assert_close(again.quantiles(LEVELS).flip(2), found.quantiles(LEVELS), rtol=1e-6, atol=1e-9)


def test_without_information_it_is_the_prior():
    nothing = PixelLikelihood(*(torch.zeros(shape, dtype=torch.float64) for shape in ((3, 3), (1, 3), (1,))))
    concentration = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    prior = torch.distributions.Dirichlet(concentration)
    found = propagate(nothing, concentration)
    torch.testing.assert_close(found.mean[0], prior.mean, rtol=0.0, atol=0.02)
    torch.testing.assert_close(found.covariance[0].diagonal(), prior.variance, rtol=0.25, atol=0.0)


@pytest.mark.parametrize("concentration, scale", [(torch.ones(2), None), (torch.tensor([1.0, 0.0, 1.0]), None),
                                                  (torch.tensor([1.0, math.nan, 1.0]), None), (torch.ones(3), 0.0)])
def test_what_is_no_prior_is_refused(concentration, scale):
    with pytest.raises(InputError):
        propagate(four_kinds(3), concentration, scale)


def test_what_is_no_likelihood_is_refused():
    likelihood = four_kinds(3)
    likelihood.linear[0, 0] = math.nan
    with pytest.raises(InputError):
        propagate(likelihood, torch.ones(3))


def test_quantiles_with_brightness_are_refused():
    with pytest.raises(InputError):
        propagate(four_kinds(3), torch.ones(3), 0.25).quantiles(LEVELS)
