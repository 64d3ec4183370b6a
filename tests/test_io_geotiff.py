"""GeoTIFF: an EnMAP tile, wavelengths wherever they are written, gaps, scales, and damaged files."""

from __future__ import annotations

import os

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine
from sensor_files import BANDS, COLS, DRY, FWHM, GRID, NM, ROWS, UTM, braces, opened, reflectance, write_raster

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.io import open_scene
from pyro_unmix.scene import Scene

ENMAP = "EnMAP-Box__enmap-box__enmap_potsdam_tile_160_64.tif"


@pytest.fixture
def enmap(real_data):
    path = real_data / "original" / ENMAP
    if not path.exists():
        pytest.skip("no EnMAP tile")
    return path


def test_the_enmap_tile_equals_the_block_made_from_it(enmap, real_data):
    with pytest.warns(UnmixWarning) as said:
        scene = open_scene(enmap)
    assert [str(each.message).split(" and")[0] for each in said] == [
        "6 of 224 bands are marked as bad in the file", "3 of 224 bands are in 1340 to 1460, 1790 to 1960 nm, where water vapour "
        "absorbs,"]
    block = np.load(real_data / "enmap_potsdam_block.npz")
    places = [int(np.flatnonzero(block["wavelengths"] == nm)[0]) for nm in scene.wavelengths]
    np.testing.assert_allclose(scene.reflectance.values, block["image"][:32, :32, places], atol=1e-7)
    assert scene.shape == (32, 32, 215) and scene.n_pixels == 1024 and (scene.fwhm > 5).all()
    with rasterio.open(enmap) as file:
        assert tuple(map(float, scene.reflectance.spatial_ref.attrs["GeoTransform"].split())) == file.transform.to_gdal()
        assert rasterio.crs.CRS.from_wkt(scene.reflectance.spatial_ref.attrs["crs_wkt"]) == file.crs
    assert opened(enmap, drop=()).n_bands == 218


def tags_of_bands(file):
    for number, (nm, width) in enumerate(zip(NM, FWHM, strict=True), start=1):
        file.update_tags(number, wavelength=nm / 1000, WAVELENGTH_UNITS="Micrometers", fwhm=width / 1000, bbl=int(nm != 550))


def tags_of_imagery(file):
    for number, (nm, width) in enumerate(zip(NM, FWHM, strict=True), start=1):
        file.update_tags(number, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=nm / 1000, FWHM_UM=width / 1000)


def tags_of_envi(file):
    file.update_tags(ns="ENVI", wavelength=braces(NM), wavelength_units="Nanometers", fwhm=braces(FWHM), bbl=braces(NM != 550))


def tags_of_the_file(file):
    file.update_tags(wavelength=braces(NM), wavelength_units="nm", fwhm=braces(FWHM))


def descriptions(file):
    for number, nm in enumerate(NM, start=1):
        file.set_band_description(number, f"band {number} ({nm:g} Nanometers)")


def short_descriptions(file):
    for number, nm in enumerate(NM, start=1):
        file.set_band_description(number, f"{nm / 1000:g} µm")


@pytest.mark.parametrize("write", [tags_of_bands, tags_of_imagery, tags_of_envi, tags_of_the_file, descriptions,
                                   short_descriptions])
def test_wavelengths_are_found_where_they_are(tmp_path, write):
    with write_raster(tmp_path / "a.tif", reflectance().astype("f4")) as file:
        write(file)
    scene = opened(tmp_path / "a.tif")
    kept = DRY[NM[DRY] != 550] if write in (tags_of_bands, tags_of_envi) else DRY
    np.testing.assert_allclose(scene.wavelengths, NM[kept])
    np.testing.assert_allclose(scene.reflectance.values, reflectance()[:, :, kept], rtol=1e-6)
    if "description" in write.__name__:
        assert scene.fwhm is None
    else:
        np.testing.assert_allclose(scene.fwhm, FWHM[kept], rtol=1e-5)


def write_product(folder, bands=BANDS):
    """As EnMAP's products come: an image of integers that says nothing, and a METADATA.XML."""
    name = "ENMAP01-____L2A-DT0000001049_20220612T105735Z_028_V010303_20230922T131826Z"
    stored = (reflectance() * 10_000).round().astype("int16")
    write_raster(folder / f"{name}-SPECTRAL_IMAGE.TIF", stored, nodata=-32768).close()
    described = "".join(
        f"<bandID number='{n + 1}'><wavelengthCenterOfBand>{NM[n]}</wavelengthCenterOfBand><FWHMOfBand>{FWHM[n]}</FWHMOfBand>"
        "<GainOfBand>1.0e-04</GainOfBand><OffsetOfBand>0</OffsetOfBand></bandID>" for n in range(bands))
    about = folder / f"{name}-METADATA.XML"
    about.write_text(f"<level_X><specific><bandCharacterisation>{described}</bandCharacterisation></specific></level_X>")
    return folder / f"{name}-SPECTRAL_IMAGE.TIF", about


def test_an_enmap_product_is_described_beside_its_image(tmp_path):
    image, about = write_product(tmp_path)
    scene = opened(image)
    np.testing.assert_array_equal(scene.wavelengths, NM[DRY])
    np.testing.assert_array_equal(scene.fwhm, FWHM[DRY])
    np.testing.assert_allclose(scene.reflectance.values, reflectance()[:, :, DRY], rtol=1e-6)
    about.write_text(about.read_text()[:-40])
    with pytest.raises(InputError, match="METADATA.XML"):
        open_scene(image)
    write_product(tmp_path, bands=5)
    with pytest.raises(InputError, match="12 bands in .*METADATA.XML.* got 5"):
        open_scene(image)
    about.unlink()
    with pytest.warns(UnmixWarning, match="taken as ten-thousandths|does not say"):
        assert open_scene(image).wavelengths is None


@pytest.mark.parametrize("names", [[f"{n + 1}" for n in range(BANDS)], [f"band {n}" for n in range(BANDS)],
                                   [f"{nm} nm" if nm > 500 else "blue" for nm in NM]])
def test_without_wavelengths_a_file_opens_with_a_note(tmp_path, names):
    with write_raster(tmp_path / "a.tif", reflectance().astype("f4")) as file:
        file.descriptions = names
    with pytest.warns(UnmixWarning, match="does not say at what wavelengths"):
        scene = open_scene(tmp_path / "a.tif")
    assert scene.wavelengths is None and scene.n_bands == BANDS


def test_scales_offsets_and_gaps_are_those_of_gdal(tmp_path):
    stored = (reflectance() * 10_000).round().astype("int16")
    stored[0, 0] = -32768
    tiles = {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16}
    with write_raster(tmp_path / "a.tif", stored, nodata=-32768, **tiles) as file:
        file.scales, file.offsets = [1e-4] * BANDS, [0.02] * BANDS
        descriptions(file)
    scene = opened(tmp_path / "a.tif", drop=())
    assert scene.n_pixels == ROWS * COLS - 1 and not scene.mask[0, 0]
    np.testing.assert_allclose(scene.pixels(), (reflectance() + 0.02).reshape(-1, BANDS)[1:], rtol=1e-5)


def test_a_mask_in_the_file_is_followed(tmp_path):
    use = np.ones((ROWS, COLS), bool)
    use[2, 1:3] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), write_raster(tmp_path / "a.tif", reflectance().astype("f4")) as file:
        file.write_mask(use)
        descriptions(file)
    np.testing.assert_array_equal(opened(tmp_path / "a.tif").mask, use)


@pytest.mark.parametrize("transform", [GRID, Affine(5e-4, 0, 13.1, 0, -3e-4, 52.7), Affine(30, 0, 100, 0, 30, 200)])
def test_coordinates_are_centres_of_pixels(tmp_path, transform):
    crs = UTM if transform == GRID else "EPSG:4326"
    write_raster(tmp_path / "a.tif", reflectance().astype("f4"), transform=transform, crs=crs).close()
    image = opened(tmp_path / "a.tif").reflectance
    np.testing.assert_allclose(image.x, transform.c + transform.a * (np.arange(COLS) + 0.5))
    np.testing.assert_allclose(image.y, transform.f + transform.e * (np.arange(ROWS) + 0.5))
    assert image.rio.crs == rasterio.crs.CRS.from_user_input(crs)


def test_a_turned_grid_counts_pixels_and_keeps_its_transform(tmp_path):
    turned = GRID @ Affine.rotation(20)
    write_raster(tmp_path / "a.tif", reflectance().astype("f4"), transform=turned).close()
    image = opened(tmp_path / "a.tif").reflectance
    np.testing.assert_array_equal(image.x, np.arange(COLS))
    np.testing.assert_allclose([float(number) for number in image.spatial_ref.attrs["GeoTransform"].split()], turned.to_gdal())


def test_no_georeference_is_none(tmp_path):
    write_raster(tmp_path / "a.tif", reflectance().astype("f4"), crs=None, transform=None).close()
    image = opened(tmp_path / "a.tif").reflectance
    assert "spatial_ref" not in image.coords and list(image.x.values) == list(range(COLS))


def test_complex_numbers_are_refused(tmp_path):
    write_raster(tmp_path / "a.tif", reflectance().astype("complex64")).close()
    with pytest.raises(InputError, match="real numbers"):
        open_scene(tmp_path / "a.tif")


def test_a_file_of_another_format_is_not_followed(tmp_path):
    write_raster(tmp_path / "a.tif", reflectance().astype("f4")).close()
    (tmp_path / "b.tif").write_text(
        f'<VRTDataset rasterXSize="{COLS}" rasterYSize="{ROWS}"><VRTRasterBand dataType="Float32" band="1"><SimpleSource>'
        f'<SourceFilename>{tmp_path / "a.tif"}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>')
    with pytest.raises(InputError, match="a GeoTIFF"):
        open_scene(tmp_path / "b.tif")


def test_sizes_that_the_file_cannot_hold_are_refused_before_they_are_read(tmp_path):
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", width=30_000, height=30_000, count=200, dtype="float32", crs=UTM,
                       transform=GRID, SPARSE_OK=True, compress="deflate", bigtiff="yes"):
        pass
    assert os.path.getsize(tmp_path / "a.tif") < 100e6
    with pytest.raises(InputError, match="as large as its header says.*720000000000 bytes"):
        open_scene(tmp_path / "a.tif")


@pytest.mark.parametrize("compress", [None, "deflate"])
def test_files_cut_short(tmp_path, compress):
    write_raster(tmp_path / "a.tif", reflectance(60, 50).astype("f4"), compress=compress).close()
    content = (tmp_path / "a.tif").read_bytes()
    for part in (0, 7, len(content) // 2, len(content) - 100):
        (tmp_path / "b.tif").write_bytes(content[:part])
        with pytest.raises(InputError, match="b.tif") as caught:
            opened(tmp_path / "b.tif")
        assert "\n" not in str(caught.value)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_raise_input_errors_alone(tmp_path, data):
    path = tmp_path / "whole.tif"
    if not path.exists():
        with write_raster(path, reflectance().astype("f4"), nodata=-1) as file:
            tags_of_bands(file)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 600))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.tif").write_bytes(content)
    try:
        assert isinstance(opened(tmp_path / "a.tif"), Scene)
    except InputError as error:
        assert "\n" not in str(error)
