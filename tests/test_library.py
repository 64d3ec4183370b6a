"""Spectral libraries: opening, choosing by name, bringing to a sensor."""

from __future__ import annotations

import os
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


def test_incomplete_spectra_are_left_out(library):
    spectra = library.spectra.copy()
    spectra[1, 3], spectra[4, 0] = np.nan, -1.23e34
    with pytest.warns(UnmixWarning, match="2 of 6 spectra"):
        assert SpectralLibrary(spectra, NAMES).names == [NAMES[i] for i in (0, 2, 3, 5)]
    with pytest.raises(InputError, match="at least one complete spectrum"):
        SpectralLibrary(np.full((2, 5), np.nan), ["a", "b"])


def test_npz(tmp_path, library):
    order = np.random.default_rng(0).permutation(21)
    np.savez(tmp_path / "lib.npz", spectra=library.spectra[:, order], names=NAMES,
             wavelengths=WAVELENGTHS[order] / 1000)
    again = open_library(tmp_path / "lib.npz")
    np.testing.assert_allclose(again.wavelengths, WAVELENGTHS)
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
    for form in (codes, np.array(names)):
        scipy.io.savemat(tmp_path / "lib.mat", {"datalib": np.hstack([head, library.spectra.T])[order], "names": form})
        again = open_library(tmp_path / "lib.mat")
        assert again.names == NAMES
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
    (tmp_path / "lib.csv").write_text("a,b")
    for name, message in (("lib.csv", r"\.npz, \.mat.*lib\.csv"), ("missing.npz", "not there")):
        with pytest.raises(InputError, match=message):
            open_library(tmp_path / name)


@real
def test_published_usgs_library():
    """The `.mat` as published equals the converted `.npz`, and the spectra of a scene made from it are found in it."""
    library = open_library(Path(DATA) / "original" / "ricardoborsoi__MUA_SparseUnmixing__USGS_1995_Library.mat")
    twin = open_library(Path(DATA) / "library_usgs1995_av224.npz")
    np.testing.assert_allclose(library.spectra, twin.spectra, rtol=1e-6)
    np.testing.assert_allclose(library.wavelengths, twin.wavelengths)
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
