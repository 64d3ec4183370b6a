"""Draws of what pixels share: which models have them, what they are drawn around, and what a pixel is given one of them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_unmix as pu
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.noise import DiagonalNoise, LowRankNoise, SmoothNoise
from pyro_unmix.numerics import seeded
from pyro_unmix.priors import Dirichlet, MVNEndmembers, smooth_scale_tril
from pyro_unmix.refine.shared import Shared, draw_shared, is_exact

K, L = 3, 20
CONCENTRATION = (0.4, 1.0, 0.7)


@cache
def made(brightness: float = 0.0, shape: tuple[int, int] = (25, 20)):
    """A scene of white noise whose pixels are independent, and a prior of its endmembers whose mean is 0.02 of their size off."""
    scene = pu.simulate_scene(K, shape, n_bands=L, snr_db=30.0, concentration=np.array(CONCENTRATION), correlation_length=0.0,
                              brightness=brightness, seed=4)
    truth = scene.reference.endmembers.values.astype(np.float64)
    off = [0.02 * np.sqrt(np.mean(row**2)) * smooth_scale_tril(None, L, 1.0).double().numpy() @ noise
           for row, noise in zip(truth, np.random.default_rng(0).standard_normal((K, L)), strict=True)]
    return scene, informed_endmembers(truth + np.stack(off), scene, K, sd=0.02)


def drawn(scene, prior, seed=0, **options) -> Shared:
    abundances = options.pop("abundances", Dirichlet(1.0, learned=True))
    model, start = pu.initialize(pu.UnmixingModel(K, endmembers=prior, abundances=abundances), scene)
    with seeded(seed):
        return draw_shared(model, pu.UnmixingGuide("mlp").bind(start, exact=True), scene, **options)


@pytest.mark.parametrize("brightness", [0.0, 0.2])
def test_shapes_seeds_and_steps(brightness):
    scene, prior = made(brightness, (6, 7))
    steps: list[int] = []
    one, again, other = (drawn(scene, prior, seed, n_draws=5, steps=25, on_step=lambda: steps.append(1)) for seed in (0, 0, 1))
    assert len(one) == 5 and len(steps) == 3 * 25
    shapes = [None if part is None else tuple(part.shape) for part in vars(one).values()]
    assert shapes == [(5, K, L), (5, L), (5, K), (5,) if brightness else None, None]
    for part, twin, stranger in zip(*(vars(each).values() for each in (one, again, other)), strict=True):
        if part is not None:
            assert part.dtype == torch.float64 and torch.isfinite(part).all()
            assert torch.equal(part, twin) and not torch.equal(part, stranger)
    assert all((part > 0).all() for name, part in vars(one).items() if name != "endmembers" and part is not None)


@pytest.mark.parametrize("concentration, expected", [(0.5, [0.5] * K), ([0.3, 1.0, 2.0], [0.3, 1.0, 2.0])])
def test_a_known_concentration_is_kept(concentration, expected):
    """Negative control: it is drawn where the prior says so."""
    found = {learned: drawn(*made(shape=(6, 7)), n_draws=4, steps=8, abundances=Dirichlet(concentration, learned)).concentration
             for learned in (False, True)}
    torch.testing.assert_close(found[False], torch.tensor(expected).double().expand(4, K))
    assert (found[True].std(dim=0) > 0).all()


def test_noise_that_correlates_is_whitened():
    """A noise four times as large that all bands share says nothing where it is known to: draws are as near as without it, while
    taken for independent it moves the endmembers. Only one factor of the scales is learned."""
    scene, prior = made()
    random, factor = np.random.default_rng(0), np.linalg.cholesky(np.full((L, L), 0.95) + 0.05 * np.eye(L))
    clean = scene.reference.abundances.values @ scene.reference.endmembers.values
    noisy = pu.Scene(clean + 0.02 * random.standard_normal(clean.shape) @ factor.T)
    truth = torch.as_tensor(scene.reference.endmembers.values, dtype=torch.float64)
    wavelengths = 10.0 * np.arange(L)
    noise = {"known": SmoothNoise(length_scale=1e4, share=0.95, wavelengths=wavelengths), "independent": DiagonalNoise()}
    apart = {}
    for name, each in noise.items():
        model, start = pu.initialize(pu.UnmixingModel(K, endmembers=prior, brightness="none", noise=each), noisy)
        with seeded(0):
            shared = draw_shared(model, pu.UnmixingGuide("mlp").bind(start, exact=True), noisy, n_draws=30, steps=300)
        apart[name] = (shared.endmembers.mean(dim=0) - truth).norm()
        spread = (shared.noise_scale / shared.noise_scale[:, :1]).std(dim=0).max()
        assert (spread < 1e-6) == (name == "known") == (shared.noise_correlation is not None)
    assert apart["known"] < 0.7 * apart["independent"]


def test_draws_are_around_the_truth():
    """500 pixels, 300 steps. Concentrations within a third, noise within a tenth, endmembers nearer than their prior and within
    the spread of their draws: 60 numbers, of which 90 % intervals hold at least 70 %."""
    scene, prior = made()
    truth = torch.as_tensor(scene.reference.endmembers.values, dtype=torch.float64)
    shared = drawn(scene, prior, n_draws=60, steps=300)
    ratio = shared.concentration.mean(dim=0) / torch.tensor(CONCENTRATION)
    assert ((ratio > 2 / 3) & (ratio < 1.5)).all(), ratio
    abundances = torch.as_tensor(scene.reference.abundances.values, dtype=torch.float64).reshape(-1, K)
    residuals = torch.as_tensor(scene.pixels(), dtype=torch.float64) - abundances @ truth
    torch.testing.assert_close(shared.noise_scale.mean(), residuals.std(), rtol=0.1, atol=0.0)
    low, high = shared.endmembers.quantile(0.05, dim=0), shared.endmembers.quantile(0.95, dim=0)
    assert ((low < truth) & (truth < high)).double().mean() > 0.7
    assert (shared.endmembers.mean(dim=0) - truth).norm() < 0.6 * (prior.mean.double() - truth).norm()


def test_pixels_given_one_draw_are_those_of_quadrature():
    """Two endmembers: the mean of an abundance within five standard errors of an integral over a grid, in every pixel; negative
    control: the means given another draw."""
    endmembers = torch.rand(2, 2, L, dtype=torch.float64)
    shared = Shared(endmembers, torch.full((2, L), 0.2).double(), torch.tensor([[0.5, 1.5], [1.0, 1.0]]).double(), None)
    share = torch.rand(30, 1, dtype=torch.float64)
    pixels = share * endmembers[0, 0] + (1 - share) * endmembers[0, 1] + 0.2 * torch.randn(30, L, dtype=torch.float64)
    z = ((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000) ** 2  # finer at the pole
    spectra = z[:, None] * endmembers[0, 0] + (1 - z[:, None]) * endmembers[0, 1]
    log_density = -0.5 * ((pixels[:, None] - spectra) / 0.2).square().sum(-1) + dist.Beta(0.5, 1.5).log_prob(z) + 0.5 * z.log()
    exact = (log_density.softmax(-1) * z).sum(-1)

    def errors(number):
        found = shared.draw_pixels(number, pixels.float(), 2000)
        return (found.mean()[:, 0] - exact) / (found.sd()[:, 0] / found.effective().sqrt())

    assert errors(0).abs().max() < 5 and errors(1).abs().max() > 20


def test_brightness_of_pixels_comes_with_a_scale_of_it():
    parts = torch.rand(1, K, L, dtype=torch.float64), torch.full((1, L), 0.01).double(), torch.ones(1, K).double()
    pixels = 1.3 * (torch.full((40, K), 1 / 3).double() @ parts[0][0])
    lit, plain = (Shared(*parts, scale).draw_pixels(0, pixels, 50) for scale in (torch.tensor([0.2]).double(), None))
    assert plain.brightness is None and lit.brightness.shape == (50, 40)
    assert lit.brightness.mean().item() == pytest.approx(1.3, abs=0.05)
    torch.testing.assert_close(lit.abundances.sum(-1), torch.ones(50, 40).double())


class OwnNoise(DiagonalNoise):
    pass


class Bent(nn.Module):
    def forward(self, abundances, endmembers):
        return abundances @ endmembers


KERNELS = torch.stack([smooth_scale_tril(None, L, 0.1, length_scale=length) for length in (50.0, 100.0, 200.0)])


@pytest.mark.parametrize("parts, exact", [
    ({}, True), ({"abundances": Dirichlet(0.3)}, True), ({"abundances": Dirichlet([0.3, 1.0, 2.0])}, True),
    ({"brightness": "pixel"}, True), ({"brightness": "none"}, True), ({"noise": DiagonalNoise(spread=0.5)}, True),
    ({"endmembers": MVNEndmembers(torch.rand(K, L), smooth_scale_tril(None, L, 0.1))}, True),
    ({"endmembers": MVNEndmembers(torch.rand(K, L), torch.tensor([1.0, 2.0, 3.0])[:, None, None] * KERNELS[0])}, True),
    ({"endmembers": MVNEndmembers(torch.rand(K, L), KERNELS)}, False),
    ({"endmembers": lambda k, n_bands: dist.Normal(torch.full((k, n_bands), 0.5), 0.2).to_event(2)}, False),
    ({"abundances": dist.Dirichlet(torch.ones(K))}, False), ({"abundances": lambda k: dist.Dirichlet(torch.ones(k))}, False),
    ({"noise": SmoothNoise()}, True),
    ({"noise": LowRankNoise(loadings=torch.rand(2, L))}, True), ({"noise": OwnNoise()}, False), ({"mixing": Bent()}, False),
])
def test_which_models_have_exact_draws(parts, exact):
    scene, prior = made(shape=(6, 7))
    model = pu.UnmixingModel(K, **{"endmembers": prior, **parts})
    assert is_exact(pu.initialize(model, scene)[0]) == exact


def test_a_default_model_is_exact_once_a_scene_fills_it():
    scene = made(shape=(6, 7))[0]
    assert not is_exact(pu.UnmixingModel(K)) and is_exact(pu.initialize(pu.UnmixingModel(K), scene)[0])
