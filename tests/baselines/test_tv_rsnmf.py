"""Factorisation with total variation: the denoising against exact answers, and what the whole must and must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from pyro_unmix.baselines.estimate import with_fcls
from pyro_unmix.baselines.tv_rsnmf import TotalVariation, tv_rsnmf
from pyro_unmix.baselines.vca import vca
from pyro_unmix.errors import InputError
from pyro_unmix.io import open_scene
from pyro_unmix.metrics import evaluate, rmse
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import simulate_scene

MASK = np.ones((6, 5), bool)
MASK[2:4, 1:3] = False


@pytest.fixture(scope="module")
def noisy_scene():
    return simulate_scene(3, (20, 24), n_bands=30, snr_db=20.0, concentration=0.3, correlation_length=4.0, seed=1)


def test_two_pixels_are_drawn_together_by_the_weight():
    found = TotalVariation(np.ones((1, 2), bool), 0.1)(np.array([[0.0, 0.0], [1.0, 0.15]]), iterations=200)
    np.testing.assert_allclose(found, [[0.1, 0.075], [0.9, 0.075]], atol=1e-9)


@pytest.mark.parametrize("mask", [np.ones((6, 5), bool), MASK], ids=["whole", "holed"])
def test_denoising_finds_the_minimum(mask):
    noisy = np.random.default_rng(0).random(mask.sum())
    down, right = mask[1:] & mask[:-1], mask[:, 1:] & mask[:, :-1]

    def cost(values, rounding=0.0):
        image = np.zeros(mask.shape)
        image[mask] = values
        squares = np.zeros(mask.shape)
        squares[:-1] += (np.diff(image, axis=0) * down) ** 2
        squares[:, :-1] += (np.diff(image, axis=1) * right) ** 2
        return 0.5 * ((values - noisy) ** 2).sum() + 0.2 * np.sqrt(squares + rounding).sum()

    found = TotalVariation(mask, 0.2)(noisy[:, None], iterations=2000)[:, 0]
    exact = optimize.minimize(cost, noisy, args=(1e-8,), options={"maxiter": 3000}).x
    assert cost(found) <= cost(exact) + 1e-6
    np.testing.assert_allclose(found, exact, atol=0.01)


def test_denoising_goes_on_where_it_ended():
    noisy = np.random.default_rng(0).random((30, 2))
    exact = TotalVariation(np.ones((6, 5), bool), 0.2)(noisy, iterations=3000)
    stepwise, at_once = (TotalVariation(np.ones((6, 5), bool), 0.2) for _ in range(2))
    for _ in range(100):
        found = stepwise(noisy, iterations=3)
    assert np.abs(found - exact).max() < 0.02 * np.abs(at_once(noisy, iterations=3) - exact).max()


def test_it_is_closer_to_the_truth_than_where_it_starts(noisy_scene):
    ours, start = (evaluate(method(noisy_scene, 3).summary(noisy_scene), noisy_scene.reference)
                   for method in (tv_rsnmf, with_fcls(vca)))
    assert ours.rmse < 0.9 * start.rmse and ours.sad < 0.9 * start.sad


def test_without_noise_nothing_but_the_bias_of_its_sparsity_is_left():
    made = simulate_scene(3, (20, 20), n_bands=30, snr_db=200.0, concentration=0.3, seed=2)
    image = made.reflectance.values.copy()
    image[0, :3] = made.reference.endmembers.values
    scene = Scene(image, endmembers=made.reference.endmembers.values)
    assert evaluate(tv_rsnmf(scene, 3).summary(scene), scene.reference).sad < 0.02


def test_abundances_are_on_the_simplex(holed_scene):
    endmembers, abundances = tv_rsnmf(holed_scene, 3)
    assert (endmembers >= 0).all() and (abundances >= 0).all()
    np.testing.assert_allclose(abundances.sum(axis=1), 1.0, atol=1e-9)
    assert abundances.shape == (holed_scene.n_pixels, 3) and endmembers.shape == (3, 12)


def test_transposing_the_scene_transposes_the_answer(holed_scene):
    turned = Scene(holed_scene.reflectance.values.swapaxes(0, 1), mask=holed_scene.mask.values.T)
    one, other = tv_rsnmf(holed_scene, 3), tv_rsnmf(turned, 3).summary(turned)
    expected = one.summary(holed_scene).abundance_mean.values.swapaxes(0, 1)
    np.testing.assert_allclose(other.abundance_mean, expected, atol=1e-6)
    np.testing.assert_allclose(other.endmember_mean, one.endmembers, atol=1e-6)


def test_shuffling_the_pixels_changes_the_answer(noisy_scene):
    order = np.random.default_rng(0).permutation(noisy_scene.n_pixels)
    shuffled = Scene(noisy_scene.pixels()[order].reshape(noisy_scene.shape))
    assert rmse(tv_rsnmf(shuffled, 3).abundances, tv_rsnmf(noisy_scene, 3).abundances[order]) > 0.005


def test_masked_pixels_take_no_part(noisy_scene):
    mask = np.ones(noisy_scene.shape[:2], bool)
    mask[5:14, 7:11] = False
    image = noisy_scene.reflectance.values.copy()
    expected = tv_rsnmf(Scene(image, mask=mask), 3)
    image[~mask] = 50.0
    for one, other in zip(tv_rsnmf(Scene(image, mask=mask), 3), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_unit_of_the_pixels_does_not_matter(small_scene):
    one, other = tv_rsnmf(small_scene, 3), tv_rsnmf(Scene(4 * small_scene.reflectance.values), 3)
    np.testing.assert_allclose(other.endmembers, 4 * one.endmembers, rtol=1e-9)
    np.testing.assert_allclose(other.abundances, one.abundances, atol=1e-9)


@pytest.mark.filterwarnings("ignore::pyro_unmix.errors.UnmixWarning")
def test_more_endmembers_than_directions_are_refused():
    with pytest.raises(InputError, match="endmember"):
        tv_rsnmf(Scene(np.ones((12, 12, 5)) * [0.3, 0.2, 0.2, 0.2, 0.2]), 3)


def test_a_real_scene(real_data):
    scene = open_scene(real_data / "jasper_ridge.npz").crop(slice(0, 30), slice(20, 50))
    ours, start = (e.abundances @ e.endmembers for e in (tv_rsnmf(scene, 4), with_fcls(vca)(scene, 4)))
    assert rmse(ours, scene.pixels()) < 0.7 * rmse(start, scene.pixels())
