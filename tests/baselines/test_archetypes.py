"""Archetypes: found where there are pure pixels, and whatever the order of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize

from pyro_unmix.baselines import archetypes as module
from pyro_unmix.baselines.archetypes import archetypes, residuals, restarts
from pyro_unmix.baselines.fcls import fcls
from pyro_unmix.metrics import spectral_angle
from pyro_unmix.simulate import absorption_spectra, simulate_scene


def unit(pixels):
    return pixels / np.linalg.norm(pixels, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def shapes():
    """400 noisy pixels of three materials, each divided by its norm."""
    scene = simulate_scene(3, (20, 20), n_bands=30, concentration=0.3, snr_db=30, seed=1)
    return unit(scene.pixels().astype(np.float64))


@pytest.mark.parametrize("k, angle", [(3, 0.02), (4, 0.05)])
def test_pure_pixels_without_noise_are_found(k, angle):
    """Nearly: entropic descent stops a little inside the hull of the pixels."""
    random = np.random.default_rng(k)
    endmembers = absorption_spectra(k, np.linspace(400, 2500, 40), seed=k)
    pixels = np.concatenate([random.dirichlet(np.full(k, 0.2), 300) @ endmembers, np.repeat(endmembers, 5, axis=0)])
    found = archetypes(unit(pixels), k)
    angles = spectral_angle(found[:, None], endmembers[None])
    assert set(angles.argmin(axis=0)) == set(range(k)) and angles.min(axis=0).max() < angle


def assert_order_does_not_matter(shapes, k):
    found = archetypes(shapes, k)
    for order in (np.arange(len(shapes))[::-1], np.random.default_rng(0).permutation(len(shapes))):
        np.testing.assert_allclose(archetypes(shapes[order], k), found, rtol=0, atol=1e-6)
    return found


@pytest.mark.parametrize("n_pixels", [2000, 150], ids=["all", "some"])
def test_the_order_of_the_pixels_does_not_matter(monkeypatch, shapes, n_pixels):
    monkeypatch.setattr(module, "_SAMPLE", n_pixels)
    assert_order_does_not_matter(shapes, 3)


def test_nor_where_the_first_bands_are_empty(monkeypatch, shapes):
    """Sensors deliver such bands; ordering pixels by them alone orders nothing."""
    empty = shapes.copy()
    empty[:, :5] = 0.0
    monkeypatch.setattr(module, "_SAMPLE", 150)
    assert_order_does_not_matter(empty, 3)


def test_nor_where_pixels_repeat(monkeypatch, shapes):
    monkeypatch.setattr(module, "_SAMPLE", 150)
    assert_order_does_not_matter(np.repeat(shapes[:50], 4, axis=0), 3)


def test_another_choice_of_pixels_gives_another_answer(shapes):
    """The negative control of the order: what is drawn does matter."""
    one, other = (archetypes(shapes[half], 3) for half in (slice(0, 200), slice(200, 400)))
    assert np.abs(one - other).max() > 1e-3


def test_same_seed_same_answer(shapes):
    first, again, other = (archetypes(shapes, 3, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6


def test_random_numbers_outside_are_left_alone(shapes):
    torch.manual_seed(1)
    undisturbed = torch.rand(3)
    torch.manual_seed(1)
    archetypes(shapes, 3)
    torch.testing.assert_close(torch.rand(3), undisturbed, rtol=0, atol=0)


def test_archetypes_are_mixtures_of_pixels(shapes):
    found = archetypes(shapes, 3)
    assert found.shape == (3, 30) and found.dtype == np.float64
    weights = fcls(torch.as_tensor(found), torch.as_tensor(shapes), iterations=3000).numpy()
    np.testing.assert_allclose(weights @ shapes, found, rtol=0, atol=2e-3)


def test_single_precision_is_taken(shapes):
    found = archetypes(shapes.astype(np.float32), 3)
    assert spectral_angle(found[:, None], archetypes(shapes, 3)[None]).min(axis=0).max() < 0.05


def test_fewer_pixels_than_directions():
    few = unit(np.random.default_rng(0).uniform(0.1, 0.9, (5, 30)))
    assert np.isfinite(archetypes(few, 4)).all()
    assert np.isfinite(archetypes(few[:, :2], 2)).all()


def test_of_many_restarts_those_go_on_that_fit(shapes):
    """Better than as many picked blindly: the mean residual of the best is no larger than that of the first ones."""
    kept, few = restarts(shapes, 3, 24, keep=6, seed=1), restarts(shapes, 3, 6, seed=1)
    assert kept.shape == few.shape == (6, 3, 30)
    assert residuals(shapes, kept).mean() <= residuals(shapes, few).mean()


def test_residuals_are_distances_from_the_cone(shapes):
    endmembers = shapes[[0, 100, 200]]
    found = residuals(shapes, endmembers[None])[0]
    expected = [optimize.nnls(endmembers.T, pixel)[1] for pixel in shapes]
    np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=0, atol=1e-4)
