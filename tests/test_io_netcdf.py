"""NetCDF and Zarr: EMIT's layout, plain cubes, and files that lie or lead elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sensor_files import BANDS, COLS, DRY, FWHM, GRID, NM, ROWS, UTM, opened, plain_cube, reflectance, write_emit

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.io import netcdf, open_scene
from pyro_unmix.scene import Scene


def write(cube: xr.DataArray | xr.Dataset, path):
    dataset = cube.to_dataset(name=cube.name) if isinstance(cube, xr.DataArray) else cube
    if path.suffix == ".zarr":
        dataset.to_zarr(path, consolidated=False)
    else:
        dataset.to_netcdf(path, engine="h5netcdf")
    return path


def test_emit(tmp_path):
    values, good = reflectance(), NM != 550
    values[1, 2] = np.nan
    write_emit(tmp_path / "emit.nc", values, good)
    with pytest.warns(UnmixWarning) as said:
        scene = open_scene(tmp_path / "emit.nc")
    assert ["marked as bad", "water vapour"] == [what for what, each in zip(("marked as bad", "water vapour"), said, strict=True)
                                                 if what in str(each.message)]
    kept = DRY[NM[DRY] != 550]
    np.testing.assert_allclose(scene.wavelengths, NM[kept])
    np.testing.assert_allclose(scene.fwhm, FWHM[kept], rtol=1e-6)
    np.testing.assert_allclose(scene.reflectance.values, values[:, :, kept], rtol=1e-6)
    assert scene.n_pixels == ROWS * COLS - 1 and not scene.mask[1, 2]
    # The grid of the sensor: where its pixels are, not where those of a map would be.
    assert scene.reflectance.lat.dims == ("y", "x") and "spatial_ref" not in scene.reflectance.coords
    np.testing.assert_allclose(scene.reflectance.lon[0], np.linspace(-118, -117, COLS))


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_a_plain_cube_keeps_what_it_knows(tmp_path, ending):
    scene = opened(write(plain_cube(), tmp_path / f"a{ending}"))
    np.testing.assert_allclose(scene.reflectance.values, reflectance()[:, :, DRY], rtol=1e-6)
    np.testing.assert_array_equal(scene.wavelengths, NM[DRY])
    np.testing.assert_array_equal(scene.fwhm, FWHM[DRY])
    np.testing.assert_array_equal(scene.reflectance.x, GRID.c + 30 * (np.arange(COLS) + 0.5))
    assert scene.reflectance.rio.crs == UTM
    assert tuple(map(float, scene.reflectance.spatial_ref.attrs["GeoTransform"].split())) == GRID.to_gdal()


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_a_scene_that_xarray_wrote_comes_back(tmp_path, ending):
    scene = opened(write(plain_cube(), tmp_path / "first.nc"))
    again = opened(write(scene.reflectance, tmp_path / f"again{ending}"))
    np.testing.assert_array_equal(again.reflectance.values, scene.reflectance.values)
    np.testing.assert_array_equal(again.wavelengths, scene.wavelengths)
    np.testing.assert_array_equal(again.fwhm, scene.fwhm)
    assert again.reflectance.rio.crs == UTM
    bare = Scene(reflectance())
    assert opened(write(bare.reflectance, tmp_path / f"bare{ending}")).wavelengths is None


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_scales_and_gaps_are_decoded(tmp_path, ending):
    cube = plain_cube()
    cube.values[2, 2] = np.nan
    cube.encoding |= {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": -9999}
    scene = opened(write(cube, tmp_path / f"a{ending}"))
    assert scene.n_pixels == ROWS * COLS - 1 and not scene.mask[2, 2]
    np.testing.assert_allclose(scene.reflectance.values[0], reflectance()[0][:, DRY], rtol=1e-5)


def test_dimensions_by_other_names_and_orders(tmp_path):
    cube = plain_cube().rename(y="Lines", x="Samples", wavelength="band").transpose("band", "Lines", "Samples")
    cube = cube.assign_coords(band=("band", NM / 1000, {"units": "um"})).expand_dims("time")
    scene = opened(write(cube.rename("rho"), tmp_path / "a.nc"))
    np.testing.assert_allclose(scene.reflectance.values, reflectance()[:, :, DRY], rtol=1e-6)
    np.testing.assert_allclose(scene.wavelengths, NM[DRY])


def test_percent_is_divided_and_numbers_of_bands_are_no_wavelengths(tmp_path):
    cube = (plain_cube() * 100).drop_vars("fwhm").assign_attrs(units="%").assign_coords(wavelength=np.arange(1, BANDS + 1))
    with pytest.warns(UnmixWarning, match="does not say at what wavelengths"):
        scene = open_scene(write(cube.rename("reflectance"), tmp_path / "a.nc"))
    assert scene.wavelengths is None
    np.testing.assert_allclose(scene.reflectance.values, reflectance(), rtol=1e-5)


def test_the_image_is_found_by_its_name_among_others(tmp_path):
    both = xr.Dataset({"reflectance": plain_cube(), "uncertainty": plain_cube() * 0.1})
    assert opened(write(both, tmp_path / "a.nc")).reflectance.max() > 0.1
    with pytest.raises(InputError, match=r"one image with dimensions.*other, uncertainty.*call it reflectance"):
        opened(write(both.rename(reflectance="other"), tmp_path / "b.nc"))
    with pytest.raises(InputError, match=r"temperature \(time\)"):
        opened(write(xr.Dataset({"temperature": ("time", np.arange(3.0))}), tmp_path / "c.nc"))


def test_version_three(tmp_path):
    plain_cube().to_dataset().to_netcdf(tmp_path / "a.nc", engine="scipy")
    np.testing.assert_allclose(opened(tmp_path / "a.nc").reflectance.values, reflectance()[:, :, DRY], rtol=1e-6)
    content = (tmp_path / "a.nc").read_bytes()
    (tmp_path / "b.nc").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="b.nc"):
        opened(tmp_path / "b.nc")


def test_sizes_that_the_file_cannot_hold(tmp_path):
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file.create_dataset("reflectance", shape=(10**6, 10**6, 300), chunks=(10, 10, 300), dtype="f4")
    write(plain_cube(), tmp_path / "a.zarr")
    about = tmp_path / "a.zarr" / "reflectance" / "zarr.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"shape": [10**6, 10**6, 300]}))
    for name in ("a.nc", "a.zarr"):
        with pytest.raises(InputError, match="as large as its header says"):
            opened(tmp_path / name)


def links(file, other):
    file["reflectance"] = h5py.ExternalLink(str(other), "reflectance")


def external_storage(file, other):
    file.create_dataset("reflectance", shape=(ROWS, COLS, BANDS), dtype="f4", external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def virtual(file, other):
    layout = h5py.VirtualLayout((ROWS, COLS, BANDS), dtype="f4")
    layout[:] = h5py.VirtualSource(str(other), "reflectance", shape=(ROWS, COLS, BANDS))
    file.create_virtual_dataset("reflectance", layout)


@pytest.mark.parametrize("lead", [links, external_storage, virtual])
def test_data_in_other_files_are_refused(tmp_path, lead):
    other = write(plain_cube(), tmp_path / "other.nc")
    (tmp_path / "in").mkdir()
    with h5py.File(tmp_path / "in" / "a.nc", "w") as file:
        lead(file, other)
    with pytest.raises(InputError, match="all data of 'a.nc' in that file"):
        opened(tmp_path / "in" / "a.nc")


@pytest.mark.parametrize("where", [{"filters": [{"id": "pickle", "protocol": 5}]}, {"compressor": {"id": "pickle"}}])
def test_nothing_is_unpickled(tmp_path, where):
    plain_cube().to_dataset().to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False)
    about = tmp_path / "a.zarr" / "reflectance" / ".zarray"
    escaped = json.dumps(json.loads(about.read_text()) | where).replace("pickle", "\\u0070ickle")
    about.write_text(escaped)
    with pytest.raises(InputError, match="'reflectance' of 'a.zarr', which holds pickled objects"):
        opened(tmp_path / "a.zarr")


def test_version_three_is_not_mapped_to_memory(tmp_path):
    """A file that is mapped ends the process where it is cut while it is read."""
    path = tmp_path / "a.nc"
    xr.DataArray(reflectance(), dims=("y", "x", "wavelength"), name="reflectance").to_netcdf(path, engine="scipy")
    with netcdf.open_cube(path) as cube:
        maps = Path("/proc/self/maps")
        assert not maps.exists() or str(path) not in maps.read_text()
        os.truncate(path, 100)
        np.testing.assert_allclose(cube.read(slice(0, ROWS), np.arange(BANDS)), reflectance(), atol=1e-6)


@pytest.mark.parametrize("name, fill", [("x", None), ("reflectance", 0.0)])
def test_chunks_that_are_missing_are_told(tmp_path, name, fill):
    encoding = {"reflectance": {"chunks": (ROWS, COLS, 6), "fill_value": 0.0}} if fill is not None else {}
    plain_cube().to_dataset().to_zarr(tmp_path / "a.zarr", consolidated=False, zarr_format=3, encoding=encoding)
    (next((tmp_path / "a.zarr" / name / "c").rglob("0")) if name == "x" else tmp_path / "a.zarr/reflectance/c/0/0/1").unlink()
    with pytest.warns(UnmixWarning) as told:
        open_scene(tmp_path / "a.zarr")
    assert any(re.search(f"1 of . chunks of '{name}' are not in the store", str(each.message)) for each in told)


def test_stores_that_are_none(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "file.zarr").write_text("x")
    (tmp_path / "text.nc").write_text("x")
    (tmp_path / "empty.nc").write_bytes(b"")
    whole = write(plain_cube(), tmp_path / "whole.nc").read_bytes()
    (tmp_path / "cut.nc").write_bytes(whole[: len(whole) // 2])
    for name in ("empty.zarr", "file.zarr", "text.nc", "empty.nc", "cut.nc"):
        with pytest.raises(InputError, match=name) as caught:
            opened(tmp_path / name)
        assert "\n" not in str(caught.value)


def damaged(tmp_path, data, source, target):
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    target.write_bytes(content)


def opens_or_refuses(path):
    try:
        assert isinstance(opened(path), Scene)
    except InputError as error:
        assert "\n" not in str(error)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_raise_input_errors_alone(tmp_path, data):
    if not (tmp_path / "whole.nc").exists():
        write_emit(tmp_path / "whole.nc", reflectance(), NM != 550)
    damaged(tmp_path, data, tmp_path / "whole.nc", tmp_path / "a.nc")
    opens_or_refuses(tmp_path / "a.nc")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_stores_raise_input_errors_alone(tmp_path, data):
    if not (tmp_path / "whole.zarr").exists():
        write(plain_cube(), tmp_path / "whole.zarr")
    shutil.rmtree(tmp_path / "a.zarr", ignore_errors=True)
    shutil.copytree(tmp_path / "whole.zarr", tmp_path / "a.zarr")
    about = data.draw(st.sampled_from(["zarr.json", "reflectance/zarr.json", "wavelength/zarr.json"]))
    damaged(tmp_path, data, tmp_path / "whole.zarr" / about, tmp_path / "a.zarr" / about)
    opens_or_refuses(tmp_path / "a.zarr")
