"""Named recipes: what is mixed is what the truth says, with the USGS library and with a tiny one of the same names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pyro_unmix import metrics, recipes
from pyro_unmix.errors import InputError
from pyro_unmix.io import open_reference, open_scene, save_scene
from pyro_unmix.library import SpectralLibrary
from pyro_unmix.simulate import LEAST_ANGLE, absorption_spectra

WAVELENGTHS = np.linspace(400.0, 2500.0, 40)
needs_usgs = pytest.mark.skipif(
    not Path(os.environ.get("PYRO_UNMIX_DATA", "nowhere"), "library_usgs1995_av224.npz").is_file(),
    reason="PYRO_UNMIX_DATA holds no USGS library")


@pytest.fixture(scope="module")
def tiny():
    """Invented spectra under the names that recipes ask for; alunite and muscovite have two relatives each."""
    samples = [*recipes.ONTECH_MINERALS.values(), *(sample for sample, _ in recipes.CUPRITE_MINERALS.values())]
    names = [*dict.fromkeys(samples), "Alunite A", "Muscovite A", "Alunite B", "Muscovite B", "Kaolinite A"]
    return SpectralLibrary(absorption_spectra(len(names), WAVELENGTHS, seed=0), names, WAVELENGTHS)


def mixed(scene):
    """What the truth says each pixel is."""
    truth = scene.reference
    factor = truth.brightness.values[..., None] if "brightness" in truth else 1.0
    return factor * (truth.abundances.values @ truth.endmembers.values)


@pytest.mark.parametrize("name, options", [("ontech", {}), ("cuprite", {"variability": 0.0})])
def test_without_noise_a_scene_is_its_truth(tiny, name, options):
    scene = recipes.simulate(name, library=tiny, snr_db=140.0, shape=(20, 30), **options)
    np.testing.assert_allclose(scene.reflectance.values, mixed(scene), atol=2e-6)
    assert scene.name == name and scene.shape == (20, 30, 40)


def test_spectra_are_those_of_the_library_at_the_wavelengths_asked_for(tiny):
    bands = np.array([2200.0, 500.0, 1234.5])
    for scene, sample in ((recipes.ontech(3, library=tiny, wavelengths=bands), "Kaolinite CM9"),
                          (recipes.cuprite(library=tiny, wavelengths=bands), "Alunite GDS82 Na82")):
        expected = tiny.select([sample]).resample(bands).spectra[0]
        np.testing.assert_array_equal(scene.reference.endmembers[0], expected)
        np.testing.assert_array_equal(scene.wavelengths, bands)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_same_seed_same_scene_and_another_seed_another(tiny, name):
    options = {"shape": (12, 12)} | ({"library": tiny} if name in ("ontech", "cuprite") else {})
    one, same, other = (recipes.simulate(name, seed=seed, **options) for seed in (4, 4, 5))
    assert one.reflectance.equals(same.reflectance) and one.reference.equals(same.reference)
    assert not one.reflectance.equals(other.reflectance) and one.name == name


@pytest.mark.parametrize("name", ["ontech", "cuprite"])
def test_minerals_are_the_same_in_every_seed(tiny, name):
    one, other = (recipes.simulate(name, seed=seed, library=tiny, shape=(8, 8)).reference for seed in (0, 1))
    assert one.endmembers.equals(other.endmembers) and not one.abundances.equals(other.abundances)


@pytest.mark.parametrize("name, snr_db", [("ontech", 20.0), ("cuprite", 35.0)])
def test_snr_is_the_one_asked_for(tiny, name, snr_db):
    loud, clean = (recipes.simulate(name, library=tiny, snr_db=snr, seed=6).reflectance.values.astype(float)
                   for snr in (snr_db, 140.0))
    assert 10 * np.log10(np.mean(clean**2) / np.mean((loud - clean) ** 2)) == pytest.approx(snr_db, abs=0.2)


def test_mixed_pixels_are_dirichlet(tiny):
    """Kolmogorov-Smirnov at p = 1e-3 on 900 pixels far apart from each other: one seed in 1000 would fail."""
    truth = recipes.ontech(3, (360, 360), library=tiny, wavelengths=WAVELENGTHS[:2], concentration=0.7,
                           correlation_length=2.0, pure_share=0.0).reference
    values = truth.abundances.values[::12, ::12, 0].ravel()
    assert stats.kstest(values, stats.beta(0.7, 1.4).cdf).pvalue > 1e-3
    assert stats.kstest(values, stats.beta(1.0, 2.0).cdf).pvalue < 1e-3  # control: another concentration is told apart


def test_correlation_length_is_the_one_asked_for(tiny):
    """The logarithm of brightness is a Gaussian field: correlation exp(-1/2) at one length; 40,000 pixels of length 3."""
    truth = recipes.cuprite((200, 200), minerals=["Alunite", "Pyrope"], library=tiny, wavelengths=WAVELENGTHS[:2],
                            correlation_length=3.0, brightness=0.2).reference
    field = np.log(truth.brightness.values) / 0.2
    assert field.std() == pytest.approx(1.0, abs=0.08)
    assert np.mean(field[:, 3:] * field[:, :-3]) / np.var(field) == pytest.approx(np.exp(-0.5), abs=0.08)


def test_variability_moves_spectra_towards_the_relatives_and_nothing_else(tiny):
    options = dict(minerals=["Alunite", "Pyrope"], library=tiny, snr_db=140.0, pure_share=1.0, seed=1)
    none, half, whole = (recipes.cuprite(variability=v, **options) for v in (0.0, 0.5, 1.0))
    assert none.reference.equals(whole.reference)
    departures = [(scene.reflectance.values - mixed(scene)) / scene.reference.brightness.values[..., None]
                  for scene in (none, half, whole)]
    np.testing.assert_allclose(departures[0], 0.0, atol=5e-6)
    np.testing.assert_allclose(2 * departures[1], departures[2], atol=2e-5)
    alunite = whole.reference.abundances.values[..., 0] == 1
    np.testing.assert_allclose(departures[2][~alunite], 0.0, atol=5e-6)  # pyrope has one sample
    # Shares of the two relatives of alunite: from none to nearly all, and together no more than one.
    sample, first, second = tiny.select(["Alunite GDS82 Na82", "Alunite A", "Alunite B"]).spectra
    shares = np.linalg.lstsq(np.stack([first - sample, second - sample], axis=1), departures[2][alunite].T)[0]
    assert shares.min() > -1e-4 and shares.sum(axis=0).max() < 1 + 1e-4
    assert shares.sum(axis=0).min() < 0.1 and shares.sum(axis=0).max() > 0.9


def test_relatives_are_found_by_name_and_kaolinites_keep_apart(tiny):
    options = dict(library=tiny, snr_db=140.0, pure_share=1.0, brightness=0.0, variability=1.0)
    scene = recipes.cuprite(minerals=["Kaolinite_1", "Kaolinite_2"], **options)
    off = np.abs(scene.reflectance.values - mixed(scene)).max(axis=-1)
    first = scene.reference.abundances.values[..., 0] == 1
    assert off[first].mean() > 0.01 and off[~first].max() < 1e-5  # "Kaolinite A" is a relative of the first alone


def test_minerals_come_in_the_order_asked_for(tiny):
    scene = recipes.cuprite((6, 6), minerals=["Sphene", "Alunite"], library=tiny)
    assert list(scene.reference.endmember.values) == ["Sphene", "Alunite"]
    assert list(recipes.ontech(3, (6, 6), library=tiny).reference.endmember.values) == ["Kaolinite", "Calcite", "Goethite"]


def test_a_scene_is_saved_with_its_whole_truth(tiny, tmp_path):
    scene = recipes.cuprite((9, 7), library=tiny)
    save_scene(scene, tmp_path / "cuprite.npz")
    opened = open_scene(tmp_path / "cuprite.npz")
    assert opened.reference.identical(scene.reference) and {"abundances", "endmembers", "brightness"} == set(opened.reference)
    assert open_reference(tmp_path / "cuprite.npz", scene.reflectance).identical(scene.reference)
    part = opened.crop(slice(2, 5), slice(1, 4))
    np.testing.assert_array_equal(part.reference.brightness, scene.reference.brightness[2:5, 1:4])


@pytest.mark.parametrize("recipe, options, message", [
    ("fractal", {}, "linear, brightness, ontech, cuprite"),
    ("linear", {"colour": "red"}, "colour"),
    ("ontech", {"variability": 0.5}, "variability"),
    ("cuprite", {"n_endmembers": 3}, "n_endmembers"),
    ("ontech", {"n_endmembers": 1}, "from 2 to 12"),
    ("ontech", {"n_endmembers": 13}, "from 2 to 12"),
    ("ontech", {"n_endmembers": 2.5}, "from 2 to 12"),
    ("ontech", {"pure_share": 1.5}, "pure_share"),
    ("ontech", {"wavelengths": [300.0, 500.0]}, "within the library"),
    ("ontech", {"concentration": [1.0, 2.0]}, "concentration"),
    ("cuprite", {"variability": 1.5}, "variability"),
    ("cuprite", {"variability": np.nan}, "variability"),
    ("cuprite", {"brightness": -1.0}, "brightness"),
    ("cuprite", {"minerals": ["Alunite", "Gold"]}, "Gold"),
    ("cuprite", {"minerals": ["Alunite", "Alunite"]}, "different minerals"),
    ("cuprite", {"minerals": ["Alunite"]}, "two or more"),
    ("cuprite", {"minerals": []}, "two or more"),
    ("cuprite", {"shape": (0, 4)}, "rows"),
    ("cuprite", {"seed": -1}, "seed"),
])
def test_nonsense_is_refused(tiny, recipe, options, message):
    known = {"library": tiny} if recipe in ("ontech", "cuprite") else {}
    with pytest.raises(InputError, match=message):
        recipes.simulate(recipe, **known, **options)


@pytest.mark.parametrize("make", [recipes.ontech, recipes.cuprite])
def test_a_library_that_lacks_something_is_refused(tiny, make):
    with pytest.raises(InputError, match="a spectrum called"):
        make(library=SpectralLibrary(tiny.spectra[:1], ["Lead"], WAVELENGTHS))
    with pytest.raises(InputError, match="wavelengths of the library"):
        make(library=SpectralLibrary(tiny.spectra, tiny.names))


@pytest.mark.parametrize("make", [recipes.ontech, recipes.cuprite])
def test_no_usgs_library_is_an_error_that_says_so(make, monkeypatch):
    monkeypatch.delenv("PYRO_UNMIX_DATA", raising=False)
    with pytest.raises(InputError, match="PYRO_UNMIX_DATA"):
        make()


@needs_usgs
@pytest.mark.parametrize("name, k", [("ontech", 8), ("cuprite", 12)])
def test_usgs_spectra_on_the_grid_of_aviris(name, k):
    scene = recipes.simulate(name)
    assert scene.shape == (64, 64, 224) and scene.reference.sizes["endmember"] == k
    assert 0 < scene.reference.endmembers.min() and scene.reference.endmembers.max() < 1.1


@needs_usgs
def test_minerals_of_ontech_can_be_told_apart():
    spectra = recipes.ontech(12).reference.endmembers.values
    angles = metrics.spectral_angle(spectra[:, None], spectra[None])
    assert angles[~np.eye(12, dtype=bool)].min() > LEAST_ANGLE


@needs_usgs
def test_minerals_of_cuprite_are_its_reference():
    """Spectral angle of each to the reference that is in use: at most 0.2 degrees."""
    with np.load(Path(os.environ["PYRO_UNMIX_DATA"], "cuprite_gt12.npz")) as file:
        known = SpectralLibrary(file["endmembers"], file["names"], file["wavelengths"])
    truth = recipes.cuprite((4, 4)).reference
    truth = truth.sel(wavelength=truth.wavelength > known.wavelengths.min())
    assert list(truth.endmember.values) == known.names
    angles = metrics.spectral_angle(truth.endmembers.values, known.resample(truth.wavelength.values).spectra)
    assert np.degrees(angles).max() < 0.2


@needs_usgs
def test_eight_minerals_of_cuprite_vary():
    """Four have one sample in the library."""
    options = dict(snr_db=140.0, pure_share=1.0, brightness=0.0, shape=(80, 80), correlation_length=1.0)
    scene = recipes.cuprite(**options)
    off = np.abs(scene.reflectance.values - mixed(scene)).max(axis=-1)
    material = scene.reference.abundances.values.argmax(axis=-1)
    varied = {str(name) for k, name in enumerate(scene.reference.endmember.values) if off[material == k].max() > 1e-3}
    assert varied == recipes.CUPRITE_MINERALS.keys() - {"Dumortierite", "Pyrope", "Sphene", "Chalcedony"}


def test_spectra_of_a_scene_depart_from_the_library_smoothly_and_alike(tiny):
    """The factors of a scene: sd of their logarithm .1 sqrt 2 over seeds, of adjacent bands (54 nm apart) nearly the same."""
    def spectra(seed, departure):
        options = {"minerals": ["Alunite", "Muscovite"], "library": tiny, "variability": 0.0}
        scene = recipes.cuprite((4, 4), departure=departure, seed=seed, **options)
        return scene.reference.endmembers.values

    factors = np.stack([np.log(spectra(seed, 0.1) / spectra(seed, 0.0)) for seed in range(60)])
    assert abs(factors.std() / (0.1 * np.sqrt(2)) - 1) < 0.15
    assert np.corrcoef(factors[..., 1:].ravel(), factors[..., :-1].ravel())[0, 1] > 0.85
    # Half of it is the sensor's and common to the minerals.
    assert 0.3 < np.corrcoef(factors[:, 0].ravel(), factors[:, 1].ravel())[0, 1] < 0.7
    np.testing.assert_array_equal(spectra(3, 0.1), spectra(3, 0.1))
    with pytest.raises(InputError, match="departure"):
        spectra(0, -0.1)
