"""How many endmembers: counted right where the truth is known, and what leads each count astray."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_unmix.errors import InputError
from pyro_unmix.io import open_scene
from pyro_unmix.simulate import simulate_scene
from pyro_unmix.subspace import WHITE, count_endmembers, effective_bands, hfc, hysime, noise_variance

counts = pytest.mark.parametrize("count", [count_endmembers, lambda pixels: hysime(pixels).n_endmembers, hfc],
                                 ids=["count_endmembers", "hysime", "hfc"])


def simulated(k, snr_db=30.0, **options):
    scene = simulate_scene(k, (40, 40), n_bands=60, snr_db=snr_db, **{"seed": k, **options})
    return scene.pixels().astype(np.float64), scene.reference.endmembers.values


def autocorrelated(random, shape, width=15):
    """Noise of standard deviation 1 that neighbouring bands have in common."""
    kernel = np.hanning(width)
    rows = np.array([np.convolve(row, kernel, mode="valid") for row in random.standard_normal((shape[0], shape[1] + width - 1))])
    return rows / rows.std()


@pytest.mark.parametrize("n_pixels", [45, 200, 5000])
def test_noise_is_estimated_without_bias(n_pixels):
    """Relative error of the mean over 30 bands and 20 scenes; with 45 pixels 16 degrees of freedom are left to a band."""
    random = np.random.default_rng(0)
    sd = np.linspace(0.002, 0.02, 30)
    endmembers = random.uniform(0.1, 0.9, (3, 30))
    ratios = [noise_variance(random.dirichlet(np.ones(3), n_pixels) @ endmembers + sd * random.standard_normal((n_pixels, 30)))
              / sd**2 for _ in range(20)]
    # A band's own part of the three signals cannot be told from noise altogether, hence a little more than one.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("k", range(3, 10))
@pytest.mark.parametrize("brightness", [0.0, 0.2])
def test_hysime_is_right_where_noise_is_white(k, brightness):
    """Brightness that varies adds no direction."""
    assert hysime(simulated(k, 40.0, brightness=brightness)[0]).n_endmembers == k


@pytest.mark.parametrize("k", [3, 4, 5])
@pytest.mark.parametrize("snr_db", [20.0, 30.0, 40.0])
def test_the_default_is_right_for_few_endmembers(k, snr_db):
    assert sum(count_endmembers(simulated(k, snr_db, seed=seed)[0]) == k for seed in range(5)) >= 4


@pytest.mark.parametrize("k", range(3, 10))
def test_the_default_is_right_for_many_endmembers_in_white_noise(k):
    """At 30 dB. By the 1 % alone it would be too low in most scenes of six and more."""
    for seed in range(2):
        scene = simulate_scene(k, (48, 48), n_bands=100, snr_db=30.0, seed=seed)
        assert count_endmembers(scene.pixels()) == k


def test_the_subspace_holds_the_endmembers():
    pixels, endmembers = simulated(4, 40.0)
    basis = hysime(pixels).basis
    assert basis.shape == (4, 60)
    np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-12)
    left = np.linalg.norm(endmembers - endmembers @ basis.T @ basis, axis=1) / np.linalg.norm(endmembers, axis=1)
    assert left.max() < 0.01


def test_hysime_needs_noise_that_is_independent_between_bands():
    pixels, _ = simulated(3, 60.0)
    noise = 0.02 * np.random.default_rng(0).standard_normal(pixels.shape)
    assert hysime(pixels + noise).n_endmembers == 3
    assert hysime(pixels + 0.02 * autocorrelated(np.random.default_rng(0), pixels.shape)).n_endmembers > 6


def test_the_default_passes_over_spectra_that_vary_a_little():
    pixels, _ = simulated(3, 40.0)
    varied = pixels * (1 + 0.02 * autocorrelated(np.random.default_rng(0), pixels.shape))
    assert count_endmembers(varied) == 3 and hysime(varied).n_endmembers > 6


def test_hfc_takes_noise_for_signal_as_often_as_it_says():
    """Noise alone, its mean zero: false alarms in 100 bands of 20 scenes. At 0.05 they are 100, three deviations are 29."""
    random = np.random.default_rng(0)
    noise = random.standard_normal((20, 2000, 100))
    assert sum(hfc(scene, 0.05) for scene in noise) < 130
    assert sum(hfc(scene, 1e-3) for scene in noise) < 10


def test_hfc_counts_directions_that_the_mean_holds():
    pixels, _ = simulated(3, 30.0, concentration=0.3)
    assert hfc(pixels) == hfc(pixels / noise_variance(pixels) ** 0.5) == 3
    assert hfc(pixels - pixels.mean(axis=0)) == 0  # what differs between correlation and covariance is the mean alone


@counts
def test_neither_order_nor_unit_matters(count):
    pixels, _ = simulated(4)
    order = np.random.default_rng(0).permutation(len(pixels))
    assert count(pixels[order]) == count(1e4 * pixels) == count(pixels.astype(np.float32)) == count(pixels)


@counts
def test_pixels_without_noise(count):
    """Rounding is all that is left to regress; no more are counted than there are directions."""
    random = np.random.default_rng(0)
    endmembers = simulated(3)[1]
    pixels = random.dirichlet(np.ones(3), 500) @ endmembers
    assert count(pixels) == count(pixels.astype(np.float32)) == 3


def test_dark_pixels_and_empty_bands_add_nothing():
    pixels, _ = simulated(4)
    empty = pixels.copy()
    empty[:, 10:15] = 0.0
    dark = np.vstack([pixels, np.zeros((300, 60)), 0.002 * np.random.default_rng(0).standard_normal((300, 60))])
    for changed in (empty, dark):
        assert hysime(changed).n_endmembers == count_endmembers(changed) == 4


@counts
@pytest.mark.parametrize("pixels", [np.full((40, 60), 0.3), np.full((100, 60), np.nan), np.zeros((10, 10, 6))],
                         ids=["few", "not finite", "a cube"])
def test_what_cannot_be_counted_is_refused(count, pixels):
    with pytest.raises(InputError, match="more pixels than bands"):
        count(pixels)


@pytest.mark.parametrize("pixels", [np.zeros((100, 6)), np.full((100, 6), 0.3), np.outer(np.linspace(0, 1, 100), np.ones(6))],
                         ids=["dark", "constant", "brightness alone"])
def test_one_spectrum_is_not_unmixed(pixels):
    with pytest.raises(InputError, match="two directions"):
        count_endmembers(pixels)
    assert hysime(pixels).n_endmembers <= 1 and hfc(pixels) <= 1


@pytest.mark.parametrize("false_alarm", [0.0, 0.5, -1.0, np.nan])
def test_a_false_alarm_is_a_small_probability(false_alarm):
    with pytest.raises(InputError, match="false alarm"):
        hfc(simulated(3)[0], false_alarm)


@pytest.mark.parametrize("name, few, many", [("samson", 3, 6), ("jasper_ridge", 4, 7), ("urban_crop", 4, 7)])
def test_real_scenes(real_data, name, few, many):
    """Near what people count, where HySime alone finds several times as many."""
    pixels = open_scene(real_data / f"{name}.npz").pixels()
    count = count_endmembers(pixels)
    assert few <= count <= many < hysime(pixels).n_endmembers
    shapes = pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-12)
    assert effective_bands(shapes, count) < 0.5 * WHITE * pixels.shape[1]  # far from what counts as white
