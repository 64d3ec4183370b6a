"""Least squares: what the free estimate scatters by is what its covariance says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_unmix.least_squares import constrained, least_squares

K, L, N = 3, 12, 20_000


@pytest.fixture
def endmembers():
    return torch.as_tensor(np.random.default_rng(0).uniform(0.1, 0.9, (K, L)), dtype=torch.float32)


@pytest.mark.parametrize("brightness", [True, False])
def test_lies_on_the_simplex_and_explains_clean_pixels(endmembers, brightness):
    truth = torch.as_tensor(np.random.default_rng(1).dirichlet(np.ones(K), 50), dtype=torch.float32)
    factor = torch.linspace(0.5, 1.5, 50) if brightness else torch.ones(50)
    estimate = least_squares(factor[:, None] * truth @ endmembers, endmembers, torch.full((L,), 0.01), brightness=brightness)
    torch.testing.assert_close(estimate.abundances, truth, atol=1e-3, rtol=0)
    torch.testing.assert_close(estimate.free, truth, atol=1e-4, rtol=0)
    torch.testing.assert_close(estimate.brightness, factor, atol=1e-3, rtol=0)
    dark, nothing = constrained(torch.zeros(2, L), endmembers, brightness)
    torch.testing.assert_close(dark.sum(-1), torch.ones(2))
    assert (nothing > 0).all() and (dark >= 0).all()


@pytest.mark.parametrize("brightness", [True, False])
def test_scatters_as_it_says(endmembers, brightness):
    """Over 20,000 pixels that differ in their noise alone: variances within 5 % (1 % is one standard error), means within five
    standard errors."""
    truth = torch.tensor([0.5, 0.48, 0.02])
    noise_scale = torch.linspace(0.005, 0.03, L)
    pixels = (0.8 if brightness else 1.0) * truth @ endmembers + noise_scale * torch.randn(N, L)
    estimate = least_squares(pixels, endmembers, noise_scale, brightness=brightness)
    found = estimate.free.T.cov()
    said = estimate.covariance.mean(dim=0)
    np.testing.assert_allclose(found.diagonal(), said.diagonal(), rtol=0.05)
    np.testing.assert_allclose(found, said, atol=0.05 * said.max())
    assert ((estimate.free.mean(dim=0) - truth).abs() < 5 * (said.diagonal() / N).sqrt() + 1e-3).all()
    torch.testing.assert_close(said.sum(dim=0), torch.zeros(K), atol=1e-6, rtol=0)
    assert (estimate.free < 0).any()  # not kept from it


def test_two_endmembers_of_one_spectrum_break_nothing(endmembers):
    twins = torch.cat([endmembers, endmembers[:1]])
    estimate = least_squares(torch.rand(5, L), twins, torch.full((L,), 0.01), brightness=True)
    assert all(torch.isfinite(part).all() for part in estimate)
