"""Group-sparse factorisation: what it must not depend on, what it must, and its descent against an exact solver."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from pyro_unmix.baselines.estimate import with_fcls
from pyro_unmix.baselines.sgsnmf import _fit_abundances, sgsnmf, superpixels
from pyro_unmix.baselines.vca import vca
from pyro_unmix.errors import InputError
from pyro_unmix.io import open_scene
from pyro_unmix.metrics import evaluate, rmse
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import absorption_spectra

WAVELENGTHS = np.linspace(400, 2500, 40)


def patches(noise=0.03, shape=(30, 24), k=3):
    """Fields of 6 x 6 pixels of one material and a few of mixtures, with their truth."""
    random = np.random.default_rng(0)
    endmembers = absorption_spectra(k, WAVELENGTHS, seed=4)
    fields = random.dirichlet(np.full(k, 0.2), (-(-shape[0] // 6), -(-shape[1] // 6)))
    fields[0, :k] = np.eye(k)
    abundances = np.kron(fields, np.ones((6, 6, 1)))[: shape[0], : shape[1]]
    image = abundances @ endmembers + noise * random.standard_normal((*shape, len(WAVELENGTHS)))
    return Scene(image, abundances=abundances, endmembers=endmembers)


def transposed(scene):
    return Scene(scene.reflectance.values.swapaxes(0, 1), mask=scene.mask.values.T)


def test_it_is_closer_to_the_truth_than_where_it_starts():
    scene = patches(noise=0.06)
    ours, start = (evaluate(method(scene, 3).summary(scene), scene.reference) for method in (sgsnmf, with_fcls(vca)))
    assert ours.rmse < 0.7 * start.rmse and ours.sad < 0.5 * start.sad


def test_without_noise_nothing_but_the_bias_of_its_sparsity_is_left():
    scene = patches(noise=0.0)
    found = evaluate(sgsnmf(scene, 3).summary(scene), scene.reference)
    assert found.sad < 0.025 and found.rmse < 0.065


def test_abundances_are_on_the_simplex(holed_scene):
    endmembers, abundances = sgsnmf(holed_scene, 3)
    assert (endmembers >= 0).all() and (abundances >= 0).all()
    np.testing.assert_allclose(abundances.sum(axis=1), 1.0, atol=1e-9)
    assert abundances.shape == (holed_scene.n_pixels, 3) and endmembers.shape == (3, 12)


def test_transposing_the_scene_transposes_the_answer(holed_scene):
    one, other = sgsnmf(holed_scene, 3), transposed(holed_scene)
    other = sgsnmf(other, 3).summary(other)
    expected = one.summary(holed_scene).abundance_mean.values.swapaxes(0, 1)
    np.testing.assert_allclose(other.abundance_mean, expected, atol=1e-6)
    np.testing.assert_allclose(other.endmember_mean, one.endmembers, atol=1e-6)


def test_shuffling_the_pixels_changes_the_answer():
    scene = patches()
    order = np.random.default_rng(0).permutation(scene.n_pixels)
    shuffled = Scene(scene.pixels()[order].reshape(scene.shape))
    assert rmse(sgsnmf(shuffled, 3).abundances, sgsnmf(scene, 3).abundances[order]) > 0.005


def test_masked_pixels_take_no_part():
    scene = patches()
    mask = np.ones(scene.shape[:2], bool)
    mask[5:14, 7:11] = False
    image = scene.reflectance.values.copy()
    expected = sgsnmf(Scene(image, mask=mask), 3)
    image[~mask] = 50.0
    for one, other in zip(sgsnmf(Scene(image, mask=mask), 3), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_unit_of_the_pixels_does_not_matter(small_scene):
    one, other = sgsnmf(small_scene, 3), sgsnmf(Scene(4 * small_scene.reflectance.values), 3)
    np.testing.assert_allclose(other.endmembers, 4 * one.endmembers, rtol=1e-9)
    np.testing.assert_allclose(other.abundances, one.abundances, atol=1e-9)


@pytest.mark.parametrize("image", [np.ones((12, 12, 5)), -1 - np.arange(500.0).reshape(10, 10, 5)], ids=["constant", "negative"])
@pytest.mark.filterwarnings("ignore::pyro_unmix.errors.UnmixWarning")
def test_more_endmembers_than_directions_are_refused(image):
    image[..., 0] += 0.1  # a pixel of one value in all bands would be masked
    with pytest.raises(InputError, match="endmember"):
        sgsnmf(Scene(image), 3)


def test_dark_pixels_are_unmixed_too(small_scene):
    image = small_scene.reflectance.values.copy()
    image[3:5, 3:5] = 1e-9 * np.arange(30)
    assert np.isfinite(sgsnmf(Scene(image), 3).abundances).all()


def test_superpixels_keep_to_edges():
    spectra = absorption_spectra(2, WAVELENGTHS, seed=0)
    left = np.arange(24) < 10  # not where the cells of the starting grid end
    image = np.where(left[None, :, None], spectra[0], spectra[1]) * np.ones((18, 1, 1))
    labels, confidence = superpixels(image.reshape(-1, 40), np.ones((18, 24), bool))
    labels = labels.reshape(18, 24)
    assert not set(labels[:, left].ravel()) & set(labels[:, ~left].ravel())
    assert 6 <= labels.max() + 1 <= 12 and set(np.unique(labels)) == set(range(labels.max() + 1))
    assert confidence.min() > 0 and confidence.max() == pytest.approx(10.0)


def test_the_descent_finds_the_group_sparse_minimum():
    random = np.random.default_rng(1)
    endmembers = absorption_spectra(3, WAVELENGTHS, seed=1)
    pixels = random.dirichlet(np.ones(3), 5) @ endmembers + 0.05 * random.standard_normal((5, 40))
    weights, sparsity = random.uniform(0.1, 1.0, (5, 3)), random.uniform(0.3, 1.0, 5)
    found = np.full((5, 3), 1 / 3)
    for _ in range(40):
        found = _fit_abundances(pixels, endmembers, found, weights, sparsity)

    def cost(z, n):
        return (0.5 * ((pixels[n] - z @ endmembers) ** 2).sum() + 0.5 * 15**2 * (1 - z.sum()) ** 2
                + sparsity[n] * np.linalg.norm(weights[n] * z))

    for n in range(5):
        exact = optimize.minimize(cost, np.full(3, 1 / 3), args=(n,), bounds=[(0, None)] * 3, options={"ftol": 1e-14})
        assert cost(found[n], n) <= exact.fun + 1e-7


def test_a_real_scene(real_data):
    scene = open_scene(real_data / "jasper_ridge.npz").crop(slice(0, 40), slice(20, 60))
    ours, start = (e.abundances @ e.endmembers for e in (sgsnmf(scene, 4), with_fcls(vca)(scene, 4)))
    assert rmse(ours, scene.pixels()) < 0.7 * rmse(start, scene.pixels())
