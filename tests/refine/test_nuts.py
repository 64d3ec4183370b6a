"""Draws by NUTS against integration that needs no chain. Short chains of a fixed seed: what they may be off by is stated."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch

from pyro_unmix.errors import InputError
from pyro_unmix.model import UnmixingModel
from pyro_unmix.noise import DiagonalNoise, PixelBrightness
from pyro_unmix.numerics import seeded
from pyro_unmix.priors import Dirichlet, MVNEndmembers
from pyro_unmix.refine.nuts import nuts_joint, nuts_pixels
from pyro_unmix.scene import Scene

K, L = 3, 10
NOISE, BRIGHTNESS = 0.1, 0.3


def made():
    """Model, two pixels (mixed, and nearly pure), endmembers, noise: so much noise that the prior matters."""
    endmembers = 0.1 + 0.8 * torch.rand(K, L, dtype=torch.float64)
    pixels = torch.tensor([[0.5, 0.3, 0.2], [0.02, 0.0, 0.98]], dtype=torch.float64) @ endmembers
    return endmembers, pixels + NOISE * torch.randn(2, L, dtype=torch.float64), torch.full((L,), NOISE, dtype=torch.float64)


def model(endmembers, brightness="none", evidence=1.0):
    prior = MVNEndmembers(endmembers, 0.05 * torch.eye(endmembers.shape[1]))
    return UnmixingModel(len(endmembers), abundances=Dirichlet(2.0), endmembers=prior, brightness=brightness,
                         noise=DiagonalNoise(NOISE, 0.3), evidence=evidence)


def integrated(pixels, endmembers, noise, brightness):
    """Means and standard deviations `(n_pixels, K + 1)` of abundances and brightness, by a sum over a grid."""
    ticks = (torch.arange(80, dtype=torch.float64) + 0.5) / 80
    first, second = (each.reshape(-1) for each in torch.meshgrid(ticks, ticks, indexing="ij"))
    inside = first + second < 1
    abundances = torch.stack([first, second, 1 - first - second], dim=1)[inside]
    scale = torch.linspace(-4, 4, 41).double() * BRIGHTNESS if brightness else torch.zeros(1).double()
    points = torch.cat([abundances.repeat(len(scale), 1), scale.exp().repeat_interleave(len(abundances))[:, None]], dim=1)
    mixed = points[:, K:] * (points[:, :K] @ endmembers)
    log = (points[:, :K].log().sum(dim=1) - 0.5 * (points[:, K].log() / BRIGHTNESS) ** 2  # Dirichlet(2), log-normal in its log
           - 0.5 * ((pixels[:, None] - mixed) / noise).square().sum(dim=2))
    weights = log.softmax(dim=1)
    mean = weights @ points
    return mean, (weights @ points**2 - mean**2).clamp_min(0).sqrt()


@cache
def pixel_draws(brightness):
    with seeded(1):
        endmembers, pixels, noise = made()
        parts, pixels = (PixelBrightness(BRIGHTNESS), pixels[:1]) if brightness else ("none", pixels)
        return nuts_pixels(model(endmembers, parts), pixels, endmembers, noise, draws=100, warmup=60), (pixels, endmembers, noise)


def farthest(draws, exact):
    """Largest difference of means in posterior standard deviations, and largest ratio of standard deviations, either way."""
    mean, sd = exact
    return ((draws.mean(dim=0) - mean) / sd).abs().max().item(), (draws.std(dim=0) / sd).log().abs().max().exp().item()


@pytest.mark.parametrize("brightness", [False, pytest.param(True, marks=pytest.mark.statistical)])  # slow, both marked ones
def test_equals_integration(brightness):
    """100 draws of which half are effective: a mean is off by more than 0.45 sd in one chain of 700."""
    found, given = pixel_draws(brightness)
    assert found.abundances.shape == (100, len(given[0]), K) and found.abundances.dtype == torch.float64
    assert (found.brightness is None) != brightness and not found.divergences.any()
    draws = torch.cat([found.abundances, found.brightness[..., None]], dim=2) if brightness else found.abundances
    exact = [each[:, : draws.shape[2]] for each in integrated(*given, brightness)]
    shift, ratio = farthest(draws, exact)
    assert shift < 0.45 and ratio < 1.4
    torch.testing.assert_close(found.abundances.sum(dim=2), torch.ones_like(found.abundances[..., 0]))


def test_negative_control_another_noise_is_told_apart():
    found, (pixels, endmembers, noise) = pixel_draws(False)
    shift, ratio = farthest(found.abundances, [each[:, :K] for each in integrated(pixels, endmembers, noise / 2, False)])
    assert shift > 0.45 or ratio > 1.4


def test_same_seed_same_draws_and_the_model_stays_as_it_was():
    endmembers, pixels, noise = made()
    own, found = model(endmembers), []
    for _ in range(2):
        with seeded(3):
            found.append(nuts_pixels(own, pixels[:1], endmembers, noise, draws=4, warmup=3, progress=True).abundances)
    assert torch.equal(*found) and own.endmembers.mean.dtype == torch.float32


def weighted(pixels, prior_mean, n=20_000):
    """Means and standard deviations of the first of two abundances in every pixel, of endmembers and of noise, by draws from the
    prior weighted by how well they explain the pixels; abundances summed out on a grid."""
    endmembers = prior_mean + 0.05 * torch.randn(n, *prior_mean.shape, dtype=torch.float64)
    noise = (math.log(NOISE) + 0.3 * torch.randn(n, 1, prior_mean.shape[1], dtype=torch.float64)).exp()
    first = ((torch.arange(40, dtype=torch.float64) + 0.5) / 40)
    mixed = first[:, None] * endmembers[:, :1] + (1 - first)[:, None] * endmembers[:, 1:]
    log = [(-0.5 * ((pixel - mixed) / noise) ** 2 - noise.log()).sum(dim=2) + (first * (1 - first)).log() for pixel in pixels]
    weights = sum(each.logsumexp(dim=1) for each in log).softmax(dim=0)
    first_mean = torch.stack([weights @ (each.softmax(dim=1) @ first) for each in log])
    first_square = torch.stack([weights @ (each.softmax(dim=1) @ first**2) for each in log])
    numbers = torch.cat([endmembers.reshape(n, -1), noise.reshape(n, -1)], dim=1)
    mean, square = weights @ numbers, weights @ numbers**2
    return torch.cat([first_mean, mean]), (torch.cat([first_square, square]) - torch.cat([first_mean, mean]) ** 2).sqrt()


@pytest.mark.statistical
def test_joint_equals_weighted_draws_from_the_prior():
    """60 draws, most of them effective: one of the 14 numbers is off by more than 0.5 sd in one chain of 500."""
    prior_mean = torch.tensor([[0.2, 0.3, 0.5, 0.8], [0.6, 0.5, 0.3, 0.1]], dtype=torch.float64)
    scene = Scene((torch.tensor([[0.8, 0.2], [0.4, 0.6]]).double() @ (prior_mean + 0.05)
                   + 0.05 * torch.randn(2, 4, dtype=torch.float64)).numpy()[None])
    found = nuts_joint(model(prior_mean), scene, draws=60, warmup=50)
    assert found.endmembers.shape == (60, 2, 4) and found.brightness is None and found.divergences == 0
    draws = torch.cat([found.abundances[..., 0], found.endmembers.reshape(60, -1), found.noise_scale], dim=1)
    shift, ratio = farthest(draws, weighted(torch.as_tensor(scene.pixels()).double(), prior_mean))
    assert shift < 0.5 and ratio < 1.5


def test_what_cannot_be_drawn_is_refused():
    endmembers, pixels, noise = made()
    with pytest.raises(InputError, match="3 endmembers"):
        nuts_pixels(model(endmembers), pixels, endmembers[:2], noise)
    with pytest.raises(InputError, match="four draws"):
        nuts_pixels(model(endmembers), pixels, endmembers, noise, draws=1)
    with pytest.raises(InputError, match="open parts"):
        nuts_pixels(UnmixingModel(K), pixels, endmembers, noise)
    scene = Scene(np.random.default_rng(0).uniform(0.1, 1.0, (6, 6, L)))
    with pytest.raises(InputError, match="at most 30 pixels"):
        nuts_joint(model(endmembers), scene)
    with pytest.raises(InputError, match="evidence 1"):
        nuts_joint(model(endmembers, evidence=0.0), scene.crop(y=slice(2)))
