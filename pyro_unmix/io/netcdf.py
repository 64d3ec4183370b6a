"""NetCDF: EMIT reflectance with its groups, and plain cubes of xarray."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import scipy.io
import xarray as xr

from pyro_unmix.io.cubes import Cube, readable
from pyro_unmix.io.files import atomic_path
from pyro_unmix.io.grids import cube_of
from pyro_unmix.io.hdf5 import check_contents

# EMIT's groups: what it says of bands, and of the place of pixels.
_BANDS, _LOCATION = "sensor_band_parameters", "location"
# Rows and columns that are compressed together.
_CHUNK = {"y": 64, "x": 256}
_OPTIONS: dict[str, Any] = {"decode_times": False, "decode_coords": "all"}


@contextmanager
def open_cube(path: Path) -> Iterator[Cube]:
    """Version 4 (HDF5), with or without EMIT's groups, or version 3."""
    with readable(path, "a NetCDF file"), ExitStack() as files:
        if not h5py.is_hdf5(path):
            # Mapped to memory, SciPy refuses a file that is shorter than it says, but one cut while it is read ends the process.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                scipy.io.netcdf_file(path, mmap=True).close()
            yield cube_of(files.enter_context(xr.open_dataset(path, engine="scipy", mmap=False, **_OPTIONS)), path)
            return
        with h5py.File(path) as file:
            groups = {name for name in (_BANDS, _LOCATION) if isinstance(file.get(name), h5py.Group)}
            check_contents(file, path)
        dataset, *more = (files.enter_context(xr.open_dataset(path, engine="h5netcdf", group=group, **_OPTIONS))
                          for group in (None, *sorted(groups)))
        parts = dict(zip(sorted(groups), more, strict=True))
        yield cube_of(dataset, path, parts.get(_BANDS), parts.get(_LOCATION))


def write_summary(shared: xr.Dataset, strips: Iterable[xr.Dataset], path: Path, room: int) -> None:
    """A summary, compressed, whole or not at all; its maps name their grid mapping, as the CF conventions ask."""
    with atomic_path(path, room=room) as temporary:
        shared.to_netcdf(temporary, engine="h5netcdf")
        with h5netcdf.File(temporary, "a") as file:
            row = 0
            for strip in strips:
                for name, values in strip.data_vars.items():
                    if name not in file.variables:
                        made = file.create_variable(name, values.dims, values.dtype, fillvalue=np.float32(np.nan),
                                                    chunks=chunks_of(shared, values), compression="gzip", compression_opts=1,
                                                    shuffle=True)
                        made.attrs.update(map_attributes(shared))
                    place = tuple(slice(row, row + strip.sizes["y"]) if dim == "y" else slice(None) for dim in values.dims)
                    file.variables[name][place] = values.values
                row += strip.sizes["y"]


@contextmanager
def open_summary(path: Path) -> Iterator[xr.Dataset]:
    """A summary whose values are read when they are asked for."""
    with readable(path, "a summary.nc"):
        with h5py.File(path) as file:
            check_contents(file, path)
        with xr.open_dataset(path, engine="h5netcdf", cache=False) as summary:
            yield summary


def chunks_of(shared: xr.Dataset, strip: xr.DataArray) -> tuple[int, ...]:
    """What of a map is compressed together, of a summary of which `strip` is a part."""
    return tuple(min(shared.sizes[dim], _CHUNK.get(str(dim), shared.sizes[dim])) for dim in strip.dims)


def map_attributes(shared: xr.Dataset) -> dict[str, str]:
    """Attributes of every map of a summary: by what they find their place on the ground, as the CF conventions ask."""
    planes = " ".join(str(name) for name, coord in shared.coords.items() if coord.dims == ("y", "x"))
    mapping = "spatial_ref" if "spatial_ref" in shared.coords else ""
    return {name: value for name, value in (("grid_mapping", mapping), ("coordinates", planes)) if value}
