"""Summaries as NetCDF, Zarr, GeoTIFF and ENVI: what other programs read in them, and files left whole."""

from __future__ import annotations

import builtins
import warnings

import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.transform import Affine
from sensor_files import COLS, GRID, NM, ROWS, UTM, opened, plain_cube, reflectance, write_emit, write_raster

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.io.summary_files import write_summary
from pyro_unmix.scene import Scene

NAMES = ["Alunite GDS84 Na,K", "b {2}"]
LEVELS = [0.05, 0.5, 0.95]


def summary_of(scene: Scene) -> xr.Dataset:
    """As `Posterior.summary` makes them, of numbers that mean nothing."""
    rng = np.random.default_rng(0)
    rows, cols, bands = scene.shape
    use = scene.mask.values

    def maps(*before, after=()):
        values = rng.uniform(size=(*before, rows, cols, *after))
        return np.where(use.reshape(use.shape + (1,) * len(after)), values, np.nan).astype("f4")

    coords = {key: scene.reflectance.coords[key] for key in scene.reflectance.coords}
    return xr.Dataset({"abundance_mean": (("y", "x", "endmember"), maps(after=(2,))),
                       "abundance_sd": (("y", "x", "endmember"), maps(after=(2,))),
                       "abundance_quantile": (("quantile", "y", "x", "endmember"), maps(3, after=(2,))),
                       "endmember_mean": (("endmember", "wavelength"), rng.uniform(size=(2, bands)).astype("f4")),
                       "reconstruction_rmse": (("y", "x"), maps())},
                      coords=coords | {"endmember": NAMES, "quantile": LEVELS}, attrs={"program": "pyro_unmix", "seed": 3})


@pytest.fixture
def scene(tmp_path):
    values = reflectance()
    values[1, 1] = np.nan
    plain_cube(values).to_dataset().to_netcdf(tmp_path / "scene.nc", engine="h5netcdf")
    return opened(tmp_path / "scene.nc")


@pytest.fixture
def summary(scene):
    return summary_of(scene)


def bands_of(file) -> dict:
    return dict(zip(file.descriptions, file.read(), strict=True))


@pytest.mark.parametrize("ending", [".tif", ".hdr", ".img"])
def test_maps_are_bands_with_names_on_the_grid_of_the_scene(tmp_path, summary, ending):
    write_summary(summary, tmp_path / "out" / f"maps{ending}")
    first = NAMES[0] if ending == ".tif" else "Alunite GDS84 Na;K"
    second = NAMES[1] if ending == ".tif" else "b (2)"
    with rasterio.open(tmp_path / "out" / ("maps.tif" if ending == ".tif" else "maps.img")) as file:
        assert file.crs == UTM and file.transform == GRID and np.isnan(file.nodata) and file.dtypes[0] == "float32"
        bands = bands_of(file)
    assert list(bands) == [f"{name} {what}" for name in (first, second) for what in ("mean", "sd", "q05", "q50", "q95")] + \
        ["reconstruction rmse"]
    np.testing.assert_array_equal(bands[f"{second} mean"], summary.abundance_mean[:, :, 1])
    np.testing.assert_array_equal(bands[f"{first} q95"], summary.abundance_quantile[2, :, :, 0])
    assert np.isnan(bands["reconstruction rmse"][1, 1])
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == ({"maps.tif"} if ending == ".tif" else {"maps.hdr", "maps.img"})


def test_a_geotiff_is_cloud_optimised_with_overviews_and_says_what_made_it(tmp_path):
    large = summary_of(Scene(xr.DataArray(np.random.default_rng(0).uniform(0.1, 0.9, (1100, 520, 2)).astype("f4"),
                                          dims=("y", "x", "wavelength"))))
    with pytest.warns(UnmixWarning, match="without a georeference"):
        write_summary(large, tmp_path / "maps.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "maps.tif") as file:
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and file.overviews(1)[:1] == [2]
            assert file.block_shapes[0] == (256, 256)
            assert file.tags()["program"] == "pyro_unmix" and file.tags()["seed"] == "3" and file.crs is None
            np.testing.assert_array_equal(file.read(1), large.abundance_mean[:, :, 0])


def test_an_envi_header_names_no_temporary_file(tmp_path, summary):
    write_summary(summary, tmp_path / "maps.hdr")
    assert "description = {maps.img}" in (tmp_path / "maps.hdr").read_text()


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_nothing_is_lost_in_netcdf_and_zarr(tmp_path, summary, ending):
    write_summary(summary, tmp_path / f"a{ending}")
    engine = {".nc": "h5netcdf", ".zarr": "zarr"}[ending]
    again = xr.load_dataset(tmp_path / f"a{ending}", engine=engine)
    xr.testing.assert_equal(again, summary)
    assert set(again.coords) == set(summary.coords) and again.attrs == summary.attrs
    assert again.abundance_mean.attrs["grid_mapping"] == "spatial_ref" and "grid_mapping" not in again.endmember_mean.attrs
    assert "grid_mapping" not in summary.abundance_mean.attrs
    if ending == ".nc":
        with rasterio.open(f"netcdf:{tmp_path / 'a.nc'}:reconstruction_rmse") as file:
            assert file.crs == UTM and file.transform == GRID


@pytest.mark.parametrize("transform", [Affine(5.42232520256367e-4, 0, -118.123456789012, 0, -5.42232520256367e-4, 35.0123456789),
                                       Affine(30, 0, 100, 0, 30, 200), GRID @ Affine.rotation(20)])
@pytest.mark.parametrize("ending", [".tif", ".hdr"])
def test_transforms_survive_number_by_number(tmp_path, transform, ending):
    write_raster(tmp_path / "scene.tif", reflectance().astype("f4"), transform=transform).close()
    scene = opened(tmp_path / "scene.tif")
    for part, moved in ((scene, transform), (scene.crop(slice(2, 6), slice(1, 4)), transform @ Affine.translation(1, 2))):
        write_summary(summary_of(part), tmp_path / f"maps{ending}")
        with rasterio.open(tmp_path / ("maps.tif" if ending == ".tif" else "maps.img")) as file:
            if ending == ".tif" and part is scene:
                assert file.transform == transform
            # ENVI headers hold 15 digits, a crop adds two numbers.
            np.testing.assert_allclose(file.transform, moved, rtol=1e-13, atol=1e-9)
            assert file.crs == UTM


def test_the_transform_of_a_netcdf_that_states_none_is_that_of_its_coordinates(tmp_path, scene):
    del scene.reflectance.spatial_ref.attrs["GeoTransform"]
    write_summary(summary_of(scene), tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.transform.almost_equals(GRID) and file.crs == UTM
    with pytest.warns(UnmixWarning, match="without a georeference"):
        write_summary(summary_of(scene).isel(x=[0, 1, 3]), tmp_path / "b.tif")


def test_a_scene_in_the_grid_of_its_sensor_has_no_map_to_lie_on(tmp_path):
    write_emit(tmp_path / "emit.nc", reflectance(), NM > 0)
    summary = summary_of(opened(tmp_path / "emit.nc"))
    with pytest.warns(UnmixWarning, match="without a georeference"):
        write_summary(summary, tmp_path / "a.tif")
    write_summary(summary, tmp_path / "a.nc")
    assert xr.load_dataset(tmp_path / "a.nc", engine="h5netcdf").lat.shape == (ROWS, COLS)


@pytest.mark.parametrize("name", ["a.tif", "a.hdr", "a.nc", "a.zarr"])
def test_a_second_result_takes_the_place_of_the_first(tmp_path, summary, name):
    write_summary(summary, tmp_path / name)
    before = sorted(path.name for path in tmp_path.iterdir())
    write_summary(summary.isel(quantile=[1]), tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    if name == "a.zarr":
        assert xr.load_dataset(tmp_path / name, engine="zarr").sizes["quantile"] == 1


@pytest.mark.parametrize("name", ["a.tif", "a.hdr", "a.nc", "a.zarr"])
def test_a_result_that_fails_leaves_the_old_one(tmp_path, summary, name):
    (tmp_path / "out").mkdir()
    write_summary(summary, tmp_path / "out" / name)
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises((KeyError, AttributeError, TypeError, ValueError)):
        write_summary(summary.assign(broken=("y", np.array([object()] * ROWS))) if name in ("a.nc", "a.zarr")
                      else summary.drop_vars("abundance_sd"), tmp_path / "out" / name)
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_places_that_cannot_be_written_to(tmp_path, summary):
    for name in ("a.tif", "a.nc", "a.zarr", "a.img"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").touch()
    for name in ("a.tif", "a.nc", "a.zarr", "a.hdr"):
        with pytest.raises(InputError, match="writable"):
            write_summary(summary, tmp_path / name)
    assert len(list(tmp_path.rglob("kept"))) == 4
    with pytest.raises(InputError, match=r"ending in .nc, .zarr, .tif.*a.txt"):
        write_summary(summary, tmp_path / "a.txt")


@pytest.mark.parametrize("package, extra, name", [("rasterio", "geo", "a.tif"), ("rioxarray", "geo", "a.hdr"),
                                                  ("zarr", "scale", "a.zarr")])
def test_a_missing_package_says_how_to_get_it(tmp_path, summary, monkeypatch, package, extra, name):
    real = builtins.__import__
    monkeypatch.setattr("pyro_unmix.io.extras.importlib.import_module",
                        lambda wanted: real("nowhere") if wanted == package else real(wanted))
    with pytest.raises(InputError, match=rf"{package}.*pip install 'pyro_unmix\[{extra}\]'"):
        write_summary(summary, tmp_path / name)
    (tmp_path / "in.zarr").mkdir()
    (tmp_path / "in.zarr" / "zarr.json").touch()
    write_raster(tmp_path / "in.tif", reflectance().astype("f4")).close()
    with pytest.raises(InputError, match=rf"pyro_unmix\[{extra}\]"):
        opened(tmp_path / ("in.zarr" if package == "zarr" else "in.tif"))
