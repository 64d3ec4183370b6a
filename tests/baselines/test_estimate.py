"""Abundances that complete an extractor, against scipy pixel by pixel, and the summary of an estimate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from pyro_unmix.baselines.estimate import Estimate, with_fcls, with_nnls
from pyro_unmix.metrics import evaluate
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import simulate_scene


@pytest.fixture(scope="module")
def scene():
    """With brightness that varies, two masked pixels in a row, and dark pixels."""
    made = simulate_scene(4, (8, 9), n_bands=20, snr_db=20.0, concentration=0.3, brightness=0.3, seed=5)
    image = made.reflectance.values.copy()
    image[6, :3] *= 1e-4
    mask = np.ones((8, 9), bool)
    mask[2, 4:6] = False
    return Scene(image, mask=mask, abundances=made.reference.abundances.values, endmembers=made.reference.endmembers.values)


def true_endmembers(scene):
    return lambda pixels, n_endmembers, *, seed=0: scene.reference.endmembers.values.astype(np.float64)[:n_endmembers]


def fcls_by_scipy(pixel, endmembers):
    """The sum to one as an equation of much weight."""
    weight = 1e5
    return optimize.nnls(np.vstack([endmembers.T, np.full(len(endmembers), weight)]), np.append(pixel, weight))[0]


@pytest.mark.parametrize("k", [2, 3, 4])
def test_fcls_is_that_of_scipy(scene, k):
    estimate = with_fcls(true_endmembers(scene))(scene, k)
    expected = [fcls_by_scipy(pixel, estimate.endmembers) for pixel in scene.pixels().astype(np.float64)]
    np.testing.assert_allclose(estimate.abundances, expected, atol=1e-5)
    assert np.mean(np.array(expected) < 1e-9) > 0.05  # constraints bind


@pytest.mark.parametrize("k", [2, 3, 4])
def test_nnls_is_that_of_scipy(scene, k):
    estimate = with_nnls(true_endmembers(scene))(scene, k)
    expected = np.array([optimize.nnls(estimate.endmembers.T, pixel)[0] for pixel in scene.pixels().astype(np.float64)])
    np.testing.assert_allclose(estimate.abundances, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)


def test_only_nnls_does_not_see_brightness():
    scene = simulate_scene(3, (8, 8), n_bands=20, snr_db=200.0, brightness=0.3, seed=5)
    truth = scene.reference.abundances.values.reshape(-1, 3)
    np.testing.assert_allclose(with_nnls(true_endmembers(scene))(scene, 3).abundances, truth, atol=1e-4)
    assert np.abs(with_fcls(true_endmembers(scene))(scene, 3).abundances - truth).max() > 0.1


def test_a_pixel_that_no_endmember_explains_is_an_even_mixture(scene):
    image = scene.reflectance.values.copy()
    image[0, 0] = -image[0, 0]
    estimate = with_nnls(true_endmembers(scene))(Scene(image, mask=scene.mask.values), 4)
    np.testing.assert_array_equal(estimate.abundances[0], 0.25)
    np.testing.assert_allclose(estimate.abundances.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("complete", [with_fcls, with_nnls])
def test_extractor_gets_pixels_in_use_their_number_and_the_seed(scene, complete):
    def extract(pixels, n_endmembers, *, seed=0):
        np.testing.assert_array_equal(pixels, scene.pixels())
        assert (pixels.dtype, n_endmembers, seed) == (np.float64, 3, 7)
        return pixels[:3]

    estimate = complete(extract)(scene, 3, seed=7)
    np.testing.assert_array_equal(estimate.endmembers, scene.pixels()[:3])
    np.testing.assert_allclose(estimate.abundances[:3], np.eye(3), atol=1e-5)


def test_summary_puts_every_pixel_in_its_place(scene):
    estimate = Estimate(scene.reference.endmembers.values, scene.reference.abundances.values[scene.mask.values])
    summary = estimate.summary(scene)
    assert summary.abundance_mean.dims == ("y", "x", "endmember") and summary.endmember_mean.dims == ("endmember", "wavelength")
    np.testing.assert_array_equal(np.isnan(summary.abundance_mean).all("endmember"), ~scene.mask.values)
    np.testing.assert_array_equal(summary.abundance_mean.values[scene.mask.values], estimate.abundances)
    np.testing.assert_array_equal(summary.wavelength, scene.reflectance.wavelength)
    evaluation = evaluate(summary, scene.reference)
    assert evaluation.n_pixels == scene.n_pixels
    assert evaluation.rmse < 1e-6 and evaluation.sad < 1e-6
