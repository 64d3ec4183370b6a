"""Moves of the abundances: against integration on a grid, and as what leaves a joint distribution as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_unmix.likelihood import PixelLikelihood
from pyro_unmix.refine.moves import move

L = 20
# Interior, near a vertex, on an edge, at a vertex, and outside by the noise.
PIXELS = torch.tensor([[0.3, 0.3, 0.4], [0.9, 0.05, 0.05], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.6, -0.1, 0.5]]).double()
SCALE = 0.25


def likelihood_of(abundances, noise=0.15, seed=0):
    generator = torch.Generator().manual_seed(seed)
    endmembers = 0.2 + torch.rand(abundances.shape[1], L, dtype=torch.float64, generator=generator)
    errors = torch.randn(len(abundances), L, dtype=torch.float64, generator=generator)
    scales = torch.full((L,), noise, dtype=torch.float64)
    return PixelLikelihood.of(abundances @ endmembers + noise * errors, endmembers, scales)


def statistics(abundances):
    return torch.cat([abundances, abundances.square(), abundances.log()], dim=-1)


def expected_statistics(likelihood, concentration, brightness_scale):
    """By the midpoint rule on a grid that is warped so that poles at both ends of an axis are flat."""
    n, power = (500, 6.0) if brightness_scale is None else (120, 4.0)
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    up, down = u**power, (1 - u) ** power
    near, far, stretch = up / (up + down), down / (up + down), (power * (u * (1 - u)) ** (power - 1) / (up + down) ** 2).log()
    first, left = near[:, None].expand(n, n), far[:, None]
    abundances = torch.stack([first, left * near, left * far], dim=-1).reshape(-1, 1, 3)
    log_prior = (stretch[:, None] + stretch + left.log()).reshape(-1, 1) + ((concentration - 1) * abundances.log()).sum(dim=-1)
    at = torch.zeros(1) if brightness_scale is None else brightness_scale * torch.linspace(-4, 4, 61, dtype=torch.float64)
    weights, scale = 0.0, brightness_scale or 1.0
    offset = likelihood.log_prob(torch.linalg.solve(likelihood.precision, likelihood.linear.T).T)
    for log_brightness in at:
        log_likelihood = likelihood.log_prob(log_brightness.exp() * abundances.expand(-1, len(likelihood.linear), -1))
        weights = weights + (log_prior + log_likelihood - offset - 0.5 * (log_brightness / scale) ** 2).exp()
    return torch.einsum("gn,gs->ns", weights / weights.sum(dim=0), statistics(abundances[:, 0]))


def distance(likelihood, expected, concentration, brightness_scale, chains=250, sweeps=30):
    """Greatest difference of a posterior mean from what is expected, in its standard errors over independent chains."""
    copies = PixelLikelihood(likelihood.precision, likelihood.linear.repeat(chains, 1), likelihood.constant.repeat(chains))
    x = torch.full_like(copies.linear, 1 / 3)
    means = torch.zeros(chains, *expected.shape, dtype=torch.float64)
    for sweep in range(-20, sweeps):
        x = move(x, copies, concentration, brightness_scale)
        if sweep >= 0:
            means += statistics(x / x.sum(dim=1, keepdim=True)).view(means.shape) / sweeps
    return ((means.mean(dim=0) - expected) / (means.std(dim=0) / chains**0.5)).abs().max()


@pytest.mark.parametrize("brightness_scale", [None, torch.tensor(SCALE, dtype=torch.float64)])
@pytest.mark.parametrize("concentration", [(0.3, 0.3, 0.3), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (0.3, 1.0, 2.0)])
def test_moments_are_those_of_integration(concentration, brightness_scale):
    """Of 45 normal scores the largest exceeds 5 in one of 40,000 runs."""
    likelihood, concentration = likelihood_of(PIXELS), torch.tensor(concentration, dtype=torch.float64)
    expected = expected_statistics(likelihood, concentration, brightness_scale)
    assert distance(likelihood, expected, concentration, brightness_scale) < 5


def test_negative_control_another_target_is_found_out():
    likelihood, concentration = likelihood_of(PIXELS), torch.ones(3, dtype=torch.float64)
    expected = expected_statistics(likelihood, concentration, None)
    assert distance(likelihood, expected, 1.2 * concentration, None) > 5
    assert distance(likelihood._replace(precision=1.05 * likelihood.precision), expected, concentration, None) > 5


def marginal_score(x, k, concentration):
    """Whether an abundance is Beta distributed; near one by what is left of it, which has more digits."""
    total, others = x.sum(dim=1), x[:, [j for j in range(x.shape[1]) if j != k]].sum(dim=1)
    own, rest = float(concentration[k]), float(concentration.sum() - concentration[k])
    ranks = np.where(others > x[:, k], stats.beta(own, rest).cdf(x[:, k] / total), stats.beta(rest, own).sf(others / total))
    return stats.kstest(ranks, "uniform").pvalue


@pytest.mark.parametrize("brightness_scale", [None, SCALE])
@pytest.mark.parametrize("concentration", [(0.05, 0.05), (0.5, 0.5), (1.0, 0.1), (0.1, 0.3, 1.0, 2.0, 8.0), (20.0, 0.06, 20.0)])
def test_a_joint_distribution_stays_as_it_is(concentration, brightness_scale):
    """Abundances drawn from the prior, spectra given them, then moved given the spectra: again draws from the prior.

    A uniform score below 1e-5 in one of at most six comparisons happens in one of 16,000 runs.
    """
    n, noise = 4000, 0.05
    concentration = torch.tensor(concentration, dtype=torch.float64)
    scale = None if brightness_scale is None else torch.tensor(brightness_scale, dtype=torch.float64)
    x = torch.distributions.Dirichlet(concentration).sample((n,)).clamp_min(1e-100)
    if scale is not None:
        x = (scale * torch.randn(n, 1, dtype=torch.float64)).exp() * x
    likelihood = likelihood_of(x, noise)
    moved = x
    for _ in range(5):
        moved = move(moved, likelihood, concentration, scale)
    assert (moved > 0).all() and (moved - x).abs().max() > 1e-3
    scores = [marginal_score(moved, k, concentration) for k in range(len(concentration))]
    if scale is None:
        np.testing.assert_allclose(moved.sum(dim=1), 1.0, atol=1e-12)
    else:
        scores.append(stats.kstest(moved.sum(dim=1).log() / scale, "norm").pvalue)
    assert min(scores) > 1e-5, scores


@pytest.mark.parametrize("brightness_scale", [None, SCALE])
@pytest.mark.parametrize("concentration", [0.1, 1.0, 5.0])
def test_chains_forget_quickly(concentration, brightness_scale):
    """Ten similar endmembers, hardly any noise: the correlation of an abundance with itself 20 sweeps before."""
    scale = None if brightness_scale is None else torch.tensor(brightness_scale, dtype=torch.float64)
    prior = torch.full((10,), concentration, dtype=torch.float64)
    x = torch.distributions.Dirichlet(prior).sample((1,)).expand(500, 10)
    likelihood = likelihood_of(x, 0.02)
    likelihood = likelihood._replace(linear=likelihood.linear[:1].expand(500, -1))
    history = []
    for sweep in range(60):
        x = move(x, likelihood, prior, scale)
        if sweep in (39, 59):
            history.append(x / x.sum(dim=1, keepdim=True))
    before, after = ((values - values.mean(dim=0)) / values.std(dim=0) for values in history)
    assert (before * after).mean() < 0.3
