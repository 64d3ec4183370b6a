"""Simulated pairs: their truth is the truth, and training on them teaches the guide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import pyro_unmix as pu
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.numerics import seeded
from pyro_unmix.pairs import PosteriorScenes, simulated
from pyro_unmix.refine.shared import Shared

K, L = 3, 12


@pytest.fixture(scope="module")
def scene(holed_scene):
    return holed_scene


def bound(scene, encoder="cnn", **parts):
    prior = informed_endmembers(scene.reference.endmembers.values, scene, K)
    model, start = pu.initialize(pu.UnmixingModel(K, endmembers=prior, **parts), scene)
    return model, pu.UnmixingGuide(encoder).bind(start)


def sure(guide, noise=1e-5):
    """The guide with endmembers and noise all but known."""
    with torch.no_grad():
        guide.endmembers.log_scale.fill_(-20)
        guide.noise.loc.fill_(float(np.log(noise)))
        guide.noise.log_scale.fill_(-20)
    return guide


@pytest.mark.parametrize("brightness", ["none", "pixel"])
def test_truth_explains_the_simulated_spectra(scene, brightness):
    model, guide = bound(scene, brightness=brightness)
    sure(guide)
    tiles = pu.Tiling(scene, 8, guide.halo).batch([0, 5])
    made, abundances, factor = simulated(model, guide, tiles)
    assert abundances.shape == (len(tiles.pixels()), K) and (factor is None) == (brightness == "none")
    torch.testing.assert_close(abundances.sum(-1), torch.ones(len(abundances)))
    assert abundances.min() > 0 and not abundances.requires_grad
    mixed = abundances @ guide.endmembers().mean
    mixed = mixed if factor is None else factor[:, None] * mixed
    torch.testing.assert_close(made.pixels(), mixed, atol=2e-4, rtol=0)  # tells rows apart: pixels differ by far more
    assert (mixed[1:] - mixed[:-1]).abs().amax(-1).median() > 1e-2


def test_the_tiles_stay_what_they_were_but_for_their_spectra(scene):
    model, guide = bound(scene)
    tiles = pu.Tiling(scene, 8, guide.halo).batch([0, 1])
    made, *_ = simulated(model, guide, tiles)
    assert made.reflectance.shape == tiles.reflectance.shape and made.reflectance.dtype == tiles.reflectance.dtype
    assert torch.equal(made.core, tiles.core) and torch.equal(made.valid, tiles.valid)
    assert (made.scale, made.kl_weight) == (tiles.scale, tiles.kl_weight)
    maps = made.reflectance.movedim(1, -1)
    assert not maps[~tiles.valid].any() and maps[tiles.valid].abs().amin(-1).min() > 0  # context is simulated as well
    assert not torch.equal(made.pixels(), tiles.pixels())


def test_noise_has_the_scale_of_the_posterior(scene):
    """Standard deviation of 280 x 12 residuals within 5 %: four standard errors."""
    model, guide = bound(scene, brightness="none")
    sure(guide, noise=0.05)
    made, abundances, _ = simulated(model, guide, pu.whole(scene))
    residual = made.pixels() - abundances @ guide.endmembers().mean
    assert residual.std().item() == pytest.approx(0.05, rel=0.05)


def test_truth_varies_over_the_scene_as_the_guide_says(scene):
    """Mean of 200 simulations within five standard errors of the mean of q, in every pixel and endmember."""
    model, guide = bound(scene, "mlp")
    tiles = pu.Tiling(scene, 8).batch([0])
    q = guide.pixels(tiles)[0]
    draws = torch.stack([simulated(model, guide, tiles)[1] for _ in range(200)])
    errors = (draws.mean(0) - q.mean) / (q.variance / 200).sqrt()
    assert errors.abs().max() < 5 and errors.std().item() == pytest.approx(1.0, abs=0.2)


def test_training_on_pairs_teaches_the_guide(scene):
    """log q of fresh simulated truth rises, measured on the same 20 simulations before and after."""
    model, guide = bound(scene, "mlp")
    sure(guide, noise=0.02)
    tiles = pu.whole(scene)
    torch.manual_seed(0)
    fresh = [simulated(model, guide, tiles) for _ in range(20)]

    def score():
        with torch.no_grad():
            return torch.stack([guide.log_prob(*pair).mean() for pair in fresh])

    before = score()
    optimizer = torch.optim.Adam(guide.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = -guide.log_prob(*simulated(model, guide, tiles)).mean()
        loss.backward()
        optimizer.step()
    gain = score() - before
    assert gain.mean() > 5 * gain.std() / 20**0.5 and gain.mean() > 0.1
    # It is the pixels' part that learned; what all pixels share is left to the scene.
    assert guide.endmembers.shift.grad is None or not guide.endmembers.shift.grad.any()


# From exact draws


def known(scene, brightness, noise=0.01, n_draws=3, correlation=None):
    """Shared draws that hardly differ from the truth."""
    truth = torch.as_tensor(scene.reference.endmembers.values, dtype=torch.float64)
    endmembers = truth + 1e-3 * torch.randn(n_draws, *truth.shape, dtype=torch.float64)
    noise_scale = noise * (1.0 + torch.arange(L).double() / L).expand(n_draws, L)
    brightness_scale = torch.full((n_draws,), 0.2).double() if brightness else None
    return Shared(endmembers, noise_scale, torch.ones(n_draws, K).double(), brightness_scale, correlation)


def scenes_of(scene, *, brightness=True, seed=0, **options):
    tiling = pu.Tiling(scene, 8, 2)
    with seeded(seed):
        return PosteriorScenes(known(scene, brightness, **options), tiling, 2), tiling


@pytest.mark.parametrize("brightness", [True, False])
def test_pairs_of_exact_draws_are_mixtures_and_noise(scene, brightness):
    """Residuals of pairs, given the shared draw that fits them best, have the standard deviation of the noise in every band: over
    some 4000 pixels, within five standard errors. Negative control: the residuals of other truth."""
    scenes, _ = scenes_of(scene, brightness=brightness)
    residuals, strangers = [], []
    for _ in range(60):
        tiles, abundances, factor = scenes()
        assert abundances.shape == (len(tiles.pixels()), K) and (factor is None) == (not brightness)
        assert abundances.dtype == tiles.reflectance.dtype == torch.float32
        assert abundances.min() > 0
        torch.testing.assert_close(abundances.sum(-1), torch.ones(len(abundances)))
        mixed = abundances.double() @ scenes.shared.endmembers
        mixed = mixed if factor is None else factor.double()[:, None] * mixed
        apart = tiles.pixels() - mixed
        best = apart.square().sum((1, 2)).argmin()
        residuals.append(apart[best])
        strangers.append((tiles.pixels() - mixed.roll(1, dims=1))[best])
    residuals, strangers = torch.cat(residuals), torch.cat(strangers)
    scale = scenes.shared.noise_scale[0]
    assert ((residuals.std(0) / scale - 1).abs() < 5 / (2 * len(residuals)) ** 0.5).all()
    assert residuals.mean(0).abs().max() < 5 * scale.max() / len(residuals) ** 0.5
    assert (strangers.std(0) / scale).mean() > 2


def test_noise_of_pairs_correlates_as_that_of_the_scene(scene):
    """Correlations of residuals over some 2000 pixels, uncertain by .02. Negative control: without it there are none."""
    correlation = torch.linalg.cholesky(0.4 * torch.eye(L).double() + 0.6)
    off = ~torch.eye(L, dtype=torch.bool)
    for factor, expected in ((correlation, 0.6), (None, 0.0)):
        scenes, _ = scenes_of(scene, brightness=False, correlation=factor, n_draws=1)
        residuals = []
        for _ in range(30):
            tiles, abundances, _ = scenes()
            residuals.append(tiles.pixels().double() - abundances.double() @ scenes.shared.endmembers[0])
        assert (torch.corrcoef(torch.cat(residuals).T)[off] - expected).abs().max() < 0.1


def test_exact_draws_vary_over_the_scene_as_its_pixels_say(scene):
    """Means over the maps of a batch are near the truth, as its brightness is; truth of the pixels that count, context apart."""
    scenes, tiling = scenes_of(scene)
    truth = torch.as_tensor(scene.reference.endmembers.values, dtype=torch.float64)
    for tiles, number, abundances, brightness in scenes.batches:
        pixels = replace(tiles, core=tiles.valid).pixels().double()
        mean = (brightness[..., None] * (abundances @ truth.float())).mean(0)
        assert (mean - pixels).abs().mean() < 0.02 < (mean.roll(1, dims=0) - pixels).abs().mean()
        assert 0 <= number < len(scenes.shared) and len(abundances) == len(brightness)
    made, counted, _ = scenes()
    assert made.core.sum() == len(counted) < made.valid.sum()
    maps = made.reflectance.movedim(1, -1)
    assert not maps[~made.valid].any() and maps[made.valid].abs().amin(-1).min() > 0  # context is simulated as well


def test_the_same_seed_makes_the_same_scenes(scene):
    """And another others; every call makes a new one."""
    pairs = []
    for seed in (0, 0, 1):
        scenes, _ = scenes_of(scene, seed=seed)
        with seeded(seed):
            pairs.append((scenes(), scenes()))
    for one, other in zip(pairs[0], pairs[1], strict=True):
        assert torch.equal(one[0].reflectance, other[0].reflectance)
        assert all(torch.equal(part, twin) for part, twin in zip(one[1:], other[1:], strict=True))
    assert not torch.equal(pairs[0][0][0].reflectance, pairs[2][0][0].reflectance)
    assert not torch.equal(pairs[0][0][0].reflectance, pairs[0][1][0].reflectance)
