"""Noise that correlates between bands is found, and nothing else is taken for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from pyro_unmix.noise import DiagonalNoise, SmoothNoise, smooth_correlation
from pyro_unmix.noise_structure import band_correlation, neighbour_correlation, smooth_noise
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import absorption_spectra

K, L, SIDE, SD = 4, 60, 24, 0.01
WAVELENGTHS = np.linspace(400.0, 2500.0, L)
LENGTH, SHARE = 150.0, 0.9


def scene_of(noise: np.ndarray, n_endmembers: int = K) -> Scene:
    """Independent pixels of `n_endmembers` with `noise` `(SIDE^2, L)`."""
    random = np.random.default_rng(0)
    mixed = random.dirichlet(np.ones(n_endmembers), SIDE**2) @ absorption_spectra(n_endmembers, WAVELENGTHS, random)
    return Scene((mixed + noise).reshape(SIDE, SIDE, L), wavelengths=WAVELENGTHS)


def white(seed: int = 1) -> np.ndarray:
    return SD * np.random.default_rng(seed).standard_normal((SIDE**2, L))


def smooth(seed: int = 1) -> np.ndarray:
    correlation = smooth_correlation(torch.as_tensor(WAVELENGTHS), LENGTH).numpy()
    return white(seed) @ np.linalg.cholesky(SHARE * correlation + (1 - SHARE) * np.eye(L)).T


def test_smooth_noise_is_found_as_it_was_made():
    """576 pixels tell its length and its scale within a tenth."""
    found = smooth_noise(scene_of(smooth()), K)
    assert isinstance(found, SmoothNoise)
    assert found.settings["length_scale"] == pytest.approx(LENGTH, rel=0.1)
    assert found.settings["share"] == pytest.approx(SHARE, abs=0.02)
    np.testing.assert_allclose(found.scale, SD, rtol=0.15)


def together() -> np.ndarray:
    noise = ndimage.gaussian_filter(smooth().reshape(SIDE, SIDE, L), (1, 1, 0))
    return SD * noise.reshape(-1, L) / noise.std()


@pytest.mark.parametrize("scene", [scene_of(white()), scene_of(together()), scene_of(white(), K + 1), scene_of(smooth(), K + 1)],
                         ids=["white", "neighbours err together", "an endmember missing", "and smooth noise"])
def test_nothing_else_is_taken_for_it(scene):
    assert smooth_noise(scene, K) is None


@pytest.mark.parametrize("wavelengths", [None, np.full(L, 500.0)])
def test_wavelengths_that_say_nothing_are_done_without(wavelengths):
    scene = Scene(scene_of(smooth()).reflectance.values, wavelengths=wavelengths)
    assert isinstance(smooth_noise(scene, K), SmoothNoise)


def test_too_few_pixels_or_bands_say_nothing():
    values = scene_of(smooth()).reflectance.values
    assert smooth_noise(Scene(values[:2]), K) is None and smooth_noise(Scene(values[..., :10]), K) is None


def test_a_correlation_is_believed_where_pixels_err_independently():
    noise = SmoothNoise(SD, LENGTH, SHARE, WAVELENGTHS)
    factor = band_correlation(noise, scene_of(smooth()), K)
    covariance = SHARE * smooth_correlation(torch.as_tensor(WAVELENGTHS), LENGTH) + (1 - SHARE) * torch.eye(L)
    torch.testing.assert_close(factor @ factor.T, covariance, rtol=1e-6, atol=1e-6)
    assert band_correlation(noise, scene_of(together()), K) is None
    assert band_correlation(DiagonalNoise(SD), scene_of(smooth()), K) is None


def test_neighbours_are_those_in_use_that_touch():
    """Pixels alike along rows and opposite along columns cancel; without the columns they are all alike."""
    stripes = np.where(np.arange(6) % 2, 1.0, -1.0)[:, None, None] * np.ones((6, 6, 3))
    mask = np.ones((6, 6), bool)
    assert neighbour_correlation(stripes[mask], mask) == pytest.approx(0.0)
    mask[1::2] = False
    assert neighbour_correlation(stripes[mask], mask) == pytest.approx(1.0)
    assert neighbour_correlation(np.zeros((0, 3)), np.zeros((6, 6), bool)) == 0.0
