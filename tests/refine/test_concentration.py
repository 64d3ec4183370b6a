"""Concentrations: the mode and the draws given abundances, and both learned from pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize

from pyro_unmix.errors import InputError
from pyro_unmix.likelihood import PixelLikelihood
from pyro_unmix.refine.concentration import (
    LEAST,
    MOST,
    _mode,
    concentration_of,
    draw_concentration,
    learn_concentration,
    mean_log_abundance,
)
from pyro_unmix.simulate import absorption_spectra

TRUTH = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
# Three standard errors of 1500 pixels at 30 dB, and of the choice of spectra: the largest errors in 20 scenes were
# 0.032, 0.064 and 0.15.
ERRORS = torch.tensor([0.05, 0.1, 0.25], dtype=torch.float64)


def simulated(brightness_scale=None, n=1500, seed=0):
    """The likelihood of pixels of 60 bands at 30 dB, abundances Dirichlet(0.3, 1, 2)."""
    endmembers = torch.as_tensor(absorption_spectra(3, np.linspace(400, 2500, 60), seed))
    signal = torch.distributions.Dirichlet(TRUTH).sample((n,)) @ endmembers
    noise = torch.full((60,), float(signal.square().mean().sqrt()) * 10**-1.5, dtype=torch.float64)
    if brightness_scale is not None:
        signal = (brightness_scale * torch.randn(n, 1, dtype=torch.float64)).exp() * signal
    return PixelLikelihood.of(signal + noise * torch.randn_like(signal), endmembers, noise)


def log_posterior(log, mean_log, n):
    value = torch.as_tensor(np.exp(log))
    likelihood = value.sum(-1).lgamma() - value.lgamma().sum(-1) + (value * mean_log).sum(-1)
    return (n * likelihood - 0.5 * value.log().square().sum(-1)).numpy()


@pytest.mark.parametrize("brightness_scale", [None, 0.25])
def test_concentrations_are_recovered_from_any_start(brightness_scale):
    likelihood = simulated(brightness_scale)
    low, high = (learn_concentration(likelihood, torch.full((3,), start), brightness_scale) for start in (0.1, 10.0))
    assert ((low - TRUTH).abs() < ERRORS).all(), low
    torch.testing.assert_close(low, high, rtol=0.05, atol=0.0)


def test_negative_control_a_wrong_likelihood_is_found_out():
    likelihood = simulated()
    wrong = learn_concentration(likelihood._replace(linear=0.9 * likelihood.linear), torch.ones(3))
    assert ((wrong - TRUTH).abs() > ERRORS).any()


@pytest.mark.parametrize("n", [20, 1000])
def test_mode_is_that_of_a_general_optimiser(n):
    mean_log = mean_log_abundance(torch.distributions.Dirichlet(TRUTH).sample((n,)))
    found = optimize.minimize(lambda log: -log_posterior(log, mean_log, n) / n, np.zeros(3), tol=1e-12)
    np.testing.assert_allclose(_mode(torch.ones(3, dtype=torch.float64), mean_log, n), np.exp(found.x), rtol=1e-4)


@pytest.mark.parametrize("mean_log, bound", [(-1e3, LEAST), (np.log(0.5), MOST)])
def test_mode_keeps_to_its_bounds(mean_log, bound):
    statistics = torch.full((2,), mean_log, dtype=torch.float64)
    assert _mode(torch.ones(2, dtype=torch.float64), statistics, 1000).tolist() == pytest.approx([bound, bound])


def test_draws_are_those_of_integration():
    """Means and variances of both logarithms over 3000 draws, hardly dependent: five standard errors, one failure in 400,000."""
    n, mean_log = 40, torch.tensor([-1.5, -0.6], dtype=torch.float64)
    grid = np.stack(np.meshgrid(*2 * [np.linspace(np.log(LEAST), np.log(MOST), 801)], indexing="ij"), axis=-1)
    density = log_posterior(grid, mean_log, n)
    weight = np.exp(density - density.max())[..., None] / np.exp(density - density.max()).sum()
    mean = (weight * grid).sum((0, 1))
    variance = (weight * (grid - mean) ** 2).sum((0, 1))
    drawn, draws = torch.ones(2, dtype=torch.float64), []
    for _ in range(9000):
        drawn = draw_concentration(drawn, mean_log, n)
        draws.append(drawn.log())
    draws = torch.stack(draws[::3]).numpy()
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), 5 * np.sqrt(variance / 3000))
    np.testing.assert_array_less(np.abs(draws.var(0) / variance - 1), 5 * np.sqrt(2 / 3000))


def test_mean_logarithm_does_not_see_amplitude():
    x = torch.rand(20, 3, dtype=torch.float64)
    torch.testing.assert_close(mean_log_abundance(x), mean_log_abundance(torch.rand(20, 1, dtype=torch.float64) * x))


@pytest.mark.parametrize("start, iterations", [(torch.ones(2), 10), (torch.tensor([1.0, 0.0, 1.0]), 10), (torch.ones(3), 1)])
def test_arguments_that_make_no_sense_are_refused(start, iterations):
    with pytest.raises(InputError):
        learn_concentration(simulated(n=4), start, iterations=iterations)


# Of abundances that are known


def test_concentrations_of_known_abundances_are_recovered():
    """Of 20,000 draws, within five standard errors; the more draws the nearer. Negative control: other draws."""
    draws = torch.distributions.Dirichlet(TRUTH).sample((20_000,))
    torch.testing.assert_close(concentration_of(draws), TRUTH, rtol=0.03, atol=0.0)
    assert (concentration_of(draws[:50]) - TRUTH).abs().max() > (concentration_of(draws) - TRUTH).abs().max()
    other = torch.distributions.Dirichlet(torch.tensor([2.0, 0.3, 1.0]).double()).sample((20_000,))
    assert ((concentration_of(other) / TRUTH).log().abs() > 0.5).all()


def test_concentrations_of_known_abundances_are_the_mode_of_a_general_optimiser():
    draws = torch.distributions.Dirichlet(TRUTH).sample((200,))
    mean_log = mean_log_abundance(draws.clamp_min(1e-6))
    found = optimize.minimize(lambda log: -log_posterior(log, mean_log, 200) / 200, np.zeros(3), tol=1e-12)
    np.testing.assert_allclose(concentration_of(draws.float()), np.exp(found.x), rtol=1e-3)


@pytest.mark.parametrize("abundances, low, high", [
    (torch.eye(3).repeat(100, 1), 0.05, 0.12),  # nothing but pure pixels
    (torch.full((300, 3), 1 / 3), MOST, MOST),  # one mixture
    (torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]]).repeat(100, 1), LEAST, MOST),  # a material that is nowhere
], ids=["pure", "even", "absent"])
def test_zeros_do_not_break_it(abundances, low, high):
    found = concentration_of(abundances)
    assert found.isfinite().all() and (found >= low - 1e-9).all() and (found <= high + 1e-9).all()
