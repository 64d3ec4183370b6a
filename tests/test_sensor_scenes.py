"""From a sensor's file to maps on its grid, on the command line, with as few steps of training as will do."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import xarray as xr
from sensor_files import GRID, NM, UTM, opened, reflectance, write_envi, write_raster
from short_fits import quiet_fit
from test_cli import assert_refused, drawn_elsewhere, run, works

import pyro_unmix as pu
from pyro_unmix import report, run_folder
from pyro_unmix.initialize import informed_endmembers

ENMAP = "original/EnMAP-Box__enmap-box__enmap_potsdam_tile_160_64.tif"


def saved_fit(scene, folder):
    """A run folder; a prior around two pixels saves the search for endmembers."""
    pixels = scene.pixels()
    dark, bright = (pixels[i] for i in pixels.sum(axis=1).argsort()[[0, -1]])
    model = pu.UnmixingModel(2, endmembers=informed_endmembers(np.stack([dark, bright]), scene, 2), brightness="none")
    fit = quiet_fit(model, scene)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", drawn_elsewhere)
        run_folder.save_run(folder, fit, fit.posterior(scene))
    return folder


@pytest.fixture(scope="module")
def tile(tmp_path_factory):
    """A small GeoTIFF with bands of water vapour, and the folder of a fit of it."""
    folder = tmp_path_factory.mktemp("tile")
    stored = (reflectance(12, 11) * 10_000).round().astype("int16")
    stored[0, :3] = -32768
    with write_raster(folder / "tile.tif", stored, nodata=-32768) as file:
        file.scales = [1e-4] * len(NM)
        for number, nm in enumerate(NM, start=1):
            file.update_tags(number, wavelength=nm, wavelength_units="Nanometers")
    saved_fit(opened(folder / "tile.tif"), folder / "run")
    return folder


def test_a_summary_carries_the_georeference(tile):
    summary = xr.load_dataset(tile / "run" / "summary.nc", engine="h5netcdf")
    assert "spatial_ref" in summary.coords and summary.abundance_mean.attrs["grid_mapping"] == "spatial_ref"
    np.testing.assert_array_equal(summary.x, GRID.c + 30 * (np.arange(11) + 0.5))
    with rasterio.open(f"netcdf:{tile / 'run' / 'summary.nc'}:reconstruction_rmse") as file:
        assert file.crs == UTM and file.transform == GRID


@pytest.mark.parametrize("name", ["maps.tif", "maps.hdr", "maps.nc", "maps.zarr"])
def test_predictions_lie_where_the_scene_lies(tile, tmp_path, name):
    outcome = works("predict", tile / "run", tile / "tile.tif", "--out", tmp_path / name)
    assert outcome.out == f"wrote {tmp_path / name}\n" and outcome.err == ""
    summary = xr.load_dataset(tile / "run" / "summary.nc", engine="h5netcdf")
    if name in ("maps.nc", "maps.zarr"):
        again = xr.load_dataset(tmp_path / name, engine={"maps.nc": "h5netcdf", "maps.zarr": "zarr"}[name])
        xr.testing.assert_allclose(again, summary, rtol=1e-5)
        return
    with rasterio.open(tmp_path / name.replace(".hdr", ".img")) as file:
        assert file.crs == UTM and file.transform == GRID
        first = file.read(file.descriptions.index("endmember 1 mean") + 1)
    np.testing.assert_allclose(first, summary.abundance_mean[:, :, 0], rtol=1e-5)
    assert np.isnan(first[0, :3]).all() and np.isfinite(first[1:]).all()


def test_another_file_of_the_sensor_may_hold_more_bands_in_another_order(tile, tmp_path):
    order = np.argsort(np.sin(NM))
    header = {"wavelength units": "Nanometers", "wavelength": "{" + ", ".join(map(str, NM[order])) + "}"}
    values = reflectance(12, 11)[:, :, order].astype("f4")
    values[0, :3] = np.nan
    path = write_envi(tmp_path, values, header=header)
    works("predict", tile / "run", path, "--out", tmp_path / "maps.nc")
    one, other = (xr.load_dataset(file, engine="h5netcdf") for file in (tmp_path / "maps.nc", tile / "run" / "summary.nc"))
    np.testing.assert_allclose(one.abundance_mean, other.abundance_mean, atol=1e-5)


def test_info_says_what_is_left_out_and_where_the_scene_lies(tile):
    said = " ".join(works("info", tile / "tile.tif").out.split())
    assert "2 of 12 bands are in 1340 to 1460, 1790 to 1960 nm" in said and "UTM zone 33N" in said and "10 bands" in said
    assert works("info", tile / "tile.tif", "--keep-water").out.count("12 bands") == 1


def test_files_that_cannot_be_used_are_one_line(tile, tmp_path):
    content = (tile / "tile.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    assert_refused(run("info", tmp_path / "cut.tif"), "cut.tif', which cannot be read|cut short")
    write_raster(tmp_path / "other.tif", reflectance().astype("f4")).close()
    assert_refused(run("predict", tile / "run", tmp_path / "other.tif", "--out", tmp_path / "a.tif"), "knows its wavelengths")
    assert_refused(run("predict", tile / "run", tile / "tile.tif", "--out", tmp_path / "a.png"), "ending in .nc, .zarr, .tif")
    (tmp_path / "a.tif").mkdir()
    assert_refused(run("predict", tile / "run", tile / "tile.tif", "--out", tmp_path / "a.tif"), "writable")


def test_enmap_from_its_tile_to_maps(real_data, tmp_path):
    tile = real_data / ENMAP
    if not tile.exists():
        pytest.skip("no EnMAP tile")
    saved_fit(opened(tile), tmp_path / "run")
    works("predict", tmp_path / "run", tile, "--out", tmp_path / "maps.tif")
    with rasterio.open(tile) as before, rasterio.open(tmp_path / "maps.tif") as after:
        assert after.crs == before.crs and after.transform == before.transform and after.shape == before.shape
        assert after.descriptions[:2] == ("endmember 1 mean", "endmember 1 sd")
        means = after.read([i + 1 for i, name in enumerate(after.descriptions) if name.endswith(" mean")])
    np.testing.assert_allclose(means[:2].sum(axis=0), 1.0, atol=1e-5)
