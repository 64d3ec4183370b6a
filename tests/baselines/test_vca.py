"""Vertex component analysis: both projections, brightness, and dark pixels."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_unmix.baselines import vca as module
from pyro_unmix.baselines.spa import spa
from pyro_unmix.baselines.vca import vca
from pyro_unmix.metrics import match, spectral_angle
from pyro_unmix.simulate import absorption_spectra

ENDMEMBERS = absorption_spectra(4, np.linspace(400, 2500, 50), seed=2)


def pixels(noise, brightness=0.0, n_pixels=1000):
    random = np.random.default_rng(0)
    pure = np.vstack([random.dirichlet(np.full(4, 0.3), n_pixels), np.repeat(np.eye(4), 5, axis=0)]) @ ENDMEMBERS
    return np.exp(brightness * random.standard_normal((len(pure), 1))) * pure + noise * random.standard_normal(pure.shape)


def worst_angle(found):
    return spectral_angle(found[match(found, ENDMEMBERS)], ENDMEMBERS).max()


@pytest.mark.parametrize("noise, angle", [(0.001, 0.01), (0.01, 0.06), (0.1, 0.35)])
def test_endmembers_are_found_in_noise(noise, angle):
    assert max(worst_angle(vca(pixels(noise), 4, seed=seed)) for seed in range(5)) < angle


def test_much_noise_takes_the_affine_subspace():
    """With little noise the endmembers lie in the k strongest directions of the pixels, with much in k - 1 around the mean."""
    for noise, affine in [(0.001, False), (0.1, True)]:
        data = pixels(noise)
        centre = data.mean(axis=0) * affine
        found = vca(data, 4) - centre
        basis = np.linalg.svd(data - centre, full_matrices=False)[2][: 4 - affine]
        np.testing.assert_allclose(found @ basis.T @ basis, found, rtol=0, atol=1e-9)


def test_brightness_is_taken_out():
    bright = pixels(0.0, brightness=0.5)
    assert worst_angle(vca(bright, 4)) < 1e-6
    assert worst_angle(vca(0.02 * bright, 4)) < 1e-6


def test_dark_pixels_are_no_endmembers(monkeypatch):
    """Shadow and sensor noise: divided by their brightness they would lie farther out than anything."""
    random = np.random.default_rng(1)
    dark = np.vstack([pixels(0.002), 0.002 * random.standard_normal((200, 50)), np.zeros((20, 50))])
    assert worst_angle(vca(dark, 4)) < 0.02
    monkeypatch.setattr(module, "_LEAST_BRIGHTNESS", 1e-9)
    assert worst_angle(vca(dark, 4)) > 0.2


def test_same_seed_same_answer():
    data = pixels(0.02)
    np.testing.assert_array_equal(vca(data, 4, seed=3), vca(data, 4, seed=3))
    assert any(np.abs(vca(data, 4, seed=3) - vca(data, 4, seed=seed)).max() > 1e-6 for seed in range(3))


def test_less_moved_by_noise_than_successive_projection():
    """The projection on the signal subspace is what it is for."""
    data = pixels(0.05)
    assert worst_angle(vca(data, 4)) < worst_angle(spa(data, 4))
