"""NetCDF: EMIT reflectance with its groups, and plain cubes of xarray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import xarray as xr

from pyro_unmix.io.cubes import Cube, readable
from pyro_unmix.io.files import atomic_path
from pyro_unmix.io.grids import cube_of
from pyro_unmix.io.hdf5 import check_contents

# EMIT's groups: what it says of bands, and of the place of pixels.
_BANDS, _LOCATION = "sensor_band_parameters", "location"
_OPTIONS: dict[str, Any] = {"decode_times": False, "decode_coords": "all"}


@contextmanager
def open_cube(path: Path) -> Iterator[Cube]:
    """Version 4 (HDF5), with or without EMIT's groups, or version 3."""
    with readable(path, "a NetCDF file"), ExitStack() as files:
        if not h5py.is_hdf5(path):
            # SciPy refuses a file that is shorter than it says. Mapped to memory, one cut while it is read would end the process.
            yield cube_of(files.enter_context(xr.open_dataset(path, engine="scipy", mmap=False, **_OPTIONS)), path)
            return
        with h5py.File(path) as file:
            groups = {name for name in (_BANDS, _LOCATION) if isinstance(file.get(name), h5py.Group)}
            check_contents(file, path)
        dataset, *more = (files.enter_context(xr.open_dataset(path, engine="h5netcdf", group=group, **_OPTIONS))
                          for group in (None, *sorted(groups)))
        parts = dict(zip(sorted(groups), more, strict=True))
        yield cube_of(dataset, path, parts.get(_BANDS), parts.get(_LOCATION))


def write_summary(summary: xr.Dataset, path: Path) -> None:
    """A summary, compressed, whole or not at all; its maps name their grid mapping, as the CF conventions ask."""
    with atomic_path(path, room=summary.nbytes) as temporary:
        with_grid_mapping(summary).to_netcdf(temporary, engine="h5netcdf", encoding={name: {"zlib": True, "complevel": 4}
                                                                                  for name in summary.data_vars})


def read_summary(path: Path, without: str = "") -> xr.Dataset:
    """A summary, all of it in memory, but for the variable to do without."""
    with readable(path, "a summary.nc"):
        with h5py.File(path) as file:
            check_contents(file, path)
        with xr.open_dataset(path, engine="h5netcdf") as summary:
            return summary.drop_vars(without, errors="ignore").load()


def with_grid_mapping(summary: xr.Dataset) -> xr.Dataset:
    """The summary, its maps pointing at `spatial_ref`."""
    if "spatial_ref" not in summary.coords:
        return summary
    return summary.assign({name: values.assign_attrs(grid_mapping="spatial_ref") for name, values in summary.data_vars.items()
                           if {"y", "x"} <= set(values.dims)})
