"""Least squares: what the free estimate scatters by is what its covariance says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_unmix.least_squares import constrained, in_few_coordinates, least_squares

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


@pytest.mark.parametrize("brightness", [True, False])
@pytest.mark.parametrize("correlated", [True, False])
@pytest.mark.parametrize("n_directions, apart", [(4, 0.1), (2, 0.0), (L - 1, 0.1)],
                         ids=["few", "endmembers in the space of the pixels", "as many as bands"])
def test_few_coordinates_say_what_all_bands_say(endmembers, brightness, correlated, n_directions, apart):
    """Also where directions and endmembers depend on each other."""
    torch.manual_seed(0)
    directions = torch.linalg.qr(torch.cat([endmembers - endmembers.mean(dim=0), torch.randn(L, L)]).T).Q.T[:n_directions]
    mean, coordinates = endmembers.mean(dim=0), 0.3 * torch.randn(200, n_directions)
    endmembers = endmembers + apart * torch.rand(K, L)
    noise = torch.linspace(0.005, 0.03, L)
    if correlated:
        noise = noise[:, None] * torch.linalg.cholesky(0.5 ** (torch.arange(L)[:, None] - torch.arange(L)).abs())
    expected = least_squares(mean + coordinates @ directions, endmembers, noise, brightness=brightness)
    few = in_few_coordinates(coordinates, mean, directions, endmembers, noise)
    assert few[0].shape[1] == few[1].shape[1] == len(few[2]) == min(n_directions + 1 + K, L)
    found = least_squares(*few, brightness=brightness)
    for name, one, other in zip(found._fields, found, expected, strict=True):
        torch.testing.assert_close(one.to(other), other, rtol=1e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")
    # Negative control: taken for the noise of as many bands, what is left of it is noticed.
    wrong = least_squares(*few[:2], few[2].diagonal(), brightness=brightness)
    assert ((wrong.covariance - expected.covariance).abs() / expected.covariance.abs().amax()).max() > 0.02
