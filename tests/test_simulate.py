"""Simulated scenes have the truth they claim."""

from __future__ import annotations

import hashlib
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats

from pyro_unmix import metrics, simulate
from pyro_unmix.errors import InputError
from pyro_unmix.io import open_scene
from pyro_unmix.mixing import Fan, Hapke, Linear, PostNonlinear

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("n, bands", [(3, 30), (12, 200)])
def test_spectra_are_reflectances_and_distinct(n, bands):
    spectra = simulate.absorption_spectra(n, np.linspace(400, 2500, bands), seed=1)
    assert spectra.shape == (n, bands) and (spectra > 0).all() and (spectra < 1).all()
    angles = metrics.spectral_angle(spectra[:, None], spectra[None])
    assert angles[~np.eye(n, dtype=bool)].min() > 0.15 - 1e-9


def test_spectra_belong_to_wavelengths_not_to_band_numbers():
    wavelengths = np.linspace(400, 2500, 50)
    shuffle = np.random.default_rng(0).permutation(50)
    sorted_, shuffled = (simulate.absorption_spectra(3, w, seed=2) for w in (wavelengths, wavelengths[shuffle]))
    np.testing.assert_allclose(sorted_[:, shuffle], shuffled)


def far_apart(concentration, seed=0, **options):
    """900 pixels, 12 apart in a field of length 2, so independent: shape (900, k)."""
    field = simulate.dirichlet_field(360, 360, concentration, correlation_length=2.0, seed=seed, **options)
    return field[::12, ::12].reshape(-1, len(concentration))


def test_marginals_are_dirichlet():
    """Kolmogorov-Smirnov against the Beta marginals: four tests at p = 1e-3, so one seed in 250 would fail."""
    concentration = np.array([0.2, 0.7, 1.0, 3.0])
    for values, a in zip(far_apart(concentration).T, concentration, strict=True):
        assert stats.kstest(values, stats.beta(a, concentration.sum() - a).cdf).pvalue > 1e-3


def test_negative_control_other_marginals_are_told_apart():
    values = far_apart(np.ones(3))
    assert stats.kstest(values[:, 0], stats.beta(1.5, 3.0).cdf).pvalue < 1e-3
    smoothed = np.random.default_rng(0).dirichlet(np.ones(3), (360, 360))  # the naive way to a smooth map
    smoothed = ndimage.gaussian_filter(smoothed, (2, 2, 0))[::12, ::12, 0].ravel()
    assert stats.kstest(smoothed, stats.beta(1, 2).cdf).pvalue < 1e-12


def test_pixels_that_are_too_pure_are_drawn_again():
    """Kolmogorov-Smirnov against rejection by hand: p = 1e-3, so one seed in 1000 would fail; the control is clipping."""
    concentration = np.full(3, 0.4)
    values = far_apart(concentration, max_abundance=0.7)
    assert values.max() <= 0.7
    np.testing.assert_allclose(values.sum(axis=-1), 1.0)
    drawn = np.random.default_rng(1).dirichlet(concentration, 20_000)
    kept = drawn[drawn.max(axis=1) <= 0.7]
    assert stats.ks_2samp(values[:, 0], kept[:, 0]).pvalue > 1e-3
    assert stats.ks_2samp(values[:, 0], drawn[:, 0].clip(max=0.7)).pvalue < 1e-3


@pytest.mark.parametrize("concentration, limit", [(0.25, 0.8), (1.0, 0.5)])
def test_no_pixel_of_a_scene_exceeds_the_largest_abundance(concentration, limit):
    options = dict(n_endmembers=4, shape=(24, 24), n_bands=40, concentration=concentration, seed=2)
    capped, free = (simulate.simulate_scene(**options, max_abundance=m).reference for m in (limit, 1.0))
    assert capped.abundances.max() <= np.float32(limit) < free.abundances.max()
    np.testing.assert_array_equal(capped.endmembers, free.endmembers)  # the same materials, only the mixing differs


def test_smoothness_rises_with_the_length():
    def neighbours(length):
        field = simulate.dirichlet_field(60, 60, np.ones(3), length, seed=3)[..., 0]
        return np.corrcoef(field[:, 1:].ravel(), field[:, :-1].ravel())[0, 1]

    none, short, long = map(neighbours, (0.0, 1.0, 6.0))
    assert abs(none) < 0.1 < short < long - 0.1 and long > 0.95


def test_correlation_is_the_one_stated():
    """Correlation of the first abundance's field at one length is exp(-1/2); 40,000 pixels of length 3."""
    field = simulate._smooth_field(400, 400, 3.0, np.random.default_rng(4))
    assert np.mean(field[:, 3:] * field[:, :-3]) == pytest.approx(np.exp(-0.5), abs=0.05)
    assert np.var(field) == pytest.approx(1.0, abs=0.05)


def test_a_small_concentration_gives_pure_pixels():
    pure, mixed = (simulate.dirichlet_field(40, 40, np.full(4, a), 3.0, seed=5).max(-1) for a in (0.05, 20.0))
    assert np.mean(pure > 0.9) > 0.5 and mixed.max() < 0.8


@pytest.mark.parametrize("snr_db, brightness", [(20.0, 0.0), (35.0, 0.3)])
def test_snr_is_the_one_asked_for(snr_db, brightness):
    loud = simulate.simulate_scene(3, (40, 40), n_bands=60, snr_db=snr_db, brightness=brightness, seed=6)
    clean = simulate.simulate_scene(3, (40, 40), n_bands=60, snr_db=120.0, brightness=brightness, seed=6)
    signal = clean.reflectance.values.astype(float)
    measured = 10 * np.log10(np.mean(signal**2) / np.mean((loud.reflectance.values - signal) ** 2))
    assert measured == pytest.approx(snr_db, abs=0.2)


def test_the_reference_is_what_was_mixed():
    scene = simulate.simulate_scene(5, (20, 30), n_bands=40, snr_db=140.0, seed=7)
    truth = scene.reference
    np.testing.assert_allclose(truth.abundances.sum("endmember"), 1.0, atol=1e-6)
    assert (truth.abundances >= 0).all() and scene.shape == (20, 30, 40)
    np.testing.assert_allclose(truth.abundances.values @ truth.endmembers.values, scene.reflectance.values, atol=1e-5)
    assert list(truth.endmember.values) == [f"material {i}" for i in range(1, 6)]


def test_spectra_can_be_given():
    bands = np.linspace(400, 900, 12)
    spectra = np.random.default_rng(0).uniform(0.1, 0.9, (3, 12))
    scene = simulate.simulate_scene(shape=(10, 11), wavelengths=bands, endmembers=spectra, names=["a", "b", "c"], snr_db=140.0)
    assert scene.shape == (10, 11, 12) and list(scene.reference.endmember.values) == ["a", "b", "c"]
    np.testing.assert_allclose(scene.reference.endmembers, spectra, rtol=1e-6)
    np.testing.assert_allclose(scene.reference.abundances.values @ spectra, scene.reflectance.values, atol=1e-5)


@pytest.mark.parametrize("mixing", [Linear(), Fan(), PostNonlinear(0.3), Hapke()], ids=repr)
def test_the_mixing_can_be_given_and_changes_nothing_else(mixing):
    options = {"shape": (10, 11), "n_bands": 12, "snr_db": 140.0, "brightness": 0.2, "seed": 7}
    scene, linear = simulate.simulate_scene(mixing=mixing, **options), simulate.simulate_scene(**options)
    truth = scene.reference
    mixed = mixing.spectra(truth.abundances.values, truth.endmembers.values)
    np.testing.assert_allclose(truth.brightness.values[..., None] * mixed, scene.reflectance.values, atol=1e-5)
    assert truth.identical(linear.reference)
    assert np.allclose(scene.reflectance, linear.reflectance, atol=1e-5) == isinstance(mixing, Linear)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.333, 1.0])
def test_pure_pixels_are_counted_and_hold_what_was_most_abundant(share):
    options = dict(shape=(40, 50), n_bands=20, concentration=3.0, seed=3)
    with_, without = (simulate.simulate_scene(4, pure_share=s, **options).reference.abundances.values for s in (share, 0.0))
    pure = with_.max(axis=-1) == 1.0
    assert pure.sum() == round(share * 2000)
    np.testing.assert_array_equal(with_[pure].argmax(axis=-1), without[pure].argmax(axis=-1))
    np.testing.assert_array_equal(with_[~pure], without[~pure])


def test_pure_pixels_lie_in_patches():
    truth = simulate.simulate_scene(3, (60, 60), n_bands=20, concentration=3.0, pure_share=0.2, seed=4).reference
    pure = truth.abundances.values.max(axis=-1) == 1.0
    assert pure[:, 1:][pure[:, :-1]].mean() > 0.7  # a neighbour of a pure pixel; 0.2 if they were scattered


def test_variants_are_mixed_as_stated():
    """One pure material, a band a sample, no noise: weights can be read off. Kolmogorov-Smirnov at p = 1e-3, three tests."""
    basis = np.eye(3) + 1e-3
    options = dict(shape=(360, 360), wavelengths=[500.0, 600.0, 700.0], snr_db=200.0, pure_share=1.0, correlation_length=2.0)
    scene = simulate.simulate_scene(endmembers=np.stack([basis[0], basis[0]]), variants=[basis[1:], basis[1:]], **options)
    weights = scene.reflectance.values[::12, ::12].reshape(-1, 3) - 1e-3
    share = 1 - weights[:, 0]
    assert stats.kstest(share, "uniform").pvalue > 1e-3
    assert stats.kstest(weights[:, 1] / weights[:, 1:].sum(axis=1), "uniform").pvalue > 1e-3  # of two, Dirichlet(1, 1)
    assert stats.kstest(weights[:, 1], "uniform").pvalue < 1e-3  # control
    assert weights.min() > -1e-5 and np.allclose(weights.sum(axis=1), 1.0, atol=1e-5)


def test_variants_are_smooth_in_space_and_change_nothing_else():
    bands, spectra = np.linspace(400, 900, 12), np.random.default_rng(0).uniform(0.1, 0.9, (4, 12))
    options = dict(shape=(40, 40), wavelengths=bands, endmembers=spectra[:2], brightness=0.1, snr_db=140.0, seed=5)
    plain, varied = (simulate.simulate_scene(variants=v, **options) for v in (None, [spectra[2:], np.empty((0, 12))]))
    assert plain.reference.identical(varied.reference)
    off = np.abs(varied.reflectance.values - plain.reflectance.values).mean(axis=-1)
    assert np.corrcoef(off[:, 1:].ravel(), off[:, :-1].ravel())[0, 1] > 0.9


def test_the_reference_knows_brightness_where_it_varies():
    plain, bright = (simulate.simulate_scene(3, (20, 20), snr_db=140.0, brightness=b, seed=8) for b in (0.0, 0.25))
    assert "brightness" not in plain.reference
    factor = bright.reference.brightness.values[..., None]
    np.testing.assert_allclose(factor * plain.reflectance.values, bright.reflectance.values, rtol=1e-4)


def test_brightness_scales_whole_pixels():
    plain, bright = (simulate.simulate_scene(3, (40, 40), snr_db=140.0, brightness=b, seed=8) for b in (0.0, 0.25))
    factor = bright.reflectance.values / plain.reflectance.values
    np.testing.assert_allclose(factor, factor[..., :1].repeat(100, axis=-1), rtol=1e-4)
    assert np.log(factor[..., 0]).std() == pytest.approx(0.25, abs=0.06)


def test_same_seed_same_bits():
    one, same, other = (simulate.simulate_scene(3, (16, 16), brightness=0.1, seed=s) for s in (9, 9, 10))
    np.testing.assert_array_equal(one.reflectance.values, same.reflectance.values)
    assert not np.array_equal(one.reflectance.values, other.reflectance.values)


@pytest.mark.parametrize("options, message", [
    ({"n_endmembers": 1}, "n_endmembers"),
    ({"n_endmembers": 2.5}, "n_endmembers"),
    ({"n_endmembers": 40, "n_bands": 3}, "more bands"),
    ({"shape": (0, 4)}, "rows"),
    ({"shape": 4}, "rows, columns"),
    ({"n_bands": 1}, "n_bands"),
    ({"wavelengths": [400.0, -1.0]}, "wavelengths in nm"),
    ({"snr_db": np.nan}, "snr_db"),
    ({"concentration": 0.001}, "concentration"),
    ({"concentration": [1.0, 2.0]}, "concentration"),
    ({"correlation_length": -1.0}, "correlation_length"),
    ({"brightness": -0.1}, "brightness"),
    ({"max_abundance": 1.1}, "max_abundance"),
    ({"max_abundance": 0.25}, "max_abundance"),
    ({"max_abundance": np.nan}, "max_abundance"),
    ({"max_abundance": 0.3, "concentration": 0.1}, "keep to"),
    ({"seed": -1}, "seed"),
    ({"pure_share": -0.1}, "pure_share"),
    ({"pure_share": 1.1}, "pure_share"),
    ({"pure_share": np.nan}, "pure_share"),
    ({"pure_share": 0.1, "max_abundance": 0.8}, "pure_share"),
    ({"endmembers": np.ones((3, 5))}, "wavelengths of the spectra"),
    ({"endmembers": np.ones((3, 5)), "wavelengths": [400.0, 500.0]}, "endmembers .n, 2."),
    ({"endmembers": np.ones(2), "wavelengths": [400.0, 500.0]}, "endmembers .n, 2."),
    ({"endmembers": np.full((3, 2), np.nan), "wavelengths": [400.0, 500.0]}, "finite"),
    ({"endmembers": np.ones((1, 2)), "wavelengths": [400.0, 500.0]}, "n_endmembers"),
    ({"names": ["a"]}, "4 reference names"),
    ({"variants": [np.ones((2, 100))] * 3}, "variants of each of 4"),
    ({"variants": [np.ones((2, 99))] * 4}, "variants .n, 100."),
    ({"variants": [np.ones((2, 100))] * 4, "mixing": Fan()}, "endmembers vary"),
    ({"mixing": PostNonlinear()}, "coefficient is known"),
    ({"mixing": "fan"}, "a mixing of"),
])
def test_nonsense_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        simulate.simulate_scene(**{"shape": (8, 8), **options})


def test_the_example_file_is_made_again_bit_for_bit(tmp_path, monkeypatch):
    made = []
    for name in ("one.npz", "two.npz"):
        monkeypatch.setattr(sys, "argv", ["make_example.py", str(tmp_path / name)])
        runpy.run_path(str(DATA / "make_example.py"), run_name="__main__")
        made.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert made[0] == made[1]
    # Against the file that is kept only the arrays: another zlib compresses the same numbers to other bytes.
    with np.load(DATA / "example.npz") as kept, np.load(tmp_path / "one.npz") as again:
        assert set(kept) == set(again) == {"image", "mask", "wavelengths", "abundances", "endmembers", "names",
                                                 "brightness"}
        for key in kept:
            np.testing.assert_array_equal(kept[key], again[key])
        assert kept["image"].shape == (48, 48, 100) and kept["image"].dtype == np.float32
    assert (DATA / "example.npz").stat().st_size < 1_000_000


def test_the_example_file_is_the_example_scene():
    file, code = open_scene(DATA / "example.npz"), simulate.example_scene()
    assert file.reflectance.identical(code.reflectance) and file.reference.identical(code.reference)
    assert file.name == code.name
