"""Simulated pairs: their truth is the truth, and training on them teaches the guide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyro_unmix as pu
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.transfer import simulated

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
