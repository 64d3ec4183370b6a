"""ENVI images: every layout, what the header says, and headers that lie."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import rasterio
import spectral
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sensor_files import (
    BANDS,
    COLS,
    DRY,
    FWHM,
    GRID,
    MAP_INFO,
    NM,
    ROWS,
    SPECTRAL,
    UTM,
    braces,
    opened,
    reflectance,
    write_envi,
    write_raster,
)

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.io import envi, open_scene
from pyro_unmix.scene import Scene

SCALE = {"reflectance scale factor": 10_000}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("interleave", ["bil", "bip", "bsq"])
@pytest.mark.parametrize("kind", ["int16", "uint16", "float32"])
def test_every_layout_reads_alike(tmp_path, kind, interleave, order):
    stored = (reflectance() * 10_000).round().astype(kind)
    path = write_envi(tmp_path, stored, interleave=interleave, order=order, header=SPECTRAL | MAP_INFO | SCALE)
    scene = opened(path)
    np.testing.assert_allclose(scene.reflectance.values, reflectance()[:, :, DRY], rtol=1e-6)
    np.testing.assert_array_equal(scene.wavelengths, NM[DRY])
    np.testing.assert_allclose(scene.fwhm, FWHM[DRY], rtol=1e-4)
    assert scene.name == "scene" and scene.mask.all()


def test_the_georeference_is_that_of_gdal(tmp_path):
    path = write_envi(tmp_path, reflectance().astype("f4"), header=SPECTRAL | MAP_INFO)
    scene = opened(path)
    np.testing.assert_array_equal(scene.reflectance.x, 366975 + 30 * (np.arange(COLS) + 0.5))
    np.testing.assert_array_equal(scene.reflectance.y, 5808045 - 30 * (np.arange(ROWS) + 0.5))
    assert rasterio.crs.CRS.from_wkt(scene.reflectance.spatial_ref.attrs["crs_wkt"]) == UTM
    assert "spatial_ref" not in opened(write_envi(tmp_path, reflectance().astype("f4"), header=SPECTRAL)).reflectance.coords


def test_what_spy_writes_is_read(tmp_path):
    meta = {"wavelength": [f"{nm / 1000:.3f}" for nm in NM], "wavelength units": "Micrometers",
            "fwhm": [f"{nm / 1000:.6f}" for nm in FWHM]}
    spectral.envi.save_image(str(tmp_path / "spy.hdr"), reflectance().astype("f4"), metadata=meta, interleave="bip")
    scene = opened(tmp_path / "spy.hdr")
    np.testing.assert_allclose(scene.reflectance.values, reflectance()[:, :, DRY], rtol=1e-6)
    np.testing.assert_allclose(scene.wavelengths, NM[DRY])
    np.testing.assert_allclose(scene.fwhm, FWHM[DRY], rtol=1e-3)


def test_what_gdal_writes_is_read_whatever_its_sidecar_says(tmp_path):
    with write_raster(tmp_path / "gdal.bsq", reflectance().astype("f4"), driver="ENVI", nodata=-9999) as file:
        for number, nm in enumerate(NM, start=1):
            file.set_band_description(number, f"band {number} ({nm:g} Nanometers)")
    sidecar = "<PAMDataset><PAMRasterBand band='1'><Scale>7</Scale></PAMRasterBand></PAMDataset>"
    (tmp_path / "gdal.bsq.aux.xml").write_text(sidecar)
    scene = opened(tmp_path / "gdal.bsq")
    np.testing.assert_allclose(scene.reflectance.values, reflectance()[:, :, DRY], rtol=1e-6)
    np.testing.assert_array_equal(scene.wavelengths, NM[DRY])
    assert tuple(map(float, scene.reflectance.spatial_ref.attrs["GeoTransform"].split())) == GRID.to_gdal()


@pytest.mark.parametrize("given", ["scene.hdr", "scene.dat", "scene", "scene.rfl", "scene.rfl.hdr"])
def test_either_file_of_a_pair_will_do(tmp_path, given):
    ending = {"scene.dat": ".dat", "scene.rfl": ".rfl", "scene.rfl.hdr": ".rfl", "scene": ""}.get(given, ".img")
    header = write_envi(tmp_path, reflectance().astype("f4"), header=SPECTRAL, ending=ending)
    if given.endswith(".rfl.hdr"):
        shutil.move(header, tmp_path / given)
    assert opened(tmp_path / given).n_bands == len(DRY)


def test_bad_bands_and_water_vapour_are_left_out_and_named(tmp_path):
    marks = np.ones(BANDS, int)
    marks[[0, 6]] = 0
    path = write_envi(tmp_path, reflectance().astype("f4"), header=SPECTRAL | {"bbl": braces(marks)})
    with pytest.warns(UnmixWarning) as said:
        scene = open_scene(path)
    np.testing.assert_array_equal(scene.wavelengths, NM[[1, 2, 3, 4, 5, 7, 9, 10, 11]])
    first, second = (str(each.message) for each in said)
    assert "2 of 12 bands are marked as bad" in first and "450 to 1400 nm" in first
    assert "1 of 12 bands are in 1340 to 1460, 1790 to 1960 nm" in second and "--keep-water" in second
    np.testing.assert_array_equal(opened(path, drop=()).wavelengths, NM[marks == 1])
    np.testing.assert_array_equal(opened(path, drop=[(400, 1100), (2250, 2400)]).wavelengths, NM[[5, 7, 8, 9, 10]])


def test_gaps_are_masked(tmp_path):
    stored = (reflectance() * 10_000).round().astype("int16")
    stored[0, :2], stored[3, 3] = -9999, 0
    path = write_envi(tmp_path, stored, header=SPECTRAL | SCALE | {"data ignore value": -9999})
    scene = opened(path)
    assert scene.n_pixels == ROWS * COLS - 3 and not scene.mask[0, :2].any() and not scene.mask[3, 3]
    assert np.isnan(scene.reflectance.values[0, 0]).all()


def test_bands_without_any_data_are_left_out(tmp_path):
    stored = reflectance().astype("f4")
    stored[:, :, 2] = -9999
    with pytest.warns(UnmixWarning, match="1 of 12 bands have no data"):
        scene = open_scene(write_envi(tmp_path, stored, header=SPECTRAL | {"data ignore value": -9999}), drop=())
    np.testing.assert_array_equal(scene.wavelengths, np.delete(NM, 2))


def test_gains_are_applied_and_a_scale_that_is_not_stated_is_told(tmp_path):
    stored = (reflectance() * 10_000).round().astype("uint16")
    gains = {"data gain values": braces(np.full(BANDS, 2e-4)), "data offset values": braces(np.full(BANDS, 0.01))}
    np.testing.assert_allclose(opened(write_envi(tmp_path, stored, header=SPECTRAL | gains)).reflectance.values,
                               2 * reflectance()[:, :, DRY] + 0.01, rtol=1e-5)
    with pytest.warns(UnmixWarning, match="taken as ten-thousandths"):
        scene = open_scene(write_envi(tmp_path, stored, header=SPECTRAL), drop=())
    np.testing.assert_allclose(scene.reflectance.values, reflectance(), rtol=1e-5)


def test_bands_of_a_fit_are_found_in_their_order(tmp_path):
    path = write_envi(tmp_path, reflectance().astype("f4"), header=SPECTRAL)
    scene = open_scene(path, wavelengths=NM[[6, 2, 1]] + 0.4)
    np.testing.assert_array_equal(scene.wavelengths, NM[[6, 2, 1]])
    np.testing.assert_allclose(scene.reflectance.values, reflectance()[:, :, [6, 2, 1]], rtol=1e-6)
    with pytest.raises(InputError, match="the 2 bands the fit was made on.*none within 1 nm of 700.0 nm"):
        open_scene(path, wavelengths=np.array([550.0, 700.0]))
    with pytest.raises(InputError, match="one band for two"):
        open_scene(path, wavelengths=np.array([550.2, 549.8]))
    with pytest.raises(InputError, match="knows its wavelengths"):
        open_scene(write_envi(tmp_path, reflectance().astype("f4")), wavelengths=NM)


def test_units_that_are_no_lengths_are_no_wavelengths(tmp_path):
    for unit in ("Index", "Wavenumber"):
        path = write_envi(tmp_path, reflectance().astype("f4"), header=SPECTRAL | {"wavelength units": unit})
        with pytest.warns(UnmixWarning, match="does not say at what wavelengths"):
            assert open_scene(path).wavelengths is None


def test_a_reference_of_all_bands_follows_the_bands_kept(tmp_path):
    endmembers = np.random.default_rng(1).uniform(0.1, 0.9, (2, BANDS))
    np.savez(tmp_path / "truth.npz", endmembers=endmembers, names=["a", "b"])
    path = write_envi(tmp_path, reflectance().astype("f4"), header=SPECTRAL)
    scene = opened(path, reference=tmp_path / "truth.npz")
    np.testing.assert_allclose(scene.reference.endmembers, endmembers[:, DRY], rtol=1e-6)
    with pytest.raises(InputError, match="variant 'alt'"):
        open_scene(path, variant="alt")


LIES = {
    "more lines": ({"lines": ROWS + 1}, "cut short"),
    "fewer lines": ({"lines": ROWS - 1}, "belongs to another file"),
    "absurd sizes": ({"lines": 10**9, "samples": 10**9, "bands": 10**6}, "bytes"),
    "negative sizes": ({"lines": -ROWS, "samples": -COLS}, "ENVI header of an image"),
    "no lines": ({"lines": 0}, "ENVI header of an image"),
    "lines that are no number": ({"lines": "seven"}, "a number 'lines'"),
    "lines without end": ({"lines": "inf"}, "a number 'lines'"),
    "missing lines": ({"lines": None}, "a number 'lines'"),
    "missing bands": ({"bands": None}, "a number 'bands'"),
    "missing type": ({"data type": None}, "a number 'data type'"),
    "another type": ({"data type": 5}, "cut short"),
    "complex numbers": ({"data type": 6}, "real numbers"),
    "an unknown order": ({"interleave": "zigzag"}, "interleave zigzag"),
    "no order": ({"interleave": None}, "interleave none"),
    "an offset": ({"header offset": 128}, "cut short"),
    "a library": ({"file type": "ENVI Spectral Library"}, "open_library"),
    "too few wavelengths": ({"wavelength": braces(NM[:5])}, f"{BANDS} numbers in 'wavelength'"),
    "wavelengths of words": ({"wavelength": "{red, green}"}, "numbers in 'wavelength'"),
    "all bands bad": ({"bbl": braces(np.zeros(BANDS))}, "at least two bands"),
    "a scale of nothing": ({"reflectance scale factor": 0}, "positive reflectance scale"),
    "all without data": ({"data ignore value": 0.25}, "a pixel with data|one pixel with data"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_header_that_lies_is_one_line(tmp_path, case):
    fields, message = LIES[case]
    values = np.full((ROWS, COLS, BANDS), 0.25, "f4") if case == "all without data" else reflectance().astype("f4")
    path = write_envi(tmp_path, values, header=SPECTRAL | fields)
    with pytest.raises(InputError, match=message) as caught:
        opened(path)
    assert "\n" not in str(caught.value)


def test_a_header_leads_to_no_other_file(tmp_path):
    (tmp_path / "in").mkdir()
    write_envi(tmp_path, reflectance().astype("f4"), header=SPECTRAL, name="secret")
    path = write_envi(tmp_path / "in", reflectance().astype("f4"), header=SPECTRAL | {"data file": "../secret.img"})
    (tmp_path / "in" / "scene.img").unlink()
    with pytest.raises(InputError, match="the other file of the image"):
        open_scene(path)


def test_a_file_cut_while_it_is_read_is_no_file_of_zeros(tmp_path):
    path = write_envi(tmp_path, reflectance().astype("f4"), header=SPECTRAL)
    with pytest.raises(InputError, match="cut short"):
        with envi.open_cube(path) as cube:
            os.truncate(tmp_path / "scene.img", 40)
            cube.read(slice(0, ROWS), np.arange(BANDS))


def test_a_list_that_does_not_end_is_told(tmp_path):
    path = write_envi(tmp_path, reflectance().astype("f4"), header={"wavelength": SPECTRAL["wavelength"]})
    path.write_text(path.read_text().rstrip("}\n"))
    with pytest.raises(InputError, match="'wavelength' in 'scene.hdr', got one that does not end"):
        open_scene(path)


def test_pairs_that_are_none(tmp_path):
    (tmp_path / "a.hdr").write_text("ENVI\n")
    (tmp_path / "b.img").write_bytes(b"numbers")
    (tmp_path / "c.hdr").write_text("not a header")
    (tmp_path / "c.img").write_bytes(b"")
    for name, message in (("a.hdr", "a.img"), ("b.img", "b.hdr"), ("c.img", "first line")):
        with pytest.raises(InputError, match=message):
            open_scene(tmp_path / name)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_headers_raise_input_errors_alone(tmp_path, data):
    header = SPECTRAL | MAP_INFO | SCALE | {"data ignore value": -9999, "bbl": braces(np.ones(BANDS))}
    path = write_envi(tmp_path, (reflectance() * 10_000).astype("int16"), header=header)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        assert isinstance(opened(path), Scene)
    except InputError as error:
        assert "\n" not in str(error)
