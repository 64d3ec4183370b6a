"""Spectral libraries: choosing by name, bringing to a sensor, naming spectra, and opening `.npz` and `.mat`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.library import SpectralLibrary, open_library

DATA = os.environ.get("PYRO_UNMIX_DATA")
real = pytest.mark.skipif(not (DATA and (Path(DATA) / "original").is_dir()), reason="PYRO_UNMIX_DATA has no original/")
WAVELENGTHS = np.linspace(400, 2400, 21)
NAMES = ["Alunite GDS83 Na63", "Alunite GDS84 Na03", "Kaolinite CM9", "Twin", "Twin", "Alunite"]


@pytest.fixture
def library():
    # Straight lines: linear interpolation must return them exactly.
    return SpectralLibrary(np.array([0.1 * i + WAVELENGTHS * 1e-4 for i in range(6)]), NAMES, WAVELENGTHS)


def test_search(library):
    assert library.search("ALUN") == {0: "Alunite GDS83 Na63", 1: "Alunite GDS84 Na03", 5: "Alunite"}
    assert library.search("na03 alunite") == {1: "Alunite GDS84 Na03"} and library.search("quartz") == {}
    assert library.select(list(library.search("twin"))).names == ["Twin", "Twin"]
    assert library.select("na03 alunite").names == ["Alunite GDS84 Na03"]


def test_select_by_name(library):
    chosen = library.select(["Kaolinite CM9", "gds83", 4, "Alunite"])  # the last: a whole name before parts of others
    assert chosen.names == ["Kaolinite CM9", "Alunite GDS83 Na63", "Twin", "Alunite"]
    np.testing.assert_array_equal(chosen.spectra, library.spectra[[2, 0, 4, 5]])
    np.testing.assert_array_equal(chosen.wavelengths, WAVELENGTHS)
    assert library.select("kaolin").names == ["Kaolinite CM9"] and len(library) == 6


@pytest.mark.parametrize("wanted, message", [
    ("alunite gds", r"one spectrum.*2: 'Alunite GDS83 Na63' \(row 0\), 'Alunite GDS84 Na03' \(row 1\)"),
    ("Twin", r"2: 'Twin' \(row 3\), 'Twin' \(row 4\); give the whole name, or the row number"),
    ("Kaolinit CM-9", r"none of that name; there are 'Kaolinite CM9' \(row 2\)"),
    ("xyz", "none of that name; there are 'Alunite GDS83"),
    (6, "row number below 6"),
])
def test_select_lists_the_candidates(library, wanted, message):
    with pytest.raises(InputError, match=message):
        library.select([wanted])


def test_resample_is_exact_on_straight_lines(library):
    sensor = np.array([1000.3, 450.0, 2400.5, 1777.0])  # in the order of the sensor, half a nanometre beyond the end
    resampled = library.resample(sensor)
    np.testing.assert_allclose(resampled.spectra[2, [0, 1, 3]], 0.2 + sensor[[0, 1, 3]] * 1e-4, rtol=1e-6)
    np.testing.assert_allclose(resampled.spectra[:, 2], library.spectra[:, -1])
    np.testing.assert_array_equal(resampled.wavelengths, sensor)
    assert resampled.names == library.names
    order = np.random.default_rng(0).permutation(21)
    shuffled = SpectralLibrary(library.spectra[:, order], NAMES, WAVELENGTHS[order])
    np.testing.assert_array_equal(shuffled.resample(sensor).spectra, resampled.spectra)


def curve(wavelengths):
    """A spectrum with absorptions as wide as a band, and wider."""
    return 0.5 - 0.2 * np.exp(-0.5 * ((wavelengths - 900) / 15) ** 2) - 0.1 * np.exp(-0.5 * ((wavelengths - 1005) / 40) ** 2)


def seen(sensor, fwhm, reach):
    """Exact: `curve` weighted by a normal curve of this width within `reach` widths of the centre, by fine quadrature."""
    fine = np.linspace(-reach, reach, 20001)
    weights = np.exp(-4 * np.log(2) * fine**2)
    return np.array([np.average(curve(centre + width * fine), weights=weights)
                     for centre, width in zip(sensor, fwhm, strict=True)])


def test_resample_to_bands_with_a_width():
    """The response is cut at half its maximum: exact but for the steps of the library, and close to the whole normal curve."""
    grid = np.random.default_rng(0).permutation(np.arange(700, 1201.0))
    library = SpectralLibrary([curve(grid), 2 * curve(grid)], ["a", "b"], grid, np.ones(len(grid)))
    sensor, fwhm = np.array([1000.0, 880.3, 895.0, 900.0, 910.0, 1100.0]), np.array([10.0, 12.0, 20.0, 24.0, 18.0, 10.0])
    resampled = library.resample(sensor, fwhm)
    np.testing.assert_allclose(resampled.spectra[0], seen(sensor, fwhm, 0.5), atol=1e-4)
    np.testing.assert_allclose(resampled.spectra[0], seen(sensor, fwhm, 4.0), atol=0.02)
    np.testing.assert_allclose(resampled.spectra[1], 2 * resampled.spectra[0], rtol=1e-6)
    np.testing.assert_array_equal(resampled.wavelengths, sensor)
    np.testing.assert_array_equal(resampled.fwhm, fwhm)
    assert abs(library.resample(sensor).spectra[0] - seen(sensor, fwhm, 0.5)).max() > 0.01  # a test that interpolation fails
    # Widths that are not known are the distances between bands: here the same.
    guessed = SpectralLibrary(library.spectra, library.names, grid).resample(sensor, fwhm)
    np.testing.assert_allclose(guessed.spectra, resampled.spectra, rtol=1e-6)


def test_resample_uses_the_widths_of_the_library():
    """Two bands with a gap: the sensor's band touches the wide one only where it is as wide as the library says."""
    library = SpectralLibrary([[0.2, 0.8]], ["a"], [500.0, 600.0], [10.0, 90.0])
    np.testing.assert_allclose(library.resample([552.0], [10.0]).spectra, [[0.8]], rtol=1e-6)
    narrow = SpectralLibrary([[0.2, 0.8]], ["a"], [500.0, 600.0], [10.0, 10.0])
    with pytest.raises(InputError, match=r"overlap bands of the library, got 1 bands in its gaps, the first at 552\.0 nm"):
        narrow.resample([500.0, 552.0], [10.0, 10.0])
    for fwhm, message in (([10.0], "2 widths"), ([10.0, 0.0], "positive widths"), ([10.0, np.nan], "positive widths")):
        with pytest.raises(InputError, match=message):
            narrow.resample([500.0, 600.0], fwhm)


def test_overlapping_spectrometers_resample_by_wavelength(library):
    """Bands in the order of the channels, two spectrometers that overlap: straight lines stay straight."""
    grid = np.r_[400:1001:10.0, 950:1500:10.0]
    fwhm = np.where(np.arange(len(grid)) < 61, 12.0, 10.0)
    overlapping = SpectralLibrary([grid * 1e-4], ["line"], grid, fwhm)
    sensor = np.array([955.0, 700.0, 975.0, 1200.0])
    np.testing.assert_allclose(overlapping.resample(sensor).spectra[0], sensor * 1e-4, rtol=1e-6)
    np.testing.assert_allclose(overlapping.resample(sensor, np.full(4, 40.0)).spectra[0], sensor * 1e-4, rtol=2e-3)
    np.testing.assert_array_equal(overlapping.resample(grid).spectra, overlapping.spectra)


def test_without_spy(library, monkeypatch):
    monkeypatch.setitem(sys.modules, "spectral", None)
    with pytest.raises(InputError, match=r"pip install 'pyro_unmix\[geo\]'"):
        library.resample([500.0], [100.0])
    assert library.resample([500.0]).spectra.shape == (6, 1)


def test_resample_refuses_what_the_library_does_not_cover(library):
    with pytest.raises(InputError, match=r"400\.0 to 2400\.0 nm\), got 2 bands outside, the first at 380\.0"):
        library.resample([380, 500, 2500])
    with pytest.raises(InputError, match="wavelengths of the sensor"):
        library.resample(None)
    with pytest.raises(InputError, match="wavelengths of the library"):
        SpectralLibrary(library.spectra, NAMES).resample(WAVELENGTHS)


def test_shapes_are_checked(library):
    with pytest.raises(InputError, match="5 names"):
        SpectralLibrary(library.spectra, NAMES[:5])
    with pytest.raises(InputError, match="21 wavelengths"):
        SpectralLibrary(library.spectra, NAMES, WAVELENGTHS[1:])
    with pytest.raises(InputError, match="21 widths"):
        SpectralLibrary(library.spectra, NAMES, WAVELENGTHS, np.ones(20))
    with pytest.raises(InputError, match="positive widths"):
        SpectralLibrary(library.spectra, NAMES, WAVELENGTHS, np.zeros(21))


def test_incomplete_spectra_are_left_out(library):
    spectra = library.spectra.copy()
    spectra[1, 3], spectra[4, 0], spectra[5, 3] = np.nan, -1.23e34, -8e29
    with pytest.warns(UnmixWarning, match=r"3 of 6 spectra.*band at 700\.0 nm is missing in 2"):
        assert SpectralLibrary(spectra, NAMES, WAVELENGTHS).names == [NAMES[i] for i in (0, 2, 3)]
    with pytest.warns(UnmixWarning, match="band number 4 is"):
        SpectralLibrary(spectra, NAMES)
    with pytest.raises(InputError, match="at least one complete spectrum"):
        SpectralLibrary(np.full((2, 5), np.nan), ["a", "b"])


def test_bands_that_no_spectrum_has_are_left_out(library):
    spectra = library.spectra.copy()
    spectra[:, [2, 20]] = np.nan
    with pytest.warns(UnmixWarning, match="2 of 21 bands are in no spectrum"):
        left = SpectralLibrary(spectra, NAMES, WAVELENGTHS, np.arange(1.0, 22.0))
    kept = np.r_[0:2, 3:20]
    np.testing.assert_array_equal(left.spectra, library.spectra[:, kept])
    np.testing.assert_array_equal(left.wavelengths, WAVELENGTHS[kept])
    np.testing.assert_array_equal(left.fwhm, kept + 1.0)
    assert left.names == NAMES


def test_drop_bands(library):
    library = SpectralLibrary(library.spectra, NAMES, WAVELENGTHS, np.arange(1.0, 22.0))
    left = library.drop_bands([(1400, 1500), (2390, 9999)])
    kept = [band for band in range(21) if band not in (10, 11, 20)]
    np.testing.assert_array_equal(left.wavelengths, WAVELENGTHS[kept])
    np.testing.assert_array_equal(left.spectra, library.spectra[:, kept])
    np.testing.assert_array_equal(left.fwhm, np.array(kept) + 1.0)
    np.testing.assert_array_equal(library.drop_bands((WAVELENGTHS >= 1400) & (WAVELENGTHS <= 1500)).wavelengths,
                                  library.drop_bands([(1400, 1500)]).wavelengths)
    assert library.drop_bands([]).spectra.shape == (6, 21)
    bare = SpectralLibrary(library.spectra, NAMES)
    assert bare.drop_bands(WAVELENGTHS > 2000).wavelengths is None
    for dropped, whose, message in (([(1, 2)], bare, "mark the bands by a mask"), ([(2, 1)], library, "intervals"),
                                    ([1400, 1500], library, "intervals"), (np.ones(3, bool), library, "a mask of 21 bands"),
                                    ([(0, 9999)], library, "at least one complete spectrum")):
        with pytest.raises(InputError, match=message):
            whose.drop_bands(dropped)


def test_identify(library):
    rng = np.random.default_rng(0)
    library = SpectralLibrary(rng.uniform(0.1, 0.9, (6, 21)), NAMES, WAVELENGTHS)
    found = 3.0 * library.spectra[[2, 0]] + rng.normal(0, 0.01, (2, 21))  # brightness does not matter
    table = library.identify(found, n=2, names=["bright", "dark"])
    assert list(table) == ["endmember", "rank", "material", "angle"]
    assert table.endmember.tolist() == ["bright", "bright", "dark", "dark"] and table["rank"].tolist() == [1, 2, 1, 2]
    assert table.material.tolist()[::2] == ["Kaolinite CM9", "Alunite GDS83 Na63"]
    spectra = library.spectra.astype(float)
    cosines = found @ spectra.T / np.outer(np.linalg.norm(found, axis=1), np.linalg.norm(spectra, axis=1))
    np.testing.assert_allclose(table.angle.values.reshape(2, 2), np.sort(np.arccos(cosines), axis=1)[:, :2], rtol=1e-4)
    assert library.identify(found[0]).endmember.tolist() == ["endmember 1"] * 3
    assert len(library.identify(found, n=99)) == 2 * 6
    part = library.identify(found[:, 3:9], WAVELENGTHS[3:9], n=1)  # brought to the bands of the spectra
    assert part.material.tolist() == ["Kaolinite CM9", "Alunite GDS83 Na63"]
    for arguments, message in (((found[:, 1:],), "a library of 20 bands"), ((found * np.nan,), "42 values not finite"),
                               ((found, WAVELENGTHS, 0), "at least one material"), ((found, None, 1, ["one"]), "2 names"),
                               ((found, WAVELENGTHS[1:]), "20 for 21 bands")):
        with pytest.raises(InputError, match=message):
            library.identify(*arguments)


def test_npz(tmp_path, library):
    order = np.random.default_rng(0).permutation(21)
    np.savez(tmp_path / "lib.npz", spectra=library.spectra[:, order], names=NAMES,
             wavelengths=WAVELENGTHS[order] / 1000, fwhm=WAVELENGTHS[order] / 1e6)
    again = open_library(tmp_path / "lib.npz")
    np.testing.assert_allclose(again.wavelengths, WAVELENGTHS)
    np.testing.assert_allclose(again.fwhm, WAVELENGTHS / 1000)
    np.testing.assert_array_equal(again.spectra, library.spectra)
    assert again.names == NAMES
    np.savez(tmp_path / "bare.npz", spectra=library.spectra, names=NAMES)
    assert open_library(tmp_path / "bare.npz").wavelengths is None
    np.savez(tmp_path / "scene.npz", image=np.ones((2, 2, 3)))
    with pytest.raises(InputError, match="'spectra'.*image; a scene is opened with open_scene"):
        open_library(tmp_path / "scene.npz")


def test_sunsal_layout(tmp_path, library):
    """Wavelength (micrometres), resolution, channel in front; bands not sorted; names as numbers or as text."""
    order = np.r_[0:10, 12, 10, 11, 13:21]
    head = np.column_stack([WAVELENGTHS / 1000, np.full(21, -1.23e34), np.arange(21)])
    names = [f"{name:28}\n" for name in ["Wavelengths in microns", "Resolution", "channel", *NAMES]]
    codes = np.array([[ord(letter) for letter in name] for name in names], np.uint8)
    for form, width in ((codes, np.nan), (np.array(names), 0.01)):
        head[:, 1] = -1.23e34 if np.isnan(width) else width
        scipy.io.savemat(tmp_path / "lib.mat", {"datalib": np.hstack([head, library.spectra.T])[order], "names": form})
        again = open_library(tmp_path / "lib.mat")
        assert again.names == NAMES and (again.fwhm is None if np.isnan(width) else (again.fwhm == 1000 * width).all())
        np.testing.assert_allclose(again.wavelengths, WAVELENGTHS)
        np.testing.assert_array_equal(again.spectra, library.spectra)


def write_records(path, library, grid):
    """Version 7.3: a cell array of structs with name, reflectance and wavelength."""
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = []
        for i, (name, spectrum) in enumerate(zip(library.names, library.spectra, strict=True)):
            group = file.create_group(f"#refs#/{i}")
            group.attrs["MATLAB_class"] = np.bytes_("struct")
            group["name"] = np.array([[ord(letter)] for letter in name], np.uint16)
            group["name"].attrs["MATLAB_class"] = np.bytes_("char")
            group["reflectance"], group["wavelength"] = spectrum[:, None], grid[:, None] + i * (path.stem == "uneven")
            refs.append(group.ref)
        file.create_dataset("Libs_endmembers", data=np.array(refs, dtype=object)[:, None], dtype=h5py.ref_dtype)
        file["Libs_endmembers"].attrs["MATLAB_class"] = np.bytes_("cell")
    return path


def test_records_in_version_73(tmp_path, library):
    again = open_library(write_records(tmp_path / "Spectra.mat", library, WAVELENGTHS / 1000))
    assert again.names == NAMES
    np.testing.assert_allclose(again.wavelengths, WAVELENGTHS)
    np.testing.assert_array_equal(again.spectra, library.spectra)
    with pytest.raises(InputError, match="one grid of wavelengths in 'uneven.mat', got several"):
        open_library(write_records(tmp_path / "uneven.mat", library, WAVELENGTHS))


def test_bundles(tmp_path, library):
    names = np.empty((1, 2), object)
    names[0] = ["Soil", "Tree"]
    scipy.io.savemat(tmp_path / "lib.mat", {"A": library.spectra.T, "lib1": library.spectra[:2].T,
                                            "lib2": library.spectra[2:].T, "material_names": names})
    again = open_library(tmp_path / "lib.mat")
    assert again.names == ["Soil 1", "Soil 2", "Tree 1", "Tree 2", "Tree 3", "Tree 4"] and again.wavelengths is None
    np.testing.assert_array_equal(again.spectra, library.spectra)


def test_what_is_no_library(tmp_path):
    scipy.io.savemat(tmp_path / "scene.mat", {"Y_clean": np.ones((2, 3, 4))})
    with pytest.raises(InputError, match=r"Y_clean \(2, 3, 4\); a scene is opened with open_scene"):
        open_library(tmp_path / "scene.mat")
    np.savez(tmp_path / "flat.npz", spectra=np.ones(3), names=["a"])
    np.savez(tmp_path / "uneven.npz", spectra=np.ones((1, 3)), names=["a"], wavelengths=[1, 2])
    (tmp_path / "lib.txt").write_text("a,b")
    for name, message in (("lib.txt", r"\.npz, \.mat.*lib\.txt"), ("missing.npz", "not there"), ("flat.npz", r"shape \(3,\)"),
                          ("uneven.npz", "3 wavelengths, one a band, got 2")):
        with pytest.raises(InputError, match=message):
            open_library(tmp_path / name)


@real
def test_published_usgs_library():
    """The `.mat` as published equals the converted `.npz`, and the spectra of a scene made from it are found in it."""
    library = open_library(Path(DATA) / "original" / "ricardoborsoi__MUA_SparseUnmixing__USGS_1995_Library.mat")
    twin = open_library(Path(DATA) / "library_usgs1995_av224.npz")
    np.testing.assert_allclose(library.spectra, twin.spectra, rtol=1e-6)
    np.testing.assert_allclose(library.wavelengths, twin.wavelengths)
    np.testing.assert_allclose(library.fwhm, twin.fwhm)
    assert library.names == twin.names and (np.diff(library.wavelengths) > 0).all()
    scene = np.load(Path(DATA) / "sim1.npz")
    resampled = library.select(list(scene["names"])).resample(scene["wavelengths"])
    np.testing.assert_allclose(resampled.spectra, scene["endmembers"], rtol=1e-6)


@real
def test_published_bundle():
    path = Path(DATA) / "original"
    (path,) = path.glob("*spectral_library_samson.mat")
    twin = np.load(Path(DATA) / "bundle_samson.npz")
    bundle = open_library(path)
    np.testing.assert_allclose(bundle.spectra, twin["spectra"], rtol=1e-6)
    assert [name.split()[0] for name in bundle.names] == list(twin["names"][twin["label"]])
